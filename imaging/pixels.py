"""The pixels of image files, of any depth, with or without alpha, as RGB uint8 (height, width, 3).

Depth: black is 0, or the least value where there are negative ones. White is what the file declares; without that it is 1 for
floats up to 1, the whole range of 16 bits where a quarter of it is used, else the most that the fewest usual bits (8, 10, 12, 14,
16) hold, else the image's own maximum. Alpha: the picture is laid over a background of one colour, as viewers do.
"""

from __future__ import annotations

import functools
import importlib.util
import io
from typing import Any, Literal, NamedTuple

import numpy as np

from common.messages import ImageError
from imaging.colors import WHITE

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "PPM", "AVIF", "HEIF")

BY_PILLOW = ("AVIF", "HEIF", "JPEG2000", "PPM")  # brings every depth of these to 8 or 16 bits as they declare it
TIFF_ORIENTATION = 274
# libjpeg warnings that leave every pixel sound; any other one means damage. Such files are common from phones and web cameras.
_HARMLESS = ("extraneous bytes before marker", "Invalid SOS parameters", "JFIF revision")
BITS = (8, 10, 12, 14, 16)
_BLOCK = 1 << 20  # numbers converted at a time


class Range(NamedTuple):
    """Which values are black and white; `guessed` where the file does not say so."""

    black: float
    white: float
    guessed: bool


def value_range(pixels: np.ndarray, declared: float | None = None) -> Range:
    """Return the range of the colours (height, width, channels) of any number type; `declared`: the file's own white."""
    if pixels.dtype == np.uint8:
        return Range(0, 255, False)
    finite = pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    black = min(0.0, least)
    if declared is not None and most <= declared:
        return Range(black, declared, False)
    if pixels.dtype.kind == "f":
        if 1 / 16 < most <= 1:
            return Range(black, 1.0, black < 0)
        return Range(black, most if most > black else black + 1, True)
    container = float(np.iinfo(pixels.dtype).max)
    if pixels.dtype.itemsize == 2 and most > container / 4:
        return Range(black, container, black < 0)
    white = next((2.0**bits - 1 for bits in BITS if most < 2**bits), most)
    return Range(black, white, True)


def scaled(pixels: np.ndarray, values: Range) -> np.ndarray:
    """Return the pixels as uint8, `values.black` as 0 and `values.white` as 255; NaN is black."""
    if pixels.dtype == np.uint8 and values[:2] == (0, 255):
        return pixels
    out = np.empty(pixels.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, pixels[:1].size))
    for start in range(0, len(pixels), rows):
        part = slice(start, start + rows)
        share = (pixels[part].astype(np.float64) - values.black) / (values.white - values.black)
        out[part] = np.rint(np.clip(np.nan_to_num(share, posinf=1.0, neginf=0.0), 0, 1) * 255)
    return out


def composited(
    colours: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int] = WHITE, *, premultiplied: bool = False
) -> np.ndarray:
    """Return RGB uint8 (height, width, 3) laid over the background by `alpha` (height, width) uint8, 255 where opaque.

    `premultiplied`: the colours hold their share already (associated alpha), and only the background is to be added.
    """
    if (alpha == 255).all():
        return colours
    out = np.empty(colours.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, colours[:1].size))
    for start in range(0, len(colours), rows):
        part = slice(start, start + rows)
        share = alpha[part, :, None].astype(np.uint32)
        own = colours[part].astype(np.uint32) * (255 if premultiplied else share)
        out[part] = np.minimum((own + np.array(background, np.uint32) * (255 - share) + 127) // 255, 255)
    return out


def to_rgb(
    pixels: np.ndarray,
    *,
    declared: float | None = None,
    background: tuple[int, int, int] = WHITE,
    premultiplied: bool = False,
) -> tuple[np.ndarray, Range]:
    """Return RGB uint8 of grey (height, width), RGB (…, 3) or RGBA (…, 4) of any depth, and the range that was taken."""
    colours = pixels[..., :3] if pixels.ndim == 3 else pixels[..., None]
    values = value_range(colours, declared)
    rgb = scaled(colours, values)
    if rgb.shape[2] == 1:
        rgb = np.repeat(rgb, 3, axis=2)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        alpha = pixels[..., 3]
        most = float(alpha.max(initial=0))
        opaque = values.white if values.black == 0 and most <= values.white else None
        alpha = scaled(alpha, Range(0, opaque, False) if opaque else value_range(alpha))
        rgb = composited(rgb, alpha, background, premultiplied=premultiplied)
    return np.ascontiguousarray(rgb), values


def plain_pixels(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decode to RGB as stored, not turned. JPEGs take libjpeg-turbo without OpenCV's detour: a third less time, the same pixels."""
    import cv2

    try:
        image = _jpeg(data)
        if image is None:
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the reason goes to skipped.csv
            stored = np.frombuffer(_upright(data), np.uint8)
            image = cv2.imdecode(stored, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if image is not None:
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    except (ValueError, cv2.error) as error:
        raise ImageError("image damaged or truncated") from error
    if image is None or image.shape[1::-1] != size:
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
        if any(text in str(error) for text in _HARMLESS):
            return simplejpeg.decode_jpeg(data, "RGB", strict=False)
        if _ends(data):
            raise
    return _jpeg(data + _END)  # some cameras leave the end marker away; where pixels are missing too, this fails


_END = b"\xff\xd9"


def _ends(data: bytes) -> bool:
    """Whether a JPEG has its end marker. One in several scans must have it: without, nobody knows whether scans are missing."""
    progressive = any(marker in data for marker in (b"\xff\xc2", b"\xff\xca"))
    return _END in data[-4096:] or progressive


def pixels_by_pillow(data: bytes) -> np.ndarray:
    """Return grey, RGB or RGBA pixels as stored, of any type; raises ImageError."""
    try:
        with pillow().open(io.BytesIO(data), formats=FORMATS) as image:
            if image.mode[0] in "IF":
                pixels = np.asarray(image)
                return pixels.astype(np.uint16) if image.mode[0] == "I" and pixels.max(initial=0) < 2**16 else pixels
            alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            return np.asarray(image.convert("RGBA" if alpha else "RGB"))
    except Exception as error:  # a parser of hostile files may raise anything
        raise ImageError("image damaged or truncated") from error


def pixels_by_opencv(data: bytes) -> np.ndarray | None:
    """Return grey, RGB or RGBA pixels as stored, of any type; None where they cannot be decoded."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        stored = np.frombuffer(_upright(data), np.uint8)
        pixels = cv2.imdecode(stored, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError("image damaged or truncated") from error
    if pixels is None or pixels.ndim == 2:
        return pixels
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.shape[2] in (3, 4) else pixels[..., 0]


def _upright(data: bytes) -> bytes:
    """Return a TIFF without its orientation, which OpenCV would apply although it is told not to; other files as they are."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    if data[:2] not in (b"II", b"MM") or data[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+"):
        return data
    big = 43 in data[2:4]
    count_bytes, entry_bytes = (8, 20) if big else (2, 12)
    start = int.from_bytes(data[8:16] if big else data[4:8], order)
    count = int.from_bytes(data[start : start + count_bytes], order)
    for entry in range(min(count, 4096)):
        at = start + count_bytes + entry * entry_bytes
        if int.from_bytes(data[at : at + 2], order) == TIFF_ORIENTATION:
            value = at + (12 if big else 8)
            return data[:value] + (1).to_bytes(2, order) + data[value + 2 :]
    return data


@functools.cache
def pillow() -> Any:
    import warnings

    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # load() has a limit of its own and checks it before any pixel is decoded
    warnings.filterwarnings("ignore", module="PIL")
    if reads_heic():
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image


def reads_heic() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None
