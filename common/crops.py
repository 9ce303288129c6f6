"""The crops folder and its manifest crops.csv; trees of class folders and flat folders are read as one too."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from common import files, trees
from common.annotations import Object, Skipped
from common.boxes import Padding, Region, number_text
from common.cli import UserError
from common.images import EXTENSIONS

if TYPE_CHECKING:
    import numpy as np

MANIFEST, SKIPPED, RECORD, PLAN, LOCK = RESERVED = ("crops.csv", "skipped.csv", "crop.json", ".planned", ".lock")
_ESCAPED = {code: f"\\x{code:02x}" for code in range(32)}  # control characters, in ids of skipped objects only


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
    """Return the images below `data_root`: the rows of crops.csv where there is one, else every image of the tree.

    `folders` keeps class folders, each named from the split or from the first class on, such as `train/Fruit`, `Fruit` or
    `Fruit/Apple`; `splits` keeps splits. Raises UserError when nothing is left, or when a name of either kind matches nothing.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name a crops folder or a folder of images with --data_root")
    if (root / MANIFEST).is_file():
        manifest = _read_manifest(root)
    elif (root / RECORD).is_file():
        raise UserError(f"{root}: crop.py has not finished here; run it again, it does only what is missing")
    elif inner := sorted(str(path.parent) for path in root.glob(f"*/{MANIFEST}")):
        raise UserError(f"{root} holds several crops folders; name one of them: {', '.join(inner[:20])}")
    else:
        paths, names, classes = trees.scan(root, splits or ())
        ids = [os.path.splitext(path)[0] for path in paths]
        manifest = Manifest(root, paths, names, ids, list(ids), _levels(classes))
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
    import numpy as np

    path = root / MANIFEST
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
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


def _levels(classes: Sequence[Sequence[str]]) -> np.ndarray:
    """Return (n, levels) str of n lists of class names, shorter ones filled up with ""."""
    import numpy as np

    levels = max(map(len, classes), default=0)
    filled = [[*names, *[""] * (levels - len(names))] for names in classes]
    return np.array(filled, dtype=str).reshape(len(classes), levels)


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
    """Return `folder` relative to `root` where it is given as a path that leads into it."""
    path = os.path.relpath(folder, root)
    return Path(path).as_posix() if not path.startswith("..") and os.path.isdir(folder) else folder


def _check_known(root: Path, kind: str, names: Sequence[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            listed = sorted(known)
            more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
            raise UserError(f"{root} has no {kind} {name!r}; it has: {', '.join(listed[:20])}{more}")


@contextlib.contextmanager
def writing(root: Path, record: dict[str, Any], paths: Sequence[str], *, overwrite: bool) -> Iterator[bool]:
    """Hold the crops folder `root` for one run that will write `paths`; yields True when an earlier run has done it all.

    `record` names the options and the input. Raises UserError when the folder is in use, holds files that are not of
    crop.py, or has crops of another record, unless `overwrite`, which first removes what earlier runs wrote, and only that.
    """
    known = (root / RECORD).is_file()
    if not known and not overwrite and root.is_dir() and any(name[0] != "." for name in os.listdir(root)):
        raise UserError(f"{root} holds files that crop.py has not made; name another --output_root, or add --overwrite")
    with files.locked(root / LOCK):
        listed = _listed(root) if known else []
        if overwrite or (known and not any((root / path).exists() for path in listed)):  # or nothing would be lost
            _clear(root, listed if known else paths)
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
    lines = ([text.translate(_ESCAPED) for text in astuple(item)] for item in skipped)
    _write_csv(root / SKIPPED, ["sample_id", "object_id", "reason"], lines)
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
