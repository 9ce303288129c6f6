"""Confidence intervals of an accuracy, and of the difference between two, by source photo.

Crops of one photo are not independent, so everything here works on totals per photo (or whatever unit the caller groups by):
`correct` (n_combination, n_photo), the summed scores of a photo's crops, and `size`, their number. A score lies in [0, 1]: right
or wrong, or the mean over the views of a crop. Bad shapes or values raise ValueError. No disk, no printing.

benchmarks/audit.py prints how often these intervals hold the truth, old, new and plain ones side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FEW_IMAGES = 20  # below it, results are printed as "few photos"
PRIOR_WEIGHT, PRIOR_CORRELATION = (
    1.5,
    0.45,
)  # what the design effect is taken to be before any evidence; see `effective_size`
ROUNDING = 1e-5  # totals below it are rounding (callers may hold float32), not data
BLOCK = 2**21  # numbers held by one block of rows, signs or resamples: bounds the memory


@dataclass(frozen=True)
class AccuracyInterval:
    """An accuracy in [0, 1] with its confidence limits; `few_images` when fewer than FEW_IMAGES source photos."""

    accuracy: float
    low: float
    high: float
    n_images: int
    few_images: bool


def accuracy_interval(correct: ArrayLike, size: ArrayLike, *, level: float = 0.95) -> AccuracyInterval:
    """`accuracy_intervals` of one combination: `correct` and `size` are (n_photo,)."""
    totals, sizes = checked_totals(np.atleast_2d(np.asarray(correct, dtype=float)), size)
    low, high = accuracy_intervals(totals, sizes, level=level)
    n_images = int((sizes > 0).sum())
    accuracy = float(totals.sum() / sizes.sum()) if n_images else float("nan")
    return AccuracyInterval(accuracy, float(low[0]), float(high[0]), n_images, n_images < FEW_IMAGES)


def accuracy_intervals(correct: ArrayLike, size: ArrayLike, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the limits (low, high), each (n_combination,), of Korn-Graubard intervals by source photo.

    `correct` is (n_combination, n_photo); `size` the same or (n_photo,); photos of size 0 do not count.

    Clopper-Pearson on the effective sample size, at most the number of crops (Korn & Graubard 1998, Survey Methodology 24; R
    survey::svyciprop "beta"; the cap: NCHS, Series 2, No. 175). With one crop a photo it is exactly Clopper-Pearson. One photo
    tells nothing about others: [0, 1].
    """
    totals, sizes = checked_totals(correct, size)
    limits = np.empty((2, len(totals)))
    for rows in _row_blocks(totals):
        n_crop = sizes[rows].sum(axis=1)
        accuracy = totals[rows].sum(axis=1) / np.maximum(n_crop, 1)
        effective = np.minimum(effective_size(totals[rows], sizes[rows], level), n_crop)
        limits[:, rows] = clopper_pearson(accuracy, effective, level)
    return limits[0], limits[1]


def difference_intervals(
    difference: ArrayLike, size: ArrayLike, *, level: float = 0.95, alike: bool = True
) -> tuple[Floats, Floats]:
    """Return the limits (low, high), each (n_combination,) in [-1, 1], of differences in accuracy, one at a time.

    `difference` (n_combination, n_photo) holds differences of totals, `size` (n_photo,) the crops they are over.

    The difference is the share gained in photos that improve minus the share lost in photos that get worse. Each share gets its
    Korn-Graubard limits, and MOVER (method of variance estimates recovery: Zou & Donner 2008, Statistics in Medicine 27, with
    the correlation of Zou 2007, Psychological Methods 12) combines the distances to them. Unlike a bootstrap or t interval,
    it does not collapse where hardly a crop changes sides, or where all that change sides sit in a few photos. `alike`: gains
    and losses clump within photos to the same degree, so that they share one design effect.
    """
    totals, sizes = checked_differences(difference, size)
    low, high = np.full((2, len(totals)), [[-1.0], [1.0]])
    if (sizes > 0).sum() < 2:
        return low, high
    for rows in _row_blocks(totals):
        parts = np.stack([np.maximum(totals[rows], 0), np.maximum(-totals[rows], 0)])
        share = parts.sum(axis=2) / sizes.sum()
        effective = effective_size(parts, np.broadcast_to(sizes, parts.shape), level, alike=alike)
        below, above = np.abs(np.stack(clopper_pearson(share, effective, level)) - share)
        residual = parts - share[:, :, None] * sizes
        scale = np.sqrt((residual**2).sum(axis=2).prod(axis=0))
        correlation = residual.prod(axis=0).sum(axis=1) / np.where(scale > 0, scale, 1)
        low[rows] = share[0] - share[1] - _recovered(below[0], above[1], correlation)
        high[rows] = share[0] - share[1] + _recovered(above[0], below[1], correlation)
    return np.maximum(low, -1.0), np.minimum(high, 1.0)


def _recovered(one: Floats, other: Floats, correlation: Floats) -> Floats:
    return np.sqrt(np.maximum(one**2 + other**2 - 2 * correlation * one * other, 0))


def effective_size(correct: Floats, size: Floats, level: float = 0.95, *, alike: bool = False) -> Floats:
    """Return (…, n_combination): the number of independent crops that would tell as much; 0 for a single photo.

    `correct` and `size` are (…, n_combination, n_photo). `alike`: the rows along the first axis share one design effect.

    Crops over the design effect, t-adjusted as by Korn & Graubard. The design effect is the variance of the ratio sum(correct) /
    sum(size) over that of as many independent crops. The variance is CR2 (Bell & McCaffrey 2002, Survey Methodology 28): a
    photo's squared residual is divided by 1 - its share of the crops, without which one photo that holds half of them hides
    the error it makes. At equal sizes that is the usual n / (n - 1).

    The estimate is useless where few photos hold all errors, so it is shrunk towards a prior: the design effect of these
    sizes at a correlation of PRIOR_CORRELATION within a photo (a model for the design effect: Franco et al. 2019, J. Surv. Stat.
    Methodol. 7), with the weight of PRIOR_WEIGHT. The evidence weighs effective size x accuracy x (1 - accuracy), or photos x the
    same if that is more: so the prior fades as photos come in, and sooner where large photos show that their crops are independent.
    The degrees of freedom grow by what the prior adds, as for a moderated variance (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3).

    Where accuracy follows size (`size_trend`), the large photos hold most of the variance, and a study that lacks them shows too
    little of it. The prior then moves from the size of a crop's photo, sum s^2 / sum s, to sum s^3 / sum s^2, and the number of
    photos to Satterthwaite's (1946, Biometrics Bulletin 2) for residuals that grow as sizes do, (sum s^2)^2 / sum s^4, in
    proportion to the trend. At equal sizes both ends are the same.
    """
    from scipy.special import stdtrit

    n_photo, n_crop = (size > 0).sum(axis=-1), size.sum(axis=-1)
    tail = (1 - level) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = correct.sum(axis=-1) / n_crop
        crop_variance = accuracy * (1 - accuracy)
        squares, cubes, fourths = ((size * size * other).sum(axis=-1) for other in (1, size, size * size))
        trend = size_trend(correct, size)
        photos = n_photo ** (1 - trend) * (squares**2 / fourths) ** trend
        crowd = (squares / n_crop) ** (1 - trend) * (cubes / squares) ** trend
        prior = 1 + PRIOR_CORRELATION * (crowd - 1)
        variance = ratio_variance(correct - accuracy[..., None] * size, size)
        observed = np.where(crop_variance > 0, (n_crop - 1) * variance / crop_variance, 0)
        evidence = photos * crop_variance
        for _ in range(3):
            seen, used = evidence * observed, evidence
            if alike:
                seen, used = seen.sum(axis=0), used.sum(axis=0)
            design_effect = (seen + PRIOR_WEIGHT * prior) / (used + PRIOR_WEIGHT)
            independent = n_crop * crop_variance / np.maximum(design_effect, 1)
            evidence = np.maximum(evidence, independent * photos / n_photo)
        freedom = np.minimum((photos - 1) * (1 + PRIOR_WEIGHT / used), n_crop - 1)
        effective = n_crop / design_effect * (stdtrit(n_crop - 1, tail) / stdtrit(freedom, tail)) ** 2
    return np.where((n_photo > 1) & np.isfinite(effective), effective, 0.0)


def size_trend(correct: Floats, size: Floats) -> Floats:
    """Return (…, n_combination) in [0, 1): how far the accuracy of a photo follows its size, beyond chance; 0 at equal sizes.

    I^2 = 1 - 1 / Q, at least 0 (Higgins & Thompson 2002, Statistics in Medicine 21), where Q = (n_photo - 1) r^2, r the
    correlation over photos of accuracy and log size; permutations of the photos give Q a mean of 1.
    """
    there = size > 0
    n_photo = there.sum(axis=-1)

    def centred(values: Floats) -> Floats:
        mean = values.sum(axis=-1, where=there) / np.maximum(n_photo, 1)
        return np.where(there, values - mean[..., None], 0)

    filled = np.where(there, size, 1)
    share, log_size = centred(correct / filled), centred(np.log(filled))
    product = (share**2).sum(axis=-1) * (log_size**2).sum(axis=-1)
    covariance = (share * log_size).sum(axis=-1)
    q = np.where(product > ROUNDING**2, (n_photo - 1) * covariance**2 / np.maximum(product, ROUNDING**2), 0)
    return 1 - 1 / np.maximum(q, 1)


def ratio_variance(residual: Floats, size: Floats) -> Floats:
    """Return the CR2 variance (n_combination,) of sum(total) / sum(size), from residuals total - ratio * size of each photo."""
    n_crop = size.sum(axis=-1, keepdims=True)
    return (residual**2 / np.maximum(1 - size / n_crop, 1e-9)).sum(axis=-1) / n_crop[..., 0] ** 2


def clopper_pearson(share: Floats, n: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the limits (low, high) of shares of `n` draws, which need not be whole numbers. n = 0 gives [0, 1]."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    right, wrong = share * n, (1 - share) * n
    low = np.where(right > 0, betaincinv(np.where(right > 0, right, 1), wrong + 1, tail), 0.0)
    high = np.where(wrong > 0, betaincinv(right + 1, np.where(wrong > 0, wrong, 1), 1 - tail), 1.0)
    return low, high


def checked_totals(correct: ArrayLike, size: ArrayLike) -> tuple[Floats, Floats]:
    """Return totals and sizes, both (n_combination, n_photo) float64. Raises ValueError for impossible ones."""
    totals, sizes = np.asarray(correct, dtype=float), np.asarray(size, dtype=float)
    if totals.ndim != 2 or sizes.shape not in (totals.shape, totals.shape[1:]):
        raise ValueError(f"correct {totals.shape} and size {sizes.shape} do not fit together")
    if not ((totals >= -ROUNDING) & (totals <= sizes + ROUNDING)).all():  # false for NaN too
        raise ValueError("the total of an image lies outside 0 and its number of crops")
    return np.clip(totals, 0, sizes), np.broadcast_to(sizes, totals.shape)


def checked_differences(difference: ArrayLike, size: ArrayLike) -> tuple[Floats, Floats]:
    """Return differences of totals (n_combination, n_photo) and sizes (n_photo,). Raises ValueError for impossible ones."""
    totals, sizes = np.asarray(difference, dtype=float), np.asarray(size, dtype=float)
    if totals.ndim != 2 or sizes.shape != totals.shape[1:] or not sizes.any():
        raise ValueError(f"difference {totals.shape} and size {sizes.shape} do not fit together, or hold no crop")
    if not (np.abs(totals) <= sizes + ROUNDING).all():  # false for NaN too
        raise ValueError("an image's difference is larger than its number of crops")
    return without_rounding(totals), sizes


def without_rounding(difference: Floats) -> Floats:
    return np.where(np.abs(difference) > ROUNDING, difference, 0.0)


def _row_blocks(totals: Floats) -> list[slice]:
    rows = max(1, BLOCK // max(1, totals.shape[1]))
    return [slice(start, start + rows) for start in range(0, len(totals), rows)]
