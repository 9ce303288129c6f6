"""Pixels of a region: cut, fill what lies outside the image, resize.

Arrays are RGB uint8 (height, width, 3), sizes (width, height).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from annotations.records import Box
from boxes.padding import Padding, Region, whole_size
from imaging.colors import COLORS

if TYPE_CHECKING:
    import numpy as np

Size = tuple[int, int]
BORDERS = ("clip", "reflect", "white", "black")
METHODS = ("resize", "resize_with_padding", "none")
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
    return centred(squash(image, _within((image.shape[1], image.shape[0]), size)), size, fill)


def centred(image: np.ndarray, size: Size, fill: str) -> np.ndarray:
    """Return the image in the middle of a canvas of `size` and of the colour `fill`; the image itself where it is as large."""
    import numpy as np

    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    canvas = np.empty((size[1], size[0], 3), np.uint8)
    canvas[:] = COLORS[fill]
    canvas[top : top + height, left : left + width] = image
    return canvas


def _within(inner: Size, size: Size) -> Size:
    """Return the largest size of the shape of `inner` that is within `size`."""
    scale = min(size[0] / inner[0], size[1] / inner[1])
    return max(1, round(inner[0] * scale)), max(1, round(inner[1] * scale))


@dataclass(frozen=True, slots=True)
class Fit:
    """How a region of an image becomes a crop: resized to `inner`, then put in the middle of a canvas of `size`."""

    region: Region
    inner: Size
    size: Size

    def pixels(self, image: np.ndarray, fill: str) -> np.ndarray:
        """Return the crop, made from the region's own pixels."""
        return centred(squash(image, self.inner), self.size, fill)

    def shares(self, box: Box) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the box as shares of the crop's width and height, 0..1, where it is inside."""
        region = self.region
        x, y = self.inner[0] / region.width, self.inner[1] / region.height
        left, top = (self.size[0] - self.inner[0]) // 2, (self.size[1] - self.inner[1]) // 2
        across = [(left + (edge - region.left) * x) / self.size[0] for edge in (box.left, box.right)]
        down = [(top + (edge - region.top) * y) / self.size[1] for edge in (box.top, box.bottom)]
        edges = (across[0], down[0], across[1], down[1])
        return tuple(min(max(edge, 0.0), 1.0) for edge in edges)  # type: ignore[return-value]


def fit(region: Region, target: Size, method: str) -> Fit:
    """Return how the region becomes a crop of the size `target`, or of its own size where the method is `none`."""
    own = (region.width, region.height)
    if method == "none":
        return Fit(region, own, own)
    return Fit(region, target if method == "resize" else _within(own, target), target)


def fit_object(region: Region, box: Box, padding: Padding, object_px: int, method: str) -> Fit:
    """Return how the region of a padded box becomes a crop in which the box itself has `object_px` pixels.

    resize: on both sides, as a box without padding has that is squashed to object_px x object_px. resize_with_padding: on its
    longer side, its shape kept, on a square canvas that holds the whole padded box. So every crop of one padding in percent has one
    size, whatever its box is like; where the image ends within the padding and is not filled, a squashed crop is smaller by
    that share, so that the object keeps its pixels.
    """
    x_pad, y_pad = padding.pixels(box)
    wide, high = box.width + 2 * x_pad, box.height + 2 * y_pad
    across, down = (
        (object_px / box.width, object_px / box.height)
        if method == "resize"
        else (object_px / max(box.width, box.height),) * 2
    )
    whole = whole_size(box, padding)
    inner = (
        max(1, round(across * wide * region.width / whole[0])),
        max(1, round(down * high * region.height / whole[1])),
    )
    side = max(1, round(across * max(wide, high)))
    return Fit(region, inner, inner if method == "resize" else (side, side))
