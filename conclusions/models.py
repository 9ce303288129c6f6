"""Several models side by side: one row a model, compared on the crops that all of them embed."""

from __future__ import annotations

import contextlib
import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classifiers.recipes import NEAREST, Recipe
from combinations.paddings import least_padding
from combinations.search import same_id_pairs
from common.embeddings import MODELS_CSV, EmbeddingSet, computed
from evaluation.evaluator import Evaluator
from evaluation.records import Combination
from uncertainty import comparisons, intervals


@dataclass(frozen=True)
class ModelRow:
    """One model by its pair of least padding; shares in 0..1. Accuracy with its 95% interval, over all decisions.

    id: the ID of its sets, without the model. Sets at several input sizes or poolings are of one model.

    weights: number of parameters; images_per_second on processor, of the sets of that ID; NaN and '' where models.csv does
    not tell. difference from the first row with its 95% interval, on the crops that every query set holds; p two-sided, corrected
    over all rows and for the choice of the first. NaN for the first row, and without common crops.
    """

    model: str
    combination: Combination
    id: str
    dim: int
    weights: float
    images_per_second: float
    processor: str
    accuracy: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    p: float


def model_rows(evaluator: Evaluator, recipe: Recipe = NEAREST, *, seed: int = 0) -> list[ModelRow]:
    """Return one row a model, the most accurate first; none where the query sets are of one model, or do not tell it."""
    pairs = _pairs(evaluator, recipe)
    if len(pairs) < 2:
        return []
    found = dict(evaluator.tallies(pairs))
    order = sorted(range(len(pairs)), key=lambda index: -found[index].accuracy)
    pairs, tallies = [pairs[index] for index in order], [found[index] for index in order]
    low, high = intervals.accuracy_intervals(
        np.stack([tally.image_right[1] for tally in tallies]), np.stack([tally.image_size for tally in tallies])
    )
    differences = np.full((len(pairs), 4), math.nan)
    size = evaluator.coded.matched_sizes
    if size.any():
        matched = np.stack([tally.matched_right for tally in tallies])
        chosen_from = range(len(pairs))
        paired = comparisons.paired_comparison(
            matched - matched[0], size, baseline=matched[0], chosen_from=chosen_from, seed=seed
        )
        differences[1:] = np.stack([paired.difference, paired.low, paired.high, paired.p], axis=1)[1:]
    rows = []
    for row, (pair, tally) in enumerate(zip(pairs, tallies, strict=True)):
        query = evaluator.coded.queries[pair.query_ids[0]]
        accuracy = tally.accuracy, float(low[row]), float(high[row])
        about = str(query.meta.get("model", "")), pair, str(query.meta.get("own_id", query.id)), query.dim
        rows.append(ModelRow(*about, *speed(query), *accuracy, *differences[row].tolist()))
    return rows


def _pairs(evaluator: Evaluator, recipe: Recipe) -> list[Combination]:
    """Return of each model its pair of least padding, the same ID on both sides."""
    queries = evaluator.coded.queries
    by_model: dict[str, list[Combination]] = {}
    for name, pair in same_id_pairs(evaluator, recipe).items():
        if queries[name].fingerprint:
            by_model.setdefault(queries[name].base, []).append(pair)
    return [least_padding(evaluator.coded, pairs) for pairs in by_model.values()]


def speed(embedding_set: EmbeddingSet) -> tuple[float, float, str]:
    """Return (weights, images per second, processor) of the set's model at its ID, as the models.csv beside its file says.

    Where that names no ID, as of older versions, or this set was given another one, the row of the model stands for it.
    """
    path, meta = Path(embedding_set.source).parent / MODELS_CSV, embedding_set.meta
    rows: list[dict[str, str]] = []
    if path.is_file():
        made = embedding_set.fingerprint, computed(meta.get("precision"), meta.get("engine"))
        with open(path, encoding="utf-8", errors="replace", newline="") as file, contextlib.suppress(csv.Error):
            rows = [row for row in csv.DictReader(file) if (row.get("fingerprint"), row.get("precision")) == made]
    own = [row for row in rows if row.get("id") == str(meta.get("own_id", embedding_set.id))]
    if not (own or rows):
        return math.nan, math.nan, ""
    row = (own or rows)[0]
    seconds = _number(row.get("seconds"))
    speed = _number(row.get("images")) / seconds if seconds else math.nan
    return _number(row.get("weights")), speed, str(row.get("processor") or "")


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
