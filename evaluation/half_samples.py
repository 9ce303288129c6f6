"""A combination scored with halves of its reference photos: how much does its accuracy depend on the references at hand?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.embeddings import EmbeddingSet
from evaluation.codes import code, code_sets, image_names, label_names
from evaluation.evaluator import Evaluator, tally
from evaluation.records import Combination, Rule
from uncertainty import references as uncertain
from uncertainty.intervals import AccuracyInterval


def reference_interval(
    references: Sequence[EmbeddingSet],
    queries: Sequence[EmbeddingSet],
    combination: Combination,
    rule: Rule,
    *,
    label_level: int | None = None,
    halvings: int = uncertain.HALVINGS,
    seed: int = 0,
) -> tuple[AccuracyInterval, float] | None:
    """Return the interval for new references and new queries, and the references' standard deviation; None for too few to halve.

    Each half holds the same photos at every ID. Costs two searches of the combination a halving;
    see uncertainty.references.new_reference_interval for the method.
    """
    asked = [one for one in references if one.id in combination.reference_ids]
    scored = [one for one in queries if one.id in combination.query_ids]
    _, photos = code(image_names(asked, "reference"))
    _, labels = code(label_names(asked, label_level))
    photo = np.concatenate(photos)
    if len(np.unique(photo)) < 4 or min(map(len, asked)) < 4 * rule.k:
        return None
    ends = np.cumsum([len(one) for one in asked])[:-1]

    def totals(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [one.take(np.flatnonzero(part)) for one, part in zip(asked, np.split(kept, ends), strict=True)]
        coded = code_sets(parts, scored, label_level)
        totals_of = tally(coded, Evaluator(coded, rule).decide(combination), combination.reference_ids)
        return totals_of.image_right[1], totals_of.image_size

    right, size = totals(np.ones(len(photo), bool))
    found = uncertain.halves(photo, np.concatenate(labels), halvings, seed)
    halved = np.stack([[totals(half)[0], totals(~half)[0]] for half in found])
    return uncertain.new_reference_interval(right, size, halved)
