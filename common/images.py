"""Image files to arrays and back: decode, orient, cut with padding, resize, encode. Arrays are RGB uint8 (height, width, 3)."""

from __future__ import annotations

import io
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.boxes import Region, Unusable
from common.cli import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2", ".ppm", ".pgm", ".avif")
MAX_PIXELS = 200_000_000  # 600 MB as RGB
EXIF_MODES = ("auto", "apply", "ignore")
COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "gray": (128, 128, 128)}
BORDERS = ("clip", "reflect", "white", "black")

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
    """Return the header of an encoded image; raises ImageError."""
    from PIL import Image

    if not data:
        raise ImageError("image file is empty")
    Image.MAX_IMAGE_PIXELS = None  # decode() has a limit of its own and checks it before any pixel is decoded
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            exif = Image.Exif()  # not image.getexif(): that decodes a PNG to look behind its pixels
            exif.load(image.info.get("exif", b""))
            orientation = exif.get(0x0112, 1)
    except Exception as error:  # a parser of hostile files may raise anything
        raise ImageError("not an image") from error
    return Header(width, height, orientation if orientation in range(1, 9) else 1)


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
        data = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("image missing") from None
    except OSError as error:
        raise ImageError(f"image unreadable: {error.strerror}") from None
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
    import simplejpeg

    image: np.ndarray | None
    try:
        if data[:2] == b"\xff\xd8" and simplejpeg.decode_jpeg_header(data, strict=False)[2] not in ("CMYK", "YCCK"):
            try:
                image = simplejpeg.decode_jpeg(data, "RGB")
            except ValueError as error:
                if not any(text in str(error) for text in _HARMLESS):
                    raise
                image = simplejpeg.decode_jpeg(data, "RGB", strict=False)
        else:
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the reason goes to skipped.csv
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if image is not None:
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    except (ValueError, cv2.error) as error:
        raise ImageError("image damaged or truncated") from error
    if image is None or image.shape[:2] != (header.height, header.width):
        raise ImageError("image damaged or truncated")
    return image


def orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return the image as EXIF orientation 1-8 wants it to be seen (TIFF 6.0, tag 274), contiguous."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    vertical = orientation in (3, 4, 7, 8)
    horizontal = orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image[:: -1 if vertical else 1, :: -1 if horizontal else 1])


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
    period = max(2 * (size - 1), 1)
    index = np.abs(np.arange(start, stop)) % period
    return np.minimum(index, period - index) if size > 1 else np.zeros_like(index)


def squash(image: np.ndarray, size: tuple[int, int], fill: str = "white") -> np.ndarray:
    """Return the image at `size` (width, height), each axis on its own: area averaging to shrink, cubic to grow."""
    import cv2

    height, width = image.shape[:2]
    small = (min(width, size[0]), min(height, size[1]))
    if small != (width, height):
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    if small != size:
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    return image


def letterbox(image: np.ndarray, size: tuple[int, int], fill: str = "white") -> np.ndarray:
    """Return the image within `size` (width, height), its shape kept, centred on the colour `fill`."""
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


def encode(image: np.ndarray, image_format: str, jpeg_quality: int = 95) -> bytes:
    """Return the image as "jpg" (4:2:0, as OpenCV writes it) or "png" file content."""
    import cv2
    import simplejpeg

    if image_format == "jpg":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(image), jpeg_quality, "RGB", "420")
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


class ImageFolder:
    """Finds the file of an image id: `<id>` with any image extension in any case, or the id as the file's own name."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._listed: dict[str, tuple[set[str], dict[str, list[str]]]] = {}

    def find(self, image_id: str) -> str:
        """Return the file's path relative to the folder.

        Raises ImageError when there is none or the id leads out of the folder, UserError naming both when there are two.
        """
        if not image_id.strip():
            raise ImageError("empty image id")
        if "\0" in image_id or image_id.startswith("/") or ".." in image_id.split("/"):
            raise ImageError("image id leads out of the folder")
        below, _, name = image_id.rpartition("/")
        names, by_key = self._listed.get(below) or self._list(below)
        found = [name] if name in names else by_key.get(_key(name), by_key.get(_plain(name), []))
        if len(found) > 1:
            both = " and ".join(str(self.folder / below / file) for file in found[:2])
            raise UserError(f"{both} are both image {image_id!r}; rename or remove one of them")
        if not found:
            raise ImageError("image missing")
        return f"{below}/{found[0]}" if below else found[0]

    def _list(self, below: str) -> tuple[set[str], dict[str, list[str]]]:
        names: set[str] = set()
        by_key: dict[str, list[str]] = {}
        if (self.folder / below).is_dir():
            names = {entry.name for entry in os.scandir(self.folder / below) if entry.is_file()}
        for name in sorted(names):
            stem, extension = os.path.splitext(name)
            if extension.lower() in EXTENSIONS:
                for key in (_key(name), _plain(stem)):
                    by_key.setdefault(key, []).append(name)
        self._listed[below] = names, by_key
        return names, by_key


def _key(name: str) -> str:
    stem, extension = os.path.splitext(name)
    return _plain(stem) + extension.lower()


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # macOS stores names decomposed
