"""The crops folder that crop.py writes: crops.csv, skipped.csv and the record by which an interrupted run goes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from annotations.records import Object, Skipped
from boxes.padding import Padding, number_text
from boxes.resizing import Fit
from common import files, run_record, table_files
from common.messages import UserError, count, note, tally, warn
from cropping import crop_runs
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


@dataclass(frozen=True)
class Held:
    """A crops folder that one run holds. `run` is its number in the folder, from 0; `finished`: it has nothing left to do."""

    root: Path
    crops: Mapping[str, Object]
    run: int
    finished: bool

    def skipped(self) -> list[Skipped]:
        """Return this run's lines of skipped.csv."""
        return [Skipped(*row) for run, row in _read_skipped(self.root) if run == self.run]

    def write(self, rows: Sequence[Row], skipped: Sequence[Skipped], *, spreadsheet_safe: bool = False) -> None:
        """Write crops.csv and skipped.csv, each whole or not at all, with the lines of the folder's other runs.

        The record follows last: until it does, the run counts as unfinished. `spreadsheet_safe` holds for skipped.csv; crops.csv
        names files and labels for other scripts, which take them as they are.
        """
        record = run_record.read_json(self.root / RECORD)
        written = record["written"]
        doing = written.pop("doing")
        added = [entry for entry in written.pop("added", []) if entry["run"] != self.run and entry["crops"]]
        added += [{**doing, "run": self.run, "crops": len(rows)}] if self.run else []
        added.sort(key=lambda entry: entry["run"])
        others = {0, *(entry["run"] for entry in added)} - {self.run}
        header, lines = _with_others(self.root, rows, self.crops) if others else lines_of(rows)
        kept = [(run, row) for run, row in _read_skipped(self.root) if run in others]
        own = [(self.run, [text.translate(_ESCAPED) for text in astuple(item)]) for item in skipped]
        columns = [*(field.name for field in fields(Skipped)), *(["run"] if added else [])]
        reasons = [[*row, run][: len(columns)] for run, row in sorted([*kept, *own], key=lambda pair: pair[0])]
        with files.whole(self.root / MANIFEST) as manifest, files.whole(self.root / SKIPPED) as no_crops:
            _write_csv(no_crops, columns, reasons, spreadsheet_safe)
            _write_csv(manifest, header, lines)
            written[MANIFEST] = {"rows": len(lines), "crc32": run_record.checksum(manifest)}
            written[SKIPPED] = {"rows": len(reasons), "crc32": run_record.checksum(no_crops)}
        run_record.write_json(self.root / RECORD, record | {"written": written | ({"added": added} if added else {})})


@contextlib.contextmanager
def writing(
    root: Path,
    record: dict[str, Any],
    wanted: crop_runs.Wanted,
    contents: Callable[[], str],
    *,
    overwrite: bool,
    verify: bool = False,
) -> Iterator[Held]:
    """Hold the crops folder `root` for one run that will write the `wanted` crops.

    `record` names the options and the input. A finished folder of the same options takes a run of other input whose crops are
    all new. Raises UserError when the folder is in use, holds files that are not of crop.py, or has crops of another record,
    unless `overwrite`, which first removes what earlier runs wrote, and only that. `contents` returns a hash of the images'
    bytes; with `verify` one that is not that of the earlier run is a UserError too.
    """
    known, crops = (root / RECORD).is_file(), wanted.crops
    if not known and not overwrite and root.is_dir() and any(name[0] != "." for name in os.listdir(root)):
        raise UserError(f"{root} holds files that crop.py has not made; name another --output_root, or add --overwrite")
    with files.locked(root / LOCK):
        listed = crop_runs.listed(root) if known else list(crops)
        changed = [] if overwrite else changes(root)
        run = None if overwrite else crop_runs.number_of(root, record, wanted)
        first = crop_runs.read_record(root) if run is not None else record
        unfinished = "let the run that began here finish by its own command, or name another --output_root"
        finished = run_record.claim(
            root / RECORD,
            record | {key: first[key] for key in crop_runs.INPUT},
            overwrite=overwrite,
            finished=lambda: crop_runs.is_complete(root, record, crops),
            begun=lambda: any((root / path).exists() for path in listed),
            clear=partial(_clear, root, listed),
            noted=lambda: {"contents": contents()},
            advice="name another --output_root" if (root / MANIFEST).is_file() else unfinished,
        )
        if verify:
            crop_runs.verify(root, record, contents())
        for sentence in changed if finished or not crop_runs.doing(first) else ():
            warn(sentence if finished else f"{sentence}; {'its lines stay' if run else 'it is written anew'}")
        if not finished:
            own = {key: record[key] for key in crop_runs.INPUT}
            _begin(root, own | ({"contents": contents()} if run else {}), crops)
        yield Held(root, crops, run or 0, finished)
        if not crop_runs.doing(crop_runs.read_record(root)):
            (root / PLAN).unlink(missing_ok=True)


def _begin(root: Path, own: dict[str, str], crops: Mapping[str, Object]) -> None:
    """Note in the record which run is at work, once what another one that was killed has left is gone."""
    files.sweep(root)
    before = crop_runs.doing(crop_runs.read_record(root))
    if (root / MANIFEST).is_file() and not crop_runs.is_input(before, own):
        manifest = {*_read_manifest(root).paths}
        left = [path for path in crop_runs.listed(root) if path not in manifest and (root / path).is_file()]
        for path in left if before else ():
            (root / path).unlink()
        if before:
            note(f"{root}: {count(len(left), 'crop')} of a run that did not finish removed")
        if not manifest & crops.keys():
            note(f"{root}: adds to the {count(len(manifest), 'crop')} of earlier annotations")
    run_record.finish(root / RECORD, {"doing": own})
    files.write_text(root / PLAN, "\0".join(crops))


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


def lines_of(rows: Sequence[Row], levels: int = 1) -> tuple[list[str], list[list[object]]]:
    """Return the header and the lines of crops.csv, with at least `levels` class columns."""
    levels = max(levels, *(len(row.item.classes) for row in rows)) if rows else levels
    classes = [f"class_{level}" for level in range(levels)]
    header = ["path", "split", "sample_id", "crop_id", *classes, *(f"box_{key}" for key in "xywh")]
    header += [*(f"crop_{key}" for key in "xywh"), "padding", "clipped", "object_px", *OBJECT_BOX]
    return header, [row.fields(levels) for row in rows]


def _with_others(root: Path, rows: Sequence[Row], crops: Mapping[str, Object]) -> tuple[list[str], list[list[object]]]:
    """Return the header and the lines of crops.csv with those that name none of `crops`; these stand where they stood."""
    old_header, old = table_files.read_csv(root / MANIFEST)
    header, lines = lines_of(rows, sum(name.startswith("class_") for name in old_header))
    header += [name for name in old_header if name not in header]  # columns that the user has added
    own = [row[old_header.index("path")] in crops for row in old]
    named = [dict(zip(old_header, row, strict=True)) for row in old]
    kept: list[list[object]] = [
        [row.get(name, "") for name in header] for row, mine in zip(named, own, strict=True) if not mine
    ]
    start = own.index(True) if True in own else len(kept)
    return header, [*kept[:start], *([*line, *[""] * (len(header) - len(line))] for line in lines), *kept[start:]]


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


def _read_skipped(root: Path) -> list[tuple[int, list[str]]]:
    """Return the number of the run and the line of every object in skipped.csv, none where it is missing."""
    try:
        rows = table_files.read_csv(root / SKIPPED, "repair it, or run crop.py with --overwrite")[1]
    except FileNotFoundError:
        return []
    return [(int(row[5]) if row[5:] and row[5].isdecimal() else 0, row[:5]) for row in rows if len(row) in (3, 5, 6)]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], safe: bool = False) -> None:
    text = table_files.csv_text(header, rows, spreadsheet_safe=safe)
    path.write_text(text, "utf-8", "backslashreplace", newline="")
