"""How good and how fast a search is, and what each re-ranking gains: measures of ranked results, with their intervals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.metrics import RECALL_AT
from retrieval.items import Gallery, Hit, Item, Queries
from retrieval.retrieve import retrieve
from uncertainty import comparisons

TOP = 10  # results that F1 is of


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
    for at, (label, hits) in enumerate(zip(labels, results, strict=True)):
        right[at, : len(hits)] = [hit.item.label == label for hit in hits[:TOP]]
    shown = np.array([min(TOP, len(hits)) for hits in results])
    recalled = np.stack([right[:, :k].any(axis=1) for k in RECALL_AT], axis=1)
    f1 = np.where(n_relevant > 0, 2 * right.sum(axis=1) / np.maximum(shown + n_relevant, 1), 0.0)
    return Scores(recalled.astype(float), f1, n_relevant)


def relevant(gallery: Gallery, items: Sequence[Item], *, same_sample: bool = False) -> np.ndarray:
    """Return (n,) how many rows have the query's label and are not its own."""
    counts = gallery.label_counts({item.label for item in items})
    having = np.array([counts.get(item.label, 0) for item in items], int)
    return np.maximum(having - gallery.own_counts(items, same_sample=same_sample), 0)


def by_image(values: np.ndarray, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
    """Return the totals (n_image,) of per-query values (n,) by source image, and the number of queries of each image."""
    codes = np.unique(["\0".join(item.sample) for item in items], return_inverse=True)[1]
    return np.bincount(codes, values), np.bincount(codes)


def gain(new: np.ndarray, old: np.ndarray, items: Sequence[Item]) -> comparisons.PairedComparison:
    """Return the paired difference of per-query values (n,), by source image."""
    difference, size = by_image(new - old, items)
    return comparisons.paired_comparison(difference[None], size)


def latency(gallery: Gallery, queries: Queries, *, n: int = 50, **options: Any) -> np.ndarray:
    """Return the seconds that up to n single queries took, evenly spaced ones; the first was run before, to warm up.

    options: those of retrieval.retrieve.
    """
    rows = np.unique(np.linspace(0, len(queries) - 1, min(n, len(queries))).astype(int)).tolist()
    seconds = []
    for row in [rows[0], *rows]:
        started = time.perf_counter()
        retrieve(gallery, queries.take([row]), TOP, **options)
        seconds.append(time.perf_counter() - started)
    return np.array(seconds[1:])


def agreement(found: Sequence[Sequence[Hit]], exact: Sequence[Sequence[Hit]]) -> float:
    """Return which share of the exact results was found, in 0..1."""
    shares = []
    for hits, true in zip(found, exact, strict=True):
        wanted = {(hit.item.crop, hit.item.id) for hit in true}
        shares.append(sum((hit.item.crop, hit.item.id) in wanted for hit in hits) / max(1, len(true)))
    return float(np.mean(shares))
