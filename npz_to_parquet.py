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
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, files

if TYPE_CHECKING:
    import pyarrow as pa

    from common.embeddings import EmbeddingSet

ROW_GROUP = 25_000  # rows; a reader holds a whole group, and a million embeddings in one cost it gigabytes
GROUP_BYTES = 96 << 20  # vectors and pictures in a group: its memory does not grow with their size either
METHODS = ("pca", "tsne", "umap")
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


def tables(
    sets: Sequence[EmbeddingSet], more: dict[str, Any], *, data_root: Path | None, rows: int
) -> Iterator[pa.Table]:
    """Yield the sets' rows in order, `rows` at a time, with the columns of docs/formats.md.

    `more` holds further columns of the whole file, arrays of numpy or pyarrow.
    """
    import pyarrow as pa

    from common import npz

    levels, start = max(one.labels.shape[1] for one in sets), 0
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), sets[0].dim)
    for one in sets:
        root = str(data_root or one.meta.get("data_root") or "")
        fixed = {"dataset_name": one.dataset, "split": one.split, "id": one.id}
        fixed |= {name: str(one.meta.get(name) or "") for name in ("padding", "model")}
        for part in cli.batches(len(one), rows):
            n, here = part.stop - part.start, slice(start + part.start, start + part.stop)
            paths = [os.path.join(root, path) if path else "" for path in one.paths[part].tolist()]
            columns = {name: pa.repeat(pa.scalar(value or None, pa.string()), n) for name, value in fixed.items()}
            columns |= {"sample_id": _text(one.sample_ids[part]), "crop_id": _text(one.crop_ids[part])}
            columns["source_file"] = _text(paths)
            for level in range(levels):
                known = level < one.labels.shape[1]
                columns[f"class_{level}"] = _text(one.labels[part, level]) if known else pa.nulls(n, pa.string())
            columns |= {name: whole[here] for name, whole in more.items()}
            values = pa.array(one.vectors[part].reshape(-1))
            yield pa.table({**columns, "embedding": pa.FixedSizeListArray.from_arrays(values, type=vector)})
            for array in (*one.blocks, one.labels, one.crop_ids, one.sample_ids, one.paths):
                npz.release(array)
        start += len(one)


def _text(values: Any) -> pa.Array:
    """Return a text column, null where a text is empty; bytes of a file's name that are no text become question marks."""
    import pyarrow as pa

    texts = [value or None for value in (values if isinstance(values, list) else values.tolist())]
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        return pa.array([text and text.encode("utf-8", "replace").decode() for text in texts], pa.string())


class Pictures:
    """Adds the column `image` to row groups and remembers which pictures could not be read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lost: list[tuple[str, str]] = []  # (file, reason)

    def add(self, group: pa.Table) -> pa.Table:
        import pyarrow as pa

        from common import thumbnails

        paths = [path or "" for path in group["source_file"].to_pylist()]
        found = list(zip(paths, thumbnails.jpegs(paths, self.size), strict=True))
        self.lost += [(path or "a row without a path", why) for path, why in found if isinstance(why, str)]
        cells = [{"bytes": jpeg, "path": path} if isinstance(jpeg, bytes) else None for path, jpeg in found]
        image = pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        return group.add_column(group.column_names.index("embedding"), "image", image)

    def report(self, total: int) -> None:
        if self.lost:
            names = "; ".join(name for name, _ in self.lost[:5]) + (" …" if len(self.lost) > 5 else "")
            cli.warn(
                f"{len(self.lost):,} of {cli.count(total, 'picture')} left empty ({cli.tally(why for _, why in self.lost)}): "
                f"{names}; where the pictures have moved, give --data_root"
            )


def write(path: Path, groups: Iterator[pa.Table], meta: dict[str, str], bar: Any) -> list[str]:
    """Write the row groups to a .parquet file, or their plain columns to a .csv file, whole or not at all.

    Returns the names of the columns.
    """
    import pyarrow.csv
    import pyarrow.parquet

    first = next(groups)
    if path.suffix.lower() == ".csv":
        columns = [field.name for field in first.schema if field.type.num_fields == 0]
        make: Callable = pyarrow.csv.CSVWriter
        options: dict[str, Any] = {}
    else:  # of floats, a dictionary and the least and largest are of no use, and their bytes in four streams compress better
        columns = first.column_names
        make = pyarrow.parquet.ParquetWriter
        texts = [field.name for field in first.schema if field.type == "string"]
        options = {"compression": "zstd", "compression_level": 1, "use_dictionary": texts, "write_statistics": texts}
        options["use_byte_stream_split"] = ["embedding.list.element"]
    first = first.select(columns).replace_schema_metadata(meta)
    with files.whole(path) as temporary, make(str(temporary), first.schema, **options) as writer:
        for group in itertools.chain([first], groups):
            writer.write_table(group.select(columns).replace_schema_metadata(meta))
            bar.update(len(group))
    return columns


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    add("--root", nargs="+", default=["embeddings"], metavar="PATH", help="npz files, folders, globs; each `[id=]path`")
    add("--out", "--output", type=Path, default=Path("embeddings.parquet"), metavar="FILE", help=".parquet or .csv")
    add("--projection", choices=METHODS, help="add a map of the rows")
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
        raise cli.UsageError(f"--out {args.out}: end the name in .parquet or .csv")
    if is_csv and (args.neighbors or args.thumbnails):
        raise cli.UsageError("a .csv file holds no --neighbors and no --thumbnails; write a .parquet file")
    from common import sets as embedding_sets

    groups = embedding_sets.read_shards(args.root, key=args.key, drop_invalid=args.drop_invalid)
    models = by_model([shard for group in groups for shard in group])
    twice: dict[tuple, str] = {}
    for one, *_ in groups:
        other = twice.setdefault((one.dataset, one.split, one.id, one.fingerprint, one.dim), one.source)
        if other != one.source:
            cli.warn(
                f"{other} and {one.source} are the same set (ID {one.id}, split {one.split or '-'}): all rows of both are written"
            )
        if not one.fingerprint and any(group[0].fingerprint for group in groups):
            cli.note(
                f"{one.source} does not tell its model; it is taken for the one of the other files of {one.dim} dimensions"
            )
    if len(models) > 1 and ("{model}" not in str(args.out) or args.predictions or args.flips):
        raise cli.UsageError(
            f"embeddings of {len(models)} models ({', '.join(models)}) do not belong in one file; name one model's with --root, "
            "or write a file for each with --out '{model}.parquet' (without --predictions and --flips)"
        )
    for model, sets in models.items():
        path = Path(str(args.out).replace("{model}", model))
        n, dim, columns = convert(sets, path, args)
        print(f"{path}: {cli.count(n, 'row')} of {dim:,} dimensions from {cli.count(len(sets), 'file')}")
        if not is_csv:
            flags = "".join(flag for column, flag in ATLAS.items() if column in columns)
            cli.note(f"look at it: python view.py {path}   or: embedding-atlas {path} --vector embedding{flags}")


def convert(sets: Sequence[EmbeddingSet], path: Path, args: argparse.Namespace) -> tuple[int, int, list[str]]:
    """Write the sets of one model to `path`; return its number of rows, its dimension and its columns."""
    n, dim = sum(map(len, sets)), sets[0].dim
    if (args.neighbors or 0) >= n:
        raise cli.UserError(f"--neighbors {args.neighbors}: there are {cli.count(n, 'row')} in all; ask for fewer")
    more = _more(sets, args)
    rows = max(1, min(ROW_GROUP, GROUP_BYTES // (4 * dim + (args.thumbnails or 0) ** 2 // 2)))
    groups = tables(sets, more, data_root=args.data_root, rows=rows)
    pictures = Pictures(args.thumbnails) if args.thumbnails else None
    facts = [{"rows": len(one), **{key: one.meta[key] for key in one.meta if key not in HERE}} for one in sets]
    with cli.progress(total=n, desc=path.name, unit="row") as bar:
        columns = write(
            path,
            map(pictures.add, groups) if pictures else groups,
            {"sets": json.dumps(facts, ensure_ascii=False)},
            bar,
        )
    if pictures:
        pictures.report(n)
    return n, dim, columns


def _more(sets: Sequence[EmbeddingSet], args: argparse.Namespace) -> dict[str, Any]:
    """Return the columns that need all rows at once: projection, neighbours, and what other files say."""
    import pyarrow as pa

    from common import joins, projection
    from common.embeddings import Blocks

    more: dict[str, Any] = {}
    for option, kinds in JOINS.items():
        if file := getattr(args, option):
            more |= joins.join(sets, file, kinds)
    blocks = [block for one in sets for block in one.blocks]
    near = projection.nearest(blocks, args.neighbors) if args.neighbors else None
    if near:
        offsets = pa.array(range(0, near[0].size + 1, args.neighbors), pa.int32())
        lists = [pa.ListArray.from_arrays(offsets, values.reshape(-1)) for values in near]
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
