"""Comparisons, winners, references and other scores: hand-computed numbers, other libraries as oracles, seeded simulations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from uncertainty import comparisons, datasets, intervals, power, references, scores, winner


def test_one_sided_p_by_hand_and_hopeless_rows_pay_nothing():
    good = np.array([2.0, 1, 3, 1, 2])
    assert comparisons.one_sided_p(good[None])[0] == 1 / 32  # only +++++ reaches the sum
    hopeless = np.tile([-3.0, -2, -3, -3, -2], (200, 1))
    p = comparisons.one_sided_p(np.vstack([good, hopeless]))
    assert p[0] == 1 / 32
    assert (p[1:] == 1).all()
    assert comparisons.corrected_p(np.vstack([good, hopeless]))[0] == 1 / 16 * 1
    assert comparisons.one_sided_p(np.zeros((2, 4))).tolist() == [1, 1]


def test_one_sided_p_equals_enumeration():
    rng = np.random.default_rng(0)
    d = rng.integers(-2, 4, (5, 8)).astype(float)
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    norm = np.sqrt((d**2).sum(axis=1))
    observed, flipped = d.sum(axis=1) / norm, signs @ d.T / norm
    t = observed * np.sqrt(7 / (8 - observed**2))
    kept = np.flatnonzero(t >= -np.sqrt(2 * np.log(np.log(8))))
    expected = np.ones(5)
    for row in kept:
        expected[row] = max(
            np.mean(flipped[:, kept[observed[kept] <= observed[higher] + 1e-9]].max(axis=1) >= observed[higher] - 1e-9)
            for higher in kept
            if observed[higher] >= observed[row] - 1e-9
        )
    np.testing.assert_allclose(comparisons.one_sided_p(d), np.where(observed == 0, 1, expected))


def test_to_beat_the_best_pair_is_to_beat_each_pair():
    totals = np.array([[3.0, 3, 3, 3, 3, 3], [1, 1, 1, 1, 1, 1], [4, 4, 4, 4, 4, 4], [2, 4, 3, 3, 2, 4]])
    p = comparisons.beats_best_p(totals, [0, 1])
    assert p[:2].tolist() == [1, 1]
    against_first = comparisons.one_sided_p(totals[2:] - totals[0])
    assert p[2] == against_first[0] == 1 / 64
    assert p[3] >= against_first[1]


def test_smallest_p_and_packed_share_by_hand():
    assert power.smallest_p([[1, -1, 2, 0, 0, -1, 3]]) == 2 / 32  # five photos differ
    assert power.smallest_p(np.zeros((3, 4)), 2) == 1
    assert power.smallest_p([[1, 1, 1, 1, 1], [0, 2, 0, 1, -1]], 1) >= 2 / 8  # three photos differ
    assert power.packed_share([[4, -1, 0, 1], [0, 0, 0, 0]]).tolist() == [4 / 6, 0]
    assert power.packed_share([[0.5, -0.25, 0, 0]]).tolist() == [2 / 3]  # means over views


def test_packed_errors_against_scattered_ones_are_no_finding():
    """Twenty photos of ten crops at accuracy 0.95: one side's wrong crops share a photo, which sign flips take for rare luck."""
    rng = np.random.default_rng(8)
    size = np.full(20, 10)
    packed, scattered = 10 * (rng.random((300, 20)) < 0.95), rng.binomial(10, 0.95, (300, 20))
    flips = [comparisons.sign_flip_p(a - b, flips=499) for a, b in zip(packed, scattered, strict=True)]
    p = [
        comparisons.paired_comparison((a - b)[None], size, baseline=b, flips=499).p[0]
        for a, b in zip(packed, scattered, strict=True)
    ]
    mirrored = comparisons.paired_comparison((scattered - packed)[:1], size, baseline=packed[0], flips=499).p[0]
    assert np.mean(np.array(flips) <= 0.05) > 0.2
    assert np.mean(np.array(p) <= 0.05) <= 0.05
    assert (np.array(p) >= flips).all()
    assert mirrored == p[0]


def test_error_photos_by_hand():
    assert comparisons.error_photos([[5, 5, 5], [5, 0, 5], [4, 4, 5]], [5, 5, 5]).tolist() == [0, 1, 2]


def test_no_combination_gains_more_than_the_limit():
    """All 30 limits hold at once in 95% of studies; one at a time they would not."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(150):
        size = rng.integers(1, 12, 40)
        right = rng.binomial(size, 0.8, (31, 40))
        limits = power.simultaneous_upper_limits(right[1:] - right[0], size, flips=400)
        held.append((limits >= 0).all())
    assert np.mean(held) >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 150)
    one = power.simultaneous_upper_limits(right[1:2] - right[0], size, flips=4000)
    many = power.simultaneous_upper_limits(right[1:] - right[0], size, flips=4000)
    assert intervals.difference_intervals(right[1:2] - right[0], size, level=0.9)[1][0] == pytest.approx(
        one[0], abs=0.004
    )
    assert many[0] > one[0]


def test_photos_needed_by_hand_and_by_simulation():
    rng = np.random.default_rng(2)
    difference = rng.choice([-1, 0, 1], size=(1, 400), p=[0.1, 0.8, 0.1])
    needed = power.photos_needed(difference, np.ones(400), gain=0.05)[0]
    assert needed == pytest.approx((1.645 + 0.8416) ** 2 * difference.var() / 0.05**2, rel=0.02)
    found = [
        comparisons.one_sided_p(rng.choice([-1, 0, 1], size=(1, int(needed)), p=[0.075, 0.8, 0.125]), flips=499)[0]
        <= 0.05
        for _ in range(200)
    ]
    assert 0.70 <= np.mean(found) <= 0.90


def test_winner_is_corrected_for_its_luck():
    """Forty equal combinations: the best of them is no better than the others."""
    rng = np.random.default_rng(3)
    observed, corrected = [], []
    for _ in range(60):
        size = np.full(20, 6)
        right = rng.binomial(size, 0.8, (40, 20))
        result = winner.corrected_winner(right, size, resamples=200)
        observed.append(right.sum(axis=1).max() / 120)
        corrected.append(result.accuracy)
    assert np.mean(observed) > 0.85
    assert abs(np.mean(corrected) - 0.8) < 0.015


def test_winner_by_hand():
    clear = winner.corrected_winner([[2, 2, 2], [0, 0, 1]], [2, 2, 2])
    assert (clear.row, clear.accuracy, clear.returns) == (0, 1, 1)
    alone = winner.corrected_winner([[2], [1]], [2])
    assert (alone.row, alone.low, alone.high) == (0, 0, 1)
    assert np.isnan(alone.accuracy)


def test_ranks_of_a_clear_order_and_of_equals():
    ranks = winner.rank_intervals([[9] * 30, [5] * 30, [1] * 30], np.full(30, 10))
    assert (ranks.low.tolist(), ranks.high.tolist(), ranks.best.tolist()) == ([1, 2, 3], [1, 2, 3], [1, 0, 0])
    equal = winner.rank_intervals([[5] * 30, [5] * 30], np.full(30, 10))
    assert equal.best.tolist() == [0.5, 0.5]


def test_halves_share_photos_of_each_label():
    photo = np.repeat(np.arange(12), 3)
    label = np.repeat(np.arange(12) % 3, 3)
    for half in references.halves(photo, label, 10):
        assert all(len(set(half[photo == one])) == 1 for one in range(12))  # a photo goes as a whole
        assert [len(set(photo[half & (label == one)])) for one in range(3)] == [2, 2, 2]


def test_new_references_widen_the_interval_by_what_they_vary():
    size = np.full(50, 4)
    rng = np.random.default_rng(4)
    right = rng.binomial(size, 0.7)
    same = np.stack([np.stack([right, right])] * 5)
    interval, deviation = references.new_reference_interval(right, size, same)
    plain = intervals.accuracy_interval(right, size)
    assert (interval.low, interval.high, deviation) == (plain.low, plain.high, 0)
    apart = np.stack([np.stack([np.minimum(right + 1, 4), np.maximum(right - 1, 0)])] * 5)
    wider, deviation = references.new_reference_interval(right, size, apart)
    gap = (apart[0, 0] - apart[0, 1]).sum() / 200
    assert deviation == pytest.approx(gap / 2, rel=0.02)
    assert wider.high - wider.low > plain.high - plain.low


def test_macro_f1_equals_scikit_learn_and_its_interval_covers():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(5)

    def study(n_photo):
        photo = np.repeat(np.arange(n_photo), 5)
        label = rng.integers(0, 6, len(photo))
        wrong = rng.random(len(photo)) < 0.3
        return label, np.where(wrong, rng.integers(0, 6, len(photo)), label), photo

    label, predicted, photo = study(30)
    assert scores.macro_f1_interval(label, predicted, photo)[0] == pytest.approx(
        f1_score(label, predicted, average="macro")
    )
    truth = scores.macro_f1_interval(*study(40_000))[0]
    limits = np.array([scores.macro_f1_interval(*study(40))[1:] for _ in range(300)])
    assert np.mean((limits[:, 0] <= truth) & (truth <= limits[:, 1])) >= 0.92
    assert scores.macro_f1_interval(label, label, photo) == (1, 0, 1)


def test_class_recalls_shrink_by_their_support():
    rng = np.random.default_rng(6)
    truth = rng.beta(6, 4, 2000)
    size = rng.integers(2, 30, 2000)
    found = scores.class_recalls(rng.binomial(size, truth), size)
    assert np.mean((found.shrunken - truth) ** 2) < 0.7 * np.mean((found.recall - truth) ** 2)
    assert np.mean((found.low <= truth) & (truth <= found.high)) == pytest.approx(0.95, abs=0.02)
    np.testing.assert_allclose(found.reliability, size / (size + 10), atol=0.06)
    assert np.isnan(scores.class_recalls([3, 0], [4, 0]).shrunken[1])


def test_perfect_calibration_shows_an_error():
    mean, limit = scores.calibrated_error(np.random.default_rng(7).beta(4, 1.2, 288))
    assert 0.03 < mean < 0.08
    assert limit > mean
    assert scores.calibrated_error(np.ones(50)) == (0, 0)


def test_close_calls_counts_other_labels_only():
    similarities = np.array([[0.9, 0.9 - 5e-7, 0.1], [0.9, 0.9 - 5e-7, 0.1], [0.9, 0.8, 0.7]])
    labels = np.array([[1, 2, 3], [1, 1, 3], [1, 2, -1]])
    assert scores.close_calls(similarities, labels).sum() == 1


def test_pooled_difference_by_hand():
    pooled = datasets.pooled_difference([0.1, 0.1, 0.1], [0.01, 0.01, 0.01])
    half_width = stats.t.ppf(0.975, 2) * np.sqrt(0.01 / 3)
    assert (pooled.mean, pooled.spread) == (pytest.approx(0.1), 0)
    assert (pooled.low, pooled.high) == pytest.approx((0.1 - half_width, 0.1 + half_width))
    # Equal variances: Paule-Mandel's spread is sample variance - variance, so that Hartung-Knapp is the t interval of the three.
    apart = datasets.pooled_difference([-0.2, 0.0, 0.2], [0.01, 0.01, 0.01])
    assert apart.spread == pytest.approx(np.sqrt(0.04 - 0.01))
    assert apart.high == pytest.approx(stats.t.ppf(0.975, 2) * np.sqrt(0.04 / 3))
    assert apart.new_high == 1
    assert datasets.pooled_difference([0.3], [0.01]).high == 1


def test_the_smallest_gain_is_where_the_photos_there_are_are_enough():
    rng = np.random.default_rng(0)
    size = rng.integers(1, 6, 60)
    difference = rng.binomial(size, 0.1) - rng.binomial(size, 0.1)
    found = power.smallest_gain(difference[None], size)
    assert power.photos_needed(difference[None], size, gain=found)[0] <= 60
    assert power.photos_needed(difference[None], size, gain=found - 0.001)[0] > 60
    assert np.isnan(power.smallest_gain(np.array([[1.0, -1.0]]), np.array([1, 1])))
