"""Combinations scored from merged lists equal a plain search of each merged set, in every mode, with and without exclusion."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from builders import IDS, brute, make, make_evaluator, nearest_by_faiss, study, totals, unit
from sklearn.neighbors import KNeighborsClassifier

from combinations.search import enumerate_combinations, greedy
from common import knn
from common.embeddings import EmbeddingSet
from common.messages import UsageError, UserError
from evaluation import fusion, per_query
from evaluation.codes import code_sets, remarks
from evaluation.metrics import RECALL_AT
from evaluation.records import Combination, Rule


@pytest.fixture(scope="module")
def sides():
    return study(1, split="train"), study(2, split="test", missing=[("10", 3), ("20", 7)])


@pytest.mark.parametrize("mode", ["stack", "vote", "mean", "concat"])
def test_every_combination_equals_brute_force(sides, mode):
    references, queries = sides
    evaluator = make_evaluator(references, queries, fusion=mode)
    pairing = "matched" if mode == "concat" else "crossed"
    combinations = enumerate_combinations(IDS, IDS, 1, 3, pairing)
    assert len(combinations) == (7 if mode == "concat" else 49)
    refs, ques = dict(zip(IDS, references, strict=True)), dict(zip(IDS, queries, strict=True))
    for at, tally in evaluator.tallies(combinations):
        one = combinations[at]
        expected = brute([refs[r] for r in one.reference_ids], [ques[q] for q in one.query_ids], mode)
        assert tally.accuracy == pytest.approx(expected, abs=1e-12), one
        assert tally.n == len(evaluator.decide(one))


@pytest.mark.parametrize(("k", "weights"), [(3, "uniform"), (7, "similarity")])
def test_the_vote_of_k_equals_scikit_learn(sides, k, weights):
    references, queries = sides
    evaluator = make_evaluator(references, queries, k=k, vote_weights=weights)
    tally = totals(evaluator, Combination(("0", "20"), ("10",)))
    vectors = knn.unit(np.concatenate([references[0].vectors, references[2].vectors]))
    names = np.concatenate([references[0].label(), references[2].label()])
    query, actual = knn.unit(queries[1].vectors), queries[1].label()
    if weights == "similarity":
        classifier = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
        )
        assert tally.accuracy == pytest.approx((classifier.fit(vectors, names).predict(query) == actual).mean())
        return
    hits = 0
    for at, row in enumerate(query @ vectors.T):
        ballots = names[np.argsort(-row, kind="stable")[:k]].tolist()
        hits += max(ballots, key=lambda b: (ballots.count(b), -ballots.index(b))) == actual[at]
    assert tally.accuracy == pytest.approx(hits / len(actual))


def test_recall_and_f1_and_image_totals_by_hand(sides):
    references, queries = sides
    evaluator = make_evaluator(references, queries, fusion="stack")
    combination = Combination(("0", "10"), ("0", "20"))
    tally = totals(evaluator, combination)
    vectors = np.concatenate([references[0].vectors, references[1].vectors])
    names = np.concatenate([references[0].label(), references[1].label()])
    ranked = [names[nearest_by_faiss(queries[at].vectors, vectors, 10)] for at in (0, 2)]
    actual = [queries[at].label() for at in (0, 2)]
    for k, hits in zip(RECALL_AT, tally.recalled, strict=True):
        expected = sum((r[:, :k] == a[:, None]).any(axis=1).sum() for r, a in zip(ranked, actual, strict=True))
        assert hits == expected
    image = evaluator.coded.images.tolist().index("d/test5")
    right = sum(
        (r[:, 0] == a)[queries[at].sample_ids == "test5"].sum() for r, a, at in zip(ranked, actual, (0, 2), strict=True)
    )
    assert tally.image_right[0, image] == right
    assert tally.image_size[image] == 8
    assert tally.image_size.sum() == tally.n == len(queries[0]) + len(queries[2])


@pytest.mark.parametrize("exclude", ["self", "sample"])
@pytest.mark.parametrize("mode", ["stack", "mean"])
def test_exclusion_equals_masking(exclude, mode):
    sets = study(3)
    evaluator = make_evaluator(sets, sets, fusion=mode, exclude=exclude)
    combination = Combination(("0", "20"), ("10",))
    decisions = evaluator.decide(combination)
    if mode == "stack":
        vectors = np.concatenate([sets[0].vectors, sets[2].vectors])
        crops, samples = (
            np.concatenate([getattr(sets[at], name) for at in (0, 2)]) for name in ("crop_ids", "sample_ids")
        )
        names = np.concatenate([sets[0].label(), sets[2].label()])
    else:
        merged = fusion.mean([sets[0], sets[2]])
        vectors, crops, samples, names = merged.vectors, merged.crop_ids, merged.sample_ids, merged.label()
    similarity = knn.unit(sets[1].vectors) @ knn.unit(vectors).T
    same = sets[1].crop_ids[:, None] == crops if exclude == "self" else sets[1].sample_ids[:, None] == samples
    assert same.any(axis=1).all()
    similarity[same] = -np.inf
    predicted = names[similarity.argmax(axis=1)]
    assert evaluator.coded.classes[decisions.nearest].tolist() == predicted.tolist()


def test_when_everything_is_left_out_nothing_is_predicted():
    one = study(4, n_images=1)
    evaluator = make_evaluator(one, one, exclude="sample")
    tally = totals(evaluator, Combination(("0",), ("0",)))
    assert tally.accuracy == 0
    assert tally.class_predicted.sum() == 0


def test_map_at_r_and_margins_equal_the_quadratic_way(sides):
    references, queries = sides
    for exclude in ("none", "sample"):
        evaluator = make_evaluator(references, queries if exclude == "none" else references, exclude=exclude)
        query = evaluator.coded.queries["10"]
        refs = [evaluator.coded.references[r] for r in ("0", "20")]
        names, samples = np.concatenate([r.label() for r in refs]), np.concatenate([r.sample_ids for r in refs])
        similarity = knn.unit(query.vectors) @ knn.unit(np.concatenate([r.vectors for r in refs])).T
        if exclude == "sample":
            similarity[query.sample_ids[:, None] == samples] = -np.inf
        scores, margins = [], []
        for row, actual in zip(similarity, query.label(), strict=True):
            r = int(((names == actual) & np.isfinite(row)).sum())
            relevant = names[np.argsort(-row, kind="stable")[:r]] == actual
            scores.append((relevant.cumsum() / np.arange(1, r + 1) * relevant).sum() / r if r else 0)
            margins.append(row[names == actual].max() - row[names != actual].max())
        combination = Combination(("0", "20"), ("10",))
        assert per_query.retrieval(evaluator, combination)[0][0].mean() == pytest.approx(np.mean(scores), abs=1e-9)
        np.testing.assert_allclose(per_query.margins(evaluator, combination), margins, atol=1e-6)


def test_greedy_follows_the_best_step_and_stops_without_gain(sides):
    evaluator = make_evaluator(*sides)
    everything = enumerate_combinations(IDS, IDS, 1, 3, "crossed")
    accuracy = {everything[at]: tally.accuracy for at, tally in evaluator.tallies(everything)}
    steps = list(greedy(evaluator, lambda tally: tally.accuracy))
    first = steps[0].chosen
    assert first.is_pair
    assert accuracy[first] == max(value for one, value in accuracy.items() if one.is_pair)
    assert [step.gains for step in steps] == [True] * (len(steps) - 1) + [False]
    for before, after in itertools.pairwise(steps):
        grown = [
            one
            for one in everything
            if set(one.reference_ids) >= set(before.chosen.reference_ids)
            and set(one.query_ids) >= set(before.chosen.query_ids)
            and len(one.reference_ids) + len(one.query_ids)
            == len(before.chosen.reference_ids) + len(before.chosen.query_ids) + 1
        ]
        assert set(after.candidates) == set(grown)
        assert accuracy[after.chosen] == max(accuracy[one] for one in grown)
        assert (accuracy[after.chosen] > accuracy[before.chosen]) == after.gains
    assert [step.gains for step in greedy(evaluator, lambda tally: tally.accuracy, min_gain=2)] == [True, False]


def test_sets_that_cannot_be_compared_are_refused():
    one, other = study(1), study(2, dim=7)
    with pytest.raises(UserError, match="6 dimensions"):
        make_evaluator(one, other)
    with pytest.raises(UserError, match="different models"):
        make_evaluator(one, [other_model.renamed(fingerprint="x") for other_model in study(2)])
    with pytest.raises(UserError, match="--k 57 is larger than the 56 references"):
        make_evaluator(one, one, k=57)
    evaluator = make_evaluator(one, one, fusion="concat")
    with pytest.raises(UsageError, match="matched"):
        evaluator.decide(Combination(("0",), ("10",)))


def test_concat_and_vote_take_sets_of_different_models():
    train, test = study(1, split="train"), study(2, split="test")
    other_train, other_test = study(1, split="train", dim=9), study(2, split="test", dim=9)
    references = [train[0], other_train[1].renamed(fingerprint="other")]
    queries = [test[0], other_test[1].renamed(fingerprint="other")]
    for mode in ("concat", "vote"):
        evaluator = make_evaluator(references, queries, fusion=mode)
        both = Combination(("0", "10"), ("0", "10"))
        tally = totals(evaluator, both)
        assert tally.n == len(test[0])
    vote = make_evaluator(references, queries, fusion="vote")
    assert not vote.valid(Combination(("0",), ("10",)))
    with pytest.raises(UsageError, match="own model"):
        vote.decide(Combination(("0",), ("10",)))


def test_a_remark_names_the_data_sets_of_query_sets_that_share_no_crop():
    views = study(1)[:2]
    named = [one.renamed(dataset_name=f"pad_{one.id}") for one in views]
    (told,) = [text for text in remarks(code_sets(views, named), Rule()) if "--company_name" in text]
    assert f"of 2 data sets, pad_{views[0].id}, pad_{views[1].id}, so their crops count as different" in told
    assert not any("--company_name" in text for text in remarks(code_sets(views, views), Rule()))


def test_remarks_name_leakage_and_missing_sample_ids():
    one = study(1)
    assert any("14 photos" in text for text in remarks(code_sets(one, one), Rule()))
    assert not any("leakage" in text for text in remarks(code_sets(one, one), Rule(exclude="sample")))
    bare = [EmbeddingSet(s.vectors, s.labels, s.crop_ids, np.full(len(s), ""), s.paths, {**s.meta}) for s in one]
    evaluator = make_evaluator(bare, bare)
    assert any("no sample_ids" in text for text in remarks(evaluator.coded, evaluator.rule))
    assert len(evaluator.coded.images) == len(one[0])


def test_a_label_that_no_reference_has_counts_as_wrong_and_is_reported():
    query = make(6, split="test")
    query.labels[0, 0] = "never seen"
    evaluator = make_evaluator([make(6)], [query])
    tally = totals(evaluator, Combination(("10",), ("10",)))
    assert (tally.n, tally.n_unknown) == (6, 1)
    assert tally.right[0] == 5


def test_sets_of_one_model_are_checked_under_every_fusion(capsys):
    references, queries = study(1, split="train"), study(2, split="test")
    newer = [one.renamed(preprocessing_version=2) for one in queries]
    for mode in ("vote", "stack", "mean", "concat"):
        make_evaluator(references, newer, fusion=mode)
        assert "different versions of the preprocessing (1 as" in capsys.readouterr().err, mode
    others = [one.renamed(fingerprint="x") for one in [*references[:1], *newer[:1]]]
    make_evaluator([*references, others[0].renamed(id="x")], [*queries, others[1].renamed(id="x")])
    assert "different versions of the preprocessing (1 as" in capsys.readouterr().err


def test_rows_of_one_file_on_both_sides_are_the_same_crops_without_any_names():
    """A table without names, scored against itself: every row would find itself."""
    one = study(2)[0]
    empty = np.full(len(one), "")
    bare = EmbeddingSet(one.vectors, one.labels, empty, empty, empty, {**one.meta, "source": "a.npz"})
    other = EmbeddingSet(one.vectors, one.labels, empty, empty, empty, {**one.meta, "source": "b.npz"})
    assert any(f"{len(one)} photos have crops among" in text for text in remarks(code_sets([bare], [bare]), Rule()))
    assert not any("leakage" in text for text in remarks(code_sets([bare], [other]), Rule()))
    pair = Combination((bare.id,), (bare.id,))
    accuracy = [
        totals(make_evaluator([bare], [bare], exclude=rule), pair).accuracy for rule in ("none", "self", "sample")
    ]
    labels = one.labels[:, 0]
    similarity = unit(one.vectors) @ unit(one.vectors).T - 9 * np.eye(len(one))
    expected = float((labels[similarity.argmax(axis=1)] == labels).mean())
    assert accuracy[0] == 1.0
    assert accuracy[1] == pytest.approx(expected)
    assert accuracy[2] == pytest.approx(expected)
    assert expected < 1
