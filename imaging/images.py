"""Image files to arrays and back: headers, decoding, EXIF orientation, encoding. Arrays are RGB uint8 (height, width, 3).

A file is known by its content, whatever its name ends in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from common import files
from common.cli import MAX_PIXELS, cores
from common.messages import ImageError, note_once, warn_once
from imaging.colors import WHITE
from imaging.headers import Header, embedded, read_header
from imaging.pixels import (
    BY_PILLOW,
    pixels_by_opencv,
    pixels_by_pillow,
    plain_pixels,
    to_rgb,
)

MOST_BYTES = 1 << 30  # of an encoded image


@dataclass(frozen=True)
class Encoded:
    """An image file in memory, not decoded yet; `size` is the (width, height) that decode() will give."""

    data: bytes
    header: Header
    orientation: int
    path: str = ""
    background: tuple[int, int, int] = WHITE

    @property
    def size(self) -> tuple[int, int]:
        return self.header.turned if self.orientation >= 5 else (self.header.width, self.header.height)

    def decode(self) -> np.ndarray:
        """Return RGB uint8 (height, width, 3), turned. Raises ImageError when the file is damaged or truncated."""
        if self.header.further:
            told = "of each image the first is read (said once)"
            warn_once("further", f"{self.path or 'an image'} holds {self.header.further}; {told}")
        if self.header.profile:
            told = "profiles are not applied, as in Pillow and torchvision (said once)"
            note_once("profile", f"{self.path or 'an image'} has the colour profile {self.header.profile!r}; {told}")
        if self.header.plain:
            return orient(plain_pixels(self.data, (self.header.width, self.header.height)), self.orientation)
        return orient(self._unusual_pixels(), self.orientation)

    def _unusual_pixels(self) -> np.ndarray:
        """Decode what is deeper than 8 bits or has an alpha channel; say once in a run how a depth was understood."""
        header = self.header
        pixels = pixels_by_pillow(self.data) if header.kind in BY_PILLOW else pixels_by_opencv(self.data)
        if pixels is None or pixels.shape[:2] != (header.height, header.width):
            raise ImageError("image damaged or truncated")
        if (not header.alpha and pixels.ndim == 3) or (header.kind == "BMP" and not pixels[..., 3].any()):
            pixels = pixels[..., :3]
        premultiplied = header.alpha == "premultiplied"
        rgb, values = to_rgb(pixels, declared=header.white, background=self.background, premultiplied=premultiplied)
        if pixels.dtype == np.uint16 and not header.alpha and values.white == 65535 and header.kind not in BY_PILLOW:
            return plain_pixels(
                self.data, (header.width, header.height)
            )  # all 16 bits are used: OpenCV takes the upper eight
        if values.guessed:
            warn_once(
                "depth",
                f"{self.path or 'an image'}: {pixels.dtype} values, the file does not say which is white; {values.white:,.6g} is "
                "taken (said once; others are judged alike)",
            )
        return rgb


def read_bytes(path: Path | str) -> bytes:
    """Return the file's content; its name may be the text that `files.text_of_name` made. Raises ImageError."""
    try:
        return embedded(files.read_regular(files.as_stored(path), MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise ImageError("image missing") from None
    except OSError as error:
        raise ImageError(f"image unreadable: {error.strerror}") from None
    except MemoryError:
        raise ImageError("image unreadable: not enough memory") from None


def contents(root: Path, names: Iterable[str], workers: int) -> str:
    """Return the sha256 of the names below `root` and their files' bytes, in this order; a file that cannot be read has none."""

    def digest(name: str) -> bytes:
        try:
            return hashlib.sha256(read_bytes(root / name)).digest()
        except ImageError:
            return b""

    total = hashlib.sha256()
    names = list(names)
    with ThreadPoolExecutor(workers, "hash") as pool:
        for name, one in zip(names, pool.map(digest, names), strict=True):
            total.update(name.encode("utf-8", "surrogateescape") + b"\0" + one)
    return total.hexdigest()


def load(
    path: Path | str,
    *,
    max_pixels: int = MAX_PIXELS,
    exif: str = "apply",
    declared: tuple[int, int] | None = None,
    background: tuple[int, int, int] = WHITE,
) -> Encoded:
    """Return the file in `path` with its size and the orientation to apply, no pixel decoded; see decode()."""
    data = read_bytes(path)
    header = read_header(data)
    orientation = _usable(header, max_pixels, exif, declared)
    return Encoded(data, header, orientation, str(path), background)


def seen_size(header: Header, *, max_pixels: int, exif: str, declared: tuple[int, int] | None) -> tuple[int, int]:
    """Return the (width, height) that decode() will give; raises ImageError as load() does."""
    return Encoded(b"", header, _usable(header, max_pixels, exif, declared)).size


def _usable(header: Header, max_pixels: int, exif: str, declared: tuple[int, int] | None) -> int:
    """Return the orientation to apply; raises ImageError where the header tells that the image can't be used."""
    if header.width * header.height > max_pixels:
        raise ImageError("image above --max_pixels")
    return choose_orientation(header, exif, declared)


def decode(
    path: Path | str,
    *,
    max_pixels: int = MAX_PIXELS,
    exif: str = "apply",
    declared: tuple[int, int] | None = None,
    background: tuple[int, int, int] = WHITE,
) -> np.ndarray:
    """Return the image in `path` as RGB uint8 (height, width, 3); grey, palette and CMYK are converted.

    What is transparent shows the `background`; deeper values are scaled as imaging.pixels says. exif: "apply" turns the image as
    its EXIF or TIFF orientation says, "ignore" leaves it as stored, "auto" picks what gives the `declared` (width, height), and
    applies where none is declared or both fit. Raises ImageError: missing, empty, not an image, damaged or truncated, above
    `max_pixels` (known from the header, so nothing is decoded), or, under "auto", of another size than declared.
    """
    return load(path, max_pixels=max_pixels, exif=exif, declared=declared, background=background).decode()


def choose_orientation(header: Header, exif: str, declared: tuple[int, int] | None) -> int:
    """Return the orientation 1-8 to apply; see decode(). Raises ImageError when "auto" finds no way to the declared size."""
    if exif == "ignore":
        return 1
    if exif == "apply" or declared is None or declared == header.turned:
        return header.orientation
    if declared == (header.width, header.height):
        return 1
    raise ImageError("image size differs from the declared one")


def orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return the image as EXIF orientation 1-8 wants it to be seen (TIFF 6.0, tag 274), contiguous."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    vertical = orientation in (3, 4, 7, 8)
    horizontal = orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image[:: -1 if vertical else 1, :: -1 if horizontal else 1])


def encode(image: np.ndarray, image_format: str, jpeg_quality: int = 95) -> bytes:
    """Return the image as "jpg" (4:2:0, as OpenCV writes it) or "png" file content."""
    import cv2
    import simplejpeg

    if image_format == "jpg":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(image), jpeg_quality, "RGB", "420")
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def kind_of(data: bytes) -> str:
    """Return the media type of a picture that a page may show, by its first bytes; '' for anything else."""
    if data[:3] == b"\xff\xd8\xff":
        return "image/jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "image/png"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def thumbnail(path: Path | str, size: int) -> np.ndarray:
    """Return the picture as RGB uint8 of at most `size` pixels a side, never enlarged; raises images.ImageError."""
    import cv2

    picture = decode(path)
    scale = size / max(picture.shape[:2])
    if scale >= 1:
        return picture
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def jpegs(paths: Iterable[str], size: int, quality: int = 85) -> Iterator[bytes | str]:
    """Yield for every path the thumbnail as JPEG, or the reason why there is none, in order and read on all cores."""
    with ThreadPoolExecutor(cores()) as pool:
        yield from pool.map(_thumbnail_jpeg, paths, repeat(size), repeat(quality))


def _thumbnail_jpeg(path: str, size: int, quality: int) -> bytes | str:
    import cv2

    if not path:
        return "no path known"
    try:
        picture = thumbnail(path, size)
    except ImageError as error:
        return str(error)
    return cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
