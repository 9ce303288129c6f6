"""Temperature and calibration error on numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training import calibration, scores


def test_softmax_and_likelihood_by_hand():
    logits = np.log(np.array([[1.0, 3.0], [1.0, 1.0]]))
    np.testing.assert_allclose(calibration.softmax(logits), [[0.25, 0.75], [0.5, 0.5]])
    expected = -(np.log(0.75) + np.log(0.5)) / 2
    assert calibration.negative_log_likelihood(logits, np.array([1, 0])) == pytest.approx(expected)
    np.testing.assert_allclose(calibration.softmax(np.array([[1000.0, -1000.0]])), [[1, 0]])
    np.testing.assert_allclose(
        calibration.softmax(np.array([[2.0, 0.0]]), 2.0), calibration.softmax(np.array([[1.0, 0.0]]))
    )


def test_calibration_error_by_hand():
    """Bin (0.8, 0.9]: four rows of confidence 0.9, three right: |0.75 - 0.9| = 0.15. Bin (0.5, 0.6]: one of 0.6, wrong."""
    confidences = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
    labels = np.array([0, 0, 0, 1, 0])
    assert calibration.expected_calibration_error(confidences, labels, bins=10) == pytest.approx(0.8 * 0.15 + 0.2 * 0.6)
    assert calibration.expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_errors_of_opposite_sign_in_two_bins_do_not_cancel():
    confidences = np.array([[0.75, 0.25], [0.55, 0.45]])
    assert calibration.expected_calibration_error(confidences, np.array([0, 1]), bins=10) == pytest.approx(0.4)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_scaled_the_logits_is_found(temperature):
    """Labels are drawn from softmax(logits); the logits shown are those times the temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    odds = calibration.softmax(logits).cumsum(axis=1)
    labels = (rng.random((20_000, 1)) > odds).sum(axis=1)
    assert calibration.fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.05)


def test_three_rows_have_a_temperature_in_closed_form():
    """Logits (d, 0), two of three rows right, each by 4 in 5: sigmoid(d / T) = (2 * 0.8 + 0.2) / 3 = 0.6, T = d / log 1.5."""
    logits = np.array([[3.0, 0.0]] * 3)
    assert calibration.fit_temperature(logits, np.array([0, 0, 1])) == pytest.approx(3 / np.log(1.5), rel=1e-3)


def test_a_few_right_predictions_are_no_certainty():
    """All of n rows right, of logits (d, 0): the confidence becomes (n + 1) / (n + 2), not 1."""
    logits = np.array([[3.0, 0.0]] * 8)
    temperature = calibration.fit_temperature(logits, np.zeros(8, int))
    assert calibration.softmax(logits, temperature)[0, 0] == pytest.approx(9 / 10, rel=1e-3)
    assert calibration.fit_temperature(logits, np.ones(8, int)) == pytest.approx(20, rel=0.01)  # the bound


def test_a_temperature_that_makes_the_error_larger_is_not_taken():
    logits = np.log(np.array([[0.6, 0.4]] * 10))
    labels = np.array(
        [0] * 6 + [1] * 4
    )  # right in 0.6 of the rows: the error is 0, and any temperature makes it larger
    report = scores.calibrate(logits, labels, {"test": (logits, labels)})
    assert report["temperature"] == 1
    assert report["calibration_error"]["val"] == report["calibration_error"]["test"] == [pytest.approx(0, abs=1e-9)] * 2
    told = scores.calibrate(3 * logits, labels, {})
    assert told["calibration_error"]["val"][1] < told["calibration_error"]["val"][0]
    assert told["temperature"] > 1
