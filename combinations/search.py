"""Combinations of embedding sets, and the search for the best: every one, or greedily. No function reads a file or prints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluation.records import Combination

if TYPE_CHECKING:
    from evaluation.evaluator import Evaluator, Tally


def subsets(ids: Sequence[str], low: int, high: int) -> list[tuple[str, ...]]:
    """Return every subset of `low` to `high` IDs, smaller ones first, in the order given."""
    return [chosen for size in range(low, min(high, len(ids)) + 1) for chosen in itertools.combinations(ids, size)]


def enumerate_combinations(
    reference_ids: Sequence[str], query_ids: Sequence[str], low: int, high: int, pairing: str
) -> list[Combination]:
    """Return the combinations of `low` to `high` sets a side: `crossed` all with all, `matched` the same IDs on both sides."""
    if pairing == "matched":
        return [Combination(ids, ids) for ids in subsets([r for r in reference_ids if r in set(query_ids)], low, high)]
    return [Combination(r, q) for r in subsets(reference_ids, low, high) for q in subsets(query_ids, low, high)]


def count_combinations(
    reference_ids: Sequence[str], query_ids: Sequence[str], low: int, high: int, pairing: str
) -> int:
    """Return how many combinations `enumerate_combinations` would list."""

    def count(n: int) -> int:
        return sum(math.comb(n, size) for size in range(low, min(high, n) + 1))

    both = len(set(reference_ids) & set(query_ids))
    return count(both) if pairing == "matched" else count(len(reference_ids)) * count(len(query_ids))


@dataclass(frozen=True)
class Step:
    """One step of the greedy search: what it chose among what it tried."""

    chosen: Combination
    candidates: list[tuple[Combination, Tally]]


def greedy(
    evaluator: Evaluator,
    score: Callable[[Tally], float],
    *,
    pairing: str = "crossed",
    min_gain: float = 0.0,
    max_size: int = 3,
) -> Iterator[Step]:
    """Yield the best single pair, then each step that adds, on either side, the set that gains most, until none gains.

    A step must raise the score by more than `min_gain`; ties go to the combination named first. Under `matched` pairing a step
    adds an ID to both sides. No side grows beyond `max_size` sets.
    """
    refs, queries = list(evaluator.references), list(evaluator.queries)
    step = [one for one in enumerate_combinations(refs, queries, 1, 1, pairing) if evaluator.valid(one)]
    best = -np.inf
    while step:
        tallies = dict(evaluator.tallies(step))
        at = max(range(len(step)), key=lambda i: (score(tallies[i]), -i))
        if best > -np.inf and score(tallies[at]) - best <= min_gain:
            return
        best = score(tallies[at])
        yield Step(step[at], [(one, tallies[i]) for i, one in enumerate(step)])
        step = [one for one in _grown(step[at], refs, queries, pairing, max_size) if evaluator.valid(one)]


def _grown(current: Combination, refs: list[str], queries: list[str], pairing: str, max_size: int) -> list[Combination]:
    def added(ids: tuple[str, ...], known: list[str]) -> list[tuple[str, ...]]:
        if len(ids) >= max_size:
            return []
        return [tuple(one for one in known if one in ids or one == new) for new in known if new not in ids]

    if pairing == "matched":
        return [Combination(ids, ids) for ids in added(current.reference_ids, [r for r in refs if r in queries])]
    return [Combination(ids, current.query_ids) for ids in added(current.reference_ids, refs)] + [
        Combination(current.reference_ids, ids) for ids in added(current.query_ids, queries)
    ]
