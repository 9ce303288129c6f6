"""Likely label errors: crops whose nearest other crops bear another label. No disk, no printing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common import knn

NEIGHBOURS, TEMPERATURE = 50, 0.2
BLOCK = 1 << 23  # numbers held at a time


@dataclass(frozen=True, eq=False)
class Shares:
    """What the nearest other crops say of each crop; arrays (n,).

    own: the share of its own label in their votes, in 0..1. other: the share of the strongest other label, `suggested`; that is
    -1 where there is none.
    """

    own: np.ndarray
    other: np.ndarray
    suggested: np.ndarray

    def suspects(self) -> np.ndarray:
        """Return the rows that another label suits better than their own, those with the least votes for their own first."""
        rows = np.flatnonzero(self.other > self.own)
        return rows[np.argsort(self.own[rows], kind="stable")]


def neighbours(vectors: np.ndarray, crop: np.ndarray) -> knn.Neighbours:
    """Return the NEIGHBOURS nearest rows of other crops, or as many as there are; `crop`: (n,) int codes."""
    depth = min(NEIGHBOURS, len(vectors) - 1)
    if len(np.unique(crop)) == len(crop):  # half of the products
        return knn.search_self(vectors, depth)
    return knn.search_excluding(vectors, vectors, depth, crop, crop)


def weights(similarities: np.ndarray) -> np.ndarray:
    """Return the votes (n, depth) of neighbours: softmax of cosine / TEMPERATURE, 0 for no neighbour."""
    raw = np.exp(
        (similarities - similarities[:, :1]) / TEMPERATURE,
        where=np.isfinite(similarities),
        out=np.zeros_like(similarities),
    )
    return raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-12)


def shares(similarities: np.ndarray, indices: np.ndarray, label: np.ndarray, n_class: int) -> Shares:
    """Return the shares of each row from its neighbours (n, depth), index -1 none; label (n,) int codes.

    A label that its neighbours do not bear out is a likely error. Ranking by the given label's probability is the "self-confidence"
    of confident learning (Northcutt, Jiang & Chuang 2021, J. Artif. Intell. Res. 70), neighbours' votes in place of a classifier's
    probabilities.
    """
    own, other = np.zeros((2, len(label)))
    suggested = np.full(len(label), -1)
    votes, given = weights(similarities), np.where(indices >= 0, label[indices], 0)
    for start in range(0, len(label), rows := max(1, BLOCK // n_class)):
        part = slice(start, start + rows)
        n = len(label[part])
        place = given[part] + n_class * np.arange(n)[:, None]
        total = np.bincount(place.ravel(), votes[part].ravel(), minlength=n * n_class).reshape(n, n_class)
        at = np.arange(n), label[part]
        own[part] = total[at]
        total[at] = 0
        other[part] = total.max(axis=1)
        suggested[part] = np.where(other[part] > 0, total.argmax(axis=1), -1)
    return Shares(own, other, suggested)
