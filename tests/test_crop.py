"""crop.py on real and drawn photographs: exact boxes and pixels, nothing lost, safe to kill."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import paced
from PIL import Image

import crop
from common import files
from imaging import images

WIDTH, HEIGHT = 97, 61
BOXES = {  # name: x, y, w, h; the image is 97 x 61
    "inside": (30, 20, 25, 15),
    "left": (0, 20, 25, 15),
    "top": (30, 0, 25, 15),
    "right": (72, 20, 25, 15),
    "bottom": (30, 46, 25, 15),
    "corner": (90, 55, 7, 6),
    "over_left": (-10, 20, 25, 15),
    "over_bottom": (30.5, 55.25, 20, 20),
    "all": (0, 0, 97, 61),
    "halves": (10.5, 11.5, 7, 9),
    "tiny": (40, 30, 1, 1),
}


def photo(seed=0, width=WIDTH, height=HEIGHT) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def sku_object(x, y, w, h, label="A", split="train") -> dict:
    return {"points": {"top_left": [x, y], "bottom_right": [x + w, y + h]}, "sku_id": label, "split_id": split}


@pytest.fixture
def shelf(tmp_path) -> Path:
    """A folder with images/ and annotations.json: four PNG photos of eleven boxes each."""
    (tmp_path / "images").mkdir()
    annotations = {}
    for i in range(4):
        Image.fromarray(photo(i)).save(tmp_path / "images" / f"photo{i}.png")
        annotations[f"photo{i}"] = {name: sku_object(*box, label=f"L{i % 2}") for name, box in BOXES.items()}
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    return tmp_path


def run(folder: Path, *options: object) -> int:
    argv = ["--json_path", folder / "annotations.json", "--image_folder", folder / "images", *options]
    if "--output_root" not in options:
        argv += ["--output_root", folder / "crops"]
    return crop.main(list(map(str, argv)))


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    """Everything below the folder but the lock."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def independent_box(box, percent, w_pad=0, h_pad=0, size=(WIDTH, HEIGHT)) -> tuple[int, int, int, int]:
    """x, y, w, h of the padded and clipped box in exact fractions; round() of a fraction is half to even."""
    x, y, w, h = map(Fraction, box)
    x_pad, y_pad = w * Fraction(percent) / 100 + w_pad, h * Fraction(percent) / 100 + h_pad
    left, top = max(round(x - x_pad), 0), max(round(y - y_pad), 0)
    right, bottom = min(round(x + w + x_pad), size[0]), min(round(y + h + y_pad), size[1])
    return left, top, right - left, bottom - top


def test_boxes_at_all_borders_in_one_pass(shelf, monkeypatch):
    decoded = []
    decode = images.Encoded.decode
    monkeypatch.setattr(images.Encoded, "decode", lambda self: decoded.append(1) or decode(self))
    paddings = ["0", "5", "10", "7.5", "20", "100"]
    assert run(shelf, "--output_root", shelf / "pad_{padding}", "--padding_percent", *paddings) == 0
    assert len(decoded) == 4  # images, not images x paddings
    for padding in paddings:
        rows = table(shelf / f"pad_{padding}" / "crops.csv")
        assert len(rows) == 44
        for row in rows:
            box = BOXES[row["crop_id"].split("_", 1)[1]]
            padded = independent_box(box, Fraction(padding))
            assert tuple(int(row[f"crop_{key}"]) for key in "xywh") == padded, (row["crop_id"], padding)
            assert tuple(float(row[f"box_{key}"]) for key in "xywh") == box
            assert row["padding"] == padding
            x, y, w, h = box
            x_pad, y_pad = w * float(padding) / 100, h * float(padding) / 100
            over = round(x - x_pad) < 0 or round(y - y_pad) < 0
            over = over or round(x + w + x_pad) > WIDTH or round(y + h + y_pad) > HEIGHT
            assert row["clipped"] == str(int(over))


def test_pixel_padding(shelf):
    assert run(shelf, "--w_pad", "5", "--h_pad", "3", "--output_root", shelf / "{padding}") == 0
    rows = table(shelf / "w5h3" / "crops.csv")
    for row in rows:
        box = BOXES[row["crop_id"].split("_", 1)[1]]
        assert tuple(int(row[f"crop_{key}"]) for key in "xywh") == independent_box(box, 0, 5, 3)
    assert {row["padding"] for row in rows} == {"w5h3"}


@pytest.mark.parametrize("size", [(224, 224), (20, 30)])
def test_pixels_equal_an_opencv_loop(shelf, size):
    assert run(shelf, "--image_format", "png", "--target_w", size[0], "--target_h", size[1]) == 0
    for row in table(shelf / "crops" / "crops.csv"):
        image = cv2.imread(str(shelf / "images" / f"{row['sample_id']}.png"))
        x, y, w, h = (int(row[f"crop_{key}"]) for key in "xywh")
        cut = image[y : y + h, x : x + w]
        shrunk = cv2.resize(cut, (min(w, size[0]), min(h, size[1])), interpolation=cv2.INTER_AREA)
        expected = cv2.resize(shrunk, size, interpolation=cv2.INTER_CUBIC) if shrunk.shape[1::-1] != size else shrunk
        assert np.array_equal(cv2.imread(str(shelf / "crops" / row["path"])), expected), row["crop_id"]


def test_unresized_crops_are_the_image_itself(shelf):
    assert run(shelf, "--post_padding_method", "none", "--image_format", "png", "--padding_percent", 0) == 0
    for row in table(shelf / "crops" / "crops.csv"):
        x, y, w, h = (int(row[f"crop_{key}"]) for key in "xywh")
        image = images.decode(shelf / "images" / f"{row['sample_id']}.png")
        assert np.array_equal(images.decode(shelf / "crops" / row["path"]), image[y : y + h, x : x + w])


def test_filled_borders_keep_the_whole_padded_box(shelf):
    for border in ("reflect", "white", "black"):
        root = shelf / border
        options = ("--post_padding_method", "none", "--image_format", "png", "--padding_percent", 40)
        assert run(shelf, *options, "--border", border, "--output_root", root) == 0
        mode = {"reflect": cv2.BORDER_REFLECT_101}.get(border, cv2.BORDER_CONSTANT)
        value = (255,) * 3 if border == "white" else (0,) * 3
        for row in table(root / "crops.csv"):
            bx, by, bw, bh = map(Fraction, BOXES[row["crop_id"].split("_", 1)[1]])
            left, top = round(bx - bw * 2 / 5), round(by - bh * 2 / 5)
            right, bottom = round(bx + bw * 7 / 5), round(by + bh * 7 / 5)
            assert tuple(int(row[f"crop_{key}"]) for key in "xywh") == (left, top, right - left, bottom - top)
            assert row["clipped"] == "0"
            image = cv2.imread(str(shelf / "images" / f"{row['sample_id']}.png"))
            wide = cv2.copyMakeBorder(image, 99, 99, 99, 99, mode, value=value)
            expected = wide[99 + top : 99 + bottom, 99 + left : 99 + right]
            assert np.array_equal(cv2.imread(str(root / row["path"])), expected), (border, row["crop_id"])


@pytest.mark.parametrize("name", ["cards", "bccd"])
def test_sku_and_coco_give_the_same_crops(study_data, tmp_path, name, capsys):
    folder = study_data / name
    common = [
        "--image_folder",
        str(folder / "images"),
        "--target_w",
        "64",
        "--target_h",
        "48",
        "--padding_percent",
        "10",
    ]
    coco = [str(folder / f"{split}.json") for split in ("train", "val", "test")]
    by_sku, by_coco = tmp_path / "sku", tmp_path / "coco"
    argv = ["--json_path", str(folder / "annotations_sku.json"), "--output_root", str(by_sku)]
    assert crop.main([*argv, *common]) == 0
    assert crop.main(["--json_path", *coco, "--output_root", str(by_coco), *common]) == 0
    n = {"cards": 670, "bccd": 4886}[name]
    one, two = content(by_sku), content(by_coco)
    one_rows, two_rows = table(by_sku / "crops.csv"), table(by_coco / "crops.csv")
    for path in ("crops.csv", "skipped.csv", "crop.json"):
        del one[path], two[path]
    assert one == two
    assert len(one_rows) + len(table(by_sku / "skipped.csv")) == n
    assert capsys.readouterr().out.startswith(f"{len(one_rows):,} crops written, ")
    boxes = [{key: row[key] for key in row if key[:4] in ("path", "crop", "box_")} for row in one_rows]
    twins = {row["path"]: row for row in two_rows}
    assert len(twins) == len(boxes)
    for row in boxes:
        assert {key: twins[row["path"]][key] for key in row} == row
    sizes = {path.stem: cv2.imread(str(path)).shape for path in list((folder / "images").iterdir())[:50]}
    for row in one_rows:
        if row["sample_id"] in sizes:
            height, width = sizes[row["sample_id"]][:2]
            box = [Fraction(row[f"box_{key}"]) for key in "xywh"]
            expected = independent_box(box, 10, size=(width, height))
            assert tuple(int(row[f"crop_{key}"]) for key in "xywh") == expected


def test_broken_annotations_lose_no_good_row(study_data, tmp_path, capfd):
    broken = study_data / "broken"
    argv = ["--image_folder", str(broken / "images"), "--output_root", str(tmp_path / "out" / "crops"), "--json_path"]
    assert crop.main([*argv, str(broken / "annotations_sku.json")]) == 0
    rows, skipped = table(tmp_path / "out/crops/crops.csv"), table(tmp_path / "out/crops/skipped.csv")
    assert (len(rows), len(skipped)) == (16, 22)
    objects = json.loads((broken / "annotations_sku.json").read_text())
    assert sum(len(value) for value in objects.values()) == 38
    reasons = {(row["sample_id"], row["object_id"]): row["reason"] for row in skipped}
    assert reasons["good", "outside"] == "box outside the image"
    assert reasons["good", "sku_traversal"] == "unsafe label"
    assert reasons["truncated", "0"] == "image damaged or truncated"
    assert reasons["bomb", "0"] == "image above --max_pixels"
    assert reasons["../images/good", "0"] == "unsafe id"
    paths = {row["crop_id"]: row["path"] for row in rows}
    assert paths["spaß 商品 #1_0"] == "train/Süßware__商品/spaß 商品 #1_0.jpg"
    assert {row["class_0"] for row in rows} == {"A", "17", "Süßware/商品"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["crops"]
    assert set(content(tmp_path / "out/crops")) == {*paths.values(), "crops.csv", "skipped.csv", "crop.json"}
    captured = capfd.readouterr()
    assert captured.out.startswith("16 crops written, 22 skipped (2 box outside the image, 2 bad points, ")
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan_box", "no object could be cropped"),
        ("empty", "is empty"),
        ("latin1", "line 1: byte 0xe4"),
        ("not_a_dict", "neither SKU JSON"),
        ("truncated", "line 1, column 106"),
    ],
)
def test_broken_files_end_in_one_sentence(study_data, tmp_path, name, message, capsys):
    broken = study_data / "broken"
    argv = [
        "--json_path",
        broken / f"{name}.json",
        "--image_folder",
        broken / "images",
        "--output_root",
        tmp_path / "o",
    ]
    assert crop.main(list(map(str, argv))) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_broken_coco_keeps_its_one_sound_object(study_data, tmp_path, capsys):
    broken = study_data / "broken"
    argv = ["--json_path", broken / "coco.json", "--image_folder", broken / "images", "--output_root", tmp_path / "o"]
    assert crop.main(list(map(str, argv))) == 0
    (row,) = table(tmp_path / "o" / "crops.csv")  # its file_name is ../images/good.jpg
    assert (row["crop_id"], row["path"]) == ("good_2", "all/A/good_2.jpg")
    skipped = table(tmp_path / "o" / "skipped.csv")
    assert len(skipped) == 8
    assert {row["file"] for row in skipped} == {str(broken / "coco.json")}
    captured = capsys.readouterr()
    assert captured.out.startswith("1 crop written, 8 skipped (6 ambiguous image_id, ")
    assert "1 of 2 boxes are in photos of another size than declared" in captured.err


def test_the_older_readme_command_works_as_it_stands(shelf, script):
    command = "crop.py --json_path annotations.json --image_folder images/ --output_root cropped_images/"
    done = script(*command.split(), cwd=shelf)
    assert done.returncode == 0
    warning = "warning: annotations.json: 12 of 44 boxes (27%) leave their photo or are under two pixels, and no other"
    assert done.stderr.startswith(warning)
    assert done.stderr.count("\n") == 1
    assert done.stdout == "44 crops written, 0 skipped\n"
    rows = table(shelf / "cropped_images" / "crops.csv")
    assert rows[0] == {
        "path": "train/L0/photo0_inside.jpg",
        "split": "train",
        "sample_id": "photo0",
        "crop_id": "photo0_inside",
        "class_0": "L0",
        **dict(zip(("box_x", "box_y", "box_w", "box_h"), ("30", "20", "25", "15"), strict=True)),
        **dict(zip(("crop_x", "crop_y", "crop_w", "crop_h"), ("30", "20", "25", "15"), strict=True)),
        "padding": "0",
        "clipped": "0",
        "object_px": "",
        **dict(zip(("object_left", "object_top", "object_right", "object_bottom"), "0011", strict=True)),
    }
    assert cv2.imread(str(shelf / "cropped_images" / rows[0]["path"])).shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--padding_percent", "0", "10"], "need {padding} in --output_root"),
        (["--padding_percent", "10", "--w_pad", "3"], "give one of the two"),
        (["--padding_percent", "-5"], "is not from 0"),
        (["--padding_percent", "nan"], "nan"),
        (["--split_names", "train"], "OLD=NEW"),
        (["--target_w", "0"], "0 is not"),
        (["--object_px", "224", "--target_w", "300"], "give one of them"),
        (["--object_px", "224", "--post_padding_method", "none"], "leave one away"),
        (["--border", "green"], "invalid choice"),
        (["--pad", "3"], "there is no option --pad; did you mean --w_pad?"),
    ],
)
def test_contradicting_options_are_usage_errors(shelf, options, message, capsys):
    assert run(shelf, *options) == 2
    assert message in capsys.readouterr().err
    assert not (shelf / "crops").exists()


def test_missing_inputs_name_the_file_and_leave_nothing_behind(shelf, capsys):
    for option in ("--json_path", "--image_folder"):
        assert run(shelf, option, shelf / "absent") == 1
        assert f"{shelf / 'absent'}: no such" in capsys.readouterr().err
    assert not (shelf / "crops").exists()


def test_ids_find_their_files(tmp_path, capsys):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    ids = {  # id in the annotations: file on the disk
        "a": "a.JPG",
        "b.png": "b.PNG",
        "c.v2": "c.v2.jpeg",
        "sub/d": "sub/d.png",
        "sub\\e.png": "sub/e.png",
        "f.jpg": "f.jpg.png",
        "u\u0308ber": "über.png",
    }
    for name in ids.values():
        data = images.encode(photo(), "jpg" if name.lower().endswith(("jpg", "jpeg")) else "png")
        (tmp_path / "images" / name).write_bytes(data)
    (tmp_path / "annotations.json").write_text(json.dumps({name: {"1": sku_object(5, 5, 9, 9)} for name in ids}))
    assert run(tmp_path) == 0
    rows = table(tmp_path / "crops" / "crops.csv")
    assert [row["sample_id"] for row in rows] == list(ids)
    assert [row["crop_id"] for row in rows] == [f"{name}_1" for name in ids]
    assert rows[3]["path"] == "train/A/sub__d_1.jpg"

    (tmp_path / "images" / "a.png").write_bytes(images.encode(photo(), "png"))
    assert run(tmp_path, "--overwrite") == 0
    assert table(tmp_path / "crops" / "skipped.csv")[0]["reason"] == "image ambiguous: a.JPG and a.png"
    assert "6 crops written, 1 skipped (1 image ambiguous)" in capsys.readouterr().out


def test_two_objects_of_one_crop_id_are_an_error_naming_both(shelf, capsys):
    for one, two in ((("photo0", "1_2"), ("photo0_1", "2")), (("x/photo0", "1"), ("x__photo0", "1"))):
        for sample in (one[0], two[0]):
            target = shelf / "images" / f"{sample}.png"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(images.encode(photo(), "png"))
        objects = {sample: {key: sku_object(1, 1, 9, 9)} for sample, key in (one, two)}
        (shelf / "annotations.json").write_text(json.dumps(objects))
        assert run(shelf) == 1
        error = capsys.readouterr().err
        assert f"object {one[1]!r} of image {one[0]!r}" in error
        assert f"object {two[1]!r} of image {two[0]!r}" in error
    assert not (shelf / "crops").exists()


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("../x", "unsafe label"),
        ("a/../../x", "unsafe label"),
        ("..", "unsafe label"),
        (".", "unsafe label"),
        ("a\0b", "unsafe label"),
        ("a\rb", "unsafe label"),
        ("\ud800", "unsafe label"),
        ("x" * 256, "label too long"),
        ("商" * 86, "label too long"),
        ("商" * 85, None),
        ("a..b/c", None),
        ("-rf *", None),
        ("/etc/passwd", None),
        ("😀", None),
    ],
)
def test_labels_as_folder_names(tmp_path, label, reason):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "p.png").write_bytes(images.encode(photo(), "png"))
    objects = {"1": sku_object(1, 1, 9, 9, label=label), "2": sku_object(1, 1, 9, 9)}
    (tmp_path / "annotations.json").write_text(json.dumps({"p": objects}))
    before = set(tmp_path.iterdir())
    assert run(tmp_path) == 0
    assert set(tmp_path.iterdir()) - before == {tmp_path / "crops"}
    rows, skipped = table(tmp_path / "crops/crops.csv"), table(tmp_path / "crops/skipped.csv")
    assert [row["reason"] for row in skipped] == ([reason] if reason else [])
    if reason is None:
        assert (rows[0]["class_0"], rows[0]["path"]) == (label, f"train/{label.replace('/', '__')}/p_1.jpg")
        assert (tmp_path / "crops" / rows[0]["path"]).is_file()


def test_class_levels(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "p.png").write_bytes(images.encode(photo(), "png"))
    objects = {
        "1": {**sku_object(1, 1, 9, 9), "classes": ["brand", "tea", "mint"]},
        "2": {**sku_object(1, 1, 9, 9), "classes": ["brand", "milk"]},
    }
    (tmp_path / "annotations.json").write_text(json.dumps({"p": objects}))
    assert run(tmp_path) == 0
    rows = table(tmp_path / "crops" / "crops.csv")
    assert [[row[f"class_{level}"] for level in range(3)] for row in rows] == [
        ["brand", "tea", "mint"],
        ["brand", "milk", ""],
    ]
    assert [row["path"] for row in rows] == ["train/mint/p_1.jpg", "train/milk/p_2.jpg"]


def test_exif_is_checked_against_the_declared_size(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo()).save(tmp_path / "images" / "p.png", exif=exif)  # 97 x 61 stored, 61 x 97 as seen
    stored = photo()
    seen = cv2.rotate(stored, cv2.ROTATE_90_CLOCKWISE)
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 7, 20, 30]}
    for declared, options, expected in [
        ((61, 97), [], seen),
        ((97, 61), [], stored),
        (None, [], seen),
        ((61, 97), ["--exif", "ignore"], stored),
        ((97, 61), ["--exif", "apply"], seen),
        ((300, 200), [], None),
        ((300, 200), ["--exif", "apply"], seen),
    ]:
        size = {"width": declared[0], "height": declared[1]} if declared else {}
        coco = {"images": [{"id": 1, "file_name": "p.png", **size}], "annotations": [row]}
        (tmp_path / "annotations.json").write_text(json.dumps({**coco, "categories": [{"id": 1, "name": "A"}]}))
        options = [
            *options,
            "--padding_percent",
            0,
            "--post_padding_method",
            "none",
            "--image_format",
            "png",
            "--overwrite",
        ]
        code = run(tmp_path, *options)
        if expected is None:
            assert code == 1
            assert "1 image size differs from the declared one" in capsys.readouterr().out
        else:
            assert code == 0
            cut = images.decode(tmp_path / "crops" / "all" / "A" / "p_1.png")
            assert np.array_equal(cut, expected[7:37, 5:25]), (declared, options)


def test_strict_makes_skips_fail_and_the_same_objects_are_skipped_at_every_padding(shelf, capsys):
    content = json.loads((shelf / "annotations.json").read_text())
    content["photo0"].update(beside=sku_object(98, 5, 20, 20), hair=sku_object(10.6, 10, 0.3, 9))
    (shelf / "annotations.json").write_text(json.dumps(content))
    options = ("--padding_percent", 0, 40, "--output_root", shelf / "{padding}")
    assert run(shelf, *options) == 0
    for padding in ("0", "40"):
        reasons = {row["object_id"]: row["reason"] for row in table(shelf / padding / "skipped.csv")}
        assert reasons == {"beside": "box outside the image", "hair": "box under one pixel"}
    assert (
        "40: 44 crops written, 2 skipped (1 box outside the image, 1 box under one pixel), see "
        in capsys.readouterr().out
    )
    assert run(shelf, *options, "--strict") == 1
    assert "--strict" in capsys.readouterr().err


def test_a_second_run_does_only_what_is_missing(shelf, capsys):
    assert run(shelf) == 0
    before = content(shelf / "crops")
    gone = [shelf / "crops" / name for name in ("train/L0/photo0_top.jpg", "train/L1/photo3_all.jpg")]
    stays = shelf / "crops" / "train/L0/photo0_left.jpg"
    mark = stays.stat().st_mtime_ns
    for path in gone:
        path.unlink()
    capsys.readouterr()
    assert run(shelf) == 0
    assert capsys.readouterr().out == "2 crops written (42 there already), 0 skipped\n"
    assert (content(shelf / "crops"), stays.stat().st_mtime_ns) == (before, mark)
    assert run(shelf) == 0
    assert capsys.readouterr().out == "nothing to do (44 there already), 0 skipped\n"


def test_changed_options_or_input_are_refused_until_overwrite(shelf, capsys):
    assert run(shelf) == 0
    (shelf / "crops" / "train" / "L0" / "mine.txt").write_text("kept")
    before = content(shelf / "crops")
    for options in (["--padding_percent", "5"], ["--jpeg_quality", "80"], ["--split_names", "train=x"]):
        assert run(shelf, *options) == 1
        assert "add --overwrite" in capsys.readouterr().err
    image = shelf / "images" / "photo0.png"
    os.utime(image, ns=(1, 1))
    assert run(shelf) == 1
    assert "images" in capsys.readouterr().err
    assert content(shelf / "crops") == before

    assert run(shelf, "--split_names", "train=x", "--image_format", "png", "--overwrite") == 0
    after = content(shelf / "crops")
    assert after["train/L0/mine.txt"] == b"kept"
    crops = {row["path"] for row in table(shelf / "crops" / "crops.csv")}
    assert set(after) - {"train/L0/mine.txt", "crops.csv", "skipped.csv", "crop.json"} == crops
    assert not (shelf / "crops" / "train" / "L1").exists()


def test_a_run_without_any_crop_does_not_stand_in_the_way(shelf, capsys):
    (shelf / "other").mkdir()
    assert run(shelf, "--image_folder", shelf / "other") == 1
    said = capsys.readouterr()
    assert said.out.startswith("0 crops written, 44 skipped (44 image missing), see ")
    assert f"warning: 44 objects without an image, the first: there is no {shelf / 'other'}/" in said.err
    assert len(table(shelf / "crops" / "skipped.csv")) == 44
    assert run(shelf) == 0
    assert len(table(shelf / "crops" / "crops.csv")) == 44
    assert table(shelf / "crops" / "skipped.csv") == []


def test_a_foreign_folder_is_left_alone(shelf, capsys):
    target = shelf / "crops" / "train" / "L0" / "photo0_top.jpg"
    target.parent.mkdir(parents=True)
    target.write_text("mine")
    assert run(shelf) == 1
    assert "that crop.py has not made" in capsys.readouterr().err
    assert content(shelf / "crops") == {"train/L0/photo0_top.jpg": b"mine"}
    assert run(shelf, "--overwrite") == 0
    assert images.decode(target).shape == (224, 224, 3)


def test_a_second_run_at_the_same_time_stops(shelf, script):
    with files.locked(shelf / "crops" / "10" / ".lock"):
        done = script("crop.py", *arguments(shelf))
    assert done.returncode == 1
    assert "another run is writing here" in done.stderr
    assert script("crop.py", *arguments(shelf)).returncode == 0


def arguments(folder: Path) -> list[str]:
    names = (("--json_path", "annotations.json"), ("--image_folder", "images"), ("--output_root", "crops/{padding}"))
    return [*(str(part) for name, path in names for part in (name, folder / path)), "--padding_percent", "0", "10"]


@pytest.fixture
def large_shelf(tmp_path) -> Path:
    """Twenty-four photos with twelve boxes each, 576 crops at two paddings: some seconds of work."""
    (tmp_path / "images").mkdir()
    data = images.encode(photo(3, 1600, 1100), "jpg")
    rng, annotations = random.Random(0), {}
    for i in range(24):
        (tmp_path / "images" / f"p{i}.jpg").write_bytes(data)
        boxes = [(rng.randrange(1200), rng.randrange(600), 300, 400) for _ in range(12)]
        annotations[f"p{i}"] = {str(j): sku_object(*box, label=f"L{j % 3}") for j, box in enumerate(boxes)}
    annotations["p7"]["bad"] = sku_object(5000, 5000, 9, 9)
    annotations["absent"] = {"0": sku_object(0, 0, 9, 9)}
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    return tmp_path


@pytest.mark.parametrize("n_kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_run_again(large_shelf, root, n_kills):
    command = [sys.executable, str(root / "crop.py"), *arguments(large_shelf)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    uninterrupted = content(large_shelf / "crops")
    (large_shelf / "crops").rename(large_shelf / "done")
    rng, there = random.Random(1), {}
    for kill in range(n_kills):
        new = rng.randrange(1, 1000 // (2 * n_kills))
        held = paced(large_shelf / f"pace{kill}", most=new + 2)
        process = subprocess.Popen(command, env=held, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = len(there) + new
        while process.poll() is None and len(crops_there(large_shelf)) < wanted:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = crops_there(large_shelf)
        assert all(now[path] == mark for path, mark in there.items())  # nothing is done twice
        there = now
    assert 0 < len(there) < 576
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert " there already), 2 skipped (1 box outside the image, 1 image missing), see " in done.stdout
    assert content(large_shelf / "crops") == uninterrupted  # no temporary file is left either


def crops_there(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("crops/*/*/*/*.jpg") if path.name[0] != "."}


def test_killed_then_overwritten_leaves_nothing_of_the_old_run(large_shelf, root):
    command = [sys.executable, str(root / "crop.py"), *arguments(large_shelf)]
    process = subprocess.Popen(
        [*command, "--image_format", "png"],
        env=paced(large_shelf / "pace", most=20),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and len(list(large_shelf.glob("crops/*/*/*/*.png"))) < 20:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert subprocess.run(command, check=False, capture_output=True).returncode == 1
    assert subprocess.run([*command, "--overwrite"], check=False, capture_output=True).returncode == 0
    assert not list(large_shelf.rglob("crops/**/*.png"))
    assert len(crops_there(large_shelf)) == 576


def test_control_c_stops_within_two_seconds_with_a_summary(large_shelf, root):
    command = [sys.executable, str(root / "crop.py"), *arguments(large_shelf)]
    slow = paced(large_shelf / "pace", pause=0.1)  # half a minute for all
    process = subprocess.Popen(command, env=slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(crops_there(large_shelf)) < 50:
        time.sleep(0.01)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert time.monotonic() - start < 10  # two seconds, where nothing else runs
    assert process.returncode == 130
    assert stdout == ""
    assert "of 24 images done" in stderr
    assert "run the same command again to go on" in stderr
    assert "Traceback" not in stderr
    assert not (large_shelf / "crops" / "0" / "crops.csv").exists()


def test_unwritable_output_is_one_sentence_and_the_run_goes_on_later(shelf, root):
    command = [sys.executable, str(root / "crop.py"), *arguments(shelf)]
    if os.geteuid() == 0:  # root ignores permissions unless it gives up that right
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is missing, and root may write anywhere")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    (shelf / "crops").mkdir(mode=0o555)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "permission denied; change its permissions" in done.stderr
    assert done.stderr.count("\n") == 2  # with the warning of boxes that leave the photos
    (shelf / "crops").chmod(0o755)
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    (shelf / "crops" / "0" / "train" / "L0" / "photo0_top.jpg").unlink()
    (shelf / "crops" / "0" / "train" / "L0").chmod(0o555)  # lost while the run goes on
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "photo0_top.jpg: permission denied" in done.stderr
    (shelf / "crops" / "0" / "train" / "L0").chmod(0o755)
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(large_shelf, small_disk, root):
    target = small_disk(1)
    (large_shelf / "crops").symlink_to(target)
    command = [sys.executable, str(root / "crop.py"), *arguments(large_shelf)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no space is left on its disk; free some and run the same command again" in done.stderr
    assert done.stderr.count("crop.py: error: ") == 1
    assert done.stderr.count("\n") == 2  # the other line: an image is missing
    assert all(images.decode(path).shape == (224, 224, 3) for path in crops_there(large_shelf))
    assert not list(target.rglob("*.tmp"))
    small_disk(200)
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert len(crops_there(large_shelf)) == 576


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, root):
    status = Path("/proc/self/status")  # getrusage would count what this process holds
    if not status.exists():
        pytest.skip("no /proc to read a process's peak memory from")
    data = images.encode(photo(5, 1200, 900), "jpg")
    (tmp_path / "images").mkdir()
    code = "import sys, crop; assert crop.main(sys.argv[1:]) == 0; print(open('/proc/self/status').read())"
    peaks = []
    for n in (8, 32, 128):
        objects = {f"p{i}": {str(j): sku_object(50 * j, 40 * j, 300, 300) for j in range(3)} for i in range(n)}
        (tmp_path / "annotations.json").write_text(json.dumps(objects))
        for name in objects:
            (tmp_path / "images" / f"{name}.jpg").write_bytes(data)
        command = [sys.executable, "-c", code, *arguments(tmp_path), "--overwrite", "--quiet"]
        done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
        peaks.append(int(re.search(r"VmHWM:\s+(\d+)", done.stdout)[1]))
    assert peaks[2] < 1.1 * peaks[1]
