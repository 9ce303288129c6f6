#!/usr/bin/env python3
"""Likely label errors: precision among the first 50 with 5 % planted swaps, and time, against cleanlab.

cleanlab twice: with chances of a cross-validated logistic regression on the vectors, as in its tutorials, and with neighbours of
its own (Datalab). The regression takes minutes from a few thousand rows on: --without_regression leaves it out.

python benchmarks/label_errors.py
python benchmarks/label_errors.py --rows 20000 --dim 768
python benchmarks/label_errors.py --npz embeddings/*_train.npz
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from common import knn
from common.embedding_sets import read_sets
from common.messages import table
from soundness import label_errors

FIRST, SWAPPED, NEIGHBOURS = 50, 0.05, 50


def clusters(n: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (n, dim) float32 around one centre a class, and their classes."""
    rng, n_class = np.random.default_rng(seed), min(200, n // 50)
    label = rng.integers(0, n_class, n)
    centres = rng.standard_normal((n_class, dim), dtype=np.float32)
    return centres[label] + 2.0 * rng.standard_normal((n, dim), dtype=np.float32), label


def swapped(label: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels with a share SWAPPED of them replaced by another, and which rows these are."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(label), round(SWAPPED * len(label)), replace=False)
    changed, n_class = label.copy(), int(label.max()) + 1
    changed[rows] = (changed[rows] + rng.integers(1, n_class, len(rows))) % n_class
    return changed, rows


def ours(vectors: np.ndarray, label: np.ndarray) -> np.ndarray:
    found = label_errors.chances(vectors, label, np.arange(len(label)), int(label.max()) + 1)
    return found.suspects()[:FIRST]


def by_regression(vectors: np.ndarray, label: np.ndarray) -> np.ndarray:
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    model = LogisticRegression(max_iter=300)
    chances = cross_val_predict(model, knn.unit(vectors), label, cv=5, method="predict_proba")
    return np.argsort(get_label_quality_scores(label, chances), kind="stable")[:FIRST]


def by_neighbours(vectors: np.ndarray, label: np.ndarray) -> np.ndarray:
    from cleanlab import Datalab

    lab = Datalab({"label": label.tolist()}, label_name="label", task="classification", verbosity=0)
    lab.find_issues(features=knn.unit(vectors), issue_types={"label": {"k": NEIGHBOURS}})
    return np.argsort(lab.get_issues("label")["label_score"].to_numpy(), kind="stable")[:FIRST]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--npz", nargs="+", help="embedding sets of one ID in place of drawn rows")
    parser.add_argument("--seeds", type=int, default=1, help="times that other labels are swapped")
    parser.add_argument("--without_regression", action="store_true", help="leave out the slower of cleanlab's two")
    args = parser.parse_args()
    if args.npz:
        sets = read_sets(args.npz)
        vectors = np.concatenate([np.asarray(one.vectors) for one in sets])
        label = np.unique(np.concatenate([one.label() for one in sets]), return_inverse=True)[1]
    else:
        vectors, label = clusters(args.rows, args.dim)
    rows = []
    methods = {"this suite": ours, "cleanlab, neighbours": by_neighbours, "cleanlab, regression": by_regression}
    if args.without_regression:
        del methods["cleanlab, regression"]
    ours(vectors[: 4 * FIRST], np.arange(4 * FIRST) % 2)  # imports
    for name, method in methods.items():
        precision, seconds = [], []
        for seed in range(args.seeds):
            changed, wrong = swapped(label, seed)
            start = time.perf_counter()
            first = method(vectors, changed)
            seconds.append(time.perf_counter() - start)
            precision.append(np.isin(first, wrong).mean())
        rows.append((name, f"{np.mean(precision):.3f}", f"{np.median(seconds):.1f}"))
    print(f"{len(vectors):,} x {vectors.shape[1]}, {SWAPPED:.0%} of the labels swapped")
    print(table(["method", f"precision of the first {FIRST}", "seconds"], rows))


if __name__ == "__main__":
    main()
