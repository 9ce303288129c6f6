"""The numbers behind a verdict, and the table of paddings: found where there is something, quiet where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from builders import make_evaluator, study

from combinations.comparison import compare_all
from combinations.evidence import evidence
from combinations.paddings import padding_rows, paddings_across
from combinations.search import enumerate_combinations
from evaluation.records import Combination
from uncertainty import comparisons, intervals, power, winner


def totals(goals, n_photo=60, seed=0):
    """Combinations that agree on most crops: right where a shared draw, or rarely an own one, is below the goal."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 12, n_photo)
    image = np.repeat(np.arange(n_photo), size)
    own = rng.random((len(goals), len(image))) < 0.05
    draws = np.where(own, rng.random((len(goals), len(image))), rng.random(len(image)))
    right = draws < np.array(goals)[:, None]
    return np.stack([np.bincount(image, row, minlength=n_photo) for row in right]), size


PAIRS = 3


def found(goals, *, seed=0):
    """The evidence of combinations with these accuracies, the first PAIRS single pairs, the first of them the least padding."""
    right, size = totals(goals, seed=seed)
    names = [Combination((str(row),) if row < PAIRS else (str(row), "x"), ("q",)) for row in range(len(goals))]
    ranked = np.argsort(-right.sum(axis=1), kind="stable").tolist()
    sizes = np.tile(size, (len(goals), 1))
    return evidence(names, right, sizes, right, size, ranked=ranked, baseline=0, least=0)


def test_a_better_combination_and_a_better_pair_are_found():
    better = found([0.7, 0.6, 0.7, *[0.5] * 20, 0.85])
    assert better.combinations.is_better
    assert str(better.combinations.best) == "23+x/q"
    assert better.combinations.low > 0
    assert better.combinations.most_gained > 0.10
    assert not better.pairs.is_better
    assert better.winner.row == 0  # of the ranked: the first
    assert better.ranks.best[0] > 0.99
    assert better.winner.accuracy == pytest.approx(0.85, abs=0.05)
    pair = found([0.7, 0.6, 0.85, *[0.5] * 20])
    assert pair.pairs.is_better
    assert (str(pair.pairs.rival), str(pair.pairs.best)) == ("0/q", "2/q")


def test_a_gain_that_a_single_pair_has_as_well_is_none_of_a_combination():
    both = found([0.6, 0.6, 0.85, *[0.5] * 20, 0.85])
    assert both.pairs.is_better
    assert str(both.combinations.rival) == "2/q"
    assert not both.combinations.is_better


def test_where_nothing_is_better_nothing_is_found_and_the_limit_says_what_is_not_excluded():
    seen = [found([0.8] * 12, seed=seed) for seed in range(40)]
    assert np.mean([one.combinations.is_better for one in seen]) <= 0.1
    assert np.mean([one.pairs.is_better for one in seen]) <= 0.125
    assert np.mean([one.combinations.most_gained >= 0 for one in seen]) >= 0.9
    assert all(one.photos_needed > 60 for one in seen)


@pytest.mark.parametrize("goals", [[0.9, 0.6, 0.7, 0.75, 0.5], [0.6, 0.7, 0.65, 0.85, 0.5]])
def test_what_the_photos_could_show_is_said_of_the_first_beside_the_baseline(goals):
    """At a level shared by all others: where the baseline comes first, of the second."""
    right, size = totals(goals)
    ranked = [row for row in np.argsort(-right.sum(axis=1), kind="stable") if row != 0]
    seen, gap = found(goals), right - right[0]
    assert seen.smallest_p == power.smallest_p(gap, ranked[0])
    assert seen.packed == power.packed_share(gap[ranked[0]])[0]
    first, level = gap[ranked[:1]], 0.05 / (len(goals) - 1)
    assert seen.photos_needed == power.photos_needed(first, size, gain=0.02, power=0.8, level=level)[0]
    assert seen.smallest_gain == power.smallest_gain(first, size, power=0.8, level=level)


def test_an_answer_by_its_parts():
    """Of two pairs and two merged combinations: which is asked about which, by how much, and how sure that is."""
    right, size = totals([0.6, 0.75, 0.7, 0.8])
    names = [Combination((str(row),) if row < 2 else (str(row), "x"), ("q",)) for row in range(4)]
    sizes = np.tile(size, (4, 1))
    seen = evidence(names, right, sizes, right, size, ranked=[3, 1, 2, 0], baseline=1, least=0)
    for answer, rival, rows in ((seen.pairs, 0, [1]), (seen.combinations, 1, [3, 2])):
        gap = right[rows] - right[rival]
        low, high = intervals.difference_intervals(gap, size)
        assert (answer.rival, answer.best) == (names[rival], names[rows[0]])
        assert (answer.difference, answer.low, answer.high) == (gap[0].sum() / size.sum(), low[0], high[0])
        assert answer.most_gained == power.simultaneous_upper_limits(gap, size).max()
    assert comparisons.one_sided_p((right[1] - right[0])[None])[0] < 0.05
    assert seen.pairs.is_better
    p = comparisons.beats_best_p(right, [1, 0], flips=1000)
    assert seen.combinations.is_better == bool(((p[[3, 2]] < 0.05) & (low > 0)).any())
    ordered = [3, 1, 2, 0]
    assert seen.winner == winner.corrected_winner(right[ordered], sizes[ordered])
    np.testing.assert_array_equal(seen.ranks.best, winner.rank_intervals(right[ordered], sizes[ordered]).best)


def test_a_better_one_is_the_answer_where_the_most_accurate_is_not_sure():
    """One gains 5 crops in 14 photos of 40 and loses 5 in 6: p 0.058. The other gains one in each of 38: 2 fewer in all."""
    photo, size, base = np.arange(40), np.full(40, 10.0), np.full(40, 5.0)
    right = np.stack([base, base + (photo < 38), base + 5 * (photo < 14) - 5 * ((photo >= 14) & (photo < 20))])
    names = [Combination((str(row),), ("q",)) for row in range(3)]
    seen = evidence(names, right, np.tile(size, (3, 1)), right, size, ranked=[2, 1, 0], baseline=0, least=0)
    assert (seen.pairs.best, seen.pairs.is_better) == (names[1], True)
    assert seen.pairs.difference == 38 / 400
    alone = evidence(names, right, np.tile(size, (3, 1)), right, size, ranked=[2, 0], baseline=0, least=0)
    assert (alone.pairs.best, alone.pairs.is_better) == (names[2], False)


def test_a_comparison_carries_its_evidence():
    evaluator = make_evaluator(study(1, split="train"), study(2, split="test"))
    asked = enumerate_combinations(list(evaluator.coded.references), list(evaluator.coded.queries), 1, 2, "crossed")
    scored = {asked[at]: tally for at, tally in evaluator.tallies(asked)}
    compared = compare_all(evaluator, scored, None, 0)
    assert compared.evidence.pairs.rival == Combination(("0",), ("0",))
    assert compared.evidence.combinations.rival == compared.baseline.combination
    assert compared.evidence.winner.accuracy < compared.results[0].score
    named = compare_all(evaluator, scored, "10/20", 0)
    assert named.baseline.combination == named.evidence.pairs.rival == Combination(("10",), ("20",))
    alone = compare_all(evaluator, {asked[0]: scored[asked[0]]}, None, 0)
    assert np.isnan(alone.evidence.smallest_p)
    assert alone.evidence.pairs is alone.evidence.combinations is None


def test_padding_rows_compare_each_with_the_least():
    sides = study(1, split="train")[::-1], study(2, split="test", missing=[("10", 3)])[::-1]
    evaluator = make_evaluator(*sides)
    rows = padding_rows(evaluator)
    assert [row.id for row in rows] == ["0", "10", "20"]
    assert np.isnan([rows[0].difference, rows[0].p]).all()
    right = []
    for identity in ("0", "10", "20"):
        decisions = evaluator.decide(Combination((identity,), (identity,)))
        kept = evaluator.coded.matched[decisions.crop] & (decisions.voted == decisions.label)
        right.append(np.bincount(decisions.image[kept], minlength=len(evaluator.coded.images)))
        interval = intervals.accuracy_interval(
            np.bincount(decisions.image, decisions.voted == decisions.label), np.bincount(decisions.image)
        )
        row = rows[len(right) - 1]
        assert (row.accuracy, row.low, row.high) == (interval.accuracy, interval.low, interval.high)
    paired = comparisons.paired_comparison(
        np.array(right[1:]) - right[0], evaluator.coded.matched_sizes, baseline=right[0]
    )
    assert [row.p for row in rows[1:]] == paired.p.tolist()
    assert [row.difference_high for row in rows[1:]] == paired.high.tolist()
    assert padding_rows(make_evaluator(sides[0][:1], sides[1][1:])) == []


def test_paddings_across_data_sets_pool_what_each_shows():
    evaluators = {
        str(seed): make_evaluator(study(seed, split="train"), study(seed + 50, split="test")) for seed in range(4)
    }
    pooled = paddings_across(evaluators)
    assert list(pooled) == ["10", "20"]
    gaps = [padding_rows(one)[1].difference for one in evaluators.values()]
    assert min(gaps) <= pooled["10"].mean <= max(gaps)
    assert pooled["10"].n_datasets == 4
    assert pooled["10"].new_low <= pooled["10"].low <= pooled["10"].mean <= pooled["10"].high <= pooled["10"].new_high
    assert paddings_across({}) == {}
