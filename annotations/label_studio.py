"""Label Studio: JSON (tasks with `data` and `annotations`) and JSON-MIN. Boxes are percent of the photo."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

from annotations import fields, photos
from annotations.coco import check_plain
from annotations.options import Options
from annotations.photos import Photo, Shape, objects, rows
from annotations.records import Box, Object, Outline, Skipped
from annotations.segmentation import polygon
from common.messages import Unusable, count, note

_SHAPES = ("rectangle", "polygon", "ellipse", "brush", "keypoint")


def recognise(content: Any) -> bool:
    tasks = content if isinstance(content, list) else [content]
    dicts = [task for task in tasks[:20] if isinstance(task, dict)]
    return any(_is_task(task) or any(map(_is_own, _regions(task))) for task in dicts)


def _is_own(region: dict[str, Any]) -> bool:
    """Return whether a region says what only Label Studio says: many tools have lists of objects with an x."""
    return "original_width" in region or any(str(key).endswith("labels") for key in region)


def _is_task(task: dict[str, Any]) -> bool:
    return isinstance(task.get("data"), dict) and any(key in task for key in ("annotations", "completions"))


def _regions(task: dict[str, Any]) -> list[Any]:
    """Return the regions of a JSON-MIN task: every list of objects that have a place in the photo."""
    lists = [value for value in task.values() if isinstance(value, list) and value]
    return [
        item
        for value in lists
        if all(isinstance(item, dict) for item in value)
        for item in value
        if "original_width" in item or (("x" in item or "points" in item) and "coordinates" not in item)
    ]


def read(content: Any, source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every region of every annotation that was not cancelled."""
    repeated = 0
    for number, task in enumerate(content if isinstance(content, list) else [content], 1):
        if not isinstance(task, dict):
            yield Skipped("", "", f"task {number} is not an object", source)
            continue
        full = _is_task(task)
        data = task["data"] if full else task
        regions = _results(task) if full else _regions(task)
        name = _image(data)
        if name is None and not _pages(data) and (not regions or len(_addresses(data)) < 2):
            yield Skipped("", "", f"task {number} names no image", source)
            continue
        if full and not regions and task.get("predictions"):
            yield Skipped(photos.sample_of(name or ""), "", "only predictions of a model, no annotation", source)
        repeated += full and sum(bool(part.get("result")) for part in _given(task)) > 1
        named = data.get("split")
        tags = {region["to_name"] for region in regions if isinstance(region, dict) and region.get("to_name")}
        for number, region in enumerate(regions, 1):
            if (own := _image_of(region, data, len(tags))) is None:
                reason = "of several photos of its task, which one is not known"
                yield Skipped(photos.sample_of(name or ""), str(number), reason, source)
                continue
            split = options.split_of(own, source, named if isinstance(named, str) and named.strip() else None)
            photo = Photo(own, split, _declared(region), source)  # each region gives the photo's size itself
            yield from objects(photo, rows([region]), _shape, options, number)
    if repeated:
        note(
            f"{source}: {count(repeated, 'task')} annotated more than once; all annotations are taken, so objects repeat"
        )


def _declared(region: Any) -> tuple[int, int] | None:
    about = region if isinstance(region, dict) else {}
    return fields.size(about.get("original_width"), about.get("original_height"))


def _results(task: dict[str, Any]) -> list[Any]:
    """Return the regions of all annotators, those of one region that were split into shape and label put together."""
    found: list[Any] = []
    for annotation in _given(task):
        by_id: dict[str, dict[str, Any]] = {}
        results = annotation.get("result")
        for result in results if isinstance(results, list) else []:
            if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
                found.append(result)
            elif result.get("type") not in ("relation", "choices", "textarea", "rating", "number"):
                region = {**{key: value for key, value in result.items() if key != "value"}, **result["value"]}
                key = str(result.get("id", id(result)))
                by_id[key] = {**by_id.get(key, {}), **region}
        found += by_id.values()
    return found


def _given(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the annotations of a task that were not cancelled."""
    annotations = task["annotations"] if "annotations" in task else task["completions"]
    parts = annotations if isinstance(annotations, list) else []
    return [part for part in parts if isinstance(part, dict) and not part.get("was_cancelled")]


def _pages(data: dict[str, Any]) -> list[str]:
    """Return the addresses of a task of several photos, the first list of nothing else in its data."""
    lists = (value for value in data.values() if isinstance(value, list) and value)
    return next((value for value in lists if all(map(_is_address, value))), [])


def _image_of(region: Any, data: dict[str, Any], tags: int) -> str | None:
    """Return the address of the photo that a region is on; None where its task has several and it does not say which.

    `tags`: how many image tags the task's regions name.
    """
    about, name, pages = region if isinstance(region, dict) else {}, _image(data), _pages(data)
    if pages and (name is None or isinstance(about.get("item_index"), int)):
        index = about.get("item_index", 0 if len(pages) == 1 else -1)
        return pages[index] if isinstance(index, int) and 0 <= index < len(pages) else None
    if len(_addresses(data)) > 1 and (tags > 1 or name is None):  # a tag is mostly called as the field that it shows
        own = data.get(str(about.get("to_name")))
        return own if isinstance(own, str) and own.strip() else None
    return name


def _addresses(data: dict[str, Any]) -> list[str]:
    return [value for value in data.values() if _is_address(value)]


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and ("/" in value or "." in value)


def _image(data: dict[str, Any]) -> str | None:
    """Return the photo's address: `image`, else the only text that has a path or an ending."""
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value.strip()}
    for key in ("image", "img", "photo", "picture", "image_url", "url"):
        if key in texts:
            return texts[key]
    addresses = _addresses(data)
    return addresses[0] if len(addresses) == 1 else None


def _labels(region: dict[str, Any]) -> tuple[str, ...]:
    keys = [key for key in region if key.endswith("labels") and isinstance(region[key], list)]
    names = list(dict.fromkeys(fields.text(name, key) for key in keys for name in region[key]))
    if len(names) > 1:
        raise Unusable(f"several labels: {fields.shown(names)}")
    if not names:
        raise Unusable("no label")
    return (names[0],)


def _shape(region: Any) -> Shape:
    check_plain(region)
    classes = _labels(region)
    if turned := fields.number(region.get("image_rotation") or 0, "image_rotation") % 360:
        raise Unusable(
            f"image_rotation {turned:g}: drawn on the turned photo; turn it back in Label Studio and export again"
        )
    if "points" in region:
        points = polygon(region["points"])
        return Shape(classes, fields.enclosing(points), "percent", Outline((points,)))
    if "radiusX" in region:
        cx, cy, rx, ry = (fields.number(region.get(key), key) for key in ("x", "y", "radiusX", "radiusY"))
        turn = fields.number(region.get("rotation") or 0, "rotation")
        if not turn:
            return Shape(classes, fields.ellipse((cx, cy, rx, ry)), "percent")
        w, h = _size(region)
        return Shape(classes, fields.ellipse((cx * w / 100, cy * h / 100, rx * w / 100, ry * h / 100), turn))
    if "width" not in region:
        kind = str(region.get("type", "region")).removesuffix("labels")
        raise Unusable("no width" if kind in ("rectangle", "region") else f"a {kind} has no box")
    x, y, width, height = (fields.number(region.get(key), key) for key in ("x", "y", "width", "height"))
    turn = fields.number(region.get("rotation") or 0, "rotation")
    if not turn:  # a region that was drawn upwards or to the left has negative sides
        left, top = min(x, x + width), min(y, y + height)
        return Shape(classes, fields.box((left, top, abs(width), abs(height)), "xywh"), "percent")
    corners = _turned(fields.box((x, y, width, height), "xywh"), turn, _size(region))
    return Shape(classes, fields.enclosing(corners), "pixels", Outline((corners,)))


def _size(region: Any) -> tuple[int, int]:
    if (declared := _declared(region)) is None:
        raise Unusable("a turned region without original_width and original_height")
    return declared


def _turned(box: Box, degrees: float, size: tuple[int, int]) -> array[float]:
    """Return the corners in pixels of a box that is turned around its top left corner."""
    x, y = box.left * size[0] / 100, box.top * size[1] / 100
    w, h = box.width * size[0] / 100, box.height * size[1] / 100
    at_zero = fields.rotated(0, 0, 2 * w, 2 * h, degrees)  # a box of twice the size, centred on the corner
    right, down = (at_zero[2] + at_zero[4]) / 2, (at_zero[3] + at_zero[5]) / 2  # middle of its right edge
    below, deep = (at_zero[4] + at_zero[6]) / 2, (at_zero[5] + at_zero[7]) / 2  # middle of its lower edge
    return array("d", [x, y, x + right, y + down, x + at_zero[4], y + at_zero[5], x + below, y + deep])
