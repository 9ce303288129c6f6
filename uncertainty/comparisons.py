"""Whether one combination really beats another: p-values by flipping the signs of whole photos, and what they could have found.

`difference` is (n_combination, n_photo): a combination's total of a photo minus the baseline's. If the combination is as good as
the baseline, the difference could as well have come out with the other sign: each photo's sign is a coin toss. Statistic: |sum d|
/ sqrt(sum d^2), a rising function of Student's t that is the same for all rows; its denominator does not change under flips.
Seeded, and independent of how the work is cut into blocks. No disk, no printing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty import intervals
from uncertainty.intervals import BLOCK, FEW_IMAGES, ROUNDING, Floats

FLIPS = 10_000


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
    chosen_from: Sequence[int] = (),
    level: float = 0.95,
    flips: int = FLIPS,
    seed: int = 0,
) -> PairedComparison:
    """Compare combinations with a baseline over the crops that all of them hold.

    `difference` (n_combination, n_photo) is the combination's total minus the baseline's, `size` (n_photo,) the crops of a
    photo. `chosen_from`: the rows among which, with the baseline, the baseline was chosen for its accuracy on these same
    crops (see `corrected_p`); empty for a baseline named beforehand or chosen on validation data.
    """
    totals, sizes = intervals.checked_differences(difference, size)
    low, high = intervals.difference_intervals(totals, sizes, level=level)
    p = corrected_p(totals, chosen_from=chosen_from, flips=flips, seed=seed)
    n_images = int((sizes > 0).sum())
    return PairedComparison(totals.sum(axis=1) / sizes.sum(), low, high, p, n_images, n_images < FEW_IMAGES)


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
    d = _rows(difference)
    scale = _inverse_norms(d)
    observed = np.abs(d.sum(axis=1)) * scale
    rivals = {row: _inverse_norms(d - d[row]).astype(np.float32) for row in chosen_from}
    factor = scale.astype(np.float32)

    def statistics(sums: NDArray) -> NDArray:
        return np.abs(sums) * factor

    def among_rivals(sums: NDArray) -> NDArray:
        largest = np.zeros(len(sums), np.float32)
        for row, rival_scale in rivals.items():
            gap = sums - sums[:, [row]]
            np.abs(gap, out=gap)
            gap *= rival_scale
            np.maximum(largest, gap.max(axis=1), out=largest)
        return largest

    better, worse = _step_down(d, observed, statistics, among_rivals if rivals else None, flips, seed)
    return np.where(d.sum(axis=1) > 0, better, worse)


def one_sided_p(difference: ArrayLike, *, flips: int = FLIPS, seed: int = 0) -> Floats:
    """Return one-sided p-values (n_combination,) for "better than the baseline", corrected over the rows that could be.

    Hansen 2005, "A Test for Superior Predictive Ability", J. Bus. Econ. Stat. 23, stepping down (Hsu, Hsu & Kuan 2010, J. Empir.
    Finance 17): rows whose Student's t is below -sqrt(2 log log photos) are hopeless and no longer count in the largest
    statistic; their p is 1. The least p answers "does any of them beat the baseline?". The baseline must be named beforehand.
    """
    d = _rows(difference)
    scale = _inverse_norms(d)
    observed = d.sum(axis=1) * scale
    n_photo = max(np.asarray(difference).shape[-1], 3)
    t = _student(observed, n_photo)
    kept = np.flatnonzero((t >= -np.sqrt(2 * np.log(np.log(n_photo)))) & (scale > 0))
    p = np.ones(len(d))
    if kept.size:
        factor = scale[kept].astype(np.float32)
        p[kept] = _step_down(d[kept], observed[kept], lambda sums: sums * factor, None, flips, seed, mirrored=False)[0]
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


def smallest_p(difference: ArrayLike, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Return the smallest corrected p that these data could give: had all photos of one row that differ agreed on the sign.

    A row with m photos that differ cannot go below 2^(1 - m), whatever their differences are: 0.0625 for five.
    """
    d = _rows(difference)
    utmost = np.abs(d).sum(axis=1) * _inverse_norms(d)
    best = int(utmost.argmax())
    d[best] = np.abs(d[best])
    return float(corrected_p(d, flips=flips, seed=seed)[best])


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

    The `level` quantile of the largest one-sided statistic over all rows, residuals flipped (Romano & Wolf 2005), is the
    Student's t that a single row would need; each row gets the MOVER limit of that level (see `difference_intervals`).
    """
    from scipy.special import stdtr

    totals, sizes = intervals.checked_differences(difference, size)
    residual = totals - totals.sum(axis=1, keepdims=True) / sizes.sum() * sizes
    scale = _inverse_norms(residual).astype(np.float32)
    columns = np.ascontiguousarray(residual.T, dtype=np.float32)
    n_photo = int((sizes > 0).sum())
    largest = [
        ((signs @ columns) * scale).max(axis=1)
        for signs in _sign_blocks(len(sizes), flips, max(residual.shape), False, seed)
    ]
    critical = _student(np.quantile(np.concatenate(largest), [level]), n_photo)
    tail = min(float(stdtr(max(n_photo - 1, 1), -critical[0])), 1 - level)
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


def _rows(difference: ArrayLike) -> Floats:
    """Return a copy as (n_combination, n_photo) without rounding errors and without photos that have no difference."""
    d = intervals.without_rounding(np.atleast_2d(np.asarray(difference, dtype=float)))
    return d[:, d.any(axis=0)]


def _student(statistic: Floats, n_photo: int) -> Floats:
    """Return Student's t of sum d / sqrt(sum d^2)."""
    return statistic * np.sqrt((n_photo - 1) / np.maximum(n_photo - statistic**2, 1e-9))


def _step_down(
    d: Floats,
    observed: Floats,
    statistics: Callable[[NDArray], NDArray],
    floor: Callable[[NDArray], NDArray] | None,
    flips: int,
    seed: int,
    *,
    mirrored: bool = True,
) -> tuple[Floats, Floats]:
    """Return step-down p (n_combination,) twice: among the rows, and among the rows and `floor`, the rivals.

    `statistics` and `floor` take sums (n_flip, n_combination) of flipped differences. `mirrored`: the statistic does not know a
    study from its mirror image, so that half of the flips are enough.
    """
    if not observed.any():
        return np.ones(len(d)), np.ones(len(d))
    total = 2 ** (d.shape[1] - mirrored)
    exact = total <= flips
    order = np.argsort(observed, kind="stable")  # the least first: running maxima are over the rows that are left
    limits = observed[order] * (1 - np.sign(observed[order]) * 1e-5)  # ties that float32 pulled apart count as reached
    columns = np.ascontiguousarray(d.T, dtype=np.float32)
    reached = np.zeros((2, len(d)), np.int64)
    for signs in _sign_blocks(d.shape[1], total if exact else flips, max(d.shape), exact, seed):
        sums = signs @ columns
        largest = np.maximum.accumulate(statistics(sums)[:, order], axis=1)
        reached[0] += (largest >= limits).sum(axis=0)
        if floor is not None:
            np.maximum(largest, floor(sums)[:, None], out=largest)
        reached[1] += (largest >= limits).sum(axis=0) if floor is not None else 0
    if floor is None:
        reached[1] = reached[0]
    share = reached / total if exact else (1 + reached) / (1 + flips)
    share = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]
    p = np.ones((2, len(d)))
    p[:, order] = np.where(limits == 0, 1.0, share)
    return p[0], p[1]


def _inverse_norms(d: Floats) -> Floats:
    """1 / sqrt(sum of squares) of each row, 0 for a row of zeros."""
    norm = np.sqrt((d**2).sum(axis=1))
    return np.where(norm > ROUNDING, 1 / np.maximum(norm, ROUNDING), 0.0)


def _sign_blocks(n_photo: int, total: int, width: int, exact: bool, seed: int) -> Iterator[NDArray[np.float32]]:
    """Yield `total` rows of +1 and -1, float32 (at most BLOCK // width, n_photo): all of them if `exact`, else drawn."""
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // width)
    for start in range(0, total, rows):
        n = min(rows, total - start)
        if exact:
            bits: NDArray = np.arange(start, start + n)[:, None] >> np.arange(n_photo) & 1
        else:
            words = rng.integers(0, 2**64, size=(n, -(-n_photo // 64)), dtype=np.uint64)
            bits = np.unpackbits(words.view(np.uint8), axis=1, count=n_photo)
        signs = bits.astype(np.float32)
        signs *= -2
        signs += 1
        yield signs
