"""Any annotation file, or an export's folder, to records: the format is recognised by content, or as the user says.

Each reader knows one format and gives every record as an Object or as a Skipped with the reason, the file and the line.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from annotations import (
    coco,
    createml,
    cvat,
    datumaro,
    imagefolder,
    label_studio,
    labelme,
    sku,
    tables,
    via,
    voc,
    yolo,
)
from annotations.contents import Unrecognised, decoded, other_tool, parse_json, parse_xml, unrecognised
from annotations.options import FORMATS, Options
from annotations.packing import unpacked, unwrapped, without_quotes
from annotations.records import Object, Skipped
from common.files import is_hidden
from common.messages import UsageError, UserError, count, note, warn

_JSON = {
    "coco": coco,
    "datumaro": datumaro,
    "labelme": labelme,
    "via": via,
    "sku": sku,
    "createml": createml,
    "imagefolder": imagefolder,
    "label_studio": label_studio,
}
_BARE_BOXES = {
    "coco": "xywh",
    "datumaro": "xywh",
    "via": "xywh",
    "yolo": "cxcywh",
    "createml": "cxcywh",
    "imagefolder": "xywh",
    "bbox_csv": "xywh",
}
ONE_IMAGE = ("yolo", "voc", "labelme")  # formats with a file for each photo
_ENDINGS = (".json", ".jsonl", ".ndjson", ".xml", ".csv", ".txt", ".gz", ".bz2", ".xz", ".zip")


@dataclass(frozen=True)
class Source:
    """What one file, or all the small files of one export, say; `box_format` is "" where the format names a box's edges."""

    path: str
    format: str
    items: list[Object | Skipped]
    box_format: str = ""


def read(path: Path, options: Options, *, forced: str | None = None) -> tuple[list[Source], list[str]]:
    """Return what the file or the folder `path` says, and the files of a folder that hold no annotations.

    Raises UserError when a file can't be read or is of no known format, or when a folder has none or several formats.
    """
    if path.is_dir():
        return _read_folder(path, options, forced)
    if path.name in yolo.SETTINGS or path.suffix in (".yaml", ".yml"):
        if not any(map(yolo.is_label_file, _files(path.parent))):
            raise UserError(
                f"{path} is YAML, as YOLO's settings are, but no label file (.txt) lies below {path.parent}; name the annotations"
            )
        return _read_folder(path.parent, options, "yolo")
    name, items = read_file(path.read_bytes(), path, path.parent, options, forced)
    return [_source(str(path), name, items, options)], []


def parse(data: bytes, path: Path | str, options: Options | None = None, **changes: Any) -> list[Object | Skipped]:
    """Return every object of one annotation file with content `data`, in its order; `changes` are fields of Options."""
    path = Path(path)
    return read_file(data, path, path.parent, replace(options or Options(), **changes), None)[1]


def read_file(
    data: bytes, path: Path, root: Path, options: Options, forced: str | None
) -> tuple[str, list[Object | Skipped]]:
    """Return the format and the records of one file below `root`; raises Unrecognised when it is of no known format."""
    source = str(path)
    data = unpacked(data, path)
    stem = path.relative_to(root).with_suffix("").as_posix() if path.is_relative_to(root) else path.stem
    if data[:4096].lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1] == b"<" and forced in (None, "voc", "cvat"):
        name, found = _from_xml(data, source, stem, options, forced)
    else:
        text = without_quotes(decoded(data, path))
        start = text[:4096].lstrip()[:2]
        if (start[:1] in ("{", "[") or start in ("//", "/*")) and (forced is None or forced in _JSON):
            name, found = _from_json(text, source, stem, options, forced)
        elif forced == "yolo" or (forced is None and yolo.recognise(text)):
            name, found = "yolo", yolo.read(data, path, root, yolo.open_dataset(root), options)
        elif forced in (None, "via", "open_images", "tensorflow", "bbox_csv", "imagefolder") and (
            table := tables.form(text)
        ):
            name, found = table, tables.read(text, source, options, name=forced)
        else:
            raise unrecognised(source, text, forced)
    return name, _without_repeats(found)


def _from_xml(
    data: bytes, source: str, stem: str, options: Options, forced: str | None
) -> tuple[str, Iterator[Object | Skipped]]:
    root = parse_xml(data, source)
    if voc.recognise(root) and forced != "cvat":
        return "voc", voc.read(root, source, options, stem=stem)
    if cvat.recognise(root) and root.all("annotation") and forced != "cvat":
        return "voc", voc.read_many(root, source, options, stem=stem)
    if cvat.recognise(root) and forced != "voc":
        return "cvat", cvat.read(root, source, options)
    raise Unrecognised(
        f"{source} is XML with the root <{root.tag}>, neither Pascal VOC nor CVAT"
        f"{' but dlib' * (root.tag == 'dataset')}; see docs/inputs.md"
    )


def _from_json(
    text: str, source: str, stem: str, options: Options, forced: str | None
) -> tuple[str, Iterator[Object | Skipped]]:
    content = parse_json(text, source, partial(coco.compact, options.outlines))
    if forced in (None, "coco"):
        content = unwrapped(content, source)
    names: Iterable[str] = [forced] if forced in _JSON else _JSON if forced is None else []
    name = next((name for name in names if _JSON[name].recognise(content)), None)
    if name is None or (name == "coco" and not coco.is_whole(content) and other_tool(content)):
        raise unrecognised(source, content, forced)
    if name == "labelme":
        return name, labelme.read(content, source, options, stem=stem)
    return name, _JSON[name].read(content, source, options)


def _source(path: str, name: str, items: list[Object | Skipped], options: Options) -> Source:
    box_format = (options.box_format or _BARE_BOXES[name]) if name in _BARE_BOXES else ""
    return Source(path, name, items, box_format)


def _read_folder(root: Path, options: Options, forced: str | None) -> tuple[list[Source], list[str]]:
    """Read an export's folder: all its annotation files of the one format that they have."""
    files = list(_files(root))
    found: dict[str, list[tuple[Path, list[Object | Skipped]]]] = {}
    passed: dict[str, str] = {}  # what each file is that holds no annotations
    labels = [path for path in files if yolo.is_label_file(path)] if forced in (None, "yolo") else []
    if labels:
        dataset = yolo.open_dataset(root)
        if not dataset.names:
            note(f"{root}: no data.yaml and no classes.txt with the classes' names; their numbers are the labels")
        found["yolo"] = [(path, list(yolo.read(path.read_bytes(), path, root, dataset, options))) for path in labels]
        yolo.check_names(dataset, root, [path for path in files if path.name == "classes.txt"])
    for path in files:
        if path in labels or path.suffix.lower() == ".txt" or path.name in ("crop.json", "crops.csv", "skipped.csv"):
            continue
        try:
            name, items = read_file(path.read_bytes(), path, root, options, forced)
        except Unrecognised as error:
            passed[str(path)] = str(error)
        else:
            found.setdefault(name, []).append((path, items))
    named = [reason for reason in passed.values() if " looks like " in reason]
    if not found and (named or len(passed) == 1):
        raise UserError((named or list(passed.values()))[0])
    if not found:
        shown = f" ({', '.join(list(passed)[:3])}{', …' * (len(passed) > 3)})" if passed else ""
        raise UserError(
            f"{root} holds no annotation file of {'the format ' + forced if forced else 'a known format'}{shown}; "
            "see docs/inputs.md, or name the file itself"
        )
    if len(found) > 1:
        listed = ", ".join(f"{FORMATS[name]} ({name}, {count(len(some), 'file')})" for name, some in found.items())
        raise UserError(f"{root} holds several formats: {listed}; choose one with --annotation_format")
    ((name, parts),) = found.items()
    if name in ONE_IMAGE:
        return [_source(str(root), name, [item for _, items in parts for item in items], options)], list(passed)
    return [_source(str(path), name, items, options) for path, items in parts], list(passed)


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(names):
            if name.lower().endswith(_ENDINGS) and not is_hidden(name):
                yield Path(folder, name)


def _without_repeats(found: Iterable[Object | Skipped]) -> list[Object | Skipped]:
    """Trim the labels; an id given twice in one image is a fault of the second object: the first one stays."""
    from common import labels

    seen: set[tuple[str, str]] = set()
    kept: list[Object | Skipped] = []
    for item in found:
        key = (item.sample_id, item.object_id)
        if isinstance(item, Object) and (classes := tuple(map(labels.cleaned, item.classes))) != item.classes:
            item = replace(item, classes=classes)
        if isinstance(item, Object) and key in seen:
            item = Skipped(*key, f"object id given twice: {item.crop_id}", item.source)
        elif isinstance(item, Object):
            seen.add(key)
        kept.append(item)
    return kept


def summary(sources: Sequence[Source], options: Options) -> list[str]:
    """Return what was concluded: formats but the two that the suite has of old, and splits that only a name says."""
    lines = []
    for source in sources:
        objects = [item for item in source.items if isinstance(item, Object)]
        splits = Counter(item.split for item in objects)
        reasons = set()
        for item in {item.split: item for item in objects}.values():
            guessed, reason = options.guessed(item.image, item.source, one_image=source.format in ONE_IMAGE)
            if options.split is None and options.split_names.get(guessed, guessed) == item.split and reason:
                reasons.add(reason)
        if reasons or source.format not in ("coco", "sku"):
            shown = ", ".join(f"{n:,} in split {split}" for split, n in splits.items()) or "no usable object"
            told = f" (by {' and '.join(sorted(reasons))})" if reasons else ""
            lines.append(f"{source.path}: {FORMATS[source.format]}, {shown}{told}")
    return lines


def _tell_repeats(source: Source) -> None:
    """Warn of objects that say again what another one of their file says: photo, label and box."""
    seen: set[int] = set()
    repeated: list[Object] = []
    for item in source.items:
        if isinstance(item, Object):
            key = hash((item.image, item.classes, item.box))
            if key in seen:
                repeated.append(item)
            seen.add(key)
    if repeated:
        first = f"object {repeated[0].object_id} of {repeated[0].sample_id}"
        several = len(repeated) > 1
        told = f"{'repeat' if several else 'repeats'} photo, label and box of another one ({first}{' …' * several})"
        warn(f"{source.path}: {count(len(repeated), 'object')} {told}; all are cropped")


def reading_options(
    split: str | None, renamed: Sequence[str], box_format: str | None, box_units: str | None, *, outlines: bool
) -> Options:
    """Return how annotations are to be read; `renamed` has OLD=NEW names of splits."""
    names = dict(pair.split("=", 1) for pair in renamed if "=" in pair.strip("="))
    if len(names) < len(renamed):
        raise UsageError("--split_names takes OLD=NEW, each OLD once, as in 1=train 2=test")
    return Options(split, names, box_format, box_units, outlines)


def read_all(paths: Sequence[Path], options: Options, forced: str | None) -> list[Source]:
    """Return what all annotation files say, and tell what was concluded; `forced` is their format."""
    sources: list[Source] = []
    seen: set[str] = set()
    for path in paths:
        if (name := os.path.realpath(path)) in seen:
            raise UserError(f"{path} is named twice; name it once")
        seen.add(name)
        found, passed = read(path, options, forced=forced)
        sources += found
        if passed:
            shown = ", ".join(passed[:5]) + f" and {len(passed) - 5} more" * (len(passed) > 5)
            what = f"not of the format {forced}" if forced else "without annotations"
            note(f"{path}: {count(len(passed), 'file')} {what} passed over ({shown})")
    for line in summary(sources, options):
        note(line)
    for source in sources:
        _tell_repeats(source)
    several = [source.path for source in sources if any(isinstance(item, Object) for item in source.items)]
    if len(several) > 1 and {item.split for source in sources for item in source.items if isinstance(item, Object)} == {
        "all"
    }:
        note(
            f"{len(several)} files, and no name says a split: all are of split all (a run for each with --split sets them apart)"
        )
    return sources
