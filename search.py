#!/usr/bin/env python3
"""Find the images most similar to a query image: exactly in .npz files, or through a Milvus index.

  python search.py query -q photo.jpg --npz embeddings/*_train.npz --plot results.png
  python search.py build --npz embeddings/*_train.npz --uri index.db --collection shelf --index_type HNSW
  python search.py query -q photos/ --uri index.db --collection shelf -k 5 --rerank query_expansion --label Fruit
  python search.py evaluate --query_npz embeddings/*_test.npz --npz embeddings/*_train.npz --rerank k_reciprocal geometric
  python search.py info --plan 1M 100M 1B --dim 1280 --pca 128
  python search.py delete --uri index.db --collection shelf

--uri is a Milvus Lite file (index.db) or a server (http://host:19530). `search.py COMMAND --help` lists a command's options.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import blocks, cli, messages

if TYPE_CHECKING:
    from retrieval.exact import NpzGallery
    from retrieval.index import Index

INDEX_TYPES, METRICS = ("FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW"), ("COSINE", "IP", "L2")
RERANKINGS = ("none", "query_expansion", "k_reciprocal", "geometric")


def build(args: argparse.Namespace) -> None:
    """Put embedding sets into an index."""
    from common.embedding_sets import read_shards
    from retrieval import index_build
    from retrieval.milvus import INDEX_PARAMS, Store, check_name

    check_name(args.collection)
    params = parameters("--index_params", args.index_params, INDEX_PARAMS[args.index_type])
    groups = read_shards(args.npz, **cli.reading(args))
    n = sum(len(one) for group in groups for one in group)
    options = {name: getattr(args, name) for name in ("index_type", "metric", "pca", "batch_size", "overwrite")}
    with (
        Store(args.uri, create=True, token=token()) as store,
        messages.progress(total=n, desc="build", unit="row") as bar,
    ):
        built = index_build.build(store, args.collection, groups, index_params=params, advance=bar.update, **options)
    print(
        f"{args.uri} {args.collection}: {built.rows:,} rows put in, {messages.count(built.skipped, 'set')} there already, "
        f"{built.total:,} rows in all"
    )
    if built.pca_recall is not None:
        print(f"PCA to {args.pca} dimensions keeps {built.pca_recall:.1%} of the true 10 nearest neighbours")
    if built.rows and not built.skipped and built.total < n:
        messages.warn(f"{n - built.total:,} rows have the dataset, split, crop and ID of another: the later one stays")


def query(args: argparse.Namespace) -> None:
    """Print the nearest rows of each query image."""
    from embedding import query_images
    from retrieval.items import Queries
    from retrieval.retrieve import retrieve, true_labels

    pictures = query_images.find(args.query)
    where = {name: values for name in ("label", "split", "dataset") if (values := getattr(args, name))}
    with gallery_of(args) as gallery:
        embedder = query_images.recorded_model(gallery.model, gallery.source, spec=args.model, device=args.device)
        if embedder.dim != gallery.dim:
            raise messages.UserError(
                f"{embedder.spec} gives {embedder.dim} dimensions, {gallery.source} holds {gallery.dim}"
            )
        vectors, fine = query_images.embed(pictures, embedder, batch_size=args.batch_size)
        names = [str(path) for path in fine]
        queries = Queries(vectors, names, [None] * len(names))
        found = retrieve(gallery, queries, args.k, where=where, method=args.rerank, candidates=args.candidates)
        truths = true_labels(gallery, fine, args.true_label)
    if not any(found) and where:
        messages.warn(f"no row passes the filters {' '.join(f'--{name} {value}' for name, value in where.items())}")
    if args.format == "json":
        rows: Any = [
            {
                "query": name,
                "results": [
                    {"rank": rank, "score": round(hit.score, 6), **hit.item._asdict()}
                    for rank, hit in enumerate(hits, 1)
                ],
            }
            for name, hits in zip(names, found, strict=True)
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        print("query\trank\tscore\tpath\tlabel")
        for name, hits in zip(names, found, strict=True):
            for rank, hit in enumerate(hits, 1):
                print(
                    *map(messages.one_line, (name, rank, f"{hit.score:.4f}", hit.item.path, hit.item.label)), sep="\t"
                )
    if args.plot:
        from plots import picture_sheets

        drawn = [
            (name, truth, [(hit.item.path, hit.item.label, hit.score) for hit in hits])
            for name, truth, hits in zip(names[:20], truths, found, strict=False)
            if hits
        ]
        if not drawn:
            raise messages.UserError(f"{args.plot}: there are no results to draw; change the filters")
        if len(names) > 20:
            messages.note("only the first 20 queries are drawn")
        picture_sheets.results(args.plot, drawn, score={"COSINE": "cosine"}.get(gallery.metric, gallery.metric))
        messages.note(f"wrote {args.plot}")


def evaluate(args: argparse.Namespace) -> None:
    """Print how good and how fast the search is, and what each re-ranking gains."""
    import numpy as np

    from common.embedding_sets import read_sets, require_one_model
    from common.labels import warn_strangers
    from evaluation.metrics import RECALL_AT
    from retrieval import scores as scoring
    from retrieval.exact import NpzGallery
    from retrieval.retrieve import labelled, retrieve
    from uncertainty.intervals import accuracy_interval

    sets = read_sets(args.query_npz, **cli.reading(args))
    queries, items = labelled(sets, args.data_root)
    methods = ["none", *(name for name in dict.fromkeys(args.rerank) if name != "none")]
    with gallery_of(args) as gallery:
        require_one_model([*sets, gallery], what="extract the queries and what is searched with one model")
        if not all(vectors.model.get("fingerprint") for vectors in (*sets, gallery)):
            messages.warn("not all vectors say which model made them; they are compared unchecked")
        n_relevant = scoring.relevant(gallery, items, same_sample=args.exclude_same_sample)
        found, scores, rows = {}, {}, []
        for method in methods:
            options = {"method": method, "candidates": args.candidates, "same_sample": args.exclude_same_sample}
            found[method] = []
            with messages.progress(total=len(queries), desc=method, unit="query") as bar:
                for part in blocks.batches(len(queries), 256):
                    some = queries.take(range(part.start, part.stop))
                    found[method] += retrieve(gallery, some, scoring.TOP, **options)
                    bar.update(len(some))
            scores[method] = scoring.score([item.label for item in items], found[method], n_relevant)
            row = [method]
            for values in scores[method].measures.values():
                interval = accuracy_interval(*scoring.by_image(values, items))
                row += [f"{values.mean():.4f}", f"{interval.low:.4f} to {interval.high:.4f}"]
            row += [f"{value:.4f}" for value in scores[method].recalled[:, 1:].mean(axis=0)]
            seconds = scoring.latency(gallery, queries, **options)
            rows.append([*row, *(f"{1e3 * np.percentile(seconds, q):.1f}" for q in (50, 95))])
        asked = {item.label for item in items}
        seen = {hit.item.label for hits in found["none"] for hit in hits}
        warn_strangers(seen | gallery.label_counts(asked).keys(), asked, ("rows that are searched", "queries"))
        print(
            f"{gallery.source}: {len(gallery):,} rows, {messages.count(len(queries), 'query', 'queries')}, "
            "none among its own results"
        )
        if unknown := int((n_relevant == 0).sum()):
            print(f"{unknown:,} queries have a label that no other row has; they count as wrong")
        header = ["Recall@1", "95 % interval", "F1@10", "95 % interval", *(f"Recall@{k}" for k in RECALL_AT[1:])]
        print("\n" + messages.table(["re-ranking", *header, "p50 ms", "p95 ms"], rows))
        gains = []
        for method in methods[1:]:
            for name, values in scores[method].measures.items():
                gain = scoring.gain(values, scores["none"].measures[name], items)
                interval = f"{gain.low[0]:+.4f} to {gain.high[0]:+.4f}"
                gains.append([method, name, f"{gain.difference[0]:+.4f}", interval, f"{gain.p[0]:.4f}"])
        if gains:
            print("\nGain over no re-ranking, paired by query, interval by source image\n")
            print(messages.table(["re-ranking", "measure", "gain", "95 % interval", "p"], gains))
        if args.uri and args.npz:
            exact = retrieve(NpzGallery(read_sets(args.npz, key=args.key)), queries, scoring.TOP)
            share = scoring.agreement(found["none"], exact)
            print(f"\nRecall of the index against exact search over --npz: {share:.4f} of the top {scoring.TOP}")


def info(args: argparse.Namespace) -> None:
    """Print what an index holds, or what one of N rows would need."""
    if args.plan:
        from retrieval.index import plan_table

        print(plan_table(args.plan, args.pca or args.dim))
    if not args.uri:
        if not args.plan:
            raise messages.UsageError("give --uri to describe an index, or --plan N to plan one")
        return
    from retrieval.index_build import describe
    from retrieval.milvus import Store

    with Store(args.uri, token=token()) as store:
        names = [args.collection] if args.collection else [name for name in store.names() if "__pca_" not in name]
        if not names:
            print(f"{args.uri}: no collections")
        for name in names:
            print("\n".join(describe(store, name)))


def delete(args: argparse.Namespace) -> None:
    """Remove an index."""
    from retrieval import index_build
    from retrieval.milvus import Store

    with Store(args.uri, token=token()) as store:
        print(f"{args.uri} {args.collection}: deleted, {index_build.delete(store, args.collection):,} rows")


@contextlib.contextmanager
def gallery_of(args: argparse.Namespace) -> Iterator[NpzGallery | Index]:
    """Yield what is searched: the index where --uri is given, else the files of --npz."""
    if args.uri:
        from retrieval.index import Index
        from retrieval.milvus import Store

        if not args.collection:
            raise messages.UsageError("--uri needs --collection; search.py info --uri lists them")
        with Store(args.uri, token=token()) as store:
            params = parameters("--search_params", args.search_params, ("nprobe", "ef"))
            yield Index(store, args.collection, params=params)
    elif args.npz:
        from common.embedding_sets import read_sets
        from retrieval.exact import NpzGallery

        sets = read_sets(args.npz, **cli.reading(args))
        yield NpzGallery(sets, data_root=args.data_root)
    else:
        raise messages.UsageError("give --npz FILES to search exactly, or --uri and --collection of an index")


def parameters(option: str, words: Sequence[str], known: Sequence[str]) -> dict[str, int]:
    """Return {"nlist": 1024} of ["nlist=1024"]. Raises UsageError for an unknown name or a value that is no number."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in known or not value.isdigit() or int(value) < 1:
            raise messages.UsageError(
                f"{option} {word}: write NAME=NUMBER with {' or '.join(known) or 'no parameter at all'}"
            )
        found[name] = int(value)
    return found


def token() -> str:
    """Return the server's token, which belongs into no command line."""
    return os.environ.get("MILVUS_TOKEN", "")


def rows_number(text: str) -> int:
    """Argparse type: 1M, 250k, 1B or a plain number."""
    factor = {"K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}.get(text[-1:].upper(), 1)
    try:
        n = int(float(text[:-1] if factor > 1 else text) * factor)
    except (ValueError, OverflowError):
        n = 0
    if n < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows such as 1M")
    return n


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help="see above")

    def command(run: Any, *, index: bool, npz: bool | None) -> argparse.ArgumentParser:
        """Add a sub-command; `npz`: takes --npz, needed where True."""
        sub = commands.add_parser(
            run.__name__,
            help=run.__doc__,
            description=run.__doc__,
            allow_abbrev=False,
            formatter_class=parser.formatter_class,
        )
        sub.set_defaults(run=run)
        common = {"default": argparse.SUPPRESS}
        sub.add_argument(
            "--config", metavar="FILE.yaml", type=Path, help="options from the section search of a YAML file", **common
        )
        sub.add_argument("--quiet", action="store_true", help="no progress bars and notes on stderr", **common)
        sub.add_argument("--verbose", action="store_true", help="more on stderr of what is done and why", **common)
        sub.add_argument(
            "--uri", required=index, metavar="URI", help="Milvus Lite file index.db, or server http://host:19530"
        )
        sub.add_argument("--collection", required=index, metavar="NAME", help="the index's name there")
        if npz is not None:
            sub.add_argument(
                "--npz", nargs="+", required=npz, metavar="[ID=]NPZ", help="embedding sets: files, folders or globs"
            )
            sub.add_argument("--key", help="name of the array or of the pickled dict inside a foreign .npz")
            cli.add_arrays(sub)
            sub.add_argument("--company_name", metavar="NAME", help="the key inside older files")
            sub.add_argument(
                "--drop_invalid", action="store_true", help="leave out zero and non-finite vectors, counted"
            )
        return sub

    def searching(add: Any) -> None:
        add(
            "--candidates",
            type=cli.whole(2, 10_000),
            metavar="N",
            help="first results that are re-ranked (default: by method)",
        )
        add(
            "--search_params",
            nargs="+",
            default=[],
            metavar="NAME=N",
            help="nprobe (IVF) or ef (HNSW) (default: by size)",
        )
        add("--data_root", metavar="FOLDER", help="where the pictures of --npz are now (default: where they were)")

    add = command(build, index=True, npz=True).add_argument
    add("--index_type", choices=INDEX_TYPES, default="FLAT", help="FLAT is exact; the others trade recall for time")
    add(
        "--index_params",
        nargs="+",
        default=[],
        metavar="NAME=N",
        help="nlist (IVF), M, efConstruction (HNSW) (default: by size)",
    )
    add("--metric", choices=METRICS, default="COSINE", help="what nearest means")
    add("--pca", type=cli.whole(1), metavar="N", help="keep N principal components of the vectors")
    add("--batch_size", type=cli.whole(1, 20_000), default=5_000, metavar="N", help="rows sent at once")
    add("--overwrite", action="store_true", help="replace an index made with another model or other options")

    add = command(query, index=False, npz=False).add_argument
    add("--query", "-q", nargs="+", required=True, metavar="IMAGE", help="query images, or folders of them")
    add("-k", "--k", type=cli.whole(1, 10_000), default=10, help="results for each query")
    add("--label", nargs="+", metavar="LABEL", help="only rows of these labels, or below them")
    add("--split", nargs="+", metavar="SPLIT", help="only rows of these splits")
    add("--dataset", nargs="+", metavar="NAME", help="only rows of these datasets")
    add("--rerank", choices=RERANKINGS, default="none", help="put the first results into a better order")
    searching(add)
    add("--model", metavar="SPEC", help="where the model is now (default: as recorded with the vectors)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--batch_size", type=cli.whole(1, 65536), default=64, metavar="N", help="images in one batch")
    add("--format", choices=("tsv", "json"), default="tsv", help="form of the results on stdout")
    add("--plot", type=cli.PICTURE, metavar="FILE.png", help="draw queries and results, right and wrong marked")
    add("--true_label", nargs="+", metavar="LABEL", help="labels of the queries (default: known by their folder)")

    add = command(evaluate, index=False, npz=False).add_argument
    add("--query_npz", nargs="+", required=True, metavar="[ID=]NPZ", help="labelled queries; may be the rows searched")
    add("--rerank", nargs="+", choices=RERANKINGS, default=[], help="re-rankings whose gain is measured")
    add("--exclude_same_sample", action="store_true", help="leave out all crops of the query's source image")
    searching(add)

    add = command(info, index=False, npz=None).add_argument
    add("--plan", nargs="+", type=rows_number, metavar="N", help="what an index of N rows needs: 1M 100M 1B")
    add("--dim", type=cli.whole(1), default=1280, help="dimensions of the vectors, for --plan")
    add("--pca", type=cli.whole(1), metavar="N", help="dimensions after a PCA, for --plan")
    command(delete, index=True, npz=None)
    return parser


def run(args: argparse.Namespace) -> None:
    args.run(args)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
