"""A finished Milvus index, searched as exact search is (retrieval/items.py says what that offers)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from common.blocks import batches
from common.messages import UserError, warn
from indexes.description import key_of
from indexes.index_types import INDEX_TYPES
from indexes.milvus_build import directions_of, missing
from indexes.milvus_store import MilvusCollection, MilvusStore
from retrieval.items import Hit, Item
from retrieval.pca import prepared

MOST = 16_384  # rows that Milvus returns for a query at most
QUERIES = 100  # sent at once


class MilvusIndex:
    """A finished index. `params` are Milvus's search parameters. Attributes: those of retrieval.items.References."""

    def __init__(self, store: MilvusStore, name: str, *, params: Mapping[str, int] | None = None) -> None:
        description = store.description(name)
        if description is None:
            raise missing(store, name)
        self.description, self.source = description, f"{store.uri} {name}"
        self.model, self.metric, self.dim = description.model, description.metric, description.source_dim
        self.n_views = max(1, len(description.sets))
        self._params = dict(params or {})
        if description.growing:
            warn(f"{self.source}: an update of this index was interrupted; run the same search.py build again")
        store.load(name)
        self._directions = directions_of(store, description)
        self._collection = MilvusCollection(store, name)
        self._rows: int | None = None

    def __len__(self) -> int:
        if self._rows is None:
            self._rows = self._collection.count()
        return self._rows

    def search(
        self,
        queries: np.ndarray,
        k: int,
        where: Mapping[str, Sequence[str]] | None = None,
        *,
        vectors: bool = False,
        ready: bool = False,
    ) -> list[list[Hit]]:
        """Return for each row of (n, dim) up to k nearest rows that pass the filters; their vectors as the index holds them.

        `ready`: the queries are what `prepared` returns.

        Under a filter an approximate index may lose rows (a graph of which most nodes are barred): where fewer than k come
        back although more pass, the search is widened until they do.
        """
        where, k = where or {}, min(k, MOST)
        kind, build_params = INDEX_TYPES[self.description.index_type], self.description.index_params
        params = {**kind.search_defaults(build_params, k), **self._params}
        queries = queries if ready else self.prepared(queries)
        results: list[list[Hit]] = []
        for batch in batches(len(queries), QUERIES):
            results += self._collection.search(queries[batch], k, where, params, vectors=vectors)
        short = [number for number, hits in enumerate(results) if len(hits) < k]
        if short and kind.search_param:
            passing = min(k, self._collection.count(where))
            widest = kind.widest(build_params, len(self))
            while params[kind.search_param] < widest:
                short = [number for number in short if len(results[number]) < passing]
                if not short:
                    break
                params[kind.search_param] = min(widest, 8 * params[kind.search_param])
                again = self._collection.search(queries[short], k, where, params, vectors=vectors)
                for number, hits in zip(short, again, strict=True):
                    results[number] = hits
        return results

    def prepared(self, queries: np.ndarray) -> np.ndarray:
        """Return the queries as the vectors of hits are: projected where the index has a PCA."""
        return prepared(queries, self.metric, self._directions)

    def label_counts(self, labels: Iterable[str]) -> dict[str, int]:
        """Return how many rows have exactly each of these labels; those without any are left out."""
        counts = {label: self._collection.count({"exactly": [label]}) for label in set(labels) if label}
        return {label: count for label, count in counts.items() if count}

    def own_counts(self, queries: Sequence[Item], *, same_sample: bool = False) -> np.ndarray:
        """Return (n,) how many rows are the query's own crop, at any ID."""
        if same_sample:
            raise UserError(f"{self.source}: an index does not count the rows of a photo; evaluate over --npz")
        names = {entry.names for entry in self.description.sets}
        counts = []
        for item in queries:
            ids = [id for dataset, split, id in names if (dataset, split) == (item.dataset, item.split)]
            counts.append(self._collection.count_keys([key_of(item._replace(id=id)) for id in ids]))
        return np.array(counts, int)
