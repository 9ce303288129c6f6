"""Whether boxes are those of their own polygons: a file whose bbox has corners or centres says so by its segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from annotations import fields
from annotations.records import Box
from common.messages import Unusable

SAMPLE = 500  # annotations of a file that are looked at
_MEANING = {"xywh": "x, y, width, height", "xyxy": "x1, y1, x2, y2", "cxcywh": "centre x, centre y, width, height"}


def polygon_box(segmentation: Any) -> Box | None:
    """Return the box around plain polygons `[[x, y, x, y, …], …]`, None for any other segmentation."""
    if not isinstance(segmentation, list) or not all(isinstance(part, list) for part in segmentation):
        return None
    points = [value for part in segmentation for value in part]
    if not all(isinstance(value, (int, float)) for value in points) or any(len(part) % 2 for part in segmentation):
        return None
    try:
        return fields.enclosing(points)
    except (Unusable, OverflowError):  # a number of hundreds of digits
        return None


def other_meaning(pairs: Sequence[tuple[Any, Box]]) -> str:
    """Return what the four numbers of boxes mean where only that fits their polygons, as an error's words; "" where xywh does.

    `pairs`: a bbox as the file has it, and the box around its polygons.
    """
    shares = {name: sum(_agrees(bbox, outline, name) for bbox, outline in pairs) / len(pairs) for name in _MEANING}
    best = max(shares, key=shares.__getitem__)
    if shares["xywh"] > 0.75 or shares[best] < 0.9:
        return ""
    return (
        f"{1 - shares['xywh']:.0%} of the first {len(pairs):,} boxes are not around their own segmentations; "
        f"read as {_MEANING[best]}, {shares[best]:.0%} are: --box_format {best} reads them so, --box_format xywh as now"
    )


def _agrees(bbox: Any, outline: Box, box_format: str) -> bool:
    try:
        box = fields.box(fields.numbers(bbox, 4, "bbox"), box_format)
    except Unusable:
        return False
    x, y = 2 + outline.width / 50, 2 + outline.height / 50  # rounding, and a pixel that is counted or not
    horizontal = abs(box.left - outline.left) <= x and abs(box.right - outline.right) <= x
    return horizontal and abs(box.top - outline.top) <= y and abs(box.bottom - outline.bottom) <= y
