"""Image files to arrays and back: headers, decoding, EXIF orientation, encoding. Arrays are RGB uint8 (height, width, 3)."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import files
from common.cli import cores
from common.messages import Unusable

if TYPE_CHECKING:
    import numpy as np

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2", ".ppm", ".pgm", ".avif")
MAX_PIXELS = 200_000_000  # 600 MB as RGB
MOST_BYTES = 1 << 30  # of an encoded image
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "PPM", "AVIF")
EXIF_MODES = ("auto", "apply", "ignore")

# libjpeg warnings that leave every pixel sound; any other one means damage. Such files are common from phones and web cameras.
_HARMLESS = ("extraneous bytes before marker", "Invalid SOS parameters", "JFIF revision")


class ImageError(Unusable):
    """An image file that cannot be used; the message is the short reason for skipped.csv."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself before any pixel is decoded: stored size in pixels and EXIF orientation 1-8."""

    width: int
    height: int
    orientation: int

    @property
    def turned(self) -> tuple[int, int]:
        """(width, height) after the orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(data: bytes) -> Header:
    """Return the header of an encoded image; raises ImageError. Broken EXIF data counts as none."""
    if not data:
        raise ImageError("image file is empty")
    try:
        with _pillow().open(io.BytesIO(data), formats=_FORMATS) as image:
            (width, height), exif = image.size, image.info.get("exif")
    except Exception as error:  # a parser of hostile files may raise anything
        raise ImageError("not an image") from error
    return Header(width, height, _orientation(exif) if exif else 1)


def _orientation(exif: bytes) -> int:
    content = _pillow().Exif()  # not image.getexif(): that decodes a PNG to look behind its pixels
    try:
        content.load(exif)
        value = content.get(0x0112)
    except Exception:  # as above; without a sound tag, the picture is taken as it stands
        return 1
    return value if value in range(2, 9) else 1


@functools.cache
def _pillow() -> Any:
    import warnings

    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # load() has a limit of its own and checks it before any pixel is decoded
    warnings.filterwarnings("ignore", module="PIL")
    return Image


@dataclass(frozen=True)
class Encoded:
    """An image file in memory, not decoded yet; `size` is the (width, height) that decode() will give."""

    data: bytes
    header: Header
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        return self.header.turned if self.orientation >= 5 else (self.header.width, self.header.height)

    def decode(self) -> np.ndarray:
        """Return RGB uint8 (height, width, 3), turned. Raises ImageError when the file is damaged or truncated."""
        return orient(_pixels(self.data, self.header), self.orientation)


def load(
    path: Path | str, *, max_pixels: int = MAX_PIXELS, exif: str = "apply", declared: tuple[int, int] | None = None
) -> Encoded:
    """Return the file in `path` with its size and the orientation to apply, no pixel decoded; see decode()."""
    try:
        data = files.read_regular(path, MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("image missing") from None
    except OSError as error:
        raise ImageError(f"image unreadable: {error.strerror}") from None
    except (ValueError, MemoryError):  # no possible name; a file of gigabytes
        raise ImageError("image unreadable") from None
    header = read_header(data)
    if header.width * header.height > max_pixels:
        raise ImageError("image above --max_pixels")
    return Encoded(data, header, choose_orientation(header, exif, declared))


def decode(
    path: Path | str, *, max_pixels: int = MAX_PIXELS, exif: str = "apply", declared: tuple[int, int] | None = None
) -> np.ndarray:
    """Return the image in `path` as RGB uint8 (height, width, 3); grey, palette, 16-bit, CMYK and alpha are converted.

    exif: "apply" turns the image as its EXIF orientation says, "ignore" leaves it as stored, "auto" picks what gives the
    `declared` (width, height), and applies where none is declared or both fit. Raises ImageError: missing, empty, not an
    image, damaged or truncated, above `max_pixels` (known from the header, so nothing is decoded), or, under "auto", of
    another size than declared.
    """
    return load(path, max_pixels=max_pixels, exif=exif, declared=declared).decode()


def choose_orientation(header: Header, exif: str, declared: tuple[int, int] | None) -> int:
    """Return the orientation 1-8 to apply; see decode(). Raises ImageError when "auto" finds no way to the declared size."""
    if exif == "ignore":
        return 1
    if exif == "apply" or declared is None or declared == header.turned:
        return header.orientation
    if declared == (header.width, header.height):
        return 1
    raise ImageError("image size differs from the declared one")


def _pixels(data: bytes, header: Header) -> np.ndarray:
    """Decode to RGB as stored, not turned. JPEGs take libjpeg-turbo without OpenCV's detour: a third less time, the same pixels."""
    import cv2
    import numpy as np

    try:
        image = _jpeg(data)
        if image is None:
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the reason goes to skipped.csv
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if image is not None:
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    except (ValueError, cv2.error) as error:
        raise ImageError("image damaged or truncated") from error
    if image is None or image.shape[:2] != (header.height, header.width):
        raise ImageError("image damaged or truncated")
    return image


def _jpeg(data: bytes) -> np.ndarray | None:
    """Decode a JPEG; None for other formats and for the rare JPEGs that only OpenCV takes. Raises ValueError on damage."""
    import simplejpeg

    if data[:2] != b"\xff\xd8":
        return None
    try:
        if simplejpeg.decode_jpeg_header(data, strict=False)[2] in ("CMYK", "YCCK"):
            return None
    except KeyError:  # an unusual subsampling
        return None
    try:
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        if not any(text in str(error) for text in _HARMLESS):
            raise
    return simplejpeg.decode_jpeg(data, "RGB", strict=False)


def orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return the image as EXIF orientation 1-8 wants it to be seen (TIFF 6.0, tag 274), contiguous."""
    import numpy as np

    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    vertical = orientation in (3, 4, 7, 8)
    horizontal = orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image[:: -1 if vertical else 1, :: -1 if horizontal else 1])


def encode(image: np.ndarray, image_format: str, jpeg_quality: int = 95) -> bytes:
    """Return the image as "jpg" (4:2:0, as OpenCV writes it) or "png" file content."""
    import cv2
    import numpy as np
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
