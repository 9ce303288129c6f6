#!/usr/bin/env python3
"""Write embeddings to one Parquet file for visual exploration, one row per vector.

python npz_to_parquet.py --root embeddings/ --out embeddings.parquet
python npz_to_parquet.py --root embeddings/ --out shelf.parquet --projection umap --neighbors 15 --thumbnails 96
python npz_to_parquet.py --root a_0_test.npz a_10_test.npz --out map.csv --projection pca --dimensions 3
python npz_to_parquet.py --root embeddings/ --out '{model}.parquet'      # embeddings of several models: a file for each
"""

from __future__ import annotations

import argparse
import itertools
import json
import mmap
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, files

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from common.embeddings import EmbeddingSet

    Column = Callable[[pa.Table, slice], pa.Array | pa.ChunkedArray]

ROW_GROUP = 25_000  # rows; a reader holds a whole group, and a million embeddings in one cost it gigabytes
GROUP_BYTES = 96 << 20  # vectors and pictures in a group: its memory does not grow with their size either
METHODS = ("pca", "tsne", "umap")
JOINS = {"predictions": {"predicted": "string", "correct": "bool", "margin": "float64"}, "flips": {"flip": "string"}}
KEYS = ["dataset_name", "split", "crop_id", "id"]


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


def join(sets: Sequence[EmbeddingSet], path: Path, kinds: dict[str, str]) -> tuple[pa.Table, np.ndarray]:
    """Return the columns `kinds` of a CSV or Parquet file, and for every row of the sets its row there, -1 where there is none.

    Rows belong together by dataset, split, crop_id and, where the file has it, id. Raises UserError when the file is no table,
    lacks a column, has two rows for one crop, or none for these sets.
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    try:
        is_parquet = path.suffix.lower() == ".parquet"
        table = pd.read_parquet(path) if is_parquet else pd.read_csv(path, dtype=str, keep_default_na=False)
        table = table.rename(columns={"dataset": "dataset_name"}).astype("string").fillna("")
        if missing := [name for name in (*KEYS[:3], *kinds) if name not in table]:
            raise cli.UserError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(table.columns)}")
        if "id" in table:  # a decision made from several sets, `0+10`, holds for the rows of each
            table = table.assign(id=table["id"].str.split("+")).explode("id", ignore_index=True)
        keys = [name for name in KEYS if name in table]
        texts = {name: pa.array([text or None for text in table[name]], pa.string()) for name in kinds}
        columns = pa.table({name: texts[name].cast(kind) for name, kind in kinds.items()})
    except ValueError as error:  # of pandas and of pyarrow
        raise cli.UserError(f"{path} cannot be read: {' '.join(str(error).split())}; make it anew") from None
    index = pd.MultiIndex.from_frame(table[keys].astype(object))
    if (twice := index.duplicated()).any():
        raise cli.UserError(f"{path} has two rows for {' '.join(index[twice.argmax()])}; keep one of them")
    parts = []
    for one in sets:
        for part in cli.batches(len(one), ROW_GROUP):
            values = {
                "dataset_name": one.dataset,
                "split": one.split,
                "crop_id": one.crop_ids[part].tolist(),
                "id": one.id,
            }
            frame = pd.DataFrame({name: values[name] for name in keys}, dtype=object)
            parts.append(index.get_indexer(pd.MultiIndex.from_frame(frame)))
    rows = np.concatenate(parts)
    lost = len(index) - len(np.unique(rows[rows >= 0]))
    if lost == len(index):
        raise cli.UserError(f"{path}: none of its {lost:,} rows names a crop of these embeddings; check the file")
    if lost:
        cli.warn(f"{path}: {lost:,} of its {len(index):,} rows name no crop of these embeddings")
    return columns, rows


class Thumbnails:
    """Pictures as JPEG of at most `size` pixels a side; `lost` lists (file, reason) of those that cannot be read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lost: list[tuple[str, str]] = []
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def column(self, sources: pa.ChunkedArray) -> pa.Array:
        """Return the struct column of the pictures in these files, null where there is none."""
        import pyarrow as pa

        cells: list[dict | None] = []
        names = sources.to_pylist()
        for name, picture in zip(names, self._pool.map(self._encode, names), strict=True):
            cells.append({"bytes": picture, "path": name} if isinstance(picture, bytes) else None)
            self.lost += [(name or "a row without a path", picture)] if isinstance(picture, str) else []
        return pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))

    def _encode(self, source: str | None) -> bytes | str:
        import cv2

        from common import images

        try:
            picture = images.decode(source or "")
        except images.ImageError as error:
            return str(error)
        scale = self.size / max(picture.shape[:2])
        if scale < 1:
            height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        return cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def nearest(vectors: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (row numbers int64, cosine distances float64), each (n, k), of every row's nearest rows, itself left out."""
    import numpy as np

    from common import knn

    similarities, indices = knn.search(vectors, vectors, k + 1)
    own = indices == np.arange(len(indices))[:, None]
    own[~own.any(axis=1), -1] = True  # equal rows of lower number took its place
    distances = np.clip(1 - similarities.astype(np.float64), 0, 2)
    return indices[~own].reshape(-1, k), distances[~own].reshape(-1, k)


def tables(
    sets: Sequence[EmbeddingSet], more: dict[str, Column], *, data_root: Path | None, rows: int
) -> Iterator[pa.Table]:
    """Yield the sets' rows in order, `rows` at a time, with the columns of docs/formats.md.

    `more` makes further columns, each from the table so far and the slice of row numbers of the whole file.
    """
    import pyarrow as pa

    levels, start = max(one.labels.shape[1] for one in sets), 0
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), sets[0].dim)
    for one in sets:
        root = str(data_root or one.meta.get("data_root") or "")
        fixed = {"dataset_name": one.dataset, "split": one.split, "id": one.id}
        fixed |= {name: str(one.meta.get(name) or "") for name in ("padding", "model")}
        for part in cli.batches(len(one), rows):
            n = part.stop - part.start
            values = pa.array(one.vectors[part].reshape(-1))
            columns = {"embedding": pa.FixedSizeListArray.from_arrays(values, type=vector)}
            columns |= {name: pa.repeat(pa.scalar(value or None, pa.string()), n) for name, value in fixed.items()}
            columns |= {"sample_id": _text(one.sample_ids[part]), "crop_id": _text(one.crop_ids[part])}
            columns["source_file"] = _text(
                [os.path.join(root, path) if path else "" for path in one.paths[part].tolist()]
            )
            for level in range(levels):
                known = level < one.labels.shape[1]
                columns[f"class_{level}"] = _text(one.labels[part, level]) if known else pa.nulls(n, pa.string())
            group = pa.table(columns)
            for name, make in more.items():
                group = group.append_column(name, make(group, slice(start + part.start, start + part.stop)))
            yield group
            _forget(one)
        start += len(one)


def _text(values: Any) -> pa.Array:
    """Return a text column, null where a text is empty; bytes of a file's name that are no text become question marks."""
    import pyarrow as pa

    texts = [value or None for value in (values if isinstance(values, list) else values.tolist())]
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        return pa.array([text and text.encode("utf-8", "replace").decode() for text in texts], pa.string())


def _forget(one: EmbeddingSet) -> None:
    """Give the pages of memory-mapped vectors back; they count as this process's memory until the system runs short of it."""
    for block in one.blocks:
        if isinstance(block.base, mmap.mmap):
            block.base.madvise(mmap.MADV_DONTNEED)


def write(path: Path, groups: Iterator[pa.Table], meta: dict[str, str]) -> None:
    """Write the row groups to a .parquet file, or without vectors and pictures to a .csv file, whole or not at all."""
    import pyarrow.csv
    import pyarrow.parquet

    first = next(groups)
    schema = first.schema.with_metadata(meta)
    texts = [field.name for field in schema if field.type == "string"]
    with files.whole(path) as temporary:
        if path.suffix.lower() == ".csv":
            flat = [field.name for field in schema if field.type.num_fields == 0]
            with pyarrow.csv.CSVWriter(str(temporary), first.select(flat).schema) as writer:
                for group in itertools.chain([first], groups):
                    writer.write_table(group.select(flat))
            return
        # Of floats, a dictionary and the least and largest are of no use; their bytes in four streams are compressed better.
        with pyarrow.parquet.ParquetWriter(
            str(temporary),
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=texts,
            write_statistics=texts,
            use_byte_stream_split=["embedding.list.element"],
        ) as writer:
            for group in itertools.chain([first], groups):
                writer.write_table(group.replace_schema_metadata(meta))


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add(
        "--root",
        nargs="+",
        default=["embeddings"],
        metavar="PATH",
        help="npz files, folders or globs, each `[id=]path`",
    )
    add(
        "--out",
        "--output",
        type=Path,
        default=Path("embeddings.parquet"),
        metavar="FILE",
        help=".parquet or .csv; may use {model}",
    )
    add("--projection", choices=METHODS, help="add a map of the rows")
    add("--dimensions", type=int, choices=(2, 3), default=2, help="of the map")
    add("--neighbors", type=cli.whole(1), metavar="K", help="add each row's K nearest rows by cosine")
    add("--thumbnails", type=cli.whole(8, 1024), metavar="PX", help="add the pictures, at most PX pixels a side")
    add(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="add predicted, correct and margin from evaluate_combo.py --predictions",
    )
    add("--flips", type=Path, metavar="FILE", help="add the flips from greedy_combo_eval.py")
    add(
        "--data_root", type=Path, metavar="DIR", help="where the pictures are (default: where they were extracted from)"
    )
    add("--key", metavar="NAME", help="the array, or the dict inside, of npz files of other tools")
    add("--drop_invalid", action="store_true", help="leave zero and non-finite rows out instead of stopping")
    cli.add_seed(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    if args.out.suffix.lower() not in (".parquet", ".csv"):
        raise cli.UsageError(f"--out {args.out}: end the name in .parquet or .csv")
    if args.out.suffix.lower() == ".csv" and (args.neighbors or args.thumbnails):
        raise cli.UsageError("a .csv file holds no --neighbors and no --thumbnails; write a .parquet file")
    from common import sets as embedding_sets

    models = by_model(embedding_sets.read_sets(args.root, key=args.key, drop_invalid=args.drop_invalid))
    if len(models) > 1 and ("{model}" not in args.out.name or args.predictions or args.flips):
        raise cli.UsageError(
            f"embeddings of {len(models)} models ({', '.join(models)}) do not belong in one file; name one model's files with "
            "--root, or write a file for each with --out '{model}.parquet' (without --predictions and --flips)"
        )
    for model, sets in models.items():
        convert(sets, args.out.with_name(args.out.name.replace("{model}", model)), args)


def convert(sets: Sequence[EmbeddingSet], path: Path, args: argparse.Namespace) -> None:
    """Write the sets of one model to `path`."""
    import pyarrow as pa

    from common import projection
    from common.embeddings import Blocks

    n, dim = sum(map(len, sets)), sets[0].dim
    vectors: Any = Blocks([block for one in sets for block in one.blocks])
    more: dict[str, Column] = {}
    if args.thumbnails:
        pictures = Thumbnails(args.thumbnails)
        more["image"] = lambda group, rows: pictures.column(group["source_file"])
    if args.projection:
        points = projection.project(vectors, args.projection, args.dimensions, seed=args.seed)
        for axis in range(args.dimensions):
            more[f"projection_{'xyz'[axis]}"] = lambda group, rows, axis=axis: pa.array(points[rows, axis])
    if args.neighbors:
        if args.neighbors >= n:
            raise cli.UserError(
                f"--neighbors {args.neighbors}: {cli.count(n, 'row')} have {n - 1} neighbours each; ask for no more"
            )
        found = nearest(vectors, args.neighbors)
        more["neighbors"] = lambda group, rows: pa.StructArray.from_arrays(
            [pa.array(list(values[rows])) for values in found], ["ids", "distances"]
        )
    for option, kinds in JOINS.items():
        if file := getattr(args, option):
            columns, at = join(sets, file, kinds)
            for name in kinds:
                more[name] = lambda group, rows, column=columns[name], at=at: column.take(
                    pa.array(at[rows], mask=at[rows] < 0)
                )
    rows = max(1, min(ROW_GROUP, GROUP_BYTES // (4 * dim + (args.thumbnails or 0) ** 2 // 2)))
    meta = {"sets": json.dumps([{**one.meta, "rows": len(one)} for one in sets], ensure_ascii=False)}
    groups = tables(sets, more, data_root=args.data_root, rows=rows)
    with cli.progress(total=n, desc=path.name, unit="row") as bar:
        write(path, _counted(groups, bar), meta)
    if args.thumbnails and pictures.lost:
        shown = "; ".join(name for name, _ in pictures.lost[:5]) + (" …" if len(pictures.lost) > 5 else "")
        cli.warn(
            f"{len(pictures.lost):,} of {cli.count(n, 'picture')} left empty ({cli.tally(why for _, why in pictures.lost)}): {shown}; "
            "where the pictures have moved, give --data_root"
        )
    print(f"{path}: {cli.count(n, 'row')} of {dim:,} dimensions from {cli.count(len(sets), 'embedding set')}")
    if path.suffix.lower() == ".parquet":
        flags = {
            "projection_y": " --x projection_x --y projection_y",
            "neighbors": " --neighbors neighbors",
            "image": " --image image",
        }
        flags = "".join(flag for name, flag in flags.items() if name in more)
        cli.note(f"look at it: python view.py {path}   or: embedding-atlas {path} --vector embedding{flags}")


def _counted(groups: Iterator[pa.Table], bar: Any) -> Iterator[pa.Table]:
    for group in groups:
        yield group
        bar.update(len(group))


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
