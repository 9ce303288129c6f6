"""VGG Image Annotator 3: a project with `file`, `view`, `attribute` and `metadata`, each by ids.

A region is `xy: [shape, numbers …]` with shapes by number, as VIA's source names them, and its label is the value of an attribute.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

from annotations import fields
from annotations.coco import check_plain
from annotations.contents import items
from annotations.options import Options
from annotations.photos import Photo, Shape, objects, rows
from annotations.records import Object, Outline, Skipped
from annotations.segmentation import polygon
from common.messages import Unusable

_SHAPES = dict(
    enumerate(
        [
            "point",
            "rectangle",
            "circle",
            "ellipse",
            "line",
            "polyline",
            "polygon",
            "extreme_rectangle",
            "extreme_circle",
        ],
        1,
    )
)
_IMAGE = "2"  # the type of a file; others are videos and sounds


def recognise(content: Any) -> bool:
    parts = ("file", "view", "metadata")
    return isinstance(content, dict) and all(isinstance(content.get(part), dict) for part in parts)


def read(content: Any, source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every region of every photo; what is said of a whole photo, or of a stretch of time, has no box."""
    attributes = _object(content.get("attribute"))
    counts: dict[str, int] = {}
    for key, record in items(content["metadata"]):
        try:
            check_plain(record)
            if not record.get("xy"):
                raise Unusable("no region")
            name = _photo(content, record)
        except Unusable as error:
            yield Skipped("", str(key), str(error), source)
            continue
        counts[name] = counts.get(name, 0) + 1
        photo = Photo(name, options.split_of(name, source), None, source)
        shapes = rows([record])
        yield from objects(photo, shapes, lambda region: _shape(region, attributes, options), options, counts[name])


def _photo(content: Any, record: dict[str, Any]) -> str:
    view_id = fields.text(record.get("vid"), "vid")
    view = content["view"].get(view_id)
    file_ids = view.get("fid_list") if isinstance(view, dict) else None
    if not isinstance(file_ids, list) or len(file_ids) != 1:
        raise Unusable(f"view {view_id} is not one file")
    file_id = fields.text(file_ids[0], "fid")
    file = content["file"].get(file_id)
    check_plain(file)
    if fields.text(file.get("type", _IMAGE), "type") != _IMAGE:
        raise Unusable(f"file {file_id} is no image")
    if isinstance(file.get("fname"), str) and file["fname"].strip():
        return str(file["fname"])
    return fields.text(file.get("src"), "fname")


def _shape(record: dict[str, Any], attributes: dict[str, Any], options: Options) -> Shape:
    classes = (_label(record.get("av"), attributes),)
    if not isinstance(record["xy"], list):
        raise fields.bad("xy", record["xy"])
    number, *values = (fields.number(value, "xy") for value in record["xy"])
    kind = _SHAPES.get(int(number) if number.is_integer() else 0, f"shape {fields.shown(number)}")
    units, n = options.box_units or "pixels", len(values)
    if kind == "rectangle" and n == 4:
        return Shape(classes, fields.box(values, options.box_format or "xywh"), units)
    if kind == "circle" and n == 3:
        return Shape(classes, fields.ellipse((*values, values[2])), units)
    if kind == "ellipse" and n == 4:
        return Shape(classes, fields.ellipse(values), units)
    if kind in ("polyline", "extreme_rectangle"):
        return Shape(classes, fields.enclosing(array("d", values), "xy"), units)
    if kind == "polygon":
        points = polygon(values, "xy")
        return Shape(classes, fields.enclosing(points, "xy"), units, Outline((points,)))
    raise Unusable(f"a {kind} of {n} numbers has no box")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _label(values: Any, attributes: dict[str, Any]) -> str:
    """Return the label: the only attribute with a value, or the one called like a label; options are given by their ids."""
    if not isinstance(values, dict):
        raise fields.bad("av", values)
    named: dict[str, Any] = {}
    for key, value in values.items():
        attribute = _object(attributes.get(key))
        choices = _object(attribute.get("options"))
        if isinstance(value, str) and "," in value and value not in choices and choices:  # several boxes are checked
            value = {choices.get(part, part): True for part in value.split(",") if part}
        named[str(attribute.get("aname") or key)] = choices.get(value, value) if isinstance(value, str) else value
    return fields.label_of(named, "av")
