"""Fewer numbers for each vector: directions fitted to unit vectors, and how many true neighbours they keep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common import knn
from common.blocks import Blocks, batches
from common.embeddings import EmbeddingSet
from common.messages import UserError


def principal(sets: Sequence[EmbeddingSet], n: int, *, seed: int = 0, rows: int = 50_000) -> np.ndarray:
    """Return (n, dim) float32 orthonormal directions that keep most of the unit vectors' length, from a sample of `rows`.

    Not centred: the product of two projections is then as near to the cosine as n numbers can bring it (Eckart & Young 1936).
    """
    total, dim = sum(map(len, sets)), sets[0].dim
    if not 1 <= n <= min(dim, total):
        raise UserError(f"--pca {n} is not from 1 to {min(dim, total)}, the number of dimensions and of rows")
    matrix = _rows_of(sets)
    sample = np.sort(np.random.default_rng(seed).choice(total, min(rows, total), replace=False))
    moments = np.zeros((dim, dim))
    for batch in batches(len(sample), 8192):
        part = knn.unit(matrix[sample[batch]]).astype(np.float64)
        moments += part.T @ part
    directions = np.linalg.eigh(moments)[1][:, ::-1][:, :n].T
    signs = np.sign(directions[np.arange(n), np.abs(directions).argmax(1)])  # or equal data might give mirrored axes
    return np.ascontiguousarray(directions * signs[:, None], np.float32)


def pca_recall(sets: Sequence[EmbeddingSet], directions: np.ndarray, *, k: int = 10, rows: int = 100_000) -> float:
    """Return which share of the true k nearest rows of 200 the projection still finds, in 0..1, among a sample of `rows`."""
    matrix = _rows_of(sets)
    reference = matrix[np.sort(np.random.default_rng(0).choice(len(matrix), min(rows, len(matrix)), replace=False))]
    k = min(k, len(reference) - 1)
    if k < 1:
        return 1.0
    numbers = np.arange(len(reference))
    queries = numbers[:: max(1, len(numbers) // 200)][:200]
    exact, short = (
        knn.search_excluding(vectors[queries], vectors, k, queries, numbers)[1]
        for vectors in (reference, knn.unit(reference) @ directions.T)
    )
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(exact, short, strict=True)]))


def _rows_of(sets: Sequence[EmbeddingSet]) -> Blocks:
    return Blocks([block for embedding_set in sets for block in embedding_set.blocks])


def prepared(vectors: np.ndarray, metric: str, directions: np.ndarray | None) -> np.ndarray:
    """Return the vectors as an index holds them: unit length for COSINE and where a PCA was fitted, then projected."""
    if metric == "COSINE" or directions is not None:
        vectors = knn.unit(vectors)
    if directions is None:
        return np.asarray(vectors, np.float32)
    vectors = vectors @ directions.T
    return knn.unit(vectors) if metric == "COSINE" else vectors
