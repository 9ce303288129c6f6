"""What a study could have found: the smallest p, the largest gain that is not excluded, the photos that are needed.

`difference` is (n_combination, n_photo), a combination's total of a photo minus the baseline's; `size` is (n_photo,).
"""

from __future__ import annotations

import bisect

import numpy as np
from numpy.typing import ArrayLike

from uncertainty import intervals, sign_flips
from uncertainty.comparisons import FLIPS, corrected_p
from uncertainty.intervals import Floats


def smallest_p(difference: ArrayLike, row: int = 0, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Return the smallest corrected p that `row` could have had: had all its photos that differ agreed on the sign.

    With m photos that differ it cannot go below 2^(1 - m), whatever the differences are: 0.0625 for five.
    """
    d = intervals.without_rounding(np.atleast_2d(np.asarray(difference, dtype=float)))
    d[row] = np.abs(d[row])
    return float(corrected_p(d, flips=flips, seed=seed)[row])


def packed_share(difference: ArrayLike) -> Floats:
    """Return (n_combination,): the share of a row's discordance, sum |d|, that sits in its largest photo; 0 without any.

    A sign flip takes a photo's difference for as likely with either sign. Where one side's errors are packed into few photos
    and the other's are scattered, that is wrong with few photos; see docs/metrics.md for how wrong.
    """
    size = np.abs(intervals.without_rounding(np.atleast_2d(np.asarray(difference, dtype=float))))
    total = size.sum(axis=1)
    return np.where(total > 0, size.max(axis=1, initial=0) / np.where(total > 0, total, 1), 0.0)


def simultaneous_upper_limits(
    difference: ArrayLike, size: ArrayLike, *, level: float = 0.95, flips: int = FLIPS, seed: int = 0
) -> Floats:
    """Return (n_combination,): what no combination gains more than, all at once; the largest is "no combination gains more than".

    The `level` quantile of the largest one-sided statistic over all rows, residuals flipped (Romano & Wolf 2005), is what a single
    row, about normal under flips, must stay below; each row gets the MOVER limit of that level (see `difference_intervals`).
    """
    from scipy.special import ndtr

    totals, sizes = intervals.checked_differences(difference, size)
    residual = totals - totals.sum(axis=1, keepdims=True) / sizes.sum() * sizes
    scale = sign_flips.inverse_norms(residual).astype(np.float32)
    columns = np.ascontiguousarray(residual.T, dtype=np.float32)
    largest = [
        ((signs @ columns) * scale).max(axis=1)
        for signs in sign_flips.sign_blocks(len(sizes), flips, max(residual.shape), False, seed)
    ]
    tail = min(float(ndtr(-np.quantile(np.concatenate(largest), level))), 1 - level)
    return intervals.difference_intervals(totals, sizes, level=1 - 2 * tail)[1]


def photos_needed(
    difference: ArrayLike, size: ArrayLike, *, gain: float = 0.02, power: float = 0.8, level: float = 0.05
) -> Floats:
    """Return (n_combination,): the photos, of sizes as these, with which a one-sided test finds `gain` with `power`.

    Normal approximation, (z_power + z_level)^2 x variance of one photo / gain^2 (Lachin 1981, Controlled Clinical Trials 2). The
    variance is at least that of `gain` of the crops being rescued, each alone. `level` is of one test: for the best of m
    combinations, level / m is a safe choice.
    """
    from scipy.special import ndtri

    totals, sizes = intervals.checked_differences(difference, size)
    ratio = totals.sum(axis=1) / sizes.sum()
    n_photo = int((sizes > 0).sum())
    variance = intervals.ratio_variance(totals - ratio[:, None] * sizes, np.broadcast_to(sizes, totals.shape)) * n_photo
    least = gain * (1 - gain) * n_photo / sizes.sum()
    return np.ceil((ndtri(power) - ndtri(level)) ** 2 * np.maximum(variance, least) / gain**2)


def smallest_gain(difference: ArrayLike, size: ArrayLike, *, power: float = 0.8, level: float = 0.05) -> float:
    """Return the least gain, in 0..1, that these photos find with `power`: where `photos_needed` asks for no more than there are.

    `difference` is of one combination. NaN where even a gain of 1 needs more.
    """
    n_photo = int((np.asarray(size) > 0).sum())
    first = bisect.bisect_left(
        range(1, 1001),
        True,
        key=lambda per_mille: (
            float(photos_needed(difference, size, gain=per_mille / 1000, power=power, level=level)[0]) <= n_photo
        ),
    )
    return (first + 1) / 1000 if first < 1000 else float("nan")
