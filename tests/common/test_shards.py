"""A set in several files is the set in one file, whatever the size of the pieces it is gone through in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from builders import make

from common import embedding_sets, embeddings
from common.embedding_sets import Joined
from common.embeddings import EmbeddingSet
from evaluation.codes import code_sets
from evaluation.evaluator import Evaluator
from evaluation.records import Combination, Rule

COLUMNS = embeddings.TEXTS


def cut(one: EmbeddingSet, *at: int) -> Joined:
    bounds = [0, *at, len(one)]
    parts = [one.take(np.arange(start, stop)) for start, stop in itertools.pairwise(bounds)]
    return Joined(parts)


def test_joined_shards_are_the_whole_set():
    one = make(50)
    joined = cut(one, 7, 8, 40)
    assert (len(joined), joined.dim, joined.meta) == (50, one.dim, one.meta)
    np.testing.assert_array_equal(np.asarray(joined.vectors), one.vectors)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(joined, name), getattr(one, name))
    rows = np.array([49, 0, 8, 8, 7])
    for taken in (joined.take(rows), joined.renamed(id="x").take(rows)):
        for name in ("vectors", *COLUMNS):
            np.testing.assert_array_equal(getattr(taken, name), getattr(one, name)[rows])
    assert joined.renamed(id="x").id == "x" != joined.id


def test_a_shard_of_fewer_levels_is_deepened():
    one, other = make(3), make(4, seed=1)
    flat = EmbeddingSet(other.vectors, other.labels[:, :1], other.crop_ids, other.sample_ids, other.paths, other.meta)
    assert one.labels.shape[1] > 1
    joined = Joined([one, flat])
    assert joined.labels.shape == (7, one.labels.shape[1])
    assert joined.label().tolist() == [*one.label(), *flat.label()]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_pieces_cover_the_rows_in_order_and_copy_nothing(size, monkeypatch):
    monkeypatch.setattr(embedding_sets, "PIECE", size)
    one = make(20)
    for whole in (one, cut(one, 6, 13)):
        parts = list(embedding_sets.pieces(whole))
        assert max(map(len, parts)) <= size
        for name in ("vectors", *COLUMNS):
            np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(one, name))
        assert all(any(np.shares_memory(p.vectors, block) for block in whole.blocks) for p in parts)


@pytest.mark.parametrize("exclude", ["none", "self", "sample"])
def test_what_a_combination_scores_does_not_depend_on_files_or_pieces(exclude, monkeypatch):
    references = [make(300, seed=1, id=one, split="train") for one in ("0", "10")]
    queries = [make(200, seed=2, id=one, split="train") for one in ("0", "10")]  # the crops of the first 200 references
    choice = Combination(("0", "10"), ("10", "0"))
    plain = Evaluator(code_sets(references, queries), Rule("stack", exclude=exclude, k=3))
    monkeypatch.setattr(embedding_sets, "PIECE", 17)
    cuts = [[cut(one, 50, 120) for one in side] for side in (references, queries)]
    pieced = Evaluator(code_sets(*cuts), Rule("stack", exclude=exclude, k=3))
    for side in cuts:
        assert not any(set(COLUMNS) & set(vars(one)) for one in side)  # no column was joined for it
    assert pieced.coded.classes.tolist() == plain.coded.classes.tolist()
    assert pieced.coded.shared_images == plain.coded.shared_images > 0
    first, second = plain.decide(choice), pieced.decide(choice)
    for name in first.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    if exclude != "none":  # no neighbour is a row of the query's own crop or image
        key = "crop_ids" if exclude == "self" else "sample_ids"
        own = np.concatenate([getattr(queries[i], key) for i in (1, 0)])
        theirs = np.concatenate([getattr(one, key) for one in references])
        assert not (theirs[first.neighbours] == own[:, None])[first.neighbours >= 0].any()
