"""One answer from several data sets, models or seeds: random effects over their differences. No disk, no printing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Pooled:
    """A difference over data sets: its mean with 95% limits, what a further data set may show, and how far they differ.

    `spread`: standard deviation of the true differences between data sets. All are shares in [-1, 1], NaN where too few sets.
    """

    mean: float
    low: float
    high: float
    new_low: float
    new_high: float
    spread: float
    n_datasets: int


def pooled_difference(difference: ArrayLike, variance: ArrayLike, *, level: float = 0.95) -> Pooled:
    """Pool one difference per data set, (n_dataset,) each with the variance of its estimate.

    Random effects, the spread by Paule & Mandel (1982, J. Res. NBS 87), limits by Hartung & Knapp (2001, Statistics in Medicine
    20), never narrower than the plain ones; the interval of a new data set by Higgins, Thompson & Spiegelhalter (2009, J. R. Stat.
    Soc. A 172), t of n - 2. One data set says nothing about others; two say nothing about a new one: limits of -1 and 1.
    """
    from scipy.optimize import brentq
    from scipy.special import stdtrit

    y, v = np.asarray(difference, dtype=float), np.maximum(np.asarray(variance, dtype=float), 1e-12)
    n = len(y)

    def fit(between: float) -> tuple[float, float, float]:
        weight = 1 / (v + between)
        mean = float((weight * y).sum() / weight.sum())
        return mean, float((weight * (y - mean) ** 2).sum()), float(weight.sum())

    if n < 2:
        return Pooled(float(y[0]) if n else float("nan"), -1.0, 1.0, -1.0, 1.0, float("nan"), n)
    between = brentq(lambda one: fit(one)[1] - (n - 1), 0, 4.0) if fit(0)[1] > n - 1 else 0.0
    mean, heterogeneity, weight = fit(between)
    error = np.sqrt(max(1.0, heterogeneity / (n - 1)) / weight)
    half_width = float(stdtrit(n - 1, (1 + level) / 2) * error)
    wide = float(stdtrit(n - 2, (1 + level) / 2) * np.sqrt(between + error**2)) if n > 2 else 2.0
    low, high, new_low, new_high = np.clip(
        [mean - half_width, mean + half_width, mean - wide, mean + wide], -1, 1
    ).tolist()
    return Pooled(mean, low, high, new_low, new_high, float(between) ** 0.5, n)
