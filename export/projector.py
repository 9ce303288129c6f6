"""Embedding sets as a folder for TensorBoard's projector: tensors.tsv, metadata.tsv, sprite.jpg, projector_config.pbtxt."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import blocks, files, messages
from common.embeddings import EmbeddingSet
from imaging import images

SPRITE_SIDE = 8192  # pixels; larger textures are refused by browsers
SMALLEST = 8  # pixels a side of a thumbnail
ROWS = 4096  # written at a time
TENSORS, METADATA, SPRITE, CONFIG = "tensors.tsv", "metadata.tsv", "sprite.jpg", "projector_config.pbtxt"


def write(sets: Sequence[EmbeddingSet], logdir: Path, *, size: int, data_root: Path | None = None) -> None:
    """Write the sets' rows, all of one dimension, as the projector's files; the one that names the others comes last.

    size: pixels a side of the thumbnails, 0 for none; smaller where many rows must fit into one picture. data_root: where the
    pictures are, in place of what the sets say.
    """
    with files.locked(logdir / files.LOCK):
        _write(sets, logdir, size, data_root)


def _write(sets: Sequence[EmbeddingSet], logdir: Path, size: int, data_root: Path | None) -> None:
    n = sum(map(len, sets))
    # Both are complete before either takes its place, and meanwhile no configuration shows new vectors with old labels.
    with files.whole(logdir / METADATA) as texts, files.whole(logdir / TENSORS) as vectors:
        with messages.progress(total=n, desc=TENSORS, unit="row") as bar:
            write_tensors(vectors, sets, bar)
        texts.write_bytes(metadata(sets).encode("utf-8", "surrogateescape"))
        (logdir / CONFIG).unlink(missing_ok=True)
    lines = ['tensor_name: "embeddings"', f'tensor_path: "{TENSORS}"', f'metadata_path: "{METADATA}"']
    side = min(size, SPRITE_SIDE // math.ceil(math.sqrt(n)))
    if size and side >= SMALLEST:
        _write_sprite(sets, logdir, side, data_root)
        dims = f"single_image_dim: {side}\n    single_image_dim: {side}"
        lines.append(f'sprite {{\n    image_path: "{SPRITE}"\n    {dims}\n  }}')
        if side < size:
            messages.note(f"thumbnails of {side} px, so that {n:,} fit into {SPRITE_SIDE} x {SPRITE_SIDE} px")
    else:
        (logdir / SPRITE).unlink(missing_ok=True)
    files.write_text(logdir / CONFIG, "embeddings {\n" + "".join(f"  {line}\n" for line in lines) + "}\n")


def write_tensors(path: Path, sets: Sequence[EmbeddingSet], bar: Any) -> None:
    """Write one row a line, numbers apart by tabs and as short as float32 allows: read back they are the same."""
    import pyarrow as pa
    import pyarrow.csv

    options = pyarrow.csv.WriteOptions(include_header=False, delimiter="\t")
    names = [str(column) for column in range(sets[0].dim)]
    schema = pa.schema([(name, pa.float32()) for name in names])
    with open(path, "wb") as file, pyarrow.csv.CSVWriter(file, schema, write_options=options) as writer:
        for embedding_set in sets:
            for part in blocks.batches(len(embedding_set), ROWS):
                columns = np.ascontiguousarray(np.asarray(embedding_set.vectors[part]).T)
                writer.write_table(pa.table([pa.array(column) for column in columns], schema=schema))
                bar.update(part.stop - part.start)


def metadata(sets: Sequence[EmbeddingSet]) -> str:
    """Return a line of names, then a line a row: label, every class level as its path, split, ID, padding, dataset, ids."""
    levels = max(embedding_set.labels.shape[1] for embedding_set in sets)
    class_names = [f"class_{level}" for level in range(levels)]
    header = ["label", *class_names, "split", "id", "padding", "dataset", "crop_id", "sample_id"]
    lines = ["\t".join(header)]
    for embedding_set in sets:
        deepest = embedding_set.labels.shape[1] - 1
        shown = [min(level, deepest) if deepest >= 0 else None for level in range(levels)]
        columns = [embedding_set.label(), *(embedding_set.label(level) for level in shown)]
        padding = str(embedding_set.meta.get("padding") or "")
        same = [embedding_set.split, embedding_set.id, padding, embedding_set.dataset]  # in every row
        for *labels, crop, sample in zip(*columns, embedding_set.crop_ids, embedding_set.sample_ids, strict=True):
            lines.append("\t".join(_cell(value) for value in (*labels, *same, crop, sample)))
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    """Return a text without tabs and line breaks; what is missing gets a dash, as the projector shows nothing for it."""
    return re.sub(r"\s+", " ", str(value)).strip() or "-"


def _write_sprite(sets: Sequence[EmbeddingSet], logdir: Path, side: int, data_root: Path | None) -> None:
    """Write the thumbnails of all rows as one picture; say how many are missing."""
    paths = []
    for embedding_set in sets:
        root = str(data_root or embedding_set.meta.get("data_root") or "")
        paths += files.each_below(root, embedding_set.paths.tolist())
    picture, missing = sprite(paths, side)
    if missing:
        messages.warn(
            f"{len(missing):,} of {messages.count(len(paths), 'picture')} left empty ({messages.tally(missing)}); "
            "where they have moved, give --data_root"
        )
    files.write_bytes(logdir / SPRITE, picture)


def sprite(paths: Sequence[str], side: int) -> tuple[bytes, list[str]]:
    """Return (a JPEG of all pictures, `side` pixels each, row by row in a square, and why some are missing)."""
    import cv2

    columns = math.ceil(math.sqrt(len(paths)))
    canvas = np.full((math.ceil(len(paths) / columns) * side, columns * side, 3), 255, np.uint8)
    missing = []
    with messages.progress(total=len(paths), desc=SPRITE, unit="picture") as bar:
        for place, jpeg in enumerate(images.jpegs(paths, side, quality=92)):
            bar.update()
            top, left = place // columns * side, place % columns * side
            if isinstance(jpeg, str):
                missing.append(jpeg)
                canvas[top : top + side, left : left + side] = 208
                continue
            picture: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            height, width = picture.shape[:2]
            top, left = top + (side - height) // 2, left + (side - width) // 2
            canvas[top : top + height, left : left + width] = picture
    return cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes(), missing
