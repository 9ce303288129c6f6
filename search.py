#!/usr/bin/env python3
"""Find the images most similar to a query image: exactly in .npz files, or through an index.

  python search.py query -q photo.jpg --npz embeddings/*_train.npz --plot results.png --threshold unknown.json
  python search.py build --npz embeddings/*_train.npz --uri index.faiss --index_type HNSW
  python search.py build --npz embeddings/*_train.npz --uri index.db --collection shelf
  python search.py query -q photos/ --uri index.db --collection shelf -k 5 --rerank query_expansion --label Fruit
  python search.py evaluate --query_npz embeddings/*_test.npz --npz embeddings/*_train.npz --rerank k_reciprocal geometric
  python search.py info --plan 1M 100M 1B --dim 1280 --pca 128
  python search.py delete --uri index.db --collection shelf

--uri is an index file of faiss (index.faiss), a Milvus Lite file (index.db) or a Milvus server (http://host:19530).
`search.py COMMAND --help` lists a command's options.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import cli, messages
from indexes.index_types import INDEX_TYPES, add_build_options, add_info_options, parse_params, plan_table
from retrieval.options import add_evaluate_options, add_query_options

URI = "index file index.faiss, Milvus Lite file index.db, or Milvus server http://host:19530"
DRAWN = 20  # queries on a picture of results
SEARCHED = ("uri", "collection", "search_params", "npz", "data_root", *cli.READING)  # options of what is searched
BUILDING = ("index_type", "metric", "pca", "batch_size", "overwrite")  # options of building an index


def build(args: argparse.Namespace) -> None:
    """Put embedding sets into an index."""
    from common.embedding_sets import read_shards
    from indexes import opening

    opening.check_names(args.uri, args.collection)
    params = parse_params("--index_params", args.index_params, INDEX_TYPES[args.index_type].params)
    groups = read_shards(args.npz, **cli.reading(args))
    n = sum(len(shard) for group in groups for shard in group)
    with messages.progress(total=n, desc="build") as bar:
        options = _chosen(vars(args), BUILDING)
        built = opening.build(args.uri, args.collection, groups, index_params=params, advance=bar.update, **options)
    print(
        f"{_name(args.uri, args.collection)}: {built.rows:,} rows put in, {messages.count(built.skipped, 'set')} there already, "
        f"{built.total:,} rows in all"
    )
    if built.pca_recall is not None:
        print(f"PCA to {args.pca} dimensions keeps {built.pca_recall:.1%} of the true 10 nearest neighbours")
    if built.rows and not built.skipped and built.total < n:
        messages.warn(f"{n - built.total:,} rows have the dataset, split, crop and ID of another: the later one stays")


def query(args: argparse.Namespace) -> None:
    """Print the nearest rows of each query image."""
    from embedding import query_images
    from indexes.opening import open_references
    from retrieval import tables
    from retrieval.items import Queries
    from retrieval.retrieve import retrieve, score_name, true_labels
    from unknowns import products

    if args.threshold and (args.uri or not args.npz):
        raise messages.UsageError(
            "--threshold needs all vectors of the references: name them with --npz, without --uri"
        )
    pictures = query_images.find(args.query)
    where = {name: values for name in ("label", "split", "dataset") if (values := getattr(args, name))}
    with open_references(**_chosen(vars(args), SEARCHED)) as references:
        how = _chosen(vars(args), ("device", "engine", "batch_size", "background"))
        vectors, sound = query_images.embed_alike(pictures, references, spec=args.model, **how)
        names = [str(path) for path in sound]
        queries = Queries(vectors, names, [None] * len(names))
        results = retrieve(references, queries, args.k, where=where, method=args.rerank, candidates=args.candidates)
        labels = true_labels(references, sound, args.true_label)
    if not any(results) and where:
        messages.warn(f"no row passes the filters {' '.join(f'--{name} {value}' for name, value in where.items())}")
    shown = results
    if args.threshold:
        refused = products.refused(args.npz, cli.reading(args), vectors, args.threshold)
        shown = tables.with_unknown(results, refused, products.UNKNOWN)
    score, form = score_name(args.rerank, references.metric), tables.RESULT_FORMATS[args.format]
    print(form(names, shown, score, spreadsheet_safe=args.spreadsheet_safe))
    if args.plot:
        from plots import picture_sheets

        drawn = tables.results_to_draw(names[:DRAWN], labels, results)
        if not drawn:
            raise messages.UserError(f"{args.plot}: there are no results to draw; change the filters")
        if len(names) > DRAWN:
            messages.note(f"only the first {DRAWN} queries are drawn")
        picture_sheets.results(args.plot, drawn, score={"COSINE": "cosine"}.get(references.metric, references.metric))
        messages.note(f"wrote {args.plot}")


def evaluate(args: argparse.Namespace) -> None:
    """Print how good and how fast the search is, and what each re-ranking gains."""
    from common.embedding_sets import read_sets, require_one_model
    from common.labels import warn_strangers
    from indexes.opening import open_references
    from retrieval import scores, tables
    from retrieval.exact import ExactSearch
    from retrieval.retrieve import labelled, retrieve

    sets = read_sets(args.query_npz, **cli.reading(args))
    queries, items = labelled(sets, args.data_root)
    with open_references(**_chosen(vars(args), SEARCHED)) as references:
        require_one_model([*sets, references], what="extract the queries and what is searched with one model")
        if not all([references.model.get("fingerprint"), *(queried.fingerprint for queried in sets)]):
            messages.warn("not all vectors say which model made them; they are compared unchecked")
        n_relevant = scores.relevant(references, items, same_sample=args.exclude_same_sample)
        options = {"candidates": args.candidates, "same_sample": args.exclude_same_sample}
        measured = {
            method: scores.measure(references, queries, items, n_relevant, method, **options)
            for method in dict.fromkeys(["none", *args.rerank])
        }
        asked = {item.label for item in items}
        seen = {hit.item.label for hits in measured["none"].results for hit in hits}
        warn_strangers(seen | references.label_counts(asked).keys(), asked, ("rows that are searched", "queries"))
    recall = None
    if args.uri and args.npz:
        exact = retrieve(ExactSearch(read_sets(args.npz, **cli.reading(args))), queries, scores.TOP)
        recall = scores.agreement(measured["none"].results, exact)
    head = f"{references.source}: {len(references):,} rows"
    print(tables.EVALUATION_FORMATS[args.format](head, measured, items, n_relevant, recall))


def info(args: argparse.Namespace) -> None:
    """Print what an index holds, or what one of N rows would need."""
    if args.plan:
        print(plan_table(args.plan, args.pca or args.dim))
    if not args.uri:
        if not args.plan:
            raise messages.UsageError("give --uri to describe an index, or --plan N to plan one")
        return
    from indexes import opening

    print("\n".join(opening.describe(args.uri, args.collection)))


def delete(args: argparse.Namespace) -> None:
    """Remove an index."""
    from indexes import opening

    rows = opening.delete(args.uri, args.collection)
    print(f"{_name(args.uri, args.collection)}: deleted, {rows:,} rows")


def _name(uri: str, collection: str | None) -> str:
    return f"{uri} {collection}" if collection else uri


def _chosen(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: options[name] for name in names}


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help="see above")

    def command(run: Callable[[argparse.Namespace], None], *, needs_index: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            run.__name__,
            help=run.__doc__,
            description=run.__doc__,
            allow_abbrev=False,
            formatter_class=parser.formatter_class,
        )
        sub.set_defaults(run=run)
        add, given = sub.add_argument, argparse.SUPPRESS  # a default would undo what stands before the sub-command
        text = "options from the section search of a YAML file"
        add("--config", metavar="FILE.yaml", type=Path, default=given, help=text)
        add("--quiet", action="store_true", default=given, help="no progress bars and notes on stderr")
        add("--verbose", action="store_true", default=given, help="more on stderr of what is done and why")
        add("--uri", required=needs_index, metavar="URI", help=URI)
        add("--collection", metavar="NAME", help="the index's name there; index.faiss holds only one")
        return sub

    add_build_options(command(build, needs_index=True))
    add_query_options(command(query))
    add_evaluate_options(command(evaluate))
    add_info_options(command(info))
    command(delete, needs_index=True)
    return parser


def run(args: argparse.Namespace) -> None:
    args.run(args)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
