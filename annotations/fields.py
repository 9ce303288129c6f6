"""Values of annotation files, read strictly: what is no sound text, number, flag or box raises Unusable naming field and value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from annotations.records import Box
from common.messages import Unusable

BOX_FORMATS = ("xywh", "xyxy", "cxcywh", "yxyx")
PER_SIDE = {
    "fraction": 1,
    "percent": 100,
    "permille": 1000,
}  # units of a box: the number that is the whole side of its photo
BOX_UNITS = ("pixels", *PER_SIDE)
_NO, _YES = {"", "0", "false", "f", "no", "n", "off", "none", "null"}, {"1", "true", "t", "yes", "y", "on"}
_LABEL_KEYS = (
    "label",
    "class",
    "name",
    "category",
    "type",
    "object",
)  # what an attribute that holds the label is called
# The names that tools give the four numbers of a box, in small letters and without _, and what they mean; corners
# first: beside them, width and height may be those of the photo.
_NAMED = (
    (("xmin", "ymin", "xmax", "ymax"), "xyxy"),
    (("x1", "y1", "x2", "y2"), "xyxy"),
    (("left", "top", "right", "bottom"), "xyxy"),
    (("topx", "topy", "bottomx", "bottomy"), "xyxy"),
    (("cx", "cy", "w", "h"), "cxcywh"),
    (("cx", "cy", "width", "height"), "cxcywh"),
    (("xcenter", "ycenter", "width", "height"), "cxcywh"),
    (("x", "y", "w", "h"), "xywh"),
    (("x", "y", "width", "height"), "xywh"),
    (("left", "top", "width", "height"), "xywh"),
    (("xmin", "ymin", "width", "height"), "xywh"),
    (("xmin", "ymin", "w", "h"), "xywh"),
)

SIDES = {name for names, _ in _NAMED for name in names}
MEANING = ("bbox_mode", "bbox_format", "box_format")  # what a record calls the meaning of its four numbers
# What is written there, in small letters and digits alone; the numbers are Detectron2's (BoxMode), which ends in ABS or REL.
_MEANINGS = dict.fromkeys(("xyxy", "0", "2", "pascalvoc", "ltrb"), "xyxy")
_MEANINGS |= dict.fromkeys(("xywh", "1", "3", "coco", "ltwh"), "xywh") | {"cxcywh": "cxcywh", "yxyx": "yxyx"}


def shown(value: object) -> str:
    """Return `value` as JSON of at most 60 characters, for a reason."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def bad(key: str, value: object) -> Unusable:
    return Unusable(f"bad {key}: {shown(value)}")


def plain(value: Any) -> Any:
    """Return the value inside MongoDB's `{"$oid": …}`, `{"$numberInt": …}`, else the value itself."""
    if isinstance(value, dict) and len(value) == 1:
        (key,) = value
        return value[key] if key.startswith("$") else value
    return value


def text(value: Any, key: str) -> str:
    """Return an id or a name as text; a whole number becomes its integer text."""
    value = plain(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None:
        raise Unusable(f"no {key}")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise bad(key, value)
    if not str(value).strip():
        raise Unusable(f"empty {key}")
    return str(value)


def number(value: Any, key: str) -> float:
    """Return a number, given as one or as its text."""
    value = plain(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise bad(key, value) from None
    if isinstance(value, str) and "_" not in value:
        try:
            return float(value)
        except ValueError:
            pass
    raise Unusable(f"no {key}") if value is None else bad(key, value)


def numbers(values: Any, n: int, key: str) -> list[float]:
    """Return `n` numbers of a list."""
    if not isinstance(values, (list, tuple)) or len(values) != n:
        raise bad(key, values)
    try:
        return [number(value, key) for value in values]
    except Unusable:
        raise bad(key, values) from None


def flag(value: Any, key: str) -> bool:
    """Return whether a flag is set; `"0"`, `"False"`, `""` and null are not."""
    value = plain(value)
    if value is None or isinstance(value, (bool, int, float)):
        return bool(value)
    word = value.strip().lower() if isinstance(value, str) else None
    if word in _NO or word in _YES:
        return word in _YES
    try:
        return bool(float(word or "x"))
    except ValueError:
        raise bad(key, value) from None


def size(width: Any, height: Any) -> tuple[int, int] | None:
    """Return a declared (width, height) where both make sense, else None."""
    try:
        wide, high = number(width, "width"), number(height, "height")
    except Unusable:
        return None
    return (int(wide), int(high)) if 1 <= wide < 1e9 and 1 <= high < 1e9 else None


def checked(box: Box) -> Box:
    """Return the box; raises Unusable unless it is finite with a width and height above 0."""
    if not all(map(math.isfinite, (box.left, box.top, box.right, box.bottom, box.width, box.height))):
        raise Unusable("box not finite")
    if box.width < 0 or box.height < 0:
        raise Unusable("inverted box")
    if box.width == 0 or box.height == 0:
        raise Unusable("empty box")
    return box


def box(values: Sequence[float], box_format: str) -> Box:
    """Return the box of four numbers in one of BOX_FORMATS."""
    a, b, c, d = values
    if box_format == "yxyx":
        a, b, c, d = b, a, d, c
    if box_format in ("xyxy", "yxyx"):
        return checked(Box(a, b, c, d, c - a, d - b))
    if box_format == "cxcywh":
        return checked(Box(a - c / 2, b - d / 2, a + c / 2, b + d / 2, c, d))
    return checked(Box(a, b, a + c, b + d, c, d))


def any_box(value: Any, box_format: str, key: str = "bbox") -> Box:
    """Return the box of a list, of a text such as `1, 2, 3, 4`, of an object whose names say what the numbers mean, or of
    its corners."""
    if isinstance(value, str):
        value = _from_text(value, key)
        if isinstance(value, tuple):
            return box(_four(value, key), box_format)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        (value,) = value
    if isinstance(value, list) and (points := _corners(value)):
        return enclosing([number(side, key) for side in points], key)
    if isinstance(value, dict):
        given = {name.lower().replace("_", ""): side for name, side in value.items()}
        names, meaning = names_of_sides(given) or ((), "")
        if not names:
            raise bad(key, value)
        return box([number(given[name], f"{key}.{name}") for name in names], meaning)
    return box(_four(value, key), box_format)


def _four(value: Any, key: str) -> list[float]:
    if isinstance(value, (list, tuple)) and len(value) in (5, 6):
        raise Unusable(f"{key} of {len(value)} numbers, not 4 (take the angle, score or class out): {shown(value)}")
    return numbers(value, 4, key)


def stated_meaning(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return which of BOX_FORMATS and BOX_UNITS a record says that its box has; None where it says nothing of it."""
    key = next((key for key in MEANING if record.get(key) not in (None, "")), None)
    if key is None:
        return None
    word = re.sub(r"[^a-z0-9]", "", str(plain(record[key])).lower().removeprefix("boxmode."))
    meaning = _MEANINGS.get(re.sub(r"(abs|rel)$", "", word))
    if meaning is None:
        raise Unusable(f"unknown {key} (--box_format says what the numbers are): {shown(record[key])}")
    return meaning, "fraction" if word.endswith("rel") or word in ("2", "3") else "pixels"


def names_of_sides(given: Collection[str]) -> tuple[tuple[str, ...], str] | None:
    """Return those of the names, in small letters without _, that are the four numbers of a box, and which of BOX_FORMATS it is."""
    return next(((names, meaning) for names, meaning in _NAMED if {*names} <= {*given}), None)


def _corners(value: list[Any]) -> list[Any]:
    """Return x, y, x, y, … of a box given by its corners, two or four as pairs, or four in a row; [] for four numbers."""
    if len(value) in (2, 4) and all(isinstance(point, list) and len(point) == 2 for point in value):
        return [side for point in value for side in point]
    return value if len(value) == 8 else []


def _from_text(value: str, key: str) -> Any:
    """Return the JSON of a text, or a tuple of the texts of its numbers."""
    if value.strip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            if "{" in value or value.count("[") > 1:
                raise bad(key, value) from None
    return tuple(part for part in re.split(r"[\s,;]+", value.strip(" \t\r\n()[]")) if part)


def enclosing(points: Sequence[float], key: str = "points") -> Box:
    """Return the smallest box around x, y, x, y, …"""
    if len(points) < 4 or len(points) % 2:
        raise bad(key, list(points))
    if not all(map(math.isfinite, points)):
        raise Unusable("box not finite")
    xs, ys = points[::2], points[1::2]
    return box((min(xs), min(ys), max(xs), max(ys)), "xyxy")


def rotated(cx: float, cy: float, width: float, height: float, degrees: float) -> list[float]:
    """Return the corners x, y, x, y, … of a box turned clockwise around its centre, in pixels."""
    if not math.isfinite(degrees):
        raise Unusable("box not finite")
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((-width / 2, -height / 2), (width / 2, -height / 2), (width / 2, height / 2), (-width / 2, height / 2))
    return [value for x, y in corners for value in (cx + x * cos - y * sin, cy + x * sin + y * cos)]


def ellipse(centre_and_radii: Sequence[float], degrees: float = 0) -> Box:
    """Return the box around an ellipse turned by `degrees`: half its width is sqrt((rx cos)^2 + (ry sin)^2)."""
    cx, cy, rx, ry = centre_and_radii
    if not all(map(math.isfinite, (rx, ry, degrees))):
        raise Unusable("box not finite")
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_w, half_h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return box((cx, cy, 2 * half_w, 2 * half_h), "cxcywh")


def label_of(attributes: Any, where: str) -> str:
    """Return the label: the only attribute that has a value, or the one that is called like a label; `where` they stand."""
    if not isinstance(attributes, dict):
        raise bad(where, attributes)
    values = {key: value for key, value in attributes.items() if value not in (None, "", {}, [])}
    key = next((key for key in _LABEL_KEYS if key in values), None)
    if key is None and len(values) == 1:
        (key,) = values
    if key is None:
        raise Unusable(f"no label among {where}: {shown(attributes)}")
    value = values[key]
    if isinstance(value, dict):  # a checkbox: {"cat": true}
        chosen = [name for name, on in value.items() if on is True]
        if len(chosen) != 1:
            raise Unusable(f"several labels: {shown(value)}")
        value = chosen[0]
    return text(value, key)
