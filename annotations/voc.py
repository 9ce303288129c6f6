"""Pascal VOC: one XML file a photo. Edges are taken as they stand: 0-based, right and bottom exclusive, as tools write them."""

from __future__ import annotations

import functools
import posixpath
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from annotations import fields
from annotations.contents import Element
from annotations.options import Options
from annotations.photos import Photo, Shape, objects, sample_of
from annotations.records import Object, Outline, Skipped
from annotations.segmentation import polygon
from common.messages import Unusable, count, warn

_EDGES = ("xmin", "ymin", "xmax", "ymax")


def recognise(content: Any) -> bool:
    return isinstance(content, Element) and content.tag == "annotation"


def read_many(content: Element, source: str, options: Options, *, stem: str) -> Iterator[Object | Skipped]:
    """Yield every object of a file of several photos, each an `<annotation>` of its own."""
    for part in content.all("annotation"):
        yield from read(part, source, options, stem=stem)


def read(content: Element, source: str, options: Options, *, stem: str) -> Iterator[Object | Skipped]:
    """Yield every object of the photo; a file that names no photo is about the one of its own name, `stem`."""
    size = content.first("size")
    declared = fields.size(size.value("width"), size.value("height")) if size else None
    named = content.value("filename") or content.value("path")
    parts = stem.split("/")[:-1]
    folder = "/".join(part for part in parts if part.lower() != "annotations")  # photos lie in JPEGImages beside it
    name = named or posixpath.basename(stem)
    if "/" not in name and "\\" not in name:
        name = posixpath.join(folder, name)
    split = options.split_of(stem, source, listed_splits(Path(source).parent).get(Path(source).stem), one_image=True)
    photo = Photo(name, split, declared, source, stem if named else "")
    units = options.box_units or "pixels"
    records = ((item.line, item) for item in content.all("object"))
    yield from objects(photo, records, lambda item: _shape(item, units), options)


@functools.lru_cache(maxsize=16)
def listed_splits(folder: Path) -> dict[str, str]:
    """Return the split of each photo, by its name without ending, that the lists of ImageSets/Main beside `folder` give.

    A photo of trainval.txt alone is one of train. One that two lists name is of the first of them, and this is told.
    """
    splits: dict[str, str] = {}
    twice: list[str] = []
    for name in ("train", "val", "valid", "test", "trainval"):
        path = folder.parent / "ImageSets" / "Main" / f"{name}.txt"
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            stem = sample_of(posixpath.basename(line.split()[0].replace("\\", "/"))) if line.strip() else ""
            if stem and splits.setdefault(stem, "train" if name == "trainval" else name) != name and name != "trainval":
                twice.append(stem)
    if twice:
        warn(
            f"{folder.parent / 'ImageSets' / 'Main'} lists {count(len(twice), 'photo')} in two splits, such as {twice[0]}, which "
            f"is taken as {splits[twice[0]]}; repair the lists"
        )
    return splits


def _shape(item: Element, units: str) -> Shape:
    if fields.flag(item.value("deleted"), "deleted"):  # of LabelMe on the web
        raise Unusable("deleted object")
    classes = (fields.text(item.value("name"), "name"),)
    box, turned, outline = item.first("bndbox"), item.first("robndbox"), item.first("polygon")
    corners = None
    if len(item.all("bndbox")) > 1:
        raise Unusable("several bndbox in one object")
    if turned:
        cx, cy, w, h, angle = (fields.number(turned.value(key), key) for key in ("cx", "cy", "w", "h", "angle"))
        corners = array("d", fields.rotated(cx, cy, w, h, angle * 180 / 3.141592653589793))
    elif outline:
        corners = _polygon(outline)
    if box:
        values = [fields.number(box.value(key), key) for key in _EDGES]
        found = fields.box(values, "xyxy")
    elif corners:
        found = fields.enclosing(corners, "polygon")
    else:
        raise Unusable("no bndbox")
    return Shape(classes, found, units, Outline((corners,)) if corners else None)


def _polygon(element: Element) -> array[float]:
    """Return the points of `<x1/><y1/><x2/>…` or of `<pt><x/><y/></pt>…`."""
    if points := element.all("pt"):
        return polygon([[point.value("x"), point.value("y")] for point in points], "polygon")
    return polygon([child.text.strip() for child in element.children], "polygon")
