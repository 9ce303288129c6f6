"""Search with the query itself left out of its results, and re-ranking where it is asked for."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import cli
from common.embeddings import EmbeddingSet
from common.messages import UsageError, UserError, warn
from imaging import images
from retrieval import reranking
from retrieval.items import Hit, Item, Items, Queries, References

EXPAND_BY = 10  # rows that a query is moved towards


def _by_shared_neighbours(query: np.ndarray, picture: str, hits: list[Hit]) -> np.ndarray:
    return np.argsort(reranking.k_reciprocal(query, _vectors(hits)), kind="stable")


def _by_matching_keypoints(query: np.ndarray, picture: str, hits: list[Hit]) -> np.ndarray:
    """Put first what shows the same thing in the same shape, by how many keypoints agree; the others keep their order."""
    keypoints = _keypoints(picture)
    if keypoints is None:
        return np.arange(len(hits))
    with ThreadPoolExecutor(cli.cores()) as pool:
        candidates = pool.map(_keypoints, [hit.item.path for hit in hits])
        agreeing = [0 if other is None else reranking.inliers(keypoints, other) for other in candidates]
    return np.argsort(-np.array(agreeing), kind="stable")


class Reranking(NamedTuple):
    """A way to put the first `candidates` results into a better order.

    vectors: it needs those of the results. order: (query (dim,), its picture, results) -> their new order (n,).
    expand: (query (dim,), vectors of the results (n, dim)) -> the vector to search again with. One of both, or neither.
    """

    candidates: int = 0
    vectors: bool = False
    order: Callable[[np.ndarray, str, list[Hit]], np.ndarray] | None = None
    expand: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


RERANKINGS = {
    "none": Reranking(),
    "query_expansion": Reranking(EXPAND_BY, vectors=True, expand=reranking.expand_query),
    "k_reciprocal": Reranking(200, vectors=True, order=_by_shared_neighbours),
    "geometric": Reranking(30, order=_by_matching_keypoints),
}


def retrieve(
    references: References,
    queries: Queries,
    k: int,
    *,
    where: Mapping[str, Sequence[str]] | None = None,
    method: str = "none",
    candidates: int | None = None,
    same_sample: bool = False,
) -> list[list[Hit]]:
    """Return up to k results for each query, best first; a query that is among the references is not among its own results.

    method: a name of RERANKINGS, over the first `candidates` (default: its own number). Scores stay those of the search.
    same_sample: leave out all crops of the query's photo too.
    """
    rerank = RERANKINGS[method]
    depth = k if method == "none" else max(k, candidates or rerank.candidates)
    search = functools.partial(_search_others, references, where=where, same_sample=same_sample)
    vectors = references.prepared(queries.vectors)
    results = search(vectors, queries.items, depth, vectors=rerank.vectors)
    if rerank.expand:
        moved = [
            rerank.expand(query, _vectors(hits[:EXPAND_BY])) if hits else query
            for query, hits in zip(vectors, results, strict=True)
        ]
        return search(np.stack(moved), queries.items, k)
    if rerank.order:
        rows = zip(vectors, queries.pictures, results, strict=True)
        return [
            [hits[place] for place in rerank.order(query, picture, hits)[:k]] if hits else []
            for query, picture, hits in rows
        ]
    return results


def score_name(method: str, metric: str) -> str:
    """Return what the results' scores are called: `score`, by which they are ranked, else the search's own, such as `cosine`."""
    return metric.lower() if RERANKINGS[method].order else "score"


def _vectors(hits: Sequence[Hit]) -> np.ndarray:
    return np.stack([hit.vector for hit in hits if hit.vector is not None])


def _search_others(
    references: References,
    queries: np.ndarray,
    items: Sequence[Item | None],
    k: int,
    *,
    where: Mapping[str, Sequence[str]] | None,
    same_sample: bool,
    vectors: bool = False,
) -> list[list[Hit]]:
    """Search for k rows that are not the query's own: for a few more than k, and for twice as many while that is not enough."""

    def is_own(item: Item, hit: Hit) -> bool:
        return hit.item.sample == item.sample if same_sample else hit.item.crop == item.crop

    results: list[list[Hit]] = [[] for _ in items]
    unfinished = list(range(len(items)))
    depth = k if all(item is None for item in items) else k + references.n_views
    while unfinished:
        n = min(depth, len(references))
        searched = references.search(queries[unfinished], n, where, vectors=vectors, ready=True)
        for number, hits in zip(unfinished, searched, strict=True):
            item = items[number]
            results[number] = [hit for hit in hits if item is None or not is_own(item, hit)][:k]
        exhausted = {number for number, hits in zip(unfinished, searched, strict=True) if len(hits) < depth}
        unfinished = [number for number in unfinished if len(results[number]) < k and number not in exhausted]
        depth *= 2
    return results


@functools.lru_cache(maxsize=512)  # half a megabyte each; the same candidates come back from query to query
def _keypoints(picture: str) -> reranking.Keypoints | None:
    with contextlib.suppress(images.ImageError):
        return reranking.Keypoints(images.decode(picture)) if picture else None
    return None


def labelled(sets: Sequence[EmbeddingSet], data_root: str | None) -> tuple[Queries, list[Item]]:
    """Return the rows that have a label as queries, and their items. Raises UserError when none has."""
    rows_of_sets = [Items(embedding_set, data_root) for embedding_set in sets]
    items = [rows[row] for rows in rows_of_sets for row in range(len(rows))]
    vectors = np.concatenate([np.asarray(embedding_set.vectors) for embedding_set in sets])
    kept = [row for row, item in enumerate(items) if item.label]
    if not kept:
        raise UserError(f"{sets[0].source} has no labels: there is nothing to score; name labelled queries")
    if len(kept) < len(items):
        warn(f"{len(items) - len(kept):,} of {len(items):,} queries have no label and are left out")
    return Queries(vectors, [item.path for item in items], items).take(kept), [items[row] for row in kept]


def true_labels(references: References, pictures: Sequence[Path], given: Sequence[str] | None) -> list[str | None]:
    """Return each picture's own label, None where unknown: as given, else the longest end of its folder's path that is a label."""
    if given:
        if len(given) not in (1, len(pictures)):
            raise UsageError(f"--true_label needs one label, or one for each of the {len(pictures)} images")
        return [*given] * (len(pictures) // len(given))
    endings = []
    for picture in pictures:
        folders = picture.resolve().parts[1:-1][-6:]
        endings.append(["/".join(folders[start:]) for start in range(len(folders))])
    counts = references.label_counts({ending for of_picture in endings for ending in of_picture})
    return [next((ending for ending in of_picture if ending in counts), None) for of_picture in endings]
