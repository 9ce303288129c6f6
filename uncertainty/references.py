"""How an accuracy would vary with new references, beside new queries: half-samples of the reference photos.

An interval "for the given references" is too narrow for a shop that photographs its products anew. No disk, no printing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty.intervals import (
    FEW_IMAGES,
    AccuracyInterval,
    checked_totals,
    clopper_pearson,
    effective_size,
    ratio_variance,
)

HALVINGS = 20


def halves(
    photo: NDArray[np.int64], label: NDArray[np.int64], halvings: int = HALVINGS, seed: int = 0
) -> Iterator[NDArray[np.bool_]]:
    """Yield `halvings` masks (n_reference,) of one half of the reference photos; the other half is its complement.

    `photo`, `label`: int codes of each reference. Photos are shuffled and dealt out in turn within the label that most of their
    references have, so that each half holds every label with two or more photos.
    """
    photos, at = np.unique(photo, return_inverse=True)
    counts = np.zeros((len(photos), int(label.max()) + 1), np.int64)
    np.add.at(counts, (at, label), 1)
    stratum = counts.argmax(axis=1)
    rng = np.random.default_rng(seed)
    for _ in range(halvings):
        order = np.lexsort((rng.random(len(photos)), stratum))
        first = np.r_[True, np.diff(stratum[order]) != 0]
        place = np.arange(len(photos)) - np.maximum.accumulate(np.where(first, np.arange(len(photos)), 0))
        odd = rng.integers(0, 2, counts.shape[1])[stratum[order]]  # which half gets the odd photo
        in_half = np.empty(len(photos), bool)
        in_half[order] = (place + odd) % 2 == 0
        yield in_half[at]


def new_reference_interval(
    correct: ArrayLike, size: ArrayLike, halved: ArrayLike, *, level: float = 0.95
) -> tuple[AccuracyInterval, float]:
    """Return the interval of the accuracy with new references and new queries, and the references' standard deviation.

    `correct`, `size` (n_photo,): totals of the query photos with all references. `halved` (n_halving, 2, n_photo): the totals
    with each half of the reference photos (see `halves`).

    The two halves of a halving are independent samples of half the size, so a quarter of their squared difference estimates the
    variance that all references bring (balanced half-samples: McCarthy 1969, Rev. Int. Stat. Inst. 37). Both are scored on the
    same queries, whose part, the variance of that difference over query photos, is taken off. The effective sample size of the
    Korn-Graubard interval is then divided by 1 + variance over references / variance over queries.
    """
    totals, sizes = checked_totals(np.atleast_2d(np.asarray(correct, dtype=float)), size)
    change = np.asarray(halved, dtype=float)[:, 0] - np.asarray(halved, dtype=float)[:, 1]
    n = sizes.sum()
    gap = change.sum(axis=1) / n
    of_queries = ratio_variance(change - gap[:, None] * sizes, np.broadcast_to(sizes, change.shape))
    of_references = max(0.0, float((gap**2 - of_queries).mean())) / 4
    accuracy = float(totals.sum() / n)
    effective = min(float(effective_size(totals, sizes, level)[0]), float(n))
    spread = max(accuracy * (1 - accuracy), 0.25 / n)
    effective /= 1 + of_references * effective / spread
    low, high = clopper_pearson(np.array([accuracy]), np.array([effective]), level)
    n_images = int((sizes > 0).sum())
    interval = AccuracyInterval(accuracy, float(low[0]), float(high[0]), n_images, n_images < FEW_IMAGES)
    return interval, of_references**0.5
