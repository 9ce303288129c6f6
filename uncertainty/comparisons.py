"""Whether one combination really beats another: p-values by flipping the signs of whole photos (see sign_flips.py).

`difference` is (n_combination, n_photo): a combination's total of a photo minus the baseline's. No disk, no printing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from uncertainty import intervals, sign_flips
from uncertainty.intervals import FEW_IMAGES, ROUNDING, Floats

FLIPS = 10_000
FEW_ERROR_PHOTOS = 5  # effective number of photos below which errors count as packed


@dataclass(frozen=True)
class PairedComparison:
    """Combinations against one baseline; arrays (n_combination,) float64, `difference` = combination minus baseline.

    `low` and `high` bound one difference at a time; `p` is two-sided and corrected over all of them.
    """

    difference: Floats
    low: Floats
    high: Floats
    p: Floats
    n_images: int
    few_images: bool


def paired_comparison(
    difference: ArrayLike,
    size: ArrayLike,
    *,
    baseline: ArrayLike | None = None,
    chosen_from: Sequence[int] = (),
    level: float = 0.95,
    flips: int = FLIPS,
    seed: int = 0,
) -> PairedComparison:
    """Compare combinations with a baseline over the crops that all of them hold.

    `difference` (n_combination, n_photo) is the combination's total minus the baseline's, `size` (n_photo,) the crops of a
    photo. `chosen_from`: the rows among which, with the baseline, the baseline was chosen for its accuracy on these same
    crops (see `corrected_p`); empty for a baseline named beforehand or chosen on validation data.

    Sign flips find too much where the errors of the better side are packed into few photos and the other's are scattered: up to
    32 % at 20 photos. With `baseline`, its totals (n_photo,), such rows are known by their errors: where those of the better side
    sit in fewer than FEW_ERROR_PHOTOS photos, p is at least the 1 - level at which the interval reaches 0, its gains and losses
    taken for unlike.
    """
    totals, sizes = intervals.checked_differences(difference, size)
    low, high = intervals.difference_intervals(totals, sizes, level=level)
    p = corrected_p(totals, chosen_from=chosen_from, flips=flips, seed=seed)
    if baseline is not None:
        few = error_photos(np.asarray(baseline) + np.maximum(totals, 0), sizes) < FEW_ERROR_PHOTOS
        for row in np.flatnonzero(few & (p < 1 - level)):
            p[row] = max(p[row], interval_p(totals[row], sizes, alike=False))
    n_images = int((sizes > 0).sum())
    return PairedComparison(totals.sum(axis=1) / sizes.sum(), low, high, p, n_images, n_images < FEW_IMAGES)


def error_photos(correct: ArrayLike, size: ArrayLike) -> Floats:
    """Return (n_combination,): in how many photos the errors sit, (sum e)^2 / sum e^2 (Kish 1965); 0 without errors."""
    errors = np.asarray(size, dtype=float) - np.asarray(correct, dtype=float)
    squares = (errors**2).sum(axis=-1)
    return np.where(squares > ROUNDING, errors.sum(axis=-1) ** 2 / np.maximum(squares, ROUNDING), 0.0)


def corrected_p(difference: ArrayLike, *, chosen_from: Sequence[int] = (), flips: int = FLIPS, seed: int = 0) -> Floats:
    """Return two-sided p-values (n_combination,) of `difference` (n_combination, n_photo), corrected over all rows.

    Step-down max-t (Westfall & Young 1993, algorithm 2.8; Romano & Wolf 2005, JASA 100): the largest statistic must stand out
    among all rows, the next among those that are left, and so on; no p is below that of a larger statistic. p = (1 + flips that
    reach the observed statistic) / (1 + flips); where 2^(photos - 1) <= flips, all flips are enumerated and p is exact. A row
    without differences has p = 1.

    A baseline that is the best of several on the same crops owes part of its lead to luck, and the others then look
    "worse": 8 to 13 % of null studies at 5 %. With `chosen_from`, the rows it was chosen from, a lower accuracy must stand
    out from the largest statistic against any of these. A higher one need not: the choice of baseline works against it.
    """
    d = sign_flips.rows(difference)
    better, worse = sign_flips.step_down(d, two_sided=True, rivals=chosen_from, flips=flips, seed=seed)
    return np.where(d.sum(axis=1) > 0, better, worse)


def one_sided_p(difference: ArrayLike, *, flips: int = FLIPS, seed: int = 0) -> Floats:
    """Return one-sided p-values (n_combination,) for "better than the baseline", corrected over the rows that could be.

    Hansen 2005, "A Test for Superior Predictive Ability", J. Bus. Econ. Stat. 23, stepping down (Hsu, Hsu & Kuan 2010, J. Empir.
    Finance 17): rows whose Student's t is below -sqrt(2 log log photos) are hopeless and no longer count in the largest
    statistic; their p is 1. The least p answers "does any of them beat the baseline?". The baseline must be named beforehand.
    """
    d = sign_flips.rows(difference)
    n_photo = max(np.asarray(difference).shape[-1], 3)
    statistic = d.sum(axis=1) * sign_flips.inverse_norms(d)
    kept = sign_flips.student(statistic, n_photo) >= -np.sqrt(2 * np.log(np.log(n_photo)))
    kept &= d.any(axis=1)
    p = np.ones(len(d))
    if kept.any():
        p[kept] = sign_flips.step_down(d[kept], two_sided=False, flips=flips, seed=seed)[0]
    return p


def beats_best_p(totals: ArrayLike, rivals: Sequence[int], *, flips: int = FLIPS, seed: int = 0) -> Floats:
    """Return p-values (n_combination,) for "better than the best of the `rivals`", whichever of them is truly the best.

    `totals` (n_combination, n_photo) are scores, not differences; `rivals` are rows of it, such as the single pairs. To beat the
    best of them is to beat each of them: an intersection-union test (Berger 1982, Technometrics 24), whose p is the largest of
    the `one_sided_p` against each rival. So it pays nothing for not knowing which rival is best. A rival's own p is 1.
    """
    totals = np.asarray(totals, dtype=float)
    others = np.setdiff1d(np.arange(len(totals)), rivals)
    p = np.ones(len(totals))
    if others.size and len(rivals):
        against = [one_sided_p(totals[others] - totals[rival], flips=flips, seed=seed) for rival in rivals]
        p[others] = np.max(against, axis=0)
    return p


def sign_flip_p(difference: ArrayLike, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p of one comparison, corrected for no other: `difference` (n_photo,), rescued minus broken crops of each photo."""
    return float(corrected_p(np.asarray(difference, dtype=float)[None], flips=flips, seed=seed)[0])


def mcnemar_p(rescued: int, broken: int) -> float:
    """Exact McNemar p of crops rescued against crops broken: the p if crops were independent, which they are not."""
    from scipy.special import bdtr

    if min(rescued, broken) < 0:
        raise ValueError(f"negative count: {rescued} rescued, {broken} broken")
    return min(1.0, 2 * float(bdtr(min(rescued, broken), rescued + broken, 0.5)))


def interval_p(difference: Floats, size: Floats, *, alike: bool = True) -> float:
    """Return the p of one comparison that agrees with its interval: the least 1 - level at which the interval does not hold 0.

    `difference` and `size` (n_photo,) and `alike` as in `difference_intervals`; 1 without any difference.
    """
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        (lower,), (upper,) = intervals.difference_intervals(difference[None], size, level=1 - middle, alike=alike)
        low, high = (middle, high) if lower <= 0 <= upper else (low, middle)
    return high
