"""Scores that say how likely a query shows one of the reference classes, and the scores had it been none of them.

| kind | score of a query, from the cosine of each class's nearest reference |
|---|---|
| cosine | the largest |
| margin | the largest less the second largest, of another class |
| prototype | instead: the cosine of the nearest class mean of unit rows |
| energy | T log sum exp(cosine / T) over the classes, T = 0.07 (Liu et al. 2020, "Energy-based Out-of-distribution Detection") |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifiers.neighbours import class_cosines
from classifiers.recipes import Rows
from common import knn

SCORES = ("cosine", "margin", "prototype", "energy")


@dataclass(frozen=True, eq=False)
class Closeness:
    """How close queries are to each class, (n, n_class) each: cosines of the nearest reference, and of the class mean."""

    cosines: NDArray[np.float32]
    means: NDArray[np.float32]

    def without_own_class(self, label: np.ndarray) -> Closeness:
        """Return the closeness had the class `label` (n,) of each query no references: leave-classes-out."""
        own = np.zeros(self.cosines.shape, bool)
        own[np.arange(len(label)), label] = True
        return Closeness(np.where(own, -np.inf, self.cosines), np.where(own, -np.inf, self.means))

    def score(self, kind: str) -> NDArray[np.float64]:
        """Return the scores (n,) of one kind of SCORES: the higher, the better known. -inf where there is no class to compare."""
        if kind == "prototype":
            return self.means.max(axis=1).astype(np.float64)
        best = np.sort(self.cosines.astype(np.float64), axis=1)
        if kind == "cosine":
            return best[:, -1]
        if kind == "margin":  # with a single class, its cosine: there is no second
            second = best[:, -2] if best.shape[1] > 1 else np.zeros(len(best))
            with np.errstate(invalid="ignore"):
                return np.where(np.isneginf(second), best[:, -1], best[:, -1] - second)
        if kind == "energy":
            from scipy.special import logsumexp

            return knn.VOTE_TEMPERATURE * logsumexp(best / knn.VOTE_TEMPERATURE, axis=1)
        raise ValueError(f"{kind} is no score; known are {', '.join(SCORES)}")


def closeness(queries: np.ndarray, references: Rows, n_class: int, photo: np.ndarray | None = None) -> Closeness:
    """Return how close queries (n, dim) are to the classes of the references.

    photo (n,): codes of the queries' photos where they are among the references' own; references of the same photo are left out, as
    a new photo has none.
    """
    units, reference_units = knn.unit(queries), knn.unit(references.vectors)
    photos = (None, None) if photo is None else (photo, references.photo)
    cosines = class_cosines(units, reference_units, references.label, n_class, *photos)
    sums = np.zeros((n_class, reference_units.shape[1]), np.float32)
    np.add.at(sums, references.label, reference_units)
    present = np.bincount(references.label, minlength=n_class) > 0
    means = np.where(present, units @ knn.unit(sums).T, -np.inf)
    if photo is not None:
        for code in np.unique(photo):
            here, own = photo == code, references.photo == code
            for label in np.unique(references.label[own]):
                others = (references.label == label) & ~own
                total = sums[label] - reference_units[own & (references.label == label)].sum(axis=0)
                means[here, label] = units[here] @ knn.unit(total[None])[0] if others.any() else -np.inf
    return Closeness(cosines, means.astype(np.float32))
