"""Exact search over the rows of embedding sets, read from memory-mapped .npz files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from common import knn
from common.blocks import Blocks
from common.embedding_sets import require_one_model
from common.embeddings import EmbeddingSet
from retrieval.items import Hit, Item, Items

FILTERS = ("dataset", "split", "label")
FEW = 16  # queries up to which going through the rows once is faster than making them ready for a matrix product
CHUNK = 2**16  # rows looked at at once


class NpzGallery:
    """Embedding sets searched exactly by cosine; `sets` are of one model, their vectors may be memory maps.

    Attributes: model (see require_one_model), dim, n_views (rows that one crop may have), metric.
    """

    metric = "COSINE"

    def __init__(self, sets: Sequence[EmbeddingSet], *, data_root: str | os.PathLike | None = None) -> None:
        self.model = require_one_model(sets, what="search sets of one model")
        self.source = ", ".join(one.source for one in sets[:3]) + (" …" if len(sets) > 3 else "")
        self._items = [Items(one, data_root) for one in sets]
        self._starts = np.cumsum([0, *map(len, sets)])
        self._blocks = [block for one in sets for block in one.blocks]
        self._matrix = Blocks(self._blocks)
        self._inverse_norms: np.ndarray | None = None
        self._masks: dict[str, np.ndarray] = {}
        self.dim, self.n_views = sets[0].dim, len(sets)

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
        """Return for each row of (n, dim) the min(k, rows that pass) nearest rows, ties by their order: as knn.search does."""
        similarities, rows = self._search(queries, min(k, len(self)), where or {})
        found = []
        for scores, mine in zip(similarities, rows, strict=True):
            mine = mine[mine >= 0]
            taken = list(self._matrix[mine]) if vectors else [None] * len(mine)
            found.append(
                [Hit(float(s), self.item(int(r)), v) for s, r, v in zip(scores[: len(mine)], mine, taken, strict=True)]
            )
        return found

    def _search(self, queries: np.ndarray, k: int, where: Mapping[str, Sequence[str]]) -> knn.Neighbours:
        if not len(queries):
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        mask = self._mask(where) if where else None
        if len(queries) <= FEW:
            parts = [self._search_one(query[None], k, mask) for query in queries]
            return np.concatenate([s for s, _ in parts]), np.concatenate([r for _, r in parts])
        if mask is None:
            return knn.search(queries, self._blocks, k)
        groups = np.where(mask, 1, 0)  # a query of group 0 leaves out the rows of group 0
        return knn.search_excluding(queries, self._blocks, k, np.zeros(len(queries), np.int64), groups)

    def _search_one(self, query: np.ndarray, k: int, mask: np.ndarray | None) -> knn.Neighbours:
        """Return what knn.search says for one query (1, dim), from rows that are read once and copied nowhere.

        A product of float32 rows with the query, divided by their norms, is off by at most dim 2^-23 plus a few roundings from
        knn's score (its module says why). So all rows within twice that of the k-th best are candidates, and knn scores them.
        """
        unit = knn.unit(query)[0]
        error = self.dim * 2.0**-22 + 2.0**-20
        inverse = self._norms()
        best: np.ndarray = np.empty(0, np.float32)
        kept: list[tuple[np.ndarray, np.ndarray]] = []
        start = 0
        for block in self._blocks:
            for at in range(0, len(block), CHUNK):
                part = block[at : at + CHUNK]
                here = slice(start + at, start + at + len(part))
                scores = (part @ unit) * inverse[here]
                if mask is not None:
                    scores[~mask[here]] = -np.inf
                best = np.concatenate([best, scores])
                if len(best) > k:
                    best = np.partition(best, len(best) - k)[len(best) - k :]
                rows = np.flatnonzero(scores >= (best.min() if len(best) == k else -np.inf) - 2 * error)
                rows = rows[scores[rows] > -np.inf]
                kept.append((scores[rows], here.start + rows))
            start += len(block)
        scores, rows = (np.concatenate(column) for column in zip(*kept, strict=True))
        if mask is not None:
            best = best[best > -np.inf]
        rows = rows[scores >= best.min(initial=np.inf) - 2 * error]
        similarities = np.full((1, k), -np.inf, np.float32)
        indices = np.full((1, k), -1, np.int64)
        if len(rows):
            n = min(k, len(rows))
            similarities[:, :n], places = knn.search(query, self._matrix[rows], n)
            indices[:, :n] = rows[places]
        return similarities, indices

    def _norms(self) -> np.ndarray:
        if self._inverse_norms is None:
            parts = [
                np.linalg.norm(block[at : at + CHUNK].astype(np.float64), axis=1)
                for block in self._blocks
                for at in range(0, len(block), CHUNK)
            ]
            self._inverse_norms = (1 / np.concatenate(parts)).astype(np.float32)
        return self._inverse_norms

    def _mask(self, where: Mapping[str, Sequence[str]]) -> np.ndarray:
        key = repr(sorted(where.items()))
        if key not in self._masks:
            parts = []
            for rows in self._items:
                own = np.ones(len(rows), bool)
                for name, values in where.items():
                    if name == "label":
                        hit = [(rows.label == v) | np.char.startswith(rows.label, f"{v}/") for v in values]
                        own &= np.logical_or.reduce(hit)
                    elif len(rows):
                        own &= getattr(rows[0], name) in values
                parts.append(own)
            self._masks = {key: np.concatenate(parts)}
        return self._masks[key]

    def prepared(self, queries: np.ndarray) -> np.ndarray:
        """Return the queries as the vectors of hits are."""
        return queries

    def label_counts(self, labels: Iterable[str]) -> dict[str, int]:
        """Return how many rows have exactly each of these labels; those without any are left out."""
        names, counts = np.unique(np.concatenate([rows.label for rows in self._items]), return_counts=True)
        known = dict(zip(names.tolist(), counts.tolist(), strict=True))
        return {label: known[label] for label in labels if label and label in known}

    def own_counts(self, queries: Sequence[Item], *, same_sample: bool = False) -> np.ndarray:
        """Return (n,) how many rows of the query's label are its own crop at any ID, or cut from its own source image."""
        key = (lambda item: (item.sample, item.label)) if same_sample else (lambda item: (item.crop, item.label))
        there = Counter(key(rows[row]) for rows in self._items for row in range(len(rows)))
        return np.array([there[key(item)] for item in queries], int)
