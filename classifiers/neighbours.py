"""Classifiers by the nearest: reference, k references with weighted votes, or centre of a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common import knn

BLOCK = 1 << 22  # similarities held at once


class Nearest:
    """The score of a class is the cosine of its nearest reference; -inf for a class without references."""

    def __init__(self, vectors: np.ndarray, labels: np.ndarray, n_class: int) -> None:
        self.rows, self.n_class = len(vectors), n_class
        self._vectors, self._labels = knn.unit(vectors), labels

    def scores(self, queries: np.ndarray) -> NDArray[np.float32]:
        """Return the scores (n, n_class) of queries (n, dim)."""
        return class_cosines(knn.unit(queries), self._vectors, self._labels, self.n_class)


class Neighbours:
    """The score of a class is its share of the k nearest references' votes: each has the weight softmax(cosine / temperature)."""

    def __init__(self, vectors: np.ndarray, labels: np.ndarray, n_class: int, k: int, temperature: float) -> None:
        self.rows, self.n_class = len(vectors), n_class
        self._vectors, self._labels, self._k, self._temperature = vectors, labels, min(k, len(vectors)), temperature

    def scores(self, queries: np.ndarray) -> NDArray[np.float64]:
        """Return the scores (n, n_class) of queries (n, dim); a row adds up to 1."""
        similarities, rows = knn.search(queries, self._vectors, self._k)
        return vote_shares(similarities, self._labels[rows], self.n_class, self._temperature)


class Prototypes:
    """The score of a class is the cosine of its nearest centre; -inf for a class without references."""

    def __init__(self, vectors: np.ndarray, labels: np.ndarray, n_class: int, centres: int = 1) -> None:
        units = knn.unit(vectors)
        parts = [(label, sub_centres(units[labels == label], centres)) for label in np.unique(labels)]
        self._labels = np.repeat([label for label, _ in parts], [len(found) for _, found in parts])
        self._centres = knn.unit(np.concatenate([found for _, found in parts]))
        self.rows, self.n_class = len(self._centres), n_class

    def scores(self, queries: np.ndarray) -> NDArray[np.float32]:
        """Return the scores (n, n_class) of queries (n, dim)."""
        return class_cosines(knn.unit(queries), self._centres, self._labels, self.n_class)


def sub_centres(units: np.ndarray, centres: int) -> np.ndarray:
    """Return at most `centres` centres of one class's unit rows: their mean, or those of k-means (scikit-learn's, seeded)."""
    n_centres = min(centres, len(np.unique(units, axis=0))) if centres > 1 else 1
    if n_centres == 1:
        return units.mean(axis=0, keepdims=True)
    from sklearn.cluster import KMeans

    return KMeans(n_centres, n_init=4, random_state=0).fit(units).cluster_centers_


def vote_shares(similarities: np.ndarray, labels: np.ndarray, n_class: int, temperature: float) -> NDArray[np.float64]:
    """Return each class's share (n, n_class) of the votes of neighbours (n, k), weighted by softmax(similarity / temperature)."""
    weights = np.exp((similarities.astype(np.float64) - similarities[:, :1]) / temperature)
    shares = np.zeros((len(labels), n_class))
    np.add.at(shares, (np.arange(len(labels))[:, None], labels), weights / weights.sum(axis=1, keepdims=True))
    return shares


def class_cosines(
    queries: np.ndarray,
    references: np.ndarray,
    labels: np.ndarray,
    n_class: int,
    query_photo: np.ndarray | None = None,
    reference_photo: np.ndarray | None = None,
) -> NDArray[np.float32]:
    """Return (n, n_class): the cosine of each class's nearest reference, all rows of unit length; -inf where there is none.

    Where photos are given as codes, references of the query's own photo are left out.
    """
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    sorted_references = references[order]
    found = np.full((len(queries), n_class), -np.inf, np.float32)
    step = max(1, BLOCK // max(1, len(references)))
    for start in range(0, len(queries), step):
        here = slice(start, start + step)
        cosines = queries[here] @ sorted_references.T
        if query_photo is not None and reference_photo is not None:
            cosines[query_photo[here, None] == reference_photo[order]] = -np.inf
        found[here, present] = np.maximum.reduceat(cosines, starts, axis=1)
    return found
