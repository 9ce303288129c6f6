"""Single values of annotation files: what each of them is read as, and the reason why it is not."""

from __future__ import annotations

import math
from array import array

import pytest

from annotations import fields, segmentation
from annotations.records import Box, Outline
from common.messages import Unusable

NAN, INF = float("nan"), float("inf")


def read(function, *values):
    """What the function returns, or the reason why it does not."""
    try:
        return function(*values)
    except Unusable as error:
        return f"no: {error}"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a", "a"),
        (" a ", " a "),
        (7, "7"),
        (7.0, "7"),
        (0, "0"),
        ({"$oid": "5f"}, "5f"),
        ({"$numberInt": "3"}, "3"),
        (None, "no: no id"),
        ({"$oid": None}, "no: no id"),
        ("", "no: empty id"),
        (" \t", "no: empty id"),
        (7.5, "no: bad id: 7.5"),
        (True, "no: bad id: true"),
        ([], "no: bad id: []"),
        ({"oid": "5f"}, 'no: bad id: {"oid": "5f"}'),
        ({"$oid": "5f", "a": 1}, 'no: bad id: {"$oid": "5f", "a": 1}'),
    ],
)
def test_texts(value, said):
    assert read(fields.text, value, "id") == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, 3.0),
        (-0.5, -0.5),
        ("3", 3.0),
        (" 1e3 ", 1000.0),
        ({"$numberDouble": "0.5"}, 0.5),
        (None, "no: no x"),
        (True, "no: bad x: true"),
        ("1_000", 'no: bad x: "1_000"'),
        ("1,5", 'no: bad x: "1,5"'),
        ("", 'no: bad x: ""'),
        (10**400, f"no: bad x: 1{'0' * 58}…"),
    ],
)
def test_numbers(value, said):
    assert read(fields.number, value, "x") == said


def test_lists_of_numbers_are_as_long_as_they_have_to_be():
    assert fields.numbers([1, "2"], 2, "xy") == fields.numbers((1, 2), 2, "xy") == [1.0, 2.0]
    assert [read(fields.numbers, value, 2, "xy") for value in ([1], [1, 2, 3], "12", None, [1, None], [1, "a"])] == [
        "no: bad xy: [1]",
        "no: bad xy: [1, 2, 3]",
        'no: bad xy: "12"',
        "no: bad xy: null",
        "no: bad xy: [1, null]",
        'no: bad xy: [1, "a"]',
    ]


def test_what_is_shown_has_sixty_characters():
    assert fields.shown("x" * 58) == f'"{"x" * 58}"'
    assert fields.shown("x" * 59) == f'"{"x" * 58}…'
    assert fields.shown("ä") == '"ä"'
    assert fields.shown({1}) == "{1}"  # no JSON


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((None, "", "0", "false", " No ", "off", "NULL", "f", "n", "none", False, 0, 0.0, "0.0", {"$numberInt": "0"}), False),
        (("1", "True", " yes", "on", "t", "y", True, 1, 0.5, "2", "-1", "0.1"), True),
        (("maybe", "_", [], {}), "no: bad iscrowd"),
    ],
)  # fmt: skip
def test_flags(values, said):
    for value in values:
        found = read(fields.flag, value, "iscrowd")
        assert found is said if isinstance(said, bool) else found.startswith(said), value


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (640, 480, (640, 480)),
        ("640", 480.0, (640, 480)),
        (1, 1, (1, 1)),
        (0, 480, None),
        (640, 0.5, None),
        (640, -1, None),
        (1e9, 480, None),
        (640, 1e9, None),
        (999_999_999, 999_999_999, (999_999_999, 999_999_999)),
        (None, 480, None),
        (640, "x", None),
        (NAN, 480, None),
        (640, INF, None),
    ],
)
def test_sizes_that_make_sense(width, height, said):
    assert fields.size(width, height) == said


BOX = Box(10, 20, 40, 60, 30, 40)


@pytest.mark.parametrize(
    ("values", "box_format", "said"),
    [
        ((10, 20, 30, 40), "xywh", BOX),
        ((10, 20, 40, 60), "xyxy", BOX),
        ((25, 40, 30, 40), "cxcywh", BOX),
        ((20, 10, 60, 40), "yxyx", BOX),
        ((10, 20, 0, 40), "xywh", "no: empty box"),
        ((10, 20, 30, 0), "xywh", "no: empty box"),
        ((10, 20, -1, 40), "xywh", "no: inverted box"),
        ((10, 20, 30, -1), "xywh", "no: inverted box"),
        ((10, 20, -1, 0), "xywh", "no: inverted box"),
        ((40, 20, 10, 60), "xyxy", "no: inverted box"),
        ((10, 20, 0.1, 0.1), "xywh", Box(10, 20, 10.1, 20.1, 0.1, 0.1)),
        ((10, NAN, 30, 40), "xywh", "no: box not finite"),
        ((-INF, 20, 30, 40), "xywh", "no: box not finite"),
        ((1e308, 20, 1e308, 40), "xywh", "no: box not finite"),
        ((-1e308, 20, 1e308, 40), "xyxy", "no: box not finite"),
    ],
)
def test_boxes_of_four_numbers(values, box_format, said):
    assert read(fields.box, values, box_format) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([10, 20, 30, 40], BOX),
        ([[10, 20, 30, 40]], BOX),
        ("10, 20, 30, 40", BOX),
        ("[10 20 30 40]", BOX),
        ("(10;20;30;40)", BOX),
        ("[10, 20, 30, 40]", BOX),
        ('{"x": 10, "y": 20, "w": 30, "h": 40}', BOX),
        ([[10, 20], [40, 60]], BOX),
        ([[10, 20], [40, 20], [40, 60], [10, 60]], BOX),
        ([10, 20, 40, 20, 40, 60, 10, 60], BOX),
        ({"xmin": 10, "ymin": 20, "xmax": 40, "ymax": 60, "width": 640, "height": 480}, BOX),
        ({"X_Min": "10", "Y_Min": "20", "X_Max": "40", "Y_Max": "60"}, BOX),
        ({"x1": 10, "y1": 20, "x2": 40, "y2": 60}, BOX),
        ({"left": 10, "top": 20, "right": 40, "bottom": 60}, BOX),
        ({"left": 10, "top": 20, "width": 30, "height": 40}, BOX),
        ({"topX": 10, "topY": 20, "bottomX": 40, "bottomY": 60}, BOX),
        ({"cx": 25, "cy": 40, "w": 30, "h": 40}, BOX),
        ({"cx": 25, "cy": 40, "width": 30, "height": 40}, BOX),
        ({"x_center": 25, "y_center": 40, "width": 30, "height": 40}, BOX),
        ({"x": 10, "y": 20, "width": 30, "height": 40}, BOX),
        ({"x": 10, "y": 20, "width": 30}, 'no: bad bbox: {"x": 10, "y": 20, "width": 30}'),
        ({"x": 10, "y": 20, "w": None, "h": 40}, "no: no bbox.w"),
        ([10, 20, 30], "no: bad bbox: [10, 20, 30]"),
        (
            [10, 20, 30, 40, 50],
            "no: bbox of 5 numbers, not 4 (take the angle, score or class out): [10, 20, 30, 40, 50]",
        ),
        ([[10, 20], [40, 60], [1, 2]], "no: bad bbox: [[10, 20], [40, 60], [1, 2]]"),
        ([[10, 20], [40, 60, 1]], "no: bad bbox: [[10, 20], [40, 60, 1]]"),
        ([10, 20, 40, 20, 40, 60, 10, None], "no: no bbox"),
        ("10, 20, 30", 'no: bad bbox: ["10", "20", "30"]'),
        ("{10", 'no: bad bbox: "{10"'),
        ("[[10 20]]", 'no: bad bbox: "[[10 20]]"'),
        ("", "no: bad bbox: []"),
        (5, "no: bad bbox: 5"),
    ],
)
def test_boxes_however_they_are_written(value, said):
    assert read(fields.any_box, value, "xywh") == said


def test_bare_numbers_are_read_as_the_user_says_and_named_ones_as_they_are_named():
    for value in ([25, 40, 30, 40], "25 40 30 40", [[25, 40, 30, 40]], {"x1": 10, "y1": 20, "x2": 40, "y2": 60}):
        assert fields.any_box(value, "cxcywh") == BOX
    assert read(fields.any_box, None, "xywh", "place") == "no: bad place: null"


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([10, 60, 40, 20], BOX),
        ([40, 20, 10, 60, 20, 30], BOX),
        ([10, 20], "no: bad points: [10, 20]"),
        ([10, 20, 40], "no: bad points: [10, 20, 40]"),
        ([10, 20, 40, 60, 5], "no: bad points: [10, 20, 40, 60, 5]"),
        ([10, 20, 10, 60], "no: empty box"),
        ([10, 20, 40, INF], "no: box not finite"),
    ],
)
def test_the_box_around_points(points, said):
    assert read(fields.enclosing, points) == said


def test_turned_boxes_and_ellipses():
    assert fields.rotated(10, 20, 4, 2, 0) == [8, 19, 12, 19, 12, 21, 8, 21]
    assert fields.rotated(10, 20, 4, 2, 90) == pytest.approx([11, 18, 11, 22, 9, 22, 9, 18])
    assert read(fields.rotated, 10, 20, 4, 2, NAN) == "no: box not finite"
    assert fields.ellipse((25, 40, 15, 20)) == BOX
    around = fields.ellipse((25, 40, 20, 15), 90)
    assert (around.left, around.top, around.right, around.bottom) == pytest.approx((10, 20, 40, 60))
    half = math.sqrt((20**2 + 10**2) / 2)  # at 45 degrees
    turned = fields.ellipse((0, 0, 20, 10), 45)
    assert (turned.width, turned.height) == pytest.approx((2 * half, 2 * half))
    for values, degrees in (((0, 0, NAN, 1), 0), ((0, 0, 1, INF), 0), ((0, 0, 1, 1), INF), ((NAN, 0, 1, 1), 0)):
        assert read(fields.ellipse, values, degrees) == "no: box not finite"
    assert read(fields.ellipse, (0, 0, 0, 1)) == "no: empty box"


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"kind": "tea"}, "tea"),
        ({"kind": "tea", "note": "", "more": None, "others": {}, "list": []}, "tea"),
        ({"kind": "tea", "class": "rice"}, "rice"),
        ({"class": "rice", "label": "tea"}, "tea"),
        ({"label": "", "name": "tea"}, "tea"),
        ({"kind": {"tea": True}}, "tea"),
        ({"kind": {"tea": True, "rice": False}}, "tea"),
        ({"kind": {"tea": True, "rice": True}}, 'no: several labels: {"tea": true, "rice": true}'),
        ({"kind": {"tea": 1}}, 'no: several labels: {"tea": 1}'),
        ({"kind": "tea", "other": "rice"}, 'no: no label among av: {"kind": "tea", "other": "rice"}'),
        ({}, "no: no label among av: {}"),
        ({"kind": 0}, "0"),
        ({"kind": ["tea"]}, 'no: bad kind: ["tea"]'),
        ([], "no: bad av: []"),
    ],
)
def test_labels_among_attributes(attributes, said):
    assert read(fields.label_of, attributes, "av") == said


TRIANGLE = array("d", [1, 2, 5, 2, 5, 8])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2, 5, 2, 5, 8], Outline((TRIANGLE,))),
        ([[1, 2, 5, 2, 5, 8]], Outline((TRIANGLE,))),
        ([["1", 2, 5, 2, 5, "8"], []], Outline((TRIANGLE,))),
        ([[1, 2], [5, 2], [5, 8]], Outline((TRIANGLE,))),
        ([[[1, 2], [5, 2], [5, 8]]], Outline((TRIANGLE,))),
        ([[{"x": 1, "y": 2}, {"x": 5, "y": 2}, {"x": 5, "y": 8}]], Outline((TRIANGLE,))),
        ("[[1, 2, 5, 2, 5, 8]]", Outline((TRIANGLE,))),
        ([[1, 2, 5, 2, 5, 8], [1, 2, 5, 2, 5, 8]], Outline((TRIANGLE, TRIANGLE))),
        ({"size": [2, 3], "counts": [1, 2, 3]}, Outline((), (2, 3), (1, 2, 3))),
        ({"size": [2.0, "3"], "counts": [6]}, Outline((), (2, 3), (6,))),
        (None, "no: no segmentation"),
        ([], "no: empty segmentation"),
        ([[]], "no: empty segmentation"),
        ([[1, 2, 5, 2]], "no: bad segmentation: a polygon of 4 numbers"),
        ([[1, 2, 5, 2, 5, 8, 9]], "no: bad segmentation: a polygon of 7 numbers"),
        ([[1, 2], [5, 2]], "no: bad segmentation: a polygon of 2 numbers"),
        ([[1, 2, 5, 2, 5, None]], "no: no segmentation"),
        ([[1, 2, 5, 2, 5, NAN]], "no: segmentation not finite"),
        ([[{"x": 1, "y": 2}, 5]], 'no: bad segmentation: [{"x": 1, "y": 2}, 5]'),
        ([[{"x": 1}]], "no: no segmentation.y"),
        (5, "no: bad segmentation: 5"),
        ("[", 'no: bad segmentation: "["'),
        ({"size": [2, 3], "counts": [1, 2]}, "no: bad segmentation: counts do not add up to size [2, 3]"),
        ({"size": [2, 3], "counts": 6}, "no: bad segmentation.counts: 6"),
        ({"size": [2], "counts": [6]}, "no: bad segmentation.size: [2]"),
    ],
)
def test_outlines_however_they_are_written(value, said):
    assert read(segmentation.read, value) == said


def test_the_box_around_polygons_leaves_out_what_encloses_nothing():
    line = array("d", [100, 2, 100, 2, 100, 8])
    assert segmentation.box(Outline((line, TRIANGLE))) == Box(1, 2, 5, 8, 4, 6)
    assert segmentation.box(Outline((TRIANGLE, array("d", [0, 3, 9, 3, 9, 4])))) == Box(0, 2, 9, 8, 9, 6)
    assert read(segmentation.box, Outline((line,))) == "no: empty box"
    assert read(segmentation.box, Outline((), (2, 3), (6,))) == "no: empty box"
    assert read(segmentation.box, Outline((), (2, 3), (5, 1))) == Box(2, 1, 3, 2, 1, 1)


def test_units_are_parts_of_a_side():
    assert fields.PER_SIDE == {"fraction": 1, "percent": 100, "permille": 1000}
