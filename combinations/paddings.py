"""Every ID with its own references against the least padding: does padding cost accuracy, and by how much?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evaluation.evaluator import Evaluator
from evaluation.records import Combination
from uncertainty import comparisons, intervals


@dataclass(frozen=True)
class PaddingRow:
    """One ID, references and queries alike; shares in 0..1. Accuracy with its 95 % interval, over all its decisions.

    `difference` from the first row, with its 95 % interval, is over the crops that every query set holds; `p` is two-sided and
    corrected over all rows. The first row, and rows without common crops, have NaN.
    """

    id: str
    accuracy: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    p: float


def padding_rows(evaluator: Evaluator, *, seed: int = 0) -> list[PaddingRow]:
    """Return one row an ID that has references and queries, the least padding first: numbers rising, else in the order given."""
    ids = [one for one in evaluator.queries if one in evaluator.references]
    ids = sorted((one for one in ids if evaluator.valid(Combination((one,), (one,)))), key=_number)
    if not ids:
        return []
    tallies = dict(evaluator.tallies([Combination((one,), (one,)) for one in ids]))
    tallied = [tallies[at] for at in range(len(ids))]
    right, sizes = (np.stack(found) for found in zip(*((t.image_right[1], t.image_size) for t in tallied), strict=True))
    low, high = intervals.accuracy_intervals(right, sizes)
    gaps = np.full((len(ids), 4), np.nan)
    size = evaluator.matched_sizes()
    if size.any() and len(ids) > 1:
        matched = np.stack([tally.matched_right for tally in tallied])
        paired = comparisons.paired_comparison(matched[1:] - matched[0], size, seed=seed)
        gaps[1:] = np.stack([paired.difference, paired.low, paired.high, paired.p], axis=1)
    shares = [tally.vote_accuracy for tally in tallied]
    return [
        PaddingRow(one, shares[at], float(low[at]), float(high[at]), *gaps[at].tolist()) for at, one in enumerate(ids)
    ]


def _number(text: str) -> float:
    """Return the number that an ID is; IDs that are none come last, in the order given."""
    try:
        value = float(text)
    except ValueError:
        return math.inf
    return value if math.isfinite(value) else math.inf
