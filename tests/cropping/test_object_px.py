"""--object_px: crops grow with their padding, so that the object keeps its pixels; and where the object lies in its crop."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import crop
import extract_embedding
from annotations.records import Box
from boxes import resizing
from boxes.padding import Padding, place
from cropping import cutter, photos, planning
from cropping.options import Annotations
from imaging import crops, images

WIDTH, HEIGHT = 200, 120
BOXES = {"inside": (60, 40, 50, 25), "high": (80, 30, 20, 60), "left": (4, 40, 50, 25), "over": (-10, 40, 50, 25)}
SHARES = ("object_left", "object_top", "object_right", "object_bottom")


@pytest.fixture
def shelf(tmp_path) -> Path:
    """A photo of four boxes, each filled with its own grey on black."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    entries = {}
    for name, (x, y, w, h) in BOXES.items():
        corners = {"top_left": [x, y], "bottom_right": [x + w, y + h]}
        entries[name] = {"points": corners, "sku_id": "A", "split_id": "train"}
    for name in ("left", "high"):
        x, y, w, h = BOXES[name]
        picture[y : y + h, x : x + w] = 200
    (tmp_path / "images").mkdir()
    Image.fromarray(picture).save(tmp_path / "images" / "photo.png")
    (tmp_path / "annotations.json").write_text(json.dumps({"photo": entries}))
    return tmp_path


def cut(folder: Path, *options: object) -> dict[str, tuple[dict[str, str], np.ndarray]]:
    """Crop, and return by object the line of crops.csv and the pixels."""
    words = ["--json_path", folder / "annotations.json", "--image_folder", folder / "images"]
    words += ["--output_root", folder / "crops", "--image_format", "png", "--overwrite", *options]
    assert crop.main(list(map(str, words))) == 0
    with open(folder / "crops" / "crops.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["crop_id"][6:]: (row, images.decode(folder / "crops" / row["path"])) for row in rows}


def test_squashed_crops_grow_with_their_padding(shelf):
    """28 pixels a side without padding are 28 * 1.4 = 39 with 20 percent on each side; what is clipped is missing."""
    found = cut(shelf, "--object_px", 28, "--padding_percent", 20)
    sizes = {name: pixels.shape[1::-1] for name, (_, pixels) in found.items()}
    # "left" reaches from -6 to 64 and loses 6 of its 70 pixels, "over" from -20 to 50 and loses 20: 39.2 * 64 / 70, * 50 / 70.
    assert sizes == {"inside": (39, 39), "high": (39, 39), "left": (36, 39), "over": (28, 39)}
    assert {row["object_px"] for row, _ in found.values()} == {"28"}
    for name, (row, pixels) in found.items():
        left, top, right, bottom = (float(row[share]) for share in SHARES)
        assert (bottom - top) * pixels.shape[0] == pytest.approx(28, abs=0.5)
        if name != "over":  # of which a part is outside the photo
            assert (right - left) * pixels.shape[1] == pytest.approx(28, abs=0.5)


def test_without_padding_they_are_the_crops_of_target_w_and_target_h(shelf):
    grown = cut(shelf, "--object_px", 33)
    plain = cut(shelf, "--target_w", 33, "--target_h", 33)
    for name in ("inside", "high", "left"):
        assert np.array_equal(grown[name][1], plain[name][1])
    assert grown["over"][1].shape == (33, round(33 * 40 / 50), 3)


def test_letterboxed_crops_keep_the_longer_side(shelf):
    options = ("--object_px", 30, "--post_padding_method", "resize_with_padding", "--fill", "white")
    found = cut(shelf, *options, "--padding_percent", 50)
    assert {pixels.shape for _, pixels in found.values()} == {(60, 60, 3)}  # clipped or not
    for name, longer in (("inside", 0), ("high", 1), ("left", 0)):
        box = [float(found[name][0][share]) * 60 for share in SHARES]
        assert (box[2] - box[0], box[3] - box[1])[longer] == pytest.approx(30, abs=0.5)
    # 60 x 30 pixels of the photo in the middle, and of "left", clipped at 0, 30 * 79 / 50 of 60.
    assert (found["inside"][1][:15] == 255).all()
    assert (found["inside"][1][15:45] != 255).all()
    assert (found["left"][1][20:40] != 255).all(axis=2).sum(axis=1).tolist() == [round(0.6 * 79)] * 20


@pytest.mark.parametrize("method", resizing.METHODS)
@pytest.mark.parametrize("padding", [0, 35])
def test_the_object_is_where_the_manifest_says(shelf, method, padding):
    """The grey object alone is bright in its crop."""
    options = () if method == "none" else ("--target_w", 90, "--target_h", 70)
    found = cut(shelf, "--post_padding_method", method, "--fill", "black", "--padding_percent", padding, *options)
    for name in ("left",):
        row, pixels = found[name]
        bright = np.argwhere(pixels[:, :, 0] > 100)
        edges = [*bright.min(0)[::-1], *(bright.max(0) + 1)[::-1]]
        shares = np.array([float(row[share]) for share in SHARES]) * [*pixels.shape[1::-1], *pixels.shape[1::-1]]
        assert np.abs(shares - edges).max() <= 1


def test_shares_by_hand():
    box = Box(10.5, 20, 30.5, 30, 20, 10)
    padding = Padding(10)
    region = place(box, padding, (500, 500), max_pixels=10**6)
    assert (region.left, region.top, region.right, region.bottom) == (8, 19, 32, 31)  # 8.5 and 32.5, half to even
    squashed = resizing.fit_object(region, box, padding, 50, "resize")
    assert squashed.size == squashed.inner == (60, 60)
    assert squashed.shares(box) == pytest.approx((2.5 / 24, 1 / 12, 22.5 / 24, 11 / 12))
    boxed = resizing.fit_object(region, box, padding, 50, "resize_with_padding")
    assert (boxed.inner, boxed.size) == ((60, 30), (60, 60))
    assert boxed.shares(box) == pytest.approx((2.5 / 24, (15 + 2.5) / 60, 22.5 / 24, (15 + 27.5) / 60))


def test_what_gets_too_large_is_skipped_by_name(shelf):
    found = cut(shelf, "--object_px", 200, "--padding_percent", 0, "--max_pixels", 35_000)
    assert set(found) == {"over"}
    with open(shelf / "crops" / "skipped.csv", newline="") as file:
        assert {row["reason"] for row in csv.DictReader(file)} == {"crop above --max_pixels"}


def test_manifests_keep_it_and_an_older_folder_says_nothing(shelf):
    cut(shelf, "--object_px", 28, "--padding_percent", 20)
    manifest = crops.read(shelf / "crops")
    assert (manifest.object_px, manifest.boxes.shape) == (28, (4, 4))
    assert json.loads((shelf / "crops" / "crop.json").read_text())["object_px"] == 28
    style = cutter.Style(image_format="png", object_px=28)
    asked = Annotations([shelf / "annotations.json"], shelf / "images")
    (straight,) = photos.Cuts(planning.read(asked, style, None), [Padding(20)], style).manifests()
    assert straight.object_px == 28
    assert np.allclose(straight.boxes, manifest.boxes, atol=1e-6)
    lines = (shelf / "crops" / "crops.csv").read_text().splitlines()
    (shelf / "crops" / "crops.csv").write_text("\n".join(line.rsplit(",", 5)[0] for line in lines) + "\n")
    older = crops.read(shelf / "crops")
    assert (older.object_px, older.boxes) == (None, None)
    (shelf / "crops" / "crops.csv").write_text("\n".join([lines[0], lines[1].rsplit(",", 1)[0] + ",-1"]) + "\n")
    with pytest.raises(crops.UserError, match="object_left to object_bottom are no boxes"):
        crops.read(shelf / "crops")


def test_a_folder_of_other_object_pixels_is_refused(shelf, capsys):
    words = [
        "--json_path",
        shelf / "annotations.json",
        "--image_folder",
        shelf / "images",
        "--output_root",
        shelf / "c",
    ]
    assert crop.main([*map(str, words), "--object_px", "28"]) == 0
    assert crop.main(list(map(str, words))) == 1
    assert "object_px" in capsys.readouterr().err


def test_straight_from_annotations_the_crops_are_the_same(shelf):
    """A model sees the pixels of the crops folder, grown with their padding."""
    found = cut(shelf, "--object_px", 28, "--padding_percent", 20)
    words = ["--json_path", shelf / "annotations.json", "--image_folder", shelf / "images", "--object_px", 28]
    parsed = extract_embedding.build_parser().parse_args([*map(str, words), "--padding_percent", "20"])
    cuts = extract_embedding.plan_cuts(vars(parsed), None)
    (photo,) = cuts.photos(cuts.manifests())
    for one, pixels in zip(photo.crops, photo.cut(np.ones((4, 1), bool)), strict=True):
        assert np.array_equal(pixels, found[one.item.object_id][1])
    assert cuts.facts("train")["crop"]["object_px"] == 28


def test_the_pixels_are_those_of_opencv(shelf):
    row, pixels = cut(shelf, "--object_px", 40, "--padding_percent", 20)["inside"]
    x, y, w, h = (int(row[f"crop_{key}"]) for key in "xywh")
    image = cv2.imread(str(shelf / "images" / "photo.png"))
    region = image[y : y + h, x : x + w]  # 70 x 35
    small = cv2.resize(region, (56, 35), interpolation=cv2.INTER_AREA)
    assert np.array_equal(pixels[:, :, ::-1], cv2.resize(small, (56, 56), interpolation=cv2.INTER_CUBIC))
