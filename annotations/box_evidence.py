"""Whether boxes are those of their own outlines or key points: a file whose bbox has corners or centres says so by these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from annotations import fields, segmentation
from annotations.records import Box
from common.messages import Unusable

KEYS = ("segmentation", "keypoints", "area")  # what an annotation has beside its bbox that its box has to agree with
SAMPLE = 500  # annotations of a file that are looked at
_MEANING = {
    "xywh": "x, y, width, height",
    "xyxy": "x1, y1, x2, y2",
    "cxcywh": "centre x, centre y, width, height",
    "yxyx": "y1, x1, y2, x2",
}
Evidence = tuple[
    Box | float, bool
]  # a box, and whether that of the object is the same, or else only holds it; or its area


def evidence(item: dict[str, Any]) -> Evidence | None:
    """Return what a COCO annotation says of its box elsewhere: by its segmentation, its visible key points, or its area."""
    try:
        if shape := item.get("segmentation"):
            return segmentation.box(segmentation.read(shape)), True
        points = item.get("keypoints")
        if not points and (area := fields.number(item.get("area"), "area")) > 0:
            return area, True
        if not isinstance(points, list) or len(points) % 3:
            return None
        seen = [
            fields.number(value, "keypoints")
            for i in range(0, len(points), 3)
            if points[i + 2]
            for value in points[i : i + 2]
        ]
        return fields.enclosing(seen), False
    except (Unusable, OverflowError):  # a number of hundreds of digits
        return None


def other_meaning(pairs: Sequence[tuple[Any, Evidence]]) -> str:
    """Return what the four numbers of boxes mean where only that fits the evidence, as an error's words; "" where xywh does.

    `pairs`: a bbox as the file has it, and what else is known of it.
    """
    shares = {name: sum(_agrees(bbox, known, name) for bbox, known in pairs) / len(pairs) for name in _MEANING}
    best = max(shares, key=shares.__getitem__)
    if shares["xywh"] > 0.75 or shares[best] < 0.9:
        return ""
    return (
        f"{1 - shares['xywh']:.0%} of the first {len(pairs):,} boxes do not fit their own segmentations, key points or areas; "
        f"read as {_MEANING[best]}, {shares[best]:.0%} do: --box_format {best} reads them so, --box_format xywh as now"
    )


def _agrees(bbox: Any, known: Evidence, box_format: str) -> bool:
    try:
        box = fields.box(fields.numbers(bbox, 4, "bbox"), box_format)
    except Unusable:
        return False
    inner, same = known
    if isinstance(inner, float):
        return abs(box.width * box.height - inner) <= inner / 50 + box.width + box.height + 1
    x, y = 2 + inner.width / 50, 2 + inner.height / 50  # rounding, and a pixel that is counted or not
    outside = (box.left - inner.left, inner.right - box.right, box.top - inner.top, inner.bottom - box.bottom)
    return all((abs(side) if same else side) <= slack for side, slack in zip(outside, (x, x, y, y), strict=True))
