"""Matrices that are read in blocks: rows of several arrays as one, memory maps that give their pages back, slices of a range."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
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


def batches(n: int, size: int) -> Iterator[slice]:
    """Yield slices that cover range(n) in steps of `size`."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


class Blocks:
    """The rows of several (n_i, dim) float32 arrays as one matrix that is never copied whole unless asked to be."""

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, blocks: Sequence[np.ndarray]) -> None:
        self.blocks = tuple(blocks)
        self._starts = np.cumsum([0, *(len(block) for block in blocks)])
        self.shape = (int(self._starts[-1]), self.blocks[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                bounds = zip(self.blocks, self._starts[:-1], strict=True)
                parts = [block[max(0, start - at) : max(0, stop - at)] for block, at in bounds]
                return np.concatenate([part for part in parts if len(part)] or [self.blocks[0][:0]])
            rows = np.arange(start, stop, step)
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows % len(self)
        out = np.empty((len(rows), self.shape[1]), np.float32)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(which):
            here = which == number
            out[here] = self.blocks[number][rows[here] - self._starts[number]]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self.blocks).astype(dtype or np.float32, copy=False)
