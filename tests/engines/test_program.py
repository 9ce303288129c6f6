"""The cases of engines, in a process of their own: Milvus Lite closes the streams of one that has loaded OpenVINO."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import classify
import search
from common.embeddings import EmbeddingSet, save
from embedding import embedder
from engines import program


def test_the_cases_of_engines_in_a_process_of_their_own(root):
    cases = Path(__file__).with_name("engine_cases.py")
    command = [sys.executable, "-m", "pytest", "-n", "0", "--tb", "short", "-rs", str(cases)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.fixture
def picture(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(program, "missing", lambda engine: [engine])
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    return path


def test_an_engine_that_is_not_installed_is_one_sentence(picture, capsys):
    words = ["--image", str(picture), "--model", "lite0", "--device", "cpu"]
    assert classify.main([*words, "--engine", "openvino"]) == 1
    told = capsys.readouterr()
    sentence = "--engine openvino: openvino not installed here; run pip install openvino, or use --engine torch"
    assert (told.out, told.err) == ("", f"classify.py: error: {sentence}\n")


def test_queries_go_on_in_torch_without_the_engine_of_the_vectors(picture, tmp_path, capsys):
    """The file says that OpenVINO made its vectors; torch, which made them really, takes over and says so once."""
    model = embedder.load("lite0", precision="fp32", device="cpu")
    row = model(model.preprocess(cv2.imread(str(picture))[..., ::-1])[None])
    meta = {"model": "lite0", "fingerprint": model.fingerprint, "precision": "fp32", "engine": "openvino"}
    names = np.array(["a"])
    save(tmp_path / "x_0_train.npz", EmbeddingSet(row, np.array([["cat"]]), names, names, names, meta))
    words = [
        "query",
        "-q",
        str(picture),
        "--npz",
        str(tmp_path / "x_0_train.npz"),
        "--device",
        "cpu",
        "--format",
        "json",
    ]
    assert search.main(words) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)[0]["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert told.err.count("going on in torch: --engine openvino: openvino not installed here") == 1
    assert search.main([*words, "--engine", "torch"]) == 0
    assert capsys.readouterr().err.count("openvino") == 0
