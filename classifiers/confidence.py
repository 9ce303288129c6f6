"""How likely a vote of neighbours is right, learnt from validation crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifiers.neighbours import class_cosines
from classifiers.recipes import Rows
from common import knn

LEAST = 10  # right ones, and wrong ones, below which nothing is learnt


@dataclass(frozen=True, eq=False)
class Votes:
    """Votes of k neighbours: shares (n, n_class) that add up to 1, the label (n,) with most, and what speaks for it, (n, 2)."""

    shares: NDArray[np.float64]
    label: NDArray[np.int64]
    evidence: NDArray[np.float64]


def vote(queries: np.ndarray, references: Rows, k: int, n_class: int) -> Votes:
    """Return the votes of the k nearest references, weighted by softmax(cosine / 0.07), ties as in knn.vote.

    Two things speak for a label: its share of the votes, and by how much its nearest reference is nearer than that of any other.
    """
    similarities, rows = knn.search(queries, references.vectors, k)
    labels = references.label[rows]
    query, label, weight = knn.votes(similarities, labels, "similarity")
    shares = np.zeros((len(labels), n_class))
    shares[query, label] = weight
    shares /= shares.sum(axis=1, keepdims=True)
    first = label[np.searchsorted(query, np.arange(len(labels)))]
    cosines = class_cosines(knn.unit(queries), knn.unit(references.vectors), references.label, n_class)
    at = np.arange(len(first)), first
    nearest = cosines[at]
    cosines[at] = -np.inf
    margin = nearest - np.maximum(cosines.max(axis=1), -1.0)
    return Votes(shares, first, np.stack([shares[at], margin], axis=1).astype(np.float64))


def calibrated(votes: Votes, tried: Votes, truth: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return confidences (n, n_class) in 0..1, the largest that of the decision: the chance that it is right.

    Logistic regression of being right on what speaks for the label (Platt 1999, "Probabilistic Outputs for Support Vector
    Machines"), fitted on votes of other photos that were `tried`, of which the `truth` (n_tried,) is known. The other labels share
    the rest as they share the votes, each less than the decision. None where fewer than LEAST of the tried are right, or wrong.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    right = tried.label == truth
    if min(right.sum(), (~right).sum()) < LEAST:
        return None
    scale = StandardScaler().fit(tried.evidence)
    model = LogisticRegression().fit(scale.transform(tried.evidence), right)
    chance = model.predict_proba(scale.transform(votes.evidence))[:, 1]
    at = np.arange(len(chance)), votes.label
    others = votes.shares.copy()
    others[at] = 0
    others *= ((1 - chance) / np.maximum(others.sum(axis=1), 1e-300))[:, None]
    confidences = np.minimum(others, 0.999 * chance[:, None])
    confidences[at] = chance
    return confidences
