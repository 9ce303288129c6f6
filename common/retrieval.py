"""Searching as a user means it: the query left out of its own results, re-ranked where asked for, and what that is worth."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common import images, reranking, statistics
from common.gallery import Hit, Item
from common.metrics import RECALL_AT

TOP = 10  # results that F1 is of
EXPAND_BY = 10  # rows that a query is moved towards
CANDIDATES = {"none": 0, "query_expansion": EXPAND_BY, "k_reciprocal": 200, "geometric": 30}


class Gallery(Protocol):
    """gallery.NpzGallery or indexing.Index."""

    n_views: int

    def __len__(self) -> int: ...
    def search(
        self,
        queries: np.ndarray,
        k: int,
        where: Mapping[str, Sequence[str]] | None = None,
        *,
        vectors: bool = False,
        ready: bool = False,
    ) -> list[list[Hit]]: ...
    def prepared(self, queries: np.ndarray) -> np.ndarray: ...
    def label_counts(self, labels: Sequence[str]) -> dict[str, int]: ...
    def own_counts(self, queries: Sequence[Item], *, same_sample: bool = False) -> np.ndarray: ...


@dataclass(frozen=True)
class Queries:
    """vectors (n, dim) float32; pictures: their files, '' where unknown; items: what they are in the gallery, or None."""

    vectors: np.ndarray
    pictures: Sequence[str]
    items: Sequence[Item | None]

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: Sequence[int]) -> Queries:
        """Return these queries."""
        return Queries(self.vectors[list(rows)], [self.pictures[r] for r in rows], [self.items[r] for r in rows])


def retrieve(
    gallery: Gallery,
    queries: Queries,
    k: int,
    *,
    where: Mapping[str, Sequence[str]] | None = None,
    method: str = "none",
    candidates: int | None = None,
    same_sample: bool = False,
) -> list[list[Hit]]:
    """Return up to k results for each query, best first; a query that is in the gallery is not among its own.

    method: one of reranking.METHODS, over the first `candidates` (default: CANDIDATES). Scores stay those of the search.
    same_sample: leave out all crops of the query's source image too.
    """
    depth = k if method == "none" else max(k, candidates or CANDIDATES[method])
    ready = gallery.prepared(queries.vectors)

    def search(vectors: np.ndarray, depth: int, with_vectors: bool = False) -> list[list[Hit]]:
        return _others(gallery, vectors, queries.items, depth, where, same_sample, with_vectors)

    first = search(ready, depth, method in ("query_expansion", "k_reciprocal"))
    if method == "query_expansion":
        moved = [
            reranking.expand_query(query, _vectors(hits[:EXPAND_BY])) if hits else query
            for query, hits in zip(ready, first, strict=True)
        ]
        return search(np.stack(moved), k)
    if method == "k_reciprocal":
        orders = (
            np.argsort(reranking.k_reciprocal(query, _vectors(hits)), kind="stable") if hits else ()
            for query, hits in zip(ready, first, strict=True)
        )
        return [[hits[at] for at in order[:k]] for order, hits in zip(orders, first, strict=True)]
    if method == "geometric":
        return [_verified(picture, hits)[:k] for picture, hits in zip(queries.pictures, first, strict=True)]
    return first


def _vectors(hits: Sequence[Hit]) -> np.ndarray:
    return np.stack([hit.vector for hit in hits if hit.vector is not None])


def _others(
    gallery: Gallery,
    ready: np.ndarray,
    items: Sequence[Item | None],
    k: int,
    where: Mapping[str, Sequence[str]] | None,
    same_sample: bool,
    vectors: bool,
) -> list[list[Hit]]:
    """Search for k rows that are not the query's own: for somewhat more, and again for more where that was not enough."""

    def own(item: Item, hit: Hit) -> bool:
        return hit.item.sample == item.sample if same_sample else hit.item.crop == item.crop

    results: list[list[Hit]] = [[] for _ in items]
    todo = list(range(len(items)))
    depth = k if all(item is None for item in items) else k + gallery.n_views
    while todo:
        found = gallery.search(ready[todo], min(depth, len(gallery)), where, vectors=vectors, ready=True)
        for at, hits in zip(todo, found, strict=True):
            item = items[at]
            results[at] = [hit for hit in hits if item is None or not own(item, hit)][:k]
        exhausted = {at for at, hits in zip(todo, found, strict=True) if len(hits) < depth}
        todo = [at for at in todo if len(results[at]) < k and at not in exhausted]
        depth *= 2
    return results


def _verified(picture: str, hits: list[Hit]) -> list[Hit]:
    """Put the results that show the same thing in the same shape first, by how many points agree; the others keep their order."""
    query = _points(picture)
    if query is None:
        return hits
    agreeing = []
    for hit in hits:
        points = _points(hit.item.path)
        agreeing.append(0 if points is None else reranking.inliers(query, points))
    return [hits[at] for at in np.argsort(-np.array(agreeing), kind="stable")]


def _points(picture: str) -> reranking.Points | None:
    with contextlib.suppress(images.ImageError):
        return reranking.Points(images.decode(picture)) if picture else None
    return None


@dataclass(frozen=True)
class Scores:
    """Per query, arrays (n,) or (n, levels) in 0..1.

    recalled (n, 3): a result of the query's label among the first 1, 5, 10. f1: of the first 10 results, see below.
    n_relevant: rows of the query's label that are not its own.
    """

    recalled: np.ndarray
    f1: np.ndarray
    n_relevant: np.ndarray


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


def by_image(values: np.ndarray, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
    """Return the totals (n_image,) of per-query values (n,) by source image, and the number of queries of each image."""
    codes = np.unique(["\0".join(item.sample) for item in items], return_inverse=True)[1]
    return np.bincount(codes, values), np.bincount(codes)


def gain(new: np.ndarray, old: np.ndarray, items: Sequence[Item]) -> statistics.PairedComparison:
    """Return the paired difference of per-query values (n,), by source image."""
    difference, size = by_image(new - old, items)
    return statistics.paired_comparison(difference[None], size)


def latency(
    gallery: Gallery, queries: Queries, k: int, *, method: str = "none", candidates: int | None = None, n: int = 50
) -> np.ndarray:
    """Return the seconds of up to n single queries, evenly spaced, the first of which was run before to warm up."""
    rows = np.unique(np.linspace(0, len(queries) - 1, min(n, len(queries))).astype(int)).tolist()
    seconds = []
    for row in [rows[0], *rows]:
        started = time.perf_counter()
        retrieve(gallery, queries.take([row]), k, method=method, candidates=candidates)
        seconds.append(time.perf_counter() - started)
    return np.array(seconds[1:])


def agreement(found: Sequence[Sequence[Hit]], exact: Sequence[Sequence[Hit]]) -> float:
    """Return which share of the exact results was found, in 0..1."""
    shares = []
    for hits, true in zip(found, exact, strict=True):
        wanted = {(hit.item.crop, hit.item.id) for hit in true}
        shares.append(sum((hit.item.crop, hit.item.id) in wanted for hit in hits) / max(1, len(true)))
    return float(np.mean(shares))
