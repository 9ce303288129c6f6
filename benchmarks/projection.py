#!/usr/bin/env python3
"""UMAP of 50,000 embeddings: our exact neighbours and layout on every core against umap-learn alone.

python benchmarks/projection.py
python benchmarks/projection.py --rows 5000
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder
sys.path.append(str(ROOT / "benchmarks"))

import bench
import numpy as np

from plots import projection

DIM = 768
SAMPLE = 5_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    from sklearn.manifold import trustworthiness
    from umap import UMAP

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((500, DIM), dtype=np.float32)
    vectors = centres[rng.integers(0, 500, args.rows)] + rng.standard_normal((args.rows, DIM), dtype=np.float32)
    maps: dict[str, np.ndarray] = {}

    def ours() -> None:
        maps["ours"] = projection.project(vectors, "umap", 2, seed=0)

    def alone() -> None:
        maps["umap-learn"] = UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(vectors)

    work = f"UMAP of {args.rows:,} x {DIM}"
    rows = bench.compare(work, ours, peers={"umap-learn": alone}, reach={"umap-learn": 2}, repeats=args.repeats)
    sample = rng.permutation(args.rows)[:SAMPLE]
    trust = {
        name: trustworthiness(vectors[sample], points[sample], n_neighbors=15, metric="cosine")
        for name, points in maps.items()
    }
    lost = trust["umap-learn"] - trust["ours"]
    rows.append(bench.figure(f"{work}: trustworthiness lost", lost, 0.01, at_most=True))
    notes = [f"trustworthiness of {len(sample):,} sampled rows: " + ", ".join(f"{k} {v:.4f}" for k, v in trust.items())]
    bench.report("projection", rows, notes)


if __name__ == "__main__":
    main()
