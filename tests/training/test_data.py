"""Which images a training learns from, is chosen by and is judged on; what makes a result less than it seems is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.messages import UserError
from imaging.crops import Manifest
from training import data

NOTHING = np.array([], int)
ANY = {"train": None, "val": None, "test": None}


def manifest(rows: list[tuple[str, str, str]]) -> Manifest:
    """Return the manifest of rows (split, photo, label)."""
    splits, samples, labels = (list(column) for column in zip(*rows, strict=True))
    crops = [f"{sample}_{row}" for row, sample in enumerate(samples)]
    paths = [f"{crop}.png" for crop in crops]
    return Manifest(Path("shop"), paths, splits, samples, crops, np.array(labels)[:, None])


def test_rows_without_a_label_are_left_out_and_counted(capsys):
    rows = [("train", "p", "a"), ("train", "p", ""), ("test", "q", "b")]
    chosen, kept = data.choose(manifest(rows), splits=ANY, label_level=None)
    assert kept == [0, 2]
    assert chosen.splits == ["train", "test"]
    assert "1 image without a label left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="shop has no labels: there is nothing to learn"):
        data.choose(manifest([("train", "p", "")]), splits=ANY, label_level=None)


def test_a_split_has_one_part_and_must_be_there():
    rows = manifest([("one", "p", "a"), ("two", "q", "b")])
    with pytest.raises(UserError, match=r"has no split .three. \(--val_split\); it has: one, two"):
        data.choose(rows, splits={**ANY, "val": "three"}, label_level=None)
    with pytest.raises(UserError, match="split 'one' cannot be both train and val"):
        data.choose(rows, splits={"train": "one", "val": "one", "test": None}, label_level=None)
    with pytest.raises(UserError, match="has no split train; name it with --train_split: one, two"):
        data.choose(rows, splits=ANY, label_level=None)


def test_what_makes_a_result_less_than_it_seems_is_told(capsys):
    rows = [("train", "p", "a"), ("train", "q", "a"), ("train", "r", "b"), ("val", "p", "a"), ("val", "s", "new")]
    rows += [("test", "t", "other"), ("test", "p", "b")]
    divided = data.divide(manifest(rows), NOTHING, 0)
    assert divided.val.tolist() == [3]
    assert divided.codes[divided.test].tolist() == [-1, 1]
    said = " ".join(capsys.readouterr().err.split())
    assert "1 class with a single training image (b)" in said
    assert "val: 1 image of classes that are not trained, left out: new" in said
    assert "test: 1 image of classes that are not trained, counted as wrong: other" in said
    for two in ("train also in val", "train also in test", "val also in test"):
        assert f"1 photo of {two}, such as p: scores are too good" in said


def test_without_a_validation_split_photos_are_held_out_whole(capsys):
    rows = [("train", f"p{photo}", label) for photo in range(20) for label in "ab"]
    divided = data.divide(manifest(rows), NOTHING, 0)
    photos = [{row // 2 for row in part.tolist()} for part in (divided.train, divided.val)]
    assert photos[0] | photos[1] == set(range(20))
    assert not photos[0] & photos[1]
    assert photos[1]
    assert f"no validation split: {len(divided.val)} images of the training split held out" in capsys.readouterr().err
    with pytest.raises(UserError, match="every class has one photo only, nothing can be held out"):
        data.divide(manifest([("train", "p", "a"), ("train", "q", "b")]), NOTHING, 0)


def test_images_that_cannot_be_read_leave_enough_or_end_it():
    rows = manifest([("train", "p", "a"), ("train", "q", "b"), ("val", "r", "a")])
    with pytest.raises(UserError, match="no image of the validation split can be read"):
        data.divide(rows, np.array([2]), 0)
    with pytest.raises(UserError, match="the training split has only the class a; two classes are the least"):
        data.divide(rows, np.array([1]), 0)
    with pytest.raises(UserError, match="the training split has no image that can be read"):
        data.divide(rows, np.array([0, 1]), 0)
    unknown = manifest([("train", "p", "a"), ("train", "q", "b"), ("val", "r", "new")])
    with pytest.raises(UserError, match="no class of the validation split is in the training split"):
        data.divide(unknown, NOTHING, 0)
