"""Engines beside torch: the same vectors from an exported model, chosen once, kept in the record, told where they cannot be had."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import classify
import extract_embedding
import npz_to_parquet
import search
from backbones import checkpoint, models
from common.embeddings import load
from common.messages import UserError
from conclusions.models import speed
from engines import program
from viewer.parquet_rows import ParquetRows
from viewer.viewer_data import PictureSearch, ViewerData

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

ENCODER = """
import torch

def make():
    torch.manual_seed(5)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
    )
    model.preprocess = {"height": 32, "width": 48, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "interpolation": "bilinear"}
    return model
"""


class Net(nn.Module):
    """From pixels to vectors: a convolution, a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)
        )

    def forward(self, pixels):
        return self.layers(pixels.permute(0, 3, 1, 2).float() / 255)


class Curious(nn.Module):
    """What no exporter can follow: the way depends on the pixels."""

    def forward(self, pixels):
        rows = pixels.float().mean((1, 2))
        return rows * 2 if float(rows.sum()) > 3 else rows


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def pixels():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3), np.uint8))


def test_engines_give_the_vectors_of_torch_for_any_number_of_images(pixels):
    module = Net().eval()
    exported = program.Program(module, (20, 30), "print")
    with torch.no_grad():
        expected = module(pixels)
    for engine in program.ENGINES[1:]:
        run = exported.start(engine)
        for n in (1, 2, 5, 6):
            assert program.differs(run(pixels[:n]), expected[:n]) < 1e-5, (engine, n)
        assert run(pixels).dtype == torch.float32


def test_a_damaged_program_is_exported_anew():
    module = Net().eval()
    exported = program.Program(module, (20, 30), "print")
    path = exported.export()
    first = path.read_bytes()
    path.write_bytes(first[:200] + bytes([first[200] ^ 1]) + first[201:])
    assert exported.export().read_bytes() == first
    time = path.stat().st_mtime_ns
    exported.export()
    assert path.stat().st_mtime_ns == time


def test_the_fastest_close_engine_is_remembered(pixels, monkeypatch):
    module = Net().eval()
    exported = program.Program(module, (20, 30), "print")
    assert exported.remembered(6) is None
    took = {"torch": 3.0, "onnxruntime": 1.0, "openvino": 2.0}
    runs = {"torch": module}

    def start(engine):
        shift = {"onnxruntime": 0.1, "openvino": 0.0}[engine]  # the fastest is not close
        runs[engine] = lambda batch: module(batch) + shift
        return runs[engine]

    monkeypatch.setattr(exported, "start", start)
    monkeypatch.setattr(program, "_seconds", lambda timed, _: {name: took[name] for name in timed})
    exported.folder.mkdir(parents=True)
    with torch.no_grad():
        assert exported.fastest(module, pixels) == "openvino"
    assert exported.remembered(6) == "openvino"
    assert exported.remembered(7) is None
    took["openvino"] = 2.9  # not enough faster to leave torch
    with torch.no_grad():
        assert exported.fastest(module, pixels) == "torch"


def test_a_model_that_cannot_be_exported_is_one_sentence():
    with pytest.raises(UserError, match=r"cannot be exported: .*; use --engine torch"):
        program.Program(Curious(), (20, 30), "print").start("openvino")


def test_the_difference_is_of_the_worst_row():
    rows = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert program.differs(rows + torch.tensor([[0.0, 0.0], [0.0, 0.25]]), rows) == pytest.approx(0.25)
    assert program.differs(rows * float("nan"), rows) == float("inf")
    assert program.differs(rows[:1], rows) == float("inf")


@pytest.fixture
def crops(tmp_path, monkeypatch):
    (tmp_path / "own_encoder.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(str(tmp_path))
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(5):
            path = tmp_path / "crops" / split / "cat" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.integers(0, 256, (40, 40, 3), np.uint8))
    return tmp_path


def extract(folder, *argv: str) -> int:
    options = ["--data_root", str(folder / "crops"), "--output_root", str(folder / "sets"), "--precision", "fp32"]
    return extract_embedding.main([*options, "--model", "own_encoder:make", *argv])


def vectors(folder, split: str):
    with np.load(folder / "sets" / f"crops_0_{split}.npz") as file:
        return file["embeddings"], json.loads(str(file["meta"]))


@pytest.mark.parametrize("engine", program.ENGINES[1:])
def test_a_set_keeps_the_engine_and_its_neighbours_take_it(crops, capsys, engine):
    assert extract(crops, "--splits", "train", "--engine", engine) == 0
    assert extract(crops, "--splits", "test") == 0
    assert f"computing by {engine}" in capsys.readouterr().err
    found = {split: vectors(crops, split) for split in ("train", "test")}
    assert [meta["engine"] for _, meta in found.values()] == [engine] * 2
    assert {speed(load(crops / "sets" / f"crops_0_{split}.npz"))[0] for split in found} == {8 * 3 * 9 + 8 + 16}
    assert extract(crops) == 0
    assert capsys.readouterr().err.count("complete already") == 2
    assert extract(crops, "--engine", "torch") == 1
    assert f"engine: {engine}" in (told := capsys.readouterr().err) or engine in told
    assert extract(crops, "--engine", "torch", "--overwrite") == 0
    for split, (rows, _) in found.items():
        again, meta = vectors(crops, split)
        assert meta["engine"] == "torch"
        assert program.differs(torch.from_numpy(rows), torch.from_numpy(again)) < 1e-5


def test_few_images_stay_in_torch_unless_an_engine_is_named(crops, monkeypatch):
    monkeypatch.setattr(program.Program, "export", lambda _: pytest.fail("exported for ten images"))
    monkeypatch.setattr("embedding.extraction.sample", lambda *_: pytest.fail("images read to choose an engine"))
    assert extract(crops) == 0
    assert vectors(crops, "train")[1]["engine"] == "torch"


def test_many_images_try_the_engines_once(crops, monkeypatch, capsys):
    monkeypatch.setattr(program, "PAYS_FROM", 5)
    monkeypatch.setattr(program.Program, "fastest", lambda *_: "onnxruntime")
    assert extract(crops) == 0
    assert "trying engines: torch, onnxruntime, openvino" in capsys.readouterr().err
    assert {vectors(crops, split)[1]["engine"] for split in ("train", "test")} == {"onnxruntime"}


def test_an_engine_that_is_not_here_costs_nothing_unless_it_was_asked_for(crops, monkeypatch, capsys):
    assert extract(crops, "--splits", "train", "--engine", "openvino") == 0

    def gone(*_):
        raise ImportError("No module named 'openvino'")

    monkeypatch.setattr(program, "_in_openvino", gone)
    assert extract(crops, "--splits", "test") == 0
    assert "going on in torch: --engine openvino: No module named" in capsys.readouterr().err
    assert vectors(crops, "test")[1]["engine"] == "torch"
    assert extract(crops, "--splits", "test", "--engine", "openvino", "--overwrite") == 1
    assert "run pip install openvino" in capsys.readouterr().err


def test_a_sample_without_a_readable_image_ends_no_run(crops, monkeypatch):
    """Sixteen images are looked at, evenly spaced; here all of those are damaged, and the others are not."""
    monkeypatch.setattr(program, "PAYS_FROM", 5)
    monkeypatch.setattr(program.Program, "fastest", lambda *_: "onnxruntime")
    monkeypatch.setattr("embedding.extraction.sample", lambda *_: np.empty((0, 32, 48, 3), np.uint8))
    assert extract(crops) == 0
    assert vectors(crops, "train")[1]["engine"] == "onnxruntime"


def test_what_an_engine_cannot_do_is_told(crops, capsys):
    assert extract(crops, "--engine", "openvino", "--image_size", "crop") == 1
    assert "--engine openvino computes in fp32 on a CPU, uncompiled, images of one size" in capsys.readouterr().err


@pytest.fixture
def started(monkeypatch):
    """The engines beside torch that were started, in turn."""
    names, start = [], program.Program.start

    def noted(exported, engine):
        names.append(engine)
        return start(exported, engine)

    monkeypatch.setattr(program.Program, "start", noted)
    return names


def answers(script, capsys, *argv) -> list[dict]:
    """What a script prints as JSON."""
    capsys.readouterr()
    assert script.main([*map(str, argv), "--format", "json", "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("engine", program.ENGINES[1:])
def test_queries_are_computed_by_the_engine_of_the_vectors_they_are_compared_with(crops, capsys, started, engine):
    assert extract(crops, "--splits", "train", "--engine", engine) == 0
    npz, pictures = crops / "sets" / "crops_0_train.npz", crops / "crops" / "test"
    assert search.main(["build", "--npz", str(npz), "--uri", str(crops / "index.faiss"), "--index_type", "FLAT"]) == 0
    model = ("--model", "own_encoder:make")
    commands = {
        "classify": (classify, "--image", pictures, "--reference_npz", npz, "--k", 3, *model),
        "npz": (search, "query", "-q", pictures, "--npz", npz, "-k", 3, *model),
        "index": (search, "query", "-q", pictures, "--uri", crops / "index.faiss", "-k", 3, *model),
    }
    for name, (script, *words) in commands.items():
        started.clear()
        by_engine = answers(script, capsys, *words)
        assert started == [engine], name
        by_torch = answers(script, capsys, *words, "--engine", "torch")
        assert started == [engine], name
        assert values(by_engine) == pytest.approx(values(by_torch), abs=1e-5), name
        assert names(by_engine) == names(by_torch), name


def values(answer) -> list[float]:
    """The numbers in an answer, in its order."""
    if isinstance(answer, (dict, list)):
        return [number for part in (answer.values() if isinstance(answer, dict) else answer) for number in values(part)]
    return [float(answer)] if isinstance(answer, float) else []


def names(answer) -> list[str]:
    """The texts in an answer, in its order."""
    if isinstance(answer, (dict, list)):
        return [text for part in (answer.values() if isinstance(answer, dict) else answer) for text in names(part)]
    return [answer] if isinstance(answer, str) else []


def test_an_upload_is_computed_by_the_engine_of_the_file(crops, started):
    assert extract(crops, "--splits", "train", "--engine", "openvino") == 0
    assert npz_to_parquet.main(["--root", str(crops / "sets"), "--out", str(crops / "x.parquet")]) == 0
    data = ViewerData([ParquetRows(crops / "x.parquet")])
    picture = (crops / "crops" / "train" / "cat" / "3.png").read_bytes()
    found = {}
    for engine, expected in (("auto", ["openvino"]), ("torch", []), ("onnxruntime", ["onnxruntime"])):
        started.clear()
        uploads = PictureSearch(data, "own_encoder:make", engine=engine)
        found[engine] = uploads.embed(picture)
        uploads.embed(picture)
        assert started == expected  # once, not at every picture
    rows = vectors(crops, "train")[0]
    np.testing.assert_allclose(found["auto"], rows[3], rtol=1e-5)
    np.testing.assert_allclose(found["torch"], rows[3], rtol=1e-4)
    np.testing.assert_allclose(found["onnxruntime"], rows[3], rtol=1e-4)


def test_an_engine_of_the_vectors_that_is_not_here_gives_way_to_torch(crops, capsys, monkeypatch):
    assert extract(crops, "--splits", "train", "--engine", "openvino") == 0
    monkeypatch.setattr(program, "missing", lambda engine: [engine])
    words = ["--image", str(crops / "crops" / "test"), "--model", "own_encoder:make"]
    words += ["--reference_npz", str(crops / "sets" / "crops_0_train.npz"), "--device", "cpu"]
    capsys.readouterr()
    assert classify.main(words) == 0
    told = capsys.readouterr().err
    assert (
        told.count("going on in torch: --engine openvino: openvino not installed here; run pip install openvino") == 1
    )
    assert classify.main([*words, "--engine", "openvino"]) == 1
    assert (
        "error: --engine openvino: openvino not installed here; run pip install openvino, or" in capsys.readouterr().err
    )


def test_a_set_that_names_no_engine_is_refused(crops, capsys):
    assert extract(crops, "--splits", "train") == 0
    npz = crops / "sets" / "crops_0_train.npz"
    with np.load(npz) as file:
        arrays = dict(file)
    arrays["meta"] = np.array(str(arrays["meta"]).replace('"engine": "torch"', '"engine": "../x"'))
    np.savez(npz, **arrays)
    words = ["query", "-q", str(crops / "crops" / "test"), "--npz", str(npz), "--model", "own_encoder:make"]
    assert search.main(words) == 1
    assert 'engine is "../x", not torch or onnxruntime or openvino' in capsys.readouterr().err


def test_a_head_is_computed_with_its_model_and_never_taken_for_another(crops, capsys, monkeypatch):
    """Two classifiers of one backbone are two programs."""
    engine = "onnxruntime"
    folders = [crops / name for name in ("one", "other")]
    for number, folder in enumerate(folders):
        build_classifier(folder, number)
    pictures = ("--image", crops / "crops" / "test", "--top_k", 3)
    found = [answers(classify, capsys, *pictures, "--model", folder, "--engine", engine) for folder in folders]
    expected = [answers(classify, capsys, *pictures, "--model", folder, "--engine", "torch") for folder in folders]
    for one, other in zip(found, expected, strict=True):
        assert names(one) == names(other)
        assert values(one) == pytest.approx(values(other), abs=1e-4)
    assert values(found[0]) != pytest.approx(values(found[1]), abs=0.01)
    assert len(list((crops / "cache" / "padding-study").glob("program-*"))) == 2
    monkeypatch.setattr(program, "PAYS_FROM", 5)
    monkeypatch.setattr(program.Program, "fastest", lambda *_: engine)
    assert classify.main([*map(str, pictures), "--model", str(folders[0]), "--device", "cpu"]) == 0
    assert f"computing in fp32 by {engine}" in capsys.readouterr().err


def build_classifier(folder, seed: int) -> None:
    """Write a checkpoint of lite0 with a random head of three classes."""
    backbone = models.build("tf_efficientnet_lite0")
    state = {f"backbone.{name}": value for name, value in backbone.module.state_dict().items()}
    state["head.weight"] = torch.randn(3, 1280, generator=torch.Generator().manual_seed(seed))
    state["head.bias"] = torch.zeros(3)
    about = {"spec": "tf_efficientnet_lite0", "options": {}, "preprocess": backbone.preprocess}
    checkpoint.save(folder, **about, state=state, classes=["ant", "bee", "cat"], temperature=4.0)
