"""Every ID with its own references against the least padding: does padding cost accuracy, and by how much?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from combinations.search import same_id_pairs
from common.embeddings import EmbeddingSet
from evaluation.codes import CodedSets
from evaluation.evaluator import Evaluator
from evaluation.records import Combination, Tally
from uncertainty import comparisons, intervals
from uncertainty.datasets import Pooled, pooled_difference

NORMAL = 1.96  # standard errors in half of a 95 % interval


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


def least_padding(coded: CodedSets, pairs: Sequence[Combination]) -> Combination:
    """Return the pair that the others are asked to beat: the same ID on both sides, the lowest number, else the first given."""

    def distance(pair: Combination) -> tuple[bool, float, float]:
        return (
            not pair.matched,
            _padding(coded.queries[pair.query_ids[0]]),
            _padding(coded.references[pair.reference_ids[0]]),
        )

    return min(pairs, key=distance)


def are_paddings(coded: CodedSets) -> bool:
    """Whether the IDs of all query sets are numbers."""
    return all(math.isfinite(_number(q)) for q in coded.queries)


def _padding(embedding_set: EmbeddingSet) -> float:
    """Return the padding of a set: its ID where that is a number, else what its file says."""
    number = _number(embedding_set.id)
    return number if math.isfinite(number) else _number(str(embedding_set.meta.get("padding") or ""))


def padding_rows(evaluator: Evaluator, *, seed: int = 0) -> list[PaddingRow]:
    """Return one row an ID that has references and queries, the least padding first: numbers rising, else in the order given."""
    ids = sorted(same_id_pairs(evaluator), key=_number)
    if not ids:
        return []
    tallied = _tallies(evaluator, ids)
    right, sizes = (np.stack(found) for found in zip(*((t.image_right[1], t.image_size) for t in tallied), strict=True))
    low, high = intervals.accuracy_intervals(right, sizes)
    gaps = np.full((len(ids), 4), np.nan)
    size = evaluator.coded.matched_sizes
    if size.any() and len(ids) > 1:
        matched = np.stack([tally.matched_right for tally in tallied])
        paired = comparisons.paired_comparison(matched[1:] - matched[0], size, baseline=matched[0], seed=seed)
        gaps[1:] = np.stack([paired.difference, paired.low, paired.high, paired.p], axis=1)
    shares = [tally.accuracy for tally in tallied]
    return [
        PaddingRow(one, shares[at], float(low[at]), float(high[at]), *gaps[at].tolist()) for at, one in enumerate(ids)
    ]


def _tallies(evaluator: Evaluator, ids: Sequence[str]) -> list[Tally]:
    found = dict(evaluator.tallies([Combination((one,), (one,)) for one in ids]))
    return [found[at] for at in range(len(ids))]


def _number(text: str) -> float:
    """Return the number that an ID is; IDs that are none come last, in the order given."""
    try:
        value = float(text)
    except ValueError:
        return math.inf
    return value if math.isfinite(value) else math.inf


def paddings_across(evaluators: Mapping[str, Evaluator], *, seed: int = 0) -> dict[str, Pooled]:
    """Return, for each ID that all data sets (models, seeds) share, its difference from the least shared padding, pooled.

    `evaluators`: one a data set, by name. Random effects over data sets; see uncertainty.datasets.pooled_difference. The variance
    of a data set's difference is that of its interval, so that a set in which no crop flips does not pass for certain.
    """
    tables = [{row.id: row for row in padding_rows(one, seed=seed)} for one in evaluators.values()]
    shared = [identity for identity in tables[0] if all(identity in table for table in tables)] if tables else []
    found: dict[str, list[tuple[float, float]]] = {identity: [] for identity in shared[1:]}
    for one in evaluators.values():
        size = one.coded.matched_sizes
        if not size.any() or len(shared) < 2:
            continue
        totals = np.stack([tally.matched_right for tally in _tallies(one, shared)])
        gap = totals[1:] - totals[0]
        low, high = intervals.difference_intervals(gap, size)
        variance = ((high - low) / (2 * NORMAL)) ** 2
        for identity, mean, spread in zip(shared[1:], gap.sum(axis=1) / size.sum(), variance, strict=True):
            found[identity].append((float(mean), float(spread)))
    return {identity: pooled_difference(*zip(*rows, strict=True)) for identity, rows in found.items() if rows}
