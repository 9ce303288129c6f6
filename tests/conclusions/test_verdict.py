"""The verdict in words: every outcome has its sentence, and the numbers in it are the comparison's."""

from __future__ import annotations

import dataclasses
import math

import pytest
from builders import make_evaluator, study

from classifiers.recipes import Recipe
from combinations.comparison import compare_all
from combinations.evidence import Answer
from combinations.search import enumerate_combinations
from conclusions.verdict import outlook, verdict
from evaluation.records import Combination

ZERO, TEN, BOTH = Combination(("0",), ("0",)), Combination(("10",), ("10",)), Combination(("0", "10"), ("0",))


@pytest.fixture(scope="module")
def compared():
    evaluator = make_evaluator(study(1, split="train"), study(2, split="test"))
    asked = enumerate_combinations(list(evaluator.coded.references), list(evaluator.coded.queries), 1, 2, "crossed")
    scored = {asked[at]: tally for at, tally in evaluator.tallies(asked)}
    return compare_all(evaluator, scored, None, 0)


def said(compared, *, pairs=None, combinations=None, padding=True, named=False, chosen_on=None):
    evidence = dataclasses.replace(compared.evidence, pairs=pairs, combinations=combinations)
    changed = dataclasses.replace(compared, evidence=evidence, named=named)
    return verdict(changed, padding=padding, chosen_on=chosen_on)


def answer(rival, best, difference, *, better=False, most=0.04):
    return Answer(rival, best, difference, difference - 0.02, difference + 0.02, better, most)


@pytest.mark.parametrize(
    ("difference", "better", "most", "sentence"),
    [
        (0.03, True, 0.1, "Use 10/10: 3.0 points better than 0/0, the least padding (95% interval +1.0 to +5.0)."),
        (0.01, False, 0.1, "Use 0/0, the least padding: 10/10 scores 1.0 points higher, which may be chance "
                           "(95% interval -1.0 to +3.0)."),
        (-0.01, False, 0.021, "Use 0/0, the least padding: no other pair scores higher; "
                              "none is better by more than 2.1 points (95% sure)."),
        (-0.09, False, -0.01, "Use 0/0, the least padding: no other pair scores higher; none is better (95% sure)."),
    ],
)  # fmt: skip
def test_which_padding(compared, difference, better, most, sentence):
    pairs = answer(ZERO, TEN, difference, better=better, most=most)
    assert said(compared, pairs=pairs).which == sentence
    assert "0/0, the baseline" in said(compared, pairs=pairs, named=True).which
    assert "0/0, the first pair" in said(compared, pairs=pairs, padding=False).which
    assert str(said(compared, pairs=pairs, padding=False)).startswith("Which pair of sets? ")


def test_a_first_pair_that_only_comes_first_is_not_recommended_over_a_better_one(compared):
    pairs = answer(ZERO, TEN, 0.01)
    assert said(compared, pairs=pairs, padding=False).which == (
        "None is shown to be best: 10/10 scores 1.0 points higher than 0/0, the first pair, which may be chance "
        "(95% interval -1.0 to +3.0)."
    )


def test_which_padding_says_by_what_where_classifiers_were_asked_for(compared):
    learnt = [dataclasses.replace(pair, classifier=Recipe("lda")) for pair in (ZERO, TEN)]
    evidence = dataclasses.replace(
        compared.evidence, pairs=answer(ZERO, TEN, 0.01), classifiers=answer(ZERO, learnt[0], 0.01)
    )
    tried = dataclasses.replace(compared, evidence=evidence)
    expected = "Use 0/0, the least padding: 10/10 scores 1.0 points higher by nearest neighbours on val, which may be "
    assert verdict(tried, padding=True, chosen_on="val").which.startswith(expected)
    evidence = dataclasses.replace(evidence, pairs=answer(*learnt, 0.01))
    better = dataclasses.replace(compared, evidence=evidence)
    expected = "Use 0/0 lda, the least padding: 10/10 lda scores 1.0 points higher, which may be "
    assert verdict(better, padding=True).which.startswith(expected)


@pytest.mark.parametrize(
    ("difference", "better", "most", "sentence"),
    [
        (0.03, True, 0.1, "Yes, 0+10/0: 3.0 points better than 0/0, the best single pair on val (95% interval +1.0 to +5.0)."),
        (0.01, False, 0.05, "No: 0+10/0 scores 1.0 points higher than 0/0, the best single pair on val, which may be chance; "
                            "no combination is better by more than 5.0 points (95% sure)."),
        (0.0, False, 0.021, "No: none scores higher than 0/0, the best single pair on val; "
                            "no combination is better by more than 2.1 points (95% sure)."),
    ],
)  # fmt: skip
def test_combine_sets(compared, difference, better, most, sentence):
    combinations = answer(ZERO, BOTH, difference, better=better, most=most)
    assert said(compared, combinations=combinations, chosen_on="val").combine == sentence


def test_where_there_is_nothing_to_ask(compared):
    alone = said(compared)
    assert alone.which == f"Use {compared.baseline.combination}, the only pair of sets."
    first = compared.baseline
    only = said(dataclasses.replace(compared, results=[first], n_compared=0))
    assert only.which == (
        f"Only {first.combination} was given: accuracy {first.score:.4f} over {first.n_queries} decisions "
        f"(95% interval {first.low:.4f} to {first.high:.4f}), and nothing to compare it with."
    )
    assert alone.combine.startswith("Not tried; ")
    assert only.combine == "Not tried: it takes two reference sets and two query sets."
    nothing = answer(ZERO, TEN, math.nan, most=math.nan)
    assert "no crop is in every query set" in said(compared, pairs=nothing).which
    assert "Not known: no crop is in every query set" in said(compared, combinations=nothing).combine
    assert "Not known: no crop is in every query set" in said(compared, pairs=nothing).combine


def test_the_numbers_are_those_of_the_search(compared):
    pairs, merged = compared.evidence.pairs, compared.evidence.combinations
    results = {result.combination: result for result in compared.results}
    best_pair = max((one for one in compared.results if one.combination.is_pair), key=lambda one: one.score)
    assert merged.rival == compared.baseline.combination == best_pair.combination
    assert merged.difference == pytest.approx(results[merged.best].difference)
    assert pairs.rival == ZERO
    assert pairs.best == (best_pair.combination if best_pair.combination != ZERO else pairs.best)
    assert f"Scored on {compared.baseline.n_images} photos; to find a gain of 2 points" in outlook(compared)
