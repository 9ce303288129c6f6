"""view.py in a real browser: one server, one headless Chromium, every thing a user does on the page."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_view import DIM, LABELS, Colour, N, encoded, make

from viewer import local_server
from viewer.app import make_app
from viewer.parquet_rows import ParquetRows
from viewer.viewer_data import PictureSearch, ViewerData

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
PLACE = """(row) => { const map = embeddingMaps['map-a'], i = [...map.rows].indexOf(row);
  const box = map.box.getBoundingClientRect(), ratio = map.points.width / box.width;
  return [box.left + map.px[i] / ratio, box.top + map.py[i] / ratio]; }"""
OUTWARDS = (
    (-15, 15),
    (15, 15),
    (15, -15),
    (-15, -15),
)  # pixels, from the corners of a rectangle: left below, right below …
STILL = """() => { const map = window.embeddingMaps && embeddingMaps['map-a']; if (!map || !map.frames.length) return false;
  const box = map.box.getBoundingClientRect(), now = [box.left, box.top, box.width, box.height, map.points.width].join();
  const still = now === window.before && !map.waiting && document.readyState === 'complete'; window.before = now; return still; }"""
COLOURS = np.random.default_rng(0).integers(0, 256, (N, 3))


@pytest.fixture(scope="module")
def frame(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """Forty rows on a grid, each at a place of its own, with vectors that the model `Colour` understands."""
    path = tmp_path_factory.mktemp("browser") / "drawn.parquet"
    places = {f"projection_{axis}": np.float32([v(row) for row in range(N)]) for axis, v in
              (("x", lambda row: row % 8), ("y", lambda row: row // 8), ("z", lambda row: row % 3))}  # fmt: skip
    vectors = list(np.pad(COLOURS + 1, [(0, 0), (0, DIM - 3)]).astype(np.float32))
    return path, make(path, embedding=vectors, **places)


@pytest.fixture(scope="module")
def url(frame):
    return served(frame[0])


def served(path: Path) -> str:
    """Return the address of the page; the server runs in a thread, as view.py runs it."""
    listening = local_server.bind("127.0.0.1", 0)
    data = ViewerData([ParquetRows(path)])
    search = PictureSearch(data)
    search._embedder = Colour()
    app = make_app(data, search, "127.0.0.1")
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    threading.Thread(target=local_server.serve, args=(app.server, listening), daemon=True).start()
    return address


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


def opened(browser, url: str, width: int = 1280, height: int = 1300, **options):
    """Return the loaded page; `page.asked` are the addresses it asked for, `page.errors` what went wrong in it."""
    page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
    page.asked, page.errors = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.set_default_timeout(90_000)  # a machine busy with other tests is slow, not wrong
    page.goto(url)
    page.locator("#tiles .tile").nth(N - 1).wait_for()
    page.wait_for_function(STILL, polling=100)
    return page


def shot(page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture
def page(browser, url):
    one = opened(browser, url)
    yield one
    one.context.close()
    assert one.errors == []
    outside = [asked for asked in one.asked if not asked.startswith((url, "data:", "blob:"))]
    assert one.asked
    assert outside == []  # no request leaves the machine


def listed(page, text: str) -> None:
    """Wait until the list's head says `text`; else say what it says, and what went wrong in the page."""
    try:
        page.wait_for_function("(text) => document.getElementById('listed').textContent === text", arg=text)
    except Exception as error:
        raise AssertionError(f"{text!r} expected, {page.inner_text('#listed')!r} shown; {page.errors}") from error


def option(page, control: str, text: str) -> None:
    page.click(f"#{control}")
    page.locator(".dash-dropdown-content").get_by_text(text, exact=True).click()
    page.keyboard.press("Escape")


def colours_at(page, row: int) -> list[int]:
    """Return the pixel (r, g, b) drawn at a row's place."""
    return page.evaluate(
        """(row) => { const map = embeddingMaps['map-a'], i = [...map.rows].indexOf(row), context = map.points.getContext('2d');
        return [...context.getImageData(Math.round(map.px[i]), Math.round(map.py[i]), 1, 1).data].slice(0, 3); }""",
        row,
    )


def test_load_and_colour(page):
    assert page.inner_text("h1") == f"{N} embeddings of drawn"
    assert page.inner_text("#status") == f"{N} points, all shown"
    legend = [line.split("\n") for line in page.locator("#legend label").all_inner_texts()]
    assert legend == [[f"brand/{label}", "10"] for label in LABELS]
    first = [colours_at(page, row) for row in range(4)]
    assert len({tuple(colour) for colour in first}) == 4
    assert first[0] == colours_at(page, 4)
    option(page, "colour", "split")
    page.wait_for_function("() => document.querySelectorAll('#legend label').length === 2")
    page.wait_for_timeout(200)
    assert colours_at(page, 0) == colours_at(page, 1) != colours_at(page, 13)


def test_the_legend_hides_and_shows(page):
    ground = page.evaluate("() => embeddingMaps['map-a'].points.getContext('2d').getImageData(2, 2, 1, 1).data")[:3]
    page.locator("#legend input").first.uncheck()
    page.wait_for_timeout(200)
    assert colours_at(page, 0) == ground != colours_at(page, 1)
    page.click("#legend-none")
    page.wait_for_timeout(200)
    assert colours_at(page, 1) == ground
    page.click("#legend-all")
    page.wait_for_timeout(200)
    assert colours_at(page, 0) != ground


def test_hover_shows_the_picture(page, frame):
    page.mouse.move(*page.evaluate(PLACE, 21))
    page.locator("#map-a .tip").wait_for()
    text = page.inner_text("#map-a .tip")
    assert frame[1]["crop_id"][21] in text
    assert "✓ right" in text
    page.wait_for_function("() => document.querySelector('#map-a .tip img').naturalWidth === 20")
    assert page.locator("#map-a .tip img").get_attribute("src") == "picture/0/21"


def test_click_shows_facts_and_exact_neighbours(page, frame):
    page.mouse.click(*page.evaluate(PLACE, 25))
    page.locator("#neighbours .tile").nth(11).wait_for()
    assert page.inner_text("#chosen h2") == f"brand/{LABELS[25 % 4]}"
    assert "✗ predicted brand/amber" in page.inner_text("#chosen")
    unit = (COLOURS + 1) / np.linalg.norm(COLOURS + 1, axis=1, keepdims=True)
    similarity = unit @ unit[25]
    keep = (frame[1]["crop_id"] != frame[1]["crop_id"][25]).to_numpy()
    wanted = [row for row in np.argsort(-similarity, kind="stable") if keep[row]][:12]
    found = [int(tile.get_attribute("data-row")) for tile in page.locator("#neighbours .tile").all()]
    assert found == wanted
    right = page.locator("#neighbours .thumb").evaluate_all(
        "tiles => tiles.map(tile => tile.classList.contains('right'))"
    )
    assert right == [row % 4 == 25 % 4 for row in wanted]
    assert f"similarity {similarity[wanted[0]]:.3f}" in page.inner_text("#neighbours")
    page.locator("#neighbours .tile").first.click()  # a neighbour opens in its turn
    page.wait_for_function(
        "(text) => document.querySelector('#chosen h2').textContent === text", arg=f"brand/{LABELS[wanted[0] % 4]}"
    )


def test_lasso_lists_the_selection_and_exports_it(page, frame, tmp_path):
    page.click("#tool-lasso")
    corners = page.evaluate(
        f"() => [0, 3, 19, 16].map({PLACE})"
    )  # columns 0-3 of the lowest three lines, all at one time
    around = [(x + dx, y + dy) for (x, y), (dx, dy) in zip(corners, OUTWARDS, strict=True)]
    page.mouse.move(*around[0])
    page.mouse.down()
    for corner in [*around[1:], around[0]]:
        page.mouse.move(*corner, steps=5)
    page.mouse.up()
    listed(page, "Selection: 12 points")
    inside = [row for row in range(24) if row % 8 < 4]
    page.wait_for_function("() => document.querySelectorAll('#tiles .tile').length === 12")
    assert [int(tile.get_attribute("data-row")) for tile in page.locator("#tiles .tile").all()] == inside
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "selection.csv")
    assert pd.read_csv(tmp_path / "selection.csv")["row"].tolist() == inside
    page.keyboard.press("Escape")
    page.click("#clear")
    listed(page, f"Points: {N}")


def test_a_quick_lasso_keeps_the_corners_between_two_frames(page):
    """The browser tells of moves of one frame as one event, with a list of them."""
    corners = page.evaluate(f"() => [0, 3, 19, 16].map({PLACE})")
    around = [(x + dx, y + dy) for (x, y), (dx, dy) in zip(corners, OUTWARDS, strict=True)]
    page.click("#tool-lasso")
    page.mouse.move(*around[0])
    page.mouse.down()
    page.evaluate(
        """(corners) => {
        const move = ([x, y], more) => new PointerEvent('pointermove', {pointerId: 1, clientX: x, clientY: y, ...more});
        const box = document.getElementById('map-a'), merged = corners.map((corner) => move(corner));
        box.dispatchEvent(move(corners[corners.length - 1], {coalescedEvents: merged})); }""",
        around[1:],
    )
    page.mouse.up()
    listed(page, "Selection: 12 points")


def test_filters_and_search(page, frame):
    option(page, "split", "test")
    page.wait_for_function("() => document.getElementById('status').textContent === '16 points of 40 shown'")
    page.locator("#only").get_by_text("wrong").click()
    wrong = (frame[1]["split"].eq("test") & (frame[1]["correct"] == False)).sum()  # noqa: E712
    listed(page, f"Points: {wrong}")
    page.locator("#only").get_by_text("wrong").click()
    page.fill("#text", "photo_4_1")
    listed(page, "Points: 2")
    page.wait_for_function("() => embeddingMaps['map-a'].n === 2")


def test_two_maps_share_what_is_chosen(page, frame):
    option(page, "source-a", "ID 0")
    option(page, "source-b", "ID 10")
    page.wait_for_function(
        "() => window.embeddingMaps['map-b'] && embeddingMaps['map-b'].n === 20 && embeddingMaps['map-a'].n === 20"
    )
    page.wait_for_timeout(300)
    page.mouse.click(*page.evaluate(PLACE, 7))
    page.locator("#neighbours .tile").first.wait_for()
    there = page.evaluate(
        """() => { const map = embeddingMaps['map-b'], key = embeddingMaps['map-a'].keys[7];
        return map.rows[map.find({file: 0, row: 7, key})]; }"""
    )
    assert there == 27  # the same crop at the other padding
    shot(page, "two")


def test_three_dimensions_turn(page):
    page.get_by_text("3-D").click()
    page.wait_for_function("() => embeddingMaps['map-a'].scene.three")
    page.locator("#map-a").focus()
    before = page.evaluate("() => [...embeddingMaps['map-a'].px]")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    after = page.evaluate("() => [...embeddingMaps['map-a'].px]")
    assert np.abs(np.array(before) - after).max() > 5
    page.keyboard.press("0")
    page.wait_for_timeout(300)
    assert np.allclose(page.evaluate("() => [...embeddingMaps['map-a'].px]"), before)


def test_everything_is_reached_by_the_keyboard(page):
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        one = page.evaluate("() => document.activeElement.id || document.activeElement.closest('[id]').id")
        reached.add(one)
        if one == "map-a":
            break
        ring = "() => [...document.querySelectorAll('*')].some(e => e.matches(':focus-visible, :has(> :focus-visible)')"
        assert page.evaluate(f"{ring} && getComputedStyle(e).outlineStyle !== 'none')"), one
    assert {"tab-map", "source-a", "colour", "text", "tool-lasso", "map-a"} <= reached, reached
    page.keyboard.press("n")
    page.keyboard.press("n")
    page.locator("#map-a .tip").wait_for()
    page.keyboard.press("Enter")
    page.locator("#neighbours .tile").first.wait_for()
    assert page.inner_text("#chosen h2") == "brand/beige"
    assert "brand/beige" in page.inner_text("#said")


def test_upload_a_picture_and_a_wrong_file(page, tmp_path):
    (tmp_path / "mine.png").write_bytes(encoded(tuple(COLOURS[13].tolist())))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "huge.jpg").write_bytes(b"\xff\xd8\xff" + bytes(21 << 20))
    page.click("#tab-upload")
    page.set_input_files("#upload-file", tmp_path / "mine.png")
    page.locator("#hits .tile").first.wait_for()
    first = page.locator("#hits .tile").first
    unit = (COLOURS + 1) / np.linalg.norm(COLOURS + 1, axis=1, keepdims=True)
    train = [
        row for row in np.argsort(-(unit @ unit[13]), kind="stable") if row % 20 < 12
    ]  # references are compared with
    assert first.get_attribute("data-row") == str(train[0])
    assert page.inner_text("#knn-label").startswith("brand/")
    shot(page, "upload")
    page.set_input_files("#upload-file", tmp_path / "notes.txt")
    page.get_by_text("notes.txt: not an image; choose another picture.").wait_for()
    assert page.locator("#hits").count() == 0
    page.set_input_files("#upload-file", tmp_path / "huge.jpg")
    page.get_by_text("choose a picture of at most 20 MB").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_sideways_scrolling(browser, url, scheme):
    page = opened(browser, url, 390, 844, has_touch=True, is_mobile=True, device_scale_factor=2, color_scheme=scheme)
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
    page.locator("#map-a").scroll_into_view_if_needed()
    page.touchscreen.tap(*page.evaluate(PLACE, 10))
    page.locator("#neighbours .tile").first.wait_for()
    assert page.inner_text("#chosen h2") == "brand/coral"
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(244, 245, 247)", "dark": "rgb(14, 17, 20)"}[scheme]
    assert page.errors == []
    shot(page, f"phone_{scheme}")
    page.context.close()


def test_pictures_that_have_moved_are_said_and_leave_no_broken_image(browser, tmp_path):
    make(tmp_path / "x.parquet", pictures=False)
    shutil.move(tmp_path / "pictures", tmp_path / "elsewhere")
    page = opened(browser, served(tmp_path / "x.parquet"))
    note = page.locator(".banner").inner_text()
    assert str(tmp_path / "pictures" / "0.png") in note
    assert "--data_root" in note
    page.wait_for_function("() => document.querySelectorAll('#tiles img.lost').length === 40")
    assert not page.locator("#tiles img").first.is_visible()
    says = page.evaluate("() => getComputedStyle(document.querySelector('#tiles .frame'), '::before').content")
    assert says == '"no picture"'
    assert {"404" in error for error in page.errors} == {True}
    page.context.close()


def test_labels_are_text_and_never_markup(browser, tmp_path):
    make(tmp_path / "x.parquet", class_1=["<img src=x onerror=alert(1)>"] * N, crop_id=["<b>bold</b>"] * N)
    page = opened(browser, served(tmp_path / "x.parquet"))
    page.on("dialog", lambda dialog: page.errors.append("a script of the file ran"))
    page.mouse.move(*page.evaluate(PLACE, 3))
    page.locator("#map-a .tip").wait_for()
    assert "<img src=x" in page.inner_text("#legend")
    assert "<b>bold</b>" in page.inner_text("#map-a .tip")
    assert page.errors == []
    page.context.close()
