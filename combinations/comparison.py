"""Every combination scored, ranked, given its interval, and compared with the baseline under one correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from combinations.evidence import Evidence, evidence
from combinations.paddings import least_padding
from combinations.search import named_combination, same_id_pairs
from common.messages import UserError
from evaluation.evaluator import Evaluator, cost, tally
from evaluation.learning import with_classifiers
from evaluation.records import Combination, Cost, Decisions, Rule, Tally
from uncertainty import comparisons, intervals

REPORTED = 5  # combinations whose flips are looked at


@dataclass(frozen=True)
class Result:
    """The numbers of one combination, defined in docs/metrics.md. Shares are in 0..1, NaN where they are not defined.

    `score` is what combinations are ranked by: the accuracy of their decisions, with its 95% interval `low` to `high`.
    `nearest_accuracy` is that of the nearest neighbour alone; `recall_limits`: the intervals of recall at 5 and 10; `n_close`:
    close calls, see records.Decisions. `difference` from the baseline is over the crops that every query
    set holds; `p` is corrected over all combinations compared. `pareto`: no other combination is at once as accurate and cheaper,
    or as cheap and more accurate.
    """

    combination: Combination
    nearest_accuracy: float
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
    recall_limits: tuple[tuple[float, float], tuple[float, float]]
    n_close: int
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
    are not, which comparisons and, except under `stack`, decisions leave out. `named`: the baseline was named or chosen elsewhere;
    else it is the best single pair. `evidence`: what stands behind a verdict. `unit`: what intervals and p count as one, photo or
    group.
    """

    results: list[Result]
    baseline: Result
    named: bool
    n_compared: int
    n_matched: int
    n_left_out: int
    evidence: Evidence
    unit: str = "photo"


def score(tally: Tally) -> float:
    """Return what combinations are ranked by: the accuracy of their decisions."""
    return tally.accuracy


def compare(
    evaluator: Evaluator,
    scored: Mapping[Combination, Tally],
    baseline: Combination,
    *,
    named: bool,
    least: Combination | None = None,
    seed: int = 0,
) -> Comparison:
    """Rank the scored combinations and compare each with the baseline, which is one of them.

    `named`: the baseline was named beforehand or chosen elsewhere, not for its accuracy on these same queries. `least`: the pair
    that the other pairs are asked to beat (default: the baseline).
    Only totals per image are kept of each combination, so that memory grows with combinations x images, not with crops.
    """
    coded, combinations = evaluator.coded, list(scored)
    row_of = {combination: row for row, combination in enumerate(combinations)}
    right = np.stack([tally.image_right[1] for tally in scored.values()]).astype(np.float32)
    sizes = np.stack([tally.image_size for tally in scored.values()]).astype(np.float32)
    there = coded.matched_sizes > 0
    matched, matched_size = _matched_right(evaluator.rule, scored)[:, there], coded.matched_sizes[there]
    limits = np.stack(intervals.accuracy_intervals(right, sizes))
    chosen_from = [] if named else [row for combination, row in row_of.items() if combination.is_pair]
    differences = _differences(matched, matched_size, row_of[baseline], chosen_from, seed)
    costs = [cost(evaluator, combination) for combination in combinations]
    front = pareto_front([score(tally) for tally in scored.values()], [one.operations for one in costs])
    results = [
        _result(combination, tally, limits[:, row], costs[row], bool(front[row]), differences[:, row])
        for row, (combination, tally) in enumerate(scored.items())
    ]
    ranked = sorted(results, key=lambda result: (-result.score, result.cost.operations))
    return Comparison(
        results=ranked,
        baseline=results[row_of[baseline]],
        named=named,
        n_compared=len(combinations) - 1,
        n_matched=int(coded.matched.sum()),
        n_left_out=coded.unmatched_views,
        evidence=evidence(
            combinations,
            right,
            sizes,
            matched,
            matched_size,
            ranked=[row_of[result.combination] for result in ranked],
            baseline=row_of[baseline],
            least=row_of[least or baseline],
            seed=seed,
        ),
        unit=coded.units.noun(),
    )


def _matched_right(rule: Rule, tallies: Mapping[Combination, Tally]) -> np.ndarray:
    """Return (n_combination, n_image): totals over the crops that every query set holds, a crop's views counting one together."""
    views = [len(combination.query_ids) if rule.fusion == "stack" else 1 for combination in tallies]
    return np.stack([tally.matched_right / n for tally, n in zip(tallies.values(), views, strict=True)])


def _differences(
    matched: np.ndarray, size: np.ndarray, baseline: int, chosen_from: Sequence[int], seed: int
) -> np.ndarray:
    """Return (4, n_combination): difference from the baseline's row, its limits, corrected p; NaN without common crops."""
    differences = np.full((4, len(matched)), np.nan)
    if size.any():
        of_baseline = matched[baseline]
        paired = comparisons.paired_comparison(
            matched - of_baseline, size, baseline=of_baseline, chosen_from=chosen_from, seed=seed
        )
        differences[:] = paired.difference, paired.low, paired.high, paired.p
        differences[:, baseline] = 0, 0, 0, np.nan
    return differences


def compare_all(
    evaluator: Evaluator, scored: Mapping[Combination, Tally], baseline: str | None, seed: int
) -> Comparison:
    """Compare the scored combinations with the baseline `R/Q`, which joins them, or with the best single pair among them."""
    pairs = {combination: score(tally) for combination, tally in scored.items() if combination.is_pair}
    least = least_padding(evaluator.coded, list(pairs))
    if not baseline:
        best = max(pairs, key=lambda pair: pairs[pair])
        return compare(evaluator, scored, best, named=False, least=least, seed=seed)
    named = named_combination(evaluator.coded, baseline)
    with_all = with_classifiers([named], list(dict.fromkeys(one.classifier for one in scored)))
    missing = [one for one in with_all if one not in scored]
    scored = {**scored, **{missing[at]: found for at, found in evaluator.tallies(missing)}}
    return compare(evaluator, scored, named, named=True, least=named if named.is_pair else least, seed=seed)


def score_once(evaluator: Evaluator, ranked: Comparison, seed: int) -> Comparison:
    """Score on the test queries what the validation queries chose: the first, the baseline, and what the verdict names."""
    baseline = ranked.baseline.combination
    evidence = ranked.evidence
    answers = [answer for answer in (evidence.classifiers, evidence.pairs, evidence.combinations) if answer]
    named = [answer.best if answer.is_better else answer.rival for answer in answers]
    chosen = dict.fromkeys([ranked.results[0].combination, baseline, *named])
    for combination in chosen:
        if not all(q in evaluator.coded.queries for q in combination.query_ids):
            raise UserError(f"--test_npz has no query set for the chosen {combination}; give both sides the same IDs")
    tallies = {
        combination: tally(evaluator.coded, evaluator.decide(combination), combination.reference_ids)
        for combination in chosen
    }
    return compare(evaluator, tallies, baseline, named=True, seed=seed)


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
        nearest_accuracy=tally.nearest_accuracy,
        score=score(tally),
        low=float(limits[0]),
        high=float(limits[1]),
        n_queries=tally.n,
        n_unknown=tally.n_unknown,
        n_images=int((tally.image_size > 0).sum()),
        accuracy_answerable=float(tally.right[1] / known) if known else float("nan"),
        macro_f1=tally.scores.macro_f1,
        recall_at_5=float(tally.recalled[1] / tally.n),
        recall_at_10=float(tally.recalled[2] / tally.n),
        recall_limits=_recall_limits(tally),
        n_close=tally.n_close,
        cost=cost,
        pareto=pareto,
        difference=float(difference[0]),
        difference_low=float(difference[1]),
        difference_high=float(difference[2]),
        p=float(difference[3]),
    )


def _recall_limits(tally: Tally) -> tuple[tuple[float, float], tuple[float, float]]:
    low, high = intervals.accuracy_intervals(tally.image_recalled[1:], tally.image_size)
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))


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
