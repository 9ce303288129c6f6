"""Shapes by brute force: masks that are drawn, corners that are turned by hand, and the numbers by which crops are called."""

from __future__ import annotations

import json
import math
from array import array
from pathlib import Path

import numpy as np
import pytest

from annotations import box_evidence, fields, formats, segmentation, yolo
from annotations.options import Options
from annotations.records import Box, Object, Outline, Skipped
from common.messages import Unusable


def read(content: object, name: str = "a.json") -> list:
    text = content if isinstance(content, str) else json.dumps(content)
    return formats.read_file(text.encode(), Path(name), Path("."), Options(outlines=True), None)[1]


def sides(row: Object) -> tuple[float, ...]:
    return row.box.left, row.box.top, row.box.right, row.box.bottom


def runs_of(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, zeros first, counted pixel by pixel."""
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs, value = [*runs, 0], not value
        runs[-1] += 1
    return runs


def compressed(runs: list[int]) -> str:
    """COCO's text, as rleToString of its maskApi.c writes it."""
    text = ""
    for place, run in enumerate(runs):
        x, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            digit, x = x & 31, x >> 5
            more = x != -1 if digit & 16 else x != 0
            text += chr((digit | 32 if more else digit) + 48)
    return text


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    drawn = []
    for height, width in ((1, 1), (1, 7), (7, 1), (5, 4), (40, 60), (300, 200)):
        drawn += [np.ones((height, width), bool), rng.random((height, width)) < 0.05, rng.random((height, width)) < 0.9]
        block = np.zeros((height, width), bool)
        block[height // 3 : height // 3 + 1 + height // 4, width // 2 :] = True
        low = np.zeros((height, width), bool)
        low[-1:, width // 2] = True  # ends with its column
        drawn += [block, low]
    drawn[1][0, 0] = True
    return [mask for mask in drawn if mask.any()]


def test_masks_as_run_lengths_give_their_box_and_their_runs():
    texts = set()
    for mask in masks():
        runs, (height, width) = runs_of(mask), mask.shape
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        expected = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        text = compressed(runs)
        assert segmentation.uncompressed(text) == runs
        for counts in (runs, text, list(map(float, runs))):
            outline = segmentation.read({"size": [height, width], "counts": counts})
            assert (outline.size, outline.runs) == ((height, width), tuple(runs))
            box = segmentation.box(outline)
            assert (box.left, box.top, box.right, box.bottom) == expected
        texts.add(text)
    assert any(
        ord(letter) - 48 & 16 and not ord(letter) - 48 & 32 for text in texts for letter in text
    )  # less than before


@pytest.mark.parametrize(
    "value",
    [
        {"size": [0, 5], "counts": [5]},
        {"size": [5, 0], "counts": [5]},
        {"size": [2, 3], "counts": [1, 4]},
        {"size": [2, 3], "counts": [-1, 7]},
        {"size": [2, 3], "counts": [0.5, 5.5]},
        {"size": [2, 3], "counts": "0"},
        {"size": [2, 3], "counts": "P"},  # another digit is to follow
        {"size": [2, 3], "counts": "\x7f"},
        {"size": [2, 3], "counts": "P" * 20},
        {"size": [2], "counts": [1, 5]},
    ],
)
def test_run_lengths_that_make_no_mask_are_told(value):
    with pytest.raises(Unusable):
        segmentation.read(value)


def turned(x: float, y: float, degrees: float) -> tuple[float, float]:
    """A point turned clockwise on a screen, where y goes down."""
    angle = math.radians(degrees)
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def test_a_box_is_turned_around_its_centre_corner_by_corner():
    expected = [
        coordinate
        for corner in ((-20, -10), (20, -10), (20, 10), (-20, 10))
        for coordinate in np.add((50, 60), turned(*corner, 30))
    ]
    np.testing.assert_allclose(fields.rotated(50, 60, 40, 20, 30), expected)
    np.testing.assert_allclose(
        expected[:2], [50 - 20 * 0.8660254 + 10 * 0.5, 60 - 20 * 0.5 - 10 * 0.8660254], rtol=1e-6
    )


def label_studio(region: dict) -> Object:
    region = {"original_width": 200, "original_height": 100, "rectanglelabels": ["x"], **region}
    (row,) = read([{"image": "a.jpg", "label": [region]}])
    return row


def test_a_box_of_label_studio_is_turned_around_its_top_left_corner():
    """Percent of a photo of 200 x 100: the corner at (50, 30) px, 40 px wide, 20 high."""
    row = label_studio({"x": 25, "y": 30, "width": 20, "height": 20, "rotation": 30})
    corners = [np.add((50, 30), turned(*corner, 30)) for corner in ((0, 0), (40, 0), (40, 20), (0, 20))]
    np.testing.assert_allclose(np.reshape(row.outline.polygons[0], (4, 2)), corners)
    np.testing.assert_allclose(sides(row), (*np.min(corners, axis=0), *np.max(corners, axis=0)))
    assert row.units == "pixels"


def test_ellipses_of_label_studio_are_in_percent_and_turn_in_pixels():
    """Centre (100, 40) px, radii 20 and 5 px; turned by 90 degrees it is 10 wide and 40 high."""
    ellipse = {"x": 50, "y": 40, "radiusX": 10, "radiusY": 5}
    assert sides(label_studio(ellipse)) == (40, 35, 60, 45)
    np.testing.assert_allclose(sides(label_studio({**ellipse, "rotation": 90})), (95, 20, 105, 60))


def test_ellipses_of_via_turn_by_radians():
    """By brute force: the box around ten thousand points of the outline."""
    place = {"name": "ellipse", "cx": 50, "cy": 40, "rx": 30, "ry": 10, "theta": 0.7}
    region = {"shape_attributes": place, "region_attributes": {"label": "x"}}
    (row,) = read({"a": {"filename": "a.jpg", "regions": [region]}})
    t = np.linspace(0, 2 * np.pi, 10_001)
    points = np.array([turned(x, y, math.degrees(0.7)) for x, y in zip(30 * np.cos(t), 10 * np.sin(t), strict=True)])
    expected = np.add((50, 40, 50, 40), (*points.min(axis=0), *points.max(axis=0)))
    np.testing.assert_allclose(sides(row), expected, atol=1e-4)


def test_regions_are_numbered_from_one_in_each_photo():
    """The number makes the crop's name: views of a crop are matched by it."""
    rect = {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}
    region = {"shape_attributes": rect, "region_attributes": {"label": "x"}}
    photos = {name: {"filename": f"{name}.jpg", "regions": [region] * n} for name, n in (("a", 2), ("b", 1))}
    expected = ["a_1", "a_2", "b_1"]
    assert [row.crop_id for row in read(photos)] == expected
    cells = f'''"{json.dumps(rect).replace('"', '""')}","{{""label"": ""x""}}"'''
    table = "filename,region_count,region_shape_attributes,region_attributes\n"
    table += "".join(f"{name}.jpg,{n},{cells}\n" for name, n in (("a", 2), ("b", 1), ("a", 2)))
    assert [row.crop_id for row in read(table, "a.csv")] == ["a_1", "b_1", "a_2"]
    metadata = {
        key: {"vid": vid, "xy": [2, 1, 2, 3, 4], "av": {"1": "x"}} for key, vid in zip("kmn", "121", strict=True)
    }
    via3 = {
        "attribute": {"1": {"aname": "label"}},
        "file": {"1": {"fname": "a.jpg", "type": 2}, "2": {"fname": "b.jpg", "type": 2}},
        "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
        "metadata": metadata,
    }
    assert [row.crop_id for row in read(via3)] == ["a_1", "b_1", "a_2"]


def test_what_key_points_say_of_a_box():
    """Three numbers a point, the third whether it is visible: the box holds (5, 6) and (9, 12), not the one that is not."""
    points = {"keypoints": [5, 6, 2, 900, 900, 0, 9, 12, 1]}
    assert box_evidence.evidence(points) == (Box(5, 6, 9, 12, 4, 6), False)
    assert box_evidence.evidence({"keypoints": [5, 6, 2, 9]}) is None
    assert box_evidence.evidence({"keypoints": [5, 6, 2]}) is None  # one point has no box
    triangle = {"segmentation": [[5, 6, 9, 6, 9, 12]], "keypoints": points["keypoints"]}
    assert box_evidence.evidence(triangle) == (Box(5, 6, 9, 12, 4, 6), True)


def test_boxes_of_corners_are_known_by_key_points_and_by_outlines():
    held = Box(10, 20, 30, 60, 20, 40), False
    drawn = Box(10, 20, 110, 70, 100, 50), True
    assert box_evidence.other_meaning([([8, 18, 24, 44], held)] * 4) == ""  # x, y, width, height around the points
    told = box_evidence.other_meaning([([20, 40, 26, 44], held)] * 4)
    assert told.startswith("100% of the first 4 boxes do not fit their own")
    assert "read as centre x, centre y, width, height, 100% do: --box_format cxcywh reads them so" in told
    assert "--box_format cxcywh" in box_evidence.other_meaning([([60, 45, 100, 50], drawn)])
    assert "--box_format yxyx" in box_evidence.other_meaning([([20, 10, 70, 110], drawn)])
    # two pixels and a fiftieth of the side are rounding: of 100 x 50, four across and three down
    assert "--box_format xyxy" in box_evidence.other_meaning([([14, 23, 110, 70], drawn)])
    assert box_evidence.other_meaning([([14.1, 23, 110, 70], drawn)]) == ""
    assert box_evidence.other_meaning([([14, 23.1, 110, 70], drawn)]) == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [("shop.yaml", "names: [cat, dog]"), ("shop.names", "cat\ndog\n"), ("labels/classes.txt", "cat\ndog\n")],
)
def test_class_names_of_yolo_under_any_name(tmp_path, name, text):
    (tmp_path / "labels").mkdir()
    (tmp_path / name).write_text(text)
    assert yolo.open_dataset(tmp_path).names == {0: "cat", 1: "dog"}
    (tmp_path / "data.yaml").write_text("names: [ant, bee]")  # the usual name goes first
    assert yolo.open_dataset(tmp_path).names == {0: "ant", 1: "bee"}


def test_a_split_that_only_a_name_says_is_told(tmp_path):
    """Told where a name was gone by, not where the option or the file itself says it."""
    record = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [record],
    }
    path = tmp_path / "train.json"
    path.write_text(json.dumps(coco))

    def told(split: str | None, **more: str) -> list[str]:
        options = formats.reading_options(
            split, [f"{key}={value}" for key, value in more.items()], None, None, outlines=False
        )
        return formats.summary(formats.read(path, options)[0], options)

    assert len(told(None)) == 1
    assert "1 in split train (by " in told(None)[0]
    assert "1 in split val (by " in told(None, train="val")[0]
    assert told("train") == []


def test_rows_of_via_without_regions():
    """Only a photo that says so, and has none, holds no object: else something was lost."""
    shape = '"{""name"":""rect"",""x"":1,""y"":2,""width"":3,""height"":4}","{""label"":""x""}"'
    table = "filename,region_count,region_shape_attributes,region_attributes\n"
    found = read(f'{table}a.jpg,0,"{{}}","{{}}"\nb.jpg,0,{shape}\nc.jpg,1,"{{}}","{{}}"\nd.jpg,1,{shape}\n', "a.csv")
    assert [row.sample_id for row in found] == ["b", "c", "d"]
    assert [type(row) for row in found] == [Object, Skipped, Object]


def test_an_object_in_pixels_has_its_outline_in_pixels():
    outline = Outline((array("d", [0.1, 0.2, 0.3, 0.2, 0.3, 0.6]),))
    row = Object("a.jpg", "a", "1", "train", ("x",), Box(0.1, 0.2, 0.3, 0.6, 0.2, 0.4), None, "a", "fraction", outline)
    scaled = row.scaled(100, 10)
    np.testing.assert_allclose(sides(scaled), (10, 2, 30, 6))
    np.testing.assert_allclose((scaled.box.width, scaled.box.height), (20, 4))
    np.testing.assert_allclose(scaled.outline.polygons[0], [10, 2, 30, 2, 30, 6])
    assert scaled.units == "pixels"


def test_lists_of_photos_give_the_splits_of_yolo(tmp_path):
    (tmp_path / "train.txt").write_text("./images/a.b.jpg\nC:\\shop\\c.png\n")
    (tmp_path / "valid.txt").write_text("d.jpg\nc.png\n")
    assert yolo.open_dataset(tmp_path).lists == {"a.b": "train", "c": "train", "d": "valid"}
