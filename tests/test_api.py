"""docs/api.md: its examples run as they stand, and give what the scripts give."""

from __future__ import annotations

import csv
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import padding_study
from common.messages import UserError


@pytest.fixture(scope="module")
def examples(root) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (root / "docs/api.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_example_of_three_steps_gives_what_the_scripts_give(root, examples, script, tmp_path, monkeypatch, capsys):
    command = [sys.executable, str(root / "examples/make_shelf.py"), "--output_root", "shelf"]
    command += ["--shelves", "5", "--photos_per_shelf", "1"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(examples[0], names)
    assert len(names["crops"]) == 2 * len({*names["crops"].crop_id})
    out = capsys.readouterr().out
    files = ["--train_npz", "embeddings", "--test_npz", "embeddings"]
    done = script("greedy_combo_eval.py", *files, "--combination_size", "1-2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(names["table"].attrs["verdict"])
    assert names["table"].attrs["verdict"] in out
    assert re.search(r"^Which padding\? Use (0/0|20/20)", out, re.M)
    with open("results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(names["table"])
    for row, (_, ours) in zip(rows, names["table"].iterrows(), strict=True):
        for column in ("accuracy_at_1", "low", "high", "difference"):
            assert float(row[column]) == pytest.approx(ours[column], rel=1e-5, nan_ok=True)


def test_the_example_of_own_vectors_runs(examples, capsys):
    exec("import padding_study\n" + examples[1])
    assert "1.0" in capsys.readouterr().out


def test_a_frame_becomes_a_set_and_wrong_ones_are_told():
    frame = pd.DataFrame({"class_0": ["a", "b"], "class_1": ["x", None], "crop_id": [7, 8]})
    made = padding_study.embedding_set(frame, np.eye(2), id="5")
    assert made.labels.tolist() == [["a", "x"], ["b", ""]]
    assert made.crop_ids.tolist() == ["7", "8"]
    assert made.id == "5"
    with pytest.raises(UserError, match="for 2 rows"):
        padding_study.embedding_set(frame, np.eye(3))
    with pytest.raises(UserError, match="zero or not finite"):
        padding_study.embedding_set(frame, np.zeros((2, 4)))


def test_a_file_that_there_is_not_is_the_sentence_of_the_shell(tmp_path):
    with pytest.raises(UserError, match=r"nope\.json: no such file or folder; check the path"):
        padding_study.crop(json_path=tmp_path / "nope.json", output_root=tmp_path / "out")
    with pytest.raises(UserError, match=r"^argument --padding_percent: 'ten' is not a number; crop"):
        padding_study.crop(json_path="a.json", output_root="out", padding_percent="ten")


def test_what_keeps_sets_apart_is_told(capsys):
    sets = [
        padding_study.embedding_set(pd.DataFrame({"label": ["a", "b"]}), np.eye(2), id=i, dataset_name=i) for i in "xy"
    ]
    padding_study.evaluate(sets, sets)
    assert "the query sets are of 2 data sets, x, y" in capsys.readouterr().err


def test_an_option_that_there_is_not_is_a_mistake_of_the_caller():
    with pytest.raises(UserError, match="did you mean --json_path"):
        padding_study.crop(jason_path="a.json")
