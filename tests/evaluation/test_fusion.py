"""Merging sets by crop: hand-made cases whose answers are worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest
from builders import make

from common import knn
from common.embeddings import EmbeddingSet
from common.messages import UserError
from evaluation import fusion


def tiny(vectors, crops, identity="0", labels=None) -> EmbeddingSet:
    n = len(crops)
    labels = np.array(labels or ["a"] * n).reshape(n, 1)
    samples = np.array([crop.split("_")[0] for crop in crops])
    meta = {"id": identity, "dataset_name": "d", "split": "test"}
    return EmbeddingSet(np.array(vectors, np.float32), labels, np.array(crops), samples, np.array(crops), meta)


def test_common_crops_keeps_the_first_order_and_finds_the_rows():
    one = tiny(np.eye(3), ["p_2", "p_0", "p_1"])
    two = tiny(np.eye(4), ["p_1", "p_2", "p_9", "p_0"])
    np.testing.assert_array_equal(fusion.common_crops([one, two]), [[0, 1, 2], [1, 3, 0]])
    three = tiny(np.eye(1), ["p_1"])
    np.testing.assert_array_equal(fusion.common_crops([one, two, three]), [[2], [0], [0]])
    assert fusion.common_crops([one, tiny(np.eye(1), ["p_7"])]).shape == (2, 0)


def test_mean_averages_unit_vectors_not_raw_ones():
    one, two = tiny([[10, 0], [0, 2]], ["p_0", "p_1"], "0"), tiny([[0, 3], [0, 1]], ["p_0", "p_1"], "10")
    merged = fusion.mean([one, two])
    np.testing.assert_allclose(merged.vectors, [[0.5, 0.5], [0, 1]])
    assert merged.id == "0+10"


def test_mean_leaves_out_a_crop_whose_views_cancel():
    one, two = tiny([[1, 0], [0, 2]], ["p_0", "p_1"]), tiny([[-5, 0], [0, 1]], ["p_0", "p_1"])
    assert fusion.mean([one, two]).crop_ids.tolist() == ["p_1"]


def test_concat_cosine_is_the_mean_of_the_cosines_also_of_different_widths():
    rng = np.random.default_rng(0)
    crops = [f"p_{i}" for i in range(6)]
    sets = [tiny(rng.normal(size=(6, dim)), crops, str(dim)) for dim in (3, 8, 5)]
    merged = knn.unit(fusion.concat(sets).vectors)
    expected = np.mean([knn.unit(one.vectors) @ knn.unit(one.vectors).T for one in sets], axis=0)
    np.testing.assert_allclose(merged @ merged.T, expected, atol=1e-6)


def test_majority_and_its_ties():
    ballots = np.array([[1, 1, 2, -1], [1, 2, 3, 4], [2, 2, 2, -1]])
    similarities = np.array([[0.1, 0.2, 0.3, 0.9], [0.1, 0.9, 0.9, 0.1], [0.9, 0.1, 0.1, 0.9]])
    assert fusion.majority(ballots, similarities).tolist() == [1, 2, 2, 4]
    # two views disagree: the more similar neighbour decides; on equal similarity the view named first
    assert fusion.majority(np.array([[5, 5], [7, 7]]), np.array([[0.5, 0.8], [0.6, 0.8]])).tolist() == [7, 5]


def test_sets_that_cannot_be_matched_say_why():
    without = make(4)
    without.crop_ids[0] = ""
    with pytest.raises(UserError, match="has no crop_ids"):
        fusion.common_crops([without, make(4)])
    double = make(4)
    double.crop_ids[1] = double.crop_ids[0]
    with pytest.raises(UserError, match=r" holds the crop 'shelf/train/photo0_0' twice"):
        fusion.common_crops([double])
