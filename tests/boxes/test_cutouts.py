"""`--cutout mask`: what lies outside the polygon or the mask is filled, from every format that has outlines."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

import crop
from annotations import segmentation
from annotations.records import Outline
from boxes.cutouts import fill_outside
from boxes.padding import Region
from common.messages import Unusable

DIAMOND = [50, 10, 90, 50, 50, 90, 10, 50]


def run(folder, *options) -> np.ndarray:
    argv = ["--json_path", folder / "a.json", "--output_root", folder / "out", "--padding_percent", 0, "--overwrite"]
    argv += ["--post_padding_method", "none", "--image_format", "png", *options]
    assert crop.main(list(map(str, argv))) == 0
    (path,) = (folder / "out").rglob("*.png")
    return cv2.imread(str(path))


@pytest.fixture
def photo(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((100, 100, 3), 80, np.uint8))
    return tmp_path


def write(folder, segmentation) -> None:
    item = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 80, 80], "segmentation": segmentation}
    coco = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [item], "categories": [{"id": 1, "name": "x"}]}
    (folder / "a.json").write_text(json.dumps(coco))


def inside() -> np.ndarray:
    """The pixels of the crop whose centre is in the diamond |x - 50| + |y - 50| <= 40."""
    y, x = np.mgrid[10:90, 10:90] + 0.5
    return abs(x - 50) + abs(y - 50) <= 40


def runs(mask: np.ndarray) -> list[int]:
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    return np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()


def test_polygon_and_mask(photo):
    write(photo, [DIAMOND])
    assert (run(photo) == 80).all()
    filled = run(photo, "--cutout", "mask", "--fill", "black")
    differing = ((filled[:, :, 0] == 80) != inside()).sum()
    assert set(np.unique(filled)) == {0, 80}
    assert differing <= 160  # the pixels of the edge, which fillPoly counts in
    whole = np.zeros((100, 100), np.uint8)
    whole[10:90, 10:90] = inside()
    write(photo, {"size": [100, 100], "counts": runs(whole)})
    filled = run(photo, "--cutout", "mask")
    assert np.array_equal(filled[:, :, 0] == 80, inside())
    assert (filled[0, 0] == 255).all()


def test_objects_without_an_outline_are_cut_whole_and_counted(photo, capsys):
    write(photo, [])
    assert (run(photo, "--cutout", "mask") == 80).all()
    assert "1 object without an outline" in capsys.readouterr().err


def test_a_mask_in_a_region_that_leaves_the_image():
    mask = np.zeros((6, 5), np.uint8)
    mask[:3, 2:] = 1
    region = Region(-2, -1, 8, 7, clipped=False)
    crop_pixels = np.full((8, 10, 3), 7, np.uint8)
    filled = fill_outside(crop_pixels, region, Outline((), (6, 5), tuple(runs(mask))), (0, 0, 0))
    expected = np.zeros((8, 10), bool)
    expected[1:7, 2:7] = mask == 1
    assert np.array_equal(filled[:, :, 0] == 7, expected)


def compressed(counts: list[int]) -> str:
    """The compression of the COCO API (maskApi.c, rleToString), written again from its description."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            digit = value & 31
            value >>= 5
            more = value != (-1 if digit & 16 else 0)
            text += chr((digit | 32 * more) + 48)
    return text


def test_boxes_of_masks_equal_those_of_their_pixels():
    rng = np.random.default_rng(0)
    for _ in range(200):
        shape = rng.integers(1, 12, 2)
        mask = (rng.random(shape) < rng.choice([0.05, 0.5, 0.95])).astype(np.uint8)
        counts = runs(mask)
        if not mask.any():
            with pytest.raises(Unusable, match="empty box"):
                segmentation.box(segmentation.read({"size": shape.tolist(), "counts": counts}))
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        expected = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert segmentation.uncompressed(compressed(counts)) == counts
        for form in (counts, compressed(counts)):
            box = segmentation.box(segmentation.read({"size": shape.tolist(), "counts": form}))
            assert (box.left, box.top, box.right, box.bottom) == expected


def test_the_compression_of_the_coco_api():
    """What pycocotools.mask.encode gives for a 3 x 3 block at (1, 1) of 5 x 5, for nothing in 5 x 5, and for two other masks."""
    assert segmentation.uncompressed("6320004") == [6, 3, 2, 3, 2, 3, 6]
    assert segmentation.uncompressed("i0") == [25]
    assert segmentation.uncompressed("09") == [0, 9]
    mask = np.zeros((4, 7), np.uint8)
    mask[0] = mask[2, 3:] = 1
    assert segmentation.uncompressed("01300000N00000000000000") == runs(mask)


@pytest.mark.parametrize(
    "value",
    [
        [DIAMOND],
        DIAMOND,
        [[50, 10], [90, 50], [50, 90], [10, 50]],
        [[[50, 10], [90, 50], [50, 90], [10, 50]]],
        [{"x": 50, "y": 10}, {"x": 90, "y": 50}, {"x": 50, "y": 90}, {"x": 10, "y": 50}],
        [[str(number) for number in DIAMOND]],
        json.dumps([DIAMOND]),
    ],
)
def test_forms_of_polygons(value):
    box = segmentation.box(segmentation.read(value))
    assert (box.left, box.top, box.right, box.bottom) == (10, 10, 90, 90)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no segmentation"),
        ([], "empty segmentation"),
        (5, "bad segmentation: 5"),
        ([[1, 2, 3, 4]], "a polygon of 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon of 7 numbers"),
        ([[1, 2, 3, 4, "x", 6]], 'bad segmentation: "x"'),
        ({"size": [2, 2], "counts": [1, 2]}, r"counts do not add up to size \[2, 2\]"),
        ({"size": [2, 2], "counts": [5, -1]}, "bad segmentation.counts"),
        ({"size": [2, 2], "counts": "\x00"}, "bad segmentation.counts"),
        ({"size": [10**9, 2], "counts": [1]}, "do not add up"),
    ],
)
def test_what_is_no_segmentation_is_named(value, reason):
    with pytest.raises(Unusable, match=reason):
        segmentation.read(value)
