"""Every kind of shape of every tool: its box, its outline, or the reason why it is no object."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import numpy as np
import pytest

from annotations import formats
from annotations.options import Options
from annotations.records import Object, Outline

TRIANGLE = [1, 2, 5, 2, 5, 8]
PAIRS = [[1, 2], [5, 2], [5, 8]]
AROUND = (1, 2, 5, 8)
BAD = "bad all_points_x and all_points_y"
DRAWN = Outline((array("d", TRIANGLE),))


def only(content: object, name: str, **options):
    text = content if isinstance(content, str) else json.dumps(content)
    (row,) = formats.read_file(text.encode(), Path(name), Path("."), Options(outlines=True, **options), None)[1]
    return row


def check(row, box, outline=None, units="pixels"):
    if isinstance(box, str):
        assert row.reason == box
        return
    assert isinstance(row, Object), row
    np.testing.assert_allclose((row.box.left, row.box.top, row.box.right, row.box.bottom), box, atol=1e-9)
    assert (row.classes[-1], row.units) == ("tea", units)
    if outline is None or outline.polygons == DRAWN.polygons:
        assert row.outline == outline
    else:
        np.testing.assert_allclose(row.outline.polygons[0], outline.polygons[0], atol=1e-9)


def corners(*numbers: float) -> Outline:
    return Outline((array("d", numbers),))


@pytest.mark.parametrize(
    ("kind", "points", "box", "outline"),
    [
        ("rectangle", [[5, 8], [1, 2]], AROUND, None),
        ("rectangle", [[1, 2], [5, 2], [5, 8], [1, 8]], AROUND, None),
        ("rectangle", PAIRS, "bad points: [[1, 2], [5, 2], [5, 8]]", None),
        ("mask", [[1, 2], [5, 8]], AROUND, None),
        ("polygon", PAIRS, AROUND, DRAWN),
        (None, PAIRS, AROUND, DRAWN),
        ("circle", [[10, 20], [13, 24]], (5, 15, 15, 25), None),
        ("circle", PAIRS, "bad points: [[1, 2], [5, 2], [5, 8]]", None),
        ("linestrip", PAIRS, AROUND, None),
        ("line", [[1, 2], [5, 8]], AROUND, None),
        ("rotation", PAIRS, AROUND, DRAWN),
        ("oriented_rectangle", PAIRS, AROUND, DRAWN),
        ("point", [[1, 2]], "a point has no box", None),
        ("polygon", None, "no points", None),
        ("polygon", "x", 'bad points: "x"', None),
        ("line", [[1, 2, 3], [5, 8]], "bad points: [1, 2, 3]", None),
    ],
)
def test_labelme(kind, points, box, outline):
    shape = {"label": "tea", "points": points, "shape_type": kind}
    check(only({"shapes": [shape]}, "a.json"), box, outline)
    if outline:
        check(only({"shapes": [shape]}, "a.json", box_units="percent"), box, outline, "percent")


@pytest.mark.parametrize(
    ("content", "stem", "image", "own_name", "declared"),
    [
        ({"imagePath": "..\\p\\b.jpg", "imageWidth": 9, "imageHeight": 8}, "sub/a", "p/b.jpg", "sub/a", (9, 8)),
        ({"imagePath": "b.jpg", "imageWidth": 9}, "sub/a", "sub/b.jpg", "sub/a", None),
        ({"imagePath": "a"}, "sub/a", "sub/a", "", None),
        ({"imagePath": " "}, "sub/a", "sub/a", "", None),
        ({"imagePath": 5}, "a", "a", "", None),
    ],
)
def test_the_photo_of_a_labelme_file(content, stem, image, own_name, declared):
    shape = {"label": "tea", "points": PAIRS}
    row = only({**content, "shapes": [shape]}, f"{stem}.json")
    assert (row.image, row.own_name, row.declared) == (image, own_name, declared)


@pytest.mark.parametrize(
    ("place", "box", "outline"),
    [
        ({"name": "rect", "x": 1, "y": 2, "width": 4, "height": 6}, AROUND, None),
        ({"name": "polygon", "all_points_x": [1, 5, 5], "all_points_y": [2, 2, 8]}, AROUND, DRAWN),
        ({"name": "polyline", "all_points_x": [1, 5], "all_points_y": [2, 8]}, AROUND, None),
        ({"name": "polygon", "all_points_x": [1, 5], "all_points_y": [2, 2, 8]}, f"{BAD}: [[1, 5], [2, 2, 8]]", None),
        ({"name": "polygon", "all_points_x": 1, "all_points_y": [2]}, f"{BAD}: [1, [2]]", None),
        ({"name": "circle", "cx": 10, "cy": 20, "r": 5}, (5, 15, 15, 25), None),
        ({"name": "ellipse", "cx": 10, "cy": 20, "rx": 5, "ry": 3}, (5, 17, 15, 23), None),
        ({"name": "ellipse", "cx": 10, "cy": 20, "rx": 5, "ry": 3, "theta": np.pi / 2}, (7, 15, 13, 25), None),
        ({"name": "point", "cx": 10, "cy": 20}, 'a "point" has no box', None),
        ({"name": "circle", "cx": 10, "cy": 20}, "no r", None),
    ],
)  # fmt: skip
def test_via(place, box, outline):
    region = {"shape_attributes": place, "region_attributes": {"label": "tea"}}
    check(only({"k": {"filename": "a.jpg", "regions": [region]}}, "a.json"), box, outline)
    check(only({"k": {"filename": "a.jpg", "regions": {"0": region}}}, "a.json"), box, outline)


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        ({"filename": "a.jpg", "regions": None}, "no regions"),
        ({"filename": " ", "regions": []}, "no regions"),
        ({"filename": None, "regions": []}, "no filename"),
        ({"regions": []}, "no filename"),
    ],
)
def test_photos_of_via_without_a_name_or_regions(photo, reason):
    sound = {"filename": "b.jpg", "regions": []}
    row = only({"_via_img_metadata": {"k": photo, "l": sound}}, "a.json")
    assert (row.sample_id, row.reason) == ("k", reason)


@pytest.mark.parametrize(
    ("xy", "box", "outline"),
    [
        ([2, 1, 2, 4, 6], AROUND, None),
        ([3, 10, 20, 5], (5, 15, 15, 25), None),
        ([4, 10, 20, 5, 3], (5, 17, 15, 23), None),
        ([6, 1, 2, 5, 8], AROUND, None),
        ([8, 1, 2, 5, 8], AROUND, None),
        ([7, *TRIANGLE], AROUND, DRAWN),
        ([1, 5, 8], "a point of 2 numbers has no box", None),
        ([5, 1, 2, 5, 8], "a line of 4 numbers has no box", None),
        ([9, 1, 2, 5], "a extreme_circle of 3 numbers has no box", None),
        ([2, 1, 2, 4], "a rectangle of 3 numbers has no box", None),
        ([3, 10, 20], "a circle of 2 numbers has no box", None),
        ([4, 10, 20, 5], "a ellipse of 3 numbers has no box", None),
        ([2.5, 1, 2, 4, 6], "a shape 2.5 of 4 numbers has no box", None),
        ([0, 1, 2], "a shape 0.0 of 2 numbers has no box", None),
        ("2", 'bad xy: "2"', None),
    ],
)
def test_via_3(xy, box, outline):
    content = {
        "attribute": {"1": {"aname": "label", "options": {"0": "tea", "1": "rice"}}},
        "file": {"1": {"fname": "a.jpg", "type": 2}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {"k": {"vid": "1", "xy": xy, "av": {"1": "0"}}},
    }
    check(only(content, "a.json"), box, outline)


@pytest.mark.parametrize(
    ("file", "view", "record", "said"),
    [
        ({"fname": " ", "src": "p/b.jpg"}, {"fid_list": ["1"]}, {}, "p/b.jpg"),
        ({"fname": "a.jpg"}, {"fid_list": [1]}, {}, "a.jpg"),
        ({"fname": "a.jpg", "type": "2"}, {"fid_list": ["1"]}, {}, "a.jpg"),
        ({"fname": "a.mp4", "type": 4}, {"fid_list": ["1"]}, {}, "file 1 is no image"),
        ({"fname": ""}, {"fid_list": ["1"]}, {}, "no fname"),
        ({"fname": "a.jpg"}, {"fid_list": ["1", "2"]}, {}, "view 1 is not one file"),
        ({"fname": "a.jpg"}, {}, {}, "view 1 is not one file"),
        ({"fname": "a.jpg"}, {"fid_list": ["2"]}, {}, "annotation is not an object"),
        ({"fname": "a.jpg"}, {"fid_list": ["1"]}, {"vid": "2"}, "view 2 is not one file"),
        ({"fname": "a.jpg"}, {"fid_list": ["1"]}, {"xy": []}, "no region"),
        ({"fname": "a.jpg"}, {"fid_list": ["1"]}, {"av": {"1": "0,1"}}, 'several labels: {"tea": true, "rice": true}'),
        ({"fname": "a.jpg"}, {"fid_list": ["1"]}, {"av": {"1": "0,"}}, "a.jpg"),
        ({"fname": "a.jpg"}, {"fid_list": ["1"]}, {"av": {"2": "tea"}}, "a.jpg"),
        ({"fname": "a.jpg"}, {"fid_list": ["1"]}, {"av": None}, "bad av: null"),
    ],
)
def test_regions_of_via_3(file, view, record, said):
    content = {
        "attribute": {"1": {"aname": "label", "options": {"0": "tea", "1": "rice"}}},
        "file": {"1": file},
        "view": {"1": view},
        "metadata": {"k": {"vid": "1", "xy": [2, 1, 2, 4, 6], "av": {"1": "0"}, **record}},
    }
    row = only(content, "a.json")
    assert (row.image if isinstance(row, Object) else row.reason) == said
    assert not isinstance(row, Object) or row.classes == ("tea",)


@pytest.mark.parametrize(
    ("shape", "box", "outline"),
    [
        ("<box label='tea' xtl='1' ytl='2' xbr='5' ybr='8'/>", AROUND, None),
        ("<box label='tea' xtl='1' ytl='2' xbr='5' ybr='8' rotation='0.0'/>", AROUND, None),
        (
            "<box label='tea' xtl='1' ytl='2' xbr='5' ybr='8' rotation='90'/>",
            (0, 3, 6, 7),
            corners(6, 3, 6, 7, 0, 7, 0, 3),
        ),
        ("<polygon label='tea' points='1,2;5,2;5,8'/>", AROUND, DRAWN),
        ("<polyline label='tea' points='1,2;5,8'/>", AROUND, None),
        ("<polyline label='tea' points='1,2;5'/>", 'bad points: ["5"]', None),
        ("<polygon label='tea'/>", 'bad points: [""]', None),
        ("<ellipse label='tea' cx='10' cy='20' rx='5' ry='3'/>", (5, 17, 15, 23), None),
        ("<ellipse label='tea' cx='10' cy='20' rx='5' ry='3' rotation='450'/>", (7, 15, 13, 25), None),
        ("<mask label='tea' left='1' top='2' width='4' height='6' rle='x'/>", AROUND, None),
        ("<cuboid label='tea'/>", "a cuboid has no box", None),
        ("<box xtl='1' ytl='2' xbr='5' ybr='8'/>", "no label", None),
    ],
)
def test_cvat(shape, box, outline):
    text = f"<annotations><image name='a.jpg' width='9' height='8' subset='val'><tag label='x'/>{shape}</image></annotations>"
    row = only(text, "a.xml")
    check(row, box, outline)
    if isinstance(row, Object):
        assert (row.split, row.declared, row.object_id) == ("val", (9, 8), "1")


@pytest.mark.parametrize(
    ("record", "box", "outline"),
    [
        ({"type": "bbox", "bbox": [1, 2, 4, 6]}, AROUND, None),
        ({"type": "polygon", "points": TRIANGLE}, AROUND, DRAWN),
        ({"type": "mask", "rle": {"size": [2, 3], "counts": [5, 1]}}, (2, 1, 3, 2), Outline((), (2, 3), (5, 1))),
        ({"type": "rotated_bbox", "bbox": [10, 20, 6, 4, 90]}, (8, 17, 12, 23), corners(12, 17, 12, 23, 8, 23, 8, 17)),
        ({"type": "polyline", "points": [1, 2, 5, 8]}, AROUND, None),
        ({"type": "polyline", "points": None}, "bad points: null", None),
        ({"type": "points", "points": [1, 2]}, 'a "points" has no box', None),
        ({"type": "label"}, "a label has no box", None),
        ({"type": "caption"}, "a caption has no box", None),
        ({"type": "bbox", "bbox": [1, 2, 4, 6], "label_id": 2}, "unknown label_id: 2", None),
        ({"type": "bbox", "bbox": [1, 2, 4, 6], "label_id": -1}, "unknown label_id: -1", None),
        ({"type": "bbox", "bbox": [1, 2, 4, 6], "label_id": 0.5}, "unknown label_id: 0.5", None),
        ({"type": "bbox", "bbox": [1, 2, 4, 6], "label_id": 1}, "unknown label_id: 1", None),
        ({"type": "bbox", "bbox": [1, 2, 4, 6], "label_id": None}, "no label_id", None),
        ({"type": "bbox", "bbox": [1, 2, 4, 6], "attributes": {"is_crowd": True}}, "crowd region", None),
        ({"type": "bbox", "bbox": [1, 2, 4, 6], "attributes": {"is_crowd": False}}, AROUND, None),
    ],
)
def test_datumaro(record, box, outline):
    labels = [{"name": "tea", "parent": "food"}, "no object"]
    item = {
        "id": "a",
        "subset": "val",
        "image": {"path": "p/a.jpg", "size": [8, 9]},
        "annotations": [{"label_id": 0, **record}],
    }
    row = only({"categories": {"label": {"labels": labels}}, "items": [item]}, "a.json")
    if isinstance(row, Object) and row.outline and row.outline.runs:
        assert (row.outline, row.box.left, row.box.top, row.box.right, row.box.bottom) == (outline, *box)
    else:
        check(row, box, outline)
    if isinstance(row, Object):
        assert (row.image, row.split, row.declared, row.classes) == ("p/a.jpg", "val", (9, 8), ("food", "tea"))


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"id": "a"}, ("a", None)),
        ({"id": "a", "media": {"path": " "}, "image": None}, ("a", None)),
        ({"id": "a", "media": {"path": "b.jpg", "size": [8]}}, ("b.jpg", None)),
        ({"id": "a", "media": {"path": "b.jpg", "size": [8, 9, 3]}}, ("b.jpg", (9, 8))),
        ({"id": 5}, "item 1 has no image"),
        ({"id": "a", "annotations": None}, "item 1 has no annotations"),
    ],
)
def test_photos_of_datumaro(item, said):
    made = {"type": "bbox", "label_id": 0, "bbox": [1, 2, 4, 6]}
    content = {"categories": {"label": {"labels": [{"name": "tea"}]}}, "items": [{"annotations": [made], **item}]}
    row = only(content, "a.json")
    assert ((row.image, row.declared) if isinstance(row, Object) else row.reason) == said


TURNED = corners(5, 2, 5, 8, 1, 8, 1, 2)
POLYGON = "<polygon><x1>1</x1><y1>2</y1><x2>5</x2><y2>2</y2><x3>5</x3><y3>8</y3></polygon>"


@pytest.mark.parametrize(
    ("inside", "box", "outline"),
    [
        ("<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>8</ymax></bndbox>", AROUND, None),
        (f"<robndbox><cx>3</cx><cy>5</cy><w>6</w><h>4</h><angle>{np.pi / 2}</angle></robndbox>", AROUND, TURNED),
        (POLYGON, AROUND, DRAWN),
        ("<polygon><pt><x>1</x><y>2</y></pt><pt><x>5</x><y>2</y></pt><pt><x>5</x><y>8</y></pt></polygon>", AROUND, DRAWN),
        (f"<bndbox><xmin>0</xmin><ymin>2</ymin><xmax>5</xmax><ymax>9</ymax></bndbox>{POLYGON}", (0, 2, 5, 9), DRAWN),
        ("<pose>left</pose>", "no bndbox", None),
        ("<deleted>1</deleted>", "deleted object", None),
    ],
)  # fmt: skip
def test_voc(inside, box, outline):
    text = f"<annotation><filename>a.jpg</filename><object><name>tea</name>{inside}</object></annotation>"
    check(only(text, "a.xml"), box, outline)


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ({"bbox": [[1, 2, 4, 6]], "category": ["tea"]}, "1"),
        ({"bbox": [[1, 2, 4, 6]], "category": ["tea"], "id": [7]}, "7"),
        ([{"bbox": [1, 2, 4, 6], "label": "tea", "bbox_id": "x"}], "x"),
        ([{"bbox": None, "label": "tea"}], "no bbox"),
        ({"bbox": [[1, 2, 4, 6]], "category": ["tea", "rice"]}, 'objects of unlike length: {"bbox": 1, "category": 2}'),
        ({"bbox": [[1, 2, 4, 6]], "category": "tea"}, 'objects of unlike length: {"bbox": 1}'),
        ({"category": ["tea"]}, 'bad objects: {"category": ["tea"]}'),
        (None, "no objects"),
        (5, "bad objects: 5"),
    ],
)
def test_imagefolder(objects, said):
    line = {"file_name": "a.jpg", "width": 9, "height": 8, "split": "val", "objects": objects}
    row = only([line], "metadata.json")
    assert (row.object_id if isinstance(row, Object) else row.reason) == said
    assert row.sample_id == "a"
    if isinstance(row, Object):
        check(row, AROUND)
        assert (row.split, row.declared) == ("val", (9, 8))
    else:
        assert row.line == "1"


@pytest.mark.parametrize(
    ("photo", "said"),
    [
        ({"image": "a.jpg"}, "a.jpg"),
        ({"imagefilename": "a.jpg"}, "a.jpg"),
        ({"image": " ", "imagefilename": "b.jpg"}, "b.jpg"),
        ({"image": 5}, "photo 1 has no image"),
        ({"image": "a.jpg", "annotations": 5}, "photo 1 has no annotations"),
    ],
)
def test_createml(photo, said):
    made = {"label": "tea", "coordinates": {"x": 3, "y": 5, "width": 4, "height": 6}}
    row = only([{"annotations": [made], **photo}], "a.json")
    if isinstance(row, Object):
        check(row, AROUND)
    assert (row.image if isinstance(row, Object) else row.reason) == said
