#!/usr/bin/env python3
"""Write embeddings as a folder for TensorBoard's projector: vectors, labels, thumbnails.

  python npz_to_tensorboard.py --root embeddings/ --logdir projector/
  python npz_to_tensorboard.py --root shelf_0_test.npz shelf_10_test.npz --logdir projector/ --thumbnails 48
  tensorboard --logdir projector/

Paths inside are relative, so that the folder can be moved. tensors.tsv and metadata.tsv also load by hand at
projector.tensorflow.org or any other copy of the projector.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import blocks, cli, messages

if TYPE_CHECKING:
    from common.embeddings import EmbeddingSet

MOST_POINTS = 100_000  # the projector reads no more rows
SPRITE_SIDE = 8192  # pixels; larger textures are refused by browsers
SMALLEST = 8  # pixels a side of a thumbnail
ROWS = 4096  # written at a time
NAMES = ("tensors.tsv", "metadata.tsv", "sprite.jpg", "projector_config.pbtxt")


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    add("--root", nargs="+", default=["embeddings"], metavar="PATH", help="npz files, folders, globs; each `[id=]path`")
    add(
        "--logdir",
        type=Path,
        default=Path("projector"),
        metavar="DIR",
        help="folder to write; what it has of these files is replaced",
    )
    add(
        "--thumbnails",
        type=cli.whole(0, 512),
        default=64,
        metavar="PX",
        help="pixels a side of the pictures, 0 for none; many points get smaller ones",
    )
    add(
        "--max_points",
        type=cli.whole(2, MOST_POINTS),
        default=MOST_POINTS,
        metavar="N",
        help="a sample that keeps every label's share beyond",
    )
    add("--data_root", type=Path, metavar="DIR", help="where the pictures are (default: where they were extracted)")
    add("--key", metavar="NAME", help="the array, or the dict inside, of npz files of other tools")
    add("--drop_invalid", action="store_true", help="leave zero and non-finite rows out instead of stopping")
    cli.add_seed(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from common.embedding_sets import read_shards, require_one_model
    from common.labels import stratified_sample

    sets = [shard for group in read_shards(args.root, key=args.key, drop_invalid=args.drop_invalid) for shard in group]
    remedy = "the projector shows one model at a time: name one model's files with --root"
    require_one_model(sets, what=remedy, error=messages.UsageError)
    n = sum(map(len, sets))
    labels = np.unique(np.concatenate([one.label() for one in sets]), return_inverse=True)[1]
    rows = stratified_sample(labels, args.max_points, args.seed)
    if len(rows) < n:
        messages.warn(
            f"{n:,} rows are more than the {args.max_points:,} taken: {len(rows):,} of them are written, a sample in which every "
            "label keeps its share"
        )
    starts = np.cumsum([0, *map(len, sets)])
    parts = [
        one.take(rows[(rows >= a) & (rows < b)] - a) for one, a, b in zip(sets, starts[:-1], starts[1:], strict=True)
    ]
    write(parts, args.logdir, size=args.thumbnails, data_root=args.data_root)
    print(args.logdir)
    messages.note(
        f"{messages.count(len(rows), 'point')} of {sets[0].dim:,} numbers; look at them: tensorboard --logdir {args.logdir}"
    )


def write(sets: Sequence[EmbeddingSet], logdir: Path, *, size: int, data_root: Path | None = None) -> None:
    """Write the sets' rows, all of one dimension, as the projector's files; the one that names the others comes last."""
    from common import files

    n = sum(map(len, sets))
    with (
        files.whole(logdir / "tensors.tsv") as temporary,
        messages.progress(total=n, desc="tensors.tsv", unit="row") as bar,
    ):
        write_tensors(temporary, sets, bar)
    files.write_text(logdir / "metadata.tsv", metadata(sets))
    paths = [
        str(Path(data_root or one.meta.get("data_root") or "") / path) if path else ""
        for one in sets
        for path in one.paths.tolist()
    ]
    side = min(size, SPRITE_SIDE // math.ceil(math.sqrt(n)))
    lines = ['  tensor_name: "embeddings"', '  tensor_path: "tensors.tsv"', '  metadata_path: "metadata.tsv"']
    (logdir / NAMES[3]).unlink(missing_ok=True)
    if size and side >= SMALLEST:
        picture, lost = sprite(paths, side)
        if lost:
            messages.warn(
                f"{len(lost):,} of {messages.count(n, 'picture')} left empty ({messages.tally(lost)}); "
                "where they have moved, give --data_root"
            )
        files.write_bytes(logdir / "sprite.jpg", picture)
        lines.append(
            f'  sprite {{\n    image_path: "sprite.jpg"\n    single_image_dim: {side}\n    single_image_dim: {side}\n  }}'
        )
        if side < size:
            messages.note(f"thumbnails of {side} px, so that {n:,} fit into {SPRITE_SIDE} x {SPRITE_SIDE} px")
    else:
        (logdir / "sprite.jpg").unlink(missing_ok=True)
    files.write_text(logdir / NAMES[3], "embeddings {\n" + "\n".join(lines) + "\n}\n")


def write_tensors(path: Path, sets: Sequence[EmbeddingSet], bar: object) -> None:
    """Write one row a line, numbers apart by tabs and as short as float32 allows: read back they are the same."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    options = pyarrow.csv.WriteOptions(include_header=False, delimiter="\t")
    names = [str(column) for column in range(sets[0].dim)]
    schema = pa.schema([(name, pa.float32()) for name in names])
    with open(path, "wb") as file, pyarrow.csv.CSVWriter(file, schema, write_options=options) as writer:
        for one in sets:
            for part in blocks.batches(len(one), ROWS):
                columns = np.ascontiguousarray(np.asarray(one.vectors[part]).T)
                writer.write_table(pa.table([pa.array(column) for column in columns], schema=schema))
                bar.update(part.stop - part.start)  # type: ignore[attr-defined]


def metadata(sets: Sequence[EmbeddingSet]) -> str:
    """Return a line of names, then a line a row: label, every class level as its path, split, ID, padding, dataset, ids."""
    levels = max(one.labels.shape[1] for one in sets)
    header = [
        "label",
        *(f"class_{level}" for level in range(levels)),
        "split",
        "id",
        "padding",
        "dataset",
        "crop_id",
        "sample_id",
    ]
    lines = ["\t".join(header)]
    for one in sets:
        own = one.labels.shape[1]
        columns = [
            one.label(),
            *(one.label(min(level, own - 1)) if own else [""] * len(one) for level in range(levels)),
        ]
        fixed = [one.split, one.id, str(one.meta.get("padding") or ""), one.dataset]
        for *row, crop, sample in zip(*columns, one.crop_ids, one.sample_ids, strict=True):
            lines.append("\t".join(_cell(value) for value in (*row, *fixed, crop, sample)))
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    """Return a text without tabs and line breaks; what is missing gets a dash, as the projector shows nothing for it."""
    return re.sub(r"\s+", " ", str(value)).strip() or "-"


def sprite(paths: Sequence[str], side: int) -> tuple[bytes, list[str]]:
    """Return (a JPEG of all pictures, `side` pixels each, row by row in a square, and why some are missing)."""
    import cv2
    import numpy as np

    from common import images

    columns = math.ceil(math.sqrt(len(paths)))
    canvas = np.full((math.ceil(len(paths) / columns) * side, columns * side, 3), 255, np.uint8)
    lost = []
    with messages.progress(total=len(paths), desc="sprite.jpg", unit="picture") as bar:
        for at, jpeg in enumerate(images.jpegs(paths, side, quality=92)):
            bar.update()
            top, left = at // columns * side, at % columns * side
            if isinstance(jpeg, str):
                lost.append(jpeg)
                canvas[top : top + side, left : left + side] = 208
                continue
            picture: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            high, wide = picture.shape[:2]
            top, left = top + (side - high) // 2, left + (side - wide) // 2
            canvas[top : top + high, left : left + wide] = picture
    return cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes(), lost


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
