"""What a decision costs, and what classifiers and views decide, worked out from the rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from builders import brute, make_evaluator, study, totals, unit

from classifiers.recipes import Recipe
from common.messages import UserError
from evaluation import metrics, per_query
from evaluation.evaluator import cost
from evaluation.per_query import prediction_table
from evaluation.records import Combination

PROTOTYPE = Recipe("prototype")  # which keeps one row a class
BOTH = ("0", "10")


def sets(**more):
    """Two IDs a side: 56 references and 40 queries of 6 numbers, of 5 classes."""
    references, queries = study(0, split="train", **more), study(1, n_images=10, **more)
    return references[:2], queries[:2]


@pytest.mark.parametrize(
    ("fusion", "classifier", "passes", "rows", "operations"),
    [
        ("vote", None, 2, 112, 2 * 112 * 6),
        ("stack", None, 1, 112, 112 * 6),
        ("mean", None, 2, 56, 56 * 6),
        ("concat", None, 2, 56, 56 * 12),
        ("vote", PROTOTYPE, 2, 5, 2 * 5 * 6),
        ("stack", PROTOTYPE, 1, 5, 5 * 6),
        ("mean", PROTOTYPE, 2, 5, 5 * 6),
        ("concat", PROTOTYPE, 2, 5, 5 * 12),
    ],
)
def test_the_cost_of_a_decision(fusion, classifier, passes, rows, operations):
    evaluator = make_evaluator(*sets(), fusion=fusion)
    found = cost(evaluator, Combination(BOTH, BOTH, classifier) if classifier else Combination(BOTH, BOTH))
    assert (found.forward_passes, found.gallery_rows, found.operations) == (passes, rows, operations)


@pytest.mark.parametrize("fusion", ["vote", "stack", "mean"])
def test_totals_count_every_class_and_photo(fusion):
    """One photo of references leaves some labels unknown; with its crops left out, some decisions have no neighbour at all."""
    references = study(0, n_images=1)[:2]
    queries = study(0, n_images=6)[:2]
    for exclude in ("none", "sample"):
        evaluator = make_evaluator(references, queries, fusion=fusion, exclude=exclude)
        coded, asked = evaluator.coded, Combination(BOTH, BOTH)
        decisions, found = evaluator.decide(asked), totals(evaluator, asked)
        known = {code for one in references for code in np.searchsorted(coded.classes, one.label())}
        pairs = list(zip(decisions.label.tolist(), decisions.voted.tolist(), decisions.image.tolist(), strict=True))
        assert (found.n, found.n_unknown) == (len(pairs), sum(label not in known for label, _, _ in pairs))
        assert found.n_unknown > 0
        assert (decisions.voted < 0).any() == (exclude == "sample")
        for code in range(len(coded.classes)):
            assert found.class_right[code] == sum(label == voted == code for label, voted, _ in pairs)
            assert found.class_predicted[code] == sum(voted == code for _, voted, _ in pairs)
            assert found.class_size[code] == sum(label == code for label, _, _ in pairs)
        for photo in range(len(coded.images)):
            assert found.image_right[1, photo] == sum(label == voted for label, voted, image in pairs if image == photo)
            assert found.image_size[photo] == sum(image == photo for _, _, image in pairs)
        assert found.matched_right.tolist() == found.image_right[1].tolist()  # every query set holds every crop
        assert found.class_predicted.any()


def by_prototype(references: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    names = np.unique(labels)
    means = np.stack([unit(references[labels == name]).mean(axis=0) for name in names])
    return names[(unit(queries) @ unit(means).T).argmax(axis=1)]


@pytest.mark.parametrize("fusion", ["stack", "mean"])
def test_a_classifier_decides_the_views_or_their_mean(fusion):
    references, queries = sets()
    evaluator = make_evaluator(references, queries, fusion=fusion)
    decisions = evaluator.decide(Combination(BOTH, BOTH, PROTOTYPE))
    found = evaluator.coded.classes[decisions.voted]
    if fusion == "stack":
        vectors, labels = (np.concatenate([part(one) for one in references]) for part in (_vectors, _labels))
        expected = np.concatenate([by_prototype(vectors, labels, one.vectors) for one in queries])
    else:
        merged = [np.mean([unit(one.vectors) for one in side], axis=0) for side in (references, queries)]
        expected = by_prototype(merged[0], references[0].label(), merged[1])
    np.testing.assert_array_equal(found, expected)


def _vectors(one):
    return one.vectors


def _labels(one):
    return one.label()


def test_a_set_that_holds_a_crop_twice_is_scored_alone_row_by_row():
    """Only where views are matched does it matter; alone each row is a decision of its own."""
    references, queries = sets()
    crops = queries[0].crop_ids.copy()
    crops[1] = crops[0]
    twice = dataclasses.replace(queries[0], crop_ids=crops)
    decisions = make_evaluator(references, [twice], fusion="vote").decide(Combination(("0",), ("0",)))
    assert sorted(decisions.row) == list(range(40))
    assert decisions.right.mean() == brute([references[0]], [queries[0]], "stack")
    both = make_evaluator(references, [twice, queries[1]], fusion="vote")
    with pytest.raises(UserError, match=rf"holds the crop 'd/test/{crops[0]}' twice; use --fusion stack"):
        both.decide(Combination(("0",), BOTH))


def test_a_vote_is_a_close_call_where_one_of_its_views_is():
    """The second view of crop 3 lies between two labels, to the last bit; nothing else is close."""
    references, queries = sets()
    rows = references[1].vectors
    other = np.flatnonzero(references[1].label() != references[1].label()[0])[0]
    vectors = queries[1].vectors.copy()
    vectors[3] = unit(rows[[0]])[0] + unit(rows[[other]])[0]
    near = dataclasses.replace(queries[1], vectors=1e3 * vectors)
    alike = dataclasses.replace(
        references[1], vectors=np.concatenate([rows[[0, other]]]), **_texts(references[1], [0, other])
    )
    evaluator = make_evaluator([references[0], alike], [queries[0], near], fusion="vote")
    lone = evaluator.decide(Combination(("10",), ("10",)))
    assert np.flatnonzero(lone.close).tolist() == [3]
    evaluator = make_evaluator([alike], [queries[0], near], fusion="vote")
    decisions = evaluator.decide(Combination(("10",), BOTH))
    assert np.flatnonzero(decisions.close).tolist() == [3]


def _texts(one, rows):
    return {name: getattr(one, name)[rows] for name in ("labels", "crop_ids", "sample_ids", "paths")}


@pytest.mark.parametrize(("n", "n_class"), [(4_500, 3), (40, 2)])
def test_a_silhouette_is_that_of_scikit_learn(n, n_class):
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_class, n)
    rows = unit(rng.standard_normal((n_class, 4))[labels] + rng.standard_normal((n, 4)))
    found = metrics.similarity(rows, labels, n_class + 1)
    assert found.silhouette == pytest.approx(silhouette_score(rows, labels, metric="cosine"), abs=1e-9)


def test_predictions_name_the_crops_of_every_set_on_both_sides():
    references, queries = sets()
    queries[0].vectors[5] = references[0].vectors[0]
    queries[1] = queries[1].renamed(dataset_name="e", split="other")
    evaluator = make_evaluator(references, queries, fusion="stack")
    asked = Combination(BOTH, BOTH)
    table = prediction_table(evaluator, {asked: evaluator.decide(asked)})
    assert table["crop_id"].tolist() == [crop for one in queries for crop in one.crop_ids]
    assert table["id"].tolist() == ["0"] * 40 + ["10"] * 40
    assert table["dataset_name"].tolist() == ["d"] * 40 + ["e"] * 40
    assert table["split"].tolist() == ["test"] * 40 + ["other"] * 40
    cosines = (
        unit(np.concatenate([one.vectors for one in queries]))
        @ unit(np.concatenate([one.vectors for one in references])).T
    )
    nearest = cosines.argmax(axis=1)
    assert nearest[5] == 0
    assert table["nearest_id"].tolist() == ["0" if row < 56 else "10" for row in nearest]
    assert table["nearest_crop_id"].tolist() == [references[row // 56].crop_ids[row % 56] for row in nearest]
    assert table["predicted"].tolist() == [references[row // 56].label()[row % 56] for row in nearest]


def test_predictions_of_several_combinations_stand_one_after_the_other():
    """Numbered through; a combination that neighbours decide is of the classifier `nearest` beside one that is not."""
    evaluator = make_evaluator(*sets(), fusion="mean")
    asked = [Combination(BOTH, BOTH), Combination(BOTH, BOTH, PROTOTYPE)]
    table = prediction_table(evaluator, {one: evaluator.decide(one) for one in asked})
    assert table.index.tolist() == list(range(80))
    assert table["classifier"].tolist() == ["nearest"] * 40 + [str(PROTOTYPE)] * 40
    assert (table["id"] == "0+10").all()
    for at, one in enumerate(asked):
        part = table[40 * at : 40 * at + 40]
        assert part["predicted"].tolist() == evaluator.coded.classes[evaluator.decide(one).voted].tolist()
    assert "classifier" not in prediction_table(evaluator, {asked[0]: evaluator.decide(asked[0])})


def quadratic(evaluator, left_out):
    """MAP@R, R-precision and margins of IDs 0 and 10 against references 0, from all cosines at once."""
    references = evaluator.coded.references["0"]
    names, scores, gaps = references.label(), [], []
    for query_id in BOTH:
        queries = evaluator.coded.queries[query_id]
        cosines = unit(queries.vectors) @ unit(references.vectors).T
        if left_out:
            same = getattr(queries, left_out)[:, None] == getattr(references, left_out)
            cosines[same] = -np.inf
        for row, label in zip(cosines, queries.label(), strict=True):
            r = int(((names == label) & np.isfinite(row)).sum())
            hits = names[np.argsort(-row, kind="stable")[:r]] == label
            precision = hits.cumsum() / np.arange(1, r + 1)
            scores.append(((precision * hits).sum() / r, hits.sum() / r) if r else (0, 0))
            right, other = (row[kept].max(initial=-np.inf) for kept in (names == label, names != label))
            gaps.append(right - other if np.isfinite([right, other]).all() else np.nan)
    return np.array(scores).T, np.array(gaps)


@pytest.mark.parametrize(("exclude", "left_out"), [("none", ""), ("self", "crop_ids"), ("sample", "sample_ids")])
def test_measures_of_single_queries_in_parts(exclude, left_out, monkeypatch):
    """Three queries at a time: what is held stays within the bytes. The first query's label is of no reference."""
    references = study(0, n_images=4)
    queries = [dataclasses.replace(one, labels=one.labels.copy()) for one in study(0, n_images=4)[:2]]
    for one in queries:
        one.labels[0] = "no"
    evaluator = make_evaluator(references[:1], queries, fusion="stack", exclude=exclude)
    scores, gaps = quadratic(evaluator, left_out)
    asked = Combination(("0",), BOTH)
    whole, photos = per_query.retrieval(evaluator, asked)
    np.testing.assert_allclose(whole, scores, atol=1e-12)
    np.testing.assert_array_equal(
        evaluator.coded.images[photos], np.tile(np.repeat([f"d/test{n}" for n in range(4)], 4), 2)
    )
    np.testing.assert_allclose(per_query.margins(evaluator, asked), gaps, atol=1e-6)
    chosen = np.array([0, 3, 15, 16, 31])
    np.testing.assert_allclose(per_query.margins(evaluator, asked, chosen), gaps[chosen], atol=1e-6)
    np.testing.assert_allclose(per_query.margins(evaluator, asked, chosen[:3]), gaps[chosen[:3]], atol=1e-6)
    held, search = [], evaluator.search
    monkeypatch.setattr(
        evaluator, "search", lambda task, depth: held.append((len(task.query), depth)) or search(task, depth)
    )
    depth = max(int((evaluator.coded.references["0"].label() == name).sum()) for name in queries[0].label())
    monkeypatch.setattr(per_query, "_BYTES", 16 * depth * 3)
    np.testing.assert_array_equal(per_query.retrieval(evaluator, asked)[0], whole)
    assert all(n * d * 16 <= 16 * depth * 3 or n == 1 for n, d in held)
    assert sum(n for n, _ in held) == 32
    assert max(n for n, _ in held) >= 3


def test_margins_of_votes_are_means_over_the_views_of_a_crop():
    references, queries = sets()
    queries[1] = queries[1].take(np.arange(40)[::-1])
    evaluator = make_evaluator(references[:1], queries, fusion="vote")
    _, gaps = quadratic(evaluator, "")
    mean = (gaps[:40] + gaps[40:][::-1]) / 2
    asked = Combination(("0",), BOTH)
    np.testing.assert_allclose(per_query.margins(evaluator, asked), mean, atol=1e-6)
    np.testing.assert_allclose(per_query.margins(evaluator, asked, np.array([7, 2])), mean[[7, 2]], atol=1e-6)


def test_what_has_no_neighbour_is_told_as_such():
    """Of one photo whose crops are left out there is no neighbour, no margin and no name of one; the measures are 0."""
    one = study(4, n_images=1)
    evaluator = make_evaluator(one, one, exclude="sample")
    asked = Combination(("0",), ("10",))
    scores, _ = per_query.retrieval(evaluator, asked)
    assert not scores.any()
    assert np.isnan(per_query.margins(evaluator, asked)).all()
    table = prediction_table(evaluator, {asked: evaluator.decide(asked)})
    for name in ("predicted", "nearest_id", "nearest_crop_id", "nearest_path"):
        assert table[name].tolist() == [""] * 4
    assert table["similarity"].tolist() == [-np.inf] * 4
    assert not table["correct"].any()
