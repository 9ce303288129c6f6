"""A finished Milvus index behind the interface of exact search, and what an index of N rows would need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common import messages
from common.messages import UserError, warn
from indexes.milvus_build import default_params, directions_of, key_of, missing, prepared, search_params
from indexes.milvus_store import INDEX_PARAMS, Store
from retrieval.items import Hit, Item

TEXT = 250  # bytes of names, labels and paths of a row, in memory; on disk they shrink to about a third
EXACT, GRAPH = (
    200_000,
    20_000_000,
)  # rows up to which reading every vector, and a graph in memory, are the better choice
MEMORY = 64 * 2**30  # bytes of memory that one query node is taken to have


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


@dataclass(frozen=True)
class Plan:
    """One way to index the rows; `memory` and `disk` are bytes, `nodes` query nodes of MEMORY, filled to 80 %."""

    index_type: str
    index_params: dict[str, int]
    search_params: dict[str, int]
    memory: float
    disk: float
    suggested: bool

    @property
    def nodes(self) -> int:
        return max(1, -(-int(self.memory) // int(0.8 * MEMORY)))


def plans(n: int, dim: int) -> list[Plan]:
    """Return a plan for each index type, one of them suggested.

    Bytes a row: FLAT and IVF_FLAT 4 dim; IVF_SQ8 dim; IVF 8 more for the row's number, and 4 dim for each list's centre; HNSW 4
    dim and 4 for each of 2 M links at the lowest level and M at the 1 / (M - 1) rows that reach the levels above. Milvus keeps the
    vectors on disk beside the index.
    """
    choice = "FLAT" if n <= EXACT else "HNSW" if n <= GRAPH else "IVF_SQ8"
    found = []
    for kind in INDEX_PARAMS:
        params = default_params(kind, n)
        vector = float(dim if kind == "IVF_SQ8" else 4 * dim)
        extra = 0.0
        if kind == "HNSW":
            extra = 4 * params["M"] * (2 + 1 / (params["M"] - 1))
        elif kind != "FLAT":
            extra = 8 + params["nlist"] * 4 * dim / n
        index = n * (vector + extra)
        raw = 0 if kind == "FLAT" else n * 4 * dim
        disk = index + raw + n * TEXT / 3
        found.append(Plan(kind, params, search_params(kind, params, 10), index + n * TEXT, disk, kind == choice))
    return found


def index_size(n_bytes: float) -> str:
    """Return `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} TiB"


def plan_table(counts: Sequence[int], dim: int) -> str:
    """Return the table of index types for each number of rows."""
    rows = []
    for n in counts:
        for plan in plans(n, dim):
            both = (
                " ".join(f"{key}={value}" for key, value in each.items()) or "-"
                for each in (plan.index_params, plan.search_params)
            )
            mark = "suggested" if plan.suggested else ""
            rows.append(
                [f"{n:,}", plan.index_type, *both, index_size(plan.memory), index_size(plan.disk), plan.nodes, mark]
            )
    header = ["rows", "index", "--index_params", "--search_params", "memory", "disk", "nodes", ""]
    about = f"{dim} dimensions; memory and disk computed from the index layouts, nodes of {index_size(MEMORY)}"
    return f"{about}\n\n{messages.table(header, rows)}"
