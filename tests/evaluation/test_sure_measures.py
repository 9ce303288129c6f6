"""Every measure that evaluate_combo.py prints has its interval; decisions that rounding made are counted."""

from __future__ import annotations

import re

import numpy as np
import pytest
from builders import make_evaluator, study, totals

import evaluate_combo
import greedy_combo_eval
from common import embeddings
from evaluation import per_query
from evaluation.records import Combination
from terminal.measures import measures
from uncertainty import intervals, scores

PAIR = Combination(("0",), ("0",))


@pytest.fixture(scope="module")
def sets():
    return study(1, split="train"), study(2, split="test")


def test_every_measure_has_the_interval_of_its_totals_by_photo(sets):
    evaluator = make_evaluator(*sets)
    decisions = evaluator.decide(PAIR)
    text = measures(evaluator.coded, evaluator.rule, PAIR, decisions, per_query.retrieval(evaluator, PAIR))
    found = {
        name: tuple(map(float, numbers))
        for name, *numbers in re.findall(r"^  (\S+) (0\.\d+), 95% interval (0\.\d+) to (0\.\d+)$", text, re.M)
    }
    photo, size = decisions.image, np.bincount(decisions.image)
    labels = evaluator.coded.neighbour_label[decisions.neighbours]
    for k in (1, 5, 10):
        hit = (labels[:, :k] == decisions.label[:, None]).any(axis=1)
        expected = intervals.accuracy_interval(np.bincount(photo, hit), size)
        assert found[f"Recall@{k}"] == pytest.approx((hit.mean(), expected.low, expected.high), abs=6e-5)
    for name, score in zip(("MAP@R", "R-precision"), per_query.retrieval(evaluator, PAIR)[0], strict=True):
        expected = intervals.accuracy_interval(np.bincount(photo, score), size)
        assert found[name] == pytest.approx((score.mean(), expected.low, expected.high), abs=6e-5)
    assert found["Macro-F1"] == pytest.approx(
        scores.macro_f1_interval(decisions.label, decisions.voted, photo), abs=6e-5
    )
    tally = totals(evaluator, PAIR)
    recalls = scores.class_recalls(tally.class_right, tally.class_size)
    for at, name in enumerate(evaluator.coded.classes):
        row = next(line.split() for line in text.splitlines() if line.startswith(f"{name} "))
        assert row[5:9] == [f"{recalls.shrunken[at]:.3f}", f"{recalls.low[at]:.3f}", "to", f"{recalls.high[at]:.3f}"]
        assert row[9] == f"{recalls.reliability[at]:.2f}"


def twice(sets, rows):
    """References in which some rows stand once more under another label."""
    changed = []
    for one in sets:
        more = one.take(np.arange(rows))
        more.labels[:] = "other"
        more.crop_ids[:] = [f"{name}_again" for name in more.crop_ids]
        arrays = {
            name: np.concatenate([getattr(one, name), getattr(more, name)])
            for name in ("vectors", "labels", "crop_ids", "sample_ids", "paths")
        }
        changed.append(embeddings.EmbeddingSet(**arrays, meta=one.meta))
    return changed


def test_decisions_that_rounding_made_are_counted_and_told(sets, tmp_path, capsys):
    references = twice(sets[0], 30)
    evaluator = make_evaluator(references, sets[1])
    assert totals(make_evaluator(*sets), PAIR).n_close == 0
    nearest = evaluator.decide(PAIR).neighbours[:, 0]
    expected = int((nearest < 30).sum())
    assert 0 < expected < 56
    assert totals(evaluator, PAIR).n_close == expected
    both = Combination(("0",), ("0", "10"))
    views = np.stack([evaluator.decide(Combination(("0",), (q,))).close for q in ("0", "10")])
    assert totals(evaluator, both).n_close == views.any(axis=0).sum()
    assert totals(make_evaluator(references, sets[1], fusion="stack"), both).n_close == views.sum()
    for one in (*references, *sets[1]):
        embeddings.save(tmp_path / f"d_{one.id}_{one.split}.npz", one)
    given = ["--train_npz", str(tmp_path), "--test_npz", str(tmp_path)]
    assert evaluate_combo.main([*given, "--reference_ids", "0", "--query_ids", "0"]) == 0
    assert f"Close calls {expected}: another label is as near, to 1e-6" in capsys.readouterr().out
    assert evaluate_combo.main(given) == 0
    assert re.search(r"Close calls: \d+ of 56 decisions of \S+: another label is as near", capsys.readouterr().out)
    results = tmp_path / "r.txt"
    assert greedy_combo_eval.main([*given, "--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"^ +\d+ .*\n… and \d+ more, down to 0\.\d{4}\n\nClose calls: ", out, re.M
    )  # what is left out ends the table
    text = results.read_text()
    assert f"Close calls: {expected} decisions that rounding may have made" in text
    assert re.search(r"^Recall@5: 0\.\d{4}, 95% interval 0\.\d{4} to [01]\.\d{4}$", text, re.M)


def test_calibration_stands_beside_what_perfect_calibration_shows():
    from training import scores as training_scores

    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((288, 5))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(5, p=row) for row in chances])
    report = training_scores.calibrate(logits, labels, {})
    mean, limit = report["calibration_by_chance"]["val"]
    drawn = []
    confidence = np.exp(logits / report["temperature"])
    confidence = (confidence / confidence.sum(axis=1, keepdims=True)).max(axis=1)
    for _ in range(400):
        right = rng.random(288) < confidence
        bins = np.ceil(confidence * 15)
        drawn.append(sum(abs((right - confidence)[bins == one].sum()) for one in range(1, 16)) / 288)
    assert mean == pytest.approx(np.mean(drawn), abs=0.003)
    assert limit == pytest.approx(np.quantile(drawn, 0.95), abs=0.008)
    result = {"split": "val", "accuracy": 0.7, "low": 0.6, "high": 0.8, "macro_f1": 0.7, "n": 288, "images": 288}
    about = {"metrics": {**result, "classes": {}, **report}, "objective": "classifier", "temperature": 1}
    assert f"perfect calibration shows {mean:.4f}, up to {limit:.4f}" in training_scores.describe(about)


def test_a_gain_by_training_is_paired_by_image():
    from training import scores as training_scores

    right, before = np.array([1, 1, 1, 0, 1, 1], bool), np.array([1, 0, 0, 0, 0, 1], bool)
    samples = np.array(["a", "a", "b", "b", "c", "d"])
    low, high = intervals.difference_intervals(np.array([[1.0, 1, 1, 0]]), np.array([2.0, 2, 1, 1]))
    assert training_scores.paired_limits(right, before, samples) == pytest.approx([low[0], high[0]])
