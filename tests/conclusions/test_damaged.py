"""What strangers, editors and other tools leave where conclusions read: results.txt, results.csv, models.csv, the meta of sets."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest
from builders import make_evaluator, study
from hostile import call
from hostile import study as write_study

import greedy_combo_eval
from conclusions.effects import effects
from conclusions.models import speed

BIG = 10**400  # a whole number that no float holds


@pytest.fixture
def here(tmp_path):
    (tmp_path / "sets").mkdir()
    write_study(tmp_path / "sets")
    return tmp_path


def search(here, *more: str) -> tuple[int | str, str, str]:
    options = ["--train_npz", here / "sets", "--test_npz", here / "sets", "--combination_size", "1"]
    return call(greedy_combo_eval.main, *options, "--results", here / "r.txt", *more)


def runs(here) -> list[str]:
    """The identities in results.txt of runs that have ended there."""
    return re.findall(r"^End of run: (\S+)\s*$", (here / "r.txt").read_text(), re.M)


@pytest.mark.parametrize(("old", "new"), [("\n", "\r\n"), ("\n", " \n"), ("\n", "\t\r\n")])
def test_a_text_that_an_editor_has_saved_keeps_its_runs(here, old, new):
    """With other line ends no run in it had an end, so that the same command took all of it for what a killed run had left."""
    assert search(here)[0] == 0
    assert search(here, "--seed", "1")[0] == 0
    text = (here / "r.txt").read_text().replace(old, new)
    (here / "r.txt").write_text(text, newline="")
    names = runs(here)
    assert len(names) == 2
    code, _, err = search(here)
    assert code == 0, err
    with open(here / "r.txt", newline="") as file:
        assert file.read().startswith(text)
    assert len(runs(here)) == 3
    assert pd.read_csv(here / "r.csv")["run"].unique().tolist() == runs(here)


CSV = {
    "a row cut short": (
        lambda text: text + b"1,2\n",
        r"r\.csv, line 6: 2 fields, not 31; repair it, or start anew with",
    ),
    "a quote left open": (lambda text: text + b'"abc\n', r"r\.csv, line 6: unexpected end of data; repair it"),
    "a cell of 300,000 letters": (lambda text: text + b"x" * 300_000 + b"\n", "line 6: field larger than field limit"),
    "another table": (lambda text: b"a,b\n1,2\n", "is another table, its first column is 'a'"),
    "no text": (lambda text: b"\0\xff" * 50, "is a binary file, and this output is not; it stays as it is"),
}


@pytest.mark.parametrize("name", CSV)
def test_a_table_of_others_is_one_sentence_and_stays(here, name):
    assert search(here)[0] == 0
    change, told = CSV[name]
    before = change((here / "r.csv").read_bytes())
    (here / "r.csv").write_bytes(before)
    text = (here / "r.txt").read_bytes()
    code, _, err = search(here)
    assert code == 1
    assert re.search(told, err), err
    assert ((here / "r.csv").read_bytes(), (here / "r.txt").read_bytes()) == (before, text)


@pytest.mark.parametrize(
    "content", ["", "a,b\n1,2\n", '"' + "x" * 300_000, "\0\n", "fingerprint,precision\nof m,fp32\n"]
)
def test_a_damaged_table_of_models_tells_no_speed(tmp_path, content):
    one = study(0)[0].renamed(fingerprint="of m", precision="fp32", source=str(tmp_path / "d_0_test.npz"))
    (tmp_path / "models.csv").write_text(content)
    weights, images, processor = speed(one)
    assert math.isnan(weights)
    assert math.isnan(images)
    assert processor == ""


@pytest.mark.parametrize(
    ("padding", "size", "height"),
    [
        ("-50", None, 224),  # nothing would be left of the object's share
        ("-80", "crop", 224),
        ("1e400", None, 224),
        ("nan", None, 224),
        ("10", None, math.nan),
        ("10", None, math.inf),
        pytest.param("10", None, BIG, id="no float"),
        ("10", None, 0),
        ("10", None, -3),
        ("10", None, "224"),
        ("10", None, [224]),
        ("10", None, None),
        ("1e300", "crop", 224),
    ],
)
def test_a_size_or_padding_that_cannot_be_is_no_effect_of_padding(padding, size, height):
    about = {"fingerprint": "of m", "model": "m", "object_px": 50}
    meta = [
        {"padding": "0", "image_size": size, "preprocess": {"height": 224}},
        {"padding": padding, "image_size": size, "preprocess": {"height": height}},
        {"padding": "20", "image_size": size, "preprocess": {"height": 314}},
    ]
    sides = [
        [one.renamed(**about, **more) for one, more in zip(study(seed, split=split)[:3], meta, strict=True)]
        for seed, split in enumerate(("train", "test"))
    ]
    found = effects(make_evaluator(*sides))
    assert found
    assert {row.padding for row in found} == {"20"}
