"""One answer from several data sets, models or seeds: every combination against the pair of least padding, over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from combinations.paddings import least_padding, pooled_gaps
from combinations.search import enumerate_combinations
from common.messages import UserError
from evaluation.evaluator import Evaluator
from evaluation.records import Combination
from uncertainty.datasets import Pooled
from uncertainty.winner import rank_intervals_across


@dataclass(frozen=True)
class AcrossRow:
    """A combination over all data sets, each with the same weight; shares in 0..1.

    accuracy: the mean over data sets. difference: from the pair of least padding, pooled over data sets; None for that pair itself.
    Its rank lies between rank_low and rank_high in 95% of the draws of photos; `best`: how often it is first.
    """

    combination: Combination
    accuracy: float
    difference: Pooled | None
    rank_low: int
    rank_high: int
    best: float


def shared_ids(evaluators: Mapping[str, Evaluator]) -> tuple[list[str], list[str]]:
    """Return the IDs of reference and of query sets that all data sets have. Raises UserError where there are none."""
    coded = [one.coded for one in evaluators.values()]
    references, queries = (
        [one for one in first if all(one in side for side in others)]
        for first, *others in ([one.references for one in coded], [one.queries for one in coded])
    )
    if not references or not queries:
        raise UserError(f"the data sets {', '.join(evaluators)} share no ID; name the sets alike: id=path")
    return references, queries


def across(
    evaluators: Mapping[str, Evaluator], size: tuple[int, int], pairing: str, *, seed: int = 0
) -> list[AcrossRow]:
    """Return every single pair, and every combination of `size` sets a side, of the IDs that all data sets share, the best first.

    Equal means keep the order of the combinations.
    """
    references, queries = shared_ids(evaluators)
    pairs = enumerate_combinations(references, queries, 1, 1, pairing)
    asked = dict.fromkeys([*pairs, *enumerate_combinations(references, queries, *size, pairing)])
    valid = [combination for combination in asked if all(one.valid(combination) for one in evaluators.values())]
    first = least_padding(next(iter(evaluators.values())).coded, [one for one in valid if one.is_pair])
    combinations = [first, *(combination for combination in valid if combination != first)]
    totals = [_totals(one, combinations) for one in evaluators.values()]
    accuracy = np.mean([right.sum(axis=1) / size.sum(axis=1) for right, size in totals], axis=0)
    ranks = rank_intervals_across(totals, seed=seed)
    pooled = pooled_gaps(evaluators, combinations)
    return [
        AcrossRow(
            combinations[at],
            float(accuracy[at]),
            pooled.get(combinations[at]),
            int(ranks.low[at]),
            int(ranks.high[at]),
            float(ranks.best[at]),
        )
        for at in np.argsort(-accuracy.round(9), kind="stable")
    ]


def _totals(evaluator: Evaluator, combinations: Sequence[Combination]) -> tuple[np.ndarray, np.ndarray]:
    """Return right decisions and decisions of each combination by photo, (n_combination, n_photo) each."""
    tallies = dict(evaluator.tallies(combinations))
    ordered = [tallies[at] for at in range(len(combinations))]
    return np.stack([one.image_right[1] for one in ordered]), np.stack([one.image_size for one in ordered])
