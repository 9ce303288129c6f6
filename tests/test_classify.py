"""classify.py: ImageNet's classes, nearest neighbours by hand, a trained checkpoint, users' mistakes."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

import classify
import extract_embedding
from backbones import checkpoint, models
from common import embeddings
from common.embedding_sets import read_sets
from embedding.embedder import load as load_model
from imaging import images
from training import calibration


@pytest.fixture(scope="module")
def photos(study_data, tmp_path_factory):
    """Photographs of bananas, lemons and pineapples: three of each to learn from, two of each to label."""
    folder = tmp_path_factory.mktemp("photos")
    for split, n in (("train", 3), ("test", 2)):
        for kind in ("Banana", "Lemon", "Pineapple"):
            (folder / split / "Fruit" / kind).mkdir(parents=True)
            for file in sorted((study_data / "grocery" / split / "Fruit" / kind).glob("*.jpg"))[:n]:
                shutil.copy(file, folder / split / "Fruit" / kind)
    return folder


def run(capsys, *argv):
    code = classify.main([*map(str, argv), "--quiet"])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def test_imagenet_knows_bananas_and_lemons(photos, capsys, tmp_path):
    plot = tmp_path / "labels.png"
    code, out, err = run(capsys, "--image", photos / "test", "--top_k", 3, "--plot", plot)
    assert code == 0, err
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["image", "rank", "label", "confidence"]
    assert len(lines) == 1 + 6 * 3
    first = {line[0].split("/")[-2]: set() for line in lines[1:]}
    for line in lines[1:]:
        first[line[0].split("/")[-2]].add(line[2])
    assert "banana" in first["Banana"]
    assert "lemon" in first["Lemon"]
    assert "pineapple" in first["Pineapple"]
    confidence = [float(line[3]) for line in lines[1:4]]
    assert confidence == sorted(confidence, reverse=True)
    assert 0 < sum(confidence) <= 1.0001
    assert "banana" in plot.with_suffix(".svg").read_text()


def test_batches_change_nothing(photos, capsys):
    answers = [
        json.loads(run(capsys, "--image", photos / "test", "--format", "json", "--batch_size", n)[1]) for n in (1, 4)
    ]
    for one, other in zip(*answers, strict=True):
        assert one["labels"][0]["label"] == other["labels"][0]["label"]
        assert one["labels"][0]["confidence"] == pytest.approx(other["labels"][0]["confidence"], abs=1e-3)


def test_neighbours_vote_by_similarity(photos, capsys, tmp_path):
    argv = ["--data_root", str(photos), "--output_root", str(tmp_path), "--splits", "train", "--company_name", "f"]
    assert extract_embedding.main([*argv, "--precision", "fp32", "--quiet"]) == 0
    capsys.readouterr()
    npz = tmp_path / "f_0_train.npz"
    code, out, _ = run(
        capsys, "--image", photos / "test", "--reference_npz", npz, "--k", 4, "--top_k", 3, "--format", "json"
    )
    assert code == 0
    answer = json.loads(out)
    one = read_sets([npz])[0]
    rows = np.asarray(one.vectors, np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    embedder = load_model(precision="fp32")
    for entry in answer:
        vector = embedder(embedder.preprocess(images.decode(entry["image"]))[None])[0].astype(np.float64)
        cosines = rows @ vector / np.linalg.norm(vector)
        nearest = np.argsort(-cosines)[:4]
        weights = np.exp(cosines[nearest] / 0.07)
        shares = {}
        for row, weight in zip(nearest, weights / weights.sum(), strict=True):
            shares[one.label()[row]] = shares.get(one.label()[row], 0) + weight
        given = {label["label"]: label["confidence"] for label in entry["labels"]}
        assert given == pytest.approx(dict(sorted(shares.items(), key=lambda pair: -pair[1])[:3]), abs=1e-3)
    assert sum(entry["labels"][0]["label"].split("/")[-1] in entry["image"] for entry in answer) >= 5
    embeddings.save(tmp_path / "f_0_test.npz", dataclasses.replace(one, meta=one.meta | {"split": "test"}))
    assert classify.main(["--image", answer[0]["image"], "--reference_npz", str(tmp_path)]) == 0
    assert "references are of the splits test, train: an image that is among them finds" in capsys.readouterr().err


def test_a_checkpoint_labels_with_calibrated_confidence(photos, capsys, tmp_path):
    import torch

    backbone = models.build("tf_efficientnet_lite0")
    state = {f"backbone.{name}": value for name, value in backbone.module.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state["head.weight"] = torch.randn(3, 1280, generator=generator)
    state["head.bias"] = torch.zeros(3)
    classes = ["Fruit/Banana", "Fruit/Lemon", "Fruit/Pineapple"]
    folder = tmp_path / "checkpoint"
    checkpoint.save(
        folder,
        spec="tf_efficientnet_lite0",
        options={},
        preprocess=backbone.preprocess,
        state=state,
        classes=classes,
        temperature=4.0,
    )
    picture = next((photos / "test").rglob("*.jpg"))
    code, out, err = run(capsys, "--image", picture, "--model", folder, "--top_k", 5, "--format", "json")
    assert code == 0, err
    model = load_model("lite0", precision="fp32")
    features = model(model.preprocess(images.decode(picture))[None])
    logits = features @ state["head.weight"].numpy().T
    expected = dict(zip(classes, calibration.softmax(logits, 4.0)[0], strict=True))
    given = {label["label"]: label["confidence"] for label in json.loads(out)[0]["labels"]}
    assert given == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--image", "absent.jpg"], "absent.jpg: no such image"),
        (["--image", "empty"], "no images in this folder"),
        (["--image", "a.jpg", "--model", "./empty"], "holds no classifier"),
        (["--image", "a.jpg", "--reference_npz", "bare.npz"], "has no labels"),
        (["--image", "a.jpg"], "none of the 1 images can be used"),
    ],
)
def test_mistakes_are_one_sentence(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"no image")
    np.savez("bare.npz", embeddings=np.eye(3, 4, dtype=np.float32))
    code, out, err = run(capsys, *argv)
    assert (code, out) == (1, "")
    assert words in err
    assert "Traceback" not in err
