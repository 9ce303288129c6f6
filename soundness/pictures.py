"""Small copies of pictures: a descriptor to find alike ones by, and how far two agree when they are laid over each other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from common.cli import cores
from common.messages import progress
from imaging import images

SIDE = 64  # pixels of a small copy, squashed to a square
FREQUENCIES = 6  # of the cosine transform, down and across
MOVED = 0.15  # a copy is shifted or scaled by at most that share of its side
STEPS, PRECISION, BLUR = (
    50,
    1e-5,
    3,
)  # of the alignment: iterations, change of correlation that ends it, pixels of its filter


@dataclass(frozen=True, eq=False)
class Pictures:
    """small (n, SIDE, SIDE, 3) uint8 RGB; descriptors (n, FREQUENCIES^2 - 1) float32 of unit length; known (n,) bool.

    Not known are pictures that cannot be read and pictures of one colour; their descriptor is the first axis.
    """

    small: np.ndarray
    descriptors: np.ndarray
    known: np.ndarray


def read(paths: Sequence[str]) -> Pictures:
    """Return the small copies of the pictures, read on all cores; '' is no picture. Takes 12 kB a picture."""
    small = np.zeros((len(paths), SIDE, SIDE, 3), np.uint8)
    descriptors = np.zeros((len(paths), FREQUENCIES**2 - 1), np.float32)
    known = np.zeros(len(paths), bool)
    with ThreadPoolExecutor(cores()) as pool:
        for row, picture in enumerate(
            progress(pool.map(_small, paths), total=len(paths), desc="pictures", unit="image")
        ):
            if picture is not None:
                small[row] = picture
                descriptors[row] = descriptor(picture)
                known[row] = descriptors[row].any()
    descriptors[~known, 0] = 1
    return Pictures(small, descriptors, known)


def _small(path: str) -> np.ndarray | None:
    import cv2

    try:
        return cv2.resize(images.decode(path), (SIDE, SIDE), interpolation=cv2.INTER_AREA) if path else None
    except images.ImageError:
        return None


def descriptor(small: np.ndarray) -> np.ndarray:
    """Return (FREQUENCIES^2 - 1,) float32 of unit length: the lowest frequencies of the brightness, without its mean.

    The discrete cosine transform of perceptual hashes (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash
    Functions", 3.2.1), kept as numbers instead of bits. Zeros for a picture of one colour.
    """
    import cv2

    gray = cv2.resize(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    lowest = cv2.dct(gray.astype(np.float32))[:FREQUENCIES, :FREQUENCIES].ravel()[1:]
    length = float(np.linalg.norm(lowest))
    return lowest / length if length > 1 else np.zeros_like(lowest)


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Return how far two small copies agree, in 0..1: 1 - mean squared difference / variance of the first, over their overlap.

    The second is first laid over the first by an affine map (enhanced correlation coefficient: Evangelidis & Psarakis 2008, IEEE
    Trans. Pattern Anal. 30). 0 where none is found, or where it moves by more than MOVED. Colours count as they are, so that two
    photos of one product in another light are no copies of each other.
    """
    import cv2

    gray, other_gray = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (one, other))
    warp, everywhere = np.eye(2, 3, dtype=np.float32), np.full((SIDE, SIDE), 255, np.uint8)
    ends = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, STEPS, PRECISION)
    try:
        cv2.findTransformECC(gray, other_gray, warp, cv2.MOTION_AFFINE, ends, everywhere, BLUR)
    except cv2.error:  # the two have nothing in common
        return 0.0
    if (np.abs(warp - np.eye(2, 3)) / [1, 1, SIDE] > MOVED).any():
        return 0.0
    back = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(other, warp, (SIDE, SIDE), flags=back)
    inside = cv2.warpAffine(everywhere, warp, (SIDE, SIDE), flags=back) == 255
    seen, over = one[inside].astype(np.float32), laid[inside].astype(np.float32)
    variance = float(((seen - seen.mean(axis=0)) ** 2).mean())
    return max(0.0, 1 - float(((seen - over) ** 2).mean()) / variance) if variance > 0 else 0.0
