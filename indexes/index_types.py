"""The index types of Milvus: their parameters and options, and the memory and disk that an index of N rows needs."""

from __future__ import annotations

import contextlib
import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from common import cli
from common.messages import UsageError, table
from retrieval.options import add_set_options

METRICS = ("COSINE", "IP", "L2")
TEXT = 250  # bytes of names, labels and paths of a row, in memory; on disk they shrink to about a third
EXACT = 200_000  # rows up to which reading every vector is the best choice
GRAPH = 20_000_000  # rows up to which a graph in memory is
MEMORY = 64 * 2**30  # bytes of memory that one query node is taken to have

Params = dict[str, int]


def _nothing(*_: object) -> Params:
    return {}


@dataclass(frozen=True)
class IndexType:
    """What Milvus calls an index type.

    params: build parameters with their lowest and highest value; defaults: (rows) -> their values.
    search_param: the parameter of a search that trades recall for time, '' where there is none; search_defaults: (build
    parameters, k) -> its value; widest: (build parameters, rows) -> the value at which a search misses least.
    number_bytes: bytes of one number of a vector; extra_bytes: (build parameters, rows, dim) -> bytes a row besides.
    keeps_vectors: whether Milvus keeps the vectors on disk beside the index.
    """

    params: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    defaults: Callable[[int], Params] = _nothing
    search_param: str = ""
    search_defaults: Callable[[Mapping[str, int], int], Params] = _nothing
    widest: Callable[[Mapping[str, int], int], int] = lambda params, rows: 0
    number_bytes: int = 4
    extra_bytes: Callable[[Params, int, int], float] = lambda params, rows, dim: 0.0
    keeps_vectors: bool = True


def _inverted_file(number_bytes: int) -> IndexType:
    """Return an index of lists: 4 sqrt(n) of them (faiss's guideline), a sixteenth of which is searched.

    Bytes besides the vector: 8 for the row's number, and 4 dim for each list's centre.
    """

    def defaults(n: int) -> Params:
        return {"nlist": int(min(65_536, max(1, 4 * math.sqrt(n), min(n, 8))))}

    def search_defaults(params: Mapping[str, int], k: int) -> Params:
        return {"nprobe": max(min(16, params["nlist"]), params["nlist"] // 16)}

    return IndexType(
        params={"nlist": (1, 65_536)},
        defaults=defaults,
        search_param="nprobe",
        search_defaults=search_defaults,
        widest=lambda params, rows: params["nlist"],
        number_bytes=number_bytes,
        extra_bytes=lambda params, n, dim: 8 + params["nlist"] * 4 * dim / n,
    )


_GRAPH = IndexType(  # 4 bytes for each of 2 M links at the lowest level, and M at the 1 / (M - 1) rows that reach the levels above
    params={"M": (2, 2048), "efConstruction": (2, 32_768)},
    defaults=lambda n: {"M": 16, "efConstruction": 200},
    search_param="ef",
    search_defaults=lambda params, k: {"ef": max(128, 2 * k)},
    widest=lambda params, rows: min(32_768, rows),
    extra_bytes=lambda params, n, dim: 4 * params["M"] * (2 + 1 / (params["M"] - 1)),
)

INDEX_TYPES = {
    "FLAT": IndexType(keeps_vectors=False),
    "IVF_FLAT": _inverted_file(number_bytes=4),
    "IVF_SQ8": _inverted_file(number_bytes=1),
    "HNSW": _GRAPH,
}
SEARCH_PARAMS = {"nprobe": (1, 65_536), "ef": (1, 32_768)}  # with their lowest and highest value


def parse_params(option: str, words: Sequence[str], limits: Mapping[str, tuple[int, int]]) -> Params:
    """Return {"nlist": 1024} of ["nlist=1024"]. Raises UsageError for an unknown name and for a value beyond its limits."""
    params = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in limits or not text.isdecimal():
            raise UsageError(f"{option} {word}: write NAME=NUMBER with {' or '.join(limits) or 'no parameter at all'}")
        low, high = limits[name]
        if len(text) > 9 or not low <= int(text) <= high:
            raise UsageError(f"{option} {word}: {name} is from {low} to {high}")
        params[name] = int(text)
    return params


@dataclass(frozen=True)
class Plan:
    """One way to index the rows; `memory` and `disk` are bytes, `nodes` query nodes of MEMORY, filled to 80 %."""

    index_type: str
    index_params: Params
    search_params: Params
    memory: float
    disk: float
    suggested: bool

    @property
    def nodes(self) -> int:
        return max(1, -(-int(self.memory) // int(0.8 * MEMORY)))


def plans(n: int, dim: int) -> list[Plan]:
    """Return a plan for each index type, one of them suggested."""
    suggested = "FLAT" if n <= EXACT else "HNSW" if n <= GRAPH else "IVF_SQ8"
    result = []
    for name, kind in INDEX_TYPES.items():
        params = kind.defaults(n)
        index = n * (kind.number_bytes * dim + kind.extra_bytes(params, n, dim))
        disk = index + (n * 4 * dim if kind.keeps_vectors else 0) + n * TEXT / 3
        search_params = kind.search_defaults(params, 10)
        result.append(Plan(name, params, search_params, index + n * TEXT, disk, name == suggested))
    return result


def index_size(n_bytes: float) -> str:
    """Return `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if n_bytes >= 100 else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} TiB"


def plan_table(counts: Sequence[int], dim: int) -> str:
    """Return the table of index types for each number of rows."""
    rows = []
    for n in counts:
        for plan in plans(n, dim):
            params, search_params = (
                " ".join(f"{name}={value}" for name, value in values.items()) or "-"
                for values in (plan.index_params, plan.search_params)
            )
            sizes = index_size(plan.memory), index_size(plan.disk)
            mark = "suggested" if plan.suggested else ""
            rows.append([f"{n:,}", plan.index_type, params, search_params, *sizes, plan.nodes, mark])
    header = ["rows", "index", "--index_params", "--search_params", "memory", "disk", "nodes", ""]
    head = f"{dim} dimensions; memory and disk computed from the index layouts, nodes of {index_size(MEMORY)}"
    return f"{head}\n\n{table(header, rows)}"


def add_build_options(parser: ArgumentParser) -> None:
    """Add the options of search.py build."""
    add_set_options(parser, required=True)
    add = parser.add_argument
    add("--index_type", choices=INDEX_TYPES, default="FLAT", help="FLAT is exact; the others trade recall for time")
    params = "nlist (IVF), M, efConstruction (HNSW) (default: by size)"
    add("--index_params", nargs="+", default=[], metavar="NAME=N", help=params)
    add("--metric", choices=METRICS, default="COSINE", help="what nearest means")
    add("--pca", type=cli.whole(1), metavar="N", help="keep N principal components of the vectors")
    add("--batch_size", type=cli.whole(1, 20_000), default=5_000, metavar="N", help="rows sent at once")
    add("--overwrite", action="store_true", help="replace an index made with another model or other options")


def add_info_options(parser: ArgumentParser) -> None:
    """Add the options of search.py info."""
    add = parser.add_argument
    add("--plan", nargs="+", type=_rows, metavar="N", help="what an index of N rows needs: 1M 100M 1B")
    add("--dim", type=cli.whole(1), default=1280, help="dimensions of the vectors, for --plan")
    add("--pca", type=cli.whole(1), metavar="N", help="dimensions after a PCA, for --plan")


def _rows(text: str) -> int:
    """Argparse type: 1M, 250k, 1B or a plain number."""
    factor = {"K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}.get(text[-1:].upper(), 1)
    with contextlib.suppress(ValueError, OverflowError):
        n = int(float(text[:-1] if factor > 1 else text) * factor)
        if n >= 1:
            return n
    raise ArgumentTypeError(f"{text!r} is no number of rows such as 1M")
