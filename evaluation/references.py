"""How much an accuracy depends on the references at hand: scored with few of their photos, and with halves of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from common import knn, messages
from common.messages import UsageError
from evaluation.codes import CodedSets, code, code_sets
from evaluation.evaluator import Evaluator, Task, tally
from evaluation.learning import rows
from evaluation.records import Combination, Rule
from uncertainty import references as uncertain
from uncertainty.intervals import AccuracyInterval, accuracy_interval

DRAWS = 50
BLOCK = 1 << 24  # neighbours held at once


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy in 0..1 with at most `photos` reference photos per class, the mean over draws of whole photos.

    references: the mean number of them a class. low, high: its 95% interval over query photos. low_draw, high_draw: the middle
    95% of the draws.
    """

    photos: int
    references: float
    accuracy: float
    low: float
    high: float
    low_draw: float
    high_draw: float


@dataclass(frozen=True)
class Curve:
    """The points of a combination, the last one with all photos, each other the mean of so many draws."""

    combination: Combination
    points: list[CurvePoint]
    draws: int


def learning_curve(evaluator: Evaluator, combination: Combination, *, draws: int = DRAWS, seed: int = 0) -> Curve:
    """Return the points for 1, 2, 5, 10, 20 … photos per class, and for all of them. Raises UsageError for several query sets."""
    if len(combination.query_ids) > 1 and evaluator.rule.fusion in ("vote", "stack"):
        raise UsageError("--learning_curve draws the references of one query set; name one with --query_ids")
    references, queries = rows(evaluator, combination)
    task = evaluator.tasks(combination)[0]
    stratum, at = _strata(references.photo, references.label)
    largest = int(np.bincount(stratum).max())
    steps = [step * 10**power for power in range(6) for step in (1, 2, 5) if step * 10**power < largest]
    masks: list[np.ndarray] = []
    for n_photo in [*steps, largest]:
        rng = np.random.default_rng(seed)  # the photos drawn for few are among those drawn for more
        times = draws if n_photo < largest else 1
        masks += [(_ranks(stratum, rng) < n_photo)[at] for _ in range(times)]
    right = _right(evaluator, task, np.stack(masks))
    n_class = len(np.unique(references.label))
    size = np.bincount(queries.photo).astype(float)
    points, start = [], 0
    for n_photo in [*steps, largest]:
        stop = start + (draws if n_photo < largest else 1)
        totals = np.bincount(queries.photo, right[start:stop].mean(axis=0))
        interval = accuracy_interval(totals[size > 0], size[size > 0])
        shares = np.quantile(right[start:stop].mean(axis=1), (0.025, 0.975))
        kept = float(np.mean([mask.sum() for mask in masks[start:stop]])) / n_class
        points.append(CurvePoint(n_photo, kept, interval.accuracy, interval.low, interval.high, *map(float, shares)))
        start = stop
    return Curve(combination, points, draws)


def _strata(photo: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of each photo (n_photo,) the label that most of its references have, and of each reference its photo's number."""
    photos, at = np.unique(photo, return_inverse=True)
    counts = np.zeros((len(photos), int(label.max()) + 1), np.int64)
    np.add.at(counts, (at, label), 1)
    return counts.argmax(axis=1), at


def _ranks(stratum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (n_photo,) the place of each photo in a random order of its class's photos."""
    order = np.lexsort((rng.random(len(stratum)), stratum))
    _, first, size = np.unique(stratum[order], return_index=True, return_counts=True)
    ranks = np.empty(len(stratum), np.int64)
    ranks[order] = np.arange(len(stratum)) - np.repeat(first, size)
    return ranks


def _right(evaluator: Evaluator, task: Task, masks: np.ndarray) -> np.ndarray:
    """Return (n_draw, n_query) bool: whether neighbours among the references of each mask (n_draw, n_reference) vote rightly."""
    right = np.zeros((len(masks), len(task.query_label)), bool)
    for start, similarities, neighbours in _all_neighbours(evaluator, task):
        here = slice(start, start + len(neighbours))
        labels = np.where(neighbours >= 0, task.reference_label[neighbours], -1)
        for draw, mask in enumerate(masks):
            kept = mask[neighbours] & (neighbours >= 0)
            first = np.argsort(~kept, axis=1, kind="stable")[:, : evaluator.rule.k]
            given = np.where(np.take_along_axis(kept, first, 1), np.take_along_axis(labels, first, 1), -1)
            voted = knn.vote(np.take_along_axis(similarities, first, 1), given, evaluator.rule.vote_weights)
            right[draw, here] = voted == task.query_label[here]
    return right


def _all_neighbours(evaluator: Evaluator, task: Task) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (first query, similarities, rows) of all references of some queries after the other, the nearest first."""
    n_reference = len(task.reference_label)
    step = max(1, BLOCK // n_reference)
    names = ("query", "query_label", "query_group", "query_image")
    for start in range(0, len(task.query_label), step):
        part = replace(task, **{name: getattr(task, name)[start : start + step] for name in names})
        yield start, *evaluator.search(part, n_reference)


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
    drawn = messages.progress(masks, total=halvings, desc=f"halves, {combination}", unit="halving")
    halved = np.stack([[totals(half)[0], totals(~half)[0]] for half in drawn])
    return uncertain.new_reference_interval(right, size, halved)
