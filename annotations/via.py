"""VGG Image Annotator 1 and 2: JSON (a project or its annotations) and CSV; what VIA 3 writes is left to via3.py."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from typing import Any

from annotations import fields, via3
from annotations.coco import check_plain
from annotations.options import Options
from annotations.photos import Photo, Shape, objects, rows
from annotations.records import Object, Outline, Skipped
from annotations.segmentation import polygon
from common.messages import Unusable

CSV_COLUMNS = {"filename", "region_shape_attributes", "region_attributes"}


def recognise(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    return (
        via3.recognise(content)
        or isinstance(content.get("_via_img_metadata"), dict)
        or any(isinstance(photo, dict) and "filename" in photo and "regions" in photo for photo in content.values())
    )


def read(content: Any, source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every region of every photo."""
    if via3.recognise(content):
        yield from via3.read(content, source, options)
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
