"""Label Studio: which photo a region is on, what it is called, and why a region or a task gives no object."""

from __future__ import annotations

import json

import pytest

from annotations import formats, label_studio
from annotations.records import Object

RECTANGLE = {"x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": ["tea"]}
PLACED = {"original_width": 200, "original_height": 100, "type": "rectanglelabels"}
NO_IMAGE, WHICH = "task 1 names no image", "of several photos of its task, which one is not known"


def rows(content) -> list[tuple]:
    """(photo or sample id, number, label or reason) of each record."""
    found = formats.parse(json.dumps(content).encode(), "tasks.json")
    return [
        (item.image, item.object_id, item.classes[0])
        if isinstance(item, Object)
        else (item.sample_id, item.object_id, item.reason)
        for item in found
    ]


def task(data, *results, **more):
    return {
        "data": data,
        "annotations": [{"result": [{**PLACED, "value": RECTANGLE, **one} for one in results]}],
        **more,
    }


PREDICTED = {"predictions": [{"result": [{}]}]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([task({"image": "a.jpg"}, {})], [("a.jpg", "1", "tea")]),
        ({"data": {"image": "a.jpg"}, "completions": task({}, {})["annotations"]}, [("a.jpg", "1", "tea")]),
        ([task({"image": "a.jpg"}, {}, {})], [("a.jpg", "1", "tea"), ("a.jpg", "2", "tea")]),
        ([task({"image": "a.jpg"}, {"id": "r"}, {"id": "r"})], [("a.jpg", "1", "tea")]),
        ([task({"image": "a.jpg"}, {}), 5], [("a.jpg", "1", "tea"), ("", "", "task 2 is not an object")]),
        ([task({"image": "p/a.jpg"}, **PREDICTED)], [("p/a", "", "only predictions of a model, no annotation")]),
        ([task({"pages": ["a.jpg"]}, **PREDICTED)], [("", "", "only predictions of a model, no annotation")]),
        ([task({"image": "a.jpg"}, {}, **PREDICTED)], [("a.jpg", "1", "tea")]),
        ([task({"image": "a.jpg"})], []),
        ([task({"text": "no photo"}, {})], [("", "", NO_IMAGE)]),
        ([task({"image": " "}, {})], [("", "", NO_IMAGE)]),
        ([task({"text": "words", "shelf": "s/a.jpg"}, {})], [("s/a.jpg", "1", "tea")]),
        ([task({"url": "b.jpg", "photo": "a.jpg"}, {})], [("a.jpg", "1", "tea")]),
        ([task({"front": "f.jpg", "back": "b.jpg"}, {})], [("", "1", WHICH)]),
        ([task({"front": "f.jpg", "back": "b.jpg"}, {"to_name": "back"})], [("b.jpg", "1", "tea")]),
        ([task({"front": "f.jpg", "back": "b.jpg"})], [("", "", NO_IMAGE)]),
        ([task({"pages": ["a.jpg"]}, {})], [("a.jpg", "1", "tea")]),
        ([task({"pages": ["a.jpg", "b.jpg"]}, {})], [("", "1", WHICH)]),
        ([task({"pages": ["a.jpg", "b.jpg"]}, {"item_index": 0})], [("a.jpg", "1", "tea")]),
        ([task({"pages": ["a.jpg", "b.jpg"]}, {"item_index": 1})], [("b.jpg", "1", "tea")]),
        ([task({"pages": ["a.jpg", "b.jpg"]}, {"item_index": 2})], [("", "1", WHICH)]),
        ([task({"pages": ["a.jpg", "b.jpg"]}, {"item_index": -1})], [("", "1", WHICH)]),
        ([task({"image": "c.jpg", "pages": ["a.jpg", "b.jpg"]}, {"item_index": 1})], [("b.jpg", "1", "tea")]),
        ([task({"image": "c.jpg", "pages": ["a.jpg", "b.jpg"]}, {})], [("c.jpg", "1", "tea")]),
        ([task({"image": "a.jpg"}, {"type": "relation"}, {})], [("a.jpg", "1", "tea")]),
        ([task({"image": "a.jpg"}, {"value": None})], [("a", "1", "no label")]),
        ([{"data": {"image": "a.jpg"}, "completions": [{"result": [{**PLACED, "value": RECTANGLE}]}]}], [("a.jpg", "1", "tea")]),
        ([{"image": "a.jpg", "boxes": [{**PLACED, **RECTANGLE}], "more": [{"x": 1, "y": 2}], "none": []}],
         [("a.jpg", "1", "tea"), ("a", "2", "no label")]),
        ([{"image": "a.jpg", "boxes": [{**PLACED, **RECTANGLE}], "texts": ["x"], "others": [{"coordinates": {}, "x": 1}]}],
         [("a.jpg", "1", "tea")]),
    ],
)  # fmt: skip
def test_which_photo_a_region_is_on(content, expected):
    assert rows(content) == expected


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ({}, "tea"),
        ({"rectanglelabels": ["rice", "rice"]}, "rice"),
        ({"rectanglelabels": [7]}, "7"),
        ({"rectanglelabels": []}, "no label"),
        ({"rectanglelabels": "tea"}, "no label"),
        ({"rectanglelabels": ["tea", "rice"]}, 'several labels: ["tea", "rice"]'),
        ({"brushlabels": ["rice"]}, 'several labels: ["tea", "rice"]'),
        ({"rectanglelabels": [None]}, "no rectanglelabels"),
        ({"rectanglelabels": [], "labels": ["rice"]}, "rice"),
        ({"width": 0}, "empty box"),
        ({"width": None}, "no width"),
        ({"x": "left"}, 'bad x: "left"'),
    ],
)
def test_what_a_region_is_called(value, label):
    assert [name for _, _, name in rows([task({"image": "a.jpg"}, {"value": {**RECTANGLE, **value}})])] == [label]


@pytest.mark.parametrize(
    ("value", "about", "box", "units"),
    [
        ({}, {}, (10, 20, 40, 60), "percent"),
        ({"rotation": 0}, {}, (10, 20, 40, 60), "percent"),
        ({"width": -5, "height": -10}, {}, (5, 10, 10, 20), "percent"),
        ({"rotation": 90}, {}, (20 - 40, 20, 20, 80), "pixels"),
        ({"rotation": 180}, {}, (20 - 60, 20 - 40, 20, 20), "pixels"),
        ({"points": [[1, 2], [5, 2], [5, 8]]}, {}, (1, 2, 5, 8), "percent"),
        ({"radiusX": 4, "radiusY": 5}, {}, (6, 15, 14, 25), "percent"),
        ({"radiusX": 4, "radiusY": 5, "rotation": 90}, {}, (20 - 5, 20 - 8, 20 + 5, 20 + 8), "pixels"),
        ({"rotation": 90}, {"original_width": None}, "a turned region without original_width and original_height", ""),
    ],
)
def test_shapes(value, about, box, units):
    """A photo of 200 x 100: the corner (10, 20) % is (20, 20) px, the sides 30 and 40 % are 60 and 40 px."""
    content = [task({"image": "a.jpg"}, {"value": {**RECTANGLE, **value}, **about})]
    (row,) = formats.parse(json.dumps(content).encode(), "tasks.json")
    if isinstance(box, str):
        assert row.reason == box
        return
    assert (row.box.left, row.box.top, row.box.right, row.box.bottom) == pytest.approx(box)
    assert (row.units, row.declared) == (units, (200, 100))


@pytest.mark.parametrize("kind", ["keypoint", "brush", "rectangle", None])
def test_what_has_no_box(kind):
    value = {"x": 1, "y": 2, f"{kind or 'rectangle'}labels": ["tea"]}
    (found,) = rows([{"data": {"image": "a.jpg"}, "annotations": [{"result": [
        {**({"type": f"{kind}labels"} if kind else {}), "value": value}]}]}])  # fmt: skip
    assert found[2] == (f"a {kind} has no box" if kind in ("keypoint", "brush") else "no width")


def test_what_is_of_label_studio():
    region = {"x": 1, "y": 2, "width": 3}
    own = [
        [task({"image": "a.jpg"})],
        {"data": {}, "completions": []},
        [{"image": "a.jpg", "label": [{**region, "rectanglelabels": ["x"]}]}],
        [{"image": "a.jpg", "label": [{**region, "original_width": 5}]}],
        [5, task({})],
    ]
    others = [[], 5, [{"data": {}}], [{"annotations": []}], [{"data": [], "annotations": []}], [{"objects": [region]}],
              [{"label": [{**region, "coordinates": {}, "labels": 1}]}], [{"label": [{"labels": 1}]}]]  # fmt: skip
    assert [content for content in own if not label_studio.recognise(content)] == []
    assert [content for content in others if label_studio.recognise(content)] == []
