"""Pixels of a region: cut, fill what lies outside the image, resize. Arrays are RGB uint8 (height, width, 3)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from cropping.padding import Region
from imaging.colors import COLORS

if TYPE_CHECKING:
    import numpy as np

BORDERS = ("clip", "reflect", "white", "black")
_CACHED = 85_000  # pixels that are resized at a time: 1 MB as floats


def cut(image: np.ndarray, region: Region, *, border: str = "clip") -> np.ndarray:
    """Return the region's pixels: a view of the image, or a copy whose parts outside the image are filled as `border` says."""
    height, width = image.shape[:2]
    top, left = max(region.top, 0), max(region.left, 0)
    inner = image[top : max(region.bottom, 0), left : max(region.right, 0)]
    over = (top - region.top, max(region.bottom - height, 0), left - region.left, max(region.right - width, 0))
    if not any(over):
        return inner
    import cv2

    if border == "reflect":  # from the whole image, so that a box at the edge mirrors what lies beside it
        rows = _mirrored(region.top, region.bottom, height)
        columns = _mirrored(region.left, region.right, width)
        return image[rows[:, None], columns]
    return cv2.copyMakeBorder(inner, *over, cv2.BORDER_CONSTANT, value=COLORS[border])


def _mirrored(start: int, stop: int, size: int) -> np.ndarray:
    """Return the indices start..stop-1 mirrored into 0..size-1, the edge pixel not repeated: dcb|abcd|cba."""
    import numpy as np

    period = max(2 * (size - 1), 1)
    index = np.abs(np.arange(start, stop)) % period
    return np.minimum(index, period - index) if size > 1 else np.zeros_like(index)


def squash(image: np.ndarray, size: tuple[int, int], fill: str = "white") -> np.ndarray:
    """Return the image at `size` (width, height), each axis on its own: area averaging to shrink, cubic to grow."""
    import cv2

    height, width = image.shape[:2]
    small = (min(width, size[0]), min(height, size[1]))
    if small != (width, height):
        image = _average(image, small)
    if small != size:
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    return image


def _average(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the image shrunk to `size` (width, height): each pixel is the mean over the area that it covers.

    This is cv2.INTER_AREA in about half its time (the same value, but for rounding where two are equally near): both axes
    are products with a sparse matrix, which run over whole rows; OpenCV goes pixel by pixel, except at whole factors.
    """
    import cv2
    import numpy as np

    height, width = image.shape[:2]
    if height % size[1] == 0 and width % size[0] == 0:
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    down, across = _area_weights(height, size[1]), _area_weights(width, size[0])
    columns = np.empty((width, size[1], 3), np.float32)  # shrunk in height, and transposed for the second product
    step = max(1, _CACHED // height)
    for left in range(0, width, step):
        block = image[:, left : left + step].astype(np.float32).reshape(height, -1)
        cv2.transpose((down @ block).reshape(size[1], -1, 3), dst=columns[left : left + step])
    means = (across @ columns.reshape(width, -1)).reshape(size[0], size[1], 3)
    return cv2.transpose(cv2.convertScaleAbs(means))  # which rounds


@functools.lru_cache(maxsize=1024)
def _area_weights(n: int, m: int) -> Any:
    """Return the sparse (m, n) float32 matrix whose row i averages the interval [i * n / m, (i + 1) * n / m] of n pixels."""
    import numpy as np
    from scipy import sparse

    edges = np.arange(m + 1) * (n / m)
    first, last = edges[:-1].astype(np.int32), np.minimum(np.ceil(edges[1:]), n).astype(np.int32)
    counts = last - first
    starts = np.zeros(m + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    columns = np.arange(starts[-1], dtype=np.int32) - np.repeat(starts[:-1] - first, counts)
    covered = np.minimum(columns + 1, np.repeat(edges[1:], counts)) - np.maximum(columns, np.repeat(edges[:-1], counts))
    return sparse.csr_matrix(((covered * (m / n)).astype(np.float32), columns, starts), shape=(m, n))


def letterbox(image: np.ndarray, size: tuple[int, int], fill: str = "white") -> np.ndarray:
    """Return the image within `size` (width, height), its shape kept, centred on the colour `fill`."""
    import numpy as np

    height, width = image.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas = np.empty((size[1], size[0], 3), np.uint8)
    canvas[:] = COLORS[fill]
    canvas[top : top + inner[1], left : left + inner[0]] = squash(image, inner)
    return canvas


def keep(image: np.ndarray, size: tuple[int, int], fill: str = "white") -> np.ndarray:
    """Return the image as it is."""
    return image


RESIZERS = {"resize": squash, "resize_with_padding": letterbox, "none": keep}
