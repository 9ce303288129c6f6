"""Figures: the words and colours that must be in them are read back from the SVG and the PNG."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from plots import figures, heatmaps, maps


def words(path: Path) -> list[str]:
    """The texts of an SVG, in the order drawn."""
    import html

    found = re.findall(r"<text[^>]*>(.*?)</text>", path.read_text(encoding="utf-8"), re.S)
    return [html.unescape(re.sub(r"<[^>]+>", "", text)).strip() for text in found]


def pixels(path: Path) -> np.ndarray:
    import cv2

    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)


def near(image: np.ndarray, color: str, tolerance: int = 40) -> int:
    """How many pixels have about this colour."""
    rgb = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)])
    return int((np.abs(image - rgb).max(axis=-1) <= tolerance).sum())


def blobs(n_class: int, per_class: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.permutation(n_class)[:, None] * [3.0, 0.0] + rng.normal(size=(n_class, 2))
    labels = np.repeat([f"brand {c % 7}/product {c:03d}" for c in range(n_class)], per_class)
    return np.repeat(centres, per_class, 0) + rng.normal(size=(n_class * per_class, 2)) * 0.2, labels


def test_a_label_has_one_colour_whatever_is_shown_beside_it():
    labels = [f"label {n:02d}" for n in range(12)]
    alone = {label: figures.label_colors(labels, [label])[label] for label in labels}
    assert figures.label_colors(labels, labels) == alone
    assert len(set(alone.values())) == 12


def test_fifteen_labels_of_five_hundred_have_fifteen_colours():
    labels = [f"label {n:03d}" for n in range(500)]
    shown = labels[::33][:15]
    assert len(set(figures.label_colors(labels, shown).values())) == 15


def test_the_map_names_the_frequent_labels_and_counts_the_rest_as_other(tmp_path):
    points, labels = blobs(12, 20)
    labels = np.where(np.arange(240) < 20, "rare", labels)
    labels[:5] = labels[30]  # "product 001" has 25 rows, rare 15, the others 20
    role = np.where(np.arange(240) % 4 == 0, "query", "reference")
    correct = np.ones(240, bool)
    correct[[8, 12]] = False
    maps.embedding_map(
        tmp_path / "map.png", points, labels, top_n=11, marker_by=role, correct=correct, title="PCA of $5 & $3"
    )
    text = words(tmp_path / "map.svg")
    assert "PCA of $5 & $3" in text
    assert "2  brand 1/product 001  25" in text
    assert "OTHER: 1 more  15" in text
    assert {"reference  180", "query  60", "wrong  2"} <= set(text)
    assert not any("rare" in word for word in text)
    image = pixels(tmp_path / "map.png")
    for color in figures.label_colors(sorted(set(labels)), sorted(set(labels) - {"rare"})).values():
        assert near(image, color) > 100, color


def test_equal_input_gives_equal_files(tmp_path):
    points, labels = blobs(5)
    for name in ("a", "b"):
        maps.embedding_map(tmp_path / f"{name}.png", points, labels)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_svg_of_a_large_map_stays_small(tmp_path):
    points, labels = blobs(10, 5000)
    maps.embedding_map(tmp_path / "map", points, labels)
    assert (tmp_path / "map.svg").stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("points", "labels"),
    [
        (np.zeros((1, 2)), ["one"]),
        (np.zeros((4, 2)), ["same"] * 4),
        (np.zeros((3, 3)), ["a", "", "_b"]),
        (np.zeros((0, 2)), []),
    ],
)
def test_degenerate_maps_are_drawn(tmp_path, points, labels):
    maps.embedding_map(tmp_path / "map.png", points, labels, correct=np.zeros(len(points), bool))
    assert f"wrong  {len(points)}" in words(tmp_path / "map.svg")
    assert pixels(tmp_path / "map.png").min() < 100


def test_no_window_is_needed(tmp_path):
    """Even where the user's settings ask for one, and there is no screen."""
    code = (
        "import sys, numpy as np\nfrom plots import maps\n"
        f"maps.embedding_map({str(tmp_path / 'map.png')!r}, np.eye(2), ['a', 'b'])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"MPLBACKEND": "TkAgg", "HOME": str(tmp_path)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_characters_without_a_glyph_are_written_as_escapes(tmp_path, monkeypatch):
    from matplotlib import font_manager

    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    maps.embedding_map(tmp_path / "map.png", np.eye(2), ["商品", "plain\nlabel"], title="é")
    text = words(tmp_path / "map.svg")
    assert {r"2  \u5546\u54c1  1", "1  plain label  1", "é"} <= set(text)


def test_the_heat_map_puts_like_classes_side_by_side(tmp_path):
    names = ["a1", "b1", "a2", "b2", "a3", "b3"]
    same = np.equal.outer([name[0] for name in names], [name[0] for name in names])
    matrix = np.where(same, 0.75, 0.25) + 0.01 * np.arange(6)[:, None] * np.arange(6) / 36
    np.fill_diagonal(matrix, [np.nan, *[0.875] * 5])
    heatmaps.similarity_heatmap(tmp_path / "heat.png", matrix, names, title="six classes")
    text = words(tmp_path / "heat.svg")
    rows = [word for word in text if word in names][6:]
    assert {name[0] for name in rows[:3]} in ({"a"}, {"b"})
    assert len(rows) == 6
    assert text.count("0.88") == 5  # 0.875
    assert text.count("–") == 1


def test_five_hundred_classes_are_thinned_and_the_most_alike_listed(tmp_path):
    rng = np.random.default_rng(0)
    matrix = rng.uniform(0, 0.5, (500, 500))
    matrix = (matrix + matrix.T) / 2
    matrix[17, 401] = matrix[401, 17] = 0.93
    names = [f"class_{n:03d}" for n in range(500)]
    heatmaps.similarity_heatmap(tmp_path / "heat.png", matrix, names)
    text = words(tmp_path / "heat.svg")
    assert "500 classes, in the order of the rows; 1 name in 9 is shown" in text
    assert "0.93" in text
    pair = " ".join(text[text.index("0.93") + 1 : text.index("0.93") + 3])
    assert "class_017" in pair
    assert "class_401" in pair
    assert 50 <= len([word for word in text if re.fullmatch(r"class_\d+", word)]) <= 60 + 24


def test_the_colour_scale_can_carry_black_numbers():
    """WCAG contrast of the ink on the darkest colour is at least 4.5."""

    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darkest = luminance(heatmaps._light()(1.0)[:3])
    ink = luminance([int(figures.INK[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    assert (darkest + 0.05) / (ink + 0.05) >= 4.5


def test_a_drawing_clears_away_what_a_killed_one_left(tmp_path):
    """The temporary file of a dead run is gone once the same plot is drawn again; that of another file stays."""

    def draw() -> None:
        with figures.page(tmp_path / "p.png", (2, 2), ""):
            pass

    code = (
        "import os, signal\nfrom plots import figures\nos.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    code += f"with figures.page({str(tmp_path / 'p.png')!r}, (2, 2), ''):\n    pass\n"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    (left,) = tmp_path.iterdir()
    other = left.with_name(".00000000-0000000000000000.tmp")
    other.touch()
    assert left.name.endswith(".tmp")
    draw()
    assert {path.name for path in tmp_path.iterdir()} == {"p.png", "p.svg", other.name}
