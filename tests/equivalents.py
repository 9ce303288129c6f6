"""Mutants that are no faults: a change as tests/mutants.py prints it, and why no result can show it.

`any` in the place of a change stands for every change of that line.
"""

from __future__ import annotations

_TIES = "limits lie below every value that they are to count"
_FREE = "how much is done at once, where and by how many threads costs time or memory and changes no result"
_SLACK = "a wider bound takes more candidates, which are scored exactly"
_EDGE = "no data give that very number"
_DRAWS = "how many are drawn, beyond a thousand, is free"

EQUIVALENT = {
    "common/knn.py: STEP = 2**22: any": _FREE,
    "common/knn.py: CHUNK = 2**16: any": _FREE,
    "common/knn.py: if max(each(partial(_search_tile, blocks, groups), workspace.tiles(queries))) > 0.5:: any": _FREE,
    "common/knn.py: if max(each(partial(_search_both_ways, blocks), workspace.tiles(block))) > 0.5:: any": _FREE,
    "common/knn.py: return len(undecided) / len(rows): any": _FREE,
    "common/knn.py: if len(references.unit) > TILE or kth.min() == -torch.inf:: any": _SLACK,
    "common/knn.py: undecided = count > (4 * k + 64 if scores.dtype == torch.bfloat16 else len(references.unit)): 4 -> 5": _FREE,
    "common/knn.py: undecided = count > (4 * k + 64 if scores.dtype == torch.bfloat16 else len(references.unit)): 64 -> 65": _FREE,
    "common/knn.py: busy = ((count > 0) & ~undecided).nonzero()[:, 0]: count > 0 -> count >= 0": "one without candidates adds none",
    "common/knn.py: step = max(1, STEP // (int(count[busy].max()) * group + k)) if len(busy) else 1: 1 -> 2": _FREE,
    "common/knn.py: groups = maxima.amax(1) if 2 * k <= LANES else maxima.flatten(1): 2 * k <= LANES -> 2 * k < LANES": _SLACK,
    "common/knn.py: groups = maxima.amax(1) if 2 * k <= LANES else maxima.flatten(1): 2 -> 3": _SLACK,
    "common/knn.py: groups = maxima.amax(1) if 2 * k <= LANES else maxima.flatten(1): 2 * k -> 2 / k": _SLACK,
    "common/knn.py: if k > groups.shape[1]:: k > groups.shape[1] -> k >= groups.shape[1]": _SLACK,
    "common/knn.py: pairs = torch.sparse_csr_tensor(of_all, column, torch.zeros(len(row)), shape, check_invariants=False): "
    "False -> True": "a check of what is so",
    "common/knn.py: similarities[row, slot] = torch.sparse.sampled_addmm(pairs, queries, references.T, beta=0).values(): "
    "0 -> 1": "the values that would be added are zeros",
    "common/knn.py: columns = torch.full(similarities.shape, -1): 1 -> 2": "any number below 0 is no column",
    "common/knn.py: near = np.flatnonzero(scores >= max(floor - 2 * error, LOWEST)): 2 -> 3": _SLACK,
    "common/knn.py: near = np.flatnonzero(scores >= max(floor - 2 * error, LOWEST)): 2 * error -> 2 / error": _SLACK,
    "common/knn.py: if floor == -np.inf and len(scores) > k:: floor == -np.inf -> floor != -np.inf": _SLACK,
    "common/knn.py: if floor == -np.inf and len(scores) > k:: len(scores) > k -> len(scores) >= k": _SLACK,
    "common/knn.py: kept = np.concatenate(coarse) >= best[0] - 2 * error: 2 -> 3": _SLACK,
    "common/knn.py: kept = np.concatenate(coarse) >= best[0] - 2 * error: 2 * error -> 2 / error": _SLACK,
    "common/knn.py: with one_thread(blas=False):: False -> True": _FREE,
    'common/knn.py: unit = load_rows(empty_rows(n + 1, dim, torch.float32, "cpu"), [both], "query and candidate", 0, n + 1).unit: '
    "1 -> 2": "memory for one row more, and the rows end where they end",
    'common/knn.py: return np.divide(rows, np.where(lengths == 0, 1, lengths), out=directions, casting="same_kind"): '
    "1 -> 2": "zeros by two are zeros",
    "common/knn.py: runs = np.flatnonzero(np.diff(labels, axis=1, prepend=labels[:, :1] - 1)): "
    "labels[:, :1] - 1 -> labels[:, :1] + 1": "any number that is not the first label",
    "common/knn_blocks.py: BLOCK_ROWS, BLOCK_FLOATS = 2**15, 2**25: any": _FREE,
    "common/knn_blocks.py: TILE = 1024: any": _FREE,
    "common/knn_blocks.py: GROUP, LANES = 32, 64: any": _FREE,
    "common/knn_blocks.py: LARGE = 10**9: any": _FREE,
    "common/knn_blocks.py: WORKERS = 8: any": _FREE,
    "common/knn_blocks.py: SMALL = 2**27: any": _FREE,
    "common/knn_blocks.py: CHUNK_FLOATS = 2**21: any": _FREE,
    "common/knn_blocks.py: return UnitRows(self.unit, self.unit, self.error * 0): 0 -> 1": _SLACK,
    "common/knn_blocks.py: large = n_query >= 64 and self._multiplications >= LARGE: any": _FREE,
    'common/knn_blocks.py: dtype = torch.bfloat16 if device == "cpu" and large and bfloat16_pays() else torch.float32: any': _FREE,
    'common/knn_blocks.py: self.workers = n_thread if large and device == "cpu" and n_thread <= WORKERS and _is_main_thread() '
    "else 1: any": _FREE,
    "common/knn_blocks.py: height = max(1, TILE // self.workers): any": _FREE,
    "common/knn_blocks.py: small = self._multiplications < SMALL: any": _FREE,
    "common/knn_blocks.py: if memory is None or len(memory) < height * width:: len(memory) < height * width -> "
    "len(memory) <= height * width": _FREE,
    "common/knn_blocks.py: group = max(1, min(GROUP, n // (4 * k))): 4 -> 5": _SLACK,
    "common/knn_blocks.py: group = max(1, min(GROUP, n // (4 * k))): 1 -> 2": _SLACK,
    "common/knn_blocks.py: large = out.numel() * queries.shape[1] >= SMALL: out.numel() * queries.shape[1] >= SMALL -> "
    "out.numel() * queries.shape[1] > SMALL": _FREE,
    "common/knn_blocks.py: def one_thread(*, blas: bool = True) -> Iterator[None]:: True -> False": _FREE,
    'common/knn_blocks.py: limits = threadpoolctl.threadpool_limits(1, "blas"): 1 -> 2': _FREE,
    "common/knn_blocks.py: for _ in range(4):: 4 -> 5": _FREE,
    "common/knn_blocks.py: return min(times[1:]): 1 -> 2": _FREE,
    "common/knn_blocks.py: return seconds(torch.float32) > 1.2 * seconds(torch.bfloat16): any": _FREE,
    'common/knn_blocks.py: coarse = unit if dtype == torch.float32 and device == "cpu" else torch.empty(n, dim, dtype=dtype, '
    "device=device): any": _FREE,
    "common/knn_blocks.py: extreme = (~((norms > 1e-15) & (norms < 1e15))).nonzero()[:, 0]: norms > 1e-15 -> norms >= 1e-15": _EDGE,
    "common/knn_blocks.py: extreme = (~((norms > 1e-15) & (norms < 1e15))).nonzero()[:, 0]: "
    "norms < 1000000000000000.0 -> norms <= 1000000000000000.0": _EDGE,
    "combinations/evidence.py: FLIPS = 1_000: 1000 -> 1001": _DRAWS,
    "uncertainty/winner.py: RESAMPLES = 1_000: 1000 -> 1001": _DRAWS,
    "uncertainty/scores.py: confidence: ArrayLike, *, bins: int = 15, draws: int = 2_000, seed: int = 0: 2000 -> 2001": _DRAWS,
    "uncertainty/intervals.py: BLOCK = 2**21: any": _FREE,
    "uncertainty/intervals.py: tail = (1 - level) / 2: 1 - level -> 1 + level": "both tails of t have the same ratio",
    "uncertainty/scores.py: n_class = int(max(label.max(initial=-1), predicted.max(initial=-1))) + 1: 1 -> 2": "a class that never "
    "occurs counts nowhere; nor does the last of no class",
    "uncertainty/scores.py: return (other & (near < CLOSE)).any(axis=1): near < CLOSE -> near <= CLOSE": _EDGE,
    "uncertainty/scores.py: rows = max(1, 2**22 // max(1, len(confidence))): any": _FREE,
    "uncertainty/sign_flips.py: words = rng.integers(0, 2**64, size=(n, -(-n_photo // 64)), dtype=np.uint64): 0 -> 1": "a word of "
    "2^64 that is never drawn",
    "uncertainty/sign_flips.py: reached[1] += np.count_nonzero(largest >= limits[:, None], axis=1): "
    "largest >= limits[:, None] -> largest > limits[:, None]": _TIES,
    "uncertainty/sign_flips.py: reached[0] += np.count_nonzero(largest >= limits[:, None], axis=1): "
    "largest >= limits[:, None] -> largest > limits[:, None]": _TIES,
    "uncertainty/intervals.py: q = np.where(product > ROUNDING**2, (n_photo - 1) * covariance**2 / "
    "np.maximum(product, ROUNDING**2), 0): product > ROUNDING ** 2 -> product >= ROUNDING ** 2": _EDGE,
    "evaluation/per_query.py: similarity = evaluator.search(of_label, 1)[0][:, 0]: 1 -> 2": "the second neighbour is not looked at",
    "evaluation/per_query.py: return np.bincount(codes[n:], minlength=codes.max() + 1)[codes[:n]]: 1 -> 2": "a count that nobody "
    "asks for",
    "evaluation/per_query.py: _BYTES = 1 << 28: any": _FREE,
    "evaluation/evaluator.py: KEPT = 64: any": _FREE,
    "evaluation/evaluator.py: FITTED = 4: any": _FREE,
    "evaluation/evaluator.py: if len(kept) >= limit:: len(kept) >= limit -> len(kept) > limit": _FREE,
    "evaluation/evaluator.py: row_of = np.full((len(codes), n_crop), -1): 1 -> 2": "any number below 0 is no row",
    "evaluation/fusion.py: nonzero = np.linalg.norm(total, axis=1) > 1e-6: np.linalg.norm(total, axis=1) > 1e-06 -> "
    "np.linalg.norm(total, axis=1) >= 1e-06": _EDGE,
    "annotations/records.py: size: tuple[int, int] = (0, 0): 0 -> 1": "read with run lengths only, which come with their size",
    "common/files.py: size = file.seek(0, os.SEEK_END): 0 -> 1": "reading ends with the file, wherever its end is thought to be",
    "common/files.py: if sync and fcntl:: sync and fcntl -> sync or fcntl": "a lock that nobody asks for",
}
