"""Images that are not 8 bits a channel and opaque: alpha, depth, TIFF's orientation, JPEGs without an end."""

from __future__ import annotations

import contextlib
import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common import messages
from imaging import headers, images, pixels
from imaging.images import ImageError


@pytest.fixture(autouse=True)
def _nothing_said():
    messages.set_quiet(False)


def ramp(most: float, dtype, height=20, width=256) -> np.ndarray:
    return np.tile(np.linspace(0, most, width), (height, 1)).astype(dtype)


def written(path, array: np.ndarray):
    path.write_bytes(cv2.imencode(path.suffix, array)[1].tobytes())
    return path


# --- alpha


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.gif"])
@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 255)])
def test_what_is_transparent_is_white_whatever_colour_it_hides(tmp_path, name, hidden):
    rgba = np.full((40, 40, 4), (*hidden, 0), np.uint8)
    rgba[10:30, 10:30] = 30, 160, 60, 255
    Image.fromarray(rgba).save(tmp_path / name, **({"lossless": True, "exact": True} if name == "a.webp" else {}))
    decoded = images.decode(tmp_path / name)
    assert decoded[2, 2].tolist() == [255, 255, 255]
    assert np.abs(decoded[20, 20].astype(int) - (30, 160, 60)).max() <= 3
    assert images.decode(tmp_path / name, background=(0, 0, 0))[2, 2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("mode", ["LA", "P", "RGB"])
def test_alpha_of_grey_palette_and_key_colour(tmp_path, mode):
    grey = np.full((20, 20), 200, np.uint8)
    grey[:10] = 7
    image = Image.fromarray(grey)
    if mode == "LA":
        image.putalpha(Image.fromarray(np.where(grey == 7, 0, 255).astype(np.uint8)))
        image.save(tmp_path / "a.png")
    elif mode == "P":
        image.convert("P").save(tmp_path / "a.png", transparency=7)
    else:
        image.convert("RGB").save(tmp_path / "a.png", transparency=(7, 7, 7))
    decoded = images.decode(tmp_path / "a.png")
    assert decoded[2, 2].tolist() == [255] * 3
    assert decoded[15, 15].tolist() == [200] * 3


def test_half_transparent_by_hand():
    """128/255 of 100 over white: 100 * 0.50196 + 255 * 0.49804 = 177.2; over black 50.2."""
    colours, alpha = np.full((1, 1, 3), 100, np.uint8), np.full((1, 1), 128, np.uint8)
    assert pixels.composited(colours, alpha).tolist() == [[[177] * 3]]
    assert pixels.composited(colours, alpha, (0, 0, 0)).tolist() == [[[50] * 3]]
    premultiplied = np.full((1, 1, 3), 50, np.uint8)
    assert pixels.composited(premultiplied, alpha, premultiplied=True).tolist() == [[[177] * 3]]


def test_an_opaque_alpha_channel_changes_nothing(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray(np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])).save(tmp_path / "b.png")
    assert np.array_equal(images.decode(tmp_path / "a.png"), images.decode(tmp_path / "b.png"))


def test_a_bitmap_whose_fourth_byte_is_never_set_is_opaque(tmp_path):
    written(tmp_path / "a.bmp", np.dstack([np.full((9, 9, 3), (60, 160, 30), np.uint8), np.zeros((9, 9), np.uint8)]))
    assert images.decode(tmp_path / "a.bmp")[4, 4].tolist() == [30, 160, 60]


# --- depth


@pytest.mark.parametrize("most", [1.0, 0.7, 200.0, 4095.0, 65535.0])
def test_floats_are_neither_black_nor_clipped(tmp_path, most, capsys):
    decoded = images.decode(written(tmp_path / "a.tif", ramp(most, np.float32)))
    assert decoded.min() == 0
    assert decoded.max() == (round(0.7 * 255) if most == 0.7 else 255)
    assert len(np.unique(decoded)) > 150
    assert (np.diff(decoded[0, :, 0].astype(int)) >= 0).all()
    assert ("does not say which is white" in capsys.readouterr().err) == (most > 1)


@pytest.mark.parametrize(("bits", "ending"), [(8, ".png"), (10, ".png"), (12, ".tif"), (14, ".tif"), (16, ".png")])
def test_few_bits_in_sixteen_are_a_whole_ramp(tmp_path, bits, ending, capsys):
    decoded = images.decode(written(tmp_path / f"a{ending}", ramp(2**bits - 1, np.uint16)))
    assert decoded.min() == 0
    assert decoded.max() == 255
    assert len(np.unique(decoded)) > 250
    assert bool(capsys.readouterr().err) == (bits < 16)


def test_it_is_said_once_in_a_run(tmp_path, capsys):
    for name in "ab":
        images.decode(written(tmp_path / f"{name}.png", ramp(4095, np.uint16)))
    error = capsys.readouterr().err
    assert error.count("warning") == 1
    assert "a.png" in error
    assert "4,095" in error
    messages.set_quiet(True)  # a new run
    images.decode(tmp_path / "b.png")
    assert "b.png" in capsys.readouterr().err


def test_thirty_two_bits_and_signed_values(tmp_path):
    assert images.decode(written(tmp_path / "a.tif", ramp(70_000, np.int32))).max() == 255
    assert images.decode(written(tmp_path / "b.tif", ramp(255, np.int32))).max() == 255
    signed = images.decode(written(tmp_path / "c.tif", ramp(2.0, np.float32) - 1))
    assert signed.min() == 0
    assert signed.max() == 255
    assert abs(int(signed[0, 128, 0]) - 128) <= 1


def test_values_that_are_no_numbers_are_black(tmp_path):
    array = ramp(1.0, np.float32)
    array[0, 200], array[1, 100] = np.nan, np.inf
    decoded = images.decode(written(tmp_path / "a.tif", array))
    assert decoded[0, 200].tolist() == [0, 0, 0]
    assert decoded[1, 100].tolist() == [255] * 3
    assert decoded[2, 128, 0] == 128


@pytest.mark.parametrize("most", [100, 1023, 4095, 65535])
@pytest.mark.parametrize("colour", [False, True])
def test_the_maximum_that_a_portable_map_declares_is_white(tmp_path, most, colour, capsys):
    values = ramp(most, np.uint16)
    values = np.dstack([values] * 3) if colour else values
    data = values.astype(">u2" if most > 255 else np.uint8).tobytes()
    (tmp_path / "a.ppm").write_bytes(b"P%d\n256 20\n%d\n" % (6 if colour else 5, most) + data)
    decoded = images.decode(tmp_path / "a.ppm")
    assert decoded.min() == 0
    assert decoded.max() == 255
    assert abs(int(decoded[0, 128, 0]) - 128) <= 1
    assert capsys.readouterr().err == ""


def test_a_maximum_that_a_tiff_declares_is_white(tmp_path, capsys):
    Image.fromarray(ramp(1500, np.uint16)).save(tmp_path / "a.tif", tiffinfo={281: 3000})
    decoded = images.decode(tmp_path / "a.tif")
    assert 126 <= decoded.max() <= 128
    assert capsys.readouterr().err == ""


def test_colours_of_sixteen_bits_with_alpha(tmp_path):
    rgba = np.zeros((20, 20, 4), np.uint16)
    rgba[5:15, 5:15] = 65535, 0, 32768, 65535  # blue first, as OpenCV writes
    decoded = images.decode(written(tmp_path / "a.png", rgba))
    assert decoded[0, 0].tolist() == [255] * 3
    assert decoded[10, 10].tolist() == [128, 0, 255]


def test_all_sixteen_bits_are_what_opencv_makes_of_them(tmp_path):
    path = written(tmp_path / "a.png", np.random.default_rng(0).integers(0, 65536, (30, 40, 3)).astype(np.uint16))
    assert np.array_equal(images.decode(path), cv2.imread(str(path))[..., ::-1])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["uint16", "int16", "int32", "float32", "float64"]),
    st.integers(0, 2**31 - 1),
    st.sampled_from([1, 3, 4]),
    st.integers(0, 10**6),
)
def test_any_pixels_become_rgb_in_order(dtype, most, channels, seed):
    """Whatever the type and the range: RGB uint8, and a brighter value is never darker than another."""
    rng = np.random.default_rng(seed)
    most = min(most, np.iinfo(dtype).max) if dtype[0] != "f" else most / 1000
    array = (rng.random((6, 7, channels)) * most).astype(dtype)
    rgb, values = pixels.to_rgb(array if channels > 1 else array[..., 0])
    assert rgb.shape == (6, 7, 3)
    assert rgb.dtype == np.uint8
    assert values.white > values.black
    if channels == 1:
        order = np.argsort(array.ravel(), kind="stable")
        assert (np.diff(rgb[..., 0].ravel()[order].astype(int)) >= 0).all()


# --- orientation and ends


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_tiff_orientation(tmp_path, orientation, deep):
    stored = ramp(65535, np.uint16, 30, 50) if deep else np.dstack([ramp(255, np.uint8, 30, 50)] * 3)
    stored[:10, :10] = 0
    path = tmp_path / "a.tif"
    Image.fromarray(stored).save(path, tiffinfo={274: orientation})
    expected = images.orient(np.dstack([stored >> 8] * 3).astype(np.uint8) if deep else stored, orientation)
    assert np.array_equal(images.decode(path), expected)
    assert images.load(path).size == expected.shape[1::-1]
    assert images.decode(path, exif="ignore").shape == (30, 50, 3)
    declared = expected.shape[1::-1]
    assert np.array_equal(images.decode(path, exif="auto", declared=declared), expected)
    if orientation >= 5:
        assert images.decode(path, exif="auto", declared=(50, 30)).shape == (30, 50, 3)


def test_a_jpeg_without_its_end_marker_is_whole(tmp_path):
    file = io.BytesIO()
    picture = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    whole = tmp_path / "whole.jpg"
    whole.write_bytes(file.getvalue())
    (tmp_path / "a.jpg").write_bytes(file.getvalue()[:-2])
    assert np.array_equal(images.decode(tmp_path / "a.jpg"), images.decode(whole))
    (tmp_path / "b.jpg").write_bytes(file.getvalue()[:-200])
    with pytest.raises(ImageError, match="damaged or truncated"):
        images.decode(tmp_path / "b.jpg")


@pytest.mark.parametrize("ending", [".tif", ".png"])
def test_damaged_deep_images_give_an_image_or_a_reason(tmp_path, ending):
    rng = np.random.default_rng(1)
    for array in (ramp(4095, np.uint16, 12, 16), ramp(1.0, np.float32, 12, 16), np.zeros((12, 16, 4), np.uint16)):
        if array.dtype == np.float32 and ending == ".png":
            continue
        sound = np.frombuffer(written(tmp_path / f"a{ending}", array).read_bytes(), np.uint8)
        for _ in range(40):
            data = sound.copy()
            data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            (tmp_path / f"a{ending}").write_bytes(data.tobytes())
            with contextlib.suppress(ImageError):
                assert images.decode(tmp_path / f"a{ending}", max_pixels=10**6).dtype == np.uint8


def test_a_file_is_known_by_its_first_bytes(tmp_path):
    array = np.zeros((8, 8, 3), np.uint8)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000", "AVIF"):
        file = io.BytesIO()
        Image.fromarray(array).save(file, kind)
        assert headers.image_kind(file.getvalue()[:32]) == kind
    for data in (b"", b"PK\x03\x04", b"path,label\n", b"P7 notes", b"BMW cars are listed here", b"{}", b"%PDF-1.7"):
        assert headers.image_kind(data) == ""


def test_heic_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(headers, "reads_heic", lambda: False)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    with pytest.raises(ImageError, match="pip install pillow-heif"):
        images.decode(tmp_path / "a.jpg")
