"""Datumaro JSON: `categories.label.labels` and `items` with their `annotations`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from annotations import fields, segmentation
from annotations.coco import check_plain
from annotations.options import Options
from annotations.photos import Photo, Shape, objects, rows
from annotations.records import Object, Outline, Skipped
from common.messages import Unusable, UserError

_WITHOUT_PLACE = ("label", "caption")


def recognise(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("items"), list) and "categories" in content


def read(content: Any, source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every annotation that has a place in the photo; labels and captions of whole photos are counted as skipped."""
    labels = _labels(content, source)
    for number, item in enumerate(content["items"], 1):
        item = item if isinstance(item, dict) else {}
        image = item.get("image") or item.get("media") or {}
        image = image if isinstance(image, dict) else {}
        name = next(
            (text for text in (image.get("path"), item.get("id")) if isinstance(text, str) and text.strip()), None
        )
        records = item.get("annotations")
        if name is None or not isinstance(records, list):
            yield Skipped("", "", f"item {number} has no {'image' if name is None else 'annotations'}", source)
            continue
        height, width = [*image["size"], None, None][:2] if isinstance(image.get("size"), list) else (None, None)
        named = item.get("subset")
        split = options.split_of(name, source, named if isinstance(named, str) and named.strip() else None)
        photo = Photo(name, split, fields.size(width, height), source)
        yield from objects(photo, rows(records), lambda record: _shape(record, labels, options), options)


def _labels(content: dict[str, Any], source: str) -> list[Any]:
    categories = content["categories"]
    label = categories.get("label") if isinstance(categories, dict) else None
    labels = label.get("labels") if isinstance(label, dict) else None
    if not isinstance(labels, list):
        raise UserError(f"{source} looks like Datumaro JSON but has no list categories.label.labels; export it again")
    return labels


def _shape(record: Any, labels: list[Any], options: Options) -> Shape:
    check_plain(record)
    kind = record.get("type")
    if kind in _WITHOUT_PLACE:
        raise Unusable(f"a {kind} has no box")
    attributes = record.get("attributes")
    if isinstance(attributes, dict) and fields.flag(attributes.get("is_crowd"), "is_crowd"):
        raise Unusable("crowd region")
    number = fields.number(record.get("label_id"), "label_id")
    if not (number.is_integer() and 0 <= number < len(labels)) or not isinstance(labels[int(number)], dict):
        raise Unusable(f"unknown label_id: {fields.shown(record.get('label_id'))}")
    label = labels[int(number)]
    classes: tuple[str, ...] = (fields.text(label.get("name"), "name"),)
    if parent := label.get("parent"):
        classes = (fields.text(parent, "parent"), *classes)
    outline = None
    units = options.box_units or "pixels"
    if kind == "bbox":
        box = fields.any_box(record.get("bbox"), options.box_format or "xywh")
    elif kind in ("polygon", "mask"):
        key = "points" if kind == "polygon" else "rle"
        outline = segmentation.read(record.get(key), key)
        box = segmentation.box(outline)
    elif kind == "rotated_bbox":
        corners = segmentation.polygon(fields.rotated(*fields.numbers(record.get("bbox"), 5, "bbox")))
        outline, box = Outline((corners,)), fields.enclosing(corners)
    elif kind == "polyline":
        points = record.get("points")
        box = fields.enclosing(fields.numbers(points, len(points) if isinstance(points, list) else 0, "points"))
    else:
        raise Unusable(f"a {fields.shown(kind)} has no box")
    return Shape(classes, box, units, outline)
