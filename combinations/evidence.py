"""What a search over combinations shows and what it could have shown: the numbers behind the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.records import Combination
from uncertainty import comparisons, intervals, power
from uncertainty.winner import CorrectedWinner, Ranks, corrected_winner, rank_intervals

GAIN, POWER = 0.02, 0.8  # what `photos_needed` is about
LEVEL = 0.05  # a corrected p below it counts as more than chance
FLIPS = 1_000  # of the test against each single pair, of which there may be many


@dataclass(frozen=True)
class Answer:
    """Is any of some combinations better than another, the `rival`? Differences in 0..1 are over crops that every query set holds.

    best: the candidate with the highest accuracy; where some are better beyond chance, the most accurate of those. difference:
    its lead over the rival, with its 95 % interval. is_better: the lead is beyond chance, one-sided and with all candidates
    counted, and its interval lies above 0.
    most_gained: no candidate gains more than that, all at once (95 %). NaN and False where the query sets have no crop in common.
    """

    rival: Combination
    best: Combination
    difference: float
    low: float
    high: float
    is_better: bool
    most_gained: float


@dataclass(frozen=True)
class Evidence:
    """Beside the comparison of one combination at a time.

    pairs: is any single pair better than the one of least padding, or the named baseline? combinations: is any combination better
    than the best single pair, whichever that truly is? None where there is no candidate. Of the combination ranked first
    beside the baseline: smallest_p, the smallest corrected p that its photos could give; photos_needed to find a gain of GAIN with
    POWER; packed, the share of its discordance that sits in one photo. winner: the first, without its luck. ranks: of all asked.
    """

    pairs: Answer | None
    combinations: Answer | None
    smallest_p: float
    photos_needed: float
    packed: float
    winner: CorrectedWinner
    ranks: Ranks


def evidence(
    combinations: Sequence[Combination],
    right: np.ndarray,
    size: np.ndarray,
    matched: np.ndarray,
    matched_size: np.ndarray,
    *,
    ranked: Sequence[int],
    baseline: int,
    least: int,
    seed: int = 0,
) -> Evidence:
    """Return the evidence from totals, (n_combination, n_photo): all decisions, and crops that every query set holds.

    `size` is (n_combination, n_photo), `matched_size` (n_photo,). `ranked`: the rows, the best first. `least`: the row that was
    named beforehand, such as the pair of least padding.
    """
    others = [row for row in ranked if row != baseline]
    smallest = needed = packed = float("nan")
    if others and matched_size.any():
        gap = matched - matched[baseline]
        smallest = power.smallest_p(gap, others[0], seed=seed)
        level = LEVEL / len(others)
        needed = float(power.photos_needed(gap[[others[0]]], matched_size, gain=GAIN, power=POWER, level=level)[0])
        packed = float(power.packed_share(gap[others[0]])[0])
    pairs = [row for row in ranked if combinations[row].is_pair]
    merged = [row for row in ranked if not combinations[row].is_pair]
    rivals = [row for row in pairs if row != least]
    pair_p = merged_p = np.empty(0)
    if matched_size.any():
        pair_p = comparisons.one_sided_p(matched[rivals] - matched[least], seed=seed) if rivals else pair_p
        if merged and pairs:
            merged_p = comparisons.beats_best_p(matched, pairs, flips=FLIPS, seed=seed)[merged]
    return Evidence(
        _answer(combinations, matched, matched_size, rivals, least, pair_p),
        _answer(combinations, matched, matched_size, merged, pairs[0], merged_p) if pairs else None,
        smallest,
        needed,
        packed,
        winner=corrected_winner(right[ranked], size[ranked], seed=seed),
        ranks=rank_intervals(right[ranked], size[ranked], seed=seed),
    )


def _answer(
    combinations: Sequence[Combination],
    matched: np.ndarray,
    size: np.ndarray,
    candidates: Sequence[int],
    rival: int,
    p: np.ndarray,
) -> Answer | None:
    """Return the answer for the candidates, the most accurate first, with their one-sided `p`; none without candidates."""
    if not candidates:
        return None
    nothing = float("nan")
    if not size.any():
        return Answer(combinations[rival], combinations[candidates[0]], nothing, nothing, nothing, False, nothing)
    gap = matched[candidates] - matched[rival]
    low, high = intervals.difference_intervals(gap, size)
    better = (p < LEVEL) & (low > 0)
    best = int(better.argmax()) if better.any() else 0
    return Answer(
        combinations[rival],
        combinations[candidates[best]],
        float(gap[best].sum() / size.sum()),
        float(low[best]),
        float(high[best]),
        bool(better.any()),
        float(power.simultaneous_upper_limits(gap, size).max()),
    )
