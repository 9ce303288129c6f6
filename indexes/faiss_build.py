"""Build an index file of faiss, describe it, delete it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common import files, npz
from common.blocks import Blocks, batches
from common.embeddings import EmbeddingSet
from common.messages import UserError
from indexes.description import Built, IndexDescription, entry_of, new_description, require_same_options, summary
from indexes.faiss_index import TEXTS, open_archive, read_description
from retrieval.items import Item, Items
from retrieval.pca import pca_recall, prepared, principal

BATCH = 20_000  # rows put in at once
TRAINED = 64  # rows a list from which an inverted file learns its lists

# (faiss, dim, metric of faiss, build parameters) -> an empty index
MAKERS: dict[str, Callable[[Any, int, int, Mapping[str, int]], Any]] = {
    "FLAT": lambda faiss, dim, metric, params: faiss.IndexFlat(dim, metric),
    "IVF_FLAT": lambda faiss, dim, metric, params: faiss.IndexIVFFlat(
        faiss.IndexFlat(dim, metric), dim, params["nlist"], metric
    ),
    "IVF_SQ8": lambda faiss, dim, metric, params: faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlat(dim, metric), dim, params["nlist"], faiss.ScalarQuantizer.QT_8bit, metric
    ),
    "HNSW": lambda faiss, dim, metric, params: faiss.IndexHNSWFlat(dim, params["M"], metric),
}


def build(
    path: Path,
    groups: Sequence[Sequence[EmbeddingSet]],
    *,
    index_type: str = "FLAT",
    index_params: Mapping[str, int] | None = None,
    metric: str = "COSINE",
    pca: int | None = None,
    overwrite: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> Built:
    """Write the index of the sets, each a list of its shards; one that holds just these sets already is left alone.

    Of rows of one dataset, split, crop and ID the last stays. Raises UserError where the file was made with another model or other
    options, or holds a set that is not named now, unless `overwrite`.
    """
    import faiss

    sets = [shard for group in groups for shard in group]
    old = None if overwrite or not path.exists() else read_description(open_archive(path))
    description = new_description(sets, old, index_type, index_params or {}, metric, pca)
    description = replace(description, sets=tuple(entry_of(shards) for shards in groups))
    if old is not None:
        require_same_options(str(path), old, description)
        gone = {entry.names for entry in old.sets} - {entry.names for entry in description.sets}
        if gone:
            named = "; ".join(" ".join(filter(None, names)) for names in sorted(gone))
            raise UserError(f"{path} holds also {named}; name their files too, or replace it with --overwrite")
        if set(old.sets) == set(description.sets):
            advance(sum(map(len, sets)))
            return Built(0, len(old.sets), len(open_archive(path).read("set")), None)
    directions = None if pca is None else principal(sets, pca)
    columns, rows_of_set = _columns(groups)
    index = _fill(sets, description, directions, columns["row"], advance)
    arrays = {
        "set": rows_of_set,
        **{name: columns[name] for name in TEXTS},
        **({} if directions is None else {"pca": directions}),
        "meta": np.array(description.to_json()),
        "faiss": faiss.serialize_index(index),
    }
    with files.whole(path) as temporary, open(temporary, "wb") as file:
        npz.write(file, arrays)
    recall = None if directions is None else pca_recall(sets, directions)
    return Built(index.ntotal, 0, index.ntotal, recall)


def _columns(groups: Sequence[Sequence[EmbeddingSet]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return (the texts of the rows that stay, and their `row` among those of all sets; the number of the set of each)."""
    last: dict[tuple[int, str], tuple[int, Item]] = {}
    numbers: dict[tuple[str, str, str], int] = {}
    row = 0
    for shards in groups:
        for shard in shards:
            items = Items(shard)
            for place in range(len(items)):
                item = items[place]
                number = numbers.setdefault((item.dataset, item.split, item.id), len(numbers))
                last[number, item.crop_id] = row, item
                row += 1
    stay = sorted((row, number, item) for (number, _), (row, item) in last.items())
    columns = {name: np.array([getattr(item, name) for _, _, item in stay], str) for name in TEXTS}
    columns["row"] = np.array([row for row, _, _ in stay], np.int64)
    return columns, np.array([number for _, number, _ in stay], np.int32)


def _fill(
    sets: Sequence[EmbeddingSet],
    description: IndexDescription,
    directions: np.ndarray | None,
    rows: np.ndarray,
    advance: Callable[[int], object],
) -> Any:
    """Return faiss's index of these rows of the sets, in their order."""
    import faiss

    metric = faiss.METRIC_L2 if description.metric == "L2" else faiss.METRIC_INNER_PRODUCT
    index = MAKERS[description.index_type](faiss, description.dim, metric, description.index_params)
    matrix = Blocks([block for embedding_set in sets for block in embedding_set.blocks])
    if description.index_type == "HNSW":
        index.hnsw.efConstruction = description.index_params["efConstruction"]
    if not index.is_trained:
        index.cp.min_points_per_centroid = 1  # says nothing of few rows
        n = min(len(rows), TRAINED * description.index_params["nlist"])
        sample = np.sort(np.random.default_rng(0).choice(rows, n, replace=False))
        index.train(prepared(matrix[sample], description.metric, directions))
    for batch in batches(len(rows), BATCH):
        index.add(np.ascontiguousarray(prepared(matrix[rows[batch]], description.metric, directions)))
        advance(batch.stop - batch.start)
    return index


def describe(path: Path) -> list[str]:
    """Return lines that say what an index file holds."""
    archive = open_archive(path)
    return summary(read_description(archive), str(path), len(archive.read("set")))


def delete(path: Path) -> int:
    """Remove an index file; returns its number of rows. Raises UserError for a file that is none."""
    archive = open_archive(path)
    read_description(archive)
    rows = len(archive.read("set"))
    path.unlink()
    return rows
