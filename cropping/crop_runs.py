"""The runs that fill one crops folder: which have finished, which one is at work, and what stands in the way of another.

The record (crop.json) has the options, the input of the first run, and under `written` what the runs have done: `added` lists the
input of later runs, with their numbers from 1 on, and `doing` is the input of the run at work, which stays there if that is killed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotations.photos import sample_of
from annotations.records import Object
from boxes.padding import number_text
from common import run_record, table_files
from common.messages import UserError, count, note
from imaging.crops import MANIFEST, OBJECT_BOX, PLAN, RECORD, _read_manifest

_NEWER = ("object_px", *OBJECT_BOX)  # columns that folders of version 0.1 lack
INPUT = ("annotations", "images")  # hashes of one run's input
_REMEDY = "give only annotation files that are new there, or all of them to one command with another --output_root"


@dataclass(frozen=True)
class Wanted:
    """What a run wants of a crops folder.

    `crops` by their paths; `missing`: the photos that are not there, by the crop ids of their objects. `lines` returns the lines of
    crops.csv, or None where the photos' headers do not tell for sure which pixels an older version took.
    """

    crops: Mapping[str, Object]
    missing: Mapping[str, str]
    lines: Callable[[], list[dict[str, str]] | None]


def read_record(root: Path) -> dict[str, Any]:
    """Return the folder's record, without any content where there is none or it is damaged."""
    try:
        record = run_record.read_json(root / RECORD)
    except (OSError, UserError):
        return {}
    sound = all(key in record for key in INPUT) and isinstance(record.get("written", {}), dict)
    return record if sound else {}


def doing(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the input of the run that is at work, or was killed at it; None where all runs have finished."""
    at_work: dict[str, Any] | None = record.get("written", {}).get("doing")
    return at_work


def finished_runs(record: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the input of each run whose crops the folder has. The first may not have finished."""
    written = record.get("written", {})
    yield 0, {**{key: record[key] for key in INPUT}, "contents": written.get("contents")}
    for entry in written.get("added", []):
        yield entry["run"], entry


def is_input(entry: Mapping[str, Any] | None, record: Mapping[str, Any]) -> bool:
    """Return whether two hold the same hashes of input."""
    return entry is not None and all(entry[key] == record[key] for key in INPUT)


def number_of(root: Path, record: Mapping[str, Any], wanted: Wanted) -> int | None:
    """Return the number that the run of `record` has or gets in the folder, None where the folder is none to go on with.

    Raises UserError where crops of the folder stand in the way of new ones.
    """
    held = read_record(root)
    if not held or _style(held) != json.loads(json.dumps(_style(record))):
        return None
    known = list(finished_runs(held))
    for number, entry in known:
        if is_input(entry, record):
            return number
    if not (root / MANIFEST).is_file() or not any((root / path).exists() for path in _read_manifest(root).paths):
        return None
    if not is_input(doing(held), record):
        rows = _rows(root)
        for number, entry in known:
            if entry["images"] == record["images"] and _are_those(rows, held, number, wanted.lines()):
                _adopt(root, held, number, record)
                return number
        _refuse_names(root, record, rows, wanted)
        _refuse_twins(root, rows, wanted.crops)
        known_crops = {*listed(root)}
        if strange := [path for path in wanted.crops if path not in known_crops and (root / path).exists()]:
            raise UserError(
                f"{root} holds {strange[0]}, which crop.py has not made; move it, or name another --output_root"
            )
    return 1 + max(number for number, _ in known)


def _style(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in (*INPUT, "written")}


def _rows(root: Path) -> list[dict[str, str]]:
    header, rows = table_files.read_csv(root / MANIFEST)
    return [dict(zip(header, row, strict=True)) for row in rows]


def _are_those(
    rows: list[dict[str, str]], held: Mapping[str, Any], number: int, lines: list[dict[str, str]] | None
) -> bool:
    """Return whether the lines that a run would write are all that this run of the folder has written.

    Then only the hash is another, as that of an older version is, which described annotations in other words; what its table had
    no columns for yet is not compared.
    """
    added = {entry["run"]: entry["crops"] for entry in held.get("written", {}).get("added", [])}
    n_own = added.get(number, len(rows) - sum(added.values()))
    there = {row["path"]: row for row in rows}
    return (
        lines is not None
        and len(lines) == n_own
        and all(
            there.get(line["path"], {}).get(name, value if name in _NEWER else None) == value
            for line in lines
            for name, value in line.items()
        )
    )


def _adopt(root: Path, held: dict[str, Any], number: int, record: Mapping[str, Any]) -> None:
    """Give a run of the folder the hashes of `record`."""
    own = {key: record[key] for key in INPUT}
    written = held.get("written", {})
    added = [entry | own if entry["run"] == number else entry for entry in written.get("added", [])]
    changed = (held if number else held | own) | {"written": written | ({"added": added} if added else {})}
    run_record.write_json(root / RECORD, changed)
    note(f"{root}: the annotations are written otherwise than when its crops were cut, and give the same crops")


def _refuse_names(root: Path, record: Mapping[str, Any], rows: list[dict[str, str]], wanted: Wanted) -> None:
    """Raise UserError where the folder has crops of other input under these names."""
    crops = wanted.crops
    if gone := [wanted.missing[row["crop_id"]] for row in rows if row["crop_id"] in wanted.missing]:
        raise UserError(
            f"{root} has {count(len(gone), 'crop')} of photos that are missing now, such as {gone[0]}; put them back or name "
            "their folder with --image_folder, or name another --output_root"
        )
    names = {file_name(row["path"]) for row in rows}
    taken = [path for path in crops if file_name(path) in names]
    if not taken:
        return
    for _, entry in finished_runs(read_record(root)):
        if any(entry[key] == record[key] for key in INPUT):
            what = run_record.differences({key: entry[key] for key in INPUT}, {key: record[key] for key in INPUT})
            raise UserError(
                f"{root} was made with other input ({what}); name another --output_root, or add --overwrite, which removes it"
            )
    whole = "if they are the same objects, go on with the folder as it is, or else name another --output_root"
    raise UserError(
        f"{root} has crops under {'all' if len(taken) == len(crops) else f'{len(taken):,}'} of these "
        f"{count(len(crops), 'name')} already, such as {file_name(taken[0])}, from a run over other annotation files or photos; "
        + (whole if len(taken) == len(crops) else _REMEDY)
    )


def _refuse_twins(root: Path, rows: list[dict[str, str]], crops: Mapping[str, Object]) -> None:
    """Raise UserError where the folder has one of these objects under another name: `1` becomes `train/1` beside `val/1`."""
    samples: dict[tuple[object, ...], list[str]] = {}
    for row in rows:
        object_id = row["crop_id"].removeprefix(f"{row['sample_id']}_")
        box = tuple(row[f"box_{key}"] for key in "xywh")
        samples.setdefault((_photo(row["sample_id"]), object_id, row["split"], box), []).append(row["sample_id"])
    for item in crops.values():
        box = tuple(map(number_text, (item.box.left, item.box.top, item.box.width, item.box.height)))
        for sample in samples.get((_photo(item.sample_id), item.object_id, item.split, box), ()):
            if sample.endswith(f"/{item.sample_id}") or item.sample_id.endswith(f"/{sample}"):
                raise UserError(
                    f"{root} has object {item.object_id!r} of image {item.sample_id!r} already, under {sample!r}; {_REMEDY}"
                )


def file_name(path: str) -> str:
    """Return the last part of a crop's path, by which all crops of a folder differ."""
    return path.rpartition("/")[2]


def _photo(sample_id: str) -> str:
    return sample_of(file_name(sample_id))


def listed(root: Path) -> list[str]:
    """Return the crops that earlier runs have written or, killed, may have."""
    paths: list[str] = []
    with contextlib.suppress(FileNotFoundError, UserError):
        paths += _read_manifest(root).paths
    with contextlib.suppress(FileNotFoundError):
        paths += (root / PLAN).read_text(encoding="utf-8").split("\0")
    return [path for path in paths if path and ".." not in path.split("/") and not path.startswith("/")]


def is_complete(root: Path, own: Mapping[str, Any], crops: Mapping[str, Object]) -> bool:
    """Return whether the run of input `own` has finished and those of its `crops` that crops.csv names are there."""
    held = read_record(root)
    if not any(is_input(entry, own) for _, entry in finished_runs(held)) or is_input(doing(held), own):
        return False
    if not (root / MANIFEST).is_file():
        return False
    return all((root / path).is_file() for path in _read_manifest(root).paths if path in crops)


def verify(root: Path, own: Mapping[str, Any], contents: str) -> None:
    """Raise UserError where the images of the run of input `own` have not the contents that the record notes."""
    held = read_record(root)
    entries = [entry for _, entry in finished_runs(held)] + [doing(held) or {}]
    before = next(entry.get("contents") for entry in entries if entry and is_input(entry, own))
    if before is None:
        raise UserError(f"{root}: an older version wrote it, which noted no contents; cut anew with --overwrite")
    if before != contents:
        raise UserError(f"{root}: images have other contents than those that were cut; cut anew with --overwrite")
