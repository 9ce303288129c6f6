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

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.blocks import batches
from common.knn_blocks import LANES, TILE, Room, Rows, Vectors, fill, shards_of

if TYPE_CHECKING:
    import torch

Neighbours = tuple[np.ndarray, np.ndarray]

STEP = 2**22  # columns looked at for candidates at once
CHUNK = 2**16  # rows that `search_one` looks at at once
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
    queries, references = shards_of(query, "query"), shards_of(reference, "reference")
    n_query, n_ref, dim = sum(map(len, queries)), sum(map(len, references)), references[0].shape[1]
    if queries[0].shape[1] != dim:
        raise ValueError(f"queries of {queries[0].shape[1]} dimensions can't be compared with references of {dim}")
    if not 1 <= k <= n_ref:
        raise ValueError(f"k is {k}; it must be from 1 to the number of references, {n_ref}")
    room = Room(n_query, n_ref, dim, k, device)
    q_space, r_space, best = *room.spaces, _Best(n_query, k)
    for q_start in range(0, n_query, room.size):
        q_block = fill(q_space, queries, "query", q_start, min(q_start + room.size, n_query))
        for start in range(0, n_ref, room.size):
            r_block = fill(r_space, references, "reference", start, min(start + room.size, n_ref))
            for tile in room.tiles(q_block):
                q = q_block.part(tile)
                rows = np.arange(len(q.unit)) + q_start + tile.start
                excluded = None
                if query_groups is not None and reference_groups is not None:
                    mine = query_groups[rows, None]
                    excluded = (mine == reference_groups[start : start + len(r_block.unit)]) & (mine >= 0)
                scores = room.multiply(q, r_block, excluded)
                many = best.add(rows, start, _candidates(scores.by_row(), q, r_block, k, best.floor(rows)))
                _again(room, best, rows, q, start, r_block, many, excluded)
                if 2 * len(many) > len(rows):  # scores too close for bfloat16: do without it from here on
                    q_space, q_block = q_space.in_float32(), q_block.in_float32()
                    r_space, r_block = r_space.in_float32(), r_block.in_float32()
    return best.similarities, best.indices


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
    room = Room(n, n, dim, k, device)
    space, other_space, best = *room.spaces, _Best(n, k)
    for start in range(0, n, room.size):
        block = fill(space, shards, "vector", start, min(start + room.size, n))
        for other_start in range(start, n, room.size):
            same = other_start == start
            other = block if same else fill(other_space, shards, "vector", other_start, min(other_start + room.size, n))
            for tile in room.tiles(block):
                first = tile.start if same else 0  # rows before have met these already
                q, r = block.part(tile), other.part(slice(first, None))
                rows = np.arange(len(q.unit)) + start + tile.start
                columns = np.arange(len(r.unit)) + other_start + first
                itself = np.eye(len(rows), dtype=bool) if same else None
                scores, back = room.multiply(q, r, itself), len(q.unit) if same else 0
                many = best.add(rows, columns[0], _candidates(scores.by_row(), q, r, k, best.floor(rows)))
                theirs, later = r.part(slice(back, None)), columns[back:]
                if len(later):
                    found = _candidates(scores.by_column(back), theirs, q, k, best.floor(later))
                    more = best.add(later, rows[0], found)
                    _again(room, best, later, theirs, rows[0], q, more, None)
                _again(room, best, rows, q, columns[0], r, many, itself)
                if 2 * len(many) > len(rows):
                    space, block = space.in_float32(), block.in_float32()
                    other_space, other = other_space.in_float32(), other.in_float32()
    return best.similarities, best.indices


class _Best:
    """The k nearest neighbours of n rows so far: similarities (n, k) float32 from -inf, indices (n, k) int64 from -1."""

    def __init__(self, n: int, k: int) -> None:
        self.similarities, self.indices = np.full((n, k), -np.inf, np.float32), np.full((n, k), -1, np.int64)

    def floor(self, rows: np.ndarray) -> torch.Tensor:
        import torch

        return torch.from_numpy(self.similarities[rows, -1])

    def add(self, rows: np.ndarray, start: int, found: _Found) -> np.ndarray:
        """Merge what was found for these rows among the references from `start` on; returns who had too many candidates."""
        for some, (similarities, indices) in found.neighbours:
            to = rows[some]
            shifted = similarities, np.where(indices < 0, -1, indices + start)
            parts = [(self.similarities[to], self.indices[to]), shifted]
            self.similarities[to], self.indices[to] = merge(parts, self.indices.shape[1])
        return found.many


def _again(
    room: Room,
    best: _Best,
    rows: np.ndarray,
    q: Rows,
    start: int,
    r: Rows,
    many: np.ndarray,
    excluded: np.ndarray | None,
) -> None:
    """Search the queries that had too many candidates in bfloat16 once more, in float32."""
    if len(many):
        q32, r32 = q.part(many).in_float32(), r.in_float32()
        scores = room.multiply(q32, r32, None if excluded is None else excluded[many])
        best.add(
            rows[many], start, _candidates(scores.by_row(), q32, r32, len(best.indices[0]), best.floor(rows[many]))
        )


class _Found(NamedTuple):
    """[(rows of the queries, their candidates' scores and columns, padded with -inf and -1)], the queries left out."""

    neighbours: list[tuple[Any, Neighbours]]
    many: np.ndarray


def _candidates(columns: torch.Tensor, q: Rows, r: Rows, k: int, floor: torch.Tensor) -> _Found:
    """Score what may be among the k nearest of queries q in references r, by their coarse scores (n_query, tiles, group, LANES).

    Left out, in bfloat16 only, are queries with too many candidates. `floor` (n_query,) is the k-th best score so far.
    """
    import torch

    group = columns.shape[2]
    # Reduced in the order in which the scores lie in memory, which is ten times as fast where they are cut by column.
    maxima = columns.amax(2) if columns.stride(3) == 1 else columns.permute(1, 2, 3, 0).amax(1).permute(2, 0, 1)
    error = 1.01 * (q.error + (1 + q.error) * r.error.max()) + q.unit.shape[1] * 2.0**-22 + 2.0**-20
    if columns.device.type == "cuda":
        error += 2.0**-9  # a float32 product may be computed in TF32 there, which rounds both operands to 2^-10
    if len(r.unit) > TILE or floor.min() == -torch.inf:  # few references seldom raise the floor that many have set
        floor = torch.maximum(_reached(maxima, k) - error, floor)
    threshold = floor - error
    threshold = threshold.to(columns).clamp(min=torch.finfo(columns.dtype).min)[:, None]
    close = maxima.flatten(1) >= threshold
    count = close.sum(1)
    many = count > (4 * k + 64 if columns.dtype == torch.bfloat16 else len(r.unit))
    busy = ((count > 0) & ~many).nonzero()[:, 0]

    found: list[tuple[Any, Neighbours]] = []
    step = max(1, STEP // (int(count[busy].max()) * group + k)) if len(busy) else 1
    for at in range(0, len(busy), step):
        some = busy[at : at + step]
        row, of = close[some].nonzero(as_tuple=True)
        tile, lane = of // LANES, of % LANES
        pair, member = (columns[some[row], tile, :, lane] >= threshold[some[row]]).nonzero(as_tuple=True)
        column = (tile[pair] * group + member) * LANES + lane[pair]
        rows = some.cpu()
        found.append((rows.numpy(), _score(q.unit[rows], r.unit, row[pair].cpu(), column.cpu())))
    return _Found(found, many.nonzero()[:, 0].cpu().numpy())


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
    `search` scores those.
    """
    direction = unit(query)[0]
    error = len(direction) * 2.0**-22 + 2.0**-20
    best, start = np.full(k, -np.inf, np.float32), 0
    candidates, coarse, rows = [], [], []
    for shard in shards_of(reference, "reference"):
        for part in batches(len(shard), CHUNK):
            here = slice(start + part.start, start + part.stop)
            block = shard[part]
            scores = (block @ direction) * inverse[here]
            if keep is not None:
                scores[~keep[here]] = -np.inf
            top = np.partition(scores, len(scores) - k)[-k:] if len(scores) > k else scores
            best = np.sort(np.concatenate([best, top]))[-k:]
            near = np.flatnonzero((scores >= best[0] - 2 * error) & (scores > -np.inf))
            candidates.append(block[near])
            coarse.append(scores[near])
            rows.append(here.start + near)
        start += len(shard)
    kept = np.concatenate(coarse) >= best[0] - 2 * error
    similarities, indices = np.full((1, k), -np.inf, np.float32), np.full((1, k), -1, np.int64)
    if n := min(k, int(kept.sum())):
        similarities[:, :n], places = search(query, np.concatenate(candidates)[kept], n)
        indices[:, :n] = np.concatenate(rows)[kept][places]
    return similarities, indices


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
        ballots = np.exp((np.maximum(similarities, -2.0) - 1) / VOTE_TEMPERATURE)  # -2: no neighbour
    order = np.argsort(labels, axis=1, kind="stable")  # rows of runs of equal labels, each run by rank
    labels = np.take_along_axis(labels, order, 1)
    runs = np.flatnonzero(np.diff(labels, axis=1, prepend=labels[:, :1] - 1))
    total = np.add.reduceat(np.take_along_axis(ballots, order, 1).ravel(), runs)
    label, rank, row = labels.ravel()[runs], order.ravel()[runs], runs // k
    total[label < 0] = -1
    order = np.lexsort((rank, -total, row))
    return row[order], label[order], total[order]
