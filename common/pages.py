"""Pages of memory maps."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np


def release(array: np.ndarray) -> None:
    """Give a memory map's pages back; they count as this process's memory until the system runs short of it."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and not array.flags.writeable:  # what was written to a private map would be lost
        base.madvise(mmap.MADV_DONTNEED)
