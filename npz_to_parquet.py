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
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, messages
from plots.methods import METHODS

if TYPE_CHECKING:
    from common.embeddings import EmbeddingSet

# Which columns another script's file gives, and their Arrow types.
JOINS = {"predictions": {"predicted": "string", "correct": "bool", "margin": "float64"}, "flips": {"flip": "string"}}
# By column: the option of the embedding-atlas command that shows it.
ATLAS = {
    "projection_y": " --x projection_x --y projection_y",
    "neighbors": " --neighbors neighbors",
    "image": " --image image",
}


def by_model(sets: Sequence[EmbeddingSet]) -> dict[str, list[EmbeddingSet]]:
    """Return each model's sets under a name that is safe in a file's name; sets that name no model go by their dimension."""
    known = {embedding_set.dim: embedding_set.fingerprint for embedding_set in sets if embedding_set.fingerprint}
    groups: dict[tuple[str, int], list[EmbeddingSet]] = {}
    for embedding_set in sets:
        dim = embedding_set.dim
        groups.setdefault((embedding_set.fingerprint or known.get(dim, ""), dim), []).append(embedding_set)
    models: dict[str, list[EmbeddingSet]] = {}
    for (fingerprint, dim), group in groups.items():
        specs = (str(member.meta["model"]) for member in group if member.meta.get("model"))
        name = re.sub(r"[^\w.+-]+", "_", next(specs, f"unknown-{dim}")).strip("._") or "model"
        models[name if name not in models else f"{name}-{fingerprint[:8] or dim}"] = group
    return models


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    add("--root", nargs="+", default=["embeddings"], metavar="PATH", help="npz files, folders, globs; each `[id=]path`")
    text = ".parquet or .csv"
    add("--out", "--output", type=cli.Output(), default=Path("embeddings.parquet"), metavar="FILE", help=text)
    add("--projection", choices=METHODS, help="add a map of the rows")
    add("--dimensions", type=int, choices=(2, 3), default=2, help="of the map")
    add("--neighbors", type=cli.whole(1), metavar="K", help="add each row's K nearest rows by cosine")
    add("--thumbnails", type=cli.whole(8, 1024), metavar="PX", help="add the pictures, at most PX pixels a side")
    add("--predictions", type=Path, metavar="FILE", help="add predicted, correct, margin from evaluate_combo.py")
    add("--flips", type=Path, metavar="FILE", help="add the flips from greedy_combo_eval.py")
    add(
        "--strict", action="store_true", help="fail where --predictions or --flips were changed since they were written"
    )
    add("--data_root", type=Path, metavar="DIR", help="where the pictures are (default: where they were extracted)")
    add("--key", metavar="NAME", help="the array, or the dict inside, of npz files of other tools")
    cli.add_arrays(parser)
    cli.add_spreadsheet_safe(parser, "a .csv")
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

    groups = read_shards(args.root, **cli.reading(args))
    tell_doubts([shards[0] for shards in groups])
    models = by_model([shard for shards in groups for shard in shards])
    if len(models) > 1 and ("{model}" not in str(args.out) or args.predictions or args.flips):
        raise messages.UsageError(
            f"embeddings of {len(models)} models ({', '.join(models)}) do not belong in one file; name one model's with "
            "--root, or write a file for each with --out '{model}.parquet' (without --predictions and --flips)"
        )
    for model, sets in models.items():
        n, dim = sum(map(len, sets)), sets[0].dim
        if (args.neighbors or 0) >= n:
            rows = messages.count(n, "row")
            raise messages.UserError(f"--neighbors {args.neighbors}: the files have {rows} in all; ask for fewer")
        more = joined(sets, {"predictions": args.predictions, "flips": args.flips}, args.strict)
        more |= mapped(sets, args.neighbors, args.projection, args.dimensions, args.seed)
        path = Path(str(args.out).replace("{model}", model))
        columns = write(sets, path, more, args.thumbnails, args.data_root, args.spreadsheet_safe)
        print(f"{path}: {messages.count(n, 'row')} of {dim:,} dimensions from {messages.count(len(sets), 'file')}")
        if not is_csv:
            flags = "".join(flag for column, flag in ATLAS.items() if column in columns)
            messages.note(f"look at it: embedding-atlas {shlex.quote(str(path))} --vector embedding{flags}")


def tell_doubts(sets: Sequence[EmbeddingSet]) -> None:
    """Say on stderr which sets come twice, and which do not tell their model where others do."""
    sources: dict[tuple, str] = {}
    for embedding_set in sets:
        name, split, source = embedding_set.id, embedding_set.split, embedding_set.source
        same = (embedding_set.dataset, split, name, embedding_set.fingerprint, embedding_set.dim)
        first = sources.setdefault(same, source)
        if first != source:
            messages.warn(f"{first} and {source} are the same set ({name}, {split or 'no split'}): both are written")
        if not embedding_set.fingerprint and any(other.fingerprint for other in sets):
            messages.note(
                f"{source} does not tell its model; it is taken for that of the other files of {embedding_set.dim} numbers"
            )


def joined(sets: Sequence[EmbeddingSet], tables: dict[str, Path | None], strict: bool) -> dict[str, Any]:
    """Return the columns that the files of other scripts give, by name; `tables` as in JOINS."""
    from export import join_columns

    columns: dict[str, Any] = {}
    for option, path in tables.items():
        if path is not None:
            columns |= join_columns.join(sets, path, JOINS[option], strict=strict)
    return columns


def mapped(
    sets: Sequence[EmbeddingSet], k: int | None, method: str | None, dimensions: int, seed: int
) -> dict[str, Any]:
    """Return the columns that need all vectors at once: each row's `k` nearest rows, its place on a map by `method`."""
    import pyarrow as pa

    from common.blocks import Blocks
    from plots import projection

    columns: dict[str, Any] = {}
    blocks = [block for embedding_set in sets for block in embedding_set.blocks]
    nearest, n = None, sum(map(len, blocks))
    if k:
        of_map = min(projection.N_NEIGHBORS, n) - 1 if method == "umap" else 0  # one search serves both
        nearest = projection.nearest(blocks, max(k, of_map))
        offsets = pa.array(range(0, n * k + 1, k), pa.int32())
        lists = [pa.ListArray.from_arrays(offsets, values[:, :k].reshape(-1)) for values in nearest]
        columns["neighbors"] = pa.StructArray.from_arrays(lists, ["ids", "distances"])
    if method:
        vectors: Any = Blocks(blocks)
        points = projection.project(vectors, method, dimensions, seed=seed, neighbors=nearest)
        columns |= {f"projection_{axis}": values for axis, values in zip("xyz", points.T, strict=False)}
    return columns


def write(
    sets: Sequence[EmbeddingSet], path: Path, more: dict[str, Any], side: int | None, data_root: Path | None, safe: bool
) -> list[str]:
    """Write the sets of one model with `more` columns, and thumbnails of `side` pixels; return the names of all columns."""
    from common.embeddings import RUN_ONLY
    from export import parquet_table

    n = sum(map(len, sets))
    thumbnails = parquet_table.ThumbnailColumn(side) if side else None
    groups = parquet_table.tables(sets, more, data_root=data_root, thumbnails=thumbnails)
    groups = groups if thumbnails else parquet_table.ahead(groups)  # thumbnails keep all cores busy by themselves
    facts = []
    for embedding_set in sets:
        meta = {name: value for name, value in embedding_set.meta.items() if name not in RUN_ONLY}
        facts.append({"rows": len(embedding_set), **meta})
    with messages.progress(total=n, desc=path.name, unit="row") as bar:
        columns = parquet_table.write(
            path, groups, {"sets": json.dumps(facts, ensure_ascii=False)}, bar, spreadsheet_safe=safe
        )
    if thumbnails:
        thumbnails.report(n)
    return columns


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
