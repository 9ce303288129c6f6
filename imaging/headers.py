"""What image files say of themselves before any pixel is decoded; a file is known by its content, whatever its name ends in."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from common import files
from common.messages import ImageError, count
from imaging import profiles
from imaging.pixels import FORMATS, pillow, reads_heic

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
NO_HEIC = "HEIC image; pip install pillow-heif"

_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_ORIENTATION, _TIFF_SAMPLES = 256, 257, 258, 274, 277
_TIFF_SUBFILE, _TIFF_DNG, _TIFF_PROFILE = 254, 50706, 34675
_TIFF_MOST, _TIFF_EXTRA, _TIFF_FORMAT, _TIFF_SMOST = 281, 338, 339, 341


@dataclass(frozen=True)
class Header:
    """What a file says of itself before any pixel is decoded: stored size in pixels and EXIF orientation 1-8.

    `plain`: 8 bits a channel and no alpha. `alpha`: "", "straight" or "premultiplied". `white`: the value of white that the file
    declares, None where it does not. `further`: what else the file holds that is not read, as "2 further pages". `profile`: the
    name of its colour profile, "" where it has none, or one of the colours of sRGB.
    """

    width: int
    height: int
    orientation: int
    kind: str = ""
    plain: bool = True
    alpha: str = ""
    white: float | None = None
    further: str = ""
    profile: str = ""

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
            start = file.read(8)
            file.seek(0)
            return read_header(embedded(file.read())) if _is_json(start) else _header(file)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("image missing") from None
    except OSError as error:
        raise ImageError(f"image unreadable: {error.strerror}") from None


def embedded(data: bytes) -> bytes:
    """Return the image that stands in a LabelMe file as base64 text (`imageData`), any other file as it is."""
    if not _is_json(data[:8]):
        return data
    try:
        return base64.b64decode(json.loads(data)["imageData"].rpartition(",")[2])  # after data:image/png;base64,
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return data


def _is_json(start: bytes) -> bool:
    return start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"


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
            further = "further frames" if _is_animated(image) else ""
            profile = profiles.other_colours(image.info.get("icc_profile"))
    except Exception as error:  # a parser of hostile files may raise anything
        if what := files.stand_in(start):
            raise ImageError(f"not an image: {what}") from error
        raise ImageError(NO_HEIC if image_kind(start) == "HEIC" and not reads_heic() else "not an image") from error
    plain = not (alpha or deep or odd or kind == "HEIF")
    turned = _orientation(exif) if exif else 1
    return Header(width, height, turned, kind, plain, "straight" if alpha else "", further=further, profile=profile)


def _is_animated(image: Any) -> bool:
    try:
        return image.format != "MPO" and getattr(image, "is_animated", False)  # MPO: views of the same from a phone
    except Exception:  # a parser of hostile files may raise anything; the first frame may be sound
        return False


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
        profile = profiles.other_colours(tags.get(_TIFF_PROFILE))
        pages = _further_pages(file, head, tags.next)
    except Exception as error:  # a parser of hostile files may raise anything
        raise ImageError("not an image") from error
    if is_raw:  # what stands first in such a file is a small preview
        raise ImageError("a camera's raw file; export it as JPEG, PNG or TIFF")
    if width < 1 or height < 1:
        raise ImageError("not an image")
    white = float(max(most)) if most and bits > 8 else float(2**bits - 1) if 8 < bits < 16 and not is_float else None
    alpha = alpha if samples in (2, 4) else ""
    turned = orientation if orientation in range(2, 9) else 1
    further = f"{count(pages, 'further page')}" if pages else ""
    return Header(width, height, turned, "TIFF", bits <= 8 and not alpha, alpha, white, further, profile)


def _further_pages(file: BinaryIO, head: bytes, place: int) -> int:
    """Return how many pages follow the first, at most 1,000; smaller copies of a page and masks are none."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    pages, seen = 0, {ImageFileDirectory_v2(head).next}
    while place and place not in seen and len(seen) < 1000:
        seen.add(place)
        tags = ImageFileDirectory_v2(head)
        try:
            file.seek(place)
            tags.load(file)
            pages += _TIFF_WIDTH in tags and not int(tags.get(_TIFF_SUBFILE, 0)) & 5
        except Exception:  # a parser of hostile files may raise anything; the first page may be sound
            break
        place = tags.next
    return pages


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
