"""VGG Image Annotator: JSON (a project or its annotations) and CSV of versions 1 and 2, and projects of version 3.

Version 3 gives `file`, `view`, `attribute` and `metadata`, each by ids. There a region is `xy: [shape, numbers …]` with shapes by
number, as VIA's source names them, and its label is the value of an attribute.
"""

from __future__ import annotations

import json
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

CSV_COLUMNS = {"filename", "region_shape_attributes", "region_attributes"}
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
    if not isinstance(content, dict):
        return False
    return (
        _is_third(content)
        or isinstance(content.get("_via_img_metadata"), dict)
        or any(isinstance(photo, dict) and "filename" in photo and "regions" in photo for photo in content.values())
    )


def read(content: Any, source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every region of every photo."""
    if _is_third(content):
        yield from _read_third(content, source, options)
        return
    photos = content["_via_img_metadata"] if isinstance(content.get("_via_img_metadata"), dict) else content
    for key, item in photos.items():
        regions = item.get("regions") if isinstance(item, dict) else None
        name = item.get("filename") if isinstance(item, dict) else None
        records = list(regions.values()) if isinstance(regions, dict) else regions
        if not isinstance(name, str) or not name.strip() or not isinstance(records, list):
            yield Skipped(key, "", f"no {'regions' if isinstance(name, str) else 'filename'}", source)
            continue
        photo = Photo(name, options.split_of(name, source), None, source)
        yield from objects(photo, rows(records), lambda record: _region(record, options), options)


def read_csv(table: Iterator[tuple[int, dict[str, str]]], source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every region of the CSV form; rows of photos without regions hold no object."""
    counts: dict[str, int] = {}
    for line, row in table:
        name = row["filename"]
        if row.get("region_count", "").strip() == "0" and row["region_shape_attributes"].strip() in ("", "{}"):
            continue
        counts[name] = counts.get(name, 0) + 1
        if not name.strip():
            yield Skipped("", "", "no filename", source, str(line))
            continue
        photo = Photo(name, options.split_of(name, source), None, source)
        yield from objects(photo, [(line, row)], lambda record: _row(record, options), options, counts[name])


def _row(row: dict[str, str], options: Options) -> Shape:
    region = {}
    for key in ("shape_attributes", "region_attributes"):
        cell = row["region_shape_attributes" if key == "shape_attributes" else key]
        try:
            region[key] = json.loads(cell)
        except (ValueError, RecursionError):
            raise fields.bad(key, cell) from None
    return _region(region, options)


def _region(record: Any, options: Options) -> Shape:
    check_plain(record)
    place = record.get("shape_attributes")
    check_plain(place)
    classes = (fields.label_of(record.get("region_attributes"), "region_attributes"),)
    kind, units = place.get("name"), options.box_units or "pixels"

    def numbers(*keys: str) -> list[float]:
        return [fields.number(place.get(key), key) for key in keys]

    if kind == "rect":
        return Shape(classes, fields.box(numbers("x", "y", "width", "height"), options.box_format or "xywh"), units)
    if kind in ("polygon", "polyline"):
        xs, ys = place.get("all_points_x"), place.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise fields.bad("all_points_x and all_points_y", [xs, ys])
        pairs = [list(pair) for pair in zip(xs, ys, strict=True)]
        if kind == "polyline":
            points = array("d", [number for pair in pairs for number in fields.numbers(pair, 2, "all_points_x")])
            return Shape(classes, fields.enclosing(points), units)
        points = polygon(pairs, "all_points_x")
        return Shape(classes, fields.enclosing(points), units, Outline((points,)))
    if kind == "circle":
        cx, cy, r = numbers("cx", "cy", "r")
        return Shape(classes, fields.ellipse((cx, cy, r, r)), units)
    if kind == "ellipse":
        turn = fields.number(place.get("theta") or 0, "theta") * 180 / 3.141592653589793  # VIA 2 writes radians
        return Shape(classes, fields.ellipse(numbers("cx", "cy", "rx", "ry"), turn), units)
    raise Unusable(f"a {fields.shown(kind)} has no box")


def _is_third(content: Any) -> bool:
    parts = ("file", "view", "metadata")
    return isinstance(content, dict) and all(isinstance(content.get(part), dict) for part in parts)


def _read_third(content: Any, source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every region of every photo; what is said of a whole photo, or of a stretch of time, has no box."""
    attributes = _object(content.get("attribute"))
    counts: dict[str, int] = {}
    for key, record in items(content["metadata"]):
        try:
            check_plain(record)
            if not record.get("xy"):
                raise Unusable("no region")
            name = _third_photo(content, record)
        except Unusable as error:
            yield Skipped("", str(key), str(error), source)
            continue
        counts[name] = counts.get(name, 0) + 1
        photo = Photo(name, options.split_of(name, source), None, source)
        shapes = rows([record])
        yield from objects(
            photo, shapes, lambda region: _third_shape(region, attributes, options), options, counts[name]
        )


def _third_photo(content: Any, record: dict[str, Any]) -> str:
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


def _third_shape(record: dict[str, Any], attributes: dict[str, Any], options: Options) -> Shape:
    classes = (_third_label(record.get("av"), attributes),)
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


def _third_label(values: Any, attributes: dict[str, Any]) -> str:
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
