"""--group_by: intervals, p and resampling count groups of photos as one."""

from __future__ import annotations

import re

import numpy as np
import pytest
from builders import make_evaluator, study, totals

import evaluate_combo
import greedy_combo_eval
from common import embeddings
from common.messages import UserError
from evaluation import learning
from evaluation.codes import Units, code_sets
from evaluation.evaluator import Evaluator
from evaluation.records import Combination, Rule
from uncertainty import intervals

DAY = r"(\d)$"  # the last digit of the photo's number: ten groups of 14 photos
PAIR = Combination(("0",), ("0",))


@pytest.fixture(scope="module")
def sets():
    return study(1, split="train"), study(2, split="test")


def grouped(references, queries, group_by=DAY, **rule) -> Evaluator:
    return Evaluator(code_sets(references, queries, units=Units(group_by)), Rule(**rule))


def test_totals_are_by_group_and_sum_to_the_same(sets):
    photo, group = totals(make_evaluator(*sets), PAIR), totals(grouped(*sets), PAIR)
    days = np.array([sample[-1] for sample in sets[1][0].sample_ids])
    assert group.image_size.tolist() == [(days == day).sum() for day in sorted(set(days))]
    assert group.image_right.sum(axis=1).tolist() == photo.image_right.sum(axis=1).tolist()
    assert (group.n, group.accuracy) == (photo.n, photo.accuracy)


def test_a_csv_groups_as_an_expression_does(sets, tmp_path):
    file = tmp_path / "days.csv"
    file.write_text("sample_id,group\n" + "".join(f"test{i},{i % 10}\n" for i in range(14)))
    by_file, by_expression = (totals(grouped(*sets, group_by), PAIR) for group_by in (str(file), DAY))
    assert by_file.image_right.tolist() == by_expression.image_right.tolist()


def test_what_is_no_neighbour_goes_by_the_photo_still(sets):
    queries = sets[1]
    alone, grouped_too = (
        one.decide(PAIR)
        for one in (make_evaluator(queries, queries, exclude="sample"), grouped(queries, queries, exclude="sample"))
    )
    assert (alone.neighbours == grouped_too.neighbours).all()
    assert len(np.unique(grouped_too.image)) == 10


def test_references_are_grouped_for_cross_validation(sets):
    references, queries = learning.rows(grouped(*sets), PAIR)
    assert (len(np.unique(references.photo)), len(np.unique(queries.photo))) == (10, 10)
    assert len(np.unique(learning.rows(make_evaluator(*sets), PAIR)[0].photo)) == 14


def test_a_photo_without_a_group_or_a_name_is_named(sets):
    with pytest.raises(UserError, match="matches nothing in 14 sample ids of 14, such as 'test0'"):
        grouped(*sets, "(shelf)")
    nameless = [one.take(np.arange(len(one))) for one in sets[1][:1]]
    nameless[0].sample_ids[:] = ""
    with pytest.raises(UserError, match="rows without a sample id"):
        grouped(sets[0], nameless)


def run(script, capsys, *argv):
    assert script.main([str(word) for word in argv]) == 0
    return capsys.readouterr().out


def test_the_output_says_by_which_unit(sets, tmp_path, capsys):
    for one in (*sets[0], *sets[1]):
        embeddings.save(tmp_path / f"d_{one.id}_{one.split}.npz", one)
    sides = ("--train_npz", tmp_path, "--test_npz", tmp_path, "--group_by", DAY)
    out = run(evaluate_combo, capsys, *sides)
    assert rf"intervals, p and resampling by group, --group_by {DAY}: 10 groups of 14 photos" in out
    assert "Accuracy of 56 crops on 10 groups" in out
    group = totals(grouped(*sets), PAIR)
    expected = intervals.accuracy_interval(group.image_right[1], group.image_size)
    out = run(evaluate_combo, capsys, *sides, "--reference_ids", "0", "--query_ids", "0")
    assert f"95% interval {expected.low:.4f} to {expected.high:.4f} (10 groups, few groups)" in out
    results, report = tmp_path / "r.txt", tmp_path / "r.html"
    out = run(greedy_combo_eval, capsys, *sides, "--results", results, "--report", report)
    assert "10 groups of 14 photos" in out
    assert "Scored on 10 groups; to find a gain of 2 points takes about" in out
    text = results.read_text()
    assert f"Intervals by: group, {DAY}\n" in text
    assert f"{expected.low:.4f} to {expected.high:.4f} (10 groups, few groups)" in text
    assert re.search(r"Korn-Graubard by group of photos, ", report.read_text())
