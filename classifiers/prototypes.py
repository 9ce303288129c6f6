"""The classifier that keeps a few centres for each class: the mean of its unit rows, or k-means sub-centres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from classifiers.neighbours import class_cosines
from common import knn


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
