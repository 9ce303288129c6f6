"""Batches and held-out rows, checked against what they promise, on labels drawn by hand."""

from __future__ import annotations

import numpy as np

from training import data, objectives

LABELS = np.array([0] * 5 + [1] * 2 + [2] * 8 + [3])


def test_balanced_batches_have_the_promised_classes_and_rows():
    found = list(objectives.balanced_batches(LABELS, 6, 2, np.random.default_rng(0)))
    assert len(found) == 3  # 16 rows in batches of 3 classes x 2
    for batch in found:
        classes, counts = np.unique(LABELS[batch], return_counts=True)
        assert len(classes) == 3
        assert (counts == 2).all()
        for one in classes:
            members = batch[LABELS[batch] == one]
            assert len(np.unique(members)) == min(2, (one == LABELS).sum())  # class 3 has one row, which comes twice


def test_every_row_of_a_class_comes_before_one_comes_again():
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 4)
    rows = np.concatenate(list(objectives.balanced_batches(labels, 4, 2, rng)))
    assert sorted(rows.tolist()) == list(range(8))


def test_few_classes_and_small_batches():
    labels = np.repeat([0, 1, 2], 3)
    (batch, *_) = objectives.balanced_batches(labels, 64, 4, np.random.default_rng(0))
    assert np.bincount(labels[batch]).tolist() == [4, 4, 4]  # all there are
    batch = next(iter(objectives.balanced_batches(labels, 2, 4, np.random.default_rng(0))))
    assert len(np.unique(labels[batch])) == 2  # one class has no negatives


def test_shuffled_batches_cover_all_rows_and_none_is_tiny():
    found = list(objectives.shuffled_batches(33, 16, np.random.default_rng(0)))
    assert [len(batch) for batch in found] == [11, 11, 11]
    assert sorted(np.concatenate(found).tolist()) == list(range(33))


def test_held_out_rows_are_whole_images_of_every_class_that_can_spare_them():
    rng = np.random.default_rng(0)
    samples = [f"photo{number}" for number in rng.integers(0, 40, 300)]
    labels = rng.integers(0, 5, 300)
    held = data.hold_out(labels, samples, 0.2, 0)
    inside, outside = {samples[row] for row in np.flatnonzero(held)}, {samples[row] for row in np.flatnonzero(~held)}
    assert not inside & outside
    for one in range(5):
        share = held[labels == one].mean()
        assert 0.05 < share < 0.4
    np.testing.assert_array_equal(held, data.hold_out(labels, samples, 0.2, 0))
    assert (held != data.hold_out(labels, samples, 0.2, 1)).any()


def test_a_class_keeps_a_row_to_learn_from():
    labels = np.array([0, 0, 1, 1, 2])
    held = data.hold_out(labels, ["a", "b", "c", "c", "d"], 0.5, 0)
    assert held[:2].sum() == 1
    assert not held[2:].any()  # both rows of class 1 are one photo, class 2 has one row
