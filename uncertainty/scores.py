"""How sure the other printed scores are: macro-F1, recall by class, calibration error; and decisions that rounding made.

Labels and photos are int codes, one a decision; -1 is no label. No disk, no printing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty.intervals import Floats

Codes = NDArray[np.int64]
CLOSE = 1e-6  # cosines nearer to each other than that are ordered by float32's rounding


def macro_f1_interval(
    label: Codes, predicted: Codes, photo: Codes, *, level: float = 0.95
) -> tuple[float, float, float]:
    """Return (macro-F1, low, high), the mean F1 over the classes that occur, from decisions (n,).

    Delete-one-photo jackknife with Student's t of photos - 1 (Rust & Rao 1996, Stat. Methods Med. Res. 5), on the logit scale so
    that the limits stay in 0..1 (Brown, Cai & DasGupta 2001 on logit intervals). (0, 1) for fewer than two photos, or at 0 and 1.
    """
    from scipy.special import expit, logit, stdtrit

    n_class = int(max(label.max(initial=-1), predicted.max(initial=-1))) + 1
    photos, at = np.unique(photo, return_inverse=True)
    n = len(photos)
    counts = np.zeros((3, n, n_class))  # right, predicted, actual
    right = (label == predicted) & (label >= 0)
    for row, (kept, code) in enumerate(((right, label), (predicted >= 0, predicted), (label >= 0, label))):
        np.add.at(counts[row], (at[kept], code[kept]), 1)

    def macro_f1(totals: Floats) -> Floats:
        support = totals[1] + totals[2]
        f1 = 2 * totals[0] / np.maximum(support, 1)
        return f1.sum(axis=-1) / np.maximum((support > 0).sum(axis=-1), 1)

    total = counts.sum(axis=1)
    value = float(macro_f1(total))
    if n < 2 or not 0 < value < 1:
        return value, 0.0, 1.0
    without = macro_f1(total[:, None] - counts)
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()) / (value * (1 - value))
    half_width = stdtrit(n - 1, (1 + level) / 2) * error
    return value, float(expit(logit(value) - half_width)), float(expit(logit(value) + half_width))


@dataclass(frozen=True)
class ClassRecalls:
    """Arrays (n_class,): `recall` as counted, `shrunken` towards the overall recall, its 95% limits, and `reliability` in 0..1.

    `reliability`: how much of the shrunken value is the class's own; 0.3 says that 70 % of it is the overall recall.
    """

    recall: Floats
    shrunken: Floats
    low: Floats
    high: Floats
    reliability: Floats


def class_recalls(right: ArrayLike, size: ArrayLike, *, level: float = 0.95) -> ClassRecalls:
    """Return the recall of each class from counts (n_class,), shrunken as far as its few queries make it unsure.

    Beta-binomial empirical Bayes: classes vary by a beta distribution whose two numbers are estimated from all of them by
    moments (Kleinman 1973, JASA 68); shrunken = (right + a) / (size + a + b), reliability = size / (size + a + b), limits are
    the posterior's. Queries count as independent: with crops of few photos the limits are too narrow. Where no query at all is
    wrong, or none right, half of one counts as such. NaN for a class without queries.
    """
    from scipy.special import betaincinv

    right, size = np.asarray(right, dtype=float), np.asarray(size, dtype=float)
    kept = size > 0
    mean = right.sum() / max(size.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = right / size
        between = (size[kept] * (recall[kept] - mean) ** 2).sum()
        spread = size.sum() - (size**2).sum() / size.sum()
        correlation = (between / max(mean * (1 - mean), 1e-12) - (kept.sum() - 1)) / (spread - (kept.sum() - 1))
    correlation = float(np.clip(np.nan_to_num(correlation), 1e-3, 1 - 1e-3))
    strength = 1 / correlation - 1
    a, b = mean * strength, (1 - mean) * strength
    if min(mean, 1 - mean) <= 0:  # classes alike without an exception say nothing of how they vary
        a, b = right.sum() + 0.5, size.sum() - right.sum() + 0.5
    alpha, beta = right + a, size - right + b
    low, high = (betaincinv(alpha, beta, tail) for tail in ((1 - level) / 2, (1 + level) / 2))
    found = (alpha / (alpha + beta), low, high, size / (size + a + b))
    return ClassRecalls(recall, *(np.where(kept, one, np.nan) for one in found))


def calibrated_error(
    confidence: ArrayLike, *, bins: int = 15, draws: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """Return (mean, 95% limit) of the expected calibration error that perfect calibration shows at these confidences (n,).

    The error is a mean of absolute gaps, so chance alone makes it positive. Each decision is drawn right with the probability of
    its confidence (consistency resampling: Bröcker & Smith 2007, Weather and Forecasting 22; the bias: Kumar, Liang & Ma 2019).
    A measured error below the limit is no evidence of bad calibration, and a difference between two that both are is none.
    """
    confidence = np.asarray(confidence, dtype=float)
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    member = np.zeros((len(confidence), bins), np.float32)
    member[np.arange(len(confidence)), places] = 1
    rng = np.random.default_rng(seed)
    rows = max(1, 2**22 // max(1, len(confidence)))
    errors = []
    for start in range(0, draws, rows):
        right = rng.random((min(rows, draws - start), len(confidence)), dtype=np.float32) < confidence
        errors.append(np.abs((right - confidence).astype(np.float32) @ member).sum(axis=1) / max(1, len(confidence)))
    found = np.concatenate(errors)
    return float(found.mean()), float(np.quantile(found, 0.95))


def close_calls(similarities: NDArray, labels: Codes) -> NDArray[np.bool_]:
    """Return (n,): whether a neighbour of another label lies within CLOSE of the nearest, so that rounding may have decided.

    similarities, labels: (n, depth), the nearest first; label -1 is no neighbour.
    """
    other = (labels != labels[:, :1]) & (labels >= 0)
    near = np.subtract(similarities[:, :1], similarities, where=labels >= 0, out=np.full(similarities.shape, np.inf))
    return (other & (near < CLOSE)).any(axis=1)
