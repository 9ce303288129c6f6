"""Statistics beside sums over every case: all draws of photos, all flips of signs, all outcomes of a decision."""

import itertools

import numpy as np
import pytest

from uncertainty import comparisons, scores, winner
from uncertainty.intervals import clopper_pearson, effective_size
from uncertainty.references import new_reference_interval


@pytest.mark.parametrize("bins", [10, 3])
def test_the_error_of_perfect_calibration_is_its_mean_over_all_outcomes(bins):
    """0.90 lies in (0.8, 0.9] and 0.95 in (0.9, 1]: of ten bins each decision has its own, of three both share one."""
    confidence = np.array([0.95, 0.9, 0.3])
    expected = 0.0
    for right in itertools.product((0, 1), repeat=3):
        chance = np.prod(np.where(right, confidence, 1 - confidence))
        gaps = np.array(right) - confidence
        expected += chance * (abs(gaps).sum() if bins == 10 else abs(gaps[0] + gaps[1]) + abs(gaps[2])) / 3
    mean, limit = scores.calibrated_error(confidence, bins=bins, draws=200_000)
    assert mean == pytest.approx(expected, abs=0.002)  # the standard error is 0.0003
    assert limit >= mean


def test_new_references_lower_the_effective_size():
    """By the formula: 40 photos of two crops, 30 right; every halving differs by 16 crops, four photos up and twelve down."""
    correct, size = np.repeat([2.0, 0.0], [30, 10]), np.full(40, 2.0)
    one, other = correct.copy(), correct.copy()
    one[:12], other[12:16] = 0, 0
    interval, deviation = new_reference_interval(correct, size, np.stack([[one, other]] * 5))
    gap = -16 / 80
    change = one - other
    of_queries = 40 / 39 * ((change - 2 * gap) ** 2).sum() / 80**2
    of_references = (gap**2 - of_queries) / 4
    assert of_references > 0
    assert deviation == pytest.approx(of_references**0.5)
    effective = min(effective_size(correct[None], size[None], 0.95)[0], 80)
    effective /= 1 + of_references * effective / (0.75 * 0.25)
    (low,), (high,) = clopper_pearson(np.array([0.75]), np.array([effective]), 0.95)
    assert (interval.accuracy, interval.low, interval.high) == pytest.approx((0.75, low, high))


def test_accuracies_of_drawn_photos_by_hand():
    """Rows with crops of their own; a row without a crop among the drawn photos is below every row that has one."""
    totals, sizes = np.array([[1.0, 0.0], [0.0, 3.0]]), np.array([[1.0, 0.0], [2.0, 4.0]])
    weights = np.array([[1.0, 1.0], [0.0, 2.0], [2.0, 0.0]])
    np.testing.assert_allclose(winner._accuracies(totals, sizes, weights), [[1, 3 / 6], [-1, 6 / 8], [1, 0]])
    same = np.array([[1.0, 2.0], [1.0, 2.0]])
    np.testing.assert_allclose(winner._accuracies(np.array([[1.0, 1.0], [0.0, 2.0]]), same, weights)[0], [2 / 3, 2 / 3])


GAPS = [(1, 1, -1), (1, 1, 1, -2), (2, 1, -1, -1), (3, -1, -1, -1), (1, 1, 1, 1, -3)]
EDGES = [((1, 1, -1), 0.5), ((2, 1, -1, -1), 0.3), ((3, -1, -1, -1), 0.3)]  # where a limit lies between two ranks


@pytest.mark.parametrize(
    ("gap", "level"), [case for case in itertools.product(GAPS, (0.5, 0.3, 0.9)) if case not in EDGES]
)
def test_limits_of_ranks_over_all_draws(gap, level):
    """Of two rows, `gap` crops more right in each photo; every draw of as many photos is as likely."""
    n = len(gap)
    sums = np.array([sum(gap[photo] for photo in drawn) for drawn in itertools.product(range(n), repeat=n)])
    ranks = np.stack([np.where(sums < 0, 2, 1), np.where(sums > 0, 2, 1)], axis=1)
    tails = (1 - level) / 2, (1 + level) / 2
    shares = [(ranks[:, row] == 1).mean() for row in (0, 1)]
    assert min(abs(share - tail) for share in shares for tail in tails) > 0.01  # else chance decides
    found = winner.rank_intervals([[3 + one for one in gap], [3] * n], [6] * n, level=level, resamples=20_000)
    expected = np.quantile(ranks, tails, axis=0, method="nearest")
    np.testing.assert_array_equal([found.low, found.high], expected)
    ties = (sums == 0).mean() / 2
    np.testing.assert_allclose(found.best, [shares[0] - ties, shares[1] - ties], atol=0.02)


def test_all_flips_are_counted_where_they_are_no_more_than_asked_for():
    """Four photos, all better: two of sixteen flips reach that. Eight of them are all, as a study and its mirror image are one."""
    assert comparisons.corrected_p([[1.0, 1.0, 1.0, 1.0]], flips=8)[0] == 1 / 8
    assert comparisons.one_sided_p([[1.0, 1.0, 1.0, 1.0]], flips=16)[0] == 1 / 16
