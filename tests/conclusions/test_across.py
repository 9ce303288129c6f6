"""--across_datasets: every combination over several data sets, against plain numpy."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from builders import make_evaluator, study, totals

import greedy_combo_eval
from common import embeddings
from conclusions.across import across
from evaluation.records import Combination
from uncertainty import datasets, intervals
from uncertainty.winner import rank_intervals, rank_intervals_across

SHOPS = ("north", "south", "west")


def sides_of(number):
    """The sets of one shop: ten times as many photos in the last, which must not weigh more."""
    n = 40 if number == 2 else 12
    return [
        [one.renamed(dataset_name=SHOPS[number]) for one in study(10 * number + seed, n_images=n, split=split)]
        for seed, split in ((1, "train"), (2, "test"))
    ]


@pytest.fixture(scope="module")
def shops():
    return {name: make_evaluator(*sides_of(number)) for number, name in enumerate(SHOPS)}


def test_means_and_differences_are_those_of_the_single_data_sets(shops):
    rows = across(shops, (2, 2), "crossed")
    assert len(rows) == 9 + 9
    assert [row.combination for row in rows if row.difference is None] == [Combination(("0",), ("0",))]
    assert all(before.accuracy >= after.accuracy - 1e-9 for before, after in itertools.pairwise(rows))
    for row in rows:
        single = [totals(one, row.combination) for one in shops.values()]
        assert row.accuracy == pytest.approx(np.mean([one.accuracy for one in single]))
        if row.difference is None:
            continue
        first = [totals(one, Combination(("0",), ("0",))) for one in shops.values()]
        means, variances = [], []
        for one, base in zip(single, first, strict=True):
            gap = one.image_right[1] - base.image_right[1]
            (low,), (high,) = intervals.difference_intervals(gap[None], one.image_size)
            means.append(gap.sum() / one.n)
            variances.append(((high - low) / 3.92) ** 2)
        assert row.difference == datasets.pooled_difference(means, variances)
    assert sum(row.best for row in rows) == pytest.approx(1)
    assert all(1 <= row.rank_low <= row.rank_high <= 18 for row in rows)


def test_ranks_over_one_data_set_are_its_own_and_a_sure_winner_stays_first():
    rng = np.random.default_rng(0)
    size = rng.integers(2, 9, 30).astype(float)
    right = rng.binomial(size.astype(int), 0.7, (5, 30)).astype(float)
    one, other = rank_intervals(right, size, seed=3), rank_intervals_across([(right, size)], seed=3)
    assert (one.low == other.low).all()
    assert (one.high == other.high).all()
    assert one.best == pytest.approx(other.best)
    sure = np.stack([np.zeros(30), size, np.zeros(30)])
    ranks = rank_intervals_across([(sure, size), (sure[:, :7], size[:7])])
    assert (ranks.low.tolist(), ranks.high.tolist(), ranks.best.tolist()) == ([2, 1, 2], [2, 1, 2], [0, 1, 0])


def test_the_script_prints_one_answer(tmp_path, capsys, shops):
    for number in range(3):
        for one in (two for side in sides_of(number) for two in side):
            embeddings.save(tmp_path / f"{SHOPS[number]}_{one.id}_{one.split}.npz", one)
    given = ["--train_npz", str(tmp_path), "--test_npz", str(tmp_path), "--across_datasets"]
    assert greedy_combo_eval.main(given) == 0
    out = capsys.readouterr().out
    assert (
        "Across 3 data sets, each with the same weight: north (12 photos), south (12 photos), west (40 photos)" in out
    )
    rows = across(shops, (2, 2), "crossed")
    shown = re.findall(r"^(\S+/\S+)  +(0\.\d{4})  ", out, re.M)
    assert shown == [(str(row.combination), f"{row.accuracy:.4f}") for row in rows[:10]]
    gap = next(row.difference for row in rows if row.difference)
    assert f"{100 * gap.new_low:+.1f} to {100 * gap.new_high:+.1f}" in out
    assert re.search(
        r"^Over these data sets (no combination is shown to be better than 0/0|\S+ is better than 0/0)", out, re.M
    )
    assert greedy_combo_eval.main([*given, "--report", str(tmp_path / "r.html")]) == 2
    assert "--report and --across_datasets do not go together" in capsys.readouterr().err
    only = [str(tmp_path / f"north_{one}_{split}.npz") for one in ("0", "10") for split in ("train", "test")]
    assert greedy_combo_eval.main(["--train_npz", *only, "--test_npz", *only, "--across_datasets"]) == 1
    assert "needs two data sets or more; all files are of north" in capsys.readouterr().err
