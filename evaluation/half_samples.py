"""A combination scored with halves of its reference photos: how much does its accuracy depend on the references at hand?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from evaluation.codes import CodedSets, code, code_sets
from evaluation.evaluator import Evaluator, tally
from evaluation.records import Combination, Rule
from uncertainty import references as uncertain
from uncertainty.intervals import AccuracyInterval


@dataclass(frozen=True)
class NewReferences:
    """The interval of an accuracy with new references and new queries, and the references' standard deviation, shares in 0..1."""

    interval: AccuracyInterval
    spread: float


def new_references(
    coded: CodedSets,
    rule: Rule,
    combinations: Iterable[Combination],
    *,
    label_level: int | None = None,
    seed: int = 0,
) -> dict[Combination, NewReferences | None]:
    """Return for each combination what `reference_interval` says; None where its reference photos are unknown or too few."""
    unknown = {one.id for one in coded.references.values() if one.source in coded.without_samples}
    found = {}
    for combination in combinations:
        known = unknown.isdisjoint(combination.reference_ids)
        both = reference_interval(coded, rule, combination, label_level=label_level, seed=seed) if known else None
        found[combination] = NewReferences(*both) if both else None
    return found


def reference_interval(
    coded: CodedSets,
    rule: Rule,
    combination: Combination,
    *,
    label_level: int | None = None,
    halvings: int = uncertain.HALVINGS,
    seed: int = 0,
) -> tuple[AccuracyInterval, float] | None:
    """Return the interval for new references and new queries, and the references' standard deviation; None for too few to halve.

    Each half holds the same photos at every ID. Costs two searches of the combination a halving; see
    uncertainty.references.new_reference_interval for the method. `label_level` is that of the coded sets.
    """
    references = [coded.references[r] for r in combination.reference_ids]
    queries = [coded.queries[q] for q in combination.query_ids]
    photo = np.concatenate(code(coded.units.names(references, "reference"))[1])
    label = np.concatenate([coded.reference_codes[r].label for r in combination.reference_ids])
    if len(np.unique(photo)) < 4 or min(map(len, references)) < 4 * rule.k:
        return None
    ends = np.cumsum([len(reference) for reference in references])[:-1]

    def totals(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        halves = [
            reference.take(np.flatnonzero(part))
            for reference, part in zip(references, np.split(kept, ends), strict=True)
        ]
        evaluator = Evaluator(code_sets(halves, queries, label_level, coded.units), rule)
        total = tally(evaluator.coded, evaluator.decide(combination), combination.reference_ids)
        return total.image_right[1], total.image_size

    right, size = totals(np.ones(len(photo), bool))
    masks = uncertain.halves(photo, label, halvings, seed)
    halved = np.stack([[totals(half)[0], totals(~half)[0]] for half in masks])
    return uncertain.new_reference_interval(right, size, halved)
