"""Ranks of combinations: the fast form beside scipy's."""

import numpy as np
from scipy.stats import rankdata

from uncertainty import winner


def test_ranks_are_those_of_scipy():
    values = np.random.default_rng(0).integers(0, 4, (50, 9)) / 4
    assert (winner._falling_ranks(values) == rankdata(-values, method="min", axis=1)).all()
