"""Tasks on a Ray cluster: crops are cut a few images at a time, neighbours are searched piece by piece of the references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from annotations.records import Skipped
from boxes.padding import Padding
from common import files, knn
from common.blocks import Mapped, locate
from cropping import cutter
from ray_cluster.connection import Cluster

QUERY_ROWS, REFERENCE_ROWS = 2**15, (2**14, 2**18)  # rows of a k-NN task, of references at least and at most


def cut_all(
    cluster: Cluster,
    planned: Sequence[cutter.Crop | Skipped],
    folder: Path,
    roots: Mapping[Path, Padding],
    style: cutter.Style,
) -> Generator[tuple[cutter.Image, cutter.Size | str, Counter[Path]], None, None]:
    """Like cutter.cut_all, by tasks of a few images on one CPU each."""
    import ray

    batches = list(cutter.by_image(planned).items())
    size = max(1, min(4, len(batches) // (4 * cluster.cpus)))
    jobs = [batches[at : at + size] for at in range(0, len(batches), size)]
    root_of = {root.resolve(): root for root in roots}  # the nodes may stand in another folder
    paddings = {absolute: roots[root] for absolute, root in root_of.items()}
    cut = ray.remote(num_cpus=1, max_retries=0)(_cut)

    def submit(job: Any) -> Any:
        return cut.remote(job, folder.resolve(), paddings, style)

    for _, outcomes in cluster.stream(jobs, submit, cluster.cpus):
        for image, outcome, written in outcomes:
            yield image, outcome, Counter({root_of[root]: n for root, n in written.items()})
    if cluster.losses:
        for root in roots:  # what was being written when its worker was lost
            files.sweep(root)
    cluster.report()


def _cut(
    batches: Sequence[tuple[cutter.Image, Sequence[cutter.Crop]]],
    folder: Path,
    roots: Mapping[Path, Padding],
    style: cutter.Style,
) -> list[tuple[cutter.Image, cutter.Size | str, Counter[Path]]]:
    """A task: cut these images' crops."""
    import threading

    import cv2

    cv2.setNumThreads(1)
    never = threading.Event()
    return [(image, *cutter.outcome(folder / image[0], crops, roots, style, never)) for image, crops in batches]


def search(
    cluster: Cluster,
    query: knn.Vectors,
    reference: knn.Vectors,
    k: int,
    query_groups: np.ndarray | None = None,
    reference_groups: np.ndarray | None = None,
) -> knn.Neighbours:
    """Like knn.search_excluding: pieces of the references, one task on a node at a time, each result merged as it comes.

    A piece that is mapped from a file is named, not sent: the node that searches it maps it from the shared file system.
    """
    import ray

    queries, references = _blocks(query), _blocks(reference)
    n_query, n_ref = sum(map(len, queries)), sum(map(len, references))
    if not 1 <= k <= n_ref:
        raise ValueError(f"k is {k}; it must be from 1 to the number of references, {n_ref}")
    low, high = REFERENCE_ROWS
    size = max(low, min(high, -(-n_ref // len(cluster.nodes))))
    pieces = list(_pieces(references, size, reference_groups))
    jobs = ((q, r) for q in _pieces(queries, QUERY_ROWS, query_groups) for r in pieces)
    cpus = min(node.cpus for node in cluster.nodes)
    task = ray.remote(num_cpus=cpus, max_retries=0)(_search)
    width = sum(node.cpus // cpus for node in cluster.nodes)
    similarities, indices = np.full((n_query, k), -np.inf, np.float32), np.full((n_query, k), -1, np.int64)

    def submit(job: tuple[_Piece, _Piece]) -> Any:
        query_piece, reference_piece = job
        groups = query_piece.groups, reference_piece.groups
        return task.remote(query_piece.rows, reference_piece.rows, k, *groups)

    for (query_piece, reference_piece), (scores, columns) in cluster.stream(jobs, submit, width):
        rows = slice(query_piece.start, query_piece.start + query_piece.n)
        columns = np.where(columns >= 0, columns + reference_piece.start, -1)
        similarities[rows], indices[rows] = knn.merge([(similarities[rows], indices[rows]), (scores, columns)], k)
    return similarities, indices


def _search(query: Any, reference: Any, k: int, query_groups: Any, reference_groups: Any) -> knn.Neighbours:
    """A task: the neighbours of a piece of the queries in a piece of the references."""
    query, reference = (rows.open() if isinstance(rows, Mapped) else rows for rows in (query, reference))
    return knn.search_excluding(query, reference, min(k, len(reference)), query_groups, reference_groups)


class _Piece(NamedTuple):
    """`n` rows from `start` on; rows: where they are mapped from, or in the object store; groups: their (n,) codes, if any."""

    start: int
    n: int
    rows: Any
    groups: Any


def _pieces(blocks: Sequence[np.ndarray], size: int, groups: np.ndarray | None) -> Iterator[_Piece]:
    import ray

    start = 0
    for block in blocks:
        for at in range(0, len(block), size):
            rows = block[at : at + size]
            row_groups = None if groups is None else groups[start : start + len(rows)]
            yield _Piece(start, len(rows), locate(rows) or ray.put(np.asarray(rows)), row_groups)
            start += len(rows)


def _blocks(vectors: knn.Vectors) -> list[np.ndarray]:
    """Return the shards that knn.search would read, those of one set as they stand."""
    parts: Any = getattr(vectors, "blocks", vectors)
    return [parts] if hasattr(parts, "shape") else list(parts)
