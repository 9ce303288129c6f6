"""The images of a training: each decoded once into memory where they fit, else whenever it is needed."""

from __future__ import annotations

import copy
import csv
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from common import files, images
from common.cli import UserError, count, note, progress, tally, warn
from common.crops import Manifest
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


class Reader:
    """reader(rows, desc) -> the rows whose images can be read, and their pictures.

    The others are named on stderr and listed in `skipped`, a CSV.
    """

    def __init__(self, manifest: Manifest, preprocess: Preprocess, *, workers: int, skipped: Path) -> None:
        self.manifest, self.preprocess, self._workers, self._skipped = manifest, preprocess, workers, skipped

    def __call__(self, rows: np.ndarray, desc: str, factor: float = 1.0) -> tuple[np.ndarray, Pictures]:
        """`factor` enlarges the pictures, so that random views can be cut from them."""
        height, width = (round(size * factor) for size in (self.preprocess.height, self.preprocess.width))
        larger = replace(self.preprocess, height=height, width=width)
        paths = [self.manifest.root / self.manifest.paths[row] for row in rows]
        found = Pictures(paths, larger, workers=self._workers, desc=f"reading {desc} images")
        if found.bad:
            self._name([(self.manifest.paths[rows[place]], reason) for place, reason in sorted(found.bad.items())])
        fine = np.setdiff1d(np.arange(len(rows)), list(found.bad))
        return rows[fine], found.take(fine)

    def _name(self, bad: list[tuple[str, str]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(bad)
        before = self._skipped.read_text("utf-8", "surrogateescape") if self._skipped.is_file() else "path,reason\r\n"
        if text.getvalue() not in before:  # a run that goes on finds them again
            files.write_text(self._skipped, before + text.getvalue())
        reasons = tally(reason for _, reason in bad)
        warn(f"{count(len(bad), 'image')} left out ({reasons}), such as {bad[0][0]}; see {self._skipped}")


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
