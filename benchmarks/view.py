#!/usr/bin/env python3
"""Time a frame of view.py's maps in headless Chromium without a graphics card, against plotly's own traces.

python benchmarks/view.py
python benchmarks/view.py --peers no
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder
sys.path.append(str(ROOT / "benchmarks"))

import bench
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
FLAGS += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SIZES = {2: 50_000, 3: 20_000}
MOST = 100  # milliseconds a frame
STEPS = 40
WATCH = """() => { window.gaps = []; let last = performance.now(); window.on = true;
  const tick = () => { const now = performance.now(); gaps.push(now - last); last = now; if (on) requestAnimationFrame(tick); };
  requestAnimationFrame(tick); }"""
PLOTLY = """async ([kind, n]) => {
  const box = document.getElementById('box'), random = () => Math.random() + Math.random() + Math.random();
  const traces = [...Array(15)].map((_, c) => {
    const m = Math.floor(n / 15), a = [random(), random(), random()].map((v) => 4 * v);
    const [x, y, z] = a.map((v) => Float32Array.from({length: m}, () => v + random()));
    const marker = {size: kind === 'scatter3d' ? 3 : 5, symbol: 'circle'};
    return {type: kind, mode: 'markers', x, y, ...(kind === 'scatter3d' ? {z} : {}), marker, hoverinfo: 'none'};
  });
  const margin = {l: 0, r: 0, t: 0, b: 0};
  await Plotly.newPlot(box, traces, {margin, showlegend: false, dragmode: kind === 'scatter3d' ? 'orbit' : 'pan'});
}"""


def draw(path: Path, n: int) -> None:
    """Write n points of 60 classes, as a Parquet file that has its map already."""
    rng = np.random.default_rng(0)
    label, centres = rng.integers(0, 60, n), rng.normal(0, 4, (60, 3))
    places = (centres[label] + rng.normal(0, 1, (n, 3))).astype(np.float32)
    columns: dict[str, Any] = {f"projection_{axis}": places[:, at] for at, axis in enumerate("xyz")}
    columns |= {"class_0": [f"product {one:02d}" for one in label], "crop_id": [str(row) for row in range(n)]}
    pq.write_table(pa.table(columns), path)


def dragged(page: Any, box: dict[str, float]) -> list[float]:
    """Return the milliseconds between the animation frames while the mouse drags."""
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(WATCH)
    for step in range(STEPS):
        page.mouse.move(x + 3 * step, y + 2 * step)
    gaps = page.evaluate("() => { window.on = false; return window.gaps; }")
    page.mouse.up()
    return gaps


def ours(browser: Any, path: Path, dimensions: int) -> tuple[list[float], list[float]]:
    """Return (milliseconds that the page needs for a frame, milliseconds between frames) while the map is dragged."""
    command = [sys.executable, str(ROOT / "view.py"), str(path), "--port", "0", "--quiet"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        url = server.stdout.readline().strip()
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.wait_for_function("() => window.embeddingMaps && embeddingMaps['map-a'] && embeddingMaps['map-a'].n")
        if dimensions == 3:
            page.get_by_text("3-D").click()
            page.wait_for_function("() => embeddingMaps['map-a'].scene.three")
        assert page.evaluate("() => embeddingMaps['map-a'].n") == SIZES[dimensions]
        page.locator("#map-a").scroll_into_view_if_needed()
        page.wait_for_timeout(500)
        page.evaluate("() => { embeddingMaps['map-a'].frames.length = 0; }")
        gaps = dragged(page, page.locator("#map-a").bounding_box())
        frames = page.evaluate("() => embeddingMaps['map-a'].frames")
        page.close()
        return frames, gaps
    finally:
        server.terminate()
        server.wait(30)


def plotly(browser: Any, kind: str, n: int) -> list[float]:
    """Return the milliseconds between frames while plotly's map of the same number of points is dragged."""
    import plotly as package

    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_content("<div id=box style='width:820px;height:560px'></div>")
    page.add_script_tag(path=str(Path(package.__file__).parent / "package_data" / "plotly.min.js"))
    page.evaluate(PLOTLY, [kind, n])
    page.wait_for_timeout(500)
    gaps = dragged(page, page.locator("#box").bounding_box())
    page.close()
    return gaps


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", choices=("yes", "no"), default="yes")
    args = parser.parse_args()
    rows, notes = [], []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for dimensions, n in SIZES.items():
            path = Path(folder) / f"{n}.parquet"
            draw(path, n)
            frames, gaps = ours(browser, path, dimensions)
            work = f"{n:,} points in {dimensions}-D"
            rows.append(
                bench.figure(
                    f"{work}: drawing a frame, median", statistics.median(frames), MOST, unit="ms", at_most=True
                )
            )
            rows.append(bench.figure(f"{work}: drawing a frame, slowest", max(frames), MOST, unit="ms", at_most=True))
            rows.append(
                bench.figure(f"{work}: between frames, median", statistics.median(gaps), MOST, unit="ms", at_most=True)
            )
            if args.peers == "yes":
                kind = {2: "scattergl", 3: "scatter3d"}[dimensions]
                theirs = plotly(browser, kind, n)
                rows.append(
                    bench.figure(f"{work}: the whole drag, plotly's {kind} / ours", sum(theirs) / sum(gaps), unit="x")
                )
                notes.append(
                    f"plotly {kind}, {n:,}: {statistics.mean(theirs):.0f} ms between frames in the mean, at most {max(theirs):.0f}"
                )
        browser.close()
    bench.report("view", rows, notes)


if __name__ == "__main__":
    main()
