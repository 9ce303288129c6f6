"""Shorter vectors by PCA, and what they cost in recall. No function reads a file or prints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common import knn
from common.cli import UserError
from common.embeddings import Blocks, EmbeddingSet


def principal(sets: Sequence[EmbeddingSet], n: int, *, seed: int = 0, rows: int = 50_000) -> np.ndarray:
    """Return (n, dim) float32 orthonormal directions that keep most of the unit vectors' length, from a sample of `rows`.

    Not centred: the product of two projections is then as near to the cosine as n numbers can bring it (Eckart & Young 1936).
    """
    total, dim = sum(map(len, sets)), sets[0].dim
    if not 1 <= n <= min(dim, total):
        raise UserError(f"--pca {n} is not from 1 to {min(dim, total)}, the number of dimensions and of rows")
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(rows, total), replace=False))
    moments = np.zeros((dim, dim))
    start = 0
    for one in sets:
        mine = chosen[(chosen >= start) & (chosen < start + len(one))] - start
        for at in range(0, len(mine), 8192):
            part = unit(one.vectors[mine[at : at + 8192]]).astype(np.float64)
            moments += part.T @ part
        start += len(one)
    directions = np.linalg.eigh(moments)[1][:, ::-1][:, :n].T
    signs = np.sign(directions[np.arange(n), np.abs(directions).argmax(1)])  # or equal data might give mirrored axes
    return np.ascontiguousarray(directions * signs[:, None], np.float32)


def pca_recall(sets: Sequence[EmbeddingSet], directions: np.ndarray, *, k: int = 10, rows: int = 100_000) -> float:
    """Return which share of the true k nearest rows of 200 the projection still finds, in 0..1, among a sample of `rows`."""
    matrix = Blocks([block for one in sets for block in one.blocks])
    reference = matrix[np.sort(np.random.default_rng(0).choice(len(matrix), min(rows, len(matrix)), replace=False))]
    k = min(k, len(reference) - 1)
    if k < 1:
        return 1.0
    own = np.arange(len(reference))
    some = own[:: max(1, len(own) // 200)][:200]
    short = unit(reference) @ directions.T
    both = [knn.search_excluding(of[some], of, k, some, own)[1] for of in (reference, short)]
    return float(np.mean([len(np.intersect1d(true, found)) / k for true, found in zip(*both, strict=True)]))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return (n, dim) float32 rows of length 1."""
    return (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)
