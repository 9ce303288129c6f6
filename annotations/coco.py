"""COCO JSON, as COCO and as the wild write it: `images`, `annotations`, `categories`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from annotations import box_evidence, contents, fields, segmentation
from annotations.contents import Repeated
from annotations.fields import shown
from annotations.options import Options
from annotations.photos import sample_of
from annotations.records import Box, Object, Outline, Skipped
from common.messages import Unusable, UserError, note

T = TypeVar("T")
_EVIDENCE = "evidence of the box"  # of an annotation, put there by compact()
_KEYS = ("images", "annotations", "categories")
_NAMES = ("file_name", "filename", "path", "coco_url")  # what names a photo; LVIS has the last one only
_CLASS_NAMES = ("name", "category_name", "class_name", "label", "title")  # what names a category


def recognise(content: Any) -> bool:
    kinds = [type(content.get(key)) for key in ("images", "annotations")] if isinstance(content, dict) else []
    return list in kinds or (kinds != [] and all(issubclass(kind, dict) for kind in kinds))


def is_whole(content: dict[str, Any]) -> bool:
    """Return whether the file has photos and annotations, in lists of their own or one within the other."""
    return "images" in content and "annotations" in _flat(content)


def compact(outlines: bool) -> Callable[[dict[str, Any]], None]:
    """Return what shrinks an annotation once it is parsed: its points become an Outline, or where the box is enough, nothing."""

    seen = 0

    def shrink(item: dict[str, Any]) -> None:
        nonlocal seen
        if "image_id" not in item or not any(key in item for key in box_evidence.KEYS):
            return
        if seen < box_evidence.SAMPLE and _has_box(item.get("bbox")) and not any(key in item for key in fields.MEANING):
            seen += 1
            item[_EVIDENCE] = box_evidence.evidence(item)
        if "segmentation" not in item:
            return
        if not outlines and _has_box(item.get("bbox")):
            item["segmentation"] = None
            return
        try:
            item["segmentation"] = segmentation.read(item["segmentation"])
        except Unusable as error:
            item["segmentation"] = error

    return shrink


def _has_box(bbox: Any) -> bool:
    return (
        isinstance(bbox, list)
        and len(bbox) == 4
        and all(isinstance(side, (int, float)) for side in bbox)
        and any(bbox)
        and bbox[2] != 0
        and bbox[3] != 0
    )


def read(content: Any, source: str, options: Options) -> Iterator[Object | Skipped]:
    """Yield every annotation in the file's order; raises UserError where a list is missing."""
    content = _flat(content)
    lists = {key: _entries(content, key, source) for key in _KEYS}
    annotations = lists["annotations"]
    images = _by_id(lists["images"], "image_id", _image, lambda entry: entry[:2])
    categories = _by_id(lists["categories"], "category_id", _category, lambda entry: entry[-1:])
    if lists["categories"]:
        _check_numbers(annotations, categories, source)
    else:
        note(f"{source} has no categories; the category_name of annotations, else their category_id, is the label")
    known = [item for item in annotations if isinstance(item, dict) and isinstance(item.get(_EVIDENCE), tuple)]
    pairs = [(item["bbox"], item[_EVIDENCE]) for item in known]
    if len(pairs) > 2 and options.box_format is None and (words := box_evidence.other_meaning(pairs)):
        raise UserError(f"{source}: {words}")
    for row, item in enumerate(annotations, 1):
        sample_id = object_id = ""
        try:
            check_plain(item)
            object_id = f"row{row}" if item.get("id") is None else fields.text(item["id"], "id")
            name, sample_id, declared, split = _one(images, item, "image_id")
            if "caption" in item and "bbox" not in item:
                raise Unusable("a caption has no box")
            classes = _one(categories, item, "category_id") if lists["categories"] else _named_class(item)
            if fields.flag(item.get("iscrowd"), "iscrowd"):
                raise Unusable("crowd region")
            box, units, outline = _shape(item, options, declared)
            split = options.split_of(name, source, named=_split(item) or split)
        except Unusable as error:
            yield Skipped(sample_id, object_id, str(error), source)
        else:
            yield Object(name, sample_id, object_id, split, classes, box, declared, source, units, outline)


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with annotations that stand inside their photos, or as segments of a panoptic one, in one list."""
    images, annotations = content.get("images"), content.get("annotations")
    if annotations is None and isinstance(images, list):
        nested = [image for image in images if isinstance(image, dict) and isinstance(image.get("annotations"), list)]
        if nested and not isinstance(content, Repeated):
            found = [_inside(item, image.get("id")) for image in nested for item in image["annotations"]]
            return {**content, "annotations": found}
    if isinstance(annotations, list) and any(_segments(item) for item in annotations[:100]):
        flat = [
            _inside(part, item.get("image_id")) if _segments(item) else part
            for item in annotations
            for part in _segments(item) or [item]
        ]
        return {**content, "annotations": flat}
    return content


def of_photos(content: Any) -> Any:
    """Return a list of photos that hold their annotations, as Detectron2 takes data sets, as COCO content; else `content`."""
    photos = content if isinstance(content, list) and content else [None]
    if not all(isinstance(photo, dict) and "file_name" in photo and "annotations" in photo for photo in photos):
        return content
    if any(isinstance(photo, Repeated) for photo in photos):
        return content
    return {"images": [{**photo, "id": number} for number, photo in enumerate(photos)]}


def _segments(item: Any) -> list[Any]:
    parts = item.get("segments_info") if isinstance(item, dict) and not isinstance(item, Repeated) else None
    return parts if isinstance(parts, list) else []


def _inside(item: Any, image_id: Any) -> Any:
    """Return an annotation that stands inside a photo with the photo's id."""
    return {"image_id": image_id, **item} if isinstance(item, dict) and not isinstance(item, Repeated) else item


def _entries(content: Any, key: str, source: str) -> list[Any]:
    """Return the entries of a list of the file, or of an object that has them by their ids; [] where there are no categories."""
    if isinstance(content, Repeated) and sum(name == key for name, _ in content.pairs) > 1:
        raise UserError(f"{source} has {key!r} twice; merge the two lists")
    entries = content.get(key) if isinstance(content, dict) else None
    if isinstance(entries, dict):
        named = (
            (name, entry if isinstance(entry, dict) else {"name": entry}) for name, entry in contents.items(entries)
        )
        entries = [entry if "id" in entry else {"id": name, **entry} for name, entry in named]
    if entries is None and key == "categories":
        return []
    if not isinstance(entries, list):
        raise UserError(f"{source} looks like COCO JSON but has no list {key!r}; export it again")
    if key == "categories" and entries and not any(isinstance(entry, dict) and "id" in entry for entry in entries):
        raise UserError(
            f'{source}: its categories have no ids ({shown(entries[0])}); write them as {{"id": 1, "name": …}}'
        )
    return entries


def _check_numbers(annotations: list[Any], categories: Mapping[str, Any], source: str) -> None:
    """Raise UserError where annotations number the categories by one more or less: every label would be its neighbour's."""
    ids = (str(item.get("category_id")) for item in annotations if isinstance(item, dict))
    used, given = (
        {int(entry_id) for entry_id in some if re.fullmatch(r"[0-9]{1,9}", entry_id)} for some in (ids, categories)
    )
    if not used or not given or used <= given:
        return
    for step, change in ((-1, "less"), (1, "more")):
        moved = {number + step for number in used}
        if moved <= given and (min(moved), max(moved)) == (min(given), max(given)):
            raise UserError(
                f"{source}: its annotations number the categories from {min(used)} to {max(used)}, its list of categories from "
                f"{min(given)} to {max(given)}; every label would be wrong: make each category_id one {change}"
            )


def _named_class(item: dict[str, Any]) -> tuple[str, ...]:
    """Return the label of an annotation in a file without categories."""
    name = item.get("category_name")
    return (fields.text(item.get("category_id") if name is None else name, "category_id"),)


def _shape(item: dict[str, Any], options: Options, declared: tuple[int, int] | None) -> tuple[Box, str, Outline | None]:
    """Return the annotation's box and its units, from the segmentation where there is no box, and its outline if wanted."""
    bbox, shape = fields.plain(item.get("bbox")), item.get("segmentation")
    if not isinstance(shape, (Outline, Unusable, type(None))):
        shape = _read_shape(shape)
    if isinstance(shape, Outline) and shape.size[0] and declared and shape.size[::-1] != declared:
        of, photo = (f"{width} x {height}" for width, height in (shape.size[::-1], declared))
        shape = Unusable(f"segmentation of a mask of {of}, in a photo declared as {photo}")
    units = options.box_units or "pixels"
    try:
        if bbox is None or bbox in ([], {}, ""):
            raise Unusable("no bbox")
        meaning = options.box_format
        if meaning is None and (stated := fields.stated_meaning(item)):
            meaning, units = stated[0], options.box_units or stated[1]
        box = fields.any_box(bbox, meaning or "xywh")
    except Unusable as error:
        if str(error) not in ("no bbox", "empty box") or shape is None:
            raise
        if isinstance(shape, Unusable):
            reason = str(shape)
            raise Unusable(f"{error}, {reason}" if reason.startswith("empty") else reason) from None
        return segmentation.box(shape), "pixels", shape if options.outlines else None
    outline = shape if options.outlines and units == "pixels" and isinstance(shape, Outline) else None
    return box, units, outline


def _read_shape(value: Any) -> Outline | Unusable:
    try:
        return segmentation.read(value)
    except Unusable as error:
        return error


def _split(item: dict[str, Any]) -> str | None:
    value = next((item[key] for key in ("split", "split_id", "subset") if item.get(key) is not None), None)
    return None if value is None else fields.text(value, "split")


def _by_id(
    items: list[Any], key: str, read: Callable[[dict[str, Any]], T], names: Callable[[T], tuple[str, ...]]
) -> dict[str, T | Unusable]:
    """Return what `read` makes of each entry, or why it cannot be used, by its id, or by `names` that are no ids.

    Two entries of one id must agree.
    """
    entries: dict[str, T | Unusable] = {}
    for item in items:
        try:
            entry_id = fields.text(item["id"], "id").strip()
        except (TypeError, KeyError, IndexError, Unusable):
            continue  # nothing can refer to it
        entry: T | Unusable
        try:
            check_plain(item)
            entry = read(item)
        except Unusable as error:
            entry = error
        known = entries.setdefault(entry_id, entry)
        if known != entry and key == "category_id" and _same_name(known, entry):
            entries[entry_id] = max(known, entry, key=len)  # type: ignore[arg-type]
        elif known != entry:
            entries[entry_id] = Unusable(f"ambiguous {key}: {shown(item['id'])} is given twice and differs")
    return _by_name(entries, names) | _by_number(entries) | entries


def _by_number(entries: Mapping[str, T | Unusable]) -> dict[str, T | Unusable]:
    """Return the entries whose ids are numbers by these without zeros before them, where two are not the same number."""
    ids = [entry_id for entry_id in entries if entry_id.isdecimal()]
    times = Counter(map(_number, ids))
    return {_number(entry_id): entries[entry_id] for entry_id in ids if times[_number(entry_id)] == 1}


def _number(entry_id: str) -> str:
    return entry_id.lstrip("0") or "0"


def _by_name(entries: Mapping[str, T | Unusable], names: Callable[[T], tuple[str, ...]]) -> dict[str, T | Unusable]:
    """Return the entries by what may stand in the place of their ids: a name of one entry only, and no number."""
    found: dict[str, list[T | Unusable]] = {}
    for entry in entries.values():
        for name in () if isinstance(entry, Unusable) else {*names(entry)}:
            found.setdefault(name, []).append(entry)
    return {name: some[0] for name, some in found.items() if len(some) == 1 and not name.isdecimal()}


def _same_name(first: Any, second: Any) -> bool:
    """Return whether two entries of a category differ only in whether they name the supercategory."""
    lists = isinstance(first, tuple) and isinstance(second, tuple)
    return lists and (first[-len(second) :] == second or second[-len(first) :] == first)


def _one(entries: dict[str, T | Unusable], item: dict[str, Any], key: str) -> T:
    value = fields.text(item.get(key), key).strip()
    if value not in entries and re.fullmatch(r"\d+\.0+", value):  # a number that a table made a float
        value = value.partition(".")[0]
    if value not in entries and value.isdecimal():
        value = _number(value)
    entry = entries.get(value, Unusable(f"unknown {key}: {value}"))
    if isinstance(entry, Unusable):
        raise Unusable(*entry.args)
    return entry


def _image(item: dict[str, Any]) -> tuple[str, str, tuple[int, int] | None, str | None]:
    """Return the file's name, the sample id, the declared (width, height) where it makes sense, and the split if named."""
    name = fields.text(next(filter(None, map(item.get, _NAMES)), None), "file_name")
    return name, sample_of(name), fields.size(item.get("width"), item.get("height")), _split(item)


def _category(item: dict[str, Any]) -> tuple[str, ...]:
    parent = item.get("supercategory")
    key = next((key for key in _CLASS_NAMES if item.get(key) not in (None, "")), "name")
    if key == "name" and item.get(key) in (None, "") and parent not in (None, ""):
        key = "supercategory"  # the only name that there is
    names = classes(item, key)
    if item.get("classes") is not None or parent in (None, "") or str(parent).strip() == names[0].strip():
        return names
    return (fields.text(parent, "supercategory"), *names)


def classes(item: dict[str, Any], key: str) -> tuple[str, ...]:
    """Return the label levels of a record: its `classes` where it has them, else the one of `key`."""
    if item.get("classes") is None:
        return (fields.text(item.get(key), key),)
    if not isinstance(item["classes"], list) or not item["classes"]:
        raise fields.bad("classes", item["classes"])
    return tuple(fields.text(name, "classes") for name in item["classes"])


def check_plain(item: Any) -> None:
    """Raise Unusable unless the record is an object whose keys are given once."""
    if not isinstance(item, dict):
        raise Unusable("annotation is not an object")
    if isinstance(item, Repeated):
        keys = [key for key, _ in item.pairs]
        raise Unusable(f"{max(keys, key=keys.count)} given twice")
