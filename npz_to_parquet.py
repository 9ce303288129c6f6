#!/usr/bin/env python3
"""Write embeddings to one Parquet file for visual exploration, one row per vector.

  python npz_to_parquet.py --root embeddings/ --out embeddings.parquet
  python npz_to_parquet.py --root embeddings/ --out shelf.parquet --projection umap --neighbors 15 --thumbnails 96
  python npz_to_parquet.py --root a_0_test.npz a_10_test.npz --out map.csv --projection pca --dimensions 3
  python npz_to_parquet.py --root embeddings/ --out '{model}.parquet'

Embeddings of several models go to a file each, by {model} in the name. A name in .csv gets ids, labels and map only.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, messages
from plots import projection

if TYPE_CHECKING:
    from common.embeddings import EmbeddingSet

JOINS = {"predictions": {"predicted": "string", "correct": "bool", "margin": "float64"}, "flips": {"flip": "string"}}
HERE = ("source", "named")  # meta of this run only
ATLAS = {  # column: the viewer's option for it
    "projection_y": " --x projection_x --y projection_y",
    "neighbors": " --neighbors neighbors",
    "image": " --image image",
}


def by_model(sets: Sequence[EmbeddingSet]) -> dict[str, list[EmbeddingSet]]:
    """Return each model's sets under a name that is safe in a file's name; sets that name no model go by their dimension."""
    known = {one.dim: one.fingerprint for one in sets if one.fingerprint}
    groups: dict[tuple[str, int], list[EmbeddingSet]] = {}
    for one in sets:
        groups.setdefault((one.fingerprint or known.get(one.dim, ""), one.dim), []).append(one)
    named: dict[str, list[EmbeddingSet]] = {}
    for (fingerprint, dim), group in groups.items():
        spec = next((str(one.meta["model"]) for one in group if one.meta.get("model")), f"unknown-{dim}")
        name = re.sub(r"[^\w.+-]+", "_", spec).strip("._") or "model"
        named[name if name not in named else f"{name}-{fingerprint[:8] or dim}"] = group
    return named


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    add("--root", nargs="+", default=["embeddings"], metavar="PATH", help="npz files, folders, globs; each `[id=]path`")
    add("--out", "--output", type=Path, default=Path("embeddings.parquet"), metavar="FILE", help=".parquet or .csv")
    add("--projection", choices=projection.METHODS, help="add a map of the rows")
    add("--dimensions", type=int, choices=(2, 3), default=2, help="of the map")
    add("--neighbors", type=cli.whole(1), metavar="K", help="add each row's K nearest rows by cosine")
    add("--thumbnails", type=cli.whole(8, 1024), metavar="PX", help="add the pictures, at most PX pixels a side")
    add("--predictions", type=Path, metavar="FILE", help="add predicted, correct, margin from evaluate_combo.py")
    add("--flips", type=Path, metavar="FILE", help="add the flips from greedy_combo_eval.py")
    add("--data_root", type=Path, metavar="DIR", help="where the pictures are (default: where they were extracted)")
    add("--key", metavar="NAME", help="the array, or the dict inside, of npz files of other tools")
    add("--drop_invalid", action="store_true", help="leave zero and non-finite rows out instead of stopping")
    cli.add_seed(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    is_csv = args.out.suffix.lower() == ".csv"
    if not is_csv and args.out.suffix.lower() != ".parquet":
        raise messages.UsageError(f"--out {args.out}: end the name in .parquet or .csv")
    if is_csv and (args.neighbors or args.thumbnails):
        raise messages.UsageError("a .csv file holds no --neighbors and no --thumbnails; write a .parquet file")
    from common.embedding_sets import read_shards

    groups = read_shards(args.root, key=args.key, drop_invalid=args.drop_invalid)
    models = by_model([shard for group in groups for shard in group])
    twice: dict[tuple, str] = {}
    for one, *_ in groups:
        other = twice.setdefault((one.dataset, one.split, one.id, one.fingerprint, one.dim), one.source)
        if other != one.source:
            messages.warn(
                f"{other} and {one.source} are the same set ({one.id}, {one.split or 'no split'}): both are written"
            )
        if not one.fingerprint and any(group[0].fingerprint for group in groups):
            messages.note(
                f"{one.source} does not tell its model; it is taken for that of the other files of {one.dim} numbers"
            )
    if len(models) > 1 and ("{model}" not in str(args.out) or args.predictions or args.flips):
        raise messages.UsageError(
            f"embeddings of {len(models)} models ({', '.join(models)}) do not belong in one file; name one model's with "
            "--root, or write a file for each with --out '{model}.parquet' (without --predictions and --flips)"
        )
    for model, sets in models.items():
        path = Path(str(args.out).replace("{model}", model))
        n, dim, columns = convert(sets, path, args)
        print(f"{path}: {messages.count(n, 'row')} of {dim:,} dimensions from {messages.count(len(sets), 'file')}")
        if not is_csv:
            flags = "".join(flag for column, flag in ATLAS.items() if column in columns)
            messages.note(f"look at it: embedding-atlas {path} --vector embedding{flags}")


def convert(sets: Sequence[EmbeddingSet], path: Path, args: argparse.Namespace) -> tuple[int, int, list[str]]:
    """Write the sets of one model to `path`; return its number of rows, its dimension and its columns."""
    from export import parquet_table

    n, dim = sum(map(len, sets)), sets[0].dim
    if (args.neighbors or 0) >= n:
        raise messages.UserError(
            f"--neighbors {args.neighbors}: there are {messages.count(n, 'row')} in all; ask for fewer"
        )
    pictures = parquet_table.Pictures(args.thumbnails) if args.thumbnails else None
    groups = parquet_table.tables(sets, _more(sets, args), data_root=args.data_root, pictures=pictures)
    groups = groups if pictures else parquet_table.ahead(groups)  # pictures keep all cores busy by themselves
    facts = [{"rows": len(one), **{key: one.meta[key] for key in one.meta if key not in HERE}} for one in sets]
    with messages.progress(total=n, desc=path.name, unit="row") as bar:
        columns = parquet_table.write(path, groups, {"sets": json.dumps(facts, ensure_ascii=False)}, bar)
    if pictures:
        pictures.report(n)
    return n, dim, columns


def _more(sets: Sequence[EmbeddingSet], args: argparse.Namespace) -> dict[str, Any]:
    """Return the columns that need all rows at once: projection, neighbours, and what other files say."""
    import pyarrow as pa

    from common.blocks import Blocks
    from export import join_columns

    more: dict[str, Any] = {}
    for option, kinds in JOINS.items():
        if file := getattr(args, option):
            more |= join_columns.join(sets, file, kinds)
    blocks = [block for one in sets for block in one.blocks]
    near, n = None, sum(map(len, blocks))
    if args.neighbors:
        of_map = min(projection.N_NEIGHBORS, n) - 1 if args.projection == "umap" else 0  # found once for both
        near = projection.nearest(blocks, max(args.neighbors, of_map))
        offsets = pa.array(range(0, n * args.neighbors + 1, args.neighbors), pa.int32())
        lists = [pa.ListArray.from_arrays(offsets, values[:, : args.neighbors].reshape(-1)) for values in near]
        more["neighbors"] = pa.StructArray.from_arrays(lists, ["ids", "distances"])
    if args.projection:
        vectors: Any = Blocks(blocks)
        points = projection.project(vectors, args.projection, args.dimensions, seed=args.seed, neighbors=near)
        more |= {f"projection_{axis}": values for axis, values in zip("xyz", points.T, strict=False)}
    return more


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
