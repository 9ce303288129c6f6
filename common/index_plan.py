"""What an index of N rows needs: memory, disk, parameters. Computed from the layouts of the index types, nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common import cli
from common.indexing import default_params, search_params
from common.vector_store import INDEX_PARAMS

TEXT = 250  # bytes of names, labels and paths of a row, in memory; on disk they shrink to about a third
EXACT, GRAPH = (
    200_000,
    20_000_000,
)  # rows up to which reading every vector, and a graph in memory, are the better choice
MEMORY = 64 * 2**30  # bytes of memory that one query node is taken to have


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


def size(n_bytes: float) -> str:
    """Return `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} TiB"


def table(counts: Sequence[int], dim: int) -> str:
    """Return the table of index types for each number of rows."""
    rows = []
    for n in counts:
        for plan in plans(n, dim):
            both = (
                " ".join(f"{key}={value}" for key, value in each.items()) or "-"
                for each in (plan.index_params, plan.search_params)
            )
            mark = "suggested" if plan.suggested else ""
            rows.append([f"{n:,}", plan.index_type, *both, size(plan.memory), size(plan.disk), plan.nodes, mark])
    header = ["rows", "index", "--index_params", "--search_params", "memory", "disk", "nodes", ""]
    about = f"{dim} dimensions; memory and disk computed from the index layouts, nodes of {size(MEMORY)}"
    return f"{about}\n\n{cli.table(header, rows)}"
