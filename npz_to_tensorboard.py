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
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, messages

if TYPE_CHECKING:
    from common.embeddings import EmbeddingSet

MOST_POINTS = 100_000  # the projector reads no more rows


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    add("--root", nargs="+", default=["embeddings"], metavar="PATH", help="npz files, folders, globs; each `[id=]path`")
    logdir_help = "folder to write; what it has of these files is replaced"
    add("--logdir", type=Path, default=Path("projector"), metavar="DIR", help=logdir_help)
    thumbnails_help = "pixels a side of the pictures, 0 for none; many points get smaller ones"
    add("--thumbnails", type=cli.whole(0, 512), default=64, metavar="PX", help=thumbnails_help)
    most_help = "above N points, write a sample stratified by label"
    add("--max_points", type=cli.whole(2, MOST_POINTS), default=MOST_POINTS, metavar="N", help=most_help)
    add("--data_root", type=Path, metavar="DIR", help="where the pictures are (default: where they were extracted)")
    add("--key", metavar="NAME", help="the array, or the dict inside, of npz files of other tools")
    cli.add_arrays(parser)
    add("--drop_invalid", action="store_true", help="leave zero and non-finite rows out instead of stopping")
    cli.add_seed(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    from common.embedding_sets import read_shards, require_one_model
    from export import projector

    groups = read_shards(args.root, **cli.reading(args))
    sets = [shard for shards in groups for shard in shards]
    remedy = "the projector shows one model at a time: name one model's files with --root"
    require_one_model(sets, what=remedy, error=messages.UsageError)
    written = sampled(sets, args.max_points, args.seed)
    n, n_written = sum(map(len, sets)), sum(map(len, written))
    if n_written < n:
        messages.warn(
            f"{n:,} rows are more than the {args.max_points:,} taken: {n_written:,} of them are written, a sample in which every "
            "label keeps its share"
        )
    projector.write(written, args.logdir, size=args.thumbnails, data_root=args.data_root)
    print(args.logdir)
    points = f"{messages.count(n_written, 'point')} of {sets[0].dim:,} numbers"
    messages.note(f"{points}; look at them: tensorboard --logdir {shlex.quote(str(args.logdir))}")


def sampled(sets: Sequence[EmbeddingSet], most: int, seed: int) -> list[EmbeddingSet]:
    """Return the sets with at most `most` rows in all, a sample stratified by label."""
    import numpy as np

    from common.labels import stratified_sample

    codes = np.unique(np.concatenate([embedding_set.label() for embedding_set in sets]), return_inverse=True)[1]
    rows = stratified_sample(codes, most, seed)
    starts = np.cumsum([0, *map(len, sets)])
    bounds = zip(sets, starts[:-1], starts[1:], strict=True)
    return [embedding_set.take(rows[(rows >= start) & (rows < stop)] - start) for embedding_set, start, stop in bounds]


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
