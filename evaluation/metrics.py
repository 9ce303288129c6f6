"""What the printed numbers mean: accuracy, F1, recall@k, MAP@R, similarity within and between classes.

Definitions in words are in docs/metrics.md. Labels are int codes here; -1 is no label. No function reads a file or prints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class ClassScores:
    """Per class, arrays (n_class,): `support` queries, `predicted` as it, `precision`, `recall`, `f1` in 0..1 (0 for 0/0)."""

    support: np.ndarray
    predicted: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that occur among the queries or the predictions, as scikit-learn's macro average."""
        occurring = (self.support > 0) | (self.predicted > 0)
        return float(self.f1[occurring].mean()) if occurring.any() else float("nan")


def class_scores(right: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> ClassScores:
    """Return precision, recall and F1 from counts per class, each (n_class,): right predictions, predictions, queries."""
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(right / predicted)
        recall = np.nan_to_num(right / actual)
        f1 = np.nan_to_num(2 * right / (predicted + actual))
    return ClassScores(actual, predicted, precision, recall, f1)


def confusion(actual: np.ndarray, predicted: np.ndarray, n_class: int) -> np.ndarray:
    """Return the (n_class, n_class + 1) int64 counts, row actual, column predicted; the last column is no prediction."""
    column = np.where(predicted < 0, n_class, predicted)
    return np.bincount(actual * (n_class + 1) + column, minlength=n_class * (n_class + 1)).reshape(n_class, n_class + 1)


def average_precision_at_r(relevant: np.ndarray, n_relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return per query (MAP@R, R-precision), each (n_query,) in 0..1.

    relevant: (n_query, depth) bool in ranked order, depth at least the largest R; n_relevant: (n_query,) R, the references of
    the query's class. Musgrave, Belongie, Lim 2020, "A Metric Learning Reality Check", section 4.2:
    MAP@R = 1/R * sum over i <= R of precision at i where the i-th is relevant. A query with R = 0 scores 0.
    """
    depth = relevant.shape[1]
    ranks = np.arange(1, depth + 1)
    counted = relevant & (ranks <= n_relevant[:, None])
    precision = np.cumsum(counted, axis=1) / ranks
    r = np.maximum(n_relevant, 1)
    return (precision * counted).sum(axis=1) / r, counted.sum(axis=1) / r


@dataclass(frozen=True)
class Similarity:
    """Mean cosine between classes: `matrix` (n_class, n_class), its diagonal within the class without self pairs (NaN for one row).

    `within`, `between`: means over all pairs of different rows of the same and of different classes; `silhouette` in -1..1, NaN
    with fewer than two classes.
    """

    matrix: np.ndarray
    within: float
    between: float
    silhouette: float


def similarity(unit_vectors: np.ndarray, labels: np.ndarray, n_class: int) -> Similarity:
    """Return the class similarities of (n, dim) unit rows with (n,) int codes, exactly and in linear time.

    The mean cosine between two sets of unit rows is the product of their sums over the number of pairs; likewise the mean cosine
    distance of a row to a class, from which Rousseeuw's silhouette (1987) follows.
    """
    sums = np.zeros((n_class, unit_vectors.shape[1]))
    np.add.at(sums, labels, unit_vectors)
    sizes = np.bincount(labels, minlength=n_class).astype(float)
    totals = sums @ sums.T
    own = np.diag(totals) - sizes  # without each row's product with itself, which is 1
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = totals / np.outer(sizes, sizes)
        np.fill_diagonal(matrix, np.where(sizes > 1, own / (sizes * (sizes - 1)), np.nan))
        within_pairs = (sizes * (sizes - 1)).sum()
        between_pairs = sizes.sum() ** 2 - (sizes**2).sum()
        within = own.sum() / within_pairs if within_pairs else np.nan
        between = (totals.sum() - np.diag(totals).sum()) / between_pairs if between_pairs else np.nan
    return Similarity(matrix, float(within), float(between), _silhouette(unit_vectors, labels, sums, sizes))


def _silhouette(unit_vectors: np.ndarray, labels: np.ndarray, sums: np.ndarray, sizes: np.ndarray) -> float:
    if (sizes > 0).sum() < 2:
        return float("nan")
    total = 0.0
    for at in range(0, len(labels), 4096):
        rows, own = unit_vectors[at : at + 4096], labels[at : at + 4096]
        products = rows @ sums.T
        with np.errstate(invalid="ignore", divide="ignore"):
            distance = np.where(sizes > 0, 1 - products / sizes, np.inf)
            index = np.arange(len(own))
            inside = 1 - (products[index, own] - 1) / (sizes[own] - 1)
            distance[index, own] = np.inf
            outside = distance.min(axis=1)
            score = (outside - inside) / np.maximum(inside, outside)
        total += np.nan_to_num(
            np.where(sizes[own] > 1, score, 0.0)
        ).sum()  # a class of one row scores 0, as in scikit-learn
    return float(total / len(labels))
