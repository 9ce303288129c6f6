"""JSON annotations to validated records: SKU JSON or COCO JSON, recognised from the content."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from common.images import EXTENSIONS
from common.messages import Unusable, UserError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Object:
    """One annotated object. `image` is the name to look the file up by, `declared` the (width, height) the JSON gives it."""

    image: str
    sample_id: str
    object_id: str
    split: str
    classes: tuple[str, ...]
    box: Box
    declared: tuple[int, int] | None
    source: str

    @property
    def crop_id(self) -> str:
        return f"{self.sample_id}_{self.object_id}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """One object that cannot become a crop; a row of skipped.csv."""

    sample_id: str
    object_id: str
    reason: str


class _Repeated(dict):
    """A JSON object with a key given twice; a plain dict would quietly lose the first value."""

    pairs: list[tuple[str, Any]]


def parse(
    data: bytes, path: Path | str, *, split: str | None = None, split_names: Mapping[str, str] | None = None
) -> list[Object | Skipped]:
    """Return every object of the annotation file `path` with content `data`, in its order, sound or with the reason why not.

    `split` is that of objects that name none; without it the file's name decides (train, val, valid, validation, test), else it is
    `all`. `split_names` renames splits. Raises UserError when the file is not JSON or of neither form.
    """
    content = _load(data, path)
    names = split_names or {}
    fallback = split or _split_of(path)
    if isinstance(content, dict) and any(isinstance(content.get(key), list) for key in ("images", "annotations")):
        found = _coco(content, path, names.get(fallback, fallback))
    elif isinstance(content, dict) and any("points" in item for item in _dicts(_dicts([content]))):
        found = _sku(content, path, names, fallback)
    else:
        raise UserError(
            f"{path} is neither SKU JSON ({{image_id: {{object_id: {{points, sku_id, split_id}}}}}}) nor COCO JSON "
            "(images, annotations, categories); see docs/formats.md"
        )
    return _without_repeats(found)


def _load(data: bytes, path: Path | str) -> Any:
    if not data.strip():
        raise UserError(f"{path} is empty; export the annotations again")
    if (
        data.count(b"[") + data.count(b"{") > 500_000 + len(data) // 10
    ):  # each costs Python 80 bytes, sound files 2 to 5
        raise UserError(f"{path} is mostly brackets, which annotations are not; export it again")
    try:
        return json.loads(data.decode(json.detect_encoding(data)), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8, "
            "for example with `iconv -f latin1 -t utf-8`"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}); export it again"
        ) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for annotations; export it again") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path} is not valid JSON ({error}); export it again") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) == len(pairs):
        return content
    repeated = _Repeated(content)
    repeated.pairs = pairs
    return repeated


def _items(content: dict[str, Any]) -> Any:
    return content.pairs if isinstance(content, _Repeated) else content.items()


def _dicts(items: Any) -> Iterator[dict[str, Any]]:
    return (value for item in items for _, value in _items(item) if isinstance(value, dict))


def _split_of(path: Path | str) -> str:
    found = re.search(r"(?<![a-z])(train|validation|valid|val|test)(?![a-z])", Path(path).stem.lower())
    return found[1] if found else "all"


def _sku(
    content: dict[str, Any], path: Path | str, names: Mapping[str, str], fallback: str
) -> Iterator[Object | Skipped]:
    for image_id, objects in _items(content):
        if not isinstance(objects, dict):
            yield Skipped(image_id, "", "image entry is not an object")
            continue
        for object_id, item in _items(objects):
            try:
                _check_plain(item)
                box = _corners(item.get("points"))
                classes = _classes(item, "sku_id")
                split = fallback if item.get("split_id") is None else _text(item["split_id"], "split_id")
            except Unusable as error:
                yield Skipped(image_id, object_id, str(error))
            else:
                split = names.get(split, split)
                yield Object(image_id, image_id, object_id, split, classes, box, None, str(path))


def _coco(content: dict[str, Any], path: Path | str, split: str) -> Iterator[Object | Skipped]:
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise UserError(f"{path} looks like COCO JSON but has no list {key!r}; export it again")
        if isinstance(content, _Repeated) and sum(name == key for name, _ in content.pairs) > 1:
            raise UserError(f"{path} has {key!r} twice; merge the two lists")
    images = _by_id(content["images"], "image_id", _image)
    categories = _by_id(content["categories"], "category_id", _category)
    for item in content["annotations"]:
        sample_id = object_id = ""
        try:
            _check_plain(item)
            object_id = _text(item.get("id"), "id")
            name, sample_id, declared = _one(images, item, "image_id")
            classes = _one(categories, item, "category_id")
            if item.get("iscrowd"):
                raise Unusable("crowd region")
            box = _sizes(item.get("bbox"))
        except Unusable as error:
            yield Skipped(sample_id, object_id, str(error))
        else:
            yield Object(name, sample_id, object_id, split, classes, box, declared, str(path))


def _by_id(items: list[Any], key: str, read: Callable[[dict[str, Any]], T]) -> dict[str, T | Unusable]:
    """Return what `read` makes of each id's entry, or why it cannot be used; two entries must agree."""
    entries: dict[str, T | Unusable] = {}
    for item in items:
        try:
            entry_id = _text(item["id"], "id")
        except (TypeError, KeyError, IndexError, Unusable):
            continue  # nothing can refer to it
        entry: T | Unusable
        try:
            _check_plain(item)
            entry = read(item)
        except Unusable as error:
            entry = error
        if entries.setdefault(entry_id, entry) != entry:
            entries[entry_id] = Unusable(f"ambiguous {key}")
    return entries


def _one(entries: dict[str, T | Unusable], item: dict[str, Any], key: str) -> T:
    entry = entries.get(_text(item.get(key), key), Unusable(f"unknown {key}"))
    if isinstance(entry, Unusable):
        raise Unusable(*entry.args)
    return entry


def _image(item: dict[str, Any]) -> tuple[str, str, tuple[int, int] | None]:
    """Return the file's name, the sample id, and the declared (width, height) where it makes sense."""
    name = _text(item.get("file_name"), "file_name")
    stem, extension = os.path.splitext(name)
    sample_id = stem if extension.lower() in EXTENSIONS else name
    try:
        width, height = (float(item[key]) for key in ("width", "height"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return name, sample_id, None
    return name, sample_id, (int(width), int(height)) if 1 <= width < 1e9 and 1 <= height < 1e9 else None


def _category(item: dict[str, Any]) -> tuple[str, ...]:
    classes, parent = _classes(item, "name"), item.get("supercategory")
    if item.get("classes") is not None or parent in (None, "", item.get("name")):
        return classes
    return (_text(parent, "supercategory"), *classes)


def _check_plain(item: Any) -> None:
    if not isinstance(item, dict):
        raise Unusable("annotation is not an object")
    if isinstance(item, _Repeated):
        raise Unusable(f"{Counter(key for key, _ in item.pairs).most_common(1)[0][0]} given twice")


def _text(value: Any, key: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, bool) or not isinstance(value, (str, int)):
        raise Unusable(f"no {key}" if value is None else f"bad {key}")
    if not str(value).strip():
        raise Unusable(f"empty {key}")
    return str(value)


def _classes(item: dict[str, Any], key: str) -> tuple[str, ...]:
    if item.get("classes") is None:
        return (_text(item.get(key), key),)
    if not isinstance(item["classes"], list) or not item["classes"]:
        raise Unusable("bad classes")
    return tuple(_text(name, "classes") for name in item["classes"])


def _corners(points: Any) -> Box:
    if points is None:
        raise Unusable("no points")
    if isinstance(points, str):
        try:
            points = json.loads(points, object_pairs_hook=_object)
        except (ValueError, RecursionError):
            raise Unusable("bad points") from None
    if not isinstance(points, dict) or isinstance(points, _Repeated):
        raise Unusable("bad points")
    left, top = _numbers(points.get("top_left"), 2, "points")
    right, bottom = _numbers(points.get("bottom_right"), 2, "points")
    return _checked(Box(left, top, right, bottom, right - left, bottom - top))


def _sizes(bbox: Any) -> Box:
    if bbox is None:
        raise Unusable("no bbox")
    x, y, w, h = _numbers(bbox, 4, "bbox")
    return _checked(Box(x, y, x + w, y + h, w, h))


def _numbers(values: Any, n: int, key: str) -> list[float]:
    if not isinstance(values, list) or len(values) != n or any(isinstance(value, bool) for value in values):
        raise Unusable(f"bad {key}")
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        raise Unusable(f"bad {key}") from None


def _checked(box: Box) -> Box:
    if not all(map(math.isfinite, (box.left, box.top, box.right, box.bottom, box.width, box.height))):
        raise Unusable("box not finite")
    if box.width < 0 or box.height < 0:
        raise Unusable("inverted box")
    if box.width == 0 or box.height == 0:
        raise Unusable("empty box")
    return box


def _without_repeats(found: Iterator[Object | Skipped]) -> list[Object | Skipped]:
    """An id given twice in one image is a fault of the second object: the first one stays."""
    seen: set[tuple[str, str]] = set()
    kept: list[Object | Skipped] = []
    for item in found:
        key = (item.sample_id, item.object_id)
        if isinstance(item, Object) and key in seen:
            item = Skipped(*key, f"object id given twice: {item.crop_id}")
        elif isinstance(item, Object):
            seen.add(key)
        kept.append(item)
    return kept


@dataclass(frozen=True, slots=True)
class Box:
    """An annotated box in pixels of the image; the right and bottom edges are exclusive. Finite, width and height above 0."""

    left: float
    top: float
    right: float
    bottom: float
    width: float
    height: float
