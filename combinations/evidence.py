"""What a search over combinations shows and what it could have shown: the numbers behind the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uncertainty import comparisons, power
from uncertainty.winner import CorrectedWinner, Ranks, corrected_winner, rank_intervals

GAIN, POWER = 0.02, 0.8  # what `photos_needed` is about
FLIPS = 1_000  # of the test against each single pair, of which there may be many


@dataclass(frozen=True)
class Evidence:
    """Beside the comparison of one combination at a time. Differences and shares in 0..1, p one-sided where they ask "better?".

    pair_p: does any single pair beat the pair named beforehand? NaN where the baseline was chosen on these queries.
    combination_p: does any combination beat the best single pair, whichever that truly is? NaN without two kinds.
    most_gained: no combination gains more than that over the baseline (95 %, all at once). Of the combination ranked first
    beside the baseline: smallest_p, the smallest corrected p that its photos could give; photos_needed to find a gain of GAIN with
    POWER; packed, the share of its discordance that sits in one photo. winner: the first, without its luck. ranks: of all asked.
    """

    pair_p: float
    combination_p: float
    smallest_p: float
    most_gained: float
    photos_needed: float
    packed: float
    winner: CorrectedWinner
    ranks: Ranks


def evidence(
    right: np.ndarray,
    size: np.ndarray,
    matched: np.ndarray,
    matched_size: np.ndarray,
    *,
    ranked: Sequence[int],
    baseline: int,
    pairs: Sequence[int],
    named: bool,
    seed: int = 0,
) -> Evidence:
    """Return the evidence from totals, (n_combination, n_photo): all decisions, and crops that every query set holds.

    `size` is (n_combination, n_photo), `matched_size` (n_photo,). `ranked`: the rows asked for, the best first. `pairs`: the
    rows that are single pairs. `named`: the baseline was named beforehand, or chosen elsewhere.
    """
    others = [row for row in range(len(matched)) if row != baseline]
    first = next((row for row in ranked if row != baseline), None)
    pair_p = combination_p = smallest = most = needed = packed = float("nan")
    if others and first is not None and matched_size.any():
        gap = matched - matched[baseline]
        smallest = power.smallest_p(gap, first, seed=seed)
        most = float(power.simultaneous_upper_limits(gap[others], matched_size, seed=seed).max())
        level = 0.05 / len(others)
        needed = float(power.photos_needed(gap[[first]], matched_size, gain=GAIN, power=POWER, level=level)[0])
        packed = float(power.packed_share(gap[first])[0])
        rivals = [row for row in pairs if row != baseline]
        if named and rivals:
            pair_p = float(comparisons.one_sided_p(gap[rivals], seed=seed).min())
        if pairs and len(pairs) < len(matched):
            combination_p = float(comparisons.beats_best_p(matched, pairs, flips=FLIPS, seed=seed).min())
    winner = corrected_winner(right[ranked], size[ranked], seed=seed)
    ranks = rank_intervals(right[ranked], size[ranked], seed=seed)
    return Evidence(pair_p, combination_p, smallest, most, needed, packed, winner, ranks)
