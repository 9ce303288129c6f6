"""Likely label errors: leaving out in closed form against refitting, planted swaps, and what nobody can judge."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from common import knn
from soundness import label_errors, left_out


def planted(n=1200, n_class=12, dim=32, swapped=0.05, seed=0, clusters=1, spread=1.1):
    """Vectors (n, dim) of classes of several clusters each, labels of which some are wrong, and the rows of these."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, n_class * clusters, n)
    centres = np.random.default_rng(5).standard_normal((n_class * clusters, dim))
    vectors = (centres[cluster] + spread * rng.standard_normal((n, dim))).astype(np.float32)
    wrong = rng.choice(n, int(swapped * n), replace=False)
    label = cluster % n_class
    label[wrong] = (label[wrong] + rng.integers(1, n_class, len(wrong))) % n_class
    return vectors, label, wrong


def precision(vectors, label, wrong, first=50):
    found = label_errors.chances(vectors, label, np.arange(len(label)), int(label.max()) + 1)
    return np.isin(found.suspects()[:first], wrong).mean()


def refitted(coordinates, label, n_class, out, penalty):
    """Scores of the rows `out` by a ridge regression on all others, with an intercept without penalty."""
    kept = np.setdiff1d(np.arange(len(label)), out)
    x, y = coordinates[kept], np.eye(n_class)[label[kept]]
    inner = (x - x.mean(axis=0)).T @ (x - x.mean(axis=0)) + penalty * np.eye(x.shape[1])
    weights = np.linalg.solve(inner, (x - x.mean(axis=0)).T @ (y - y.mean(axis=0)))
    return y.mean(axis=0) + (coordinates[out] - x.mean(axis=0)) @ weights


@pytest.mark.parametrize(
    ("landmarks", "within"), [(1024, 1e-9), (30, 2e-3)]
)  # all rows in float64; drawn ones in float32
@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_scores_equal_refitting_without_the_crop(monkeypatch, landmarks, within, penalty):
    monkeypatch.setattr(left_out, "LANDMARKS", landmarks)
    rng = np.random.default_rng(0)
    crop = np.concatenate([rng.permutation(np.repeat(np.arange(20), 3)), np.full(7, 20), np.arange(21, 61)])
    vectors, label, _ = planted(len(crop), n_class=5, dim=6)
    vectors[3] = vectors[9]
    order = left_out.Order.of(crop)
    fit = left_out.fit(vectors, label, 5, order)
    coordinates = fit.coordinates(vectors).astype(np.float64)
    seen = []
    for rows, sizes in order.blocks(16):
        assert sizes.sum() == len(rows) <= 16
        scores = fit.scores(fit.coordinates(vectors[rows]), sizes, label[rows], penalty)
        for number in np.unique(crop[rows]):
            out = np.flatnonzero(crop == number)
            at = np.array([np.flatnonzero(rows == row)[0] for row in out])
            np.testing.assert_allclose(scores[at], refitted(coordinates, label, 5, out, penalty), atol=within)
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(crop)))


def test_coordinates_of_all_rows_give_the_kernel():
    vectors, label, _ = planted(60, dim=6)
    fit = left_out.fit(vectors, label, 12, left_out.Order.of(np.arange(60)))
    coordinates = fit.coordinates(vectors)
    unit = knn.unit(vectors).astype(np.float64)
    distance = 1 - unit @ unit.T
    kernel = np.exp(-distance / np.median(distance[np.triu_indices(60, 1)]))
    centring = np.eye(60) - 1 / 60
    np.testing.assert_allclose(coordinates @ coordinates.T, centring @ kernel @ centring, atol=1e-5)
    np.testing.assert_allclose(coordinates.T @ coordinates, np.diag(fit.spectrum), atol=1e-8)
    np.testing.assert_allclose(coordinates.T @ np.eye(12)[label], fit.targets, atol=1e-8)


def test_the_penalty_and_the_temperature_have_the_least_error():
    vectors, label, _ = planted(60, n_class=4, dim=8)
    order = left_out.Order.of(np.arange(60))
    fit = left_out.fit(vectors, label, 4, order)
    rows, sizes = next(order.blocks(60))
    penalty, temperature = label_errors._tuned(fit, vectors, label, rows, sizes)
    truth, coordinates = np.eye(4)[label], fit.coordinates(vectors)
    errors = {}
    for each in fit.level * label_errors.PENALTIES:
        left = np.concatenate([refitted(coordinates, label, 4, np.array([row]), each) for row in range(60)])
        errors[each] = ((left - truth) ** 2).sum(axis=1)
    least = min(errors.values(), key=np.mean)
    assert penalty == max(
        each for each, error in errors.items() if error.mean() <= least.mean() + least.std() / 60**0.5
    )
    left = np.concatenate([refitted(coordinates, label, 4, np.array([row]), penalty) for row in range(60)])

    def brier(by):
        raw = np.exp(left / by - (left / by).max(axis=1, keepdims=True))
        return ((raw / raw.sum(axis=1, keepdims=True) - truth) ** 2).sum()

    assert temperature == min(label_errors.TEMPERATURES, key=brier)


@pytest.mark.parametrize("clusters", [1, 5])  # with five to a class a linear classifier finds few of them
@pytest.mark.parametrize("landmarks", [1024, 300])
def test_planted_swaps_stand_first(monkeypatch, clusters, landmarks):
    monkeypatch.setattr(left_out, "LANDMARKS", landmarks)
    assert precision(*planted(clusters=clusters, spread=0.8)) >= 0.96


def test_blocks_change_nothing(monkeypatch):
    vectors, label, _ = planted(600)
    crop = np.arange(600) // 2
    monkeypatch.setattr(label_errors, "TUNED", 100)
    whole = label_errors.chances(vectors, label, crop, 12)
    monkeypatch.setattr(left_out, "BLOCK", 600 * 150)
    same = label_errors.chances(vectors, label, crop, 12)
    np.testing.assert_allclose(same.own, whole.own, atol=1e-9)
    assert same.suspects().tolist() == whole.suspects().tolist()
    assert (whole.own + whole.other <= 1 + 1e-9).all()
    assert (whole.suggested != label).all()


def test_views_of_one_crop_do_not_vouch_for_each_other():
    vectors, label, wrong = planted(400, spread=0.8)
    twice, both = np.repeat(vectors, 3, axis=0), np.repeat(label, 3)
    crop = np.repeat(np.arange(400), 3)
    apart = label_errors.chances(twice, both, crop, 12)
    found = apart.suspects()[: 3 * len(wrong)] // 3
    assert np.isin(found, wrong).mean() >= 0.9
    vouched = label_errors.chances(twice, both, np.arange(1200), 12)
    assert np.isin(wrong, vouched.suspects() // 3).mean() < 0.5  # as if each view were a crop of its own


def test_what_cannot_be_judged_is_not_listed():
    vectors, label, wrong = planted(300, n_class=4)
    crop = np.arange(300)
    label[[5, 7, 8]], crop[8] = [4, 5, 5], crop[7]  # a label of one crop, and one of two views of one crop
    found = label_errors.chances(vectors, label, crop, 7)  # of label 6 there is none
    assert np.flatnonzero(np.isnan(found.own)).tolist() == [5, 7, 8]
    assert found.n_unjudged == 3
    assert not set(found.suspects()) & {5, 7, 8}
    assert np.isin(found.suspects()[:10], wrong).mean() >= 0.9
    for rows in ([0], [7, 8]):  # one crop
        few = label_errors.chances(vectors[rows], label[rows], crop[rows], 7)
        assert few.n_unjudged == len(rows)
        assert not len(few.suspects())
    alike = label_errors.chances(vectors[:20], np.zeros(20, int), crop[:20], 7)
    assert alike.n_unjudged == len(alike.suspects()) == 0


def test_equal_vectors_have_equal_chances():
    vectors, label = np.ones((40, 8), np.float32), np.repeat([0, 1], 20)
    found = label_errors.chances(vectors, label, np.arange(40), 2)
    assert np.ptp(found.own) < 1e-6
    half = np.concatenate([np.eye(8, dtype=np.float32)[[0] * 20], np.eye(8, dtype=np.float32)[[1] * 20]])
    label[0] = 1
    found = label_errors.chances(half, label, np.arange(40), 2)
    assert found.suspects().tolist() == [0]


SCRIPT = """
import sys
import numpy as np
sys.path[:0] = sys.argv[1:]
from test_label_errors import planted
from soundness import label_errors
vectors, label, _ = planted(1500)
found = label_errors.chances(vectors, label, np.arange(1500), 12)
print(found.suspects().tolist())
"""


def test_one_thread_and_two_give_one_list(root):
    lists = []
    for threads in ("1", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-c", SCRIPT, str(root), str(root / "tests" / "soundness")]
        lists.append(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert lists[0] == lists[1]
    assert len(lists[0]) > 100


def test_no_less_precise_than_cleanlab():
    rank = pytest.importorskip("cleanlab.rank", reason="cleanlab is not installed: a requirement of development")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    ours, theirs = [], []
    for seed in range(3):
        vectors, label, wrong = planted(600, swapped=0.1, seed=seed)
        ours.append(precision(vectors, label, wrong))
        chances = cross_val_predict(LogisticRegression(), knn.unit(vectors), label, cv=5, method="predict_proba")
        theirs.append(np.isin(np.argsort(rank.get_label_quality_scores(label, chances))[:50], wrong).mean())
    assert np.mean(ours) >= np.mean(theirs)
