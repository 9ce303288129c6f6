"""Readers of annotations and random edits of valid files: records or one sentence, and no record lost uncounted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotations import formats
from annotations.options import Options
from annotations.records import Object, Skipped
from common.messages import UserError

FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
RECTANGLE = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["a"]}
SHAPE = {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}
JSON = {
    "coco": {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": [[1, 1, 5, 1, 5, 5]]},
            {"id": 2, "image_id": 1, "category_id": 1, "segmentation": {"size": [9, 9], "counts": [1, 2, 78]}},
            {"id": 3, "image_id": 1, "category_id": 1, "iscrowd": "0", "bbox": {"x": 1, "y": 1, "w": 2, "h": 2}},
        ],
        "categories": [{"id": 1, "name": "a", "supercategory": "b"}],
    },
    "coco nested": {
        "images": [
            {"id": 1, "file_name": "a.jpg", "annotations": [{"category_id": 1, "bbox": [1, 2, 3, i]} for i in (1, 2)]},
            {"id": 2, "file_name": "b.jpg", "annotations": [{"category_id": 1, "bbox": [[1, 2], [3, 4]], "area": 4}]},
        ],
        "categories": [{"id": 1, "supercategory": "b"}],
    },
    "coco panoptic": {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": 1, "segments_info": [{"id": i, "category_id": 1, "bbox": [1, 2, 3, i]} for i in (1, 2)]},
            {"image_id": 1, "category_id": 1, "bbox": "[1 2 3 4]"},
        ],
        "categories": [{"id": 1, "name": "a"}],
    },
    "sku": {"p": {str(i): {"points": {"top_left": [1, 2], "bottom_right": [3, 4]}, "sku_id": "a"} for i in range(3)}},
    "labelme": {
        "imagePath": "a.jpg",
        "imageWidth": 9,
        "imageHeight": 9,
        "shapes": [
            {"label": "a", "points": [[1, 2], [3, 4]], "shape_type": "rectangle"},
            {"label": "a", "points": [[1, 2], [3, 4], [5, 1]], "shape_type": "polygon"},
            {"label": "a", "points": [[1, 2], [3, 4]], "shape_type": "circle"},
        ],
    },
    "label_studio": [
        {
            "id": 1,
            "data": {"image": "a.jpg"},
            "annotations": [
                {
                    "result": [
                        {"id": "1", "original_width": 9, "original_height": 9, "type": "rectanglelabels", "value": RECTANGLE},
                        {"id": "2", "type": "polygonlabels", "value": {"points": [[1, 1], [5, 1], [5, 5]], "polygonlabels": ["a"]}},
                        {"id": "3", "type": "ellipselabels", "value": {"x": 1, "y": 2, "radiusX": 1, "radiusY": 1, "ellipselabels": ["a"]}},  # noqa: E501
                    ]
                }
            ],
        }
    ],
    "label_studio pages": [
        {
            "data": {"pages": ["a.jpg", "b.jpg"]},
            "annotations": [{"result": [{"item_index": i, "type": "rectanglelabels", "value": RECTANGLE} for i in (0, 1, 1)]}],
        }
    ],
    "via": {
        "a.jpg1": {
            "filename": "a.jpg",
            "size": 1,
            "regions": [
                {"shape_attributes": SHAPE, "region_attributes": {"label": "a"}},
                {"shape_attributes": {"name": "circle", "cx": 1, "cy": 1, "r": 1}, "region_attributes": {"kind": {"a": True}}},
                {"shape_attributes": {"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2, 1]}, "region_attributes": {"label": "a"}},  # noqa: E501
            ],
        }
    },
    "via 3": {
        "attribute": {"1": {"aname": "kind", "options": {"0": "a"}}},
        "file": {"1": {"fid": "1", "fname": "a.jpg", "type": 2}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {
            "1_a": {"vid": "1", "xy": [2, 1, 2, 3, 4], "av": {"1": "0"}},
            "1_b": {"vid": "1", "xy": [3, 5, 5, 2], "av": {"1": "0"}},
            "1_c": {"vid": "1", "xy": [7, 1, 1, 5, 1, 5, 5], "av": {"1": "text"}},
        },
    },
    "createml": [
        {"image": "a.jpg", "annotations": [{"label": "a", "coordinates": {"x": 5, "y": 5, "width": 2, "height": i}} for i in (1, 2, 3)]}  # noqa: E501
    ],
    "imagefolder": [
        {"file_name": "a.jpg", "objects": {"id": [1, 2], "bbox": [[1, 2, 3, 4], [1, 2, 3, 5]], "category": ["a", 1]}},
        {"file_name": "b.jpg", "objects": [{"bbox": [1, 2, 3, 4], "label": "a"}]},
    ],
    "datumaro": {
        "info": {},
        "categories": {"label": {"labels": [{"name": "a", "parent": "b"}]}},
        "items": [
            {
                "id": "a",
                "image": {"path": "a.jpg", "size": [9, 9]},
                "annotations": [
                    {"id": 1, "type": "bbox", "label_id": 0, "bbox": [1, 2, 3, 4]},
                    {"id": 2, "type": "polygon", "label_id": 0, "points": [1, 1, 5, 1, 5, 5]},
                    {"id": 3, "type": "mask", "label_id": 0, "rle": {"size": [2, 2], "counts": [1, 2, 1]}},
                ],
            }
        ],
    },
}  # fmt: skip
TEXT = {
    "yolo": ("a.txt", "0 .5 .5 .2 .2\n1 .5 .5 .2 .2 .9\n0 .1 .1 .2 .1 .2 .3\n"),
    "voc": (
        "a.xml",
        "<annotation><filename>a.jpg</filename><size><width>9</width><height>9</height></size>\n"
        + "<object><name>a</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>\n"
        * 3
        + "</annotation>",
    ),
    "cvat": (
        "a.xml",
        "<annotations><image name='a.jpg' width='9' height='9'>\n<box label='a' xtl='1' ytl='2' xbr='3' ybr='4' rotation='5'/>\n"
        "<polygon label='a' points='1,1;5,1;5,5'/>\n<ellipse label='a' cx='1' cy='1' rx='1' ry='2'/></image></annotations>",
    ),
    "tensorflow no header": ("a.csv", "a.jpg,1,2,3,4,a\n" * 3),
    "tensorflow": ("a.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n" + "a.jpg,9,9,a,1,2,3,4\n" * 3),
    "open_images": ("a.csv", "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n" + "a,b,.1,.2,.1,.2,0\n" * 3),
    "via": (
        "a.csv",
        "filename,region_count,region_shape_attributes,region_attributes\n"
        + 'a.jpg,3,"{""name"":""rect"",""x"":1,""y"":2,""width"":3,""height"":4}","{""label"":""a""}"\n' * 3,
    ),
}
RECORDS = 3  # in each of these files


def read(data: bytes, name: str, forced: str | None = None) -> list | None:
    """The records, or None where the file is refused in one sentence."""
    try:
        found = formats.read_file(data, Path(name), Path("."), Options(outlines=True), forced)[1]
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert name in str(error)  # noqa: PT017
        return None
    assert all(isinstance(row, (Object, Skipped)) for row in found)
    for row in found:
        if isinstance(row, Object):
            assert row.box.width > 0
            assert row.box.height > 0
            assert row.box.left + row.box.right < float("inf")
        else:
            assert row.reason
            assert row.file == name
    return found


@pytest.mark.parametrize("name", JSON)
def test_the_valid_files_are_read_whole(name):
    found = read(json.dumps(JSON[name]).encode(), "a.json")
    assert [type(row) for row in found] == [Object] * RECORDS


@pytest.mark.parametrize("name", TEXT)
def test_the_valid_texts_are_read_whole(name):
    file, text = TEXT[name]
    assert [type(row) for row in read(text.encode(), file)] == [Object] * RECORDS


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "id", "$oid", "counts", "size"]), inner),
    max_leaves=6,
)  # fmt: skip


def paths(content, above=()) -> list[tuple]:
    """Every place in a JSON content."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [above, *(path for key, value in inner for path in paths(value, (*above, key)))]


def changed(content, path, value):
    """The content with another value at a place, or without it where the value is `...`."""
    if not path:
        return None if value is ... else value
    key, *rest = path
    copy = dict(content) if isinstance(content, dict) else list(content)
    if not rest and value is ...:
        del copy[key]
    else:
        copy[key] = changed(copy[key], rest, value)
    return copy


@pytest.mark.parametrize("name", JSON)
@FUZZ
@given(data=st.data())
def test_a_changed_value_costs_one_record_at_most(name, data):
    content = JSON[name]
    places = [path for path in paths(content) if path]
    path = data.draw(st.sampled_from(places))
    value = data.draw(values | st.just(...))
    found = read(json.dumps(changed(content, path, value)).encode(), "a.json", name.split()[0])
    lists = {
        "annotations",
        "shapes",
        "regions",
        "result",
        "items",
        "data",
        "images",
        "categories",
        "info",
        "p",
        "pages",
        "segments_info",
        "image",
        "metadata",
    }
    inside_record = [key for key in path if isinstance(key, str) and key not in lists]
    if found is not None and value is not ... and len(path) > 3 and inside_record:
        assert len(found) >= RECORDS or any(isinstance(row, Skipped) for row in found)


edits = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "copy"]), st.floats(0, 1), st.binary(min_size=1, max_size=5)),
    min_size=1,
    max_size=4,
)


def edited(data: bytes, changes) -> bytes:
    out = bytearray(data)
    for kind, where, content in changes:
        at = int(where * max(0, len(out) - 1))
        if kind == "flip" and out:
            out[at] ^= content[0] or 1
        elif kind == "cut":
            del out[at : at + 3 * content[0]]
        elif kind == "insert":
            out[at:at] = content
        else:
            out[at:at] = out[: 8 * len(content)]
    return bytes(out)


@pytest.mark.parametrize("name", [*JSON, *(f"{name} text" for name in TEXT)])
@FUZZ
@given(changes=edits, forced=st.booleans())
def test_damaged_bytes(name, changes, forced):
    own = name.removesuffix(" text")
    file, data = ("a.json", json.dumps(JSON[name]).encode()) if name in JSON else (TEXT[own][0], TEXT[own][1].encode())
    read(edited(data, changes), file, own.split()[0] if forced else None)


@pytest.mark.parametrize("name", ["yolo", "tensorflow", "open_images", "via"])
@FUZZ
@given(data=st.data())
def test_every_line_is_a_record(name, data):
    """One cell of one row is replaced: as many records as before, and only that row may be skipped."""
    file, text = TEXT[name]
    head, *lines = text.splitlines() if file.endswith(".csv") else ["", *text.splitlines()]
    row = data.draw(st.integers(0, 2))
    separator = "," if file.endswith(".csv") else " "
    cells = lines[row].split(separator)
    cell = data.draw(st.integers(1, len(cells) - 1))
    cells[cell] = data.draw(
        st.text(st.characters(codec="ascii", exclude_characters='\n\r,"\x1c\x1d\x1e\x0b\x0c \x00'), max_size=6)
    )
    lines[row] = separator.join(cells)
    found = read("\n".join([*([head] if head else []), *lines]).encode(), file, name)
    assert len(found) == RECORDS
    assert sum(isinstance(item, Skipped) for item in found) <= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_reader_with_many_examples(root):
    """The tests of this file again, with 1,000 examples for each reader that are not those of the last time."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "not slow", __file__]
    environment = os.environ | {"FUZZ_EXAMPLES": "1000"}
    done = subprocess.run(command, cwd=root, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
