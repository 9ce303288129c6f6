"""Rows as no model gives them: equal, opposite, of one dimension, tiny, huge; labels and crops of every layout."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from soundness.label_errors import chances

ROWS = {
    "any": lambda v, rng: v,
    "equal": lambda v, rng: np.repeat(v[:1], len(v), axis=0),
    "opposite": lambda v, rng: v[:1] * np.where(np.arange(len(v)) % 2, 1, -1)[:, None],
    "of one direction": lambda v, rng: v[:1] * rng.uniform(0.1, 9, (len(v), 1)),
    "nearly equal": lambda v, rng: v[:1] + 1e-6 * v,
    "of all lengths": lambda v, rng: v * 10.0 ** rng.uniform(-20, 18, (len(v), 1)),
}
CODES = {
    "one": lambda n: np.zeros(n, int),
    "own": np.arange,
    "pairs": lambda n: np.arange(n) // 2,
    "last": lambda n: (np.arange(n) == n - 1).astype(int),
}


@pytest.mark.parametrize("kind", ROWS)
def test_chances_are_chances_whatever_the_rows(kind):
    rng = np.random.default_rng(0)
    for n, dim, labels, crops in itertools.product((1, 2, 3, 40), (1, 8), CODES, CODES):
        vectors = ROWS[kind](rng.standard_normal((n, dim)), rng).astype(np.float32)
        label, crop = CODES[labels](n), CODES[crops](n)
        n_class = int(label.max()) + 2  # one that no row has
        found = chances(vectors, label, crop, n_class)
        alone = [len(set(crop[label == one])) == 1 for one in label]
        case = f"{n} rows of {dim}, labels {labels}, crops {crops}"
        np.testing.assert_array_equal(np.isnan(found.own), alone, err_msg=case)
        for share in (found.own[~np.isnan(found.own)], found.other):
            assert ((share >= 0) & (share <= 1 + 1e-6)).all(), case
        suspects = found.suspects()
        assert (found.suggested[suspects] != label[suspects]).all(), case
        assert ((found.suggested >= -1) & (found.suggested < n_class)).all(), case
        assert not np.isnan(found.own[suspects]).any(), case
