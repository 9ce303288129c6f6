"""Boxes that cannot be right: the frame is chosen by the boxes of a file, wrong readings are told with what mends them."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

import crop

WIDTH, HEIGHT = 300, 200
TRUE = [(20, 30, 120, 100), (150, 60, 130, 120), (200, 10, 90, 80), (10, 120, 60, 70), (180, 130, 110, 60)]


@pytest.fixture
def photos(tmp_path):
    """A folder of three photos of 300 x 200 in which each box of TRUE has its own grey."""
    (tmp_path / "images").mkdir()
    pixels = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    for i, (x, y, w, h) in enumerate(TRUE):
        pixels[y : y + h, x : x + w] = 20 * i + 10
    for i in range(3):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def write(folder, boxes, declared=(WIDTH, HEIGHT), per_image=None) -> None:
    sizes = {"width": declared[0], "height": declared[1]} if declared else {}
    images = [{"id": i, "file_name": f"{i}.png", **sizes} for i in range(3)]
    rows = [
        {"id": 10 * i + j, "image_id": i, "category_id": 0, "bbox": list(box)}
        for i in range(3)
        for j, box in enumerate(boxes)
    ]
    coco = {"images": images, "annotations": rows, "categories": [{"id": 0, "name": "x"}]}
    (folder / "boxes.json").write_text(json.dumps(coco))


def run(folder, *options) -> int:
    argv = ["--json_path", folder / "boxes.json", "--image_folder", folder / "images", "--output_root", folder / "out"]
    return crop.main(list(map(str, [*argv, "--padding_percent", 0, *options])))


def cut(folder) -> list[tuple[int, ...]]:
    with open(folder / "out" / "crops.csv", newline="") as file:
        return [tuple(int(row[f"crop_{key}"]) for key in "xywh") for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("written", "option"),
    [
        (lambda x, y, w, h: (x, y, x + w, y + h), "--box_format xyxy"),
        (lambda x, y, w, h: (x + w / 2, y + h / 2, w, h), "--box_format cxcywh"),
        (lambda x, y, w, h: (x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT), "--box_units fraction"),
        (lambda x, y, w, h: (y, x, y + h, x + w), "--box_format yxyx"),
        (
            lambda x, y, w, h: (x / WIDTH, y / HEIGHT, (x + w) / WIDTH, (y + h) / HEIGHT),
            "--box_format xyxy --box_units fraction",
        ),
    ],
)
def test_other_readings_are_an_error_with_the_option_that_mends_them(photos, written, option, capsys):
    write(photos, [written(*box) for box in TRUE])
    assert run(photos) == 1
    error = capsys.readouterr().err
    assert f"{option} reads them so" in error
    assert not (photos / "out").exists()
    assert run(photos, *option.split()) == 0
    assert "leave" not in capsys.readouterr().err
    assert cut(photos) == TRUE * 3


def test_two_readings_that_fit_alike_are_both_named(photos, capsys):
    """Fractions fit as x, y, w, h and as centres where no box is near an edge: the sentence does not choose for the user."""
    inner = [(100, 70, 60, 40), (120, 60, 50, 60)]
    write(photos, [((x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT) for x, y, w, h in inner])
    assert run(photos) == 1
    error = capsys.readouterr().err
    assert "--box_units fraction reads them so (so may " in error
    assert "--box_format cxcywh --box_units fraction" in error
    assert run(photos, "--box_format", "cxcywh", "--box_units", "fraction") == 0
    assert cut(photos) == inner * 3


def test_boxes_in_percent_are_suspected_where_they_fit_as_pixels(photos, capsys):
    """15 boxes that all end within the first 100 x 100 pixels of 300 x 200: a chance of (1/6)^15; 3 boxes prove nothing."""
    write(photos, [(x / WIDTH * 100, y / HEIGHT * 100, w / WIDTH * 100, h / HEIGHT * 100) for x, y, w, h in TRUE])
    assert run(photos) == 0
    assert (
        "all 15 boxes have numbers from 0 to 100, as percent would; if they are percent, --box_units percent "
        in capsys.readouterr().err
    )
    assert run(photos, "--box_units", "percent", "--overwrite") == 0
    assert "percent" not in capsys.readouterr().err
    assert cut(photos) == TRUE * 3
    for boxes in (TRUE, [(5, 5, 20, 20)] * 4 + [(5, 5, 101, 20)], [(5, 5, 20, 20)]):
        write(photos, boxes)
        assert run(photos, "--overwrite") == 0
        assert "as percent would" not in capsys.readouterr().err


def test_fewer_than_a_quarter_is_a_warning(photos, capsys):
    good = [(5 + i, 5, 30, 30) for i in range(20)]
    write(photos, [*good, (280, 5, 60, 30), (-30, 5, 60, 30)])
    assert run(photos) == 0
    assert "6 of 66 boxes (9%) leave their photo" in capsys.readouterr().err
    write(photos, [*good, (0, 0, WIDTH + 1, HEIGHT + 1)])  # rounding
    assert run(photos, "--overwrite") == 0
    assert "leave" not in capsys.readouterr().err


def test_what_nothing_explains_is_told_and_cropped(photos, capsys):
    write(photos, [(-40, 20, 80, 80), (280, 150, 80, 30), (100, 100, 40, 40)])
    assert run(photos) == 0
    assert (
        "6 of 9 boxes (67%) leave their photo or are under two pixels, and no other reading" in capsys.readouterr().err
    )


def test_photos_of_another_size_than_declared(photos, capsys):
    write(photos, [tuple(4 * side for side in box) for box in TRUE], (4 * WIDTH, 4 * HEIGHT))
    assert run(photos) == 1
    error = capsys.readouterr().err
    assert "15 of 15 boxes are in photos of another size than declared" in error
    assert "0.png is 300 x 200, declared 1200 x 800); --rescale scales the boxes to the photos" in error
    assert run(photos, "--rescale") == 0
    assert cut(photos) == TRUE * 3
    assert run(photos, "--rescale", "--exif", "apply", "--overwrite") == 0
    assert cut(photos) == TRUE * 3


def turned(folder, orientation=6) -> None:
    """Store the photos turned back, so that EXIF turns them to 200 x 300 as seen: stored 300 x 200."""
    for i in range(3):
        image = Image.open(folder / "images" / f"{i}.png")
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(folder / "images" / f"{i}.png", exif=exif)


@pytest.mark.parametrize("declared", [(WIDTH, HEIGHT), (HEIGHT, WIDTH), None])
def test_boxes_say_in_which_frame_they_stand(photos, declared, capsys):
    """Whatever size is declared, boxes that fit only one of the two frames overrule it, for all photos of the file."""
    turned(photos)
    write(photos, TRUE, declared)  # right in the stored frame: 200 + 90 > 200
    assert run(photos) == 0
    assert cut(photos) == TRUE * 3
    assert ("fit only the photo as stored" in capsys.readouterr().err) == (declared != (WIDTH, HEIGHT))
    as_seen = [(HEIGHT - y - h, x, h, w) for x, y, w, h in TRUE]  # orientation 6: turned clockwise
    write(photos, as_seen, declared)
    assert run(photos, "--overwrite") == 0
    assert cut(photos) == as_seen * 3
    assert ("fit only the photo as turned" in capsys.readouterr().err) == (declared == (WIDTH, HEIGHT))
    assert run(photos, "--overwrite", "--exif", "ignore") == 0
    assert "in the photos turned by EXIF, 0 would: --exif apply" in capsys.readouterr().err


def test_small_boxes_leave_the_declared_size_in_charge(photos, capsys):
    turned(photos)
    for declared in ((WIDTH, HEIGHT), (HEIGHT, WIDTH)):
        write(photos, [(5, 6, 70, 80)], declared)
        assert run(photos, "--overwrite") == 0
        assert capsys.readouterr().err == ""
        shape = np.asarray(Image.open(photos / "images" / "0.png"))
        assert shape.shape[:2] == (HEIGHT, WIDTH)
        assert cut(photos) == [(5, 6, 70, 80)] * 3


@pytest.mark.parametrize("written", ["xyxy", "cxcywh", "yxyx"])
@pytest.mark.parametrize("cutout", ["box", "mask"])
def test_polygons_say_what_the_numbers_of_their_boxes_mean(photos, written, cutout, capsys):
    """All of these boxes fit into their photos as x, y, w, h, too: only the segmentations tell."""
    inner = [(100, 70, 60, 40), (120, 60, 50, 60), (90, 50, 40, 30)]
    mean = {
        "xyxy": lambda x, y, w, h: (x, y, x + w, y + h),
        "cxcywh": lambda x, y, w, h: (x + w / 2, y + h / 2, w, h),
        "yxyx": lambda x, y, w, h: (y, x, y + h, x + w),
    }
    write(photos, [mean[written](*box) for box in inner])
    content = json.loads((photos / "boxes.json").read_text())
    for number, item in enumerate(content["annotations"]):
        x, y, w, h = inner[number % 3]
        item["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (photos / "boxes.json").write_text(json.dumps(content))
    assert run(photos, "--cutout", cutout) == 1
    error = capsys.readouterr().err
    assert "100% of the first 9 boxes do not fit their own segmentations, key points or areas" in error
    assert f"100% do: --box_format {written} reads them so, --box_format xywh as now" in error
    assert run(photos, "--cutout", cutout, "--box_format", written) == 0
    assert cut(photos) == inner * 3
    write(photos, inner)
    sound = json.loads((photos / "boxes.json").read_text())
    for item, told in zip(sound["annotations"], content["annotations"], strict=True):
        item["segmentation"] = told["segmentation"]
    sound["annotations"][0]["segmentation"] = [[0, 0, 9, 0, 9, 9]]  # one that is wrong is no evidence
    (photos / "boxes.json").write_text(json.dumps(sound))
    assert run(photos, "--cutout", cutout, "--overwrite") == 0
    assert cut(photos) == inner * 3


@pytest.mark.parametrize(
    ("written", "evidence"), [("xyxy", "run lengths"), ("cxcywh", "run lengths"), ("cxcywh", "key points")]
)
def test_masks_and_key_points_say_what_the_numbers_mean(photos, written, evidence, capsys):
    inner = [(100, 70, 60, 40), (120, 60, 50, 60), (90, 50, 40, 30)]
    mean = {"xyxy": lambda x, y, w, h: (x, y, x + w, y + h), "cxcywh": lambda x, y, w, h: (x + w / 2, y + h / 2, w, h)}
    for form in (mean[written], lambda *box: box):
        write(photos, [form(*box) for box in inner])
        content = json.loads((photos / "boxes.json").read_text())
        for number, item in enumerate(content["annotations"]):
            x, y, w, h = inner[number % 3]
            if evidence == "run lengths":
                counts = [x * HEIGHT + y, *([h, HEIGHT - h] * w)]
                counts[-1] += (WIDTH - x - w) * HEIGHT - y
                item["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
            else:  # the third, at the first corner, is not labelled
                item["keypoints"] = [x + 3, y + 2, 2, x + w - 4, y + h - 5, 1, 0, 0, 0]
        (photos / "boxes.json").write_text(json.dumps(content))
        assert run(photos) == (form is mean[written])
        if form is mean[written]:
            assert f"100% do: --box_format {written} reads them so" in capsys.readouterr().err
    assert cut(photos) == inner * 3


def centred(n: int, size: int = 40) -> list[tuple[float, ...]]:
    """Boxes of whole corners and sides, written by their centres, that all fit as x, y, width, height, too."""
    boxes = [(20 + 7 * i, 15 + 5 * i, size + i, size + i // 2) for i in range(n)]
    return [(x + w / 2, y + h / 2, w, h) for x, y, w, h in boxes]


def test_centres_that_fit_as_corners_are_suspected_by_their_halves(photos, capsys):
    """x + width / 2 of whole numbers is a half where the width is odd: 45 odd and 45 even sides, a chance of 2^-45 each."""
    write(photos, centred(15, 20))
    assert run(photos) == 0
    told = "x and y of all 45 boxes are halves exactly where width and height are odd, as centres would be"
    assert told in capsys.readouterr().err
    assert run(photos, "--box_format", "cxcywh", "--overwrite") == 0
    assert "centre" not in capsys.readouterr().err
    assert cut(photos) == [(20 + 7 * i, 15 + 5 * i, 20 + i, 20 + i // 2) for i in range(15)] * 3
    # Corners in halves or whole; boxes of one odd size around whole points; a single box that contradicts; few boxes.
    halves = [(20.5 + i % 3, 15 + i, 31 + i, 20 + i % 7) for i in range(15)]
    points = [(20 + 7 * i - 7.5, 15 + 5 * i - 7.5, 15, 15) for i in range(15)]
    contradicted = [*centred(15, 20), (30, 30, 21, 20)]
    for boxes in (halves, points, contradicted, centred(2, 20)):
        write(photos, boxes)
        assert run(photos, "--overwrite") == 0
        assert "as centres would be" not in capsys.readouterr().err


@pytest.mark.parametrize("written", ["xyxy", "cxcywh"])
def test_corners_and_centres_in_percent_are_suspected_too(photos, written, capsys):
    boxes = [(20 + 7 * i, 15 + 4 * i, 60 + 2 * i, 40 + i) for i in range(15)]
    percent = [(x / WIDTH * 100, y / HEIGHT * 100, w / WIDTH * 100, h / HEIGHT * 100) for x, y, w, h in boxes]
    form = {"xyxy": lambda x, y, w, h: (x, y, x + w, y + h), "cxcywh": lambda x, y, w, h: (x + w / 2, y + h / 2, w, h)}
    write(photos, [form[written](*box) for box in percent])
    assert run(photos) == 0
    error = capsys.readouterr().err
    assert "all 45 boxes have numbers from 0 to 100, as percent would" in error
    assert f"--box_format {written} --box_units percent" in error
    assert run(photos, "--box_format", written, "--box_units", "percent", "--overwrite") == 0
    assert cut(photos) == boxes * 3


def test_a_reading_that_is_better_by_chance_is_not_named_alone(tmp_path, capsys):
    """Corners in percent of photos of 150 x 110: read as centres in pixels one box fewer is wrong, because a thin one is wider."""
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.fromarray(np.zeros((110, 150, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    write(tmp_path, [(60, 70, 75, 85), (70, 60, 95, 80), (50, 70, 70, 90), (65, 65, 66, 85)], (150, 110))
    assert run(tmp_path) == 1
    assert "--box_format xyxy --box_units percent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("area", "form", "told"),
    [
        (lambda x, y, w, h: w * h, lambda x, y, w, h: (x, y, x + w, y + h), True),
        (lambda x, y, w, h: w * h, lambda *box: box, False),
        (lambda x, y, w, h: w * h / 3, lambda x, y, w, h: (x, y, x + w, y + h), False),  # of a mask: says nothing
    ],
)
def test_areas_say_that_numbers_are_corners(photos, area, form, told, capsys):
    """Boxes in the first corner, all of which fit as x, y, width, height."""
    inner = [(30, 20, 40, 30), (50, 40, 30, 20), (40, 30, 50, 40)]
    write(photos, [form(*box) for box in inner])
    content = json.loads((photos / "boxes.json").read_text())
    for number, item in enumerate(content["annotations"]):
        item["area"] = area(*inner[number % 3])
    (photos / "boxes.json").write_text(json.dumps(content))
    assert run(photos) == told
    assert ("read as x1, y1, x2, y2, 100% do: --box_format xyxy" in capsys.readouterr().err) == told
    if told:
        assert run(photos, "--box_format", "xyxy") == 0
        assert set(cut(photos)) == set(inner)


def test_thousandths_of_the_sides(photos, capsys):
    """As models of pictures and language write boxes: 0 to 1000 in photos of any size."""
    boxes = [
        (round(x * 1000 / WIDTH), round(y * 1000 / HEIGHT), round(w * 1000 / WIDTH), round(h * 1000 / HEIGHT))
        for x, y, w, h in TRUE
    ]
    write(photos, boxes)
    assert run(photos) == 1
    assert "in permille, 0 would: --box_units permille reads them so" in capsys.readouterr().err
    assert run(photos, "--box_units", "permille") == 0
    for found, true in zip(cut(photos), TRUE * 3, strict=True):
        assert np.abs(np.subtract(found, true)).max() <= 1
