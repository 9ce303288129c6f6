"""YOLO: a text file for each photo, a line for each object: boxes, polygons, turned boxes and key points.

A line is `class cx cy w h`, with a sixth number for a confidence, or `class x y x y …`; all are fractions of the photo.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotations import fields
from annotations.contents import decoded
from annotations.options import Options
from annotations.photos import Photo, Shape, objects
from annotations.records import Object, Outline, Skipped
from annotations.segmentation import polygon
from common.messages import Unusable, UserError

SETTINGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
CLASS_LISTS = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "names.txt")
_SPLITS = ("train", "val", "valid", "test")


@dataclass(frozen=True)
class Dataset:
    """What is known of a folder of label files; `folders` and `lists` give the split of a folder, or of a photo's stem."""

    names: Mapping[int, str] = field(default_factory=dict)
    key_points: int = 0
    folders: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)  # numbers of classes that were read


def recognise(text: str) -> bool:
    """Return whether the first line that is not empty is one of YOLO's."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    parts = line.split()
    return len(parts) >= 5 and all(re.fullmatch(r"-?\d*\.?\d+(e-?\d+)?", part, re.IGNORECASE) for part in parts)


def is_label_file(path: Path) -> bool:
    """Return whether a .txt belongs to a photo: it lies in a folder `labels`, or looks like a label file."""
    if path.name in CLASS_LISTS or path.suffix.lower() != ".txt" or path.name.startswith("README"):
        return False
    if "labels" in (part.lower() for part in path.parts[-4:-1]):
        return True
    with open(path, encoding="utf-8", errors="replace") as file:
        return recognise(file.readline(100_000))


def open_dataset(root: Path) -> Dataset:
    """Return the class names and splits that data.yaml, or a list of classes, gives for the label files below `root`.

    It is looked for in `root`, in the folders right below it, and in the two above it, such as above train/labels.
    """
    places = [root, *list(root.absolute().parents)[:2]]
    for folder in places:
        for name in (*SETTINGS, *CLASS_LISTS):
            if (folder / name).is_file():
                return _from_yaml(folder / name) if name in SETTINGS else _from_list(folder / name, folder)
    others = [*sorted(root.glob("*.yaml")), *sorted(root.glob("*.names")), *sorted(root.glob("*/classes.txt"))]
    if not others:
        return Dataset(lists=_lists(root, {}))
    return _from_yaml(others[0]) if others[0].suffix == ".yaml" else _from_list(others[0], root)


def check_names(dataset: Dataset, root: Path, lists: Sequence[Path]) -> None:
    """Raise UserError where classes are numbered otherwise than named, or `lists`, files of names below `root`, contradict.

    Every label would be another's. A class 0 for the background is never used; names that are only written otherwise are the same.
    """
    from common.labels import loosely

    names = dataset.names
    has_first = loosely(names.get(0, "background")).strip() not in ("background", "bg")
    if dataset.used and has_first and (min(dataset.used), max(dataset.used)) == (1, max(names) + 1):
        raise UserError(
            f"{root}: the label files number classes from 1 to {max(dataset.used)}, names count from 0 to {max(names)}; every "
            "label would be wrong: make each number one less, or put a name for 0 first"
        )
    for path in lists:
        for number, name in _from_list(path, root).names.items():
            if name and loosely(names.get(number, name)) != loosely(name):
                raise UserError(
                    f"{root}: class {number} is {names[number]!r} in one list of names and {name!r} in {path}; remove the wrong one"
                )


def _from_list(path: Path, root: Path) -> Dataset:
    names = decoded(path.read_bytes(), path).rstrip().splitlines()
    return Dataset(dict(enumerate(name.strip() for name in names)), lists=_lists(root, {}))


def _from_yaml(path: Path) -> Dataset:
    import yaml

    try:
        # As texts: YAML makes a class `no` false, 007 an octal 7 and 1.0 a number.
        content = yaml.load(decoded(path.read_bytes(), path), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(f"{path} is not valid YAML ({problem}); repair it") from None
    names = content.get("names") if isinstance(content, dict) else None
    pairs: Any = names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else None
    if pairs is None:
        raise UserError(f"{path} has no list `names` of classes; add it")
    by_number: dict[int, str] = {}
    for number, name in pairs:
        try:
            by_number[int(number)] = fields.text(name, "names")
        except (Unusable, ValueError, TypeError):
            raise UserError(f"{path}: class {number!r} of `names` has no usable name; repair it") from None
    shape = content.get("kpt_shape")
    sound = isinstance(shape, list) and len(shape) == 2 and all(re.fullmatch(r"[1-9]\d{0,3}", str(n)) for n in shape)
    folders: dict[str, str] = {}
    for split in _SPLITS:
        for place in content[split] if isinstance(content.get(split), list) else [content.get(split)]:
            if isinstance(place, str) and not place.endswith(".txt"):
                folders[_key(place)] = split
    return Dataset(by_number, int(shape[0]) * int(shape[1]) if sound else 0, folders, _lists(path.parent, content))


def _lists(root: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the split of each photo, by its path without ending, that a text file of photos such as train.txt lists."""
    stems: dict[str, str] = {}
    for split in _SPLITS:
        named = settings.get(split)
        path = root / (named if isinstance(named, str) and named.endswith(".txt") else f"{split}.txt")
        if path.is_file() and not recognise(text := path.read_text(encoding="utf-8", errors="replace")):
            for line in text.splitlines():
                stems.setdefault(os.path.splitext(line.strip().replace("\\", "/").rpartition("/")[2])[0], split)
    return stems


def _key(place: str) -> str:
    """Return a folder of photos or labels as it is compared: without `images`, `labels` and leading dots."""
    parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".", "..", "images", "labels")]
    return "/".join(parts)


def read(data: bytes, path: Path, root: Path, dataset: Dataset, options: Options) -> Iterator[Object | Skipped]:
    """Yield every line of the label file `path` below `root`; its photo is the file of the same name among the images."""
    if not data.strip():
        return
    below = path.relative_to(root).with_suffix("").as_posix() if path.is_relative_to(root) else path.stem
    folder, _, stem = below.rpartition("/")
    parts = folder.split("/") if folder else []
    last = max((i for i, part in enumerate(parts) if part.lower() == "labels"), default=None)
    if last is not None:
        parts[last] = "images"
    if stem.lower().endswith(".txt"):
        stem = stem[:-4]
    named = dataset.folders.get(_key(folder)) or dataset.lists.get(stem)
    split = options.split_of(below, str(path), named, one_image=True)
    photo = Photo("/".join([*parts, stem]), split, None, str(path))
    lines = decoded(data, path).splitlines()
    records = ((number, line.split()) for number, line in enumerate(lines, 1) if line.strip())
    yield from objects(photo, records, lambda row: _shape(row, dataset, options), options)


def _shape(row: Sequence[str], dataset: Dataset, options: Options) -> Shape:
    named = row[0]
    if not named[:1].isdigit():
        named = next((str(number) for number, name in dataset.names.items() if name == named), named)
    number = fields.number(named, "class")
    if not number.is_integer() or number < 0:
        raise fields.bad("class", row[0])
    dataset.used.add(int(number))
    if dataset.names and int(number) not in dataset.names:
        raise Unusable(f"unknown class: {int(number)} has no name")
    classes = (dataset.names.get(int(number), str(int(number))),)
    values = [fields.number(value, "row") for value in row[1:]]
    units = options.box_units or "fraction"
    with_points = dataset.key_points and len(values) in (4 + dataset.key_points, 5 + dataset.key_points)
    if len(values) in (4, 5) or with_points:
        return Shape(classes, fields.box(values[:4], options.box_format or "cxcywh"), units)
    if len(values) < 6:
        raise Unusable(f"bad row: {len(row)} values")
    points = polygon(values[: len(values) // 2 * 2], "row")  # what is left over is a confidence
    return Shape(classes, fields.enclosing(points), units, Outline((points,)))
