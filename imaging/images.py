"""Image files to arrays and back: headers, decoding, EXIF orientation, encoding. Arrays are RGB uint8 (height, width, 3).

A file is known by its content, whatever its name ends in.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common import files
from common.cli import MAX_PIXELS, cores
from common.messages import ImageError, warn_once
from imaging.colors import WHITE
from imaging.pixels import (
    BY_PILLOW,
    FORMATS,
    pillow,
    pixels_by_opencv,
    pixels_by_pillow,
    plain_pixels,
    reads_heic,
    to_rgb,
)

# Files of these endings are taken for images unseen; others are looked into.
EXTENSIONS = (
    *(
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".gif",
        ".jp2",
        ".ppm",
        ".pgm",
        ".avif",
    ),
    *(".heic", ".heif"),
)
MOST_BYTES = 1 << 30  # of an encoded image
NO_HEIC = "HEIC image; pip install pillow-heif"

_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_ORIENTATION, _TIFF_SAMPLES = 256, 257, 258, 274, 277
_TIFF_SUBFILE, _TIFF_DNG = 254, 50706
_TIFF_MOST, _TIFF_EXTRA, _TIFF_FORMAT, _TIFF_SMOST = 281, 338, 339, 341


@dataclass(frozen=True)
class Header:
    """What a file says of itself before any pixel is decoded: stored size in pixels and EXIF orientation 1-8.

    `plain`: 8 bits a channel and no alpha. `alpha`: "", "straight" or "premultiplied". `white`: the value of white that the file
    declares, None where it does not.
    """

    width: int
    height: int
    orientation: int
    kind: str = ""
    plain: bool = True
    alpha: str = ""
    white: float | None = None

    @property
    def turned(self) -> tuple[int, int]:
        """(width, height) after the orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(data: bytes) -> Header:
    """Return the header of an encoded image; raises ImageError. Broken EXIF data counts as none."""
    return _header(io.BytesIO(data))


def open_header(path: Path | str) -> Header:
    """Return the header of an image file without reading the rest of it; raises ImageError."""
    try:
        with open(path, "rb") as file:
            return _header(file)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("image missing") from None
    except OSError as error:
        raise ImageError(f"image unreadable: {error.strerror}") from None


def _header(file: BinaryIO) -> Header:
    start = file.read(32)
    file.seek(0)
    if not start:
        raise ImageError("image file is empty")
    if image_kind(start) == "TIFF":
        return _tiff_header(file)
    try:
        with pillow().open(file, formats=FORMATS) as image:
            (width, height), mode, exif, kind = image.size, image.mode, image.info.get("exif"), image.format or ""
            alpha = mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            deep = mode[0] in "IF" or (kind == "PNG" and len(start) > 24 and start[24] == 16)
            odd = kind == "PPM" and image.tile[0][0] != "raw"  # a maxval other than 255, or numbers as text
    except Exception as error:  # a parser of hostile files may raise anything
        if what := files.stand_in(start):
            raise ImageError(f"not an image: {what}") from error
        raise ImageError(NO_HEIC if image_kind(start) == "HEIC" and not reads_heic() else "not an image") from error
    plain = not (alpha or deep or odd or kind == "HEIF")
    return Header(width, height, _orientation(exif) if exif else 1, kind, plain, "straight" if alpha else "")


def _tiff_header(file: BinaryIO) -> Header:
    """Return the header of a TIFF from its tags: Pillow opens not every depth, and OpenCV turns what is to stay as stored."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    pillow()
    try:
        head = file.read(8)
        is_raw = file.read(2) == b"CR"  # Canon's
        file.seek(8)
        head += file.read(8) if head[2] == 43 or head[3] == 43 else b""  # BigTIFF
        tags = ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
        width, height = int(tags[_TIFF_WIDTH]), int(tags[_TIFF_HEIGHT])
        bits = max(map(int, _many(tags.get(_TIFF_BITS, 1))))
        samples, extra = int(tags.get(_TIFF_SAMPLES, 1)), _many(tags.get(_TIFF_EXTRA, ()))
        alpha = {1: "premultiplied", 2: "straight"}.get(int(extra[-1]), "") if extra else ""
        most = _many(tags.get(_TIFF_SMOST) or tags.get(_TIFF_MOST) or ())
        orientation = tags.get(_TIFF_ORIENTATION, 1)
        is_raw = is_raw or bool(int(tags.get(_TIFF_SUBFILE, 0)) & 1) or _TIFF_DNG in tags
        is_float = 3 in _many(tags.get(_TIFF_FORMAT, 1))
    except Exception as error:  # a parser of hostile files may raise anything
        raise ImageError("not an image") from error
    if is_raw:  # what stands first in such a file is a small preview
        raise ImageError("a camera's raw file; export it as JPEG, PNG or TIFF")
    if width < 1 or height < 1:
        raise ImageError("not an image")
    white = float(max(most)) if most and bits > 8 else float(2**bits - 1) if 8 < bits < 16 and not is_float else None
    alpha = alpha if samples in (2, 4) else ""
    turned = orientation if orientation in range(2, 9) else 1
    return Header(width, height, turned, "TIFF", bits <= 8 and not alpha, alpha, white)


def _many(value: Any) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def image_kind(start: bytes) -> str:
    """Return the format of an image file by its first 32 bytes, as Pillow calls it, or HEIC; '' for anything else."""
    signatures = {
        b"\xff\xd8\xff": "JPEG",
        b"\x89PNG\r\n\x1a\n": "PNG",
        b"GIF87a": "GIF",
        b"GIF89a": "GIF",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
        b"II+\0": "TIFF",
        b"MM\0+": "TIFF",
        b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
        b"\xff\x4f\xff\x51": "JPEG2000",
    }
    for signature, kind in signatures.items():
        if start.startswith(signature):
            return kind
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[:2] == b"BM" and start[6:10] == b"\0\0\0\0":
        return "BMP"
    if start[:1] == b"P" and start[1:2] in b"123456fF" and start[2:3].isspace():
        return "PPM"
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        return "AVIF" if brand in (b"avif", b"avis") else "HEIC" if brand in _HEIC else ""
    return ""


_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def _orientation(exif: bytes) -> int:
    content = pillow().Exif()  # not image.getexif(): that decodes a PNG to look behind its pixels
    try:
        content.load(exif)
        value = content.get(_TIFF_ORIENTATION)
    except Exception:  # as above; without a sound tag, the picture is taken as it stands
        return 1
    return value if value in range(2, 9) else 1


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
        return files.read_regular(files.as_stored(path), MOST_BYTES)
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
