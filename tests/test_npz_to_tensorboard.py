"""npz_to_tensorboard.py: its files read back, the real TensorBoard asked for them, and the projector looked at."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest

import npz_to_tensorboard
from common import embeddings
from common.embeddings import EmbeddingSet
from common.labels import stratified_sample
from export import projector

COLOURS = ((200, 40, 40), (40, 160, 60), (50, 60, 200))


def make_set(folder: Path, padding: str, *, n: int = 30, dim: int = 16, model: str = "tiny") -> Path:
    """Save n drawn pictures of three brands (their colours), and vectors that are close for a brand."""
    rng = np.random.default_rng(int(padding))
    paths = []
    for number in range(n):
        picture = np.full((20 + 10 * (number % 2), 40, 3), COLOURS[number % 3], np.uint8)
        paths.append(f"{padding}/{number:03d}.png")
        (folder / paths[-1]).parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(folder / paths[-1]), picture[:, :, ::-1])
    vectors = np.eye(3, dim, dtype=np.float32)[np.arange(n) % 3] + rng.normal(0, 0.1, (n, dim)).astype(np.float32)
    crops = np.array([f"photo\t{number:03d}" for number in range(n)])
    labels = np.array([[f"brand {number % 3}", "" if number == 4 else f"flavour {number % 2}"] for number in range(n)])
    meta = {"dataset_name": "drawn", "id": padding, "split": "test", "padding": padding, "model": model}
    meta |= {"fingerprint": model, "data_root": str(folder)}
    embeddings.save(
        folder / f"drawn_{padding}_test.npz", EmbeddingSet(vectors, labels, crops, crops, np.array(paths), meta)
    )
    return folder / f"drawn_{padding}_test.npz"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, list[EmbeddingSet]]:
    folder = tmp_path_factory.mktemp("tensorboard")
    paths = [make_set(folder / "crops", padding) for padding in ("0", "10")]
    argv = ["--root", *map(str, paths), "--logdir", str(folder / "before"), "--thumbnails", "32"]
    assert npz_to_tensorboard.main(argv) == 0
    (folder / "before").rename(folder / "moved")  # nothing inside may say where it was
    return folder / "moved", [embeddings.load(path) for path in paths]


def test_vectors_read_back_are_the_same(written):
    logdir, sets = written
    values = np.loadtxt(logdir / "tensors.tsv", delimiter="\t", dtype=np.float32)
    assert np.array_equal(values, np.concatenate([one.vectors for one in sets]))


def test_metadata_has_every_level_and_no_stray_tab(written):
    logdir, _ = written
    lines = [line.split("\t") for line in (logdir / "metadata.tsv").read_text().splitlines()]
    assert lines[0] == ["label", "class_0", "class_1", "split", "id", "padding", "dataset", "crop_id", "sample_id"]
    assert len(lines) == 61
    assert {len(line) for line in lines} == {9}
    assert lines[1] == [
        "brand 0/flavour 0",
        "brand 0",
        "brand 0/flavour 0",
        "test",
        "0",
        "0",
        "drawn",
        "photo 000",
        "photo 000",
    ]
    assert lines[5][:3] == ["brand 1", "brand 1", "brand 1"]  # the row without a second level
    assert lines[31][4:6] == ["10", "10"]


def test_sprite_shows_each_picture_at_its_place(written):
    logdir, _ = written
    sprite = cv2.imread(str(logdir / "sprite.jpg"))[:, :, ::-1]
    assert sprite.shape == (8 * 32, 8 * 32, 3)  # 60 pictures in a square of 8 x 8
    for at in range(60):
        top, left = at // 8 * 32, at % 8 * 32
        assert np.abs(sprite[top + 16, left + 16].astype(int) - COLOURS[at % 30 % 3]).max() < 25, at
        assert sprite[top + 1, left + 16].min() > 240  # letterboxed on white, not stretched
    assert sprite[7 * 32 + 16, 7 * 32 + 16].min() > 240  # places without a point


def test_the_config_names_files_beside_it(written):
    logdir, _ = written
    text = (logdir / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "tensors.tsv"' in text
    assert "/" not in text
    assert text.count("single_image_dim: 32") == 2


@pytest.fixture(scope="module")
def tensorboard(written):
    """The real TensorBoard on the moved folder; its address."""
    pytest.importorskip("tensorboard")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        written[0],
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log = written[0].parent / "log"
    with open(log, "wb") as file:
        server = subprocess.Popen([*map(str, command), "--load_fast=false"], stdout=file, stderr=file)
    try:
        for _ in range(240):
            assert server.poll() is None, log.read_text()
            try:  # it answers before it has looked at the folder, and a page opened then stays empty
                if json.loads(ask(f"http://127.0.0.1:{port}", "runs")):
                    break
            except OSError:
                pass
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def ask(tensorboard: str, what: str) -> bytes:
    with urllib.request.urlopen(f"{tensorboard}/data/plugin/projector/{what}", timeout=60) as answer:
        return answer.read()


def test_tensorboard_reads_it(tensorboard, written):
    _, sets = written
    assert json.loads(ask(tensorboard, "runs")) == ["."]
    config = json.loads(ask(tensorboard, "info?run=."))
    assert config["embeddings"][0]["tensorShape"] == [60, 16]
    data = np.frombuffer(ask(tensorboard, "tensor?run=.&name=embeddings"), np.float32).reshape(60, 16)
    assert np.array_equal(data, np.concatenate([one.vectors for one in sets]))
    lines = ask(tensorboard, "metadata?run=.&name=embeddings&num_rows=100000").decode().splitlines()
    assert len(lines) == 61
    assert ask(tensorboard, "sprite_image?run=.&name=embeddings")[:3] == b"\xff\xd8\xff"


def test_the_projector_shows_the_points(tensorboard):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    flags = [
        "--no-sandbox",
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--no-first-run",
    ]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.goto(f"{tensorboard}/#projector")
        frame = page.frame_locator("iframe").frame_locator("iframe")  # the plugin, and its page
        frame.get_by_text("Points: 60").wait_for(timeout=120_000)
        frame.get_by_text("Dimension: 16").wait_for()
        if folder := os.environ.get("SCREENSHOTS"):
            page.wait_for_timeout(8000)
            page.screenshot(path=Path(folder) / "tensorboard.png")
        browser.close()


def test_more_rows_than_allowed_are_sampled_and_said(tmp_path, capsys):
    path = make_set(tmp_path, "0", n=90)
    assert npz_to_tensorboard.main(["--root", str(path), "--logdir", str(tmp_path / "log"), "--max_points", "30"]) == 0
    assert "90 rows are more than the 30 taken: 30 of them are written" in capsys.readouterr().err
    lines = [line.split("\t")[1] for line in (tmp_path / "log" / "metadata.tsv").read_text().splitlines()[1:]]
    assert {label: lines.count(label) for label in set(lines)} == {f"brand {n}": 10 for n in range(3)}
    kept = np.loadtxt(tmp_path / "log" / "tensors.tsv", delimiter="\t", dtype=np.float32)
    whole = embeddings.load(path)
    names = stratified_sample(np.unique(whole.label(), return_inverse=True)[1], 30, 0)
    assert np.array_equal(kept, whole.vectors[names])


def test_sprite_stays_within_8192_pixels():
    assert projector.SPRITE_SIDE // math.ceil(math.sqrt(npz_to_tensorboard.MOST_POINTS)) >= projector.SMALLEST


def test_missing_pictures_are_counted_and_none_are_asked_for(tmp_path, capsys):
    path = make_set(tmp_path, "0", n=9)
    (tmp_path / "0" / "003.png").unlink()
    assert npz_to_tensorboard.main(["--root", str(path), "--logdir", str(tmp_path / "log")]) == 0
    assert "1 of 9 pictures left empty (1 image missing)" in capsys.readouterr().err
    assert npz_to_tensorboard.main(["--root", str(path), "--logdir", str(tmp_path / "log"), "--thumbnails", "0"]) == 0
    assert not (tmp_path / "log" / "sprite.jpg").exists()
    assert "sprite" not in (tmp_path / "log" / "projector_config.pbtxt").read_text()


def test_two_models_are_one_sentence(tmp_path, capsys):
    paths = [make_set(tmp_path / model, "0", n=6, model=model) for model in ("one", "two")]
    assert npz_to_tensorboard.main(["--root", *map(str, paths), "--logdir", str(tmp_path / "log")]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert "one model at a time" in error[0]
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("codes", "n", "sizes"), [([0] * 100 + [1] * 10 + [2], 11, [9, 1, 1]), ([0] * 6 + [1] * 3, 6, [4, 2])]
)
def test_a_stratified_sample_keeps_shares(codes, n, sizes):
    rows = stratified_sample(np.array(codes), n)
    assert (np.diff(rows) > 0).all()
    assert np.bincount(np.array(codes)[rows]).tolist() == sizes


def test_more_classes_than_places_give_one_row_each():
    rows = stratified_sample(np.arange(50) // 2, 10)
    assert len(rows) == 10
    assert len(set((rows // 2).tolist())) == 10
