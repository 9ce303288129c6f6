"""Ranks of combinations: the fast form beside scipy's."""

import numpy as np
import pytest
from scipy.stats import beta, rankdata

from uncertainty import winner
from uncertainty.intervals import accuracy_interval
from uncertainty.scores import class_recalls


def test_ranks_are_those_of_scipy():
    values = np.random.default_rng(0).integers(0, 4, (50, 9)) / 4
    assert (winner._falling_ranks(values) == rankdata(-values, method="min", axis=1)).all()


def test_a_winner_without_an_error_is_as_sure_as_its_photos_allow():
    found = winner.corrected_winner([[3, 3, 3, 3], [3, 2, 3, 3]], [3, 3, 3, 3])
    given = accuracy_interval([3, 3, 3, 3], [3, 3, 3, 3])
    assert (found.accuracy, found.high) == (1.0, 1.0)
    assert found.low == given.low < 0.8


def test_recalls_of_classes_without_an_error_are_not_certain():
    found = class_recalls([7, 5], [7, 5])
    assert (found.shrunken < 1).all()
    # Beta(12.5 + 7, 0.5) at 2.5 %, by scipy's own distribution.
    assert found.low[0] == pytest.approx(beta(19.5, 0.5).ppf(0.025))
