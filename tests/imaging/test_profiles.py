"""Colour profiles are told, not applied; CMYK has the colours that Pillow gives it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from common import messages
from imaging import images, profiles

P3 = (0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841)
ADOBE = (0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)


def profile(name: str, colours=(), space: bytes = b"RGB ", *, version: int = 4) -> bytes:
    """Return an ICC profile with a description of version 2 or 4 and the places of red, green and blue."""
    text = name.encode("utf-16-be")
    described = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text
    if version == 2:
        described = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name.encode() + bytes(79)
    tags = [(b"desc", described)]
    for tag, colour in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colours, strict=False):
        tags.append((tag, b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * value) for value in colour))))
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, content in tags:
        table += struct.pack(">4sII", tag, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytes(16) + space + b"XYZ " + bytes(12) + b"acsp" + bytes(88)
    return head + struct.pack(">I", len(tags)) + table + body


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (profile("Display P3", P3), "Display P3"),
        (profile("Adobe RGB (1998)", ADOBE, version=2), "Adobe RGB (1998)"),
        (profile("Coated FOGRA39", space=b"CMYK"), "Coated FOGRA39"),
        (SRGB, ""),
        (profile("Dot Gain 20%", space=b"GRAY"), ""),
        (profile("Display P3", P3)[:150], ""),
        (b"", ""),
        (None, ""),
    ],
)
def test_a_profile_of_other_colours_than_srgb_is_known_by_its_colours(content, name):
    assert profiles.other_colours(content) == name


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_a_profile_is_told_once_and_the_pixels_are_those_of_pillow(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(messages, "_told", set())
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    for name, content in (("a", profile("Display P3", P3)), ("b", profile("Display P3", P3)), ("c", SRGB)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.{kind}", icc_profile=content, lossless=True)
        with Image.open(tmp_path / f"{name}.{kind}") as image:
            assert (images.decode(tmp_path / f"{name}.{kind}") == np.asarray(image)).all()
    told = [line for line in capsys.readouterr().err.splitlines() if "profile '" in line]
    assert told == [
        f"{tmp_path / f'a.{kind}'} has the colour profile 'Display P3'; profiles are not applied, as in Pillow and torchvision "
        "(said once)"
    ]


@pytest.mark.parametrize("marked", [True, False])
def test_cmyk_jpegs_have_their_colours_with_and_without_the_mark_of_adobe(marked, tmp_path):
    colours = np.repeat([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]], 16, 0).repeat(16, 1)
    encoded = io.BytesIO()
    Image.fromarray(colours.astype(np.uint8)).convert("CMYK").save(encoded, "JPEG", quality=100, subsampling=0)
    data, at = encoded.getvalue(), encoded.getvalue().index(b"\xff\xee")
    if not marked:
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    (tmp_path / "a.jpg").write_bytes(data)
    assert abs(images.decode(tmp_path / "a.jpg").astype(int) - colours).max() <= 3
