"""Scores, thresholds and measures of unknown products by brute force; and how many are accepted on simulated photos."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import unit
from sklearn.metrics import roc_auc_score

from classifiers.recipes import Rows
from uncertainty.intervals import accuracy_interval
from unknowns.open_set import auroc, open_set, oscr
from unknowns.scores import SCORES, closeness
from unknowns.threshold import conformal_threshold, groups_needed, set_threshold


def drawn(
    rng, n_photo: int, classes, dim: int = 16, correlation: float = 0.0, centres=None, per_photo: int = 4
) -> Rows:
    """Crops of random classes; the offsets within a class are correlated within a photo."""
    centres = rng.normal(size=(max(classes) + 1, dim)) if centres is None else centres
    photo = np.repeat(np.arange(n_photo), per_photo)
    label = rng.choice(classes, len(photo))
    shared = rng.normal(size=(n_photo, dim))[photo]
    offset = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * rng.normal(size=(len(photo), dim))
    return Rows((centres[label] + 0.8 * offset).astype(np.float32), label, photo)


@pytest.mark.parametrize("left_out", [False, True])
def test_every_score_by_brute_force(left_out):
    rng = np.random.default_rng(0)
    references = drawn(rng, 12, range(4))
    found = closeness(references.vectors, references, 4, references.photo)
    if left_out:
        found = found.without_own_class(references.label)
    units = unit(references.vectors.astype(float))
    for row in range(len(units)):
        cosines, means = [], []
        for label in range(4):
            kept = (references.label == label) & (references.photo != references.photo[row])
            if (left_out and label == references.label[row]) or not kept.any():
                continue
            cosines.append((units[kept] @ units[row]).max())
            mean = units[kept].mean(0)
            means.append(mean @ units[row] / np.linalg.norm(mean))
        first, second = sorted(cosines)[::-1][:2]
        energy = 0.07 * np.log(np.exp(np.array(cosines) / 0.07).sum())
        expected = {"cosine": first, "margin": first - second, "prototype": max(means), "energy": energy}
        for kind in SCORES:
            assert found.score(kind)[row] == pytest.approx(expected[kind], abs=1e-5), kind


def test_a_single_class_has_no_margin_and_left_out_no_score():
    found = closeness(np.eye(2), Rows(np.eye(2), np.zeros(2, int), np.arange(2)), 1)
    assert found.score("margin").tolist() == [1, 1]
    assert np.isneginf(found.without_own_class(np.zeros(2, int)).score("cosine")).all()


def test_auroc_is_scikit_learns_and_oscr_a_count_of_pairs():
    rng = np.random.default_rng(1)
    known, unknown = rng.integers(0, 9, 40) / 8, rng.integers(0, 7, 30) / 8  # with ties
    right = rng.random(40) < 0.7
    truth = np.r_[np.ones(40), np.zeros(30)]
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, np.r_[known, unknown]))
    pairs = [r * ((k > u) + (k == u) / 2) for k, r in zip(known, right, strict=True) for u in unknown]
    assert oscr(known, right, unknown) == pytest.approx(np.mean(pairs))
    assert math.isnan(auroc(known, unknown[:0]))


def test_rates_are_counts_with_intervals_by_photo():
    rng = np.random.default_rng(2)
    known, unknown, right = rng.random(40), rng.random(24) - 0.3, rng.random(40) < 0.6
    photo, other = np.arange(40) // 4, np.arange(24) // 3
    found = open_set(known, right, photo, unknown, other, 0.5)
    hits = (known > 0.5) & right
    assert found.correct_accept == accuracy_interval(hits.reshape(10, 4).sum(1), np.full(10, 4))
    assert found.accept.accuracy == pytest.approx((known > 0.5).mean())
    assert found.false_accept == accuracy_interval((unknown > 0.5).reshape(8, 3).sum(1), np.full(8, 3))


@pytest.mark.parametrize("asked", [0.05, 0.1, 0.3])
def test_the_threshold_by_brute_force(asked):
    """The least score that leaves, with the unseen group, at most the asked weight above it."""
    rng = np.random.default_rng(3)
    for n_group in (5, 9, 19, 25):
        groups = np.r_[np.arange(n_group), rng.integers(0, n_group, 60)]
        scores = rng.integers(0, 40, len(groups)) / 40
        size = np.bincount(groups)

        def weight_above(threshold, groups=groups, scores=scores, size=size, n_group=n_group):
            shares = [(scores[groups == g] > threshold).sum() / size[g] for g in range(n_group)]
            return (sum(shares) + 1) / (n_group + 1)

        fits = [t for t in sorted({*scores, -math.inf}) if weight_above(t) <= asked + 1e-9]
        assert conformal_threshold(scores, groups, asked) == (fits[0] if fits else math.inf)
        assert bool(fits) == (n_group >= groups_needed(asked))
    assert groups_needed(0.05) == 19


def test_too_few_classes_are_said():
    rng = np.random.default_rng(4)
    few = set_threshold(drawn(rng, 60, range(6)), 6, 0.05)
    assert (few.supported, few.n_class, few.needed) == (False, 6, 19)
    assert few.threshold < math.inf  # that of the 60 photos
    assert set_threshold(drawn(rng, 10, range(6)), 6, 0.05).threshold == math.inf
    assert set_threshold(drawn(rng, 60, range(24)), 24, 0.05).supported


def test_photos_of_validation_are_not_those_of_the_references():
    rng = np.random.default_rng(5)
    references, validation = drawn(rng, 30, range(24)), drawn(rng, 12, range(24))
    assert set_threshold(references, 24, 0.05, validation=validation).n_photo == 42


def accepted(seed: int, n_photo: int, correlation: float, source: str) -> float | None:
    """Return the share of crops of new classes in new photos that are accepted at 5 %; None where the output says "too few"."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(72, 16))
    draw = {"correlation": correlation, "centres": centres}
    references = drawn(rng, n_photo, range(24), **draw)
    unknown = drawn(rng, n_photo, range(24, 48), **draw) if source == "unknown" else None
    validation = drawn(rng, n_photo, range(24), **draw) if source == "validation" else None
    found = set_threshold(references, 24, 0.05, unknown=unknown, validation=validation)
    if not found.supported:
        return None
    strangers = drawn(rng, 100, range(48, 72), **draw)
    return float((closeness(strangers.vectors, references, 24).score(found.score) > found.threshold).mean())


def check(studies: int, n_photo: int, correlation: float, source: str) -> None:
    shares = [accepted(seed, n_photo, correlation, source) for seed in range(studies)]
    told = [share for share in shares if share is not None]
    assert told or n_photo < 20
    standard_error = np.std(told) / math.sqrt(len(told))
    assert np.mean(told) <= 0.07, f"{np.mean(told):.3f} ± {standard_error:.3f} over {len(told)} studies"


@pytest.mark.parametrize("source", ["references", "unknown"])
@pytest.mark.parametrize("n_photo", [20, 67, 200])
def test_few_unknown_products_are_accepted(n_photo, source):
    check(25, n_photo, 0.3, source)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["references", "validation", "unknown"])
@pytest.mark.parametrize("correlation", [0.0, 0.15, 0.3])
@pytest.mark.parametrize("n_photo", [20, 67, 200])
def test_few_unknown_products_are_accepted_in_many_studies(n_photo, correlation, source):
    check(100, n_photo, correlation, source)
