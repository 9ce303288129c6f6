"""Exact search over the rows of embedding sets, read from memory-mapped .npz files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from common import knn
from common.blocks import Blocks
from common.embedding_sets import require_one_model
from common.embeddings import EmbeddingSet
from retrieval.items import Hit, Item, Items

FEW = 16  # queries up to which knn.search_one, query by query, is faster than one matrix product


class ExactSearch:
    """Embedding sets searched exactly by cosine; `sets` are of one model, their vectors may be memory maps.

    Attributes: those of items.References.
    """

    metric = "COSINE"

    def __init__(self, sets: Sequence[EmbeddingSet], *, data_root: str | os.PathLike | None = None) -> None:
        self.model = require_one_model(sets, what="search sets of one model")
        names = [embedding_set.source for embedding_set in sets]
        self.source = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        self.dim, self.n_views = sets[0].dim, len(sets)
        self._items = [Items(embedding_set, data_root) for embedding_set in sets]
        self._starts = np.cumsum([0, *map(len, sets)])
        self._blocks = [block for embedding_set in sets for block in embedding_set.blocks]
        self._rows_kept: tuple[str, np.ndarray] | None = None  # the last filter and its rows

    def __len__(self) -> int:
        return int(self._starts[-1])

    def item(self, row: int) -> Item:
        """Return one row's item."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._items[number][row - int(self._starts[number])]

    def search(
        self,
        queries: np.ndarray,
        k: int,
        where: Mapping[str, Sequence[str]] | None = None,
        *,
        vectors: bool = False,
        ready: bool = False,
    ) -> list[list[Hit]]:
        """Return for each row of (n, dim) the min(k, rows that pass) nearest rows; equal scores by row number, as knn.search.

        where: {"dataset" | "split" | "label": values, of which a row must have one}; a label stands for those below it too.
        """
        similarities, indices = self._neighbours(queries, min(k, len(self)), where or {})
        results = []
        for scores, rows in zip(similarities, indices, strict=True):
            rows = rows[rows >= 0]
            found_vectors = list(Blocks(self._blocks)[rows]) if vectors else [None] * len(rows)
            columns = zip(scores[: len(rows)].tolist(), rows.tolist(), found_vectors, strict=True)
            results.append([Hit(score, self.item(row), vector) for score, row, vector in columns])
        return results

    def _neighbours(self, queries: np.ndarray, k: int, where: Mapping[str, Sequence[str]]) -> knn.Neighbours:
        if not len(queries):
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        kept = self._passing(where) if where else None
        if len(queries) <= FEW:
            parts = [knn.search_one(query[None], self._blocks, k, self._inverse_norms, kept) for query in queries]
            return np.concatenate([s for s, _ in parts]), np.concatenate([r for _, r in parts])
        if kept is None:
            return knn.search(queries, self._blocks, k)
        groups = np.where(kept, 1, 0)  # a query of group 0 leaves out the rows of group 0
        return knn.search_excluding(queries, self._blocks, k, np.zeros(len(queries), np.int64), groups)

    @cached_property
    def _inverse_norms(self) -> np.ndarray:
        return knn.inverse_norms(self._blocks)

    def _passing(self, where: Mapping[str, Sequence[str]]) -> np.ndarray:
        """Return (n,) bool: the rows that pass the filters."""
        key = repr(sorted(where.items()))
        if self._rows_kept is None or self._rows_kept[0] != key:
            self._rows_kept = key, np.concatenate([passing(items, where) for items in self._items])
        return self._rows_kept[1]

    def prepared(self, queries: np.ndarray) -> np.ndarray:
        """Return the queries as the vectors of hits are: unchanged."""
        return queries

    def label_counts(self, labels: Iterable[str]) -> dict[str, int]:
        """Return how many rows have exactly each of these labels; those without any are left out."""
        names, counts = np.unique(np.concatenate([items.label for items in self._items]), return_counts=True)
        count_of = dict(zip(names.tolist(), counts.tolist(), strict=True))
        return {label: count_of[label] for label in labels if label and label in count_of}

    def own_counts(self, queries: Sequence[Item], *, same_sample: bool = False) -> np.ndarray:
        """Return (n,) how many rows of the query's label are its own crop at any ID, or cut from its own photo."""
        key = (lambda item: (item.sample, item.label)) if same_sample else (lambda item: (item.crop, item.label))
        count_of = Counter(key(items[row]) for items in self._items for row in range(len(items)))
        return np.array([count_of[key(item)] for item in queries], int)


def passing(items: Items, where: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return (n,) bool: which rows of one set pass the filters of ExactSearch.search."""
    kept = np.ones(len(items), bool)
    for name, values in where.items():
        if name == "label":
            below = [(items.label == value) | np.char.startswith(items.label, f"{value}/") for value in values]
            kept &= np.logical_or.reduce(below)
        elif len(items):
            kept &= getattr(items[0], name) in values
    return kept
