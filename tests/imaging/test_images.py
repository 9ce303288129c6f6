"""Decoding equals OpenCV's, damage is noticed, orientation is checked, and shrinking is the mean over an area."""

from __future__ import annotations

import contextlib

import cv2
import numpy as np
import pytest
from PIL import Image

from boxes import resizing
from boxes.padding import Region
from common import messages
from imaging import headers, images
from imaging.images import ImageError


def photo(width=96, height=64, seed=0) -> np.ndarray:
    """Smooth colours with some noise, no two corners alike."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    noise = rng.integers(-6, 7, (height, width, 3))
    return np.clip(cv2.resize(small, (width, height)).astype(int) + noise, 0, 255).astype(np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def imread(path, flags=cv2.IMREAD_COLOR) -> np.ndarray:
    return cv2.imread(str(path), flags)[..., ::-1]


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_pixels_equal_opencv(tmp_path, subsampling, progressive):
    path = save(tmp_path / "a.jpg", photo(97, 61), subsampling=subsampling, progressive=progressive, quality=90)
    assert np.array_equal(images.decode(path), imread(path))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.tiff", "a.gif", "a.ppm", "a.jp2"])
def test_other_formats_equal_opencv(tmp_path, name):
    path = save(tmp_path / name, photo())
    assert np.array_equal(images.decode(path), imread(path))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "LA", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.fromarray(photo())
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(photo()[..., 0].astype(np.uint16) * 257).save(path)
    else:
        image.convert(mode).save(path)
    decoded = images.decode(path)
    assert (decoded.shape, decoded.dtype) == ((64, 96, 3), np.uint8)
    assert np.array_equal(decoded, imread(path))
    assert images.load(path).size == (96, 64)


def test_an_image_is_known_by_its_content_not_its_name(study_data):
    folder = study_data / "broken" / "images"
    for name in ("png_named.jpg", "gray16.png", "palette.png", "cmyk.jpg", "spaß 商品 #1.jpg", "one_pixel.png"):
        data = np.fromfile(folder / name, np.uint8)
        assert np.array_equal(images.decode(folder / name), cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]), name


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_exif_orientation(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / name, photo(), exif=exif)
    turned, stored = images.decode(path), images.decode(path, exif="ignore")
    assert np.array_equal(turned, imread(path))
    assert np.array_equal(stored, imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION))
    assert images.load(path).size == turned.shape[1::-1]
    assert stored.shape == (64, 96, 3)
    swapped = orientation >= 5
    assert np.array_equal(images.decode(path, exif="auto", declared=(64, 96) if swapped else (96, 64)), turned)
    if swapped:
        assert np.array_equal(images.decode(path, exif="auto", declared=(96, 64)), stored)
    else:
        with pytest.raises(ImageError, match="differs from the declared"):
            images.decode(path, exif="auto", declared=(64, 96))
    assert np.array_equal(images.decode(path, exif="apply", declared=(1, 1)), turned)


def test_broken_exif_counts_as_none(tmp_path):
    path = save(tmp_path / "a.jpg", photo(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert images.decode(path).shape == (64, 96, 3)


@pytest.mark.parametrize("name", ["a.jpg", "p.jpg", "cmyk.jpg", "a.png", "a.webp", "a.bmp", "a.tiff", "a.gif"])
def test_every_truncation_is_noticed(tmp_path, name):
    image = Image.fromarray(photo())
    image.convert("CMYK" if name == "cmyk.jpg" else "RGB").save(tmp_path / name, progressive=name == "p.jpg")
    data = (tmp_path / name).read_bytes()
    images.decode(tmp_path / name)
    for length in [1, 2, 10, *np.linspace(20, len(data) - 3, 40).astype(int)]:
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(ImageError, match=r"damaged or truncated|not an image"):
            images.decode(tmp_path / name)


def test_extraneous_bytes_before_the_end_do_no_harm(tmp_path):
    path = save(tmp_path / "a.jpg", photo())
    whole, data = images.decode(path), path.read_bytes()
    path.write_bytes(data[:-2] + b"\0\0\0" + data[-2:] + b"trailer")
    assert np.array_equal(images.decode(path), whole)


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "image file is empty"), (b"GIF89a, they said", "not an image"), (None, "image missing")]
)
def test_what_is_no_image_says_why(tmp_path, content, why):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=f"^{why}$"):
        images.decode(path)


def test_a_bomb_is_not_decoded(study_data, monkeypatch):
    monkeypatch.setattr(images, "plain_pixels", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="above --max_pixels"):
        images.decode(study_data / "broken" / "images" / "bomb.png")


def test_damaged_bytes_give_an_image_or_a_reason(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "a.png", "a.webp", "a.tiff", "a.gif", "a.bmp"):
        sound = np.frombuffer(save(tmp_path / name, photo()).read_bytes(), np.uint8)
        for _ in range(60):
            data = sound.copy()
            data[rng.integers(0, min(len(data), 400), 4)] = rng.integers(0, 256, 4)
            (tmp_path / name).write_bytes(data.tobytes())
            with contextlib.suppress(ImageError):
                assert images.decode(tmp_path / name, max_pixels=10**6).shape[2] == 3


def test_png_is_lossless_and_jpeg_near(tmp_path):
    array = photo(224, 224)
    (tmp_path / "a").write_bytes(images.encode(array, "png"))
    assert np.array_equal(images.decode(tmp_path / "a"), array)
    (tmp_path / "a").write_bytes(images.encode(array, "jpg", 95))
    options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    opencv = cv2.imdecode(cv2.imencode(".jpg", np.ascontiguousarray(array[..., ::-1]), options)[1], cv2.IMREAD_COLOR)
    ours, theirs = (np.mean((a.astype(float) - array) ** 2) for a in (images.decode(tmp_path / "a"), opencv[..., ::-1]))
    assert ours < theirs * 1.05


def test_any_jpeg_subsampling_equals_opencv(tmp_path):
    for factor in (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440):
        cv2.imwrite(str(tmp_path / "a.jpg"), photo(97, 61), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])
        assert np.array_equal(images.decode(tmp_path / "a.jpg"), imread(tmp_path / "a.jpg"))


def mean_over_area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Brute force in float64: the weight of pixel j in target pixel i is the length of their overlap."""

    def weights(n, m):
        overlap = [[max(0, min(j + 1, (i + 1) * n / m) - max(j, i * n / m)) for j in range(n)] for i in range(m)]
        return np.array(overlap) * m / n

    down, across = weights(image.shape[0], size[1]), weights(image.shape[1], size[0])
    return np.einsum("yh,hwc,xw->yxc", down, image.astype(float), across)


@pytest.mark.parametrize(
    ("source", "target"),
    [((97, 61), (32, 20)), ((300, 50), (224, 50)), ((50, 301), (50, 7)), ((1000, 9), (224, 4)), ((64, 64), (63, 63))],
)
def test_shrinking_averages_the_area(source, target):
    image = np.random.default_rng(1).integers(0, 256, (source[1], source[0], 3), dtype=np.uint8)
    shrunk = resizing.squash(image, target)
    assert np.abs(shrunk - mean_over_area(image, target)).max() < 0.5 + 1e-3
    opencv = cv2.resize(image, target, interpolation=cv2.INTER_AREA)
    assert np.mean(shrunk != opencv) < 1e-3


def test_each_axis_is_resized_on_its_own():
    image = photo(90, 60)
    assert np.array_equal(resizing.squash(image, (30, 20)), cv2.resize(image, (30, 20), interpolation=cv2.INTER_AREA))
    assert np.array_equal(
        resizing.squash(image, (180, 120)), cv2.resize(image, (180, 120), interpolation=cv2.INTER_CUBIC)
    )
    narrow = cv2.resize(image, (45, 60), interpolation=cv2.INTER_AREA)
    assert np.array_equal(resizing.squash(image, (45, 90)), cv2.resize(narrow, (45, 90), interpolation=cv2.INTER_CUBIC))
    assert np.array_equal(resizing.squash(image, (90, 60)), image)


def test_letterbox_keeps_the_shape_and_centres():
    image = np.full((50, 100, 3), 7, np.uint8)
    boxed = resizing.letterbox(image, (40, 40), "black")
    assert boxed.shape == (40, 40, 3)
    assert (boxed[10:30] == 7).all()
    assert not boxed[:10].any()
    assert not boxed[30:].any()
    assert (resizing.letterbox(image, (40, 41), "white")[:10] == 255).all()
    assert resizing.letterbox(np.zeros((1, 5000, 3), np.uint8), (20, 20)).shape == (20, 20, 3)


@pytest.mark.parametrize("region", [(-3, -4, 5, 6), (90, 60, 101, 70), (-200, -200, 300, 300), (10, 5, 20, 9)])
def test_what_lies_outside_the_image_is_filled(region):
    image, (left, top, right, bottom) = photo(), region
    over = (max(-top, 0), max(bottom - 64, 0), max(-left, 0), max(right - 96, 0))
    inner = image[max(top, 0) : bottom, max(left, 0) : right]
    white = cv2.copyMakeBorder(inner, *over, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    assert np.array_equal(resizing.cut(image, Region(*region, False), border="white"), white)
    mirrored = cv2.copyMakeBorder(image, 300, 300, 300, 300, cv2.BORDER_REFLECT_101)
    expected = mirrored[300 + top : 300 + bottom, 300 + left : 300 + right]
    assert np.array_equal(resizing.cut(image, Region(*region, False), border="reflect"), expected)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(
        images.ImageError, match="not an image: a pointer of Git LFS, not the file itself; fetch it with"
    ):
        images.decode(tmp_path / name)


@pytest.mark.parametrize("tags", [{254: 1}, {50706: b"\1\4\0\0"}])
def test_the_preview_in_a_cameras_raw_file_is_no_photo(tmp_path, tags):
    """DNG, NEF, ARW and CR2 are TIFF files whose first picture is a reduced one (tag 254), or say that they are DNG."""
    pixels = Image.fromarray(np.full((20, 30, 3), 99, np.uint8))
    pixels.save(tmp_path / "a.tif", tiffinfo={254: 0})
    assert images.decode(tmp_path / "a.tif").shape == (20, 30, 3)
    pixels.save(tmp_path / "a.dng", "TIFF", tiffinfo=tags)
    with pytest.raises(images.ImageError, match="a camera's raw file; export it as JPEG, PNG or TIFF"):
        images.decode(tmp_path / "a.dng")


def further(path) -> str:
    """What the header says is not read; the first page or frame is what decode() gives."""
    header = headers.open_header(path)
    assert header == headers.read_header(path.read_bytes())
    assert abs(images.decode(path).astype(int) - photo()).mean() < 60
    return header.further


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.webp", "a.png", "a.jpg"])
def test_further_pages_and_frames_are_told_once(tmp_path, name, capsys):
    messages.set_quiet(False)  # a new run
    path = tmp_path / name
    pages = [Image.fromarray(photo(seed=seed)) for seed in range(3)]
    pages[0].save(path)
    assert further(path) == ""
    assert capsys.readouterr().err == ""
    if name == "a.jpg":  # views of one photo, as phones write them
        pages[0].save(path, "MPO", save_all=True, append_images=pages[1:])
        assert further(path) == ""
        return
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert further(path) == ("2 further pages" if name == "a.tif" else "further frames")
    images.decode(path)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{path} holds {further(path)}; of each image the first is read (said once)" in error


def test_thumbnails_masks_and_damaged_pages_of_a_tiff_are_no_pages(tmp_path):
    pages = [Image.fromarray(photo(seed=seed)) for seed in range(4)]
    for page, kind in zip(pages[1:], (1, 4, 0), strict=True):  # a smaller copy, a mask, a page
        page.encoderinfo = {"tiffinfo": {254: kind}}
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert further(tmp_path / "a.tif") == "1 further page"
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:3])
    assert further(tmp_path / "b.tif") == ""
    # The first page leads back to itself, or to a place that is not in the file.
    one = tmp_path / "c.tif"
    pages[0].save(one)
    data = one.read_bytes()
    start = int.from_bytes(data[4:8], "little")
    link = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    for place in (start, 1 << 30):
        one.write_bytes(data[:link] + place.to_bytes(4, "little") + data[link + 4 :])
        assert headers.open_header(one).further == ""
        assert images.decode(one).shape == (64, 96, 3)
