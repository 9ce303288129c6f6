"""Each classifier against scikit-learn's, or a few lines of numpy; and the choice among them."""

from __future__ import annotations

import numpy as np
import pytest
from builders import unit
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from classifiers.choice import choose, per_photo, photo_folds
from classifiers.kinds import KINDS
from classifiers.recipes import Recipe, Rows, candidates

N_CLASS = 5


def rows(seed: int, n: int = 60, dim: int = 12, noise: float = 0.9, classes=(0, 1, 3, 4)) -> Rows:
    """Two rows a photo around the centres of their classes, with an offset of the photo; class 2 has none."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(N_CLASS, dim))
    photo = np.arange(n) // 2
    label = rng.choice(classes, n)
    vectors = centres[label] + rng.normal(size=(n, dim))[photo] * 0.4 + noise * rng.normal(size=(n, dim))
    return Rows((vectors * rng.uniform(0.5, 20, (n, 1))).astype(np.float32), label, photo)


@pytest.mark.parametrize("seed", range(3))
def test_nearest_and_knn_are_scikit_learns(seed):
    reference, query = rows(seed), rows(seed + 50)
    nearest = Recipe("nearest").fit(reference.vectors, reference.label, N_CLASS)
    peer = KNeighborsClassifier(1).fit(unit(reference.vectors), reference.label)
    scores = nearest.scores(query.vectors)
    assert (scores.argmax(1) == peer.predict(unit(query.vectors))).all()
    cosines = unit(query.vectors) @ unit(reference.vectors).T
    for label in (0, 1, 3, 4):
        np.testing.assert_allclose(scores[:, label], cosines[:, reference.label == label].max(1), atol=1e-6)
    assert np.isneginf(scores[:, 2]).all()

    def softmax(distance):  # |a - b|² = 2 - 2 cos for unit rows
        return np.exp((1 - distance**2 / 2) / 0.07)

    model = Recipe("knn", k=7, temperature=0.07).fit(reference.vectors, reference.label, N_CLASS)
    peer = KNeighborsClassifier(7, weights=softmax, algorithm="brute").fit(unit(reference.vectors), reference.label)
    np.testing.assert_allclose(
        model.scores(query.vectors)[:, [0, 1, 3, 4]], peer.predict_proba(unit(query.vectors)), atol=1e-4
    )
    assert (nearest.rows, model.rows) == (60, 60)


@pytest.mark.parametrize("seed", range(3))
def test_prototypes_are_class_means(seed):
    reference, query = rows(seed), rows(seed + 50)
    model = Recipe("prototype").fit(reference.vectors, reference.label, N_CLASS)
    means = NearestCentroid().fit(unit(reference.vectors), reference.label).centroids_
    expected = unit(query.vectors) @ unit(means).T
    np.testing.assert_allclose(model.scores(query.vectors)[:, [0, 1, 3, 4]], expected, atol=1e-6)
    assert model.rows == 4
    several = Recipe("prototype", centres=3).fit(reference.vectors, reference.label, N_CLASS)
    assert several.rows == 12


def test_sub_centres_find_two_clusters_within_a_class():
    vectors = np.array([[1, 0.01, 0], [1, -0.01, 0], [0, 1, 0.01], [0, 1, -0.01], [0, 0, 1], [0, 0, 2]], np.float32)
    labels = np.array([0, 0, 0, 0, 1, 1])
    model = Recipe("prototype", centres=2).fit(vectors, labels, 2)
    assert model.rows == 3  # two clusters; both rows of class 1 point one way
    np.testing.assert_allclose(model.scores(np.eye(3))[:, 0], [1, 1, 0.01], atol=0.011)


@pytest.mark.parametrize(("n", "dim"), [(60, 12), (30, 80)])  # both ways to solve
def test_lda_is_bayes_rule_with_scikit_learns_ledoit_wolf(n, dim):
    reference, query = rows(1, n, dim), rows(51, 40, dim)
    units, queries = unit(reference.vectors.astype(float)), unit(query.vectors.astype(float))
    present = np.unique(reference.label)
    means = np.array([units[reference.label == label].mean(0) for label in present])
    centred = units - means[np.searchsorted(present, reference.label)]
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(centred).covariance_)
    priors = np.array([(reference.label == label).mean() for label in present])
    expected = queries @ inverse @ means.T - np.diag(means @ inverse @ means.T) / 2 + np.log(priors)
    scores = Recipe("lda").fit(reference.vectors, reference.label, N_CLASS).scores(query.vectors)
    np.testing.assert_allclose(scores[:, present], expected, rtol=1e-3, atol=1e-3)
    assert np.isneginf(np.delete(scores, present, 1)).all()


@pytest.mark.parametrize("classes", [(0, 1, 3, 4), (1, 3)])
def test_linear_is_scikit_learns_logistic_regression(classes):
    reference, query = rows(2, classes=classes), rows(52, classes=classes)
    scores = Recipe("linear", strength=10).fit(reference.vectors, reference.label, N_CLASS).scores(query.vectors)
    peer = LogisticRegression(C=10, max_iter=300).fit(unit(reference.vectors), reference.label)
    shares = np.exp(scores[:, list(classes)])
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(shares, peer.predict_proba(unit(query.vectors)), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2])
def test_one_class_or_one_row_is_enough(kind, n):
    vectors = np.array([[3, 4], [4, 3]], np.float32)[:n]
    model = Recipe(kind).fit(vectors, np.array([1, 1])[:n], 3)
    assert model.scores(np.eye(2)).argmax(1).tolist() == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_a_class(kind):
    model = Recipe(kind, k=3).fit(np.eye(3, dtype=np.float32), np.arange(3), 3)
    assert model.scores(np.eye(3) + 0.1).argmax(1).tolist() == [0, 1, 2]


def test_the_choice_on_validation_is_the_best_by_brute_force():
    reference, query = rows(3), rows(53)
    choice = choose(candidates("auto"), reference, N_CLASS, query)
    for place, recipe in enumerate(choice.recipes):
        scores = recipe.fit(reference.vectors, reference.label, N_CLASS).scores(query.vectors)
        assert choice.accuracies[place] == pytest.approx((scores.argmax(1) == query.label).mean()), recipe
    assert choice.best == next(i for i, a in enumerate(choice.accuracies) if a == max(choice.accuracies))
    totals, size = per_photo(choice.right, choice.photo)
    assert totals.shape == (len(choice.recipes), 30)
    np.testing.assert_array_equal(totals.sum(1), choice.right.sum(1))
    assert (size == 2).all()


def test_cross_validation_keeps_photos_whole():
    reference = rows(4)
    held = []
    for kept, held_out in photo_folds(reference, 5):
        assert not set(reference.photo[kept]) & set(reference.photo[held_out])
        held += held_out.tolist()
    assert sorted(held) == list(range(60))
    choice = choose([Recipe("nearest")], reference, N_CLASS)
    # A twin of every row in the same photo must help nothing: by folds of rows the accuracy would be 1.
    twins = Rows(np.tile(reference.vectors, (2, 1)), np.tile(reference.label, 2), np.tile(reference.photo, 2))
    assert choose([Recipe("nearest")], twins, N_CLASS).accuracies[0] < 1
    assert 0.4 < choice.accuracies[0] < 1


def test_what_cannot_be_tried_is_said():
    one = Rows(np.eye(3, dtype=np.float32), np.array([0, 1, 1]), np.zeros(3, int))
    choice = choose(candidates("auto"), one, 2)
    assert choice.recipe == Recipe("nearest")
    assert "untried" in choice.how
    assert np.isnan(choice.accuracies).all()
