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

from common import cli

if TYPE_CHECKING:
    from common.gallery import NpzGallery
    from common.indexing import Index

INDEX_TYPES, METRICS = ("FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW"), ("COSINE", "IP", "L2")
RERANKINGS = ("none", "query_expansion", "k_reciprocal", "geometric")


def build(args: argparse.Namespace) -> None:
    """Put embedding sets into an index."""
    from common import indexing
    from common.sets import read_shards
    from common.vector_store import INDEX_PARAMS, Store, check_name

    check_name(args.collection)
    params = parameters("--index_params", args.index_params, INDEX_PARAMS[args.index_type])
    groups = read_shards(args.npz, key=args.key, company_name=args.company_name, drop_invalid=args.drop_invalid)
    n = sum(len(one) for group in groups for one in group)
    options = {name: getattr(args, name) for name in ("index_type", "metric", "pca", "batch_size", "overwrite")}
    with Store(args.uri, create=True, token=token()) as store, cli.progress(total=n, desc="build", unit="row") as bar:
        built = indexing.build(store, args.collection, groups, index_params=params, advance=bar.update, **options)
    print(
        f"{args.uri} {args.collection}: {built.rows:,} rows put in, {cli.count(built.skipped, 'set')} there already, "
        f"{built.total:,} rows in all"
    )
    if built.pca_recall is not None:
        print(f"PCA to {args.pca} dimensions keeps {built.pca_recall:.1%} of the true 10 nearest neighbours")
    if built.rows and not built.skipped and built.total < n:
        cli.warn(f"{n - built.total:,} rows have the dataset, split, crop and ID of another: the later one stays")


def query(args: argparse.Namespace) -> None:
    """Print the nearest rows of each query image."""
    from common import query_images
    from common.retrieval import Queries, retrieve

    pictures = query_images.find(args.query)
    where = {name: values for name in ("label", "split", "dataset") if (values := getattr(args, name))}
    with gallery_of(args) as gallery:
        embedder = query_images.recorded_model(gallery.model, gallery.source, spec=args.model, device=args.device)
        if embedder.dim != gallery.dim:
            raise cli.UserError(
                f"{embedder.spec} gives {embedder.dim} dimensions, {gallery.source} holds {gallery.dim}"
            )
        vectors, fine = query_images.embed(pictures, embedder, batch_size=args.batch_size)
        names = [str(path) for path in fine]
        queries = Queries(vectors, names, [None] * len(names))
        found = retrieve(gallery, queries, args.k, where=where, method=args.rerank, candidates=args.candidates)
        truths = true_labels(gallery, fine, args.true_label)
    if not any(found) and where:
        cli.warn(f"no row passes the filters {' '.join(f'--{name} {value}' for name, value in where.items())}")
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
                print(*map(cli.one_line, (name, rank, f"{hit.score:.4f}", hit.item.path, hit.item.label)), sep="\t")
    if args.plot:
        from common import sheets

        drawn = [
            (name, truth, [(hit.item.path, hit.item.label, hit.score) for hit in hits])
            for name, truth, hits in zip(names[:20], truths, found, strict=False)
            if hits
        ]
        if not drawn:
            raise cli.UserError(f"{args.plot}: there are no results to draw; change the filters")
        if len(names) > 20:
            cli.note("only the first 20 queries are drawn")
        sheets.results(args.plot, drawn, score={"COSINE": "cosine"}.get(gallery.metric, gallery.metric))
        cli.note(f"wrote {args.plot}")


def true_labels(gallery: Any, pictures: Sequence[Path], given: Sequence[str] | None) -> list[str | None]:
    """Return each picture's own label, None where unknown: as given, else the longest end of its folder's path that is a label."""
    if given:
        if len(given) not in (1, len(pictures)):
            raise cli.UsageError(f"--true_label needs one label, or one for each of the {len(pictures)} images")
        return [*(given * len(pictures) if len(given) == 1 else given)]
    ends = []
    for picture in pictures:
        folders = picture.resolve().parts[1:-1][-6:]
        ends.append(["/".join(folders[at:]) for at in range(len(folders))])
    known = gallery.label_counts({end for one in ends for end in one})
    return [next((end for end in one if end in known), None) for one in ends]


def evaluate(args: argparse.Namespace) -> None:
    """Print how good and how fast the search is, and what each re-ranking gains."""
    import numpy as np

    from common import retrieval, statistics
    from common.gallery import Items, NpzGallery, one_model
    from common.metrics import RECALL_AT
    from common.sets import read_sets

    sets = [one for one in read_sets(args.query_npz, key=args.key, drop_invalid=args.drop_invalid)]
    items = [item for one in sets for item in map(Items(one, args.data_root).__getitem__, range(len(one)))]
    labelled = [row for row, item in enumerate(items) if item.label]
    if not labelled:
        raise cli.UserError(f"{sets[0].source} has no labels: there is nothing to score; name labelled queries")
    if len(labelled) < len(items):
        cli.warn(f"{len(items) - len(labelled):,} of {len(items):,} queries have no label and are left out")
    vectors = np.concatenate([np.asarray(one.vectors) for one in sets])
    queries = retrieval.Queries(vectors, [item.path for item in items], items).take(labelled)
    items = [items[row] for row in labelled]
    with gallery_of(args) as gallery:
        same_model(one_model(sets), sets[0].dim, gallery, sets[0].source)
        relevant = gallery.label_counts({item.label for item in items})
        n_relevant = np.array([relevant.get(item.label, 0) for item in items])
        n_relevant = n_relevant - np.minimum(
            gallery.own_counts(items, same_sample=args.exclude_same_sample), n_relevant
        )
        labels = [item.label for item in items]
        methods = ["none", *(name for name in dict.fromkeys(args.rerank) if name != "none")]
        rows, gains, plain, first = [], [], None, None
        for method in methods:
            options = {"method": method, "candidates": args.candidates}
            with cli.progress(total=len(queries), desc=method, unit="query") as bar:
                found = []
                for part in cli.batches(len(queries), 256):
                    some = queries.take(range(part.start, part.stop))
                    found += retrieval.retrieve(
                        gallery, some, retrieval.TOP, same_sample=args.exclude_same_sample, **options
                    )
                    bar.update(len(some))
            scores = retrieval.score(labels, found, n_relevant)
            seconds = 1e3 * retrieval.latency(gallery, queries, retrieval.TOP, **options)
            row = [method]
            for values in (scores.recalled[:, 0], scores.f1):
                interval = statistics.accuracy_interval(*retrieval.by_image(values, items))
                row += [f"{values.mean():.4f}", f"{interval.low:.4f} to {interval.high:.4f}"]
            row += [f"{value:.4f}" for value in scores.recalled[:, 1:].mean(axis=0)]
            rows.append([*row, *(f"{np.percentile(seconds, q):.1f}" for q in (50, 95))])
            if plain is None:
                plain, first = scores, found
            else:
                for name, new, old in (
                    ("Recall@1", scores.recalled[:, 0], plain.recalled[:, 0]),
                    ("F1 of the top 10", scores.f1, plain.f1),
                ):
                    gain = retrieval.gain(new, old, items)
                    gains.append(
                        [
                            method,
                            name,
                            f"{gain.difference[0]:+.4f}",
                            f"{gain.low[0]:+.4f} to {gain.high[0]:+.4f}",
                            f"{gain.p[0]:.4f}",
                        ]
                    )
        print(
            f"{gallery.source}: {len(gallery):,} rows, {cli.count(len(queries), 'query', 'queries')}, the query never in its own results"
        )
        if unknown := int((n_relevant == 0).sum()):
            print(f"{unknown:,} queries have a label that no row but their own has; they count as wrong")
        header = [
            "re-ranking",
            "Recall@1",
            "95 % interval",
            "F1@10",
            "95 % interval",
            *(f"Recall@{k}" for k in RECALL_AT[1:]),
        ]
        print("\n" + cli.table([*header, "p50 ms", "p95 ms"], rows))
        if gains:
            print("\nGain over no re-ranking, paired by query, interval by source image\n")
            print(cli.table(["re-ranking", "measure", "gain", "95 % interval", "p"], gains))
        if args.uri and args.npz:
            exact_gallery = NpzGallery(read_sets(args.npz, key=args.key))
            exact = retrieval.retrieve(exact_gallery, queries, retrieval.TOP)
            print(
                f"\nRecall of the index against exact search over --npz: {retrieval.agreement(first, exact):.4f} of the top 10"
            )
        elif args.uri and gallery.about["index_type"] != "FLAT":
            cli.note("add --npz with the files the index was built from to measure its recall against exact search")


def same_model(model: dict[str, Any], dim: int, gallery: Any, source: str) -> None:
    """Raise UserError when query vectors were not made by the gallery's model; say so where that is unknown."""
    ours, theirs = model.get("fingerprint"), gallery.model.get("fingerprint")
    if dim != gallery.dim or (ours and theirs and ours != theirs):
        raise cli.UserError(
            f"{source} ({model.get('model', 'unknown model')}, {dim} dimensions) and {gallery.source} "
            f"({gallery.model.get('model', 'unknown model')}, {gallery.dim}) come from different models; extract both with one"
        )
    if not ours or not theirs:
        cli.warn("not all vectors say which model made them; they are compared unchecked")


def info(args: argparse.Namespace) -> None:
    """Print what an index holds, or what one of N rows would need."""
    if args.plan:
        show_plans(args.plan, args.pca or args.dim)
    if not args.uri:
        if not args.plan:
            raise cli.UsageError("give --uri to describe an index, or --plan N to plan one")
        return
    from common.vector_store import Store

    with Store(args.uri, token=token()) as store:
        names = [args.collection] if args.collection else [name for name in store.names() if "__pca_" not in name]
        if not names:
            print(f"{args.uri}: no collections")
        for name in names:
            describe(store, name)


def describe(store: Any, name: str) -> None:
    """Print what one collection holds."""
    from common.indexing import missing

    try:
        about = store.about(name)
    except cli.UserError:
        print(f"{name}: not made by search.py")
        return
    if about is None:
        raise missing(store, name)
    if name.endswith("__building"):
        print(f"{name}: not complete, run the same search.py build again")
        return
    store.load(name)
    params = " ".join(f"{key}={value}" for key, value in about["index_params"].items())
    model = about["model"]
    print(
        f"{name}: {store.count(name):,} rows of {about['dim']} numbers, {about['index_type']} {params} {about['metric']}".rstrip()
    )
    print(f"  model {model.get('model', 'unknown')}, fingerprint {model.get('fingerprint', 'unknown')[:12]}")
    if about["pca"]:
        print(f"  PCA from {about['source_dim']} dimensions")
    for dataset, split, variant, rows, _ in about["sets"]:
        print(f"  {dataset or '-'}, split {split or '-'}, ID {variant}: {rows:,} rows")
    if about.get("growing"):
        print("  an update was interrupted; run the same search.py build again")


def show_plans(counts: Sequence[int], dim: int) -> None:
    """Print the table of index types for each number of rows."""
    from common.index_plan import MEMORY, plans, size

    rows = []
    for n in counts:
        for plan in plans(n, dim):
            both = (
                " ".join(f"{k}={v}" for k, v in each.items()) or "-" for each in (plan.index_params, plan.search_params)
            )
            mark = "suggested" if plan.suggested else ""
            rows.append([f"{n:,}", plan.index_type, *both, size(plan.memory), size(plan.disk), plan.nodes, mark])
    print(f"{dim} dimensions; memory and disk computed from the index layouts, nodes of {size(MEMORY)}\n")
    print(cli.table(["rows", "index", "--index_params", "--search_params", "memory", "disk", "nodes", ""], rows))


def delete(args: argparse.Namespace) -> None:
    """Remove an index."""
    from common import indexing
    from common.vector_store import Store

    with Store(args.uri, token=token()) as store:
        print(f"{args.uri} {args.collection}: deleted, {indexing.delete(store, args.collection):,} rows")


@contextlib.contextmanager
def gallery_of(args: argparse.Namespace) -> Iterator[NpzGallery | Index]:
    """Yield what is searched: the index where --uri is given, else the files of --npz."""
    if args.uri:
        from common.indexing import Index
        from common.vector_store import Store

        if not args.collection:
            raise cli.UsageError("--uri needs --collection; search.py info --uri lists them")
        with Store(args.uri, token=token()) as store:
            params = parameters("--search_params", args.search_params, ("nprobe", "ef"))
            yield Index(store, args.collection, params=params)
    elif args.npz:
        from common.gallery import NpzGallery
        from common.sets import read_sets

        sets = read_sets(args.npz, key=args.key, company_name=args.company_name, drop_invalid=args.drop_invalid)
        yield NpzGallery(sets, data_root=args.data_root)
    else:
        raise cli.UsageError("give --npz FILES to search exactly, or --uri and --collection of an index")


def parameters(option: str, words: Sequence[str], known: Sequence[str]) -> dict[str, int]:
    """Return {"nlist": 1024} of ["nlist=1024"]. Raises UsageError for an unknown name or a value that is no number."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in known or not value.isdigit() or int(value) < 1:
            raise cli.UsageError(
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
        sub.add_argument(
            "--uri", required=index, metavar="URI", help="Milvus Lite file index.db, or server http://host:19530"
        )
        sub.add_argument("--collection", required=index, metavar="NAME", help="the index's name there")
        if npz is not None:
            sub.add_argument(
                "--npz", nargs="+", required=npz, metavar="[ID=]NPZ", help="embedding sets: files, folders or globs"
            )
            sub.add_argument("--key", help="name of the array or of the pickled dict inside a foreign .npz")
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
    add("--plot", type=Path, metavar="FILE.png", help="draw queries and results, right and wrong marked")
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
