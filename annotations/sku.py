"""SKU JSON: `{image_id: {object_id: {"points": {"top_left", "bottom_right"}, "sku_id", "split_id"}}}`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from annotations import fields
from annotations.coco import check_plain, classes
from annotations.contents import Repeated, items
from annotations.options import Options
from annotations.records import Box, Object, Skipped
from common.messages import Unusable


def recognise(content: Any) -> bool:
    images = [content] if isinstance(content, dict) else []
    return any("points" in item for item in _dicts(_dicts(images)))


def _dicts(outer: Any) -> Iterator[dict[str, Any]]:
    return (value for item in outer for _, value in items(item) if isinstance(value, dict))


def read(content: Any, source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every object in the file's order; `points` may be a JSON text, numbers may be text."""
    units = options.box_units or "pixels"
    for image_id, objects in items(content):
        if not isinstance(objects, dict):
            yield Skipped(image_id, "", "image entry is not an object", source)
            continue
        for object_id, item in items(objects):
            try:
                check_plain(item)
                box = _corners(item.get("points"))
                names = classes(item, "sku_id")
                named = None if item.get("split_id") is None else fields.text(item["split_id"], "split_id")
                split = options.split_of(image_id, source, named=named)
            except Unusable as error:
                yield Skipped(image_id, object_id, str(error), source)
            else:
                yield Object(image_id, image_id, object_id, split, names, box, None, source, units)


def _corners(points: Any) -> Box:
    given = points
    if points is None:
        raise Unusable("no points")
    if isinstance(points, str):
        try:
            points = json.loads(points, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            raise fields.bad("points", given) from None
    if not isinstance(points, dict) or isinstance(points, Repeated):
        raise fields.bad("points", given)
    corners = [points.get("top_left"), points.get("bottom_right")]
    left, top, right, bottom = (v for corner in corners for v in fields.numbers(corner, 2, "points"))
    return fields.box((left, top, right, bottom), "xyxy")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)
