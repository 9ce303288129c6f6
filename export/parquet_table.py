"""The table for viewers: one row a vector, written a row group at a time as Parquet, or without vectors as CSV."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import blocks, files, messages, table_files
from common.blocks import release
from common.embeddings import TEXTS
from imaging import images

if TYPE_CHECKING:
    import pyarrow as pa

    from common.embeddings import EmbeddingSet

ROW_GROUP = 25_000  # rows; a reader holds a whole group, and a million embeddings in one cost it gigabytes
GROUP_BYTES = 96 << 20  # vectors and pictures in a group: its memory does not grow with their size either
# Of columns, by how their names start: what one looks at first, what is long last.
ORDER = (
    *("image", "class_", "predicted", "correct", "margin", "flip", "dataset_name", "split", "id", "padding"),
    *("sample_id", "crop_id", "projection_", "model", "source_file", "source_npz", "neighbors", "embedding"),
)


class ThumbnailColumn:
    """Makes the column `image`, and remembers which pictures could not be read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lost: list[tuple[str, str]] = []  # (file, reason)

    def column(self, paths: Sequence[str]) -> pa.Array:
        """Return the JPEG thumbnails of these files with their paths, null where one cannot be read."""
        import pyarrow as pa

        results = list(images.jpegs(paths, self.size))  # JPEG files, or reasons why there is none
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, str):
                self.lost.append((path or "a row without a path", result))
        jpegs = pa.array([result if isinstance(result, bytes) else None for result in results], pa.binary())
        return pa.StructArray.from_arrays([jpegs, _text(list(paths))], ["bytes", "path"], mask=jpegs.is_null())

    def report(self, total: int) -> None:
        if self.lost:
            names = "; ".join(name for name, _ in self.lost[:5]) + (" …" if len(self.lost) > 5 else "")
            reasons = messages.tally(why for _, why in self.lost)
            messages.warn(
                f"{len(self.lost):,} of {messages.count(total, 'picture')} left empty ({reasons}): {names}; "
                "where the pictures have moved, give --data_root"
            )


def tables(
    sets: Sequence[EmbeddingSet],
    more: dict[str, Any],
    *,
    data_root: Path | str | None = None,
    thumbnails: ThumbnailColumn | None = None,
) -> Iterator[pa.Table]:
    """Yield the sets' rows in order, a row group at a time, with the columns of docs/formats.md.

    The sets have one dimension. `more`: further columns of all rows, numpy or pyarrow arrays by name. `data_root` takes the
    place of the sets' own.
    """
    import numpy as np
    import pyarrow as pa

    bytes_per_row = 4 * sets[0].dim + (thumbnails.size**2 // 2 if thumbnails else 0)  # about
    rows = max(1, min(ROW_GROUP, GROUP_BYTES // bytes_per_row))
    levels, start = max(embedding_set.labels.shape[1] for embedding_set in sets), 0
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), sets[0].dim)
    for embedding_set in sets:
        for part in blocks.batches(len(embedding_set), rows):
            columns = _texts_of(embedding_set, part, levels)
            root = str(data_root or embedding_set.meta.get("data_root") or "")
            paths = files.each_below(root, embedding_set.paths[part].tolist())
            columns["source_file"] = _text(paths)
            if thumbnails:
                columns["image"] = thumbnails.column(paths)
            whole = slice(start + part.start, start + part.stop)  # among the rows of all sets
            columns |= {name: values[whole] for name, values in more.items()}
            numbers = pa.array(
                np.array(embedding_set.vectors[part]).reshape(-1)
            )  # a copy: the pages are given back below
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(numbers, type=vector)
            yield pa.table(columns)
            texts = (getattr(embedding_set, name) for name in TEXTS)
            for array in (*embedding_set.blocks, *texts):
                release(array)
        start += len(embedding_set)


def _texts_of(embedding_set: EmbeddingSet, part: slice, levels: int) -> dict[str, pa.Array]:
    """Return the columns of texts of the rows `part`, with this many columns of classes."""
    import pyarrow as pa

    n, meta = part.stop - part.start, embedding_set.meta
    same = {"dataset_name": embedding_set.dataset, "split": embedding_set.split, "id": embedding_set.id}
    same |= {name: str(meta.get(name) or "") for name in ("padding", "model")}
    same["source_npz"] = files.text_of_name(embedding_set.source)
    columns = {name: pa.repeat(pa.scalar(value or None, pa.string()), n) for name, value in same.items()}
    columns["sample_id"] = _text(embedding_set.sample_ids[part])
    columns["crop_id"] = _text(embedding_set.crop_ids[part])
    for level in range(levels):
        known = level < embedding_set.labels.shape[1]
        columns[f"class_{level}"] = _text(embedding_set.labels[part, level]) if known else pa.nulls(n, pa.string())
    return columns


def _text(values: Any) -> pa.Array:
    """Return a text column, null where a text is empty; bytes of a file's name that are no text become question marks."""
    import pyarrow as pa

    texts = [value or None for value in (values if isinstance(values, list) else values.tolist())]
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        return pa.array([text and text.encode("utf-8", "replace").decode() for text in texts], pa.string())


def write(
    path: Path, groups: Iterator[pa.Table], meta: dict[str, str], bar: Any, *, spreadsheet_safe: bool = False
) -> list[str]:
    """Write the row groups to a .parquet file, or their plain columns to a .csv file, whole or not at all.

    `spreadsheet_safe` holds for the .csv, see common.table_files. Returns the names of the columns.
    """
    import pyarrow.csv
    import pyarrow.parquet

    first = next(groups)
    columns = sorted(
        first.column_names, key=lambda name: next(at for at, start in enumerate(ORDER) if name.startswith(start))
    )
    if path.suffix.lower() == ".csv":
        columns = [name for name in columns if first.schema.field(name).type.num_fields == 0]
        make: Callable = pyarrow.csv.CSVWriter
        options: dict[str, Any] = {}
    else:  # of floats, a dictionary and the least and largest are of no use, and their bytes in four streams compress better
        make = pyarrow.parquet.ParquetWriter
        texts = [field.name for field in first.schema if field.type == "string"]
        options = {"compression": "zstd", "compression_level": 1, "use_dictionary": texts, "write_statistics": texts}
        options["use_byte_stream_split"] = ["embedding.list.element"]
        options["write_page_checksum"] = True
    first = first.select(columns).replace_schema_metadata(meta)
    with files.whole(path) as temporary, make(str(temporary), first.schema, **options) as writer:
        for group in itertools.chain([first], groups):
            kept = group.select(columns).replace_schema_metadata(meta)
            writer.write_table(_safe(kept) if spreadsheet_safe and make is pyarrow.csv.CSVWriter else kept)
            bar.update(len(group))
        if make is pyarrow.parquet.ParquetWriter:
            writer.add_key_value_metadata({"checksum": files.SEAL})
            writer.close()
            files.seal(temporary)
    return columns


def _safe(table: pa.Table) -> pa.Table:
    """Return the table with an apostrophe before every text that a spreadsheet would take for a formula."""
    import pyarrow as pa

    for at, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = [text and table_files.safe(text) for text in table[field.name].to_pylist()]
            table = table.set_column(at, field, pa.array(texts, pa.string()))
    return table


def ahead(groups: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield the groups, each made while the one before it is being written."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, groups, None)
        while (group := coming.result()) is not None:
            coming = pool.submit(next, groups, None)
            yield group
