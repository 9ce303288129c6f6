"""Searching as a user means it: the query left out of its own results, and re-ranked where asked for."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common import cli, images
from common.embeddings import EmbeddingSet
from common.messages import UsageError, UserError, warn
from retrieval import reranking
from retrieval.items import Gallery, Hit, Item, Items, Queries

EXPAND_BY = 10  # rows that a query is moved towards
CANDIDATES = {"none": 0, "query_expansion": EXPAND_BY, "k_reciprocal": 200, "geometric": 30}


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
    with ThreadPoolExecutor(cli.cores()) as pool:
        others = pool.map(_points, [hit.item.path for hit in hits])
        agreeing = [0 if points is None else reranking.inliers(query, points) for points in others]
    return [hits[at] for at in np.argsort(-np.array(agreeing), kind="stable")]


@functools.lru_cache(maxsize=512)  # half a megabyte each; candidates come back from query to query
def _points(picture: str) -> reranking.Points | None:
    with contextlib.suppress(images.ImageError):
        return reranking.Points(images.decode(picture)) if picture else None
    return None


def labelled(sets: Sequence[EmbeddingSet], data_root: str | None) -> tuple[Queries, list[Item]]:
    """Return the rows that have a label as queries, and what each is. Raises UserError when none has."""
    items = [rows[row] for rows in (Items(one, data_root) for one in sets) for row in range(len(rows))]
    vectors = np.concatenate([np.asarray(one.vectors) for one in sets])
    kept = [row for row, item in enumerate(items) if item.label]
    if not kept:
        raise UserError(f"{sets[0].source} has no labels: there is nothing to score; name labelled queries")
    if len(kept) < len(items):
        warn(f"{len(items) - len(kept):,} of {len(items):,} queries have no label and are left out")
    return Queries(vectors, [item.path for item in items], items).take(kept), [items[row] for row in kept]


def true_labels(gallery: Gallery, pictures: Sequence[Path], given: Sequence[str] | None) -> list[str | None]:
    """Return each picture's own label, None where unknown: as given, else the longest end of its folder's path that is a label."""
    if given:
        if len(given) not in (1, len(pictures)):
            raise UsageError(f"--true_label needs one label, or one for each of the {len(pictures)} images")
        return [*given] * (len(pictures) // len(given))
    ends = []
    for picture in pictures:
        folders = picture.resolve().parts[1:-1][-6:]
        ends.append(["/".join(folders[at:]) for at in range(len(folders))])
    known = gallery.label_counts({end for one in ends for end in one})
    return [next((end for end in one if end in known), None) for one in ends]
