"""Coarse scores: the products of unit rows in bfloat16, where the processor is faster at that, or in float32.

Rows are taken in blocks of bounded size; the memory of a block and of a table of scores is taken once for a whole search.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.blocks import release

if TYPE_CHECKING:
    import torch

Vectors = np.ndarray | Sequence[np.ndarray]

BLOCK_ROWS, BLOCK_FLOATS = 2**15, 2**25  # references (and queries) held in unit length at once: at most 128 MiB
TILE = 1024  # queries multiplied with a block of references at once
GROUP, LANES = 32, 64  # a group is up to GROUP columns, LANES apart because neighbouring rows are often alike
LARGE = 10**9  # multiplications from which the measurement of `bfloat16_pays` pays


class Rows(NamedTuple):
    """Unit rows (n, dim) float32, the same in the coarse type and on the device, and |unit - coarse| (n,)."""

    unit: torch.Tensor
    coarse: torch.Tensor
    error: torch.Tensor

    def part(self, rows: Any) -> Rows:
        return Rows(self.unit[rows], self.coarse[rows], self.error[rows])

    def in_float32(self) -> Rows:
        return Rows(self.unit, self.unit, self.error * 0)


class Room:
    """The memory that a search takes, once for all of it, and the type in which it multiplies."""

    def __init__(self, n_query: int, n_ref: int, dim: int, k: int, device: str) -> None:
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        large = n_query >= 64 and n_query * n_ref * dim >= LARGE
        dtype = torch.bfloat16 if device == "cpu" and large and bfloat16_pays() else torch.float32
        self.size, self.k = max(1, min(BLOCK_ROWS, BLOCK_FLOATS // dim)), k
        self.spaces = tuple(_space(min(self.size, n), dim, dtype, device) for n in (n_query, n_ref))
        self._scratch = torch.empty(0, device=device)

    def tiles(self, rows: Rows) -> Iterator[slice]:
        """Yield the parts of a block that are multiplied at once."""
        return (slice(at, at + TILE) for at in range(0, len(rows.unit), TILE))

    def multiply(self, q: Rows, r: Rows, excluded: np.ndarray | None) -> Scores:
        """Return the coarse scores of q and r, valid until the next call.

        -inf where `excluded`, (n_query, any number of first columns) bool.
        """
        import torch

        shape = n_query, n_ref = len(q.unit), len(r.unit)
        height, width = (math.prod(groups_of(n, self.k)) for n in shape)
        if len(self._scratch) < height * width:
            self._scratch = torch.empty(height * width, device=self._scratch.device)
        table = self._scratch.view(q.coarse.dtype)[: height * width].view(height, width)
        multiply(q.coarse, r.coarse, table[:n_query, :n_ref])
        table[n_query:], table[:, n_ref:] = -torch.inf, -torch.inf
        if excluded is not None:
            table[:n_query, : excluded.shape[1]].masked_fill_(torch.from_numpy(excluded).to(table.device), -torch.inf)
        return Scores(table, shape, self.k)


class Scores(NamedTuple):
    """Coarse scores (height, width), of which (n_query, n_ref) count and the rest is -inf, cut into groups both ways."""

    table: torch.Tensor
    shape: tuple[int, int]
    k: int

    def by_row(self) -> torch.Tensor:
        """Return (n_query, tiles, group, LANES): for each query the references, in groups LANES apart."""
        n_query, n_ref = self.shape
        return self.table[:n_query].view(n_query, *groups_of(n_ref, self.k))

    def by_column(self, start: int) -> torch.Tensor:
        """Return (n_ref - start, tiles, group, LANES): for each reference from `start` on the queries, copying nothing."""
        n_query, n_ref = self.shape
        return self.table.view(*groups_of(n_query, self.k), -1)[..., start:n_ref].permute(3, 0, 1, 2)


def groups_of(n: int, k: int) -> tuple[int, int, int]:
    """Return (tiles, group, LANES) that hold n columns, with no more padding than that many tiles need."""
    group = max(1, min(GROUP, n // (4 * k)))
    tiles = -(-n // (group * LANES))
    return tiles, -(-n // (tiles * LANES)), LANES


def multiply(q: torch.Tensor, r: torch.Tensor, out: torch.Tensor) -> None:
    """Put q r^T into `out`."""
    import torch

    if out.dtype == torch.float32 and out.device.type == "cpu":
        np.matmul(q.numpy(), r.numpy().T, out=out.numpy())  # OpenBLAS: torch's own is half as fast on AMD
    else:
        torch.mm(q, r.T, out=out)


@functools.cache
def bfloat16_pays() -> bool:
    """Whether this processor multiplies matrices in bfloat16 clearly faster than in float32: measured, in some 20 ms."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        q, r, out = (torch.ones(shape, dtype=dtype) for shape in ((256, 256), (2048, 256), (256, 2048)))
        times = []
        for _ in range(4):
            start = time.perf_counter()
            multiply(q, r, out)
            times.append(time.perf_counter() - start)
        return min(times[1:])

    return seconds(torch.float32) > 1.2 * seconds(torch.bfloat16)


def shards_of(vectors: Vectors, name: str) -> list[np.ndarray]:
    """Return the arrays that the rows are in; raises ValueError for shapes that do not make one matrix."""
    parts: Sequence[Any] = vectors if isinstance(vectors, (list, tuple)) else [vectors]
    shards = [part if hasattr(part, "shape") else np.asarray(part) for part in parts]
    if not shards or any(len(s.shape) != 2 or s.shape[1] == 0 or s.shape[1] != shards[0].shape[1] for s in shards):
        raise ValueError(f"{name} vectors must have the shape (n, dim), not {', '.join(str(s.shape) for s in shards)}")
    return shards


def _space(n: int, dim: int, dtype: torch.dtype, device: str) -> Rows:
    import torch

    unit = torch.empty(n, dim)
    coarse = unit if dtype == torch.float32 and device == "cpu" else torch.empty(n, dim, dtype=dtype, device=device)
    return Rows(unit, coarse, torch.zeros(n))


def fill(space: Rows, shards: list[np.ndarray], name: str, start: int, stop: int) -> Rows:
    """Put rows `start` to `stop` of the shards into `space`, in unit length."""
    import torch

    chunk, offset = max(1, 2**21 // space.unit.shape[1]), 0  # a chunk stays in the cache from one step to the next
    for shard in shards:
        last = min(stop - offset, len(shard))
        for a in range(max(start - offset, 0), last, chunk):
            b = min(a + chunk, last)
            rows = torch.from_numpy(np.require(shard[a:b], np.float32, ["C", "W"]))  # torch can't take read-only arrays
            norms = torch.linalg.vector_norm(rows, dim=1)
            into = space.part(slice(offset + a - start, offset + b - start))
            torch.div(rows, norms[:, None], out=into.unit)
            odd = (~((norms > 1e-15) & (norms < 1e15))).nonzero()[
                :, 0
            ]  # squares beyond float32, or no direction at all
            if len(odd):
                norms = torch.linalg.vector_norm(rows[odd].double(), dim=1)
                bad = odd[~(torch.isfinite(norms) & (norms > 0))]
                if len(bad):
                    raise ValueError(f"{name} row {offset + a + int(bad[0])} is zero or not finite: it has no cosine")
                into.unit[odd] = (rows[odd].double() / norms[:, None]).float()
            if into.coarse.data_ptr() != into.unit.data_ptr():
                into.coarse.copy_(into.unit)
                into.error.copy_(torch.linalg.vector_norm(into.unit - into.coarse.cpu(), dim=1))
        release(shard)
        offset += len(shard)
    return space.part(slice(0, stop - start))
