"""What is transparent shows one colour, the same in a set and in the pictures that are compared with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hostile import call
from PIL import Image

import classify
import extract_embedding
import npz_to_parquet
import search
from common.embedding_sets import read_sets
from viewer.parquet_rows import ParquetRows
from viewer.viewer_data import PictureSearch, ViewerData


def draw(folder: Path, background: str | None) -> None:
    """Write three pictures of each of two classes: a disc on nothing, over what lies hidden there, or laid over a colour."""
    for kind, colour in (("red", (200, 30, 30)), ("blue", (30, 60, 200))):
        (folder / kind).mkdir(parents=True)
        for number in range(3):
            y, x = np.mgrid[:64, :64]
            alpha = ((y - 32) ** 2 + (x - 28 - 4 * number) ** 2 < 400).astype(np.uint8) * 255
            pixels = np.dstack([np.full((64, 64, 3), colour, np.uint8), alpha])
            picture = Image.fromarray(pixels)
            if background:
                ground = Image.new("RGBA", picture.size, background)
                picture = Image.alpha_composite(ground, picture).convert("RGB")
            picture.save(folder / kind / f"{number}.png")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    draw(folder / "clear", None)
    words = ["--output_root", folder / "sets", "--batch_size", 6, "--model", "lite0", "--precision", "fp32"]
    for name, more in (("clear_black", ["--background", "black"]), ("clear_white", [])):
        options = ["--data_root", folder / "clear", "--company_name", name, *words, *more]
        assert call(extract_embedding.main, *options)[0] == 0
    for colour in ("black", "white"):
        draw(folder / colour, colour)
        options = ["--data_root", folder / colour, "--company_name", colour, *words]
        assert call(extract_embedding.main, *options)[0] == 0
    return folder


def vectors(study: Path, name: str) -> np.ndarray:
    return np.asarray(read_sets([study / "sets" / f"{name}_0_all.npz"])[0].vectors)


def test_a_set_has_the_vectors_of_pictures_laid_over_the_colour(study: Path) -> None:
    for colour in ("black", "white"):
        assert np.array_equal(vectors(study, f"clear_{colour}"), vectors(study, colour))
    assert not np.allclose(vectors(study, "black"), vectors(study, "white"), rtol=0.05)
    metas = [read_sets([study / "sets" / f"clear_{colour}_0_all.npz"])[0].meta for colour in ("black", "white")]
    assert [meta.get("background") for meta in metas] == ["black", None]
    again = [
        "--data_root",
        study / "clear",
        "--company_name",
        "clear_black",
        "--output_root",
        study / "sets",
        "--batch_size",
        6,
        "--model",
        "lite0",
        "--precision",
        "fp32",
    ]
    code, _, err = call(extract_embedding.main, *again)
    assert (code, "--background" in err) == (1, True)


def nearest(study: Path, *words: object) -> list[dict]:
    code, out, err = call(search.main, "query", "-q", study / "clear", "-k", 1, "--format", "json", *words)
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("index", [None, "index.faiss", "index.db"])
def test_queries_take_the_background_of_the_set_they_search(study: Path, tmp_path: Path, index: str | None) -> None:
    npz = study / "sets" / "clear_black_0_all.npz"
    where: list[object] = ["--npz", npz]
    if index:
        where = ["--uri", tmp_path / index, *(["--collection", "c"] if index.endswith("db") else [])]
        code, _, err = call(search.main, "build", "--npz", npz, *where)
        assert code == 0, err
    own = [row["results"][0] for row in nearest(study, *where)]
    assert [row["score"] for row in own] == pytest.approx([1.0] * 6, abs=1e-5)
    other = [row["results"][0] for row in nearest(study, *where, "--background", "white")]
    assert max(row["score"] for row in other) < 0.99


def test_classify_takes_it_too(study: Path) -> None:
    npz = study / "sets" / "clear_black_0_all.npz"
    words = ["--image", study / "clear", "--reference_npz", npz, "--k", 1]
    black, white = (call(classify.main, *words, *more) for more in ([], ["--background", "white"]))
    assert black[0] == white[0] == 0
    assert [line.split("\t")[2] for line in black[1].splitlines()[1:]] == ["blue"] * 3 + ["red"] * 3
    code, out, err = call(classify.main, "--image", study / "clear", "--background", "black")
    assert code == 0, err
    assert out.replace("/clear/", "/black/") == call(classify.main, "--image", study / "black")[1]


def test_an_uploaded_picture_takes_it_too(study: Path, tmp_path: Path) -> None:
    npz = study / "sets" / "clear_black_0_all.npz"
    code, _, err = call(npz_to_parquet.main, "--root", npz, "--out", tmp_path / "x.parquet")
    assert code == 0, err
    data = ViewerData([ParquetRows(tmp_path / "x.parquet")])
    picture = (study / "clear" / "blue" / "0.png").read_bytes()
    expected = vectors(study, "black")[0]
    found = PictureSearch(data).embed(picture)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    white = PictureSearch(data, background="white").embed(picture)
    assert np.abs(white - expected).max() > 0.05 * np.abs(expected).max()


def test_a_set_that_names_no_colour_is_refused(study: Path, tmp_path: Path) -> None:
    with np.load(study / "sets" / "clear_black_0_all.npz") as archive:
        arrays = dict(archive)
    arrays["meta"] = np.array(str(arrays["meta"]).replace('"black"', '"../x"'))
    np.savez(tmp_path / "x_0_all.npz", **arrays)
    code, _, err = call(search.main, "query", "-q", study / "clear", "--npz", tmp_path / "x_0_all.npz")
    assert (code, 'background is "../x", not white or black or gray' in err) == (1, True), err
