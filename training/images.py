"""The images of a training: decoded once into memory if they fit, then cropped, mirrored and mixed at random;
or embeddings in their place.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from backbones.preprocess import Preprocess
from common import files, table_files
from common.messages import UserError, count, note, progress, tally, warn
from imaging import images
from imaging.crops import Manifest

MEMORY_SHARE = 0.25  # of the machine's memory


class TrainingImages:
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
            gigabytes = f"{size / 2**30:,.1f} GiB"
            note(f"{desc}: {gigabytes} of pixels do not fit into memory, they are decoded whenever they are needed")
        pool = ThreadPoolExecutor(workers, "decode")
        try:
            decoded = pool.map(self._keep, range(len(paths)))
            for _ in progress(decoded, total=len(paths), desc=desc, unit="image"):
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

    def take(self, places: np.ndarray) -> TrainingImages:
        """Return the images of these places, in this order; nothing is read or copied."""
        part = copy.copy(self)
        part._places = self._places[places]
        return part

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


class Vectors:
    """Like TrainingImages, of embeddings that are there: an array (n, dim) float32."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def take(self, places: np.ndarray) -> Vectors:
        return Vectors(self.vectors[places])

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, key: int | slice | np.ndarray) -> np.ndarray:
        return self.vectors[key]


Inputs = TrainingImages | Vectors


class ImageReader:
    """reader(rows, desc) -> the rows whose images can be read, and their images.

    The others are named on stderr and listed in `skipped`, a CSV, `safe` for spreadsheets.
    """

    def __init__(
        self, manifest: Manifest, preprocess: Preprocess, *, workers: int, skipped: Path, safe: bool = False
    ) -> None:
        self.manifest, self.preprocess, self.workers = manifest, preprocess, workers
        self._skipped, self._safe = skipped, safe

    def __call__(self, rows: np.ndarray, desc: str, factor: float = 1.0) -> tuple[np.ndarray, TrainingImages]:
        """`factor` enlarges the images, so that random views can be cut from them."""
        height, width = (round(size * factor) for size in (self.preprocess.height, self.preprocess.width))
        larger = replace(self.preprocess, height=height, width=width)
        paths = [self.manifest.root / self.manifest.paths[row] for row in rows]
        read = TrainingImages(paths, larger, workers=self.workers, desc=f"reading {desc} images")
        if read.bad:
            self._report([(self.manifest.paths[rows[place]], reason) for place, reason in sorted(read.bad.items())])
        readable = np.setdiff1d(np.arange(len(rows)), list(read.bad))
        return rows[readable], read.take(readable)

    def _report(self, bad: list[tuple[str, str]]) -> None:
        before = table_files.read_csv(self._skipped)[1] if self._skipped.is_file() else []
        lines = [
            *before,
            *(list(line) for line in bad if list(line) not in before),
        ]  # a run that goes on finds them again
        files.write_text(self._skipped, table_files.csv_text(("path", "reason"), lines, spreadsheet_safe=self._safe))
        reasons = tally(reason for _, reason in bad)
        warn(f"{count(len(bad), 'image')} left out ({reasons}), such as {bad[0][0]}; see {self._skipped}")


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True)
class Augmentation:
    """What a view may differ in, all uniform: the share of the image's area that is kept, the ratio of its sides, turning in
    degrees, mirroring, and brightness, contrast and saturation as factors 1 - x to 1 + x."""

    least_area: float = 0.25
    most_aspect: float = 4 / 3
    degrees: float = 10.0
    mirror: bool = True
    colour: float = 0.4

    def __call__(self, image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """Return a view (height, width, 3) of the image; what lies outside the image is mirrored."""
        import cv2

        view = cv2.warpAffine(
            image,
            self._place(image.shape[0], image.shape[1], height, width, rng),
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        return cv2.transform(view, self._tint(float(view.mean()), rng))

    def _place(self, high: int, wide: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """Return the 2 x 3 matrix from the view's pixels to the image's."""
        area = rng.uniform(self.least_area, 1)
        aspect = np.exp(rng.uniform(-1, 1) * np.log(self.most_aspect))
        share = np.minimum(np.sqrt(area * np.array([aspect, 1 / aspect])), 1)  # of width and height
        angle = np.deg2rad(rng.uniform(-self.degrees, self.degrees))
        mirror = -1 if self.mirror and rng.random() < 0.5 else 1
        scale = share * (wide / width, high / height) * (mirror, 1)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn * scale
        centre = (share / 2 + rng.random(2) * (1 - share)) * (wide, high) - 0.5
        return np.column_stack([matrix, centre - matrix @ (width / 2 - 0.5, height / 2 - 0.5)])

    def _tint(self, mean: float, rng: np.random.Generator) -> np.ndarray:
        """Return the 3 x 4 matrix that changes saturation (towards the pixel's grey), contrast (around the mean) and brightness."""
        brightness, contrast, saturation = 1 + rng.uniform(-self.colour, self.colour, 3)
        grey = np.tile([0.299, 0.587, 0.114], (3, 1))  # ITU-R BT.601
        matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * grey)
        return np.column_stack([matrix, np.full(3, brightness * (1 - contrast) * mean)])


class Views:
    """views(epoch, batch, places) -> (n, height, width, 3) uint8: a random view of each image, the same for the same seed."""

    def __init__(self, images: Inputs, preprocess: Preprocess, *, seed: int, pool: Executor) -> None:
        self.images, self.seed, self.pool = images, seed, pool
        self.height, self.width = preprocess.height, preprocess.width
        self.augmentation = Augmentation()

    def __call__(self, epoch: int, batch: int, places: np.ndarray) -> np.ndarray:
        def view(key: tuple[int, int]) -> np.ndarray:
            number, place = key
            rng = np.random.default_rng([self.seed, epoch, batch, number])
            return self.augmentation(self.images[place], self.height, self.width, rng)

        return np.stack(list(self.pool.map(view, enumerate(places.tolist()))))


def cut_mix(
    views: np.ndarray, labels: np.ndarray, n_class: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, height, width, 3) views, of half the batches with a rectangle of another view of the batch in each, and targets.

    Targets are (n, n_class) float32: each class has its share of the area. Yun et al. 2019, "CutMix", with alpha 1.
    """
    targets = np.eye(n_class, dtype=np.float32)[labels]
    if rng.random() < 0.5:
        return views, targets
    n, height, width = views.shape[:3]
    other, side = rng.permutation(n), np.sqrt(rng.random())
    high, wide = round(height * side), round(width * side)
    top, left = rng.integers(0, height - high + 1), rng.integers(0, width - wide + 1)
    mixed, share = views.copy(), np.float32(high * wide / (height * width))
    mixed[:, top : top + high, left : left + wide] = views[other, top : top + high, left : left + wide]
    return mixed, (1 - share) * targets + share * targets[other]
