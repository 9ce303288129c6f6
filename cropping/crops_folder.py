"""The crops folder that crop.py writes: crops.csv, skipped.csv and the record by which an interrupted run goes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from annotations.records import Object, Skipped
from common import files, run_record, table_files
from common.messages import UserError, count, tally, warn
from cropping.padding import Padding, number_text
from cropping.resizing import Fit
from imaging.crops import LOCK, MANIFEST, OBJECT_BOX, PLAN, RECORD, SKIPPED, _read_manifest, changes

_ESCAPED = {code: f"\\x{code:02x}" for code in range(32)}  # control characters, in ids of skipped objects only


@dataclass(frozen=True)
class Row:
    """One line of crops.csv; object_px: the pixels that the object was asked to have, None where they were not asked for."""

    path: str
    item: Object
    fit: Fit
    padding: Padding
    object_px: int | None = None

    @property
    def object_box(self) -> tuple[float, float, float, float]:
        """Where the object lies in the crop: left, top, right and bottom as shares of its width and height."""
        return self.fit.shares(self.item.box)

    def fields(self, levels: int) -> list[object]:
        """Return the line's values in the order of docs/formats.md, with `levels` class columns."""
        item, box, region = self.item, self.item.box, self.fit.region
        classes = [*item.classes, *[""] * (levels - len(item.classes))]
        numbers = map(number_text, (box.left, box.top, box.width, box.height))
        pixels = (region.left, region.top, region.width, region.height)
        line = [self.path, item.split, item.sample_id, item.crop_id, *classes, *numbers, *pixels]
        shares = (number_text(round(share, 6)) for share in self.object_box)
        return [*line, self.padding, int(region.clipped), self.object_px or "", *shares]


@contextlib.contextmanager
def writing(
    root: Path,
    record: dict[str, Any],
    paths: Sequence[str],
    contents: Callable[[], str],
    *,
    overwrite: bool,
    verify: bool = False,
) -> Iterator[bool]:
    """Hold the crops folder `root` for one run that will write `paths`; yields True when an earlier run has done it all.

    `record` names the options and the input. Raises UserError when the folder is in use, holds files that are not of
    crop.py, or has crops of another record, unless `overwrite`, which first removes what earlier runs wrote, and only that.
    `contents` returns a hash of the images' bytes; with `verify` one that is not that of the earlier run is a UserError too.
    """
    known = (root / RECORD).is_file()
    if not known and not overwrite and root.is_dir() and any(name[0] != "." for name in os.listdir(root)):
        raise UserError(f"{root} holds files that crop.py has not made; name another --output_root, or add --overwrite")
    with files.locked(root / LOCK):
        listed = _listed(root) if known else list(paths)
        changed = changes(root)
        complete = partial(_is_complete, root)
        finished = run_record.claim(
            root / RECORD,
            record,
            overwrite=overwrite,
            finished=complete,
            begun=lambda: any((root / path).exists() for path in listed),
            clear=partial(_clear, root, listed),
            noted=lambda: {"contents": contents()},
            advice="name another --output_root, or give all annotation files of one folder to one command",
        )
        if verify:
            _verify(root, contents())
        for sentence in () if overwrite else changed:
            warn(sentence if finished else f"{sentence}; it is written anew")
        if not finished:
            files.sweep(root)
            files.write_text(root / PLAN, "\0".join(paths))
        yield finished
        (root / PLAN).unlink(missing_ok=True)


def _verify(root: Path, contents: str) -> None:
    before = run_record.read_json(root / RECORD).get("written", {}).get("contents")
    if before is None:
        raise UserError(f"{root}: an older version wrote it, which noted no contents; cut anew with --overwrite")
    if before != contents:
        raise UserError(f"{root}: images have other contents than those that were cut; cut anew with --overwrite")


def _is_complete(root: Path) -> bool:
    return (root / MANIFEST).is_file() and all((root / path).is_file() for path in _listed(root))


def _listed(root: Path) -> list[str]:
    """Return the crops that earlier runs have written or, killed, may have."""
    listed: list[str] = []
    with contextlib.suppress(FileNotFoundError, UserError):
        listed += _read_manifest(root).paths
    with contextlib.suppress(FileNotFoundError):
        listed += (root / PLAN).read_text(encoding="utf-8").split("\0")
    return [path for path in listed if path and ".." not in path.split("/") and not path.startswith("/")]


def _clear(root: Path, paths: Sequence[str]) -> None:
    """Remove these crops and the folders they leave empty. The list outlives a kill."""
    files.write_text(root / PLAN, "\0".join(paths))
    for name in (MANIFEST, SKIPPED):
        (root / name).unlink(missing_ok=True)
    for path in paths:
        (root / path).unlink(missing_ok=True)
    for folder in sorted({above for path in paths for above in Path(path).parents[:-1]}, reverse=True):
        with contextlib.suppress(OSError):  # holds something else
            (root / folder).rmdir()


def write(root: Path, rows: Iterable[Row], skipped: Iterable[Skipped], *, spreadsheet_safe: bool = False) -> None:
    """Write crops.csv and skipped.csv, each whole or not at all; crops.csv comes last: where it stands, the folder is complete.

    `spreadsheet_safe` holds for skipped.csv; crops.csv names files and labels for other scripts, which take them as they are.
    """
    rows = list(rows)
    levels = max((len(row.item.classes) for row in rows), default=1)
    classes = [f"class_{level}" for level in range(levels)]
    header = ["path", "split", "sample_id", "crop_id", *classes, *(f"box_{key}" for key in "xywh")]
    header += [*(f"crop_{key}" for key in "xywh"), "padding", "clipped", "object_px", *OBJECT_BOX]
    skipped = list(skipped)
    lines = ([text.translate(_ESCAPED) for text in astuple(item)] for item in skipped)
    with files.whole(root / MANIFEST) as manifest, files.whole(root / SKIPPED) as no_crops:
        _write_csv(no_crops, [field.name for field in fields(Skipped)], lines, spreadsheet_safe)
        _write_csv(manifest, header, (row.fields(levels) for row in rows))
        written = {
            MANIFEST: {"rows": len(rows), "crc32": run_record.checksum(manifest)},
            SKIPPED: {"rows": len(skipped), "crc32": run_record.checksum(no_crops)},
        }
        run_record.finish(root / RECORD, written)


def report(done: str, n_done: int, n_there: int, skipped: Sequence[Skipped], path: Path) -> str:
    """Return one line that says what became of the objects; `done`: what was done with crops, `path`: the list of skipped ones."""
    text = f"{count(n_done, 'crop')} {done}" if n_done or not n_there else "nothing to do"
    text += f" ({n_there - n_done:,} there already)" if n_there > n_done else ""
    text += f", {len(skipped):,} skipped"
    kinds = tally(item.reason.partition(":")[0] for item in skipped)
    return text + (f" ({kinds}), see {path}" if skipped else "")


def write_skipped(path: Path, skipped: Iterable[Skipped], *, spreadsheet_safe: bool = False) -> None:
    """Write a list of skipped objects alone, whole or not at all."""
    lines = ([text.translate(_ESCAPED) for text in astuple(item)] for item in skipped)
    with files.whole(path) as temporary:
        _write_csv(temporary, [field.name for field in fields(Skipped)], lines, spreadsheet_safe)


def read_skipped(root: Path) -> list[Skipped]:
    """Return the lines of skipped.csv, none where it is missing."""
    try:
        rows = table_files.read_csv(root / SKIPPED, "repair it, or run crop.py with --overwrite")[1]
    except FileNotFoundError:
        return []
    return [Skipped(*row) for row in rows if len(row) in (3, 5)]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], safe: bool = False) -> None:
    text = table_files.csv_text(header, rows, spreadsheet_safe=safe)
    path.write_text(text, "utf-8", "backslashreplace", newline="")
