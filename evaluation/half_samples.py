"""A combination scored with halves of its reference photos: how much does its accuracy depend on the references at hand?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.embeddings import EmbeddingSet
from evaluation.codes import code, image_names, label_names
from evaluation.evaluator import Evaluator
from evaluation.records import Combination
from uncertainty import references as uncertain
from uncertainty.intervals import AccuracyInterval


def reference_interval(
    references: Sequence[EmbeddingSet],
    queries: Sequence[EmbeddingSet],
    combination: Combination,
    *,
    halvings: int = uncertain.HALVINGS,
    seed: int = 0,
    **options: Any,
) -> tuple[AccuracyInterval, float] | None:
    """Return the interval for new references and new queries, and the references' standard deviation; None for too few to halve.

    Each half holds the same photos at every ID. `options` are the Evaluator's. Costs two searches of the combination a halving;
    see uncertainty.references.new_reference_interval for the method.
    """
    asked = [one for one in references if one.id in combination.reference_ids]
    scored = [one for one in queries if one.id in combination.query_ids]
    _, photos = code(image_names(asked, "reference"))
    _, labels = code(label_names(asked, options.get("label_level")))
    photo = np.concatenate(photos)
    if len(np.unique(photo)) < 4 or min(map(len, asked)) < 4 * options.get("k", 1):
        return None
    ends = np.cumsum([len(one) for one in asked])[:-1]

    def totals(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [one.take(np.flatnonzero(part)) for one, part in zip(asked, np.split(kept, ends), strict=True)]
        evaluator = Evaluator(parts, scored, **options)
        tally = evaluator.tally(evaluator.decide(combination), combination.reference_ids)
        return tally.image_right[1], tally.image_size

    right, size = totals(np.ones(len(photo), bool))
    found = uncertain.halves(photo, np.concatenate(labels), halvings, seed)
    halved = np.stack([[totals(half)[0], totals(~half)[0]] for half in found])
    return uncertain.new_reference_interval(right, size, halved)
