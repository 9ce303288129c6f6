"""Exact cosine k-nearest neighbours: a fast inexact pass picks candidates, and none that matters can be missed.

**The score** of a query q and a reference r is the float32 dot product of the two rows scaled to unit length, summed in
an order that depends on the dimension only: equal rows get equal scores wherever they stand, so ties can go to the
lower row. It differs from the cosine in real numbers by about 1e-7 (1e-6 beyond 50,000 dimensions).

**Candidates.** A block of references is multiplied with many queries at once: in bfloat16 where the processor is
faster at that (`_bfloat16_pays` measures it once), else in float32. Such a coarse score c is within e of the score s:

    operands   q' and r' are q and r rounded to the coarse type, dq = |q - q'| (measured), dr the largest |r - r'|:
               |q.r - q'.r'| = |(q - q').r + q'.(r - r')| <= dq + (1 + dq) dr
    sums       a float32 dot product, in any order, is off by at most dim u |q| |r|, u = 2^-24 (Higham, Accuracy and
               Stability of Numerical Algorithms, 3.1): once in c, once in s; doubled for hardware that truncates
    e          = dq + (1 + dq) dr + dim 2^-22 + 2^-20, the last for the arithmetic of the bound itself

(A bfloat16 c is rounded once more when it is stored: rounding is monotone, so a threshold rounded alike loses no row.)
Let k coarse scores of the block reach L: the k-th largest of the maxima of disjoint groups of columns is such a number,
far cheaper than the k-th largest score. Then the k-th best score is at least t = max(L - e, k-th best of the earlier
blocks), and a row of the true top k has s >= t, so c >= t - e. Every row with c >= t - e is scored. Data of very close
scores cost time, never a neighbour: a query with many candidates in bfloat16 is searched again in float32 (smaller e).

Memory: rows are taken in blocks of bounded size and in order, so shards may be memory-mapped files of any size.
"""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.pages import release

if TYPE_CHECKING:
    import torch

Vectors = np.ndarray | Sequence[np.ndarray]
Neighbours = tuple[np.ndarray, np.ndarray]

BLOCK_ROWS, BLOCK_FLOATS = 2**15, 2**25  # references (and queries) held in unit length at once: at most 128 MiB
TILE = 1024  # queries multiplied with a block of references at once
GROUP, LANES = 32, 64  # a group is up to GROUP columns, LANES apart because neighbouring rows are often alike
LARGE = 10**9  # multiplications from which the measurement of `_bfloat16_pays` pays
STEP = 2**22  # columns looked at for candidates at once


class _Rows(NamedTuple):
    """Unit rows (n, dim) float32, the same in the coarse type and on the device, and |unit - coarse| (n,)."""

    unit: torch.Tensor
    coarse: torch.Tensor
    error: torch.Tensor

    def part(self, rows: Any) -> _Rows:
        return _Rows(self.unit[rows], self.coarse[rows], self.error[rows])

    def in_float32(self) -> _Rows:
        return _Rows(self.unit, self.unit, self.error * 0)


def search(query: Vectors, reference: Vectors, k: int, *, device: str = "auto") -> Neighbours:
    """Return (similarities (n_query, k) float32, indices (n_query, k) int64) of the k nearest references by cosine.

    `query` and `reference` are (n, dim) arrays, or lists of them (shards, read as one matrix, never copied whole), or
    anything of a shape that gives rows by slice; rows need not have unit length. Rows of the result are sorted by
    falling similarity, ties by rising index. `device` is auto (CUDA where there is one), cpu or cuda: where coarse
    scores are computed, the result is the same.
    Raises ValueError for k < 1, k > n_ref, other shapes, and rows that are zero or not finite.
    """
    return search_excluding(query, reference, k, None, None, device=device)


def search_excluding(
    query: Vectors,
    reference: Vectors,
    k: int,
    query_groups: np.ndarray | None,
    reference_groups: np.ndarray | None,
    *,
    device: str = "auto",
) -> Neighbours:
    """Like `search`, but leave out for each query the references of its own group: the same crop, the same image.

    Groups are int codes (n_query,) and (n_ref,); a query of group -1 leaves out none. Where fewer than k references are
    left, the row ends in similarity -inf and index -1.
    """
    import torch

    queries, references = _shards(query, "query"), _shards(reference, "reference")
    n_query, n_ref, dim = sum(map(len, queries)), sum(map(len, references)), references[0].shape[1]
    if queries[0].shape[1] != dim:
        raise ValueError(f"queries of {queries[0].shape[1]} dimensions can't be compared with references of {dim}")
    if not 1 <= k <= n_ref:
        raise ValueError(f"k is {k}; it must be from 1 to the number of references, {n_ref}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    large = n_query >= 64 and n_query * n_ref * dim >= LARGE
    dtype = torch.bfloat16 if device == "cpu" and large and _bfloat16_pays() else torch.float32

    size = max(1, min(BLOCK_ROWS, BLOCK_FLOATS // dim))
    q_space, r_space = (_space(min(size, n), dim, dtype, device) for n in (n_query, n_ref))
    scratch = torch.empty(min(TILE, n_query) * (len(r_space.unit) + GROUP * LANES), device=device)
    similarities, indices = np.full((n_query, k), -np.inf, np.float32), np.full((n_query, k), -1, np.int64)
    for q_start in range(0, n_query, size):
        q_block = _fill(q_space, queries, "query", q_start, min(q_start + size, n_query))
        for start in range(0, n_ref, size):
            stop = min(start + size, n_ref)
            _fill(r_space, references, "reference", start, stop)
            for at in range(0, len(q_block.unit), TILE):
                q = q_block.part(slice(at, at + TILE))
                rows = np.arange(q_start + at, q_start + at + len(q.unit))
                excluded = None
                if query_groups is not None and reference_groups is not None:
                    mine = query_groups[rows, None]
                    excluded = torch.from_numpy((mine == reference_groups[start:stop]) & (mine >= 0))
                floor = torch.from_numpy(similarities[rows, -1])
                found, many = _search_block(q, r_space, start, stop, k, floor, excluded, scratch)
                if len(many):
                    less = None if excluded is None else excluded[many]
                    q32, r32 = q.part(many).in_float32(), r_space.in_float32()
                    more, _ = _search_block(q32, r32, start, stop, k, floor[many], less, scratch)
                    found += [(many[some], neighbours) for some, neighbours in more]
                if 2 * len(many) > len(rows):  # scores too close for bfloat16: do without it from here on
                    q_space, q_block, r_space = q_space.in_float32(), q_block.in_float32(), r_space.in_float32()
                for some, neighbours in found:
                    to = rows[some]
                    similarities[to], indices[to] = merge([(similarities[to], indices[to]), neighbours], k)
    return similarities, indices


def _search_block(
    q: _Rows,
    r: _Rows,
    start: int,
    stop: int,
    k: int,
    floor: torch.Tensor,
    excluded: torch.Tensor | None,
    scratch: torch.Tensor,
) -> tuple[list[tuple[Any, Neighbours]], np.ndarray]:
    """Score what may be among the k nearest of queries q in references `start` to `stop`, which are the rows of r.

    Returns [(rows of q, their candidates, padded with -inf and -1)] and the queries left out, in bfloat16 only, because
    they had too many. `floor` (n_query,) is the k-th best score so far, `excluded` (n_query, stop - start) bool.
    """
    import torch

    n = stop - start
    group = max(1, min(GROUP, n // (4 * k)))
    tiles = -(-n // (group * LANES))
    group = -(-n // (tiles * LANES))  # no larger than that many tiles need
    shape = len(q.unit), tiles, group, LANES
    columns = scratch.view(q.coarse.dtype)[: math.prod(shape)].view(shape)
    scores = columns.flatten(1)
    _multiply(q.coarse, r.coarse[:n], scores[:, :n])
    scores[:, n:] = -torch.inf
    if excluded is not None:
        scores[:, :n].masked_fill_(excluded.to(scores.device), -torch.inf)
    maxima = columns.amax(2)

    error = 1.01 * (q.error + (1 + q.error) * r.error[:n].max()) + q.unit.shape[1] * 2.0**-22 + 2.0**-20
    if scores.device.type == "cuda":
        error += 2.0**-9  # a float32 product may be computed in TF32 there, which rounds both operands to 2^-10
    threshold = torch.maximum(_reached(maxima, k) - error, floor) - error
    threshold = threshold.to(scores).clamp(min=torch.finfo(scores.dtype).min)[:, None]
    close = maxima.flatten(1) >= threshold
    many = close.sum(1) > (4 * k + 64 if scores.dtype == torch.bfloat16 else n)
    if many.any():
        close &= ~many[:, None]

    found: list[tuple[Any, Neighbours]] = []
    step = max(1, STEP // (int(close.sum(1).max()) * group + k))
    for at in range(0, len(close), step):
        some = slice(at, min(at + step, len(close)))
        row, of = close[some].nonzero(as_tuple=True)
        tile, lane = of // LANES, of % LANES
        pair, member = (columns[some][row, tile, :, lane] >= threshold[some][row]).nonzero(as_tuple=True)
        column = (tile[pair] * group + member) * LANES + lane[pair]
        similarities, indices = _score(q.unit[some], r.unit[:n], row[pair].cpu(), column.cpu())
        indices[indices >= 0] += start
        found.append((np.arange(some.start, some.stop), (similarities, indices)))
    return found, many.nonzero()[:, 0].cpu().numpy()


def _reached(maxima: torch.Tensor, k: int) -> torch.Tensor:
    """Return a number (n,) float32, on the CPU, that k coarse scores of each row reached before they were rounded."""
    import torch

    groups = maxima.amax(1) if 2 * k <= LANES else maxima.flatten(1)  # as few, as large groups as serve
    if k > groups.shape[1]:
        return torch.full((len(groups),), -torch.inf)
    stored = groups.topk(k).values[:, -1].cpu()
    return (stored.float() + torch.nextafter(stored, stored.new_tensor(-torch.inf)).float()) / 2


def _score(q: torch.Tensor, r: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> Neighbours:
    """Return the scores of the pairs q[row], r[column] and their columns, a row for each of q, padded. `row` rises."""
    import torch

    count = torch.bincount(row, minlength=len(q))
    end = torch.cat([count.new_zeros(1), count.cumsum(0)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sparse matrices are in beta
        pairs = torch.sparse_csr_tensor(end, column, torch.zeros(len(row)), (len(q), len(r)), check_invariants=False)
    slot = torch.arange(len(row)) - end[row]
    similarities = torch.full((len(q), int(count.max())), -torch.inf)
    columns = torch.full(similarities.shape, -1)
    similarities[row, slot] = torch.sparse.sampled_addmm(pairs, q, r.T, beta=0).values()
    columns[row, slot] = column
    return similarities.numpy(), columns.numpy()


def _multiply(q: torch.Tensor, r: torch.Tensor, out: torch.Tensor) -> None:
    import torch

    if out.dtype == torch.float32 and out.device.type == "cpu":
        np.matmul(q.numpy(), r.numpy().T, out=out.numpy())  # OpenBLAS: torch's own is half as fast on AMD
    else:
        torch.mm(q, r.T, out=out)


@functools.cache
def _bfloat16_pays() -> bool:
    """Whether this processor multiplies matrices in bfloat16 clearly faster than in float32: measured, in some 20 ms."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        q, r, out = (torch.ones(shape, dtype=dtype) for shape in ((256, 256), (2048, 256), (256, 2048)))
        times = []
        for _ in range(4):
            start = time.perf_counter()
            _multiply(q, r, out)
            times.append(time.perf_counter() - start)
        return min(times[1:])

    return seconds(torch.float32) > 1.2 * seconds(torch.bfloat16)


def _shards(vectors: Vectors, name: str) -> list[np.ndarray]:
    parts: Sequence[Any] = vectors if isinstance(vectors, (list, tuple)) else [vectors]
    shards = [part if hasattr(part, "shape") else np.asarray(part) for part in parts]
    if not shards or any(len(s.shape) != 2 or s.shape[1] == 0 or s.shape[1] != shards[0].shape[1] for s in shards):
        raise ValueError(f"{name} vectors must have the shape (n, dim), not {', '.join(str(s.shape) for s in shards)}")
    return shards


def _space(n: int, dim: int, dtype: torch.dtype, device: str) -> _Rows:
    import torch

    unit = torch.empty(n, dim)
    coarse = unit if dtype == torch.float32 and device == "cpu" else torch.empty(n, dim, dtype=dtype, device=device)
    return _Rows(unit, coarse, torch.zeros(n))


def _fill(space: _Rows, shards: list[np.ndarray], name: str, start: int, stop: int) -> _Rows:
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


def merge(parts: Sequence[Neighbours], k: int) -> Neighbours:
    """Return the best k of several (similarities, indices), each (n_query, any), indices already global.

    Same order as `search`: falling similarity, ties by rising index. Associative. (n_query, min(k, columns given)).
    """
    import torch

    similarities = torch.from_numpy(np.concatenate([part[0] for part in parts], axis=1))
    indices = torch.from_numpy(np.concatenate([part[1] for part in parts], axis=1))
    indices, order = indices.sort(dim=1)
    similarities, order = similarities.gather(1, order).sort(dim=1, descending=True, stable=True)
    return similarities[:, :k].contiguous().numpy(), indices.gather(1, order[:, :k]).numpy()


def vote(similarities: np.ndarray, labels: np.ndarray, weights: str = "uniform") -> np.ndarray:
    """Return the label code (n_query,) that the neighbours' labels (n_query, k) elect; -1 (no neighbour) casts no vote.

    uniform: a vote each. similarity: softmax of similarity / 0.07. Ties go to the label whose best neighbour ranks first.
    """
    if weights not in ("uniform", "similarity"):
        raise ValueError(f"weights must be uniform or similarity, not {weights}")
    n, k = labels.shape
    ballots = np.ones((n, k))
    if weights == "similarity":
        ballots = np.exp((np.maximum(similarities, -2.0) - 1) / 0.07)  # -2: no neighbour; the row's total cancels out
    order = np.argsort(labels, axis=1, kind="stable")  # rows of runs of equal labels, each run by rank
    labels = np.take_along_axis(labels, order, 1)
    runs = np.flatnonzero(np.diff(labels, axis=1, prepend=labels[:, :1] - 1))
    votes = np.add.reduceat(np.take_along_axis(ballots, order, 1).ravel(), runs)
    label, rank, row = labels.ravel()[runs], order.ravel()[runs], runs // k
    votes[label < 0] = -1
    elected = np.lexsort((rank, -votes, row))
    return label[elected[np.searchsorted(row, np.arange(n))]]
