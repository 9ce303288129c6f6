"""The demo: shelf photographs whose boxes are where the packages are, and the sweep over paddings on them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT

from annotations import formats as annotations

sys.path.insert(0, str(ROOT / "examples"))
import make_shelf
from shelf import packages, scene

SMALL = ["--width", 330, "--height", 440, "--quiet"]
SPLITS = ("train", "val", "test")


def make(folder: Path, *options: object) -> int:
    return make_shelf.main([str(word) for word in ("--output_root", folder, *SMALL, *options)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(folder: Path, *names: str) -> list[annotations.Object]:
    objects = [item for name in names for item in annotations.parse((folder / name).read_bytes(), folder / name)]
    assert all(isinstance(item, annotations.Object) for item in objects)
    return objects


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    assert make(folder, "--shelves", 8) == 0
    return folder


def test_both_jsons_describe_the_same_boxes(shelf):
    def facts(objects):
        return {(one.sample_id, one.object_id): (one.split, one.classes, one.box) for one in objects}

    sku, coco = read(shelf, "annotations_sku.json"), read(shelf, *(f"{split}.json" for split in SPLITS))
    assert facts(sku) == facts(coco)
    assert len(facts(sku)) == len(sku) == len(coco) > 300
    by_id = {json.dumps(one.classes): one for one in sku}
    products = {tuple(product.classes): product.sku_id for product in packages.CATALOGUE}
    assert len(set(products.values())) == len(products) == len(by_id)
    for objects in json.loads((shelf / "annotations_sku.json").read_text()).values():
        assert all(products[tuple(one["classes"])] == one["sku_id"] for one in objects.values())


def test_a_shelf_stands_in_one_split_and_every_class_in_train(shelf):
    splits, classes, photos = defaultdict(set), defaultdict(set), defaultdict(set)
    for one in read(shelf, "annotations_sku.json"):
        shelf_name = one.sample_id.rsplit("_", 1)[0]
        splits[shelf_name].add(one.split)
        classes[one.split].add(one.classes)
        photos[shelf_name].add(one.sample_id)
    assert len(splits) == 8
    assert {len(found) for found in splits.values()} == {1}
    assert {len(found) for found in photos.values()} == {3}
    assert len(classes["train"]) == len(packages.CATALOGUE) == 24
    assert all(len(one) == 3 for one in classes["train"])
    assert len(classes["test"]) > 12
    assert len(classes["val"]) > 12


def test_same_seed_same_bytes_with_any_number_of_workers(shelf, tmp_path):
    assert make(tmp_path, "--shelves", 8, "--workers", 1) == 0
    again = contents(tmp_path)
    assert again == contents(shelf)
    assert len(again) == 8 * 3 + 4


def test_another_seed_draws_other_shelves():
    first, second = ([[facing.product for facing in bay] for bay in scene.arrange(4, seed)] for seed in (0, 1))
    assert first != second


def test_boxes_lie_within_a_few_pixels_of_what_is_painted(monkeypatch):
    """Each package is painted alone and without shadow on green: the pixels that are no longer green are the truth."""
    seen = {}

    def spy(picture, shelf, facings, rng):
        seen.update(camera=picture.camera, facings=facings)
        scene.paint_bay(picture, shelf, facings, rng)

    monkeypatch.setattr(make_shelf, "paint_bay", spy)
    shots = [make_shelf.Shot(number, number, tuple(bay)) for number, bay in enumerate(scene.arrange(3, seed=4))]
    taken = []
    for shot in shots:
        _, drawn = make_shelf.take(shot, seed=4, width=600, height=800)
        taken.append((seen["camera"], seen["facings"], drawn))

    for name in ("BEHIND", "CONTACT"):
        monkeypatch.setattr(scene, name, np.zeros_like(getattr(scene, name)))
    green = np.array([0, 255, 0])
    offsets = []
    for camera, facings, drawn in taken:
        boxes = list(drawn)
        for facing in facings:
            picture = scene.Picture(camera, green)
            scene.paint_package(picture, facing, np.random.default_rng(0))
            x, y, w, h = cv2.boundingRect((picture.pixels != green).any(2).astype(np.uint8))
            truth = np.array([x, y, x + w, y + h]) / scene.SHARPER
            if boxes and boxes[0].product == facing.product and abs(boxes[0].box - truth).max() < 30:
                offsets.append(boxes.pop(0).box - truth)
            else:  # more than half of it lies outside the photograph
                assert (truth[2:] - truth[:2]).min() < 60
        assert not boxes
    offsets = np.array(offsets)
    assert len(offsets) > 40
    assert abs(offsets).max() <= make_shelf.MISDRAWN + 2.5  # rounding, soft edges, round corners
    assert abs(offsets).mean() > 1.5  # and nobody draws exactly


def test_phones_store_photos_as_phones_do(shelf):
    declared = {
        image["file_name"]: (image["width"], image["height"])
        for split in SPLITS
        for image in json.loads((shelf / f"{split}.json").read_text())["images"]
    }
    assert {path.name for path in (shelf / "images").iterdir()} == set(declared)
    assert sum(name.endswith(".JPG") for name in declared) == 8
    turned = 0
    for name, size in declared.items():
        stored = cv2.imread(str(shelf / "images" / name), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        upright = cv2.imread(str(shelf / "images" / name))
        assert upright.shape[1::-1] == size == (330, 440)
        turned += stored.shape != upright.shape
    assert turned == 8


def test_a_turned_photo_is_upright_again_when_read():
    photo = np.zeros((40, 24, 3), np.uint8)
    photo[:8] = 255  # bright above
    phone = next(phone for phone in make_shelf.PHONES if phone.turned)
    upright = cv2.imdecode(np.frombuffer(make_shelf.encode(photo, phone), np.uint8), cv2.IMREAD_COLOR)
    assert upright.shape == photo.shape
    assert np.abs(upright.astype(int) - photo).mean() < 4


def test_packages_touch_overlap_and_stand_apart():
    gaps = []
    for bay in scene.arrange(16, seed=0):
        for left, right in pairwise(bay):
            a, b = left.product.line.size[0], right.product.line.size[0]
            if left.tier == right.tier:
                gaps.append((right.x - left.x - (a + b) / 2) / a)
    gaps = np.array(gaps)
    assert (gaps < 0).mean() > 0.05
    assert (gaps > 0.03).mean() > 0.3
    assert gaps.min() > -0.101


def test_too_few_shelves_for_all_classes(tmp_path, capsys):
    assert make(tmp_path, "--shelves", 3, "--photos_per_shelf", 1) == 2
    error = capsys.readouterr().err
    assert "classes are on no train photo" in error
    assert "--shelves" in error
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.study
def test_padding_sweep_runs_the_whole_study(tmp_path):
    data, out = tmp_path / "photos", tmp_path / "study"
    assert make(data, "--shelves", 8, "--photos_per_shelf", 1) == 0
    environment = {**os.environ, "PADDINGS": "0 20", "PYTHON": sys.executable}
    command = ["bash", str(ROOT / "examples" / "padding_sweep.sh"), "photos", str(out)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    crops = (out / "crops" / "pad_20" / "crops.csv").read_text().splitlines()
    assert len(crops) - 1 == len(read(data, "annotations_sku.json"))
    lines = (out / "accuracies.txt").read_text().splitlines()
    accuracies = dict(line.split(" => acc: ") for line in lines if " => acc: " in line)
    assert len(done.stdout.splitlines()) <= 100  # two screens
    expected = {f"Ref [{r}] Query {q}" for r in (0, 20) for q in (0, 20)}
    assert set(accuracies) == {*expected, "Ref [20@314] Query 20@314"}
    assert float(accuracies["Ref [0] Query 0"]) > 3 / 24  # far from guessing
    assert (out / "results.txt").read_text().startswith("Run: ")
    verdict = done.stdout[done.stdout.rindex("Which padding?") :]  # long lines are broken, otherwise here than there
    assert re.findall(r"^(\S.*?)\?", verdict, re.M) == ["Which padding", "Combine sets"]
    assert " ".join(verdict.split()) in " ".join((out / "results.txt").read_text().split())
    for name in ("report.html", "embeddings.parquet"):
        assert str(out / name) in done.stdout
        assert (out / name).stat().st_size > 10_000
