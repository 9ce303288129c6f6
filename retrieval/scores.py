"""How good and how fast a search is, and what each re-ranking gains: measures of ranked results, per query."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from common.blocks import batches
from common.messages import progress
from evaluation.metrics import RECALL_AT
from retrieval.items import Hit, Item, Queries, References
from retrieval.retrieve import retrieve
from uncertainty import comparisons, intervals

TOP = 10  # results that F1 is of
BATCH = 256  # queries searched at once


@dataclass(frozen=True)
class Scores:
    """Per query, arrays (n,) or (n, levels) in 0..1.

    recalled (n, 3): a result of the query's label among the first 1, 5, 10. f1: of the first 10 results, see below.
    n_relevant: rows of the query's label that are not its own.
    """

    recalled: np.ndarray
    f1: np.ndarray
    n_relevant: np.ndarray

    @property
    def measures(self) -> dict[str, np.ndarray]:
        """What re-rankings are compared by, (n,) each."""
        return {"Recall@1": self.recalled[:, 0], "F1 of the top 10": self.f1}


def score(labels: Sequence[str], results: Sequence[Sequence[Hit]], n_relevant: np.ndarray) -> Scores:
    """Return the scores of the first TOP results of each query.

    F1 = 2 right / (shown + relevant): the harmonic mean of precision (right / shown, at most TOP) and recall (right / relevant);
    with many relevant rows it cannot come near 1. A query whose label no row has scores 0 and counts.
    """
    right = np.zeros((len(labels), TOP), bool)
    for row, (label, hits) in enumerate(zip(labels, results, strict=True)):
        right[row, : len(hits)] = [hit.item.label == label for hit in hits[:TOP]]
    shown = np.array([min(TOP, len(hits)) for hits in results])
    recalled = np.stack([right[:, :k].any(axis=1) for k in RECALL_AT], axis=1)
    f1 = np.where(n_relevant > 0, 2 * right.sum(axis=1) / np.maximum(shown + n_relevant, 1), 0.0)
    return Scores(recalled.astype(float), f1, n_relevant)


def relevant(references: References, items: Sequence[Item], *, same_sample: bool = False) -> np.ndarray:
    """Return (n,) how many rows have the query's label and are not its own."""
    counts = references.label_counts({item.label for item in items})
    with_label = np.array([counts.get(item.label, 0) for item in items], int)
    return np.maximum(with_label - references.own_counts(items, same_sample=same_sample), 0)


def by_image(values: np.ndarray, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
    """Return the totals (n_image,) of per-query values (n,) by photo, and the number of queries of each image."""
    codes = np.unique(["\0".join(item.sample) for item in items], return_inverse=True)[1]
    return np.bincount(codes, values), np.bincount(codes)


class Gain(NamedTuple):
    """A paired difference of means with its 95% interval and its p, which is below 0.05 where the interval does not hold 0."""

    difference: float
    low: float
    high: float
    p: float


def gain(new: np.ndarray, old: np.ndarray, items: Sequence[Item]) -> Gain:
    """Return the paired difference of per-query values (n,), by photo."""
    difference, size = by_image(new - old, items)
    low, high = intervals.difference_intervals(difference[None], size)
    p = comparisons.interval_p(difference, size)
    return Gain(float(difference.sum() / size.sum()), float(low[0]), float(high[0]), p)


@dataclass(frozen=True)
class Measured:
    """One re-ranking: its results and scores, and the seconds (n,) that single queries took."""

    results: list[list[Hit]]
    scores: Scores
    seconds: np.ndarray


def measure(
    references: References,
    queries: Queries,
    items: Sequence[Item],
    n_relevant: np.ndarray,
    method: str,
    *,
    candidates: int | None = None,
    same_sample: bool = False,
) -> Measured:
    """Search for all queries, re-ranked by `method` (see retrieve), score the results and time single queries."""
    search = partial(retrieve, references, k=TOP, method=method, candidates=candidates, same_sample=same_sample)
    results: list[list[Hit]] = []
    with progress(total=len(queries), desc=method, unit="query") as bar:
        for batch in batches(len(queries), BATCH):
            results += search(queries=queries.take(range(batch.start, batch.stop)))
            bar.update(batch.stop - batch.start)
    scores = score([item.label for item in items], results, n_relevant)
    return Measured(results, scores, latency(lambda query: search(queries=query), queries))


def latency(search: Callable[[Queries], object], queries: Queries, *, n: int = 50) -> np.ndarray:
    """Return the seconds that up to n single queries took, evenly spaced; the first is searched once before, to warm up."""
    rows = np.unique(np.linspace(0, len(queries) - 1, min(n, len(queries))).astype(int)).tolist()
    seconds = []
    for row in [rows[0], *rows]:
        started = time.perf_counter()
        search(queries.take([row]))
        seconds.append(time.perf_counter() - started)
    return np.array(seconds[1:])


def agreement(results: Sequence[Sequence[Hit]], exact: Sequence[Sequence[Hit]]) -> float:
    """Return which share of the exact results was found, in 0..1."""
    shares = []
    for hits, exact_hits in zip(results, exact, strict=True):
        wanted = {(hit.item.crop, hit.item.id) for hit in exact_hits}
        shares.append(sum((hit.item.crop, hit.item.id) in wanted for hit in hits) / max(1, len(exact_hits)))
    return float(np.mean(shares))
