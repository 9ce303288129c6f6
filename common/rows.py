"""Vectors that survive a kill: an append-only file of float32 rows, with a log that says which batches are in it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class RowFile:
    """The rows of `folder`, in the order of their batches; opening it drops what a killed run left half written.

    Attributes: batches (how many are complete), rows (how many vectors they gave), skipped (row number in the input, reason).
    A batch counts once its log line is whole and its rows have that line's CRC-32: no kill or power cut leaves a wrong row.
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
                    rows, crc, skipped = entry["rows"], entry["crc"], entry["skipped"]
                    part = data.read(4 * dim * rows)
                except (ValueError, KeyError, TypeError):
                    break
                if not line.endswith(b"\n") or len(part) != 4 * dim * rows or zlib.crc32(part) != crc:
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
        entry = {"rows": len(vectors), "crc": zlib.crc32(data), "skipped": list(skipped)}
        for path, content in ((self._data, data), (self._log, (json.dumps(entry) + "\n").encode())):
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


def _truncate(path: Path, size: int) -> None:
    if path.stat().st_size > size:
        with open(path, "r+b") as file:
            file.truncate(size)
