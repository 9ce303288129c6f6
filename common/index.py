"""A finished index, searched as a gallery is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from common.cli import UserError, warn
from common.gallery import Hit, Item
from common.indexing import directions_of, key_of, missing, prepared, search_params
from common.vector_store import Store

MOST = 16_384  # rows that Milvus returns for a query at most


class Index:
    """A finished index, searched as a gallery is (see gallery.NpzGallery). `params` are Milvus's search parameters."""

    def __init__(self, store: Store, name: str, *, params: Mapping[str, int] | None = None) -> None:
        about = store.about(name)
        if about is None or "sets" not in about:
            raise missing(store, name)
        self.store, self.name, self.about = store, name, about
        self.model, self.metric, self.dim = about["model"], about["metric"], about["source_dim"]
        self.n_views, self.source = max(1, len(about["sets"])), f"{store.uri} {name}"
        self._params = dict(params or {})
        if about.get("growing"):
            warn(f"{self.source}: an update of this index was interrupted; run the same search.py build again")
        store.load(name)
        self._directions = directions_of(store, about)
        self._rows: int | None = None

    def __len__(self) -> int:
        if self._rows is None:
            self._rows = self.store.count(self.name)
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

        Under a filter an approximate index may lose rows on its way (a graph of which most nodes are barred): where fewer than
        k come back although more pass, the search is widened until they do.
        """
        where = where or {}
        kind, k = self.about["index_type"], min(k, MOST)
        params = {**search_params(kind, self.about["index_params"], k), **self._params}
        these = queries if ready else self.prepared(queries)
        found = []
        for at in range(0, len(these), 100):
            found += self.store.search(self.name, these[at : at + 100], k, where, params, vectors=vectors)
        short = [at for at, hits in enumerate(found) if len(hits) < k]
        if short and kind != "FLAT":
            there = min(k, self.store.count(self.name, where))
            name = "ef" if kind == "HNSW" else "nprobe"
            most = min(32_768, len(self)) if kind == "HNSW" else self.about["index_params"]["nlist"]
            while (short := [at for at in short if len(found[at]) < there]) and params[name] < most:
                params[name] = min(most, 8 * params[name])
                again = self.store.search(self.name, these[short], k, where, params, vectors=vectors)
                for at, hits in zip(short, again, strict=True):
                    found[at] = hits
        return found

    def prepared(self, queries: np.ndarray) -> np.ndarray:
        """Return the queries as the vectors of hits are: projected where the index has a PCA."""
        return prepared(queries, self.about, self._directions)

    def label_counts(self, labels: Iterable[str]) -> dict[str, int]:
        """Return how many rows have exactly each of these labels; those without any are left out."""
        counts = {label: self.store.count(self.name, {"exactly": [label]}) for label in set(labels) if label}
        return {label: count for label, count in counts.items() if count}

    def own_counts(self, queries: Sequence[Item], *, same_sample: bool = False) -> np.ndarray:
        """Return (n,) how many rows are the query's own crop, at any ID."""
        if same_sample:
            raise UserError(f"{self.source}: an index does not count the rows of a source image; evaluate over --npz")
        sets = {tuple(entry[:3]) for entry in self.about["sets"]}
        keys = [
            [key_of(one._replace(id=i)) for d, s, i in sets if (d, s) == (one.dataset, one.split)] for one in queries
        ]
        return np.array([self.store.count_keys(self.name, mine) for mine in keys], int)
