"""The real embedding-atlas, in a real browser, opens our Parquet: rows, charts, table and pictures are there.

Its map needs WebGPU, which a headless browser lacks; everything else of the page is checked.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import npz_to_parquet
from common import embeddings
from common.embeddings import EmbeddingSet

BRANDS = ("amber", "beige", "coral")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> Path:
    """60 drawn pictures of three brands at two paddings, with everything that the script can add."""
    folder = tmp_path_factory.mktemp("atlas")
    rng = np.random.default_rng(0)
    for padding in ("0", "10"):
        paths, rows = [], []
        for number in range(30):
            picture = np.full((60, 40, 3), 40 + 80 * (number % 3), np.uint8) + rng.integers(
                0, 20, (60, 40, 3), np.uint8
            )
            paths.append(f"{padding}/{BRANDS[number % 3]}_{number:02d}.png")
            (folder / paths[-1]).parent.mkdir(exist_ok=True)
            cv2.imwrite(str(folder / paths[-1]), picture)
            rows.append(cv2.resize(picture, (4, 4)).ravel() / 255)
        crops = np.array([Path(path).stem for path in paths])
        labels = np.array([[BRANDS[n % 3], f"flavour {n % 2}"] for n in range(30)])
        meta = {"dataset_name": "drawn", "id": padding, "split": "test", "padding": padding, "model": "tiny"}
        meta |= {"fingerprint": "f", "data_root": str(folder)}
        one = EmbeddingSet(np.array(rows, np.float32), labels, crops, crops, np.array(paths), meta)
        embeddings.save(folder / "e" / f"drawn_{padding}_test.npz", one)
    told = {crop: "amber" if crop.startswith("amber") else "beige" for crop in crops}
    lines = [f"drawn,test,10,{crop},{label},{crop.startswith(label)},0.5" for crop, label in told.items()]
    (folder / "p.csv").write_text("\n".join(["dataset_name,split,id,crop_id,predicted,correct,margin", *lines]))
    argv = ["--root", folder / "e", "--out", folder / "drawn.parquet", "--projection", "pca", "--neighbors", 5]
    argv += ["--thumbnails", 30, "--predictions", folder / "p.csv"]
    assert npz_to_parquet.main([str(part) for part in argv]) == 0
    return folder / "drawn.parquet"


@pytest.fixture(scope="module")
def page(parquet):
    """The page, loaded, with the addresses it asked for as `page.asked`."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = Path(sys.executable).with_name("embedding-atlas")
    if not program.exists():
        pytest.skip("embedding-atlas is not installed: pip install -r requirements-extra.txt")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, parquet, "--vector", "embedding", "--x", "projection_x", "--y", "projection_y"]
    command += ["--neighbors", "neighbors", "--image", "image", "--host", "127.0.0.1", "--port", str(port)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HOME": str(parquet.parent)}
    with open(parquet.with_suffix(".log"), "wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **offline}, stdout=log, stderr=log)
    try:
        _wait_for(server, port, parquet.with_suffix(".log"))
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page(viewport={"width": 1500, "height": 950})
            page.asked = []
            page.on("request", lambda request: page.asked.append(request.url))
            page.goto(f"http://127.0.0.1:{port}/")
            page.get_by_text("60 points").first.wait_for(timeout=120_000)
            page.locator("td img").nth(9).wait_for(state="attached", timeout=60_000)
            if folder := os.environ.get("SCREENSHOTS"):
                page.screenshot(path=Path(folder) / "atlas.png")
            yield page
            browser.close()
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(server: subprocess.Popen, port: int, log: Path) -> None:
    for _ in range(360):
        assert server.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no answer in three minutes: {log.read_text()}")


def test_all_rows_are_there(page):
    assert "60 / 60 points" in page.inner_text("body")


def test_the_class_charts_count_the_rows(page):
    """Each chart is a heading, then value and count in turn."""
    text = [line.strip() for line in page.inner_text("body").splitlines() if line.strip()]
    for column, values in {
        "class_0": dict.fromkeys(BRANDS, "20"),
        "class_1": {"flavour 0": "30", "flavour 1": "30"},
        "padding": {"0": "30", "10": "30"},
        "predicted": {"beige": "20", "amber": "10", "(null)": "30"},
    }.items():
        chart = text[max(at for at, line in enumerate(text) if line == column) :][: 1 + 2 * len(values)]
        assert dict(zip(chart[1::2], chart[2::2], strict=True)) == values, column


def test_the_table_shows_ids_labels_and_neighbours(page, parquet):
    import pandas as pd

    frame = pd.read_parquet(parquet)
    text = page.inner_text("table")
    for row in (0, 7):
        assert frame["crop_id"][row] in text
        near = frame["neighbors"][row]["ids"].tolist()
        assert f'"ids":{json.dumps(near, separators=(",", ":"))}' in text


def test_the_pictures_are_shown_in_their_size(page):
    sizes = page.evaluate("[...document.querySelectorAll('td img')].map(i => [i.naturalWidth, i.naturalHeight])")
    assert len(sizes) >= 10
    assert {tuple(size) for size in sizes} == {(20, 30)}


def test_no_request_leaves_the_machine(page):
    assert page.asked
    assert [url for url in page.asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
