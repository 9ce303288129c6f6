"""Splits by photo: shares, whole photos and groups, and that nothing but the photos and the seed decides."""

from __future__ import annotations

import argparse
import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import crop
from common.messages import UsageError, UserError
from cropping import photo_splits
from cropping.photo_splits import Drawing


def crops_of(n_photos=60, n_class=4, seed=0):
    rng = np.random.default_rng(seed)
    samples = [f"shelf{photo // 3}_{photo}" for photo in range(n_photos) for _ in range(5)]
    return samples, [f"class{code}" for code in rng.integers(0, n_class, len(samples))]


def test_shares_of_every_class_and_whole_photos():
    samples, labels = crops_of()
    split_of = Drawing((70, 15, 15)).draw(samples, labels)
    assert set(split_of) == set(samples)
    splits = np.array([split_of[sample] for sample in samples])
    for label in set(labels):
        mine = splits[np.array(labels) == label]
        for split, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            assert abs((mine == split).mean() - share) < 0.06, (label, split)  # at random it would be 0.075 on average


def test_the_order_of_the_crops_changes_nothing_and_the_seed_does():
    samples, labels = crops_of()
    order = np.random.default_rng(5).permutation(len(samples))
    shuffled = [samples[row] for row in order], [labels[row] for row in order]
    assert Drawing((80, 20)).draw(samples, labels) == Drawing((80, 20)).draw(*shuffled)
    assert Drawing((80, 20)).draw(samples, labels) != Drawing((80, 20), seed=1).draw(samples, labels)


def test_a_class_of_one_photo_is_learnt():
    samples = ["a", "b", "c", "d", "e", "f"]
    split_of = Drawing((60, 20, 20)).draw(samples, ["x", "x", "x", "x", "x", "rare"])
    assert split_of["f"] == "train"


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 3))
def test_every_photo_has_one_split_and_every_class_is_learnt(crops_seed, seed):
    rng = np.random.default_rng(crops_seed)
    samples = [f"p{photo}" for photo in rng.integers(0, 12, 50)]
    labels = [str(label) for label in rng.integers(0, 5, 50)]
    split_of = Drawing((50, 50), seed=seed).draw([*samples, "more"], [*labels, "more"])
    assert set(split_of) == {*samples, "more"}
    assert split_of["more"] == "train"


def test_groups_stay_together(tmp_path):
    samples, labels = crops_of()
    by_expression = Drawing((60, 40), r"(shelf\d+)_").draw(samples, labels)
    with open(tmp_path / "groups.csv", "w", newline="") as file:
        csv.writer(file).writerows([("sample_id", "group"), *((name, name.split("_")[0]) for name in set(samples))])
    assert Drawing((60, 40), str(tmp_path / "groups.csv")).draw(samples, labels) == by_expression
    for shelf in range(20):
        assert len({by_expression[f"shelf{shelf}_{photo}"] for photo in range(3 * shelf, 3 * shelf + 3)}) == 1


@pytest.mark.parametrize(
    ("group_by", "kind", "message"),
    [
        ("shelf", UsageError, "in brackets"),
        ("(", UsageError, "not a regular expression"),
        (r"(rack\d+)", UserError, "matches nothing in 60 sample ids of 60, such as 'shelf0_0'"),
        ("groups.csv", UserError, "has no line for 59 sample ids of 60"),
        ("other.csv", UserError, "columns sample_id and group"),
    ],
)
def test_mistakes_of_groups(group_by, kind, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "groups.csv").write_text("sample_id,group\nshelf0_0,a\n")
    (tmp_path / "other.csv").write_text("name,group\nshelf0_0,a\n")
    with pytest.raises(kind, match=message) as caught:
        Drawing((60, 40), group_by).draw(*crops_of())
    assert type(caught.value) is kind


def test_too_few_photos():
    with pytest.raises(UserError, match="2 photos are too few for 3 splits"):
        Drawing((70, 15, 15)).draw(["a", "a", "b"], ["x", "y", "x"])


@pytest.mark.parametrize("text", ["70", "70/20", "50/50/0", "a/b", "25/25/25/25", "-10/110"])
def test_shares_that_make_no_sense(text):
    with pytest.raises(argparse.ArgumentTypeError, match="add up to 100"):
        photo_splits.shares(text)


def test_crop_py_draws_splits_that_are_the_same_at_every_padding(tmp_path, capsys):
    boxes = {}
    (tmp_path / "images").mkdir()
    for photo in range(12):
        pixels = np.random.default_rng(photo).integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"p{photo}.png")
        boxes[f"p{photo}"] = {
            str(j): {"points": {"top_left": [5 + 20 * j, 5], "bottom_right": [20 + 20 * j, 40]}, "sku_id": "ab"[j]}
            for j in range(2)
        }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    argv = [
        "--json_path",
        tmp_path / "boxes.json",
        "--image_folder",
        tmp_path / "images",
        "--split_by_photo",
        "50/25/25",
    ]
    argv += ["--output_root", tmp_path / "c_{padding}", "--padding_percent", 0, 20]
    assert crop.main([*map(str, argv)]) == 0
    assert "splits drawn by photo, seed 0: train 6 photos, val 3 photos, test 3 photos" in capsys.readouterr().err
    found = []
    for padding in (0, 20):
        with open(tmp_path / f"c_{padding}" / "crops.csv", newline="") as file:
            found.append({(row["sample_id"], row["split"]) for row in csv.DictReader(file)})
    assert found[0] == found[1]
    assert len(found[0]) == 12  # a photo is in one split
    assert crop.main([*map(str, argv)]) == 0
    assert "nothing to do" in capsys.readouterr().out
