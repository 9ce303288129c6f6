"""Intervals for new references: halves of the reference photos, the same at every ID, scored as a user would."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from builders import make_evaluator, study, totals

import evaluate_combo
import greedy_combo_eval
from common import embeddings
from evaluation.codes import code_sets
from evaluation.records import Combination, Rule
from evaluation.references import new_references, reference_interval
from uncertainty import intervals, references


def test_each_half_is_scored_as_a_set_of_its_own():
    sides = study(1, split="train"), study(2, split="test")
    combination = Combination(("0", "10"), ("10",))
    found = reference_interval(code_sets(*sides), Rule(), combination, halvings=3, seed=5)
    whole = totals(make_evaluator(*sides), combination)
    plain = intervals.accuracy_interval(whole.image_right[1], whole.image_size)
    assert found[0].accuracy == plain.accuracy
    assert found[0].high - found[0].low >= plain.high - plain.low

    samples = sides[0][0].sample_ids
    _, photo = np.unique(samples, return_inverse=True)
    _, label = np.unique(sides[0][0].label(), return_inverse=True)
    halved = []
    for half in references.halves(np.tile(photo, 2), np.tile(label, 2), 3, 5):
        assert (half[: len(photo)] == half[len(photo) :]).all()
        rows = half[: len(photo)]
        halves = [make_evaluator([one.take(kept) for one in sides[0]], sides[1]) for kept in (rows, ~rows)]
        tallies = [totals(one, combination) for one in halves]
        halved.append([tally.image_right[1] for tally in tallies])
    expected, deviation = references.new_reference_interval(whole.image_right[1], whole.image_size, halved)
    assert found == (expected, pytest.approx(deviation))


def test_too_few_photos_to_halve():
    sides = study(1, n_images=3, split="train"), study(2, split="test")
    assert reference_interval(code_sets(*sides), Rule(), Combination(("0",), ("0",))) is None


def test_the_scripts_print_both_intervals_and_write_the_new_one(tmp_path, capsys):
    sides = study(1, split="train", n_images=24), study(2, split="test")
    for one in (*sides[0], *sides[1]):
        embeddings.save(tmp_path / f"d_{one.id}_{one.split}.npz", one)
    given = ("--train_npz", str(tmp_path), "--test_npz", str(tmp_path), "--references_vary", "--results")
    pair = Combination(("0",), ("0",))
    found, spread = reference_interval(code_sets(*sides), Rule(), pair)
    new = f"{found.low:.4f} to {found.high:.4f}"
    assert evaluate_combo.main([*given, str(tmp_path / "e.txt")]) == 0
    out = capsys.readouterr().out
    whole = totals(make_evaluator(*sides), pair)
    plain = intervals.accuracy_interval(whole.image_right[1], whole.image_size)
    seen = f"{100 * spread:.1f}" if spread > 0 else "none seen"
    row = rf"^0/0 +{plain.accuracy:.4f}  {plain.low:.4f} to {plain.high:.4f}  +{new} +{seen}$"
    assert re.search(row, out, re.M), out
    assert f"95% interval, new references: {new}\n" in (tmp_path / "e.txt").read_text()
    table = pd.read_csv(tmp_path / "e.csv").set_index(["reference_ids", "query_ids"])
    assert table.loc[(0, 0), "low_new_references"] == pytest.approx(found.low, abs=1e-5)
    assert evaluate_combo.main([*given, str(tmp_path / "n.txt"), "--reference_ids", "0", "--query_ids", "0"]) == 0
    assert re.search(row, capsys.readouterr().out, re.M)
    assert greedy_combo_eval.main([*given, str(tmp_path / "g.txt")]) == 0
    assert "new references as well" in capsys.readouterr().out
    assert (tmp_path / "g.txt").read_text().count("95% interval, new references: ") in (1, 2)


def test_references_without_photos_say_so():
    sides = study(1, split="train"), study(2, split="test")
    sides[0][0].sample_ids[:] = ""
    pairs = [Combination((one,), (one,)) for one in ("0", "10")]
    found = new_references(code_sets(*sides), Rule(), pairs)
    assert found[pairs[0]] is None
    assert found[pairs[1]] is not None
