"""Small pictures of crops, for viewers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from common import images

if TYPE_CHECKING:
    import numpy as np


def thumbnail(path: Path | str, size: int) -> np.ndarray:
    """Return the picture as RGB uint8 of at most `size` pixels a side, never enlarged; raises images.ImageError."""
    import cv2

    picture = images.decode(path)
    scale = size / max(picture.shape[:2])
    if scale >= 1:
        return picture
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def jpegs(paths: Iterable[str], size: int, quality: int = 85) -> Iterator[bytes | str]:
    """Yield for every path the thumbnail as JPEG, or the reason why there is none, in order and read on all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_jpeg, paths, repeat(size), repeat(quality))


def _jpeg(path: str, size: int, quality: int) -> bytes | str:
    import cv2

    if not path:
        return "no path known"
    try:
        picture = thumbnail(path, size)
    except images.ImageError as error:
        return str(error)
    return cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
