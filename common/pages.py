"""Memory maps: where in a file their rows stand, and giving their pages back."""

from __future__ import annotations

import mmap
import os
from typing import Any, NamedTuple

import numpy as np


def release(array: np.ndarray) -> None:
    """Give a memory map's pages back; they count as this process's memory until the system runs short of it."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and not array.flags.writeable:  # what was written to a private map would be lost
        base.madvise(mmap.MADV_DONTNEED)


class Mapped(NamedTuple):
    """Rows (n, dim) float32 of a file, to be mapped where they are read, which may be another machine."""

    path: str
    offset: int
    shape: tuple[int, int]

    def open(self) -> np.ndarray:
        return np.memmap(self.path, np.float32, "r", self.offset, self.shape)


def locate(rows: np.ndarray) -> Mapped | None:
    """Return where `rows` stand, if they are consecutive rows of one memory-mapped file, as slices of a loaded set are."""
    if not isinstance(rows, np.memmap) or rows.dtype != np.float32 or not rows.flags.c_contiguous or not rows.filename:
        return None
    begin = np.frombuffer(rows._mmap, np.uint8).ctypes.data  # type: ignore[attr-defined]
    before = rows.offset - rows.offset % mmap.ALLOCATIONGRANULARITY  # a slice keeps the offset of the whole map
    return Mapped(os.path.abspath(rows.filename), before + rows.ctypes.data - begin, rows.shape)
