"""The crops folder: its manifest crops.csv, plain trees of class folders, and flat folders of images."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from common.cli import UserError
from common.images import EXTENSIONS

MANIFEST, SKIPPED, RECORD = "crops.csv", "skipped.csv", "crop.json"
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
    for folder, names, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            names.clear()
            continue
        seen.add(real)
        names[:] = [name for name in names if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        yield from (
            (below / name).as_posix()
            for name in files
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
