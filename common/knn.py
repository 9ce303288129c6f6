"""Exact cosine k-nearest neighbours: a fast inexact pass picks candidates, and none that matters can be missed.

**The score** of a query q and a reference r is the float32 dot product of the two rows scaled to unit length, summed in
an order that depends on the dimension only: equal rows get equal scores wherever they stand, so ties can go to the
lower row. It differs from the cosine in real numbers by about 1e-7 (1e-6 beyond 50,000 dimensions).

**Candidates.** A block of references is multiplied with many queries at once: in bfloat16 where the processor is
faster at that (`bfloat16_pays` measures it once), else in float32. Such a coarse score c is within e of the score s:

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

Among the rows themselves a product serves both of its rows: its table of scores is cut into groups by row, then by column.

Memory: rows are taken in blocks of bounded size and in order, so shards may be memory-mapped files of any size.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.blocks import batches
from common.knn_blocks import (
    LANES,
    TILE,
    Each,
    UnitRows,
    Vectors,
    Workspace,
    empty_rows,
    load_rows,
    one_thread,
    shards_of,
)

if TYPE_CHECKING:
    import torch

Neighbours = tuple[np.ndarray, np.ndarray]

STEP = 2**22  # columns looked at for candidates at once
CHUNK = 2**16  # rows that `search_one` looks at at once
LOWEST = np.finfo(np.float32).min  # above -inf, the score of rows that are left out
VOTE_TEMPERATURE = 0.07  # of the softmax that turns similarities into votes


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
    query_shards, reference_shards = shards_of(query, "query"), shards_of(reference, "reference")
    n_query, n_ref = sum(map(len, query_shards)), sum(map(len, reference_shards))
    query_dim, dim = query_shards[0].shape[1], reference_shards[0].shape[1]
    if query_dim != dim:
        raise ValueError(f"queries of {query_dim} dimensions can't be compared with references of {dim}")
    if not 1 <= k <= n_ref:
        raise ValueError(f"k is {k}; it must be from 1 to the number of references, {n_ref}")
    workspace = Workspace(n_query, n_ref, dim, k, device)
    groups = None if query_groups is None or reference_groups is None else (query_groups, reference_groups)
    with workspace.threads() as each:
        return _search_blocks(workspace, each, query_shards, reference_shards, groups)


def _search_blocks(
    workspace: Workspace,
    each: Each,
    query_shards: list[np.ndarray],
    reference_shards: list[np.ndarray],
    groups: tuple[np.ndarray, np.ndarray] | None,
) -> Neighbours:
    """Search block by block: queries in blocks, each with every block of references, tile by tile."""
    n_query, n_ref = sum(map(len, query_shards)), sum(map(len, reference_shards))
    nearest = _Nearest(n_query, workspace.k)
    query_memory, reference_memory, size = workspace.queries, workspace.references, workspace.block_rows
    for query_start in range(0, n_query, size):
        queries = load_rows(query_memory, query_shards, "query", query_start, min(query_start + size, n_query), each)
        for start in range(0, n_ref, size):
            references = load_rows(
                reference_memory, reference_shards, "reference", start, min(start + size, n_ref), each
            )
            blocks = _Pair(workspace, nearest, queries, query_start, references, start)
            if max(each(partial(_search_tile, blocks, groups), workspace.tiles(queries))) > 0.5:
                query_memory, queries = query_memory.in_float32(), queries.in_float32()
                reference_memory = reference_memory.in_float32()
    return nearest.similarities, nearest.indices


class _Pair(NamedTuple):
    """A block of queries and a block of references that meet, with the number of the first row of each among all."""

    workspace: Workspace
    nearest: _Nearest
    queries: UnitRows
    query_start: int
    references: UnitRows
    start: int


def _search_tile(blocks: _Pair, groups: tuple[np.ndarray, np.ndarray] | None, tile: slice) -> float:
    """Search a tile of the queries among the references; return the share of it that is too close for bfloat16."""
    workspace, nearest, queries, references = (
        blocks.workspace,
        blocks.nearest,
        blocks.queries.part(tile),
        blocks.references,
    )
    rows = np.arange(len(queries.unit)) + blocks.query_start + tile.start
    excluded = None
    if groups is not None:
        own_group = groups[0][rows, None]
        excluded = (own_group == groups[1][blocks.start : blocks.start + len(references.unit)]) & (own_group >= 0)
    scores = workspace.scores(queries, references, excluded).of_queries()
    found = _candidates(scores, queries, references, workspace.k, nearest.kth(rows))
    undecided = nearest.add(rows, blocks.start, found)
    _search_in_float32(workspace, nearest, rows, queries, blocks.start, references, undecided, excluded)
    return len(undecided) / len(rows)


def search_self(vectors: Vectors, k: int, *, device: str = "auto") -> Neighbours:
    """Return the k nearest other rows of every row: (similarities (n, k) float32, indices (n, k) int64), sorted as by `search`.

    A product of two rows serves both, so this needs half of the products of search(vectors, vectors, k + 1), and leaves out the
    row itself, not one that equals it.
    Raises ValueError as `search` does, for k >= n too.
    """
    shards = shards_of(vectors, "vector")
    n, dim = sum(map(len, shards)), shards[0].shape[1]
    if not 1 <= k < n:
        raise ValueError(f"k is {k}; it must be from 1 to the number of other rows, {n - 1}")
    workspace = Workspace(n, n, dim, k, device)
    with workspace.threads() as each:
        return _search_pairs(workspace, each, shards)


def _search_pairs(workspace: Workspace, each: Each, shards: list[np.ndarray]) -> Neighbours:
    """Search block by block of rows, each with itself and every later block; what a product tells of its columns is kept too."""
    n = sum(map(len, shards))
    nearest = _Nearest(n, workspace.k)
    memory, other_memory, size = workspace.queries, workspace.references, workspace.block_rows
    for start in range(0, n, size):
        block = load_rows(memory, shards, "vector", start, min(start + size, n), each)
        for other_start in range(start, n, size):
            stop = min(other_start + size, n)
            other = block
            if other_start > start:
                other = load_rows(other_memory, shards, "vector", other_start, stop, each)
            blocks = _Pair(workspace, nearest, block, start, other, other_start)
            if max(each(partial(_search_both_ways, blocks), workspace.tiles(block))) > 0.5:
                memory, block = memory.in_float32(), block.in_float32()
                other_memory = other_memory.in_float32()
    return nearest.similarities, nearest.indices


def _search_both_ways(blocks: _Pair, tile: slice) -> float:
    """Search a tile of rows among the later ones, and these among the tile; return the share that is too close for bfloat16."""
    workspace, nearest, k = blocks.workspace, blocks.nearest, blocks.workspace.k
    same = blocks.start == blocks.query_start
    first = tile.start if same else 0  # rows before have met these already
    queries, references = blocks.queries.part(tile), blocks.references.part(slice(first, None))
    rows = np.arange(len(queries.unit)) + blocks.query_start + tile.start
    columns = np.arange(len(references.unit)) + blocks.start + first
    itself = np.eye(len(rows), dtype=bool) if same else None
    scores = workspace.scores(queries, references, itself)
    found = _candidates(scores.of_queries(), queries, references, k, nearest.kth(rows))
    undecided = nearest.add(rows, columns[0], found)
    tile_columns = len(rows) if same else 0  # the columns that are rows of this tile are served by row
    later, later_rows = columns[tile_columns:], references.part(slice(tile_columns, None))
    if len(later):
        found = _candidates(scores.of_references(tile_columns), later_rows, queries, k, nearest.kth(later))
        undecided_later = nearest.add(later, rows[0], found)
        _search_in_float32(workspace, nearest, later, later_rows, rows[0], queries, undecided_later, None)
    _search_in_float32(workspace, nearest, rows, queries, columns[0], references, undecided, itself)
    return len(undecided) / len(rows)


class _Nearest:
    """The k nearest neighbours of n rows so far: similarities (n, k) float32 from -inf, indices (n, k) int64 from -1.

    Threads may add to the same rows. A k-th best that is read meanwhile is an older one, which is lower: it costs time only.
    """

    def __init__(self, n: int, k: int) -> None:
        self._lock = threading.Lock()
        self.similarities, self.indices = np.full((n, k), -np.inf, np.float32), np.full((n, k), -1, np.int64)

    def kth(self, rows: np.ndarray) -> torch.Tensor:
        """Return the k-th best similarity of these rows so far."""
        import torch

        return torch.from_numpy(self.similarities[rows, -1])

    def add(self, rows: np.ndarray, start: int, found: _Found) -> np.ndarray:
        """Merge what was found for `rows` among the references from `start` on; return which of them are undecided."""
        for places, (similarities, indices) in found.neighbours:
            shifted = np.where(indices < 0, -1, indices + start)
            to = rows[places]
            with self._lock:
                parts = [(self.similarities[to], self.indices[to]), (similarities, shifted)]
                self.similarities[to], self.indices[to] = merge(parts, self.indices.shape[1])
        return found.undecided


def _search_in_float32(
    workspace: Workspace,
    nearest: _Nearest,
    rows: np.ndarray,
    queries: UnitRows,
    start: int,
    references: UnitRows,
    undecided: np.ndarray,
    excluded: np.ndarray | None,
) -> None:
    """Search again, in float32, the queries that bfloat16 left undecided; `rows` are the numbers of all `queries`."""
    if len(undecided):
        rows, queries, references = rows[undecided], queries.part(undecided).in_float32(), references.in_float32()
        scores = workspace.scores(queries, references, None if excluded is None else excluded[undecided]).of_queries()
        nearest.add(rows, start, _candidates(scores, queries, references, workspace.k, nearest.kth(rows)))


class _Found(NamedTuple):
    """[(places of queries, their candidates' scores and columns, padded with -inf and -1)]; the queries left undecided."""

    neighbours: list[tuple[Any, Neighbours]]
    undecided: np.ndarray


def _candidates(scores: torch.Tensor, queries: UnitRows, references: UnitRows, k: int, kth: torch.Tensor) -> _Found:
    """Score what may be among the k nearest references of each query, by their coarse scores (n_query, tiles, group, LANES).

    Undecided, in bfloat16 only, are queries with too many candidates. `kth` (n_query,) is the k-th best score so far.
    """
    import torch

    group = scores.shape[2]
    # Reduced in the order in which the scores lie in memory, which is ten times as fast where they are cut by column.
    maxima = scores.amax(2) if scores.stride(3) == 1 else scores.permute(1, 2, 3, 0).amax(1).permute(2, 0, 1)
    error = coarse_error(queries, references)
    if len(references.unit) > TILE or kth.min() == -torch.inf:  # few references seldom raise what many have reached
        kth = torch.maximum(_reached_by_k(maxima, k) - error, kth)
    threshold = kth - error
    threshold = threshold.to(scores).clamp(min=torch.finfo(scores.dtype).min)[:, None]
    close = maxima.flatten(1) >= threshold
    count = close.sum(1)
    undecided = count > (4 * k + 64 if scores.dtype == torch.bfloat16 else len(references.unit))
    busy = ((count > 0) & ~undecided).nonzero()[:, 0]

    neighbours: list[tuple[Any, Neighbours]] = []
    step = max(1, STEP // (int(count[busy].max()) * group + k)) if len(busy) else 1
    for start in range(0, len(busy), step):
        places = busy[start : start + step]
        row, maximum = close[places].nonzero(as_tuple=True)
        tile, lane = maximum // LANES, maximum % LANES
        pair, member = (scores[places[row], tile, :, lane] >= threshold[places[row]]).nonzero(as_tuple=True)
        column = (tile[pair] * group + member) * LANES + lane[pair]
        places = places.cpu()
        scored = _score(queries.unit, references.unit, places, row[pair].cpu(), column.cpu())
        neighbours.append((places.numpy(), scored))
    return _Found(neighbours, undecided.nonzero()[:, 0].cpu().numpy())


def coarse_error(queries: UnitRows, references: UnitRows) -> torch.Tensor:
    """Return e (n_query,) of this module's docstring, and 1 % of its first part: how far a coarse score is from the score."""
    error = 1.01 * (queries.error + (1 + queries.error) * references.error.max()) + rounding(queries.unit.shape[1])
    # A float32 product may be computed in TF32 on CUDA, which rounds both operands to 2^-10.
    return error + 2.0**-9 if queries.coarse.device.type == "cuda" else error


def rounding(dim: int) -> float:
    """Return by how much two float32 dot products of the same unit rows may differ, with the arithmetic of the bound."""
    return dim * 2.0**-22 + 2.0**-20


def _reached_by_k(maxima: torch.Tensor, k: int) -> torch.Tensor:
    """Return a number (n,) float32, on the CPU, that k coarse scores of each row reached before they were rounded."""
    import torch

    groups = maxima.amax(1) if 2 * k <= LANES else maxima.flatten(1)  # as few, as large groups as serve
    if k > groups.shape[1]:
        return torch.full((len(groups),), -torch.inf)
    stored = groups.topk(k).values[:, -1].cpu()
    return (stored.float() + torch.nextafter(stored, stored.new_tensor(-torch.inf)).float()) / 2


def _score(
    queries: torch.Tensor, references: torch.Tensor, places: torch.Tensor, row: torch.Tensor, column: torch.Tensor
) -> Neighbours:
    """Return the scores of the pairs queries[places[row]], references[column] and their columns, a line per place, padded.

    `places` and `row` rise. A query is read where it stands: copies of all that have a candidate would cost more than their scores.
    """
    import torch

    count = torch.bincount(row, minlength=len(places))
    end = torch.cat([count.new_zeros(1), count.cumsum(0)])
    of_all = end[torch.searchsorted(places, torch.arange(len(queries) + 1))]  # no pairs where a query has no place
    shape = len(queries), len(references)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sparse matrices are in beta
        pairs = torch.sparse_csr_tensor(of_all, column, torch.zeros(len(row)), shape, check_invariants=False)
    slot = torch.arange(len(row)) - end[row]
    similarities = torch.full((len(places), int(count.max())), -torch.inf)
    columns = torch.full(similarities.shape, -1)
    similarities[row, slot] = torch.sparse.sampled_addmm(pairs, queries, references.T, beta=0).values()
    columns[row, slot] = column
    return similarities.numpy(), columns.numpy()


def inverse_norms(vectors: Vectors) -> np.ndarray:
    """Return (n,) float32: 1 / |row| of each row, which `search_one` takes."""
    norms = [
        np.linalg.norm(shard[part].astype(np.float64), axis=1)
        for shard in shards_of(vectors, "reference")
        for part in batches(len(shard), CHUNK)
    ]
    return (1 / np.concatenate(norms)).astype(np.float32)


def search_one(
    query: np.ndarray, reference: Vectors, k: int, inverse: np.ndarray, keep: np.ndarray | None = None
) -> Neighbours:
    """Return what `search` says for one query (1, dim), reading the references once and copying none of them.

    `inverse` is inverse_norms(reference). Where `keep` (n_ref,) bool is given, only the rows where it is true are searched; a
    result of fewer than k rows ends in similarity -inf and index -1.

    A product of float32 rows with the query, divided by their norms, differs from the score by at most e = dim 2^-22 + 2^-20:
    dim 2^-23 for the two sums (see above) and a few roundings. So every row within 2 e of the k-th best is a candidate, and
    those are scored as `search` scores them.
    """
    direction = unit(query)[0]
    error = rounding(len(direction))
    best, start = np.full(k, -np.inf, np.float32), 0
    candidates, coarse, rows = [], [], []
    for shard in shards_of(reference, "reference"):
        for part in batches(len(shard), CHUNK):
            here = slice(start + part.start, start + part.stop)
            block = shard[part]
            scores = block @ direction
            scores *= inverse[here]
            if keep is not None:
                scores[~keep[here]] = -np.inf
            floor = best[0]
            if floor == -np.inf and len(scores) > k:  # the first rows: raise the floor before candidates are taken
                floor = np.partition(scores, -k)[-k]
            near = np.flatnonzero(scores >= max(floor - 2 * error, LOWEST))
            best = np.sort(np.concatenate([best, scores[near]]))[-k:]
            candidates.append(block[near])
            coarse.append(scores[near])
            rows.append(here.start + near)
        start += len(shard)
    kept = np.concatenate(coarse) >= best[0] - 2 * error
    similarities, indices = np.full((1, k), -np.inf, np.float32), np.full((1, k), -1, np.int64)
    if n := min(k, int(kept.sum())):
        scores, numbers = _score_all(query, np.concatenate(candidates)[kept]), np.concatenate(rows)[kept]
        order = np.lexsort((numbers, -scores))[:n]
        similarities[:, :n], indices[:, :n] = scores[order], numbers[order]
    return similarities, indices


def _score_all(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the scores (n,) of one query (1, dim) and all rows (n, dim), as `search` computes them."""
    import torch

    n, dim = rows.shape
    both = np.concatenate([query, rows])
    with one_thread(blas=False):  # a second thread would wait for the one that numpy's product keeps busy
        unit = load_rows(empty_rows(n + 1, dim, torch.float32, "cpu"), [both], "query and candidate", 0, n + 1).unit
        first = torch.zeros(1, dtype=torch.int64)
        return _score(unit[:1], unit[1:], first, first.expand(n), torch.arange(n))[0][0]


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


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return (n, dim) float32: the rows of `vectors` scaled to unit length; a zero row stays zero.

    The length is taken in float64, so that the squares of no float32 row overflow.
    """
    rows = np.asarray(vectors)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
    directions = np.empty(rows.shape, np.float32)
    return np.divide(rows, np.where(lengths == 0, 1, lengths), out=directions, casting="same_kind")


def vote(similarities: np.ndarray, labels: np.ndarray, weights: str = "uniform") -> np.ndarray:
    """Return the label code (n_query,) that the neighbours' labels (n_query, k) elect; -1 (no neighbour) casts no vote.

    uniform: a vote each. similarity: softmax of similarity / VOTE_TEMPERATURE. Ties go to the label whose best neighbour ranks
    first.
    """
    row, label, _ = votes(similarities, labels, weights)
    return label[np.searchsorted(row, np.arange(len(labels)))]


def votes(
    similarities: np.ndarray, labels: np.ndarray, weights: str = "uniform"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (query, label code, votes), an entry for each label among a query's neighbours; see `vote` for the weights.

    Sorted by query, then by falling votes, then by the rank of the label's best neighbour. -1, no neighbour, has -1 votes.
    """
    if weights not in ("uniform", "similarity"):
        raise ValueError(f"weights must be uniform or similarity, not {weights}")
    n, k = labels.shape
    ballots = np.ones((n, k))
    if weights == "similarity":
        ballots = np.exp(np.maximum(similarities, -2.0) / VOTE_TEMPERATURE)  # -2: no neighbour
    order = np.argsort(labels, axis=1, kind="stable")  # rows of runs of equal labels, each run by rank
    labels = np.take_along_axis(labels, order, 1)
    runs = np.flatnonzero(np.diff(labels, axis=1, prepend=labels[:, :1] - 1))
    total = np.add.reduceat(np.take_along_axis(ballots, order, 1).ravel(), runs)
    label, rank, row = labels.ravel()[runs], order.ravel()[runs], runs // k
    total[label < 0] = -1
    order = np.lexsort((rank, -total, row))
    return row[order], label[order], total[order]
