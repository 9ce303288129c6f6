"""Intervals for new references: halves of the reference photos, the same at every ID, scored as a user would."""

from __future__ import annotations

import numpy as np
import pytest
from builders import make_evaluator, study, totals

from evaluation.codes import code_sets
from evaluation.half_samples import reference_interval
from evaluation.records import Combination, Rule
from uncertainty import intervals, references


def test_each_half_is_scored_as_a_set_of_its_own():
    sides = study(1, split="train"), study(2, split="test")
    combination = Combination(("0", "10"), ("10",))
    found = reference_interval(code_sets(*sides), Rule(), combination, halvings=3, seed=5)
    whole = totals(make_evaluator(*sides), combination)
    plain = intervals.accuracy_interval(whole.image_right[1], whole.image_size)
    assert found[0].accuracy == plain.accuracy
    assert found[0].high - found[0].low >= plain.high - plain.low

    samples = sides[0][0].sample_ids
    _, photo = np.unique(samples, return_inverse=True)
    _, label = np.unique(sides[0][0].label(), return_inverse=True)
    halved = []
    for half in references.halves(np.tile(photo, 2), np.tile(label, 2), 3, 5):
        assert (half[: len(photo)] == half[len(photo) :]).all()
        rows = half[: len(photo)]
        halves = [make_evaluator([one.take(kept) for one in sides[0]], sides[1]) for kept in (rows, ~rows)]
        tallies = [totals(one, combination) for one in halves]
        halved.append([tally.image_right[1] for tally in tallies])
    expected, deviation = references.new_reference_interval(whole.image_right[1], whole.image_size, halved)
    assert found == (expected, pytest.approx(deviation))


def test_too_few_photos_to_halve():
    sides = study(1, n_images=3, split="train"), study(2, split="test")
    assert reference_interval(code_sets(*sides), Rule(), Combination(("0",), ("0",))) is None
