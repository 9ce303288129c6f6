"""LabelMe JSON: one file a photo, with its `shapes`."""

from __future__ import annotations

import math
import posixpath
from array import array
from collections.abc import Iterator
from typing import Any

from annotations import fields
from annotations.coco import check_plain
from annotations.options import Options
from annotations.photos import Photo, Shape, objects, rows
from annotations.records import Object, Outline, Skipped
from annotations.segmentation import polygon
from common.messages import Unusable


def recognise(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read(content: dict[str, Any], source: str, options: Options, *, stem: str) -> Iterator[Object | Skipped]:
    """Yield every shape; `imagePath` starts at the JSON's own folder, and a file without one is about the photo `stem`."""
    named = content.get("imagePath")
    name = stem
    if isinstance(named, str) and named.strip():
        name = posixpath.normpath(posixpath.join(posixpath.dirname(stem), named.replace("\\", "/")))
    declared = fields.size(content.get("imageWidth"), content.get("imageHeight"))
    split, own_name = options.split_of(stem, source, one_image=True), stem if name != stem else ""
    held = content.get("imageData")
    photo = Photo(name, split, declared, source, own_name, isinstance(held, str) and held != "")
    yield from objects(
        photo, rows(content["shapes"]), lambda item: _shape(item, options.box_units or "pixels"), options
    )


def _shape(item: Any, units: str) -> Shape:
    check_plain(item)
    classes = (fields.text(item.get("label"), "label"),)
    kind, points = item.get("shape_type") or "polygon", item.get("points")
    if not isinstance(points, list):
        raise Unusable("no points") if points is None else fields.bad("points", points)
    if kind == "polygon":
        corners = polygon(points)
        return Shape(classes, fields.enclosing(corners), units, Outline((corners,)))
    flat = array("d", [number for point in points for number in fields.numbers(point, 2, "points")])
    if kind in ("rectangle", "mask"):
        if len(flat) not in (4, 8):  # two corners, or all four as newer versions write them
            raise fields.bad("points", points)
        return Shape(classes, fields.enclosing(flat), units)
    if kind == "circle":
        if len(flat) != 4:
            raise fields.bad("points", points)
        radius = math.hypot(flat[2] - flat[0], flat[3] - flat[1])
        return Shape(classes, fields.ellipse((flat[0], flat[1], radius, radius)), units)
    if kind in ("linestrip", "line"):
        return Shape(classes, fields.enclosing(flat), units)
    if kind == "rotation" or kind == "oriented_rectangle":
        corners = polygon(points)
        return Shape(classes, fields.enclosing(corners), units, Outline((corners,)))
    raise Unusable(f"a {kind} has no box")
