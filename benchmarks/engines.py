#!/usr/bin/env python3
"""The model alone in float32: the engine that --engine auto takes, beside torch, ONNX Runtime and OpenVINO.

  python benchmarks/engines.py
  python benchmarks/engines.py --models lite2 --threads 1

Batches of 16 noisy images, in turn, medians of five. torch is channels-last with folded normalisations, as --engine torch computes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder
sys.path.append(str(ROOT / "benchmarks"))

import bench
import numpy as np
import torch

from backbones.weights import ALIASES
from common.messages import UserError
from embedding import embedder
from engines import program

MODELS = ("lite0", "lite2", "resnet50", "vit_small_patch16_224")
BATCH = 16


def rows_of(name: str, threads: int) -> list[dict]:
    """Return the rows of one model on so many threads."""
    torch.set_num_threads(threads)
    weights = None if name in ALIASES else "random"  # speed is that of trained ones
    model = embedder.load(name, weights=weights, precision="fp32", device="cpu")
    size = (BATCH, model.preprocess.height, model.preprocess.width, 3)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, size, np.uint8))
    exported = model.program()

    def in_torch(batch: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(model(batch.numpy()))

    runs: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"torch": in_torch}
    for engine in program.installed()[1:]:
        with contextlib.suppress(UserError):
            runs[engine] = exported.start(engine)
    chosen = exported.fastest(in_torch, pixels)
    work = f"{name}, {threads} threads: {chosen}" if threads > 1 else f"{name}, 1 thread: {chosen}"
    peers = {engine: (lambda run=run: run(pixels)) for engine, run in runs.items()}
    rows = bench.compare(work, peers[chosen], peers=peers, reach={"torch": 1.6, **dict.fromkeys([*runs][1:], 1.0)})
    for row in rows:
        row["images_s"] = {"ours": BATCH / row["ours_s"], "theirs": BATCH / row["theirs_s"]}
    apart = max(program.differs(run(pixels), in_torch(pixels)) for run in runs.values())
    return [*rows, bench.figure(f"{work}, largest relative difference from torch", apart, program.CLOSE, at_most=True)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="SPEC", help="models to run")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="threads of every engine")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        rows = [row for threads in args.threads for name in args.models for row in rows_of(name, threads)]
    bench.report("engines", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
