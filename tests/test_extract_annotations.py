"""extract_embedding.py --json_path: the same sets as over folders of PNG crops, without crops on disk."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crop
import extract_embedding
from cropping import cutter
from imaging import images

TINY = textwrap.dedent(
    """
    import os, time
    import torch

    class Slow(torch.nn.Module):
        def forward(self, x):
            time.sleep(float(os.environ.get("SLOW", 0)))
            return x

    def make():
        torch.manual_seed(5)
        model = torch.nn.Sequential(
            Slow(), torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
        )
        model.preprocess = {"height": 32, "width": 32, "interpolation": "bilinear"}
        return model
    """
)
TAKEN = ("embeddings", "labels", "crop_ids", "sample_ids", "paths")
MODEL = ("--model", "tiny_encoder:make", "--company_name", "c", "--batch_size", "4")


def noisy(seed: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """Nine photos: one turned by EXIF, one transparent, one damaged; objects in the order of no photo; boxes to be skipped."""
    folder = tmp_path / "photos"
    folder.mkdir()
    entries, rows = [], []
    for number in range(9):
        name, picture = f"p{number}.{'png' if number == 1 else 'jpg'}", noisy(number, 90 + number, 70)
        if number == 1:
            picture.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, (70, 91), np.uint8)))
        exif = Image.Exif()
        exif[274] = 6 if number == 0 else 1
        picture.save(folder / name, exif=exif.tobytes())
        size = (70, 90) if number == 0 else picture.size
        entries.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
    data = (folder / "p2.jpg").read_bytes()
    (folder / "p2.jpg").write_bytes(data[: len(data) // 2])
    for at in range(30):
        number = at * 4 % 9
        box = [3 + at, 5 + at % 7, 20 + at % 5, 17]
        triangle = [box[0], box[1], box[0] + box[2], box[1], box[0], box[1] + box[3]]
        row = {"id": at, "image_id": number, "category_id": at % 3, "bbox": box, "iscrowd": int(at == 7)}
        rows.append({**row, "segmentation": [triangle]})
    rows.append({"id": 90, "image_id": 3, "category_id": 0, "bbox": [300, 5, 9, 9]})
    rows.append({"id": 91, "image_id": 99, "category_id": 0, "bbox": [3, 5, 9, 9]})
    names = [{"id": at, "name": name} for at, name in enumerate(("king", "ace", "Müller & Söhne"))]
    content = {"images": entries, "annotations": rows, "categories": names}
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "tiny_encoder.py").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("SLOW", raising=False)
    sys.modules.pop("tiny_encoder", None)
    return tmp_path


def both_ways(options: list[str], *model: str) -> tuple[list[Path], list[Path]]:
    source = ["--json_path", "train.json", "--image_folder", "photos", *options]
    assert crop.main([*source, "--image_format", "png", "--output_root", "crops/{padding}"]) == 0
    roots = sorted(map(str, Path("crops").iterdir()))
    assert extract_embedding.main(["--data_root", *roots, *model, "--output_root", "folders"]) == 0
    assert extract_embedding.main([*source, *model, "--output_root", "straight"]) == 0
    return sorted(Path("folders").glob("*.npz")), sorted(Path("straight").glob("*.npz"))


@pytest.mark.parametrize(
    "options",
    [
        ["--padding_percent", "0", "12.5", "40"],
        ["--padding_percent", "0", "30", "--cutout", "mask", "--fill", "gray", "--post_padding_method", "none"],
        ["--w_pad", "7", "--border", "reflect", "--post_padding_method", "resize_with_padding", "--target_w", "50"],
        ["--padding_percent", "5", "10", "--background", "black", "--exif", "ignore", "--rescale"],
        ["--padding_percent", "0", "10", "--split_by_photo", "50/25/25", "--seed", "3"],
    ],
    ids=lambda options: "_".join(options).replace("--", ""),
)
def test_the_sets_are_those_of_png_crops_bit_for_bit(work, options):
    folders, straight = both_ways(options, *MODEL)
    assert [path.name for path in folders] == [path.name for path in straight]
    assert len(folders) >= 1
    for one, other in zip(folders, straight, strict=True):
        with np.load(one) as expected, np.load(other) as found:
            assert expected["embeddings"].any()
            for name in TAKEN:
                assert np.array_equal(expected[name], found[name]), (one, name)
            metas = [json.loads(str(archive["meta"])) for archive in (expected, found)]
        own = {"input", "data_root", "crop", "skipped", "contents"}  # of the crops folder there, of the photos here
        assert {k: v for k, v in metas[0].items() if k not in own} == {
            k: v for k, v in metas[1].items() if k not in own | {"background"}
        }


def test_a_real_model_gives_the_same_bits(work):
    folders, straight = both_ways(["--padding_percent", "0", "20"], "--company_name", "c", "--precision", "fp32")
    for one, other in zip(folders, straight, strict=True):
        with np.load(one) as expected, np.load(other) as found:
            assert expected["embeddings"].shape == (26, 1280)
            assert np.array_equal(expected["embeddings"], found["embeddings"])


def test_lost_objects_are_named_as_crop_py_names_them(work, capsys):
    both_ways(["--padding_percent", "0", "10"], *MODEL)
    said = capsys.readouterr()
    for line in ("c_0: 26 crops embedded, 6 skipped", "c_10: 26 crops embedded, 6 skipped"):
        assert line in said.err
    for padding in ("0", "10"):
        expected = list(csv.reader(Path(f"crops/{padding}/skipped.csv").read_text().splitlines()))
        found = list(csv.reader(Path(f"straight/c_{padding}_skipped.csv").read_text().splitlines()))
        assert sorted(expected) == sorted(found)
        assert len(found) == 7
        counted = said.out.partition(f"crops/{padding}: ")[2].partition("(")[2].partition(")")[0]
        assert f"6 skipped ({counted})" in said.err
    assert extract_embedding.main([*SOURCE, *MODEL, "--output_root", "straight", "--strict"]) == 1


SOURCE = ("--json_path", "train.json", "--image_folder", "photos", "--padding_percent", "0", "10")


def test_each_photo_is_decoded_once_for_all_paddings(work, monkeypatch):
    assert extract_embedding.main([*SOURCE, *MODEL, "--output_root", "first", "--precision", "fp32"]) == 0
    decoded, decode = [], images.Encoded.decode
    monkeypatch.setattr(images.Encoded, "decode", lambda self: (decoded.append(self.path), decode(self))[1])
    assert extract_embedding.main([*SOURCE, *MODEL, "--output_root", "straight", "--precision", "fp32"]) == 0
    assert sorted(decoded) == [f"photos/p{n}.{'png' if n == 1 else 'jpg'}" for n in range(9)]


def test_the_speed_of_each_id_is_noted(work):
    assert extract_embedding.main([*SOURCE, *MODEL, "--output_root", "straight"]) == 0
    path = Path("straight/models.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["id"], row["images"]) for row in rows] == [("0", "29"), ("10", "29")]
    assert all(float(row["seconds"]) > 0 for row in rows)
    header, *lines = path.read_text().splitlines()  # as an older version wrote it, for all IDs together
    path.write_text("\n".join(line.rpartition(",")[0] for line in (header, lines[0])) + "\n")
    assert extract_embedding.main([*SOURCE, *MODEL, "--output_root", "straight", "--overwrite"]) == 0
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["id"], row["images"]) for row in rows] == [("", "29"), ("0", "29"), ("10", "29")]


def test_a_photo_of_very_many_crops_comes_in_parts(work, monkeypatch):
    from cropping import photos

    assert extract_embedding.main([*SOURCE, *MODEL, "--output_root", "whole"]) == 0
    monkeypatch.setattr(photos, "_MOST", 2)
    assert extract_embedding.main([*SOURCE, *MODEL, "--output_root", "parts"]) == 0
    for path in Path("whole").glob("*.npz"):
        assert (Path("parts") / path.name).read_bytes() == path.read_bytes()


def test_a_killed_run_goes_on_and_ends_with_the_same_files(work, root):
    command = [sys.executable, str(root / "extract_embedding.py"), *SOURCE, *MODEL, "--precision", "fp32"]
    subprocess.run([*command, "--output_root", "whole"], check=True, capture_output=True)
    slow = {**os.environ, "SLOW": "0.5", "PYTHONPATH": str(work)}
    run = subprocess.Popen([*command, "--output_root", "killed"], env=slow, stderr=subprocess.DEVNULL)
    logs = [Path(f"killed/.c_{padding}_train.partial/batches.jsonl") for padding in (0, 10)]
    deadline = time.monotonic() + 60
    while not all(log.is_file() and log.stat().st_size for log in logs) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not list(Path("killed").glob("*.npz"))
    done = subprocess.run([*command, "--output_root", "killed"], check=True, capture_output=True, text=True)
    assert "going on after" in done.stderr
    for path in Path("whole").glob("*.npz"):
        assert (Path("killed") / path.name).read_bytes() == path.read_bytes()


def test_what_has_changed_is_noticed(work, capsys):
    command = [*SOURCE, *MODEL, "--output_root", "straight"]
    assert extract_embedding.main(command) == 0
    assert extract_embedding.main(command) == 0
    assert "c_10_train: complete already" in capsys.readouterr().err
    assert extract_embedding.main([*command, "--border", "reflect"]) == 1
    assert "crop.border" in capsys.readouterr().err
    os.utime("photos/p3.jpg", (1, 1))
    assert extract_embedding.main(command) == 1
    assert "images or labels were added, removed or changed" in capsys.readouterr().err
    assert extract_embedding.main([*command, "--overwrite"]) == 0
    content = json.loads(Path("train.json").read_text())
    content["annotations"][0]["bbox"][0] += 2
    Path("train.json").write_text(json.dumps(content))
    assert extract_embedding.main(command) == 1
    assert extract_embedding.main(["--data_root", "photos", "--id", "0", "--splits", "all", *MODEL]) == 0


def test_options_that_do_not_go_together(work, capsys):
    for options, said in (
        (["--data_root", "photos", "--padding_percent", "10"], "--padding_percent goes with --json_path"),
        ([*SOURCE, "--data_root", "photos"], "--json_path goes without --data_root"),
        ([*SOURCE, "--id", "x"], "the paddings 0 and 10 both make the set photos_x_train"),
        ([*SOURCE, "--splits", "test"], "no split 'test'; it has: train"),
    ):
        assert extract_embedding.main(options) in (1, 2)
        assert said in capsys.readouterr().err
    assert cutter.Style().record().keys() == {
        *("post_padding_method", "target_w", "target_h", "fill", "border", "exif", "image_format", "jpeg_quality"),
        "max_pixels",
    }
