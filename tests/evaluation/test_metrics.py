"""Metrics against numbers worked out by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support, silhouette_score

from common.knn import unit
from evaluation import metrics


def test_map_at_r_of_the_paper_by_hand():
    # R = 3, relevant at ranks 1 and 3: (1/1 + 2/3) / 3; R-precision 2/3. A relevant row beyond R does not count.
    relevant = np.array([[1, 0, 1, 1, 1], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    map_at_r, r_precision = metrics.average_precision_at_r(relevant, np.array([3, 2, 0]))
    np.testing.assert_allclose(map_at_r, [(1 + 2 / 3) / 3, (1 / 2) / 2, 0])
    np.testing.assert_allclose(r_precision, [2 / 3, 1 / 2, 0])


def test_class_scores_equal_scikit_learn_also_with_classes_never_predicted():
    rng = np.random.default_rng(0)
    actual, predicted = rng.integers(0, 6, 200), rng.integers(0, 7, 200)
    predicted[predicted == 2] = 3
    actual[actual == 5] = 4
    right = np.bincount(actual[actual == predicted], minlength=8)
    scores = metrics.class_scores(right, np.bincount(predicted, minlength=8), np.bincount(actual, minlength=8))
    labels = np.union1d(actual, predicted)
    precision, recall, f1, support = precision_recall_fscore_support(actual, predicted, labels=labels, zero_division=0)
    np.testing.assert_allclose(scores.precision[labels], precision)
    np.testing.assert_allclose(scores.recall[labels], recall)
    np.testing.assert_allclose(scores.f1[labels], f1)
    np.testing.assert_array_equal(scores.support[labels], support)
    assert scores.macro_f1 == pytest.approx(f1.mean())


def test_confusion_counts_no_prediction_apart():
    counts = metrics.confusion(np.array([0, 0, 1, 1]), np.array([0, 1, -1, 1]), 2)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 1]]


def test_similarity_and_silhouette_equal_the_quadratic_way():
    rng = np.random.default_rng(1)
    vectors = unit(
        rng.normal(size=(60, 5)).astype(np.float32) + np.eye(5, dtype=np.float32)[rng.integers(0, 3, 60)] * 2
    )
    labels = rng.integers(0, 4, 60)
    labels[0], labels[labels == 3] = 5, 2  # class 3 and 4 are empty, class 5 has one row
    got = metrics.similarity(vectors, labels, 6)
    products = vectors.astype(float) @ vectors.T.astype(float)
    off = ~np.eye(60, dtype=bool)
    same = labels[:, None] == labels[None, :]
    assert got.within == pytest.approx(products[same & off].mean(), abs=1e-6)
    assert got.between == pytest.approx(products[~same].mean(), abs=1e-6)
    for a in (0, 1, 2):
        for b in (0, 1, 2, 5):
            pairs = products[np.ix_(labels == a, labels == b)]
            expected = pairs[~np.eye(len(pairs), dtype=bool)].mean() if a == b else pairs.mean()
            assert got.matrix[a, b] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(got.matrix[5, 5])
    assert np.isnan(got.matrix[3]).all()
    assert got.silhouette == pytest.approx(silhouette_score(vectors, labels, metric="cosine"), abs=1e-5)


def test_one_class_has_no_silhouette_and_no_between():
    got = metrics.similarity(unit(np.eye(3, dtype=np.float32) + 1), np.zeros(3, int), 1)
    assert np.isnan(got.silhouette)
    assert np.isnan(got.between)
