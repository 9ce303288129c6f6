"""Likely label errors: crops that a classifier fitted without them gives another label. No disk, no printing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from soundness import left_out

PENALTIES = 4.0 ** np.arange(-6, 5)  # times the regression's level
TEMPERATURES = 2.0 ** np.arange(-10, 2, 0.5)
TUNED = 4096  # rows on which both are chosen


@dataclass(frozen=True, eq=False)
class Chances:
    """How likely the labels of each crop are to a classifier that has not seen it; arrays (n,).

    own: the chance of its own label, in 0..1; NaN where no other crop bears it, so that it cannot be judged. other: the chance
    of the likeliest other label, `suggested`, which is -1 where there is none.
    """

    own: np.ndarray
    other: np.ndarray
    suggested: np.ndarray

    @property
    def n_unjudged(self) -> int:
        return int(np.isnan(self.own).sum())

    def suspects(self) -> np.ndarray:
        """Return the rows that another label suits better than their own, those with the least chance of their own first."""
        rows = np.flatnonzero(self.other > self.own)
        return rows[np.argsort(self.own[rows], kind="stable")]


def chances(vectors: np.ndarray, label: np.ndarray, crop: np.ndarray, n_class: int) -> Chances:
    """Return the chances of the labels of vectors (n, dim); `label`, `crop`: (n,) int codes.

    They are a softmax of the scores of left_out.Regression, rows of one crop left out together. Ranking by the given label's chance
    is the "self-confidence" of confident learning (Northcutt, Jiang & Chuang 2021, J. Artif. Intell. Res. 70).

    The penalty is the largest whose squared error is within one standard error of the least (Breiman, Friedman, Olshen & Stone
    1984, Classification and Regression Trees, 3.4.3). The temperature has the least squared error (Brier 1950), which no wrong
    label can dominate. Both are of at most TUNED drawn rows, each left out.
    """
    own, other, suggested = np.ones(len(label)), np.zeros(len(label)), np.full(len(label), -1)
    alone = _alone(label, crop, n_class)
    if len(np.unique(crop)) < 2 or len(np.unique(label)) < 2:
        return Chances(np.where(alone, np.nan, own), other, suggested)
    order = left_out.Order.of(crop)
    regression = left_out.fit(vectors, label, n_class, order)
    most = max(1, left_out.BLOCK // max(n_class, len(regression.landmarks)))
    penalty, temperature = _tuned(regression, vectors, label, *next(order.blocks(min(TUNED, most))))
    for rows, sizes in order.blocks(most):
        scores = regression.scores(regression.coordinates(vectors[rows]), sizes, label[rows], penalty)
        found = _softmax(scores, temperature)
        given = np.arange(len(rows)), label[rows]
        own[rows] = found[given]
        found[given] = -1
        other[rows], suggested[rows] = found.max(axis=1), found.argmax(axis=1)
    return Chances(np.where(alone, np.nan, own), other, suggested)


def _tuned(
    regression: left_out.Regression, vectors: np.ndarray, label: np.ndarray, rows: np.ndarray, sizes: np.ndarray
) -> tuple[float, float]:
    """Return the penalty and the temperature that suit the rows; `sizes` are those of their crops."""
    at, label = regression.coordinates(vectors[rows]), label[rows]

    def scores(penalty: float) -> np.ndarray:
        return regression.scores(at, sizes, label, penalty)

    penalties = regression.level * PENALTIES
    errors = np.array([_squared_errors(scores(penalty), label) for penalty in penalties])
    means = errors.mean(axis=1)
    best = means.argmin()
    within = means <= means[best] + errors[best].std() / np.sqrt(len(rows))
    penalty = float(penalties[within].max())
    left = scores(penalty)
    brier = [_squared_errors(_softmax(left, temperature), label).mean() for temperature in TEMPERATURES]
    return penalty, float(TEMPERATURES[np.argmin(brier)])


def _squared_errors(scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the squared distance (n,) of scores (n, n_class) to 1 for the given label and 0 for others."""
    return (scores**2).sum(axis=1, dtype=np.float64) - 2 * scores[np.arange(len(label)), label] + 1


def _softmax(scores: np.ndarray, temperature: float) -> np.ndarray:
    raw = np.exp((scores - scores.max(axis=1, keepdims=True)) / scores.dtype.type(temperature))
    return raw / raw.sum(axis=1, keepdims=True)


def _alone(label: np.ndarray, crop: np.ndarray, n_class: int) -> np.ndarray:
    """Return (n,) bool: whether all crops of a row's label are one."""
    pairs = np.unique(np.stack([label, crop]), axis=1)
    return np.bincount(pairs[0], minlength=n_class)[label] == 1
