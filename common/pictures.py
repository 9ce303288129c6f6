"""The images of a training: each decoded once into memory where they fit, else whenever it is needed."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from common import images
from common.cli import UserError, note, progress
from common.preprocess import Preprocess

MEMORY_SHARE = 0.25  # of the machine's memory


class Pictures:
    """Like an array (n, height, width, 3) uint8 of the images in `paths`, as `preprocess` makes them.

    `bad` has the reason of every place whose image cannot be read. Asking for an image that has become bad since raises UserError.
    """

    def __init__(self, paths: Sequence[Path], preprocess: Preprocess, *, workers: int, desc: str) -> None:
        self.paths, self.preprocess, self._workers = list(paths), preprocess, workers
        self.bad: dict[int, str] = {}
        self._places = np.arange(len(paths))
        shape = (len(paths), preprocess.height, preprocess.width, 3)
        size = float(np.prod(shape, dtype=np.float64))
        self._kept = np.empty(shape, np.uint8) if size <= MEMORY_SHARE * _memory() else None
        if self._kept is None:
            note(
                f"{desc}: {size / 2**30:,.1f} GiB of pixels do not fit into memory, they are decoded whenever they are needed"
            )
        pool = ThreadPoolExecutor(workers, "decode")
        try:
            found = pool.map(self._keep, range(len(paths)))
            for _ in progress(found, total=len(paths), desc=desc, unit="image"):
                pass
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _keep(self, place: int) -> None:
        try:  # an image is read in any case, so that a bad one shows now
            image = self.preprocess(images.decode(self.paths[place]))
            if self._kept is not None:
                self._kept[place] = image
        except images.ImageError as error:
            self.bad[place] = str(error)

    def take(self, places: np.ndarray) -> Pictures:
        """Return the pictures of these places, in this order; nothing is read or copied."""
        some = copy.copy(self)
        some._places = self._places[places]
        return some

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(key, (int, np.integer)):
            return self._one(int(self._places[key]))
        if self._kept is not None:
            return self._kept[self._places[key]]
        with ThreadPoolExecutor(self._workers, "decode") as pool:
            return np.stack(list(pool.map(self._one, self._places[key].tolist())))

    def _one(self, place: int) -> np.ndarray:
        if self._kept is not None:
            return self._kept[place]
        try:
            return self.preprocess(images.decode(self.paths[place]))
        except images.ImageError as error:
            raise UserError(f"{self.paths[place]}: {error}, since this run began; run it again") from None


def roomier(preprocess: Preprocess, factor: float = 8 / 7) -> Preprocess:
    """Return the preprocessing of images from which random views are cut: larger by `factor`."""
    return replace(preprocess, height=round(preprocess.height * factor), width=round(preprocess.width * factor))


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
