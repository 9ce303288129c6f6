"""Every combination scored, ranked, given its interval, and compared with the baseline under one correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from combinations.evidence import Evidence, evidence
from combinations.search import named_combination
from common.messages import UserError
from evaluation.evaluator import Evaluator, tally
from evaluation.records import Combination, Cost, Decisions, Rule, Tally
from uncertainty import comparisons, intervals

REPORTED = 5  # combinations whose flips are looked at


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
    is the best; empty for a baseline that was named or chosen elsewhere. `evidence`: what stands behind a verdict.
    """

    results: list[Result]
    baseline: Result
    rivals: list[Result]
    n_compared: int
    n_matched: int
    n_left_out: int
    evidence: Evidence


def score(tally: Tally) -> float:
    """Return what combinations are ranked by: the accuracy of the vote of k."""
    return tally.vote_accuracy


def single_pairs(evaluator: Evaluator, pairing: str = "crossed") -> dict[Combination, Tally]:
    """Return every single pair of sets that can be scored, the best first; ties go to the pair named first."""
    references, queries = evaluator.coded.references, evaluator.coded.queries
    pairs = [Combination((r,), (q,)) for r in references for q in queries if pairing == "crossed" or r == q]
    pairs = [pair for pair in pairs if evaluator.valid(pair)]
    tallies = {pairs[index]: tally for index, tally in evaluator.tallies(pairs)}
    return dict(sorted(tallies.items(), key=lambda item: -score(item[1])))


def same_id_pairs(evaluator: Evaluator) -> dict[str, Combination]:
    """Return by ID the pair of each query set with the references of its own ID, where it can be scored."""
    pairs = {q: Combination((q,), (q,)) for q in evaluator.coded.queries if q in evaluator.coded.references}
    return {q: pair for q, pair in pairs.items() if evaluator.valid(pair)}


def compare(
    evaluator: Evaluator,
    scored: Mapping[Combination, Tally],
    baseline: tuple[Combination, Tally],
    *,
    rivals: Mapping[Combination, Tally] | None = None,
    seed: int = 0,
) -> Comparison:
    """Rank the scored combinations and compare each with the baseline.

    `rivals`: the combinations among which the baseline was chosen as the best on these same queries; they join the correction.
    Only totals per image are kept of each combination, so that memory grows with combinations x images, not with crops.
    """
    coded, rivals = evaluator.coded, rivals or {}
    tallies = dict([baseline]) | dict(rivals) | dict(scored)
    combinations = list(tallies)
    sizes = np.stack([tally.image_size for tally in tallies.values()]).astype(np.float32)
    right = np.stack([tally.image_right[1] for tally in tallies.values()]).astype(np.float32)
    there = coded.matched_sizes > 0
    matched, matched_size = _matched_right(evaluator.rule, tallies)[:, there], coded.matched_sizes[there]
    limits = np.stack(intervals.accuracy_intervals(right, sizes))
    chosen_from = [combinations.index(rival) for rival in rivals]
    differences = _differences(matched, matched_size, chosen_from, seed)
    costs = [evaluator.cost(combination) for combination in combinations]
    front = pareto_front([score(tally) for tally in tallies.values()], [cost.operations for cost in costs])
    results = {
        combination: _result(
            combination, tallies[combination], limits[:, row], costs[row], bool(front[row]), differences[:, row]
        )
        for row, combination in enumerate(combinations)
    }
    ranked = sorted((results[combination] for combination in scored), key=lambda one: (-one.score, one.cost.operations))
    shown = evidence(
        right,
        sizes,
        matched,
        matched_size,
        ranked=[combinations.index(result.combination) for result in ranked],
        baseline=0,
        pairs=[row for row, combination in enumerate(combinations) if combination.is_pair],
        named=not rivals,
        seed=seed,
    )
    return Comparison(
        results=ranked,
        baseline=results[baseline[0]],
        rivals=[results[rival] for rival in rivals],
        n_compared=len(combinations) - 1,
        n_matched=int(coded.matched.sum()),
        n_left_out=coded.unmatched_views,
        evidence=shown,
    )


def _matched_right(rule: Rule, tallies: Mapping[Combination, Tally]) -> np.ndarray:
    """Return (n_combination, n_image): totals over the crops that every query set holds, a crop's views counting one together."""
    views = [len(combination.query_ids) if rule.fusion == "stack" else 1 for combination in tallies]
    return np.stack([tally.matched_right / n for tally, n in zip(tallies.values(), views, strict=True)])


def _differences(matched: np.ndarray, size: np.ndarray, chosen_from: Sequence[int], seed: int) -> np.ndarray:
    """Return (4, n_combination): difference from the first combination, its limits, corrected p; NaN without common crops."""
    differences = np.full((4, len(matched)), np.nan)
    if size.any():
        paired = comparisons.paired_comparison(
            matched - matched[0], size, baseline=matched[0], chosen_from=chosen_from, seed=seed
        )
        differences[:] = paired.difference, paired.low, paired.high, paired.p
        differences[:, 0] = 0, 0, 0, np.nan
    return differences


def compare_all(
    evaluator: Evaluator, scored: Mapping[Combination, Tally], baseline: str | None, pairing: str, seed: int
) -> Comparison:
    """Compare the scored combinations with the baseline `R/Q`, or with the best single pair."""
    if baseline:
        named = named_combination(evaluator.coded, baseline)
        totals = tally(evaluator.coded, evaluator.decide(named), named.reference_ids)
        return compare(evaluator, scored, (named, totals), seed=seed)
    pairs = single_pairs(evaluator, pairing)
    return compare(evaluator, scored, next(iter(pairs.items())), rivals=pairs, seed=seed)


def score_once(evaluator: Evaluator, ranked: Comparison, seed: int) -> Comparison:
    """Score on the test queries what the validation queries chose: the best combination and the baseline."""
    baseline = ranked.baseline.combination
    chosen = dict.fromkeys([ranked.results[0].combination, baseline])
    for combination in chosen:
        if not all(q in evaluator.coded.queries for q in combination.query_ids):
            raise UserError(f"--test_npz has no query set for the chosen {combination}; give both sides the same IDs")
    tallies = {
        combination: tally(evaluator.coded, evaluator.decide(combination), combination.reference_ids)
        for combination in chosen
    }
    return compare(evaluator, tallies, (baseline, tallies[baseline]), seed=seed)


def decide_reported(evaluator: Evaluator, final: Comparison, ranked: Comparison) -> dict[Combination, Decisions]:
    """Return the decisions of what flips and the report show: the baseline, the first combinations, every ID alone."""
    shown = [final.baseline, *final.results[:REPORTED], *ranked.results[: REPORTED + 1]]
    wanted = [*(result.combination for result in shown), *same_id_pairs(evaluator).values()]
    known = evaluator.coded.queries
    return {
        combination: evaluator.decide(combination)
        for combination in dict.fromkeys(wanted)
        if all(q in known for q in combination.query_ids)
    }


def _result(
    combination: Combination, tally: Tally, limits: np.ndarray, cost: Cost, pareto: bool, difference: np.ndarray
) -> Result:
    known = tally.n - tally.n_unknown
    return Result(
        combination=combination,
        accuracy_at_1=tally.accuracy,
        score=score(tally),
        low=float(limits[0]),
        high=float(limits[1]),
        n_queries=tally.n,
        n_unknown=tally.n_unknown,
        n_images=int((tally.image_size > 0).sum()),
        accuracy_answerable=float(tally.right[0] / known) if known else float("nan"),
        macro_f1=tally.scores.macro_f1,
        recall_at_5=float(tally.recalled[1] / tally.n),
        recall_at_10=float(tally.recalled[2] / tally.n),
        cost=cost,
        pareto=pareto,
        difference=float(difference[0]),
        difference_low=float(difference[1]),
        difference_high=float(difference[2]),
        p=float(difference[3]),
    )


def pareto_front(scores: Sequence[float], costs: Sequence[float]) -> np.ndarray:
    """Return (n,) bool: whether no other entry is at least as good on both and better on one."""
    by_cost: dict[float, list[int]] = {}
    for index in np.argsort(costs, kind="stable"):
        by_cost.setdefault(costs[index], []).append(int(index))
    front = np.zeros(len(scores), bool)
    best = -np.inf
    for equally_cheap in by_cost.values():
        top = max(scores[index] for index in equally_cheap)
        if top > best:
            front[[index for index in equally_cheap if scores[index] == top]] = True
            best = top
    return front
