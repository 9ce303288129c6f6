"""The learning curve against sets from which the same photos were taken away, evaluated anew."""

from __future__ import annotations

import numpy as np
import pytest
from builders import make_evaluator, study, totals

from common.messages import UsageError
from evaluation import references as curves
from evaluation.learning import rows
from evaluation.records import Combination

PAIR = Combination(("0",), ("0",))


@pytest.mark.parametrize("rule", [{}, {"k": 3}, {"k": 3, "vote_weights": "similarity"}, {"fusion": "concat"}])
def test_a_drawn_subset_scores_what_it_scores_evaluated_anew(rule):
    references, queries = study(1, split="train", n_images=20)[:1], study(2)[:1]
    evaluator = make_evaluator(references, queries, **rule)
    photo = rows(evaluator, PAIR)[0].photo
    rng = np.random.default_rng(0)
    masks = np.stack([np.isin(photo, rng.choice(20, n, replace=False)) for n in (2, 5, 11, 20)])
    right = curves._right(evaluator, evaluator.tasks(PAIR)[0], masks)
    for mask, found in zip(masks, right, strict=True):
        anew = make_evaluator([references[0].take(np.flatnonzero(mask))], queries, **rule)
        assert found.mean() == pytest.approx(totals(anew, PAIR).accuracy)


def test_the_curve_ends_at_the_pairs_own_accuracy_and_draws_whole_photos(monkeypatch):
    references, queries = study(1, split="train", n_images=40, n_class=4)[:1], study(2, n_class=4)[:1]
    evaluator = make_evaluator(references, queries)
    drawn = []
    honest = curves._right
    monkeypatch.setattr(curves, "_right", lambda e, t, masks: drawn.append(masks) or honest(e, t, masks))
    points = curves.learning_curve(evaluator, PAIR, draws=20).points
    assert points[-1].accuracy == pytest.approx(totals(evaluator, PAIR).accuracy)
    assert points[-1].references == 40
    assert [point.photos for point in points[:-1]] == [n for n in (1, 2, 5, 10, 20) if n < points[-1].photos]
    assert [point.references for point in points] == sorted(point.references for point in points)
    assert points[0].accuracy < points[-1].accuracy
    photo = rows(evaluator, PAIR)[0].photo
    for mask in drawn[0]:
        assert not set(photo[mask]) & set(photo[~mask])
    for point in points:
        assert point.low <= point.accuracy <= point.high
    with pytest.raises(UsageError, match="one query set"):
        curves.learning_curve(evaluator, Combination(("0",), ("0", "10")))
