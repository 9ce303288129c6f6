"""What may be believed of the combination that came out best on the very photos it is scored on.

`correct` (n_combination, n_photo) are totals of scores per photo, `size` the same or (n_photo,), as in intervals.py. Whole
photos are drawn with replacement; nothing is searched anew. No disk, no printing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty.intervals import BLOCK, Floats, accuracy_interval, checked_totals

RESAMPLES = 1_000


@dataclass(frozen=True)
class CorrectedWinner:
    """The winner without its luck: shares in [0, 1].

    `accuracy`: what the choice of a winner yields on photos that it was not made on; `low`, `high`: its 95% interval;
    `returns`: how often the same row wins again on resampled photos.
    """

    row: int
    accuracy: float
    low: float
    high: float
    returns: float


def corrected_winner(
    correct: ArrayLike, size: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> CorrectedWinner:
    """Choose the best row on resampled photos, score it on those left out (about 37 %), and average.

    Bootstrap bias correction, BBC-CV: Tsamardinos, Greasidou & Borboudakis 2018, Machine Learning 107; the interval is the
    percentiles of its scores. Ties go to the first row: order rows as the ranking breaks ties.
    """
    totals, sizes = checked_totals(correct, size)
    row, scores, returned = _best(totals, sizes), [], 0
    for drawn in _draws(totals.shape[1], resamples, len(totals), seed):
        chosen = _accuracies(totals, sizes, drawn).argmax(axis=1)
        left_out = (drawn == 0).astype(np.float64)
        n = np.einsum("ij,ij->i", left_out, sizes[chosen])
        right = np.einsum("ij,ij->i", left_out, totals[chosen])
        scores.append(right[n > 0] / n[n > 0])
        returned += int((chosen == row).sum())
    found = np.concatenate(scores)
    if not found.size:  # a single photo, or none: nothing was ever left out
        return CorrectedWinner(row, float("nan"), 0.0, 1.0, float("nan"))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    if high - low < 1e-12:  # every resample says the same, as where nothing is wrong: that is no certainty
        given = accuracy_interval(totals[row], sizes[row], level=level)
        low, high = given.low, given.high
    return CorrectedWinner(row, float(found.mean()), float(low), float(high), returned / resamples)


@dataclass(frozen=True)
class Ranks:
    """Arrays (n_combination,): 95% limits of the rank, 1 the best, and the share of resamples in which the row is the best."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    best: Floats


def rank_intervals(
    correct: ArrayLike, size: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Ranks:
    """Return how far each row's rank moves when photos are drawn anew (Goldstein & Spiegelhalter 1996, J. R. Stat. Soc. A 159).

    Rows that are equal share the better rank; a first place that is shared counts in equal parts.
    """
    return rank_intervals_across([(correct, size)], level=level, resamples=resamples, seed=seed)


def rank_intervals_across(
    datasets: Sequence[tuple[ArrayLike, ArrayLike]], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Ranks:
    """Return the ranks of rows by their mean accuracy over data sets, photos being drawn anew within each (see `rank_intervals`).

    `datasets`: (correct, size) of each, with the same rows. The data sets are given: nothing is said of a further one.
    """
    accuracies = np.zeros((resamples, len(np.asarray(datasets[0][0]))))
    for number, (correct, size) in enumerate(datasets):
        totals, sizes = checked_totals(correct, size)
        drawn = _draws(totals.shape[1], resamples, len(totals), seed + number)
        accuracies += np.concatenate([_accuracies(totals, sizes, each) for each in drawn]) / len(datasets)
    rank = np.concatenate([_falling_ranks(part.round(9)) for part in np.array_split(accuracies, 8)])
    first = rank == 1
    best = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    low, high = np.quantile(rank, [(1 - level) / 2, (1 + level) / 2], axis=0, method="nearest")
    return Ranks(low.astype(np.int64), high.astype(np.int64), best)


def _falling_ranks(values: Floats) -> NDArray[np.int32]:
    """Return the rank of each value in its row, 1 the largest, equal values the better rank.

    scipy.stats.rankdata(-values, "min", axis=1), without the second that importing scipy.stats takes.
    """
    order = np.argsort(-values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    places = np.broadcast_to(np.arange(values.shape[1], dtype=np.int32), values.shape).copy()
    places[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = 0
    ranks = np.empty_like(places)
    np.put_along_axis(ranks, order, np.maximum.accumulate(places, axis=1) + 1, axis=1)
    return ranks


def _best(totals: Floats, sizes: Floats) -> int:
    return int(_accuracies(totals, sizes, np.ones((1, totals.shape[1]))).argmax())


def _accuracies(totals: Floats, sizes: Floats, weights: NDArray) -> Floats:
    """Return (n_resample, n_combination) accuracies; -1 where no crop was drawn."""
    n = weights @ (sizes[:1].T if (sizes == sizes[0]).all() else sizes.T)
    return np.where(n > 0, (weights @ totals.T) / np.maximum(n, 1e-9), -1.0)


def _draws(n_photo: int, resamples: int, n_combination: int, seed: int) -> Iterator[Floats]:
    """Yield how often each photo is drawn, float64 (n_resample, n_photo), in blocks that bound the memory."""
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // max(1, n_photo, n_combination))
    for start in range(0, resamples, rows):
        n = min(rows, resamples - start)
        yield (
            rng.multinomial(n_photo, np.full(n_photo, 1 / n_photo), size=n).astype(np.float64)
            if n_photo
            else np.zeros((n, 0))
        )
