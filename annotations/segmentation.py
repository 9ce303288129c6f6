"""Segmentations as COCO and its relatives write them: polygons, lists of points, run lengths, compressed or not."""

from __future__ import annotations

import json
import math
from array import array
from typing import Any

from annotations.fields import bad, enclosing, number, numbers, shown
from annotations.fields import box as box_of
from annotations.records import Box, Outline
from common.messages import Unusable


def read(value: Any, key: str = "segmentation") -> Outline:
    """Return the outline; raises Unusable naming the segmentation where it is none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise bad(key, value) from None
    if isinstance(value, dict) and "counts" in value:
        return _runs(value, key)
    if not isinstance(value, list):
        raise Unusable(f"no {key}") if value is None else bad(key, value)
    if not value:
        raise Unusable(f"empty {key}")
    polygons = (
        [value] if not isinstance(value[0], list) or _is_points(value) else [part for part in value if part != []]
    )
    if not polygons:
        raise Unusable(f"empty {key}")
    return Outline(tuple(polygon(part, key) for part in polygons))


def _is_points(value: list[Any]) -> bool:
    return len(value) > 2 and all(
        isinstance(point, (list, tuple)) and len(point) == 2 and not isinstance(point[0], (list, dict))
        for point in value
    )


def polygon(value: Any, key: str = "points") -> array[float]:
    """Return x, y, x, y, … of at least three points, given flat, as pairs, or as objects with x and y."""
    if not isinstance(value, (list, tuple)):
        raise bad(key, value)
    if value and isinstance(value[0], (list, tuple)):
        flat: Any = [coordinate for point in value for coordinate in numbers(point, 2, key)]
    elif value and isinstance(value[0], dict):
        if not all(isinstance(point, dict) for point in value):
            raise bad(key, value)
        flat = [number(point.get(axis), f"{key}.{axis}") for point in value for axis in "xy"]
    else:
        flat = value
    try:
        points = array("d", flat)
    except (TypeError, OverflowError):
        points = array("d", [number(coordinate, key) for coordinate in flat])
    if len(points) < 6 or len(points) % 2:
        raise Unusable(f"bad {key}: a polygon of {len(points)} numbers")
    if not all(map(math.isfinite, points)):
        raise Unusable(f"{key} not finite")
    return points


def box(outline: Outline) -> Box:
    """Return the box around the outline; raises Unusable where it encloses nothing."""
    if outline.polygons:
        boxes = [enclosing(part) for part in outline.polygons if max(part[::2]) > min(part[::2])]
        if not boxes:
            raise Unusable("empty box")
        edges = (min(b.left for b in boxes), min(b.top for b in boxes))
        return box_of((*edges, max(b.right for b in boxes), max(b.bottom for b in boxes)), "xyxy")
    import numpy as np

    ends = np.cumsum(np.array(outline.runs, np.int64))
    starts, stops = ends[: len(ends) // 2 * 2 : 2], ends[1::2]
    starts, stops = starts[stops > starts], stops[stops > starts]
    if not len(starts):
        raise Unusable("empty box")
    height = outline.size[0]
    several = starts // height != (stops - 1) // height  # a run that goes on in the next column touches both edges
    top = 0 if several.any() else (starts % height).min()
    bottom = height if several.any() else ((stops - 1) % height).max() + 1
    left, right = starts[0] // height, (stops[-1] - 1) // height + 1
    return box_of(tuple(map(float, (left, top, right, bottom))), "xyxy")


def _runs(value: dict[str, Any], key: str) -> Outline:
    height, width = (int(side) if 1 <= side < 1e6 else 0 for side in numbers(value.get("size"), 2, f"{key}.size"))
    counts = value["counts"]
    if isinstance(counts, str):
        counts = uncompressed(counts, key)
    if not isinstance(counts, list):
        raise bad(f"{key}.counts", counts)
    runs = [number(count, f"{key}.counts") for count in counts]
    if not all(count >= 0 and count.is_integer() for count in runs):
        raise bad(f"{key}.counts", counts)
    if not height or sum(runs) != height * width:
        raise Unusable(f"bad {key}: counts do not add up to size {shown(value.get('size'))}")
    return Outline((), (height, width), tuple(map(int, runs)))


def uncompressed(counts: str, key: str = "segmentation") -> list[int]:
    """Return the run lengths of COCO's compressed RLE: base-32 digits, each but the first three minus the one two before."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or shift > 60:
            raise bad(f"{key}.counts", counts)
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise bad(f"{key}.counts", counts)
    return runs
