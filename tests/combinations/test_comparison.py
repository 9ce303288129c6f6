"""Every number of a comparison, from the decisions themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from builders import make_evaluator, study

from combinations.comparison import REPORTED, compare, compare_all, decide_reported, pareto_front, score_once
from combinations.search import enumerate_combinations
from common.messages import UserError
from evaluation.evaluator import cost
from evaluation.records import Combination
from uncertainty import comparisons, intervals

ZERO, TEN = Combination(("0",), ("0",)), Combination(("10",), ("10",))


def compared(fusion="vote", missing=(("10", 3),), unknown=(), largest=2, **how):
    """An evaluator, and the comparison of every combination of up to two sets, with the tallies it was made of."""
    references, queries = study(1, split="train"), study(2, split="test", missing=missing)
    for one in queries:
        one.labels[list(unknown)] = "??"
    evaluator = make_evaluator(references, queries, fusion=fusion)
    asked = enumerate_combinations(
        list(evaluator.coded.references), list(evaluator.coded.queries), 1, largest, "crossed"
    )
    scored = {asked[at]: tally for at, tally in evaluator.tallies(asked)}
    return evaluator, scored, compare_all(evaluator, scored, None, 0) if not how else compare(evaluator, scored, **how)


@pytest.mark.parametrize("fusion", ["vote", "stack"])
def test_the_numbers_of_a_result_are_those_of_its_decisions(fusion):
    evaluator, scored, found = compared(fusion, unknown=(0, 1))
    coded = evaluator.coded
    assert (found.named, found.n_compared, found.unit) == (False, len(scored) - 1, "photo")
    assert (found.n_matched, found.n_left_out) == (55, 2)  # of 56 crops; the other is in two of three sets
    for result in found.results:
        decisions = evaluator.decide(result.combination)
        size, n = np.bincount(decisions.image), len(decisions)

        def limits(hits, image=decisions.image, size=size):
            one = intervals.accuracy_interval(np.bincount(image, hits, minlength=len(size)), size)
            return one.low, one.high

        assert (result.n_queries, result.n_images) == (n, 14)
        assert result.n_unknown == (coded.classes[decisions.label] == "??").sum() >= 2
        assert result.score == decisions.right.mean()
        assert result.nearest_accuracy == (decisions.nearest == decisions.label).mean()
        assert (result.low, result.high) == pytest.approx(limits(decisions.right), abs=1e-6)
        assert result.accuracy_answerable == decisions.right.sum() / (n - result.n_unknown)
        hits = coded.neighbour_label[decisions.neighbours] == decisions.label[:, None]
        for k, recall, bounds in zip(
            (5, 10), (result.recall_at_5, result.recall_at_10), result.recall_limits, strict=True
        ):
            assert recall == hits[:, :k].any(axis=1).mean()
            assert bounds == pytest.approx(limits(hits[:, :k].any(axis=1)), abs=1e-6)
        assert result.cost == cost(evaluator, result.combination)


@pytest.mark.parametrize("fusion", ["vote", "stack"])
def test_differences_are_over_the_crops_that_every_query_set_holds(fusion):
    """Under `stack` the views of a crop count one together."""
    evaluator, scored, found = compared(fusion)
    coded, order = evaluator.coded, list(scored)
    right = {}
    for combination in order:
        decisions = evaluator.decide(combination)
        kept = coded.matched[decisions.crop]
        views = len(combination.query_ids) if fusion == "stack" else 1
        right[combination] = np.bincount(decisions.image, kept & decisions.right, minlength=14) / views
    base = right[found.baseline.combination]
    pairs = [row for row, combination in enumerate(order) if combination.is_pair]
    paired = comparisons.paired_comparison(
        np.stack(list(right.values())) - base, coded.matched_sizes, baseline=base, chosen_from=pairs
    )
    for result in found.results:
        row = order.index(result.combination)
        numbers = result.difference, result.difference_low, result.difference_high, result.p
        if result.combination == found.baseline.combination:
            assert numbers[:3] == (0, 0, 0)
            assert np.isnan(result.p)
        else:
            assert numbers == pytest.approx([getattr(paired, name)[row] for name in ("difference", "low", "high", "p")])


def test_the_best_comes_first_and_ties_go_to_the_cheaper_then_to_the_first_named():
    _, scored, found = compared()
    order = list(scored)
    keys = [(-one.score, one.cost.operations, order.index(one.combination)) for one in found.results]
    assert keys == sorted(keys)
    assert len({key[0] for key in keys}) < len(keys)  # there are ties
    pairs = [one for one in order if one.is_pair]
    assert found.baseline.combination == max(pairs, key=lambda one: scored[one].accuracy)
    front = pareto_front([one.score for one in found.results], [one.cost.operations for one in found.results])
    assert [one.pareto for one in found.results] == front.tolist()
    assert 0 < front.sum() < len(front)


def test_a_named_baseline_joins_and_costs_no_correction():
    evaluator, scored, _ = compared(largest=1)
    both = Combination(("0", "10"), ("0",))
    named = compare_all(evaluator, scored, "0+10/0", 0)
    assert (named.baseline.combination, named.named, named.n_compared) == (both, True, len(scored))
    assert named.evidence.pairs.rival == ZERO  # a merged baseline is no pair: the least padding is the rival still
    right = {one.combination: one for one in named.results}
    totals = np.stack([dict(evaluator.tallies([one]))[0].matched_right for one in [*scored, both]])
    paired = comparisons.paired_comparison(totals - totals[-1], evaluator.coded.matched_sizes, baseline=totals[-1])
    assert [right[one].p for one in scored] == pytest.approx(paired.p[:-1].tolist())
    assert compare_all(evaluator, scored, "10/10", 0).evidence.pairs.rival == TEN


def test_query_sets_without_a_common_crop_have_no_differences():
    missing = [("0", row) for row in range(28)] + [("10", row) for row in range(28, 56)]
    _, _, found = compared(missing=missing, largest=1)
    assert found.n_matched == 0
    assert np.isnan([[one.difference, one.difference_low, one.difference_high] for one in found.results]).all()
    answer = found.evidence.pairs
    assert np.isnan([found.evidence.smallest_p, answer.difference, answer.low, answer.high, answer.most_gained]).all()
    assert not answer.is_better


def test_what_was_chosen_on_validation_queries_is_scored_once_on_the_test_queries():
    _, _, ranked = compared()
    test = make_evaluator(study(1, split="train"), study(3, split="test"))
    final = score_once(test, ranked, 0)
    chosen = [ranked.results[0].combination, ranked.baseline.combination]
    chosen += [
        answer.best if answer.is_better else answer.rival
        for answer in (ranked.evidence.pairs, ranked.evidence.combinations)
    ]
    assert {one.combination for one in final.results} == set(chosen)
    assert (final.baseline.combination, final.named) == (chosen[1], True)
    lost = make_evaluator(study(1, split="train"), [one for one in study(3) if one.id not in chosen[0].query_ids])
    with pytest.raises(UserError, match="--test_npz has no query set for the chosen"):
        score_once(lost, ranked, 0)


def test_what_flips_and_the_report_show_is_decided():
    """The baseline, the first five of the end and six of the search, and every ID alone; of sets that are there."""
    evaluator, _, found = compared()
    order = [one.combination for one in found.results]
    turned = dataclasses.replace(found, results=found.results[::-1])
    alone = [Combination((one,), (one,)) for one in ("0", "10", "20")]
    wanted = [found.baseline.combination, *order[:REPORTED], *order[::-1][: REPORTED + 1], *alone]
    decided = decide_reported(evaluator, found, turned)
    assert list(decided) == list(dict.fromkeys(wanted))
    assert (decided[order[0]].voted == evaluator.decide(order[0]).voted).all()
    fewer = make_evaluator(study(1, split="train"), study(2)[1:])
    assert set(decide_reported(fewer, found, turned)) == {one for one in wanted if "0" not in one.query_ids}


def test_pareto_front_by_hand():
    scores, costs = [0.5, 0.7, 0.7, 0.9, 0.9, 0.4], [1, 2, 3, 4, 4, 1]
    assert pareto_front(scores, costs).tolist() == [True, True, False, True, True, False]


def test_pareto_front_is_what_nothing_else_beats():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, costs = rng.integers(0, 5, (2, 9))
        beaten = (scores >= scores[:, None]) & (costs <= costs[:, None])
        beaten &= (scores > scores[:, None]) | (costs < costs[:, None])
        np.testing.assert_array_equal(pareto_front(scores, costs), ~beaten.any(axis=1))
