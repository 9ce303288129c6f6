"""Combinations that another classifier decides, in every fusion, against scikit-learn on vectors merged here by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from builders import make_evaluator, study, totals, unit
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from classifiers.recipes import NEAREST, Recipe
from combinations.comparison import compare_all
from combinations.paddings import classifier_rows
from common.messages import UsageError
from conclusions.verdict import on_test, verdict
from evaluation.evaluator import cost
from evaluation.learning import choose_recipes, with_classifiers
from evaluation.records import Combination

RECIPES = (Recipe("lda"), Recipe("prototype"), Recipe("linear", strength=10.0), Recipe("knn", k=5))
BOTH = ("0", "10")


def sides(missing=()):
    return study(1, split="train", n_images=20, missing=missing)[:2], study(2, split="test")[:2]


def peer(recipe: Recipe, references: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return scikit-learn's answers on unit rows."""
    references, queries = unit(references.astype(float)), unit(queries.astype(float))
    if recipe.kind == "lda":
        names, at = np.unique(labels, return_inverse=True)
        means = np.array([references[labels == name].mean(0) for name in names])
        inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(references - means[at]).covariance_)
        offset = np.log(np.bincount(at) / len(at)) - np.diag(means @ inverse @ means.T) / 2
        return names[(queries @ inverse @ means.T + offset).argmax(1)]
    if recipe.kind == "prototype":
        centroids = NearestCentroid().fit(references, labels)
        return centroids.classes_[(queries @ unit(centroids.centroids_).T).argmax(1)]
    if recipe.kind == "linear":
        return LogisticRegression(C=recipe.strength, max_iter=300).fit(references, labels).predict(queries)
    weights = lambda distance: np.exp((1 - distance**2 / 2) / recipe.temperature)  # noqa: E731
    return KNeighborsClassifier(recipe.k, weights=weights, algorithm="brute").fit(references, labels).predict(queries)


def by_hand(recipe: Recipe, references, queries, fusion: str) -> float:
    labels, truth = np.concatenate([one.label() for one in references]), queries[0].label()
    stacked = np.concatenate([one.vectors for one in references])
    if fusion in ("stack", "vote"):
        given = [peer(recipe, stacked, labels, one.vectors) for one in queries]
        if fusion == "stack":
            return float(np.mean([answer == truth for answer in given]))
        closest = [
            (unit(one.vectors) @ unit(stacked).T).max(1) for one in queries
        ]  # of two views that differ, the closer wins
        return float((np.where(closest[0] >= closest[1], *given) == truth).mean())
    axis_or_mean = (
        (lambda sets: np.mean([unit(one.vectors) for one in sets], axis=0))
        if fusion == "mean"
        else (lambda sets: np.concatenate([unit(one.vectors) for one in sets], axis=1))
    )
    given = peer(recipe, axis_or_mean(references), references[0].label(), axis_or_mean(queries))
    return float((given == truth).mean())


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("fusion", ["stack", "vote", "mean", "concat"])
def test_every_fusion_has_each_classifiers_form(fusion, recipe):
    references, queries = sides()
    evaluator = make_evaluator(references, queries, fusion=fusion)
    combination = Combination(BOTH, BOTH, recipe)
    found = totals(evaluator, combination).accuracy
    assert found == pytest.approx(by_hand(recipe, references, queries, fusion))
    assert dict(evaluator.tallies([combination]))[0].accuracy == found
    plain = evaluator.decide(Combination(BOTH, BOTH))
    decided = evaluator.decide(combination)
    assert (decided.nearest == plain.nearest).all()
    assert (decided.neighbours == plain.neighbours).all()


@pytest.mark.parametrize("fusion", ["stack", "vote", "mean", "concat"])
def test_what_is_forgotten_is_fitted_again_and_costs_the_same(fusion, monkeypatch):
    references, queries = sides()
    pairs = [Combination((r,), (r,), recipe) for r, recipe in itertools.product(BOTH, RECIPES)]
    evaluator = make_evaluator(references, queries, fusion=fusion)
    tallies = {pairs[at]: found for at, found in evaluator.tallies(pairs)}
    assert len(evaluator._fitted) <= 4
    fits = []
    monkeypatch.setattr(Recipe, "fit", lambda *args: fits.append(args))
    for pair in pairs:
        rows = {"lda": 5, "prototype": 5, "linear": 5, "knn": 80}[pair.classifier.kind]
        assert cost(evaluator, pair).gallery_rows == rows
        assert cost(evaluator, pair).operations == 6 * rows
        assert totals(evaluator, pair).accuracy == tallies[pair].accuracy
    assert not fits  # 8 answers and 8 numbers of rows are remembered


def test_a_classifier_leaves_no_neighbours_out():
    evaluator = make_evaluator(*sides(), exclude="self")
    with pytest.raises(UsageError, match="leaves none out"):
        evaluator.decide(Combination(("0",), ("0",), Recipe("lda")))


def test_auto_never_sees_the_queries_that_are_scored():
    references, queries = sides()
    evaluator = make_evaluator(references, queries)
    start = Combination(("0",), ("0",))
    recipes, said = choose_recipes(["auto"], evaluator, start, on_queries=False)
    shuffled = [one.take(np.random.default_rng(0).permutation(len(one))) for one in queries]
    assert choose_recipes(["auto"], make_evaluator(references, shuffled), start, on_queries=False)[0] == recipes
    assert recipes[0] == NEAREST
    assert "by 5-fold cross-validation over 20 reference photos of 0/0" in said[0]


def test_the_verdict_asks_for_paddings_within_a_classifier_and_for_classifiers_among_pairs():
    references, queries = sides()
    evaluator = make_evaluator(references, queries)
    pairs = [Combination((r,), (q,)) for r in BOTH for q in BOTH]
    asked = with_classifiers([*pairs, Combination(BOTH, BOTH)], [NEAREST, Recipe("lda")])
    tallies = dict(evaluator.tallies(asked))
    compared = compare_all(evaluator, {one: tallies[at] for at, one in enumerate(asked)}, None, 0)
    evidence = compared.evidence
    assert compared.n_compared == 9
    assert evidence.classifiers.best.classifier == Recipe("lda")
    assert evidence.classifiers.best.is_pair
    plain = {one: tallies[at].accuracy for at, one in enumerate(asked) if one.is_pair and one.is_plain}
    assert evidence.classifiers.rival.is_plain
    assert plain[evidence.classifiers.rival] == max(plain.values())
    assert evidence.pairs.best.classifier == evidence.pairs.rival.classifier
    assert evidence.pairs.rival.classifier == (Recipe("lda") if evidence.classifiers.is_better else NEAREST)
    assert not evidence.combinations.best.is_pair
    assert evidence.combinations.rival == compared.baseline.combination
    said = verdict(compared, padding=True)
    assert [question for question, _ in said.questions] == ["Which padding?", "Combine sets?", "Another classifier?"]
    alone = compare_all(evaluator, {one: tallies[at] for at, one in enumerate(asked) if one.is_plain}, None, 0)
    assert len(verdict(alone, padding=True).questions) == 2


def test_a_single_pair_of_sets_is_named_without_a_classifier_which_has_a_sentence_of_its_own():
    references, queries = sides()
    evaluator = make_evaluator(references[:1], queries[:1])
    asked = [Combination(("0",), ("0",), recipe) for recipe in (NEAREST, Recipe("lda"))]
    tallies = dict(evaluator.tallies(asked))
    compared = compare_all(evaluator, {one: tallies[at] for at, one in enumerate(asked)}, None, 0)
    assert compared.evidence.pairs is None
    said = verdict(compared, padding=True)
    assert said.which == "Use 0/0, the only pair of sets."
    answer = compared.evidence.classifiers
    assert str(answer.best) in said.classifier if answer.difference > 0 else str(answer.rival) in said.classifier


def test_the_verdict_names_what_a_classifier_gains_where_it_was_not_chosen():
    references, queries = sides()
    evaluator = make_evaluator(references[:1], queries[:1])
    asked = [Combination(("0",), ("0",), recipe) for recipe in (NEAREST, Recipe("lda"))]
    tallies = dict(evaluator.tallies(asked))
    compared = compare_all(evaluator, {one: tallies[at] for at, one in enumerate(asked)}, None, 0)
    rows = classifier_rows(evaluator, asked[0], [NEAREST, Recipe("lda")])
    sentence = on_test(rows, "test")
    assert sentence.startswith(
        f"On test 0/0 lda gains {100 * rows[1].difference:+.1f} points on nearest (95% interval "
    )
    said = verdict(compared, padding=True, chosen_on="val", tested=sentence)
    assert said.classifier.endswith(sentence)
    assert verdict(compared, padding=True, tested=sentence).classifier != said.classifier
    assert on_test(rows[:1], "test") == ""


def test_choosing_nearest_is_an_answer_too():
    references, queries = sides()
    evaluator = make_evaluator(references[:1], queries[:1])
    pair = Combination(("0",), ("0",))
    compared = compare_all(evaluator, {pair: dict(evaluator.tallies([pair]))[0]}, None, 0)
    said = verdict(compared, padding=True, choices=["--classifier auto: nearest, chosen on references"])
    assert said.classifier == "No: none did better than nearest neighbours where classifiers were chosen."
