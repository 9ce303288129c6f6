"""The crops that are examined: one reference set and one query set, their labels, photos and pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common import files
from common.embeddings import EmbeddingSet
from evaluation.codes import code, crop_names, photo_names
from evaluation.evaluator import Evaluator
from evaluation.records import Combination


@dataclass(frozen=True, eq=False)
class Crops:
    """Crops, one row each, the references before the queries.

    vectors (n, dim) float32. label, crop, photo (n,) int codes; crops and photos are coded over both sides together. names,
    pictures (n,) str: what a crop is called, and the file of its picture, '' where it is not known.
    """

    vectors: np.ndarray
    label: np.ndarray
    crop: np.ndarray
    photo: np.ndarray
    names: np.ndarray
    pictures: np.ndarray
    n_reference: int

    def __len__(self) -> int:
        return len(self.label)


def one_view(evaluator: Evaluator, combination: Combination) -> Combination:
    """Return the pair that stands for a combination: its first query set, and the first references this is searched in."""
    first = combination.query_ids[0]
    if evaluator.rule.fusion == "concat":
        return Combination((first,), (first,))
    return Combination(evaluator.references_of(combination, first)[:1], (first,))


def of_pair(evaluator: Evaluator, pair: Combination) -> Crops:
    """Return the crops of a pair of sets."""
    coded = evaluator.coded
    reference, query = coded.references[pair.reference_ids[0]], coded.queries[pair.query_ids[0]]
    sides = (reference, query)
    crops = [name for side, one in zip(("reference", "query"), sides, strict=True) for name in crop_names([one], side)]
    photos = [
        name for side, one in zip(("reference", "query"), sides, strict=True) for name in photo_names([one], side)
    ]
    labels = coded.reference_codes[reference.id].label, coded.query_codes[query.id].label
    return Crops(
        vectors=np.concatenate([np.asarray(one.vectors) for one in sides]),
        label=np.concatenate(labels),
        crop=np.concatenate(code(crops)[1]),
        photo=np.concatenate(code(photos)[1]),
        names=np.concatenate([_names(one) for one in sides]),
        pictures=np.concatenate([_pictures(one) for one in sides]),
        n_reference=len(reference),
    )


def _names(embedding_set: EmbeddingSet) -> np.ndarray:
    """Return (n,) str: the crop id, else the path, else the row."""
    rows = np.char.add("row ", np.arange(len(embedding_set)).astype(str))
    named = np.where(embedding_set.paths == "", rows, embedding_set.paths)
    return np.where(embedding_set.crop_ids == "", named, embedding_set.crop_ids)


def _pictures(embedding_set: EmbeddingSet) -> np.ndarray:
    root = str(embedding_set.meta.get("data_root") or "")
    return np.array(files.each_below(root, embedding_set.paths.tolist()), object)
