"""The files of one embedding set while they are made: found, compared with what is asked for, resumed, written row by row."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import embeddings, files, npz, run_record, table_files
from common.messages import UserError
from imaging.crops import Manifest

SHARD_ROWS = 100_000
BEFORE = {"preprocessing_version": 1, "engine": "torch"}  # what older versions did, and did not record
# What a record names only where it differs from the default.
_AT_DEFAULT = ("background", "crop", "image_size", "pooling", "base_fingerprint", "object_px", "boxes")


class OutputSet:
    """`<folder>/<stem>.npz`, or its shards, and beside it the hidden folder of an unfinished run.

    A run's record holds the options, model and input that decide the output; the finished files carry it as their meta.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self.folder, self.stem = folder, stem
        self.skipped_csv = folder / f"{stem}_skipped.csv"
        self._partial = folder / f".{stem}.partial"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this set for the block; raises UserError when another run is writing it."""
        with files.locked(self.folder / f".{self.stem}.lock"):
            yield

    def found(self) -> list[Path]:
        """Return the set's files that exist."""
        pattern = re.compile(re.escape(self.stem) + r"(_\d{5}-of-\d{5})?\.npz")
        return sorted(path for path in self.folder.glob("*.npz") if pattern.fullmatch(path.name))

    def is_complete(self) -> bool:
        """Return whether every file of the set exists."""
        found = self.found()
        return bool(found) and len(found) == (int(found[0].stem[-5:]) if found[0].stem != self.stem else 1)

    def earlier(self, wanted: dict[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
        """Return the record of the earlier run that `wanted` continues or repeats, None where it starts anew.

        A key of `wanted` that is None leaves the choice to the earlier record. Raises UserError, unless `overwrite`, naming what
        differs. With `overwrite` only an unfinished run counts, as finished files are to be replaced.
        """
        found = [] if overwrite else self.found()
        record = self._meta(found[0]) if found else self._unfinished_record()
        if record is None:
            return None
        record = {**BEFORE, **record}
        changed = [key for key, value in wanted.items() if value is not None and record.get(key) != value]
        changed += [key for key, value in wanted.items() if value is None and key not in record]
        changed += [key for key in _AT_DEFAULT if key in record and key not in wanted]
        if not changed:
            return {key: record[key] for key in wanted}
        if overwrite:
            return None
        where = found[0] if found else self.folder / self.stem
        what = run_record.differences(record, wanted, changed)
        raise UserError(
            f"{where} was {'made' if found else 'begun'} with other options or input ({what}); "
            "add --overwrite, or choose another --id or --output_root"
        )

    def has(self, digest: str) -> bool:
        """Return whether the finished set was made from the input of this digest."""
        return bool(self.found()) and self._meta(self.found()[0]).get("input") == digest

    def verify(self, contents: str) -> None:
        """Raise UserError where the finished set was made from images of other contents; see imaging.images.contents."""
        path = self.found()[0]
        before = self._meta(path).get("contents")
        if before is None:
            raise UserError(
                f"{path}: an older version wrote it, which noted no contents; extract anew with --overwrite"
            )
        if before != contents:
            raise UserError(f"{path}: images have other contents than those embedded; extract anew with --overwrite")

    def finished(self) -> tuple[dict[str, Any], set[str]] | None:
        """Return the meta of a complete set and the paths of its images, skipped ones too; None where it is not there."""
        if not self.is_complete():
            return None
        paths: set[str] = set()
        for path in self.found():
            paths.update(embeddings.load(path).paths.tolist())
        return self._meta(self.found()[0]), paths | self.lost().keys()

    def lost(self) -> dict[str, str]:
        """Return the images of a complete set that gave no vector, by path, with the reason."""
        with contextlib.suppress(FileNotFoundError):
            return {table_files.plain(row[0]): row[1] for row in table_files.read_csv(self.skipped_csv)[1]}
        return {}

    def open(self, record: dict[str, Any], dim: int) -> RowFile:
        """Return the rows so far of the run with this record, empty unless it is the unfinished run's."""
        if self._unfinished_record() != json.loads(json.dumps(record)):
            shutil.rmtree(self._partial, ignore_errors=True)
            run_record.write_json(self._partial / "record.json", record)
        return RowFile(self._partial, dim)

    def write(
        self,
        manifest: Manifest,
        rows: RowFile,
        record: dict[str, Any],
        *,
        order: np.ndarray | None = None,
        spreadsheet_safe: bool = False,
    ) -> None:
        """Write the finished set, and the list of skipped images where there are any.

        order: (n,) the place of each row of the manifest in the finished set, where the set was made in another order.
        """
        bad = dict(rows.skipped)
        sound = [row for row in range(len(manifest)) if row not in bad]
        kept, places = manifest.take(sound), None if order is None else np.argsort(order[sound])
        texts = {name: np.array(getattr(kept, name), str) for name in ("crop_ids", "sample_ids", "paths")}
        meta = {**record, "skipped": len(bad), "data_root": files.text_of_name(str(manifest.root.resolve()))}
        whole = embeddings.EmbeddingSet(rows.vectors, kept.labels, **texts, meta=meta)
        shards = -(-len(kept) // SHARD_ROWS)
        names = [self.stem] if shards <= 1 else [f"{self.stem}_{at:05d}-of-{shards:05d}" for at in range(shards)]
        paths = [self.folder / f"{name}.npz" for name in names]
        for path in {*self.found(), self.skipped_csv} - {*paths}:
            path.unlink(missing_ok=True)
        if bad:
            lines = ((manifest.paths[row], bad[row]) for row in sorted(bad))
            text = table_files.csv_text(("path", "reason"), lines, spreadsheet_safe=spreadsheet_safe)
            files.write_text(self.skipped_csv, text)
        for at, path in enumerate(paths):
            part = slice(at * SHARD_ROWS, (at + 1) * SHARD_ROWS)
            shard = whole.take(part if places is None else places[part])  # type: ignore[arg-type]
            # Written in the hidden folder, so that a killed run leaves nothing among the results.
            embeddings.save(self._partial / path.name, shard)
            os.replace(self._partial / path.name, path)
        shutil.rmtree(self._partial)

    def _unfinished_record(self) -> dict[str, Any] | None:
        try:
            return run_record.read_json(self._partial / "record.json")
        except (FileNotFoundError, UserError):  # a damaged one: the run starts anew
            return None

    @staticmethod
    def _meta(path: Path) -> dict[str, Any]:
        archive = npz.Archive(path)
        try:
            meta = json.loads(str(archive.read("meta"))) if "meta" in archive else {}
        except ValueError:
            meta = {}
        return meta if isinstance(meta, dict) else {}


def arithmetic_of_others(folder: Path, record: dict[str, Any], field: str) -> str | None:
    """Return `precision` or `engine` of the folder's finished sets of the same model, None without any.

    Those of the same data set come first, as a loop over folders without one --company_name names each anew; then those at the same
    input size and pooling.
    """
    base = record.get("base_fingerprint") or record["fingerprint"]
    found: dict[tuple[bool, ...], str] = {}
    for path in sorted(folder.glob("*.npz")):
        meta: dict[str, Any] = {}
        with contextlib.suppress(UserError, OSError):  # unreadable neighbours are ignored
            meta = OutputSet._meta(path)
        if meta.get("precision") and (meta.get("base_fingerprint") or meta.get("fingerprint")) == base:
            same = tuple(meta.get(name) == record[name] for name in ("dataset_name", "fingerprint"))
            found.setdefault(same, str({**BEFORE, **meta}[field]))
    return found[max(found)] if found else None


def models_of(folder: Path, datasets: Collection[str]) -> dict[Path, str]:
    """Return the model of each readable set in the folder that is of one of these data sets, finished or begun."""
    made: dict[Path, str] = {}
    for path in sorted([*folder.glob("*.npz"), *folder.glob(".*.partial/record.json")]):
        with contextlib.suppress(UserError, OSError):
            record = OutputSet._meta(path) if path.suffix == ".npz" else run_record.read_json(path)
            if record.get("dataset_name") in datasets and record.get("model"):
                made[path] = str(record["model"])
    return made


def other_name_of(folder: Path, names: Mapping[str, str], manifest: Manifest) -> str | None:
    """Return the data set that a set of the folder has most of these crops under, at another padding; None where there is none.

    names: dataset_name and split of the set that is to be made. Crops are the same that have the same ID and label: photos of
    different data sets are often numbered alike.
    """
    known = {*_crops(manifest)}
    for path in sorted(folder.glob("*.npz")):
        with contextlib.suppress(UserError, OSError):
            meta = OutputSet._meta(path)
            dataset = str(meta.get("dataset_name") or "")
            if dataset in ("", names["dataset_name"]) or meta.get("split") != names["split"]:
                continue
            if str(meta.get("padding") or "") != (manifest.padding or ""):
                crops = _crops(embeddings.load(path))
                if 2 * sum(crop in known for crop in crops) > len(crops):
                    return dataset
    return None


def _crops(rows: Manifest | embeddings.EmbeddingSet) -> list[tuple[str, str]]:
    """Return (crop_id, label) of each row."""
    labels = ("/".join(filter(None, levels)) for levels in rows.labels.tolist())
    return list(zip(rows.crop_ids, labels, strict=True))


def digest(manifest: Manifest) -> str:
    """Return the sha256 of what a set is made from: each row's ids and labels, its image's name, size and time."""
    total = hashlib.sha256()
    for row, path in enumerate(manifest.paths):
        try:
            status = os.stat(files.as_stored(manifest.root / path))
            state = [status.st_size, status.st_mtime_ns]
        except (OSError, ValueError):  # missing, or no possible name: the row will be skipped
            state = []
        entry = [path, manifest.sample_ids[row], manifest.crop_ids[row], manifest.labels[row].tolist(), state]
        total.update(json.dumps(entry).encode())
    return total.hexdigest()


class RowFile:
    """The rows of `folder`, in the order of their batches; opening it drops what a killed run left half written.

    Attributes: batches (how many are complete), rows (how many vectors they gave), skipped (row number in the input, reason).
    A batch counts once its log line is whole and has the CRC-32 of its rows and of itself: no kill, power cut or flipped bit leaves
    a wrong row.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.dim, self._data, self._log = dim, folder / "rows.f32", folder / "batches.jsonl"
        self.batches = self.rows = 0
        self.skipped: list[tuple[int, str]] = []
        for path in (self._data, self._log):
            path.touch()
        kept = 0
        with open(self._data, "rb") as data, open(self._log, "rb") as log:
            for line in log:
                try:
                    entry = json.loads(line)
                    rows, skipped = entry["rows"], entry["skipped"]
                    part = data.read(4 * dim * rows)
                except (ValueError, KeyError, TypeError, OverflowError, MemoryError):
                    break
                if len(part) != 4 * dim * rows or line != _line(part, rows, skipped):
                    break
                kept += len(line)
                self._count(rows, skipped)
        _truncate(self._log, kept)
        _truncate(self._data, 4 * dim * self.rows)

    def _count(self, rows: int, skipped: Sequence[Sequence]) -> None:
        self.batches, self.rows = self.batches + 1, self.rows + rows
        self.skipped += [(int(row), str(reason)) for row, reason in skipped]

    def append(self, vectors: np.ndarray, skipped: Sequence[tuple[int, str]]) -> None:
        """Add the (k, dim) float32 vectors of the next batch, and (row, reason) of those of its images that gave none."""
        data = np.ascontiguousarray(vectors, np.float32).tobytes()
        for path, content in ((self._data, data), (self._log, _line(data, len(vectors), skipped))):
            try:
                with open(path, "ab") as file:
                    file.write(content)
            except OSError as error:  # a full disk is reported without a name
                error.filename = str(path)
                raise
        self._count(len(vectors), skipped)

    @property
    def vectors(self) -> np.ndarray:
        """The rows so far, (rows, dim) float32, memory-mapped."""
        if not self.rows:
            return np.empty((0, self.dim), np.float32)
        return np.memmap(self._data, np.float32, "r", shape=(self.rows, self.dim))


def _line(data: bytes, rows: int, skipped: Sequence[Sequence]) -> bytes:
    """Return the log line of a batch: how many rows its bytes hold, which images gave none, and the CRC-32 of both."""
    entry = {"rows": rows, "skipped": [list(row) for row in skipped]}
    crc = zlib.crc32(json.dumps(entry).encode(), zlib.crc32(data))
    return (json.dumps({**entry, "crc": crc}) + "\n").encode()


def _truncate(path: Path, size: int) -> None:
    if path.stat().st_size > size:
        with open(path, "r+b") as file:
            file.truncate(size)
