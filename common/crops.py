"""The crops folder: its manifest crops.csv, plain trees of class folders, and flat folders of images."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from common import files
from common.annotations import Object, Skipped
from common.boxes import Padding, Region, Unusable, number_text
from common.cli import UserError
from common.images import EXTENSIONS

MANIFEST, SKIPPED, RECORD, PLAN, LOCK = RESERVED = ("crops.csv", "skipped.csv", "crop.json", ".planned", ".lock")
SPLITS = ("train", "val", "valid", "validation", "test")


@dataclass(frozen=True)
class Manifest:
    """The images of one data root, one entry each, in the manifest's order (trees: by path).

    `paths` are relative to `root`. `labels` is (n, levels) str, "" where a level is missing; a flat folder has no
    levels. `padding` is that of all crops, None where it differs or is unknown.
    """

    root: Path
    paths: list[str]
    splits: list[str]
    sample_ids: list[str]
    crop_ids: list[str]
    labels: np.ndarray
    padding: str | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Sequence[int]) -> Manifest:
        """Return the manifest of these rows."""
        lists = (self.paths, self.splits, self.sample_ids, self.crop_ids)
        paths, splits, sample_ids, crop_ids = ([values[row] for row in rows] for values in lists)
        return Manifest(self.root, paths, splits, sample_ids, crop_ids, self.labels[list(rows)], self.padding)


@dataclass(frozen=True)
class Row:
    """One line of crops.csv."""

    path: str
    item: Object
    region: Region
    padding: Padding

    def fields(self, levels: int) -> list[object]:
        """Return the line's values in the order of FORMATS, with `levels` class columns."""
        item, box, region = self.item, self.item.box, self.region
        classes = [*item.classes, *[""] * (levels - len(item.classes))]
        numbers = map(number_text, (box.left, box.top, box.width, box.height))
        pixels = (region.left, region.top, region.width, region.height)
        line = [self.path, item.split, item.sample_id, item.crop_id, *classes, *numbers, *pixels]
        return [*line, self.padding, int(region.clipped)]


def read(
    data_root: Path | str, *, folders: Sequence[str] | None = None, splits: Sequence[str] | None = None
) -> Manifest:
    """Return the images below `data_root`: the rows of crops.csv, else every image of its class folders, else of the folder itself.

    `folders` keeps class folders, each named by a path from the split or from the first class on, such as `Fruit/Apple`, `Fruit` or
    `train/Fruit`; `splits` keeps splits. Raises UserError when nothing is left, or when a name of either kind matches nothing.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name a crops folder or a folder of images with --data_root")
    if (root / MANIFEST).is_file():
        manifest = _read_manifest(root)
    elif (root / RECORD).is_file():
        raise UserError(f"{root}: crop.py has not finished here; run it again, it does only what is missing")
    else:
        manifest = _read_tree(root, splits)
    rows = list(range(len(manifest)))
    if splits:
        _check_known(root, "split", splits, set(manifest.splits))
        rows = [row for row in rows if manifest.splits[row] in splits]
    if folders:
        rows = _in_folders(manifest, rows, folders)
    if not rows:
        raise UserError(f"{root}: no images; it needs crops.csv, class folders or images ({' '.join(EXTENSIONS)})")
    return manifest.take(rows)


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            lacking = [name for name in ("path", "split", "sample_id", "crop_id") if name not in header]
            if lacking:
                raise UserError(f"{path}: no column {', '.join(lacking)}; make the folder with crop.py")
            rows = []
            for row in reader:
                if len(row) != len(header):
                    raise UserError(
                        f"{path}, line {reader.line_num}: {len(row)} fields, not {len(header)}; repair it or crop again"
                    )
                rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; repair it or run crop.py again") from None
    columns = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())
    classes = sorted((name for name in header if name.startswith("class_")), key=lambda name: (len(name), name))
    labels = np.array([columns[name] for name in classes], dtype=str).reshape(len(classes), len(rows)).T
    paddings = set(columns.get("padding", ()))
    padding = paddings.pop() if len(paddings) == 1 else None
    paths, splits, sample_ids, crop_ids = (list(columns[name]) for name in ("path", "split", "sample_id", "crop_id"))
    return Manifest(root, paths, splits, sample_ids, crop_ids, labels, padding)


def _read_tree(root: Path, splits: Sequence[str] | None) -> Manifest:
    paths = sorted(_image_paths(root))
    parts = [PurePosixPath(path).parts for path in paths]
    top = {part[0] for part in parts if len(part) > 1}
    # The first level is the split when all its folders are called so, or when --splits says it.
    has_splits = bool(top) and (top <= {*SPLITS} or bool(top & {*(splits or ())}))
    classes = [part[1:-1] if has_splits else part[:-1] for part in parts]
    levels = max(map(len, classes), default=0)
    labels = np.array([[*names, *[""] * (levels - len(names))] for names in classes], dtype=str)
    ids = [str(PurePosixPath(path).with_suffix("")) for path in paths]
    _check_unique(root, ids, paths)
    split = [part[0] if has_splits and len(part) > 1 else "all" for part in parts]
    return Manifest(root, paths, split, ids, list(ids), labels.reshape(len(paths), levels))


def _image_paths(root: Path) -> Iterable[str]:
    seen = set()
    for folder, names, found in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            names.clear()
            continue
        seen.add(real)
        names[:] = [name for name in names if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        yield from (
            (below / name).as_posix()
            for name in found
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS)
        )


def _check_unique(root: Path, ids: list[str], paths: list[str]) -> None:
    first: dict[str, str] = {}
    for crop_id, path in zip(ids, paths, strict=True):
        if crop_id in first:
            raise UserError(f"{root}: {first[crop_id]} and {path} would share the id {crop_id}; rename one of them")
        first[crop_id] = path


def _in_folders(manifest: Manifest, rows: list[int], folders: Sequence[str]) -> list[int]:
    wanted = {tuple(PurePosixPath(_below(manifest.root, folder)).parts): folder for folder in folders}
    found: set[tuple[str, ...]] = set()
    kept = []
    for row in rows:
        classes = tuple(name for name in manifest.labels[row].tolist() if name)
        split, folder = manifest.splits[row], PurePosixPath(manifest.paths[row]).parts[:-1]
        ways = (classes, (split, *classes), folder, folder[1:] if folder[:1] == (split,) else ())
        hits = {way[:depth] for way in ways for depth in range(1, len(way) + 1)} & wanted.keys()
        if hits:
            kept.append(row)
            found |= hits
    known = {"/".join(name for name in label if name) for label in manifest.labels.tolist()} | {*manifest.splits}
    _check_known(manifest.root, "folder", [wanted[key] for key in wanted.keys() - found], known)
    return kept


def _below(root: Path, folder: str) -> str:
    """Return `folder` relative to `root` where it is given as a path that leads into it."""
    path = os.path.relpath(folder, root)
    return Path(path).as_posix() if not path.startswith("..") and os.path.isdir(folder) else folder


def _check_known(root: Path, kind: str, names: Sequence[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            listed = sorted(known)
            more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
            raise UserError(f"{root} has no {kind} {name!r}; it has: {', '.join(listed[:20])}{more}")


def safe_name(text: str, kind: str, ending: str = "") -> str:
    """Return `text` as a file or folder name, slashes as `__`. Raises Unusable where no name can be made of it."""
    name = text.replace("/", "__") + ending
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise Unusable(f"unsafe {kind}") from None
    if not text.strip():
        raise Unusable(f"empty {kind}")
    if "\0" in text or text == "." or ".." in text.split("/") or name in RESERVED:
        raise Unusable(f"unsafe {kind}")
    if length > 255:
        raise Unusable(f"{kind} too long")
    return name


@contextlib.contextmanager
def writing(root: Path, record: dict[str, Any], paths: Sequence[str], *, overwrite: bool) -> Iterator[bool]:
    """Hold the crops folder `root` for one run that will write `paths`; yields True when an earlier run has done it all.

    `record` names the options and the input. Raises UserError when the folder is in use, holds files that are not of
    crop.py, or was made with another record, unless `overwrite`, which first removes what earlier runs wrote, and only that.
    """
    known = (root / RECORD).is_file()
    if not known and not overwrite and root.is_dir() and any(name[0] != "." for name in os.listdir(root)):
        raise UserError(f"{root} holds files that crop.py has not made; name another --output_root, or add --overwrite")
    with files.locked(root / LOCK):
        if overwrite:
            _clear(root, _listed(root) if known else paths)
        same = files.claim(root / RECORD, record, overwrite=False)
        finished = same and (root / MANIFEST).is_file() and all((root / path).is_file() for path in _listed(root))
        if not finished:
            files.sweep(root)
            files.write_text(root / PLAN, "\0".join(paths))
        yield finished
        (root / PLAN).unlink(missing_ok=True)


def _listed(root: Path) -> list[str]:
    """Return the crops that earlier runs have written or, killed, may have."""
    listed: list[str] = []
    with contextlib.suppress(FileNotFoundError, UserError):
        listed += _read_manifest(root).paths
    with contextlib.suppress(FileNotFoundError):
        listed += (root / PLAN).read_text(encoding="utf-8").split("\0")
    return [path for path in listed if path and ".." not in path.split("/") and not path.startswith("/")]


def _clear(root: Path, paths: Sequence[str]) -> None:
    """Remove these crops and the folders they leave empty. The list outlives a kill, the record goes last."""
    files.write_text(root / PLAN, "\0".join(paths))
    for name in (MANIFEST, SKIPPED):
        (root / name).unlink(missing_ok=True)
    for path in paths:
        (root / path).unlink(missing_ok=True)
    for folder in sorted({above for path in paths for above in Path(path).parents[:-1]}, reverse=True):
        with contextlib.suppress(OSError):  # holds something else
            (root / folder).rmdir()
    (root / RECORD).unlink(missing_ok=True)


def write(root: Path, rows: Iterable[Row], skipped: Iterable[Skipped]) -> None:
    """Write crops.csv and skipped.csv, each whole or not at all; crops.csv comes last: where it stands, the folder is complete."""
    rows = list(rows)
    levels = max((len(row.item.classes) for row in rows), default=1)
    classes = [f"class_{level}" for level in range(levels)]
    header = ["path", "split", "sample_id", "crop_id", *classes, *(f"box_{key}" for key in "xywh")]
    header += [*(f"crop_{key}" for key in "xywh"), "padding", "clipped"]
    _write_csv(root / SKIPPED, ["sample_id", "object_id", "reason"], map(astuple, skipped))
    _write_csv(root / MANIFEST, header, (row.fields(levels) for row in rows))


def read_skipped(root: Path) -> list[Skipped]:
    """Return the lines of skipped.csv, none where it is missing."""
    try:
        with open(root / SKIPPED, encoding="utf-8", newline="") as file:
            return [Skipped(*row) for row in list(csv.reader(file))[1:] if len(row) == 3]
    except FileNotFoundError:
        return []


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with (
        files.whole(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
