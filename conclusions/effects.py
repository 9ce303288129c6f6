"""What a padding does, taken apart: more surroundings at the same pixels of the object, and fewer pixels of the object."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from classifiers.recipes import NEAREST, Recipe
from combinations.search import same_id_pairs
from common.embeddings import EmbeddingSet
from conclusions.models import speed
from evaluation.evaluator import Evaluator
from evaluation.records import Combination
from uncertainty import comparisons

CONTEXT, RESOLUTION, BOTH = "context", "resolution", "both"
ALIKE = 1.0  # pixels in which the object's sizes may differ, as a padded size is rounded


@dataclass(frozen=True)
class Effect:
    """One part of what a padding does: the accuracy of `of` minus that of `against`, pairs of sets at the same ID.

    context: more surroundings, the object at the same pixels. resolution: the same surroundings, the object at fewer pixels. both:
    their sum, at the same input size. Shares in 0..1 over the crops that every query set holds, NaN where there are none; 95%
    interval, p two-sided and corrected over all effects. speeds: images per second of both, NaN where models.csv does not tell.
    """

    padding: str
    kind: str
    of: Combination
    against: Combination
    difference: float
    low: float
    high: float
    p: float
    speeds: tuple[float, float]


@dataclass(frozen=True)
class _View:
    """One pair with what its crops show: padding in percent, pixels a side of the model's input and of the object in it."""

    pair: Combination
    padding: float
    text: str
    input_px: float
    object_px: float


def effects(evaluator: Evaluator, recipe: Recipe = NEAREST, *, seed: int = 0) -> list[Effect]:
    """Return the effects of every padding that sets of one model and pooling at several input sizes take apart; none without."""
    asked = list(_comparisons(evaluator, recipe))
    size = evaluator.coded.matched_sizes
    if not asked:
        return []
    pairs = list(dict.fromkeys(pair for _, _, *both in asked for pair in both))
    found = dict(evaluator.tallies(pairs))
    right = {pair: found[at].matched_right for at, pair in enumerate(pairs)}
    numbers = np.full((len(asked), 4), math.nan)
    if size.any():
        against = np.stack([right[other] for *_, other in asked])
        gaps = np.stack([right[of] for *_, of, _ in asked]) - against
        paired = comparisons.paired_comparison(gaps, size, baseline=against, seed=seed)
        numbers = np.stack([paired.difference, paired.low, paired.high, paired.p], axis=1)
    queries = evaluator.coded.queries
    rows = []
    for (padding, kind, of, other), (difference, low, high, p) in zip(asked, numbers.tolist(), strict=True):
        speeds = (speed(queries[of.query_ids[0]])[1], speed(queries[other.query_ids[0]])[1])
        rows.append(Effect(padding, kind, of, other, difference, low, high, p, speeds))
    return rows


def _comparisons(evaluator: Evaluator, recipe: Recipe) -> Iterator[tuple[str, str, Combination, Combination]]:
    """Yield padding, kind, the pair and the pair it is compared with, wherever input sizes tell context and resolution apart."""
    for views in _groups(evaluator, recipe).values():
        least = min(view.padding for view in views)
        for start in (view for view in views if view.padding == least):
            for grown in views:
                if grown.padding == least or abs(grown.object_px - start.object_px) >= ALIKE:
                    continue
                yield grown.text, CONTEXT, grown.pair, start.pair
                same_input = [v for v in views if v.text == grown.text and v.input_px == start.input_px]
                for squeezed in same_input[:1]:
                    yield grown.text, RESOLUTION, squeezed.pair, grown.pair
                    yield grown.text, BOTH, squeezed.pair, start.pair


def _groups(evaluator: Evaluator, recipe: Recipe) -> dict[tuple[str, str], list[_View]]:
    """Return the pairs of one model and pooling, their paddings rising."""
    groups: dict[tuple[str, str], list[_View]] = {}
    for name, pair in same_id_pairs(evaluator, recipe).items():
        query = evaluator.coded.queries[name]
        if (view := _view(pair, query)) is not None:
            groups.setdefault((query.base, str(query.meta.get("pooling") or "")), []).append(view)
    return {key: sorted(views, key=lambda view: view.padding) for key, views in groups.items()}


def _view(pair: Combination, query: EmbeddingSet) -> _View | None:
    """Return what a pair's crops show; None where the file does not tell it, or the padding is no percentage."""
    text, asked = str(query.meta.get("padding") or ""), query.meta.get("image_size")
    try:
        padding = float(text)
    except ValueError:
        return None
    grows, preprocess = 1 + 2 * padding / 100, query.meta.get("preprocess") or {}
    if preprocess.get("resize_mode") == "model":  # which cuts the edges off
        return None
    if asked == "crop":
        object_px = query.meta.get("object_px")
        size = object_px and object_px * grows
    else:
        size = preprocess.get("height")
    if not (query.fingerprint and grows > 0 and math.isfinite(grows)):
        return None
    if not isinstance(size, (int, float)) or not 0 < size < 1 << 31:
        return None
    return _View(pair, padding, text, round(size), size / grows)
