"""Random views of training images, RGB uint8 (height, width, 3): an affine map of the plane, and one of the colours."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from common.pictures import Pictures
from common.preprocess import Preprocess


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
    """views(epoch, batch, places) -> (n, height, width, 3) uint8: a random view of each picture, the same for the same seed."""

    def __init__(self, pictures: Pictures, preprocess: Preprocess, *, seed: int, pool: Executor) -> None:
        self.pictures, self.seed, self.pool = pictures, seed, pool
        self.height, self.width = preprocess.height, preprocess.width
        self.augmentation = Augmentation()

    def __call__(self, epoch: int, batch: int, places: np.ndarray) -> np.ndarray:
        def view(key: tuple[int, int]) -> np.ndarray:
            number, place = key
            rng = np.random.default_rng([self.seed, epoch, batch, number])
            return self.augmentation(self.pictures[place], self.height, self.width, rng)

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
