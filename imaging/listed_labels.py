"""Labels of whole images from a list beside them: `metadata.csv` or `metadata.jsonl`, as Hugging Face's imagefolder has it."""

from __future__ import annotations

import csv
import json
import posixpath
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common import files, table_files
from common.labels import cleaned, text_of
from common.messages import count, note, warn

_ONE_HOT = "_classes.csv"  # of Roboflow: a column for each class, of 0 and 1
NAMES = ("metadata.csv", "metadata.jsonl", _ONE_HOT)
_FILES = ("file_name", "filename", "file", "image", "path")
_LABELS = ("label", "labels", "class", "class_name", "category", "target", "species")
_TEXT = "text"  # of captions, or of labels


def add(root: Path, paths: Sequence[str], classes: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the class names of the images in `paths` below `root`: of the lists there, where folders tell no classes apart.

    Images in no class folder take them in any case. A list that cannot be read, or has no labels, is told and left out.
    """
    alike = len({*classes}) == 1
    bare = {path for path, names in zip(paths, classes, strict=True) if alike or not names}
    if not bare:
        for folder in sorted({"", *(path.partition("/")[0] for path in paths if "/" in path)}):
            for path in (root / folder / name for name in NAMES if (root / folder / name).is_file()):
                note(f"{path} is left out: the folders of the images are their labels")
        return classes
    labels: dict[str, str] = {}
    for folder in sorted({above for path in bare for above in _above(path)}):
        for name in NAMES:
            if (root / folder / name).is_file():
                labels |= _labels(root / folder / name, folder)
    if not labels:
        return classes
    labels = _by_path(labels, bare)
    if lacking := len(bare) - sum(map(bool, labels.values())):
        warn(f"{root}: {count(lacking, 'image')} of {len(bare):,} without a label in its lists ({', '.join(NAMES)})")
    if not labels:
        return classes
    return [
        ((labels[path],) if labels.get(path) else ()) if path in bare else names
        for path, names in zip(paths, classes, strict=True)
    ]


def _by_path(labels: dict[str, str], paths: Iterable[str]) -> dict[str, str]:
    """Return the labels of the listed images by their paths; where the lists name bare files, by the only file called so."""
    if found := {path: labels[_composed(path)] for path in paths if _composed(path) in labels}:
        return found
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_name.setdefault(_composed(path).rpartition("/")[2], []).append(path)
    listed = {path.rpartition("/")[2]: label for path, label in labels.items()}
    return {same[0]: listed[name] for name, same in by_name.items() if len(same) == 1 and name in listed}


def _above(path: str) -> list[str]:
    """Return the folders above a file, "" for the root itself."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _composed(path: str) -> str:
    return unicodedata.normalize("NFC", path)  # macOS stores names decomposed


def _labels(path: Path, folder: str) -> dict[str, str]:
    """Return the label of each image that a list names, by its path below the root."""
    try:
        rows = _rows(path)
        key = _LABELS[0] if path.name == _ONE_HOT else _column(path, rows)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        warn(f"{path} cannot be read ({error}); its labels are left out")
        return {}
    if not key:
        return {}
    found: dict[str, str] = {}
    broken: list[str] = []
    for row in rows:
        name, value = next((row[name] for name in _FILES if name in row), None), row.get(key)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        below = posixpath.normpath(posixpath.join(folder, str(name).strip().replace("\\", "/")))
        below = _composed(files.text_of_name(below))
        label = cleaned(text_of(value)) if isinstance(value, (str, int, float, type(None))) else None
        if label is None or found.setdefault(below, label) != label:
            broken.append(below)
    if broken:
        told = f"{count(len(broken), 'row')} without one label for one image, or with another one than before"
        warn(f"{path}: {told} ({broken[0]}{' …' * (len(broken) > 1)}); the images are without labels")
        found |= dict.fromkeys(broken, "")
    where = "the class that has the only 1 in its row" if path.name == _ONE_HOT else f"its column {key!r}"
    note(f"{path}: labels are taken from {where}, {count(len({*found.values()} - {''}), 'label')}")
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a list as dicts; raises ValueError and csv.Error where it is none."""
    text = table_files.decoded(path.read_bytes())
    if path.suffix == ".csv":
        header, *lines = table_files.split(text)[1] or [[]]
        rows: list[Any] = [dict(zip(header, line, strict=False)) for line in lines]
    else:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if path.name == _ONE_HOT:
        return list(map(_with_label, rows))
    return [row for row in rows if isinstance(row, dict) and any(name in row for name in _FILES)]


def _with_label(row: dict[str, Any]) -> dict[str, Any]:
    """Return file and label of a row of one column for each class; no label where there is not exactly one 1."""
    chosen = [name.strip() for name, value in row.items() if str(value).strip() == "1"]
    name = next((value for key, value in row.items() if str(key).strip() == "filename"), None)
    return {"file_name": name, "label": chosen[0] if len(chosen) == 1 else ""}


def _column(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Return the column of labels, "" where there is none; a text of its own for nearly every image is a caption."""
    first = rows[0] if rows else {}
    if key := next((name for name in _LABELS if name in first), ""):
        return key
    if _TEXT in first and len(rows) > 1 and 2 * len({str(row.get(_TEXT)) for row in rows}) <= len(rows):
        return _TEXT
    if "objects" in first:
        note(f"{path} lists objects with their boxes; crop.py cuts them, here whole images are taken")
    else:
        shown = ", ".join(map(str, list(first)[:8])) or "nothing"
        warn(f"{path} has no column of labels ({shown}); call one label, else the images are without labels")
    return ""
