"""extract_embedding.py --image_size and --pooling box: names, meta, what goes into the model, and what is refused."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crop
import extract_embedding
from common import embeddings

MAPS = textwrap.dedent(
    """
    import torch

    def make():  # a feature map
        torch.manual_seed(5)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.ReLU())
        model.preprocess = {"height": 32, "width": 32, "interpolation": "bilinear"}
        return model
    """
)


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """Six photos of three boxes, one of them at an edge, and PNG crops at paddings 0 and 25 with 32 pixels of the object."""
    (tmp_path / "map_encoder.py").write_text(MAPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "map_encoder", raising=False)
    (tmp_path / "photos").mkdir()
    entries = {}
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (90, 120, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"p{number}.png")
        boxes = {"a": (20, 20, 40, 30), "b": (70, 10, 20, 60), "c": (2, 50, 30, 36)}
        entries[f"p{number}"] = {
            name: {
                "points": {"top_left": [x, y], "bottom_right": [x + w, y + h]},
                "sku_id": name,
                "split_id": "train" if number < 4 else "test",
            }
            for name, (x, y, w, h) in boxes.items()
        }
    (tmp_path / "a.json").write_text(json.dumps(entries))
    words = [*ANNOTATIONS, "--output_root", "pad_{padding}", "--image_format", "png", *GROWN]
    assert crop.main(words) == 0
    return tmp_path


ANNOTATIONS = ["--json_path", "a.json", "--image_folder", "photos"]
GROWN = ["--object_px", "32", "--padding_percent", "0", "25"]


def run(*argv: object) -> int:
    words = [
        "--model",
        "map_encoder:make",
        "--company_name",
        "d",
        "--batch_size",
        "4",
        "--precision",
        "fp32",
        "--quiet",
    ]
    return extract_embedding.main([*words, *map(str, argv)])


def names(capsys) -> list[str]:
    return [Path(line).stem for line in capsys.readouterr().out.split()]


def test_the_id_tells_variants_apart_and_the_meta_keeps_them(work, capsys):
    assert run("--data_root", "pad_25", "--splits", "test") == 0
    assert run("--data_root", "pad_25", "--splits", "test", "--image_size", 48) == 0
    assert run("--data_root", "pad_25", "--splits", "test", "--image_size", "crop", "--pooling", "mean+max") == 0
    assert run("--data_root", "pad_25", "--splits", "test", "--pooling", "box", "--id", "mine") == 0
    assert names(capsys) == ["d_25_test", "d_25@48_test", "d_25@crop-mean-max_test", "d_mine_test"]
    plain, larger, own, box = (
        embeddings.load(work / "embeddings" / f"d_{name}_test.npz")
        for name in ("25", "25@48", "25@crop-mean-max", "mine")
    )
    assert plain.meta["object_px"] == 32
    assert not {"image_size", "pooling", "base_fingerprint", "boxes"} & plain.meta.keys()
    assert (larger.meta["image_size"], larger.meta["preprocess"]["height"], "pooling" in larger.meta) == (48, 48, False)
    assert (own.meta["image_size"], own.meta["pooling"]) == ("crop", "mean+max")
    assert box.meta["pooling"] == "box"
    assert {one.base for one in (plain, larger, own, box)} == {plain.fingerprint}
    assert len({one.fingerprint for one in (plain, larger, own, box)}) == 4


@pytest.mark.parametrize("options", [(), ("--image_size", 48), ("--image_size", "crop"), ("--pooling", "box")])
def test_straight_from_annotations_the_sets_are_the_same(work, options):
    assert run("--data_root", "pad_0", "pad_25", *options) == 0
    assert run(*ANNOTATIONS, *GROWN, *options, "--output_root", "straight") == 0
    made = sorted(path.name for path in (work / "embeddings").glob("*.npz"))
    assert made == sorted(path.name for path in (work / "straight").glob("*.npz"))
    assert len(made) == 4
    for name in made:
        one, other = (embeddings.load(work / folder / name) for folder in ("embeddings", "straight"))
        assert one.crop_ids.tolist() == other.crop_ids.tolist()
        assert np.allclose(one.vectors, other.vectors, atol=1e-5)
        assert one.meta["object_px"] == other.meta["object_px"] == 32


def test_without_padding_the_box_is_the_whole_crop(work):
    assert run("--data_root", "pad_0", "pad_25", "--pooling", "box") == 0
    assert run("--data_root", "pad_0", "pad_25", "--pooling", "mean") == 0
    for padding, same in (("0", True), ("25", False)):
        box, mean = (
            embeddings.load(work / "embeddings" / f"d_{padding}-{pooling}_train.npz") for pooling in ("box", "mean")
        )
        assert np.allclose(box.vectors, mean.vectors, atol=1e-5) == same


def test_crops_go_in_at_their_own_sizes(work):
    """A map's mean over a crop of 48 x 48 is the mean over its 12 x 12 cells, and other vectors than those of 32 x 32."""
    import torch

    assert run("--data_root", "pad_25", "--image_size", "crop", "--splits", "train") == 0
    found = embeddings.load(work / "embeddings" / "d_25@crop_train.npz")
    model, sizes = importlib.import_module("map_encoder").make(), set()
    for path, vector in zip(found.paths, found.vectors, strict=True):
        pixels = np.asarray(Image.open(work / "pad_25" / path))
        sizes.add(pixels.shape)
        images = (
            torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
            - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        ) / torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        with torch.no_grad():
            expected = model(images).mean((2, 3))[0].numpy()
        assert np.allclose(vector, expected, atol=1e-4)
    assert len(sizes) > 1  # "c" is clipped


def test_an_interrupted_run_of_many_sizes_goes_on_with_the_same_result(work, monkeypatch):
    from embedding import extraction

    assert run("--data_root", "pad_25", "--image_size", "crop", "--pooling", "box", "--splits", "train") == 0
    whole = (work / "embeddings" / "d_25@crop-box_train.npz").read_bytes()
    outcome, calls = extraction.outcome, []

    def killed(*values):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return outcome(*values)

    options = ("--data_root", "pad_25", "--image_size", "crop", "--pooling", "box", "--splits", "train", "--overwrite")
    monkeypatch.setattr(extraction, "outcome", killed)
    assert run(*options) == 130
    monkeypatch.setattr(extraction, "outcome", outcome)
    assert run(*options[:-1]) == 0
    assert (work / "embeddings" / "d_25@crop-box_train.npz").read_bytes() == whole


def test_the_box_is_not_guessed(work, capsys):
    (work / "plain" / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(work / "plain" / "a" / "1.png")
    assert run("--data_root", "plain", "--pooling", "box") == 2
    assert "does not say where the object lies in its crops, which --pooling box needs" in capsys.readouterr().err
    assert not list((work / "embeddings").glob("*.npz"))


def test_other_boxes_are_another_input(work, capsys):
    assert run("--data_root", "pad_25", "--pooling", "box", "--splits", "test") == 0
    path = work / "pad_25" / "crops.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(f"{line.rsplit(',', 1)[0]},0.9" for line in lines[1:])]) + "\n")
    assert run("--data_root", "pad_25", "--pooling", "box", "--splits", "test") == 1
    assert "the objects lie elsewhere in their crops" in capsys.readouterr().err


def test_crops_smaller_than_the_input_are_told(work, capsys):
    words = ["--model", "map_encoder:make", "--company_name", "d", "--splits", "test", "--data_root", "pad_0"]
    assert extract_embedding.main([*words, "pad_25", "--image_size", "64"]) == 0
    told = capsys.readouterr().err
    assert "crops of 32 x 32 pixels are enlarged to 64" in told
    assert told.count("enlarged") == 1  # of two sets, once


@pytest.mark.parametrize("size", ["0", "9000", "large"])
def test_sizes_that_are_none(work, size, capsys):
    assert run("--data_root", "pad_0", "--image_size", size) == 2
    assert "--image_size" in capsys.readouterr().err
