"""CreateML JSON: a list of photos, each with `annotations` whose `coordinates` are centre, width and height in pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from annotations import fields
from annotations.coco import check_plain
from annotations.options import Options
from annotations.photos import Photo, Shape, objects, rows
from annotations.records import Object, Skipped

_NAMES, _LISTS = ("image", "imagefilename"), ("annotations", "annotation")


def recognise(content: Any) -> bool:
    photos = [photo for photo in content[:20] if isinstance(photo, dict)] if isinstance(content, list) else []
    return any(any(key in photo for key in _NAMES) and any(key in photo for key in _LISTS) for photo in photos)


def read(content: Any, source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every object of every photo."""
    for number, item in enumerate(content if isinstance(content, list) else [content], 1):
        item = item if isinstance(item, dict) else {}
        name = next((item[key] for key in _NAMES if isinstance(item.get(key), str) and item[key].strip()), None)
        records = next((item[key] for key in _LISTS if isinstance(item.get(key), list)), None)
        if name is None or records is None:
            yield Skipped("", "", f"photo {number} has no {'image' if name is None else 'annotations'}", source)
            continue
        photo = Photo(name, options.split_of(name, source), None, source)
        yield from objects(photo, rows(records), lambda record: _shape(record, options), options)


def _shape(record: Any, options: Options) -> Shape:
    check_plain(record)
    label = record.get("label", record.get("category"))
    place = record.get("coordinates")
    if not isinstance(place, dict):
        raise fields.bad("coordinates", place)
    values = [fields.number(place.get(key), f"coordinates.{key}") for key in ("x", "y", "width", "height")]
    box = fields.box(values, options.box_format or "cxcywh")
    return Shape((fields.text(label, "label"),), box, options.box_units or "pixels")
