"""Coarse scores: the products of unit rows in bfloat16, where the processor is faster at that, or in float32.

Rows are taken in blocks of bounded size; the memory of a block and of a table of scores is taken once for a whole search.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.blocks import release

if TYPE_CHECKING:
    import torch

Vectors = np.ndarray | Sequence[np.ndarray]
Each = Callable[[Callable[[slice], Any], Iterable[slice]], Iterable[Any]]

BLOCK_ROWS, BLOCK_FLOATS = 2**15, 2**25  # references (and queries) held in unit length at once: at most 128 MiB
TILE = 1024  # queries multiplied with a block of references at once
GROUP, LANES = 32, 64  # a group is up to GROUP columns, LANES apart because neighbouring rows are often alike
LARGE = 10**9  # the smallest number of multiplications for which it is worth to time bfloat16
WORKERS = 8  # cores up to which each searches tiles of its own
SMALL = 2**27  # multiplications below which threads wait for each other longer than they work
CHUNK_FLOATS = 2**21  # numbers scaled to unit length at once: they stay in the processor's cache between steps


class UnitRows(NamedTuple):
    """Unit rows (n, dim) float32, the same in the coarse type and on the device, and |unit - coarse| (n,)."""

    unit: torch.Tensor
    coarse: torch.Tensor
    error: torch.Tensor

    def part(self, rows: Any) -> UnitRows:
        return UnitRows(self.unit[rows], self.coarse[rows], self.error[rows])

    def in_float32(self) -> UnitRows:
        return UnitRows(self.unit, self.unit, self.error * 0)


class Workspace:
    """The memory of one search, taken once: a block of queries, a block of references, for each thread a table of coarse scores.

    Attributes: block_rows (rows of a block), queries and references (memory for one block each), k, workers (threads).
    """

    def __init__(self, n_query: int, n_ref: int, dim: int, k: int, device: str) -> None:
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._multiplications = n_query * n_ref * dim
        large = n_query >= 64 and self._multiplications >= LARGE
        dtype = torch.bfloat16 if device == "cpu" and large and bfloat16_pays() else torch.float32
        self.block_rows, self.k = max(1, min(BLOCK_ROWS, BLOCK_FLOATS // dim)), k
        n_thread = torch.get_num_threads()  # OMP_NUM_THREADS where it is set
        self.workers = n_thread if large and device == "cpu" and n_thread <= WORKERS and _is_main_thread() else 1
        self.queries = empty_rows(min(self.block_rows, n_query), dim, dtype, device)
        self.references = empty_rows(min(self.block_rows, n_ref), dim, dtype, device)
        self._device, self._own = device, threading.local()

    def tiles(self, rows: UnitRows) -> Iterator[slice]:
        """Yield the parts of a block of queries that are multiplied at once."""
        height = max(1, TILE // self.workers)
        return (slice(start, start + height) for start in range(0, len(rows.unit), height))

    @contextlib.contextmanager
    def threads(self) -> Iterator[Each]:
        """Yield a function that calls another one with each of some tiles and returns the list of what it returned.

        On a few cores each thread takes a tile of its own: threads that share a product wait for each other after every step of
        it, at full price, and for long where other programs run beside. With little to multiply there is one thread for all,
        for the same reason.
        """
        small = self._multiplications < SMALL
        if self.workers > 1 and not small:
            with one_thread(), ThreadPoolExecutor(self.workers) as pool:
                yield lambda search, tiles: list(pool.map(search, tiles))
        else:
            with one_thread(blas=False) if small else contextlib.nullcontext():
                yield lambda search, tiles: [search(tile) for tile in tiles]

    def scores(self, queries: UnitRows, references: UnitRows, excluded: np.ndarray | None) -> CoarseScores:
        """Return the coarse scores of queries and references, valid until the next call.

        -inf where `excluded`, (n_query, any number of first columns) bool.
        """
        import torch

        shape = n_query, n_ref = len(queries.unit), len(references.unit)
        height, width = (math.prod(groups_of(n, self.k)) for n in shape)
        memory = getattr(self._own, "table", None)
        if memory is None or len(memory) < height * width:
            memory = self._own.table = torch.empty(height * width, device=self._device)
        table = memory.view(queries.coarse.dtype)[: height * width].view(height, width)
        multiply(queries.coarse, references.coarse, table[:n_query, :n_ref])
        table[n_query:], table[:, n_ref:] = -torch.inf, -torch.inf
        if excluded is not None:
            table[:n_query, : excluded.shape[1]].masked_fill_(torch.from_numpy(excluded).to(table.device), -torch.inf)
        return CoarseScores(table, shape, self.k)


class CoarseScores(NamedTuple):
    """Coarse scores (height, width), of which (n_query, n_ref) count and the rest is -inf, cut into groups both ways."""

    table: torch.Tensor
    shape: tuple[int, int]
    k: int

    def of_queries(self) -> torch.Tensor:
        """Return (n_query, tiles, group, LANES): for each query the references, in groups LANES apart."""
        n_query, n_ref = self.shape
        return self.table[:n_query].view(n_query, *groups_of(n_ref, self.k))

    def of_references(self, start: int) -> torch.Tensor:
        """Return (n_ref - start, tiles, group, LANES): for each reference from `start` on the queries, copying nothing."""
        n_query, n_ref = self.shape
        return self.table.view(*groups_of(n_query, self.k), -1)[..., start:n_ref].permute(3, 0, 1, 2)


def groups_of(n: int, k: int) -> tuple[int, int, int]:
    """Return (tiles, group, LANES) that hold n columns, with no more padding than that many tiles need."""
    group = max(1, min(GROUP, n // (4 * k)))
    tiles = -(-n // (group * LANES))
    return tiles, -(-n // (tiles * LANES)), LANES


def multiply(queries: torch.Tensor, references: torch.Tensor, out: torch.Tensor) -> None:
    """Put queries references^T into `out`."""
    import torch

    large = out.numel() * queries.shape[1] >= SMALL
    if large and out.dtype == torch.float32 and out.device.type == "cpu":
        # OpenBLAS: torch's own product is half as fast on AMD. It has threads of its own, too many for small ones.
        np.matmul(queries.numpy(), references.numpy().T, out=out.numpy())
    else:
        torch.mm(queries, references.T, out=out)


@contextlib.contextmanager
def one_thread(*, blas: bool = True) -> Iterator[None]:
    """Let torch use one thread, and numpy too if `blas`, which takes a millisecond.

    In the main thread only: torch gives the number to every thread that begins meanwhile.
    """
    import torch

    if not _is_main_thread():
        yield
        return
    number, limits = torch.get_num_threads(), contextlib.nullcontext()
    if blas:
        import threadpoolctl

        limits = threadpoolctl.threadpool_limits(1, "blas")
    torch.set_num_threads(1)
    try:
        with limits:
            yield
    finally:
        torch.set_num_threads(number)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@functools.cache
def bfloat16_pays() -> bool:
    """Whether this processor multiplies matrices in bfloat16 clearly faster than in float32: measured, in some 20 ms.

    On one thread and by the time that it works, which other programs don't change.
    """
    import torch

    def seconds(dtype: torch.dtype) -> float:
        queries, references, out = (torch.ones(shape, dtype=dtype) for shape in ((256, 256), (2048, 256), (256, 2048)))
        times = []
        for _ in range(4):
            start = time.thread_time()
            multiply(queries, references, out)
            times.append(time.thread_time() - start)
        return min(times[1:])

    with one_thread():
        return seconds(torch.float32) > 1.2 * seconds(torch.bfloat16)


def shards_of(vectors: Vectors, name: str) -> list[np.ndarray]:
    """Return the arrays that the rows are in; raises ValueError for shapes that do not make one matrix."""
    parts: Sequence[Any] = vectors if isinstance(vectors, (list, tuple)) else [vectors]
    shards = [part if hasattr(part, "shape") else np.asarray(part) for part in parts]
    if not shards or any(len(s.shape) != 2 or s.shape[1] == 0 or s.shape[1] != shards[0].shape[1] for s in shards):
        raise ValueError(f"{name} vectors must have the shape (n, dim), not {', '.join(str(s.shape) for s in shards)}")
    return shards


def empty_rows(n: int, dim: int, dtype: torch.dtype, device: str) -> UnitRows:
    """Return memory for n rows whose coarse type is `dtype`; where that is float32 on the CPU, both are the same memory."""
    import torch

    unit = torch.empty(n, dim)
    coarse = unit if dtype == torch.float32 and device == "cpu" else torch.empty(n, dim, dtype=dtype, device=device)
    return UnitRows(unit, coarse, torch.zeros(n))


def load_rows(
    memory: UnitRows, shards: list[np.ndarray], name: str, start: int, stop: int, each: Each = map
) -> UnitRows:
    """Put rows `start` to `stop` of the shards, scaled to unit length, into `memory`, and return the part of it they fill.

    `each`, of `Workspace.threads`, shares the work among threads. The shards' pages are given back. Raises ValueError for a row
    that is zero or not finite, counted as one of `name`.
    """
    chunk, offset = max(1, CHUNK_FLOATS // memory.unit.shape[1]), 0  # offset: of the shard's first row among all rows
    for shard in shards:
        first, last = max(start - offset, 0), min(stop - offset, len(shard))
        parts = (slice(part, min(part + chunk, last)) for part in range(first, last, chunk))
        for zero in each(partial(_load_part, memory, shard, start - offset), parts):
            if zero is not None:
                raise ValueError(f"{name} row {offset + zero} is zero or not finite: it has no cosine")
        release(shard)
        offset += len(shard)
    return memory.part(slice(0, stop - start))


def _load_part(memory: UnitRows, shard: np.ndarray, first: int, part: slice) -> int | None:
    """Put a part of a shard, whose row `first` is the first row of `memory`, there; return the first row without a direction."""
    import torch

    # A copy only where torch cannot take the array: read-only, of another type, or not contiguous.
    rows = torch.from_numpy(np.require(shard[part], np.float32, ["C", "W"]))
    into = memory.part(slice(part.start - first, part.stop - first))
    zero = _scale_to_unit(rows, into.unit)
    if into.coarse.data_ptr() != into.unit.data_ptr():
        into.coarse.copy_(into.unit)
        into.error.copy_(torch.linalg.vector_norm(into.unit - into.coarse.cpu(), dim=1))
    return None if zero is None else part.start + zero


def _scale_to_unit(rows: torch.Tensor, out: torch.Tensor) -> int | None:
    """Write the rows (n, dim) float32, scaled to unit length, to `out`; return the first row that has no direction."""
    import torch

    norms = torch.linalg.vector_norm(rows, dim=1)
    torch.div(rows, norms[:, None], out=out)
    extreme = (~((norms > 1e-15) & (norms < 1e15))).nonzero()[:, 0]  # squares beyond float32, or no direction at all
    if not len(extreme):
        return None
    norms = torch.linalg.vector_norm(rows[extreme].double(), dim=1)
    bad = extreme[~(torch.isfinite(norms) & (norms > 0))]
    if len(bad):
        return int(bad[0])
    out[extreme] = (rows[extreme].double() / norms[:, None]).float()
    return None
