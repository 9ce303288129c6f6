"""Linear classifiers, a row of weights for each class: LDA with Ledoit-Wolf shrinkage, and multinomial logistic regression."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from common import knn


class Linear:
    """The score of a class is a linear function of the unit row; -inf for a class without references."""

    def __init__(self, weights: np.ndarray, intercepts: np.ndarray, labels: np.ndarray, n_class: int) -> None:
        """`weights` (class, dim) and `intercepts` (class,) belong to the classes `labels` (class,)."""
        self.rows, self.n_class = len(labels), n_class
        self._weights, self._intercepts, self._labels = weights, intercepts, labels

    def scores(self, queries: np.ndarray) -> NDArray[np.float64]:
        """Return the scores (n, n_class) of queries (n, dim); a softmax over them gives probabilities."""
        found = np.full((len(queries), self.n_class), -np.inf)
        found[:, self._labels] = knn.unit(queries) @ self._weights.T + self._intercepts
        return found


def discriminant(vectors: np.ndarray, labels: np.ndarray, n_class: int) -> Linear:
    """Return LDA on unit rows: one covariance within the classes, shrunk by Ledoit & Wolf 2004; priors as the classes occur.

    The shrunk covariance (1 - s) C'C / n + s m I is solved by Woodbury's identity where there are fewer rows than dimensions.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    units = knn.unit(vectors).astype(np.float64)
    present, at, size = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.zeros((len(present), units.shape[1]))
    np.add.at(means, at, units)
    means /= size[:, None]
    centred = units - means[at]
    n, dim = centred.shape
    level = (centred**2).sum() / (n * dim)  # the mean variance
    if level < 1e-12:  # one row a class, or equal rows: nothing is known of the spread within a class
        weights = means
    else:
        # At least a little, so that the matrix can be inverted.
        shrinkage = max(float(ledoit_wolf_shrinkage(centred, assume_centered=True)), 1e-6)
        ridge, scale = shrinkage * level, (1 - shrinkage) / n
        if dim <= n:
            weights = np.linalg.solve(scale * centred.T @ centred + ridge * np.eye(dim), means.T).T
        else:
            inner = ridge * np.eye(n) + scale * centred @ centred.T
            weights = (means - scale * np.linalg.solve(inner, centred @ means.T).T @ centred) / ridge
    intercepts = np.log(size / n) - (weights * means).sum(axis=1) / 2
    return Linear(weights, intercepts, present, n_class)


def logistic(vectors: np.ndarray, labels: np.ndarray, n_class: int, strength: float) -> Linear:
    """Return scikit-learn's multinomial logistic regression on unit rows, with `strength` its C: larger fits closer."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    units, present = knn.unit(vectors), np.unique(labels)
    if len(present) == 1:
        return Linear(np.zeros((1, units.shape[1])), np.zeros(1), present, n_class)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few more steps change no decision that is clear
        fitted = LogisticRegression(C=strength, max_iter=300).fit(units, labels)
    weights, intercepts = fitted.coef_, fitted.intercept_
    if len(present) == 2:  # scikit-learn keeps the second class only
        weights, intercepts = np.concatenate([-weights, weights]) / 2, np.concatenate([-intercepts, intercepts]) / 2
    return Linear(weights, intercepts, present, n_class)
