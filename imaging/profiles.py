"""Colour profiles (ICC) that image files carry. They are not applied, as in Pillow and torchvision; here is what they are."""

from __future__ import annotations

import struct
from typing import Any

# Where the red, green and blue of sRGB lie, x y z of each as profiles have them (ICC.1, adapted to D50).
_SRGB = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
_NEAR = 0.02


def other_colours(profile: Any) -> str:
    """Return the name of an ICC profile whose colours are not those of sRGB, "" for any other one, and for a broken one."""
    if not isinstance(profile, bytes) or len(profile) < 132 or profile[36:40] != b"acsp":
        return ""
    tags = _tags(profile)
    colours = [_xyz(tags.get(name, b"")) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    space = profile[16:20].decode("latin1").strip()
    if space == "GRAY" or (
        space == "RGB" and not all(colours)
    ):  # of a table, most often a scanner's or a camera's sRGB
        return ""
    if space == "RGB" and all(
        abs(value - wanted) < _NEAR
        for colour, of_srgb in zip(colours, _SRGB, strict=True)
        for value, wanted in zip(colour, of_srgb, strict=True)
    ):
        return ""
    return _text(tags.get(b"desc", b"")) or f"without a name, of {space} colours"


def _tags(profile: bytes) -> dict[bytes, bytes]:
    """Return the content of each tag of a profile."""
    n = min(int.from_bytes(profile[128:132], "big"), 100)
    entries = (struct.unpack_from(">4sII", profile, at) for at in range(132, min(132 + 12 * n, len(profile) - 11), 12))
    return {name: profile[start : start + length] for name, start, length in entries}


def _xyz(tag: bytes) -> tuple[float, ...]:
    """Return x, y, z of a colour, () where the tag is none."""
    return (
        tuple(value / 65536 for value in struct.unpack(">3i", tag[8:20]))
        if tag[:4] == b"XYZ " and len(tag) >= 20
        else ()
    )


def _text(tag: bytes) -> str:
    """Return the text of a description: one of version 2 of ICC, or the first one of version 4."""
    if tag[:4] == b"desc":
        text = tag[12 : 12 + int.from_bytes(tag[8:12], "big")].decode("latin1")
    elif tag[:4] == b"mluc" and len(tag) >= 28:
        length, start = struct.unpack(">II", tag[20:28])
        text = tag[start : start + length].decode("utf-16-be", "replace")
    else:
        text = ""
    return "".join(sign for sign in text if sign.isprintable()).strip()[:60]
