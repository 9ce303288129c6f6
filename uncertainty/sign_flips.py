"""Flipping the signs of whole photos: if two sides are equally good, each photo's difference could as well have the other sign.

`d` is (n_combination, n_photo), differences of totals. Statistic: sum d / sqrt(sum d^2), a rising function of Student's t that is
the same for all rows; its denominator does not change under flips. Seeded, and independent of how the work is cut into blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty.intervals import BLOCK, ROUNDING, Floats, without_rounding


def rows(difference: ArrayLike) -> Floats:
    """Return a copy as (n_combination, n_photo) without rounding errors and without photos that have no difference."""
    d = without_rounding(np.atleast_2d(np.asarray(difference, dtype=float)))
    return d[:, d.any(axis=0)]


def student(statistic: Floats, n_photo: int) -> Floats:
    """Return Student's t of sum d / sqrt(sum d^2)."""
    return statistic * np.sqrt((n_photo - 1) / np.maximum(n_photo - statistic**2, 1e-9))


def inverse_norms(d: Floats) -> Floats:
    """1 / sqrt(sum of squares) of each row, 0 for a row of zeros."""
    norm = np.sqrt((d**2).sum(axis=1))
    return np.where(norm > ROUNDING, 1 / np.maximum(norm, ROUNDING), 0.0)


def step_down(
    d: Floats, *, two_sided: bool, rivals: Sequence[int] = (), flips: int, seed: int
) -> tuple[Floats, Floats]:
    """Return step-down p (n_combination,) twice: among the rows, and among the rows and all gaps between a row and a rival.

    Where all flips are at most `flips`, they are enumerated and p is exact, else p = (1 + flips that reach) / (1 + flips).
    Two-sided, a study and its mirror image are one, so that half of the flips are enough.
    """
    statistic = d.sum(axis=1) * inverse_norms(d)
    observed = np.abs(statistic) if two_sided else statistic
    if not observed.any():
        return np.ones(len(d)), np.ones(len(d))
    total = 2 ** (d.shape[1] - two_sided)
    exact = total <= flips
    order = np.argsort(observed, kind="stable")  # the least first: running maxima are over the rows that are left
    limits = observed[order] * (1 - np.sign(observed[order]) * 1e-5)  # ties that float32 pulled apart count as reached
    unit = (d * inverse_norms(d)[:, None])[order].astype(np.float32)
    raw = d.astype(np.float32)
    scales = {row: inverse_norms(d - d[row]).astype(np.float32)[:, None] for row in rivals}
    reached = np.zeros((2, len(d)), np.int64)
    for signs in sign_blocks(d.shape[1], total if exact else flips, max(d.shape), exact, seed):
        largest = unit @ signs.T
        if two_sided:
            np.abs(largest, out=largest)
        np.maximum.accumulate(largest, axis=0, out=largest)
        reached[0] += np.count_nonzero(largest >= limits[:, None], axis=1)
        if scales:
            np.maximum(largest, _largest_gap(raw @ signs.T, scales), out=largest)
            reached[1] += np.count_nonzero(largest >= limits[:, None], axis=1)
    share = reached / total if exact else (1 + reached) / (1 + flips)
    share = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]
    p = np.ones((2, len(d)))
    p[:, order] = np.where(limits == 0, 1.0, share)
    return p[0], p[1] if scales else p[0]


def _largest_gap(sums: NDArray, scales: Mapping[int, NDArray]) -> NDArray:
    """Return (n_flip,): the largest statistic of any row against any rival, from sums (n_combination, n_flip)."""
    largest = np.zeros(sums.shape[1], np.float32)
    for row, scale in scales.items():
        gap = sums - sums[row]
        np.abs(gap, out=gap)
        gap *= scale
        np.maximum(largest, gap.max(axis=0), out=largest)
    return largest


def sign_blocks(n_photo: int, total: int, width: int, exact: bool, seed: int) -> Iterator[NDArray[np.float32]]:
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
