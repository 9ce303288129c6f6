"""Merging embedding sets: stack, mean, concat by crop, and the vote of a crop's views.

A view is a crop at one ID (padding, model …). Crops are matched by dataset, split and crop_id. No function reads a file or prints.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common import knn
from common.embeddings import TEXTS, EmbeddingSet
from common.messages import UserError

DECISION = {"vote": "crop", "stack": "view", "mean": "crop", "concat": "crop"}  # what one decision is made for
NAME = {"vote": "vote", "stack": "average over views", "mean": "mean", "concat": "concat"}
AVERAGE = (
    "the accuracy of several query sets is the average of theirs, so no combination of them can beat its best view"
)


def crop_keys(one: EmbeddingSet) -> np.ndarray:
    """Return (n,) str join keys `dataset/split/crop_id`; '' where the set has no crop_id for a row."""
    prefix = f"{one.dataset}/{one.split}/"
    return np.where(one.crop_ids == "", "", np.char.add(prefix, one.crop_ids))


def sample_keys(one: EmbeddingSet) -> np.ndarray:
    """Return (n,) str keys of the photos, `dataset/sample_id`; '' where unknown.

    Without the split: one photo in two splits is one photo.
    """
    return np.where(one.sample_ids == "", "", np.char.add(f"{one.dataset}/", one.sample_ids))


def common_crops(sets: Sequence[EmbeddingSet]) -> np.ndarray:
    """Return (n_sets, n_common) int64 rows of the crops that all sets hold, in the order of the first set.

    Raises UserError when a set has no crop_ids or holds one crop_id twice.
    """
    keys = [crop_keys(one) for one in sets]
    for one, key in zip(sets, keys, strict=True):
        if (key == "").any():
            raise UserError(f"{one.source} has no crop_ids, so that its views cannot be matched; use --fusion stack")
        if len(np.unique(key)) < len(key):
            values, counts = np.unique(key, return_counts=True)
            raise UserError(
                f"{one.source} holds the crop {str(values[counts.argmax()])!r} twice; use --fusion stack, or extract anew"
            )
    shared = keys[0]
    for key in keys[1:]:
        shared = shared[np.isin(shared, key)]
    rows = []
    for key in keys:
        order = np.argsort(key, kind="stable")
        rows.append(order[np.searchsorted(key[order], shared)] if len(shared) else np.empty(0, np.int64))
    return np.stack(rows)


def mean(sets: Sequence[EmbeddingSet]) -> EmbeddingSet:
    """Return one row per crop that all sets hold: the average of its unit vectors, (n_common, dim).

    A crop whose views cancel out exactly has no direction and is left out.
    """
    rows = common_crops(sets)
    total = np.zeros((rows.shape[1], sets[0].dim), np.float64)
    for one, row in zip(sets, rows, strict=True):
        total += knn.unit(one.vectors[row])
    merged = _like(sets, rows[0], (total / len(sets)).astype(np.float32))
    nonzero = np.linalg.norm(total, axis=1) > 1e-6
    return merged if nonzero.all() else merged.take(nonzero)


def concat(sets: Sequence[EmbeddingSet]) -> EmbeddingSet:
    """Return one row per crop that all sets hold: its unit vectors side by side, (n_common, sum of dims).

    The cosine of two such rows is the mean of the cosines at each ID.
    """
    rows = common_crops(sets)
    return _like(
        sets, rows[0], np.concatenate([knn.unit(one.vectors[row]) for one, row in zip(sets, rows, strict=True)], axis=1)
    )


def _like(sets: Sequence[EmbeddingSet], rows: np.ndarray, vectors: np.ndarray) -> EmbeddingSet:
    first = sets[0]
    merged_id = "+".join(one.id for one in sets)
    texts = {name: getattr(first, name)[rows] for name in TEXTS}
    return EmbeddingSet(vectors, **texts, meta={**first.meta, "id": merged_id, "fingerprint": first.fingerprint})


def majority(ballots: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """Return (n_crop,) int64: the label that most views of a crop vote for.

    ballots: (n_view, n_crop) int label codes, -1 for none; similarities: (n_view, n_crop), of each view's nearest neighbour. A tie
    goes to the tied label with the most similar neighbour, then to the view named first.
    """
    ballots = np.asarray(ballots)
    votes = (ballots[:, None, :] == ballots[None, :, :]).sum(axis=1)
    votes = np.where(ballots < 0, 0, votes)
    leading = votes == votes.max(axis=0)
    best = np.where(leading, similarities, -np.inf).argmax(axis=0)
    return ballots[best, np.arange(ballots.shape[1])].astype(np.int64)
