"""Combinations of embedding sets: those that options name, every one of some sizes, or the best found greedily.

No function reads a file or prints.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.messages import UsageError
from evaluation.records import Combination

if TYPE_CHECKING:
    from evaluation.codes import CodedSets
    from evaluation.evaluator import Evaluator
    from evaluation.records import Tally


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


def asked_combinations(evaluator: Evaluator, low: int, high: int, pairing: str, at_most: int) -> list[Combination]:
    """Return the combinations of an exhaustive search. Raises UsageError when there are none, or too many."""
    references, queries = list(evaluator.coded.references), list(evaluator.coded.queries)
    n = count_combinations(references, queries, low, high, pairing)
    if n > at_most:
        raise UsageError(
            f"--combination_size {low}-{high} of {len(references)} reference and {len(queries)} query sets gives {n:,} "
            f"combinations; choose fewer sets or sizes, --search greedy, or allow it with --max_combinations {n}"
        )
    combinations = enumerate_combinations(references, queries, low, high, pairing)
    valid = [combination for combination in combinations if evaluator.valid(combination)]
    if not valid:
        raise UsageError(
            f"--combination_size {low} needs at least {low} sets on both sides"
            f"{' with the same IDs' if pairing == 'matched' else ''}; "
            f"there are {len(references)} reference and {len(queries)} query sets"
        )
    return valid


def chosen_combinations(
    coded: CodedSets, fusion: str, reference_ids: Sequence[str] | None, query_ids: Sequence[str] | None
) -> list[Combination]:
    """Return the combinations that the IDs on the command line stand for. Raises UsageError for an unknown ID."""
    for ids, known, side in (
        (reference_ids, coded.references, "reference"),
        (query_ids, coded.queries, "query"),
    ):
        for name in ids or []:
            if name not in known:
                raise UsageError(f"--{side}_ids {name}: no such {side} set; there are: {', '.join(known)}")
    queries = tuple(dict.fromkeys(query_ids or coded.queries))
    if fusion != "stack" and reference_ids:
        return [Combination(tuple(dict.fromkeys(reference_ids)), queries)]
    if reference_ids or query_ids:
        references = tuple(dict.fromkeys(reference_ids or coded.references))
        return [Combination(references, (q,)) for q in queries]
    return [Combination((q,), (q,)) for q in queries if q in coded.references]


def named_combination(coded: CodedSets, text: str) -> Combination:
    """Return the combination `R/Q`, IDs of one side joined by `+`. Raises UsageError for what there is not."""
    sides = [tuple(side.split("+")) for side in text.split("/")]
    if len(sides) != 2 or not all(r in coded.references for r in sides[0]):
        raise UsageError(f"--baseline {text}: write R/Q with R among {', '.join(coded.references)}, such as 10/10")
    if not all(q in coded.queries for q in sides[1]):
        raise UsageError(f"--baseline {text}: no such query set; there are {', '.join(coded.queries)}")
    return Combination(*sides)


@dataclass(frozen=True)
class Step:
    """One step of the greedy search: what it chose among what it tried."""

    chosen: Combination
    candidates: dict[Combination, Tally]


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
    references, queries = list(evaluator.coded.references), list(evaluator.coded.queries)
    candidates = enumerate_combinations(references, queries, 1, 1, pairing)
    best = -np.inf
    while candidates := [combination for combination in candidates if evaluator.valid(combination)]:
        tallies = dict(evaluator.tallies(candidates))
        index = max(range(len(candidates)), key=lambda i: (score(tallies[i]), -i))
        if best > -np.inf and score(tallies[index]) - best <= min_gain:
            return
        best = score(tallies[index])
        yield Step(candidates[index], {combination: tallies[i] for i, combination in enumerate(candidates)})
        candidates = _grown(candidates[index], references, queries, pairing, max_size)


def _grown(
    current: Combination, references: list[str], queries: list[str], pairing: str, max_size: int
) -> list[Combination]:
    def added(ids: tuple[str, ...], known: list[str]) -> list[tuple[str, ...]]:
        if len(ids) >= max_size:
            return []
        return [tuple(name for name in known if name in ids or name == new) for new in known if new not in ids]

    if pairing == "matched":
        return [Combination(ids, ids) for ids in added(current.reference_ids, [r for r in references if r in queries])]
    return [Combination(ids, current.query_ids) for ids in added(current.reference_ids, references)] + [
        Combination(current.reference_ids, ids) for ids in added(current.query_ids, queries)
    ]
