"""Formulas beside a plain loop over photos, classes or draws, beside scipy, or where a limit lies exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit, ndtri
from sklearn.metrics import f1_score

from uncertainty import comparisons, datasets, intervals, power, references, scores, sign_flips, winner

# --- comparisons ----------------------------------------------------------------------------------------------------


def test_student_is_that_of_a_t_test():
    d = np.random.default_rng(0).integers(-3, 5, (4, 9)).astype(float)
    statistic = d.sum(axis=1) * sign_flips.inverse_norms(d)
    np.testing.assert_allclose(sign_flips.student(statistic, 9), stats.ttest_1samp(d, 0, axis=1).statistic)


def test_a_row_is_hopeless_from_minus_the_root_of_two_log_log_photos_on():
    """Ten photos: 1.2916. Of two rows about it one is tested, at a p below 1, the other not."""
    limit = np.sqrt(2 * np.log(np.log(10)))
    d = np.array([-2.0, 1, -1, 2, -2, 1, -1, -1, -1, 0.5])
    d -= d.mean()
    rows = np.stack([d - share * limit * d.std(ddof=1) / np.sqrt(10) for share in (0.999, 1.001)])
    np.testing.assert_allclose(stats.ttest_1samp(rows, 0, axis=1).statistic, [-0.999 * limit, -1.001 * limit])
    p = comparisons.one_sided_p(rows)
    assert p[0] < 1
    assert p[1] == 1


@pytest.mark.parametrize(("n_error_photo", "few"), [(4, True), (5, False)])
def test_errors_in_five_photos_are_not_packed(n_error_photo, few):
    """The better side errs once in each of some photos, the other twice in every photo and once more there."""
    size, baseline = np.full(20, 10.0), np.full(20, 8.0)
    better = np.where(np.arange(20) < n_error_photo, 9.0, 10.0)
    assert comparisons.error_photos(better, size) == n_error_photo
    found = comparisons.paired_comparison((better - baseline)[None], size, baseline=baseline)
    by_flips = comparisons.sign_flip_p(better - baseline)
    by_interval = comparisons.interval_p(better - baseline, size, alike=False)
    assert by_interval > by_flips
    assert found.p[0] == (by_interval if few else by_flips)


@pytest.mark.parametrize("alike", [True, False])
def test_the_p_of_an_interval_is_where_it_reaches_no_difference(alike):
    rng = np.random.default_rng(0)
    size = rng.integers(1, 9, 30)
    difference = (rng.binomial(size, 0.8) - rng.binomial(size, 0.7)).astype(float)
    p = comparisons.interval_p(difference, size, alike=alike)
    assert 0.001 < p < 0.5
    for level, holds in ((1 - p - 1e-4, False), (1 - p + 1e-4, True)):
        (low,), (high,) = intervals.difference_intervals(difference[None], size, level=level, alike=alike)
        assert (low <= 0 <= high) == holds
    assert comparisons.interval_p(difference, size) == comparisons.interval_p(difference, size, alike=True)
    assert comparisons.interval_p(np.zeros(30), size, alike=alike) == 1


@pytest.mark.parametrize("n", [19, 20])
def test_twenty_photos_are_not_few(n):
    right, size = np.ones(n), np.full(n, 2.0)
    halved = np.stack([[right, right]] * 2)
    assert intervals.accuracy_interval(right, size).few_images == (n == 19)
    assert comparisons.paired_comparison((right - 0)[None], size).few_images == (n == 19)
    assert references.new_reference_interval(right, size, halved)[0].few_images == (n == 19)
    nobody = np.zeros(5)  # photos without crops do not count
    found = intervals.accuracy_interval(np.r_[right, nobody], np.r_[size, nobody])
    assert (found.n_images, found.few_images) == (n, n == 19)
    paired = comparisons.paired_comparison(np.r_[right, nobody][None], np.r_[size, nobody])
    assert (paired.n_images, paired.few_images) == (n, n == 19)
    interval, _ = references.new_reference_interval(
        np.r_[right, nobody], np.r_[size, nobody], np.stack([[np.r_[right, nobody]] * 2] * 2)
    )
    assert (interval.n_images, interval.few_images) == (n, n == 19)


def test_blocks_bound_what_is_held_and_change_nothing(monkeypatch):
    whole = np.concatenate(list(winner._draws(10, 25, 3, 0)))
    signs = np.concatenate(list(sign_flips.sign_blocks(3, 8, 10, True, 0)))
    assert {tuple(row) for row in signs} == set(itertools.product([1, -1], repeat=3))
    monkeypatch.setattr(winner, "BLOCK", 70)
    monkeypatch.setattr(sign_flips, "BLOCK", 30)
    monkeypatch.setattr(intervals, "BLOCK", 30)
    for one, size in (((10, 25, 3, 0), 7), ((3, 25, 10, 0), 7), ((100, 3, 3, 0), 1)):
        blocks = list(winner._draws(*one))
        assert max(map(len, blocks)) == size
        assert sum(map(len, blocks)) == one[1]
    np.testing.assert_array_equal(np.concatenate(list(winner._draws(10, 25, 3, 0))), whole)
    blocks = list(sign_flips.sign_blocks(3, 8, 10, True, 0))
    assert list(map(len, blocks)) == [3, 3, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), signs)
    assert [len(block) for block in sign_flips.sign_blocks(70, 4, 70, False, 0)] == [1] * 4
    assert intervals._row_blocks(np.zeros((7, 10))) == [slice(0, 3), slice(3, 6), slice(6, 9)]


def test_two_photos_are_enough_for_an_interval():
    """Fifty crops each, none of them different: no longer anything between -1 and 1, as with one photo."""
    (low,), (high,) = intervals.difference_intervals(np.zeros((1, 2)), np.full(2, 50.0))
    assert -0.9 < low < 0 < high < 0.9
    (low,), (high,) = intervals.difference_intervals(np.zeros((1, 2)), np.array([50.0, 0.0]))
    assert (low, high) == (-1, 1)


# --- power ----------------------------------------------------------------------------------------------------------


def test_photos_needed_where_nothing_differs_are_those_of_the_gain_itself():
    """Crops rescued one by one, 5 % of two a photo: a variance of 0.05 x 0.95 / 2 of a photo. A photo without crops is none."""
    size = np.array([2.0] * 30 + [0.0] * 5)
    expected = (ndtri(0.9) + ndtri(0.99)) ** 2 * 0.05 * 0.95 / 2 / 0.05**2
    found = power.photos_needed(np.zeros((1, 35)), size, gain=0.05, power=0.9, level=0.01)
    assert found.tolist() == [np.ceil(expected)]
    gain = power.smallest_gain(np.zeros((1, 35)), size)
    assert power.photos_needed(np.zeros((1, 35)), size, gain=gain)[0] <= 30
    assert power.photos_needed(np.zeros((1, 35)), size, gain=gain - 0.001)[0] > 30


def test_photos_needed_by_the_variance_of_a_photo():
    """One crop a photo: CR2 is the sample variance; the share of all crops is that of (n - 1) / n of them."""
    difference = np.random.default_rng(0).choice([-1.0, 0, 1], (1, 50))
    expected = (ndtri(0.8) + ndtri(0.95)) ** 2 * difference.var(ddof=1) / 0.02**2
    assert power.photos_needed(difference, np.ones(50)).tolist() == [np.ceil(expected)]


# --- several data sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize("difference", [[0.02, 0.3, -0.1, 0.12], [0.1, 0.11, 0.1, 0.09]])
def test_pooling_by_the_equations(difference, level):
    """Paule and Mandel: the spread makes the weighted squares as large as data sets less one, where they are larger."""
    y, v = np.array(difference), np.array([0.002, 0.01, 0.004, 0.02])
    found = datasets.pooled_difference(y, v, level=level)
    weight = 1 / (v + found.spread**2)
    mean = (weight * y).sum() / weight.sum()
    squares = (weight * (y - mean) ** 2).sum()
    if found.spread:
        assert squares == pytest.approx(3)
    else:
        assert squares < 3
    error = np.sqrt(1 / weight.sum())  # and not less where the squares are: never narrower than the plain limits
    half = stats.t.ppf((1 + level) / 2, 3) * error
    wide = stats.t.ppf((1 + level) / 2, 2) * np.hypot(found.spread, error)
    limits = np.clip([mean - half, mean + half, mean - wide, mean + wide], -1, 1)
    assert (found.low, found.high, found.new_low, found.new_high) == pytest.approx(tuple(limits))
    assert (found.mean, found.n_datasets) == (pytest.approx(mean), 4)


def test_two_data_sets_say_nothing_of_a_third_and_none_says_nothing():
    two = datasets.pooled_difference([0.1, 0.1], [1e-6, 1e-6])
    assert (two.new_low, two.new_high, two.n_datasets) == (-1, 1, 2)
    assert (two.low, two.high) == pytest.approx(
        (0.1 - 12.7062 * 1e-3 / 2**0.5, 0.1 + 12.7062 * 1e-3 / 2**0.5), abs=1e-5
    )
    one = datasets.pooled_difference([0.3], [0.01])
    assert (one.mean, one.low, one.high, one.new_low, one.new_high, one.n_datasets) == (0.3, -1, 1, -1, 1, 1)
    nothing = datasets.pooled_difference([], [])
    assert np.isnan([nothing.mean, nothing.spread, one.spread]).all()
    assert (nothing.low, nothing.high, nothing.n_datasets) == (-1, 1, 0)


# --- other scores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_macro_f1_leaves_out_photo_by_photo(level):
    """A decision without a label, on either side, is of no class; a class only in the photo left out is none either."""
    rng = np.random.default_rng(1)
    photo = np.repeat(np.arange(9), 4)
    label, predicted = rng.integers(0, 4, 36), rng.integers(0, 4, 36)
    predicted[:18] = label[:18]
    label[0] = predicted[0] = 4
    predicted[[5, 20]], label[[20, 30]] = -1, -1

    def macro_f1(kept):
        classes = np.setdiff1d(np.union1d(label[kept], predicted[kept]), [-1])
        return f1_score(label[kept], predicted[kept], labels=classes, average="macro")

    value = macro_f1(photo >= 0)
    without = np.array([macro_f1(photo != one) for one in range(9)])
    error = np.sqrt(8 / 9 * ((without - without.mean()) ** 2).sum()) / (value * (1 - value))
    half = stats.t.ppf((1 + level) / 2, 8) * error
    expected = value, expit(logit(value) - half), expit(logit(value) + half)
    assert scores.macro_f1_interval(label, predicted, photo, level=level) == pytest.approx(expected)
    assert scores.macro_f1_interval(label, predicted, photo * 0) == (pytest.approx(value), 0, 1)


@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize(
    ("right", "size"),
    [([9, 2, 7, 1, 0], [10, 9, 8, 8, 0]), ([3, 4], [6, 8]), ([8, 3], [8, 4]), ([2, 1, 0], [2, 1, 0]), ([0, 0], [3, 1])],
)
def test_recalls_of_classes_by_the_formula(right, size, level):
    found = scores.class_recalls(right, size, level=level)
    kept = [one for one in range(len(size)) if size[one]]
    n, mean = sum(size), sum(right) / sum(size)
    between = sum(size[one] * (right[one] / size[one] - mean) ** 2 for one in kept)
    if 0 < mean < 1:
        more = len(kept) - 1
        correlation = (between / (mean * (1 - mean)) - more) / (n - sum(one**2 for one in size) / n - more)
        strength = 1 / min(max(correlation, 0.001), 0.999) - 1
        a, b = mean * strength, (1 - mean) * strength
    else:
        a, b = sum(right) + 0.5, n - sum(right) + 0.5
    for one in kept:
        posterior = stats.beta(right[one] + a, size[one] - right[one] + b)
        assert found.recall[one] == right[one] / size[one]
        assert found.shrunken[one] == pytest.approx(posterior.mean())
        assert (found.low[one], found.high[one]) == pytest.approx(posterior.interval(level))
        assert found.reliability[one] == pytest.approx(size[one] / (size[one] + a + b))
    for values in (found.shrunken, found.low, found.high, found.reliability):
        assert np.isnan(values[[not one for one in size]]).all()


def test_close_calls_need_another_label_and_a_neighbour():
    near, far = np.float32(0.9) - np.float32(5e-7), np.float32(0.8)
    similarities = np.float32([[0.9, near], [0.9, near], [0.9, far], [0.9, near], [-np.inf, -np.inf]])
    labels = np.array([[1, 0], [1, 1], [1, 0], [1, -1], [-1, -1]])
    assert scores.close_calls(similarities, labels).tolist() == [True, False, False, False, False]


# --- winners and references -----------------------------------------------------------------------------------------

SIZE = [1, 1, 2]


@pytest.mark.parametrize("right", [([1, 0, 2], [0, 1, 1], [1, 1, 0]), ([0, 1, 1], [1, 0, 2]), ([0, 0, 2], [1, 1, 0])])
def test_the_winner_over_all_draws(right):
    """Every draw of three photos of three is as likely; the first of the best is scored on the photos left out."""
    share = [sum(row) / 4 for row in right]
    first, said, again = share.index(max(share)), [], 0
    for drawn in itertools.product(range(3), repeat=3):
        of_drawn = [sum(row[one] for one in drawn) / sum(SIZE[one] for one in drawn) for row in right]
        chosen = of_drawn.index(max(of_drawn))
        again += chosen == first
        left = [one for one in range(3) if one not in drawn]
        if left:
            said.append(sum(right[chosen][one] for one in left) / sum(SIZE[one] for one in left))
    found = winner.corrected_winner(right, SIZE, level=0.9, resamples=40_000)
    assert found.row == first
    assert found.accuracy == pytest.approx(np.mean(said), abs=0.01)  # the standard error is below 0.0025
    assert found.returns == pytest.approx(again / 27, abs=0.015)
    assert {found.low, found.high} <= {0, 0.5, 1, 1 / 3, 2 / 3}
    assert found.low <= found.accuracy <= found.high


def test_the_limits_of_a_winner_are_quantiles_of_its_scores():
    """Alone it always wins: of twelve photos, one wrong in three, the share right among those left out."""
    right = np.tile([1, 1, 0], 4)
    drawn = np.random.default_rng(0).integers(0, 12, (40_000, 12))
    left = np.array([~np.isin(np.arange(12), row) for row in drawn[:4000]])
    said = (left @ right) / left.sum(axis=1)
    for level in (0.95, 0.5):
        found = winner.corrected_winner(right[None], np.ones(12), level=level, resamples=4000)
        expected = np.quantile(said, [(1 - level) / 2, (1 + level) / 2])
        assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.05)
        assert found.returns == 1


def test_ranks_across_data_sets_are_of_the_mean_accuracy():
    """The first row is better by 8 of 10 in one data set and worse by 4 in the other; alone the other would turn them round."""
    one, other = ([[9] * 20, [1] * 20], [10] * 20), ([[1] * 20, [5] * 20], [10] * 20)
    both = winner.rank_intervals_across([one, other], resamples=50)
    assert (both.low.tolist(), both.high.tolist(), both.best.tolist()) == ([1, 2], [1, 2], [1, 0])
    turned = winner.rank_intervals_across([other, other, one], resamples=50)
    assert turned.best.tolist() == [0.5, 0.5]  # 8 - 4 - 4: equals share the better rank
    assert turned.low.tolist() == turned.high.tolist() == [1, 1]


def test_new_references_where_every_decision_is_right():
    """The variance of one crop is then taken for that of one wrong in four crops' place: 1 / 4 n."""
    right = np.full(30, 2.0)
    one, other = right.copy(), right.copy()
    one[:6], other[6:8] = 0, 0
    interval, deviation = references.new_reference_interval(right, right, np.stack([[one, other], [other, one]]))
    change, gap = one - other, -8 / 60
    of_queries = 30 / 29 * ((change - 2 * gap) ** 2).sum() / 60**2
    variance = max(0, gap**2 - of_queries) / 4
    assert variance > 0
    assert deviation == pytest.approx(variance**0.5)
    effective = min(intervals.effective_size(right[None], right[None], 0.95)[0], 60)
    effective /= 1 + variance * effective / (0.25 / 60)
    assert (interval.low, interval.high) == pytest.approx((0.025 ** (1 / effective), 1))


def test_halves_deal_out_photos_by_the_label_that_most_of_their_references_have():
    """Photos 0 to 4 are of label 1, the last with two of its three references; photo 5 of label 0; and photos 6 and 7 of 2."""
    photo = np.array([0, 1, 2, 3, 4, 4, 4, 5, 6, 7])
    label = np.array([1, 1, 1, 1, 1, 1, 2, 0, 2, 2])
    odd, single = set(), set()
    masks = list(references.halves(photo, label, 40, seed=1))
    assert len(masks) == 40
    for half in masks:
        of = [bool(half[photo == one][0]) for one in range(8)]
        assert all(len(set(half[photo == one])) == 1 for one in range(8))
        odd.add(sum(of[:5]))
        single.add(of[5])
        assert of[6] != of[7]
    assert odd == {2, 3}
    assert single == {True, False}
    assert len({half.tobytes() for half in masks}) > 20
    assert len(list(references.halves(photo, label))) == references.HALVINGS
