"""The crops folder and its manifest crops.csv; trees of class folders and flat folders are read as one too."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from common import files, run_record
from common.labels import clean, split_of_folder
from common.messages import UserError, count, note, warn
from imaging import listed_labels
from imaging.headers import EXTENSIONS, NO_HEIC, image_kind
from imaging.pixels import reads_heic

if TYPE_CHECKING:
    import numpy as np

NOT_AN_IMAGE = "not an image"
UNREAD = "of a kind of image that is not read; save it as PNG"
_UNREAD = (
    ".psd",
    ".svg",
    ".tga",
    ".exr",
    ".hdr",
    ".dds",
    ".ico",
    ".pcx",
    ".jxl",
    ".dcm",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
)
OBJECT_BOX = ("object_left", "object_top", "object_right", "object_bottom")  # columns of crops.csv
MANIFEST, SKIPPED, RECORD, PLAN, LOCK = RESERVED = ("crops.csv", "skipped.csv", "crop.json", ".planned", ".lock")


@dataclass(frozen=True)
class Manifest:
    """The images of one data root, one entry each, in the manifest's order (trees: by path).

    `paths` are relative to `root`. `labels` is (n, levels) str, "" where a level is missing; a flat folder has no
    levels. `padding` and `object_px` are those of all crops, None where they differ or are unknown. `boxes` (n, 4) float32 says
    where the object lies in each crop: left, top, right, bottom as shares of its width and height; None where that is unknown.
    """

    root: Path
    paths: list[str]
    splits: list[str]
    sample_ids: list[str]
    crop_ids: list[str]
    labels: np.ndarray
    padding: str | None = None
    object_px: int | None = None
    boxes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Sequence[int]) -> Manifest:
        """Return the manifest of these rows."""
        lists = (self.paths, self.splits, self.sample_ids, self.crop_ids)
        paths, splits, sample_ids, crop_ids = ([values[row] for row in rows] for values in lists)
        boxes = None if self.boxes is None else self.boxes[list(rows)]
        labels = self.labels[list(rows)]
        return replace(
            self, paths=paths, splits=splits, sample_ids=sample_ids, crop_ids=crop_ids, labels=labels, boxes=boxes
        )


def read(
    data_root: Path | str,
    *,
    folders: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    strict: bool = False,
) -> Manifest:
    """Return the images below `data_root`: the rows of crops.csv where there is one, else every image of the tree.

    `folders` keeps class folders, each named from the split or from the first class on, such as `train/Fruit`, `Fruit` or
    `Fruit/Apple`; `splits` keeps splits. A crops.csv that was changed since crop.py wrote it is told, or with `strict` is
    an error. Raises UserError when nothing is left, or when a name of either kind matches nothing.
    """
    root = Path(data_root)
    if not root.is_dir():
        if root.is_file():
            raise UserError(f"{root} is a file, not a folder; unpack it, or name the folder of images with --data_root")
        raise UserError(f"{root}: no such folder; name a crops folder or a folder of images with --data_root")
    if (root / MANIFEST).is_file():
        manifest = _read_manifest(root)
        if changed := changes(root):
            if strict:
                raise UserError(f"{changed[0]}, and --strict is given; run crop.py again, or leave --strict away")
            warn(changed[0])
    elif (root / RECORD).is_file():
        raise UserError(f"{root}: crop.py has not finished here; run it again, it does only what is missing")
    elif inner := sorted(str(path.parent) for path in root.glob(f"*/{MANIFEST}")):
        raise UserError(f"{root} holds several crops folders; name one of them: {', '.join(inner[:20])}")
    else:
        paths, names, classes = scan_tree(root, splits or ())
        classes = listed_labels.add(root, paths, classes)
        ids = sample_ids(paths)
        manifest = Manifest(root, paths, names, ids, list(ids), levels(classes))
    manifest = keep_splits(manifest, splits)
    if folders:
        manifest = manifest.take(_in_folders(manifest, list(range(len(manifest))), folders))
    if not len(manifest):
        raise UserError(f"{root}: no images; it needs crops.csv, class folders or images")
    return manifest


def keep_splits(manifest: Manifest, splits: Sequence[str] | None) -> Manifest:
    """Return the rows of these splits, all where none is named. Raises UserError when there is no split of a name."""
    if not splits:
        return manifest
    _check_known(manifest.root, "split", splits, set(manifest.splits))
    return manifest.take([row for row, split in enumerate(manifest.splits) if split in splits])


def _read_manifest(root: Path) -> Manifest:
    import numpy as np

    path = root / MANIFEST
    text = io.StringIO(path.read_bytes().decode("utf-8-sig", "backslashreplace"), newline="")
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, [])
        lacking = [name for name in ("path", "split", "sample_id", "crop_id") if name not in header]
        if lacking:
            raise UserError(f"{path}: no column {', '.join(lacking)}; make the folder with crop.py")
        at, rows = header.index("path"), []
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if len(row) != len(header):
                raise UserError(f"{where}: {len(row)} fields, not {len(header)}; repair it or crop again")
            if not files.below(root, row[at]):
                raise UserError(f"{where}: {row[at][:80]!r} is no file below {root}; repair it or crop again")
            rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; repair it or run crop.py again") from None
    columns = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())
    classes = sorted((name for name in header if name.startswith("class_")), key=lambda name: (len(name), name))
    labels = clean(np.array([columns[name] for name in classes], dtype=str).reshape(len(classes), len(rows)).T)
    padding, object_px = (_shared(columns.get(name, ())) for name in ("padding", "object_px"))
    pixels = int(object_px) if object_px and object_px.isdecimal() else None
    paths, splits, sample_ids, crop_ids = (list(columns[name]) for name in ("path", "split", "sample_id", "crop_id"))
    return Manifest(root, paths, splits, sample_ids, crop_ids, labels, padding, pixels, _boxes(columns, path))


def _shared(values: Sequence[str]) -> str | None:
    """Return the value that all of them are, None where they differ or there is none."""
    return values[0] if len({*values}) == 1 else None


def _boxes(columns: Mapping[str, Sequence[str]], path: Path) -> np.ndarray | None:
    """Return (n, 4) float32 of the columns OBJECT_BOX; raises UserError where they are no shares.

    None where the columns are missing, or the crops of one run have none: a folder of version 0.1 to which today's added crops.
    """
    import numpy as np

    if not all(name in columns for name in OBJECT_BOX):
        return None
    if any(not any(cells) for cells in zip(*(columns[name] for name in OBJECT_BOX), strict=True)):
        return None
    try:
        boxes = np.array([columns[name] for name in OBJECT_BOX], np.float32).T
    except ValueError:
        boxes = np.full((1, 4), np.nan, np.float32)
    if not ((boxes >= 0) & (boxes <= 1)).all() or not (boxes[:, :2] < boxes[:, 2:]).all():
        raise UserError(f"{path}: {OBJECT_BOX[0]} to {OBJECT_BOX[-1]} are no boxes; repair it or run crop.py again")
    return boxes


def changes(root: Path) -> list[str]:
    """Return a sentence for crops.csv and one for skipped.csv where they were changed since crop.py wrote them.

    Where a run of crop.py has not finished, which may have replaced one of them, the only sentence says that.
    """
    try:
        written = run_record.read_json(root / RECORD).get("written", {})
    except (OSError, UserError):  # no folder of crop.py, or of an older version, or a record that says nothing for sure
        return []
    if isinstance(written, dict) and "doing" in written:
        return [f"{root}: a run of crop.py that adds crops has not finished here; run it again"]
    told = []
    for name, facts in written.items() if isinstance(written, dict) else ():
        known = name in (MANIFEST, SKIPPED) and isinstance(facts, dict) and (root / name).is_file()
        if known and run_record.checksum(root / name) != facts.get("crc32"):
            rows = max(0, (root / name).read_bytes().count(b"\n") - 1)
            told.append(f"{root / name} was changed since crop.py wrote it: {facts.get('rows')} rows then, {rows} now")
    return told


def levels(classes: Sequence[Sequence[str]]) -> np.ndarray:
    """Return (n, levels) str of n lists of class names, shorter ones filled up with ""."""
    import numpy as np

    levels = max(map(len, classes), default=0)
    filled = [[*names, *[""] * (levels - len(names))] for names in classes]
    return clean(np.array(filled, dtype=str).reshape(len(classes), levels))


def _in_folders(manifest: Manifest, rows: list[int], folders: Sequence[str]) -> list[int]:
    wanted = {PurePosixPath(_below(manifest.root, folder)).parts: folder for folder in folders}
    hits: dict[tuple[str, ...], set[tuple[str, ...]]] = {}  # by (folder, split, classes), the same for many rows
    kept = []
    for row in rows:
        classes = tuple(name for name in manifest.labels[row].tolist() if name)
        split, folder = manifest.splits[row], manifest.paths[row].rpartition("/")[0]
        if (key := (folder, split, *classes)) not in hits:
            parts = PurePosixPath(folder).parts
            ways = (parts, parts[1:] if parts[:1] == (split,) else parts, classes, (split, *classes))
            hits[key] = {way[:depth] for way in ways for depth in range(len(way) + 1)} & wanted.keys()
        if hits[key]:
            kept.append(row)
    unmatched = [wanted[key] for key in wanted.keys() - set().union(*hits.values())]
    _check_known(manifest.root, "folder", unmatched, {"/".join(key[2:]) for key in hits if key[2:]})
    return kept


def _below(root: Path, folder: str) -> str:
    """Return `folder` relative to `root` where it is given as a path that leads into it. Raises UserError for an empty name."""
    if not folder:
        raise UserError(f"{root} has no folder without a name; name some, or leave --folders away")
    path = os.path.relpath(folder, root)
    return Path(path).as_posix() if not path.startswith("..") and os.path.isdir(folder) else folder


def _check_known(root: Path, kind: str, names: Sequence[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            listed = sorted(known)
            more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
            raise UserError(f"{root} has no {kind} {name!r}; it has: {', '.join(listed[:20])}{more}")


def scan_tree(root: Path, splits: Sequence[str] = ()) -> tuple[list[str], list[str], list[tuple[str, ...]]]:
    """Return path, split and class names of every image below `root`, sorted by path; hidden files are left out.

    The first level is the split where all its folders are called so, as `train2017` and `Test_set` are, or where `splits` names
    one of them; else the split is `all`.
    """
    paths = image_files(root)
    parts = [path.split("/")[:-1] for path in paths]
    top = {folders[0] for folders in parts if folders}
    named = {name for name in top if split_of_folder(name)}
    by_split = bool(top & {*splits}) or (bool(top) and named == top)
    if named and not by_split:
        warn(
            f"{root}: {', '.join(sorted(named))} taken as a class, not a split, because of the folders beside it "
            f"({', '.join(sorted(top - named)[:5])}); --splits {' '.join(sorted(named))} says otherwise"
        )
    if len(top) == 1 and not by_split:
        inner = {folders[1] for folders in parts if len(folders) > 1}
        if inner and all(map(split_of_folder, inner)):
            within = root / min(top)
            warn(
                f"{within} holds {', '.join(sorted(inner)[:5])}, taken as classes; name it with --data_root if they are splits"
            )
    if not by_split and _are_inner_splits(parts):
        note(f"{root}: splits are taken from the folders in the class folders")
        return (
            paths,
            [split_of_folder(folders[1]) for folders in parts],
            [(folders[0], *folders[2:]) for folders in parts],
        )
    if not by_split:
        if top and all(re.fullmatch(r"(fold|split|part|cv)[ _-]?\d+", name.lower()) for name in top):
            listed = " ".join(sorted(top))
            warn(f"{root}: {listed} taken as classes; --splits {listed} takes them as splits")
        return paths, ["all"] * len(paths), [tuple(folders) for folders in parts]
    names = [folders[0] if folders else "all" for folders in parts]
    found = [split_of_folder(name) if name in named and name not in splits else name for name in names]
    return paths, found, [tuple(folders[1:]) for folders in parts]


def _are_inner_splits(parts: Sequence[Sequence[str]]) -> bool:
    """Return whether each of several class folders holds folders called as splits, at least two different ones, and no other."""
    inner = {split_of_folder(folders[1]) if len(folders) > 1 else "" for folders in parts}
    return len({folders[0] for folders in parts if folders}) > 1 and len(inner) > 1 and "" not in inner


def image_files(root: Path) -> list[str]:
    """Return the images in and below `root`, sorted paths relative to it; say on stderr what else lies there.

    A file is an image by its ending or by its first bytes. Hidden files, as `.DS_Store`, are left out.
    """
    paths: list[str] = []
    left_out: dict[str, list[str]] = {}
    for path in _walk(root, "", frozenset(), {}):
        if os.path.basename(path) in listed_labels.NAMES:  # has a sentence of its own
            continue
        reason = _no_image(root, path)
        left_out.setdefault(reason, []).append(path) if reason else paths.append(path)
    for reason, names in sorted(left_out.items()):
        shown = ", ".join(sorted(names)[:3]) + (" …" if len(names) > 3 else "")
        told = f"{root}: {count(len(names), 'file')} left out, {reason}: {shown}"
        note(told) if reason == NOT_AN_IMAGE else warn(told)
    return sorted(map(files.text_of_name, paths))


def _no_image(root: Path, path: str) -> str:
    """Return why a file is not taken for an image, '' where it is. Damaged ones are: they become a counted skip later."""
    ending = os.path.splitext(path)[1].lower()
    if ending in EXTENSIONS and ending not in (".heic", ".heif"):
        return ""
    try:
        if not os.path.isfile(root / path):
            return "no regular file"
        with open(root / path, "rb") as file:
            kind = image_kind(file.read(32))
    except OSError as error:
        return error.strerror or "unreadable"
    if kind == "HEIC" and not reads_heic():
        return NO_HEIC
    if kind or ending in EXTENSIONS:
        return ""
    return UNREAD if ending in _UNREAD else NOT_AN_IMAGE


def _walk(root: Path, below: str, above: frozenset[str], seen: dict[str, str], again: bool = False) -> Iterator[str]:
    """Yield the files in and below a folder, hidden ones apart, and links that lead back up.

    seen: folders by their real path. again: the folder is in one that was told to be there twice.
    """
    real = os.path.realpath(root / below)
    if real in above:
        yield below.rstrip("/")
        return
    other = seen.setdefault(real, below)
    if other != below and not again:
        warn(f"{root}: {below} and {other} are one folder by a link; its images are taken twice")
    with os.scandir(root / below) as entries:
        for entry in entries:
            if files.is_hidden(entry.name):
                continue
            if files.is_folder(entry):
                yield from _walk(root, f"{below}{entry.name}/", above | {real}, seen, other != below)
            else:
                yield below + entry.name


def sample_ids(paths: Sequence[str]) -> list[str]:
    """Return an ID for each path: without its ending, or the whole path where another file would have the same ID."""
    ids = [os.path.splitext(path)[0] for path in paths]
    while shared := {name for name, n in Counter(ids).items() if n > 1}:
        ids = [path if name in shared else name for path, name in zip(paths, ids, strict=True)]
    return ids
