"""Hugging Face's imagefolder: `metadata.jsonl` or `metadata.csv`, a line for each photo, its boxes as columns of `objects`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from annotations import fields
from annotations.options import Options
from annotations.photos import Photo, Shape, objects
from annotations.records import Object, Skipped
from common.messages import Unusable

COLUMNS = {"file_name", "objects"}
_BOXES = ("bbox", "bboxes", "box", "boxes")
_LABELS = ("categories", "category", "labels", "label", "classes", "class", "names", "name", "category_id")
_IDS = ("id", "ids", "bbox_id")


def recognise(content: Any) -> bool:
    return any(isinstance(line, dict) and line.keys() >= COLUMNS for line in _lines(content)[:20])


def read(content: Any, source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every object of every photo of JSON lines."""
    yield from read_lines(enumerate(_lines(content), 1), source, options)


def read_lines(lines: Iterable[tuple[int, Any]], source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every object of every photo; one without `objects`, as one that only has a label, is skipped."""
    for number, line in lines:
        try:
            name = fields.text(line.get("file_name") if isinstance(line, dict) else None, "file_name")
            size = fields.size(line.get("width"), line.get("height"))
            split = None if line.get("split") is None else fields.text(line["split"], "split")
            photo = Photo(name, options.split_of(name, source, named=split), size, source)
        except Unusable as error:
            yield Skipped("", "", str(error), source, str(number))
            continue
        try:
            records = _records(line.get("objects"))
        except Unusable as error:
            yield Skipped(photo.sample_id, "", str(error), source, str(number))
            continue
        numbered = ((number, record) for record in records)
        yield from objects(photo, numbered, lambda record: _shape(record, options), options)


def _lines(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def _records(value: Any) -> list[dict[str, Any]]:
    """Return a record for each box, of a list of records or of columns; columns of unlike length tell not whose label is whose.

    In a table they are the JSON of either.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unusable(f"objects are no JSON: {fields.shown(value)}") from None
    if isinstance(value, list) and all(isinstance(record, dict) for record in value):
        return value
    if not isinstance(value, dict):
        raise Unusable("no objects") if value is None else fields.bad("objects", value)
    columns = {key: column for key, column in value.items() if key in (*_BOXES, *_LABELS, *_IDS)}
    lengths = {key: len(column) for key, column in columns.items() if isinstance(column, list)}
    if not lengths.keys() & set(_BOXES):
        raise fields.bad("objects", value)
    if len(lengths) < len(columns) or len(set(lengths.values())) > 1:
        raise Unusable(f"objects of unlike length: {fields.shown(lengths)}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _shape(record: dict[str, Any], options: Options) -> Shape:
    def first(names: tuple[str, ...]) -> tuple[str, Any]:
        return next(((name, record[name]) for name in names if record.get(name) is not None), (names[0], None))

    key, bbox = first(_BOXES)
    label, number = first(_LABELS), first(_IDS)
    if bbox is None:
        raise Unusable(f"no {key}")
    box = fields.any_box(bbox, options.box_format or "xywh", key)
    object_id = None if number[1] is None else fields.text(number[1], number[0])
    return Shape((fields.text(label[1], label[0]),), box, options.box_units or "pixels", None, object_id)
