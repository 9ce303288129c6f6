"""CVAT for images 1.1: one XML file with an `<image>` for each photo."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from typing import Any

from annotations import fields
from annotations.contents import Element
from annotations.options import Options
from annotations.photos import Photo, Shape, objects
from annotations.records import Object, Outline, Skipped
from annotations.segmentation import polygon
from common.messages import Unusable, UserError

_NO_SHAPES = ("tag", "attribute")


def recognise(content: Any) -> bool:
    return isinstance(content, Element) and content.tag == "annotations"


def read(content: Element, source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every shape of every photo, in the file's order."""
    if content.all("track"):
        raise UserError(f"{source} holds tracks of a video; export the task from CVAT as 'CVAT for images 1.1'")
    for image in content.all("image"):
        about = image.attributes
        if not (name := about.get("name", "")).strip():
            yield Skipped("", "", "no name of the image", source, str(image.line))
            continue
        split = options.split_of(name, source, about.get("subset"))
        photo = Photo(name, split, fields.size(about.get("width"), about.get("height")), source)
        records = ((shape.line, shape) for shape in image.children if shape.tag not in _NO_SHAPES)
        yield from objects(photo, records, lambda shape: _shape(shape, options.box_units or "pixels"), options)


def _shape(shape: Element, units: str) -> Shape:
    about = shape.attributes
    classes = (fields.text(about.get("label"), "label"),)

    def numbers(*keys: str) -> list[float]:
        return [fields.number(about.get(key), key) for key in keys]

    if shape.tag == "box":
        box = fields.box(numbers("xtl", "ytl", "xbr", "ybr"), "xyxy")
        angle = fields.number(about.get("rotation", 0), "rotation")
        if not angle:
            return Shape(classes, box, units)
        centre = (box.left + box.width / 2, box.top + box.height / 2)
        corners = array("d", fields.rotated(*centre, box.width, box.height, angle))
        return Shape(classes, fields.enclosing(corners), units, Outline((corners,)))
    if shape.tag in ("polygon", "polyline"):
        pairs = [point.split(",") for point in about.get("points", "").strip().strip(";").split(";")]
        if shape.tag == "polyline":
            points = array("d", [number for pair in pairs for number in fields.numbers(pair, 2, "points")])
            return Shape(classes, fields.enclosing(points), units)
        points = polygon(pairs)
        return Shape(classes, fields.enclosing(points), units, Outline((points,)))
    if shape.tag == "ellipse":
        angle = math.fmod(fields.number(about.get("rotation", 0), "rotation"), 360)
        return Shape(classes, fields.ellipse(numbers("cx", "cy", "rx", "ry"), angle), units)
    if shape.tag == "mask":
        return Shape(classes, fields.box(numbers("left", "top", "width", "height"), "xywh"), units)
    raise Unusable(f"a {shape.tag} has no box")
