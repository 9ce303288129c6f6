"""What a search over combinations shows and what it could have shown: the numbers behind the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from classifiers.recipes import Recipe
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
    its lead over the rival, with its 95% interval. is_better: the lead is beyond chance, one-sided and with all candidates
    counted, and its interval lies above 0.
    most_gained: no candidate gains more than that, all at once (95%). NaN and False where the query sets have no crop in common.
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

    classifiers: is any single pair of another classifier better than the best of `nearest`? pairs: is any single pair better than
    the one of least padding, or the named baseline? Asked among pairs of `nearest`, or of the classifier that is better.
    combinations: is any combination better than the best single pair? The best of some is whichever that truly is. None where there
    is no candidate. Of the combination ranked first beside the baseline: smallest_p, the smallest corrected p that its photos could
    give; photos_needed to find a gain of GAIN with POWER, and smallest_gain that these photos find so; packed, the share of its
    discordance that sits in one photo. winner: the first, without its luck. ranks: of all asked.
    """

    classifiers: Answer | None
    pairs: Answer | None
    combinations: Answer | None
    smallest_p: float
    photos_needed: float
    smallest_gain: float
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
    smallest = needed = least_gain = packed = float("nan")
    if others and matched_size.any():
        gap = matched - matched[baseline]
        smallest = power.smallest_p(gap, others[0], seed=seed)
        level = LEVEL / len(others)
        needed = float(power.photos_needed(gap[[others[0]]], matched_size, gain=GAIN, power=POWER, level=level)[0])
        least_gain = power.smallest_gain(gap[[others[0]]], matched_size, power=POWER, level=level)
        packed = float(power.packed_share(gap[others[0]])[0])
    pairs = [row for row in ranked if combinations[row].is_pair]
    plain = [row for row in pairs if combinations[row].is_plain]
    learnt = [row for row in pairs if not combinations[row].is_plain]
    merged = [row for row in ranked if not combinations[row].is_pair]
    classifiers = _beats_best(combinations, matched, matched_size, learnt, plain, seed)
    decides = classifiers.best.classifier if classifiers and classifiers.is_better else combinations[least].classifier
    return Evidence(
        classifiers,
        _best_pair(combinations, matched, matched_size, pairs, least, decides, seed),
        _beats_best(combinations, matched, matched_size, merged, pairs, seed),
        smallest,
        needed,
        least_gain,
        packed,
        winner=corrected_winner(right[ranked], size[ranked], seed=seed),
        ranks=rank_intervals(right[ranked], size[ranked], seed=seed),
    )


def _beats_best(
    combinations: Sequence[Combination],
    matched: np.ndarray,
    size: np.ndarray,
    candidates: Sequence[int],
    rivals: Sequence[int],
    seed: int,
) -> Answer | None:
    """Return whether any candidate beats the best of the rivals, both with the most accurate first; None without either."""
    if not candidates or not rivals:
        return None
    p = comparisons.beats_best_p(matched, rivals, flips=FLIPS, seed=seed)[candidates]
    return _answer(combinations, matched, size, candidates, matched[rivals[0]], combinations[rivals[0]], p)


def _best_pair(
    combinations: Sequence[Combination],
    matched: np.ndarray,
    size: np.ndarray,
    pairs: Sequence[int],
    least: int,
    decides: Recipe,
    seed: int,
) -> Answer | None:
    """Return whether any pair of the classifier that decides beats its own pair of least padding.

    The pairs of all classifiers are tested at once, each against its classifier's own pair, so that p counts this choice too.
    """
    row_of = {combination: row for row, combination in enumerate(combinations)}
    rival_of = {row: row_of.get(replace(combinations[least], classifier=combinations[row].classifier)) for row in pairs}
    rivals = [(row, rival) for row, rival in rival_of.items() if rival is not None and rival != row]
    own = [place for place, (row, _) in enumerate(rivals) if combinations[row].classifier == decides]
    if not own:
        return None
    p = comparisons.one_sided_p(np.stack([matched[row] - matched[rival] for row, rival in rivals]), seed=seed)[own]
    candidates, rival = [rivals[place][0] for place in own], rivals[own[0]][1]
    return _answer(combinations, matched, size, candidates, matched[rival], combinations[rival], p)


def _answer(
    combinations: Sequence[Combination],
    matched: np.ndarray,
    size: np.ndarray,
    candidates: Sequence[int],
    of_rival: np.ndarray,
    rival: Combination,
    p: np.ndarray,
) -> Answer:
    """Return the answer for the candidates, the most accurate first, with their one-sided `p`."""
    nothing = float("nan")
    if not size.any():
        return Answer(rival, combinations[candidates[0]], nothing, nothing, nothing, False, nothing)
    gap = matched[candidates] - of_rival
    low, high = intervals.difference_intervals(gap, size)
    better = (p < LEVEL) & (low > 0)
    best = int(better.argmax()) if better.any() else 0
    return Answer(
        rival,
        combinations[candidates[best]],
        float(gap[best].sum() / size.sum()),
        float(low[best]),
        float(high[best]),
        bool(better.any()),
        float(power.simultaneous_upper_limits(gap, size).max()),
    )
