"""Every combination scored, ranked, given its interval, and compared with the baseline under one correction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.evaluator import Evaluator
from evaluation.records import Combination, Cost, Tally
from uncertainty import comparisons, intervals


@dataclass(frozen=True)
class Result:
    """The numbers of one combination, defined in docs/metrics.md. Shares are in 0..1, NaN where they are not defined.

    `score` is what combinations are ranked by: the accuracy of the vote of k, which for k = 1 is Accuracy@1. `low` and `high` are
    its 95 % interval. `difference` from the baseline is over the crops that every query set holds; `p` is corrected over
    all combinations compared. `pareto`: no other combination is at once as accurate and cheaper, or as cheap and more accurate.
    """

    combination: Combination
    accuracy_at_1: float
    score: float
    low: float
    high: float
    n_queries: int
    n_unknown: int
    n_images: int
    accuracy_answerable: float
    macro_f1: float
    recall_at_5: float
    recall_at_10: float
    cost: Cost
    pareto: bool
    difference: float
    difference_low: float
    difference_high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """The asked combinations, best first; ties go to the cheaper one, then to the one named first.

    `n_compared` combinations share the correction. `n_matched` crops are in every query set; `n_left_out` views are of crops that
    are not, which comparisons and, except under `stack`, decisions leave out. `rivals`: the combinations among which the baseline
    is the best; empty for a baseline that was named or chosen elsewhere.
    """

    results: list[Result]
    baseline: Result
    rivals: list[Result]
    n_compared: int
    n_matched: int
    n_left_out: int


def score(tally: Tally) -> float:
    """Return what combinations are ranked by: the accuracy of the vote of k."""
    return tally.vote_accuracy


def single_pairs(evaluator: Evaluator, pairing: str = "crossed") -> list[tuple[Combination, Tally]]:
    """Return every single pair of sets that can be scored, the best first; ties go to the pair named first."""
    refs, queries = evaluator.references, evaluator.queries
    pairs = [Combination((r,), (q,)) for r in refs for q in queries if pairing == "crossed" or r == q]
    pairs = [pair for pair in pairs if evaluator.valid(pair)]
    return sorted(((pairs[at], tally) for at, tally in evaluator.tallies(pairs)), key=lambda one: -score(one[1]))


def compare(
    evaluator: Evaluator,
    scored: Iterable[tuple[Combination, Tally]],
    baseline: Combination,
    *,
    rivals: Sequence[tuple[Combination, Tally]] = (),
    seed: int = 0,
) -> Comparison:
    """Rank the scored combinations and compare each with `baseline`.

    `rivals`: the combinations among which the baseline was chosen as the best on these same queries; they join the correction.
    Only totals per image are kept of each combination, so that memory grows with combinations x images, not with crops.
    """
    tallies = {baseline: evaluator.tally(evaluator.decide(baseline), baseline.reference_ids), **dict(rivals)}
    asked: list[Combination] = []
    for combination, tally in scored:
        tallies[combination] = tally
        asked.append(combination)
    rows = list(tallies)
    sizes = np.stack([tally.image_size for tally in tallies.values()]).astype(np.float32)
    right = np.stack([tally.image_right[1] for tally in tallies.values()]).astype(np.float32)
    low, high = intervals.accuracy_intervals(right, sizes)
    matched_size = evaluator.matched_sizes()
    compared = matched_size > 0
    gaps = np.full((4, len(rows)), np.nan)
    if compared.any():
        views = [len(one.query_ids) if evaluator.mode == "stack" else 1 for one in rows]
        matched = np.stack(
            [tally.matched_right[compared] / n for tally, n in zip(tallies.values(), views, strict=True)]
        )
        chosen_from = [rows.index(one) for one, _ in rivals]
        gap = matched - matched[rows.index(baseline)]
        paired = comparisons.paired_comparison(gap, matched_size[compared], chosen_from=chosen_from, seed=seed)
        gaps[:] = paired.difference, paired.low, paired.high, paired.p
        gaps[:, rows.index(baseline)] = 0, 0, 0, np.nan
    costs = [evaluator.cost(one) for one in rows]
    scores = [score(tally) for tally in tallies.values()]
    front = pareto_front(scores, [cost.operations for cost in costs])
    results = {
        one: _result(one, tallies[one], low[at], high[at], costs[at], bool(front[at]), gaps[:, at])
        for at, one in enumerate(rows)
    }
    ranked = sorted(dict.fromkeys(asked), key=lambda one: (-results[one].score, results[one].cost.operations))
    return Comparison(
        results=[results[one] for one in ranked],
        baseline=results[baseline],
        rivals=[results[one] for one, _ in rivals],
        n_compared=len(rows) - 1,
        n_matched=int(evaluator.matched.sum()),
        n_left_out=sum(int((~evaluator.matched[crop]).sum()) for crop in evaluator.query_crop.values()),
    )


def _result(
    combination: Combination, tally: Tally, low: float, high: float, cost: Cost, pareto: bool, gap: np.ndarray
) -> Result:
    known = tally.n - tally.n_unknown
    return Result(
        combination=combination,
        accuracy_at_1=tally.accuracy,
        score=score(tally),
        low=float(low),
        high=float(high),
        n_queries=tally.n,
        n_unknown=tally.n_unknown,
        n_images=int((tally.image_size > 0).sum()),
        accuracy_answerable=float(tally.right[0] / known) if known else float("nan"),
        macro_f1=tally.scores.macro_f1,
        recall_at_5=float(tally.recalled[1] / tally.n),
        recall_at_10=float(tally.recalled[2] / tally.n),
        cost=cost,
        pareto=pareto,
        difference=float(gap[0]),
        difference_low=float(gap[1]),
        difference_high=float(gap[2]),
        p=float(gap[3]),
    )


def pareto_front(scores: Sequence[float], costs: Sequence[float]) -> np.ndarray:
    """Return (n,) bool: whether no other entry is at least as good on both and better on one."""
    order = np.lexsort((-np.asarray(scores), np.asarray(costs)))
    front = np.zeros(len(order), bool)
    best = -np.inf
    for _, group in _grouped(order, costs):
        top = max(scores[at] for at in group)
        if top > best:
            front[[at for at in group if scores[at] == top]] = True
            best = top
    return front


def _grouped(order: np.ndarray, costs: Sequence[float]) -> Iterable[tuple[float, list[int]]]:
    groups: dict[float, list[int]] = {}
    for at in order:
        groups.setdefault(costs[at], []).append(int(at))
    return groups.items()
