"""Combinations of embedding sets: those that options name, every one of some sizes, or the best found greedily.

No function reads a file or prints.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from classifiers.recipes import NEAREST, Recipe
from common.messages import UsageError
from evaluation.learning import with_classifiers
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


def asked_combinations(
    reference_ids: Sequence[str],
    query_ids: Sequence[str],
    low: int,
    high: int,
    pairing: str,
    at_most: int,
    recipes: Sequence[Recipe] = (NEAREST,),
) -> list[Combination]:
    """Return every single pair, and the combinations of `low` to `high` sets a side, each once for every recipe.

    Raises UsageError when there are none of that size, or more than `at_most` in all.
    """
    n_combination = len(recipes) * count_combinations(reference_ids, query_ids, low, high, pairing)
    if not n_combination:
        raise UsageError(
            f"--combination_size {low} needs at least {low} sets on both sides"
            f"{' with the same IDs' if pairing == 'matched' else ''}; "
            f"there are {len(reference_ids)} reference and {len(query_ids)} query sets"
        )
    n_pair = len(recipes) * count_combinations(reference_ids, query_ids, 1, 1, pairing) if low > 1 else 0
    if n_pair + n_combination > at_most:
        raise UsageError(
            f"--combination_size {low}-{high} of {len(reference_ids)} reference and {len(query_ids)} query sets gives "
            f"{n_pair + n_combination:,} combinations; choose fewer sets or sizes, --search greedy, or allow it with "
            f"--max_combinations {n_pair + n_combination}"
        )
    pairs = enumerate_combinations(reference_ids, query_ids, 1, 1, pairing) if low > 1 else []
    return with_classifiers(pairs + enumerate_combinations(reference_ids, query_ids, low, high, pairing), recipes)


def same_id_pairs(evaluator: Evaluator, recipe: Recipe = NEAREST) -> dict[str, Combination]:
    """Return by ID the pair of each query set with the references of its own ID, where it can be scored."""
    pairs = {q: Combination((q,), (q,), recipe) for q in evaluator.coded.queries if q in evaluator.coded.references}
    return {q: pair for q, pair in pairs.items() if evaluator.valid(pair)}


def chosen_combinations(
    coded: CodedSets, fusion: str, reference_ids: Sequence[str] | None, query_ids: Sequence[str] | None
) -> list[Combination]:
    """Return the combinations that the IDs on the command line stand for. Raises UsageError for an unknown ID.

    Query sets are scored one by one; those that are named are also fused, into one decision a crop.
    """
    for ids, known, side in (
        (reference_ids, coded.references, "reference"),
        (query_ids, coded.queries, "query"),
    ):
        for name in ids or []:
            if name not in known:
                raise UsageError(f"--{side}_ids {name}: no such {side} set; there are: {', '.join(known)}")
    queries = tuple(dict.fromkeys(query_ids or coded.queries))
    references = tuple(dict.fromkeys(reference_ids or coded.references))
    if not reference_ids and not query_ids:
        return [Combination((q,), (q,)) for q in queries if q in coded.references]
    fused = [Combination(references, queries)] if len(queries) > 1 else []
    if fusion in ("mean", "concat") and reference_ids:
        return fused or [Combination(references, queries)]
    one_by_one = [Combination(references, (q,)) for q in queries]
    return one_by_one + (fused if fusion == "vote" and query_ids else [])


def named_combination(coded: CodedSets, text: str) -> Combination:
    """Return the combination `R/Q`, IDs of one side joined by `+`. Raises UsageError for what there is not."""
    sides = [tuple(side.split("+")) for side in text.split("/")]
    if len(sides) != 2 or not all(r in coded.references for r in sides[0]):
        raise UsageError(f"--baseline {text}: write R/Q with R among {', '.join(coded.references)}, such as 10/10")
    if not all(q in coded.queries for q in sides[1]):
        raise UsageError(f"--baseline {text}: no such query set; there are {', '.join(coded.queries)}")
    return Combination(sides[0], sides[1])


@dataclass(frozen=True)
class Step:
    """One step of the greedy search: what is best among what it tried, and whether that gains enough to go on from."""

    chosen: Combination
    candidates: dict[Combination, Tally]
    gains: bool = True


def greedy(
    evaluator: Evaluator,
    score: Callable[[Tally], float],
    recipes: Sequence[Recipe] = (NEAREST,),
    *,
    pairing: str = "crossed",
    min_gain: float = 0.0,
    max_size: int = 3,
) -> Iterator[Step]:
    """Yield the best single pair, then each step that adds, on either side, the set that gains most; last one that gains nothing.

    A step must raise the score by more than `min_gain`; ties go to the combination named first. Under `matched` pairing a step
    adds an ID to both sides. No side grows beyond `max_size` sets. The classifier of the best single pair, one of `recipes`, stays.
    """
    references, queries = list(evaluator.coded.references), list(evaluator.coded.queries)
    candidates = with_classifiers(enumerate_combinations(references, queries, 1, 1, pairing), recipes)
    best = -np.inf
    while candidates := [combination for combination in candidates if evaluator.valid(combination)]:
        tallies = dict(evaluator.tallies(candidates))
        index = max(range(len(candidates)), key=lambda i: (score(tallies[i]), -i))
        gains = best == -np.inf or score(tallies[index]) - best > min_gain
        best = score(tallies[index])
        yield Step(candidates[index], {combination: tallies[i] for i, combination in enumerate(candidates)}, gains)
        if not gains:
            return
        candidates = _grown(candidates[index], references, queries, pairing, max_size)


def _grown(
    current: Combination, references: list[str], queries: list[str], pairing: str, max_size: int
) -> list[Combination]:
    def added(ids: tuple[str, ...], known: list[str]) -> list[tuple[str, ...]]:
        if len(ids) >= max_size:
            return []
        return [tuple(name for name in known if name in ids or name == new) for new in known if new not in ids]

    if pairing == "matched":
        both = added(current.reference_ids, [r for r in references if r in queries])
        return [replace(current, reference_ids=ids, query_ids=ids) for ids in both]
    return [replace(current, reference_ids=ids) for ids in added(current.reference_ids, references)] + [
        replace(current, query_ids=ids) for ids in added(current.query_ids, queries)
    ]
