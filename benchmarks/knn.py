#!/usr/bin/env python3
"""Exact cosine k-NN, 5,000 queries x 100,000 references x 768: common.knn against faiss's exact search.

python benchmarks/knn.py
python benchmarks/knn.py --references 20000 --repeats 5
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import bench
import numpy as np

from common import embeddings, knn
from common.knn_blocks import BLOCK_ROWS, TILE, bfloat16_pays

PEAK = """
import re, sys
import numpy as np
from common import knn
rows = np.random.default_rng(0).standard_normal((50_000, 768), dtype=np.float32)
knn.search(rows[:100], rows[:100], 20)
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024
before = peak()
knn.search(rows[: int(sys.argv[1])], [rows] * int(sys.argv[2]), 20)
print(peak() - before)
"""


def clustered(n_query: int, n_reference: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 vectors of any length around one centre per 100 references; 2 % of the references are copies."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n_reference // 100), dim), dtype=np.float32)

    def draw(n: int) -> np.ndarray:
        rows = 0.5 * rng.standard_normal((n, dim), dtype=np.float32) + centres[rng.integers(0, len(centres), n)]
        return rows * rng.uniform(0.5, 2, (n, 1)).astype(np.float32)

    query, reference = draw(n_query), draw(n_reference)
    copies = rng.choice(n_reference, n_reference // 50, replace=False)
    reference[copies] = reference[rng.choice(n_reference, len(copies))]
    query[: n_query // 50] = reference[rng.choice(n_reference, n_query // 50)]
    return query, reference


def rows_unlike(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray], unit: np.ndarray, query: np.ndarray
) -> int:
    """Count rows that differ by more than 1e-6 in a score, or name a reference whose score is not within 1e-6."""
    unlike = (np.abs(ours[0] - theirs[0]) > 1e-6).any(axis=1)
    row, rank = np.nonzero(ours[1] != theirs[1])
    own = np.einsum("nd,nd->n", query[row].astype(np.float64), unit[ours[1][row, rank]])
    unlike[row[np.abs(own - theirs[0][row, rank]) > 1e-6]] = True
    return int(unlike.sum())


def against_faiss(query: np.ndarray, reference: np.ndarray, unit: tuple[np.ndarray, np.ndarray], repeats: int) -> list:
    """The search itself, for k = 20 and 1, and how many rows of it are unlike faiss's."""
    import faiss
    import torch

    unit_query, unit_reference = unit
    index = faiss.IndexFlatIP(reference.shape[1])
    index.add(unit_reference)
    coarse = [torch.from_numpy(rows).bfloat16() for rows in unit]
    product = torch.empty(TILE, BLOCK_ROWS, dtype=torch.bfloat16)

    def from_raw(k: int) -> None:
        rows, queries = reference.copy(), query.copy()  # faiss normalises in place
        faiss.normalize_L2(rows)
        faiss.normalize_L2(queries)
        fresh = faiss.IndexFlatIP(reference.shape[1])
        fresh.add(rows)
        fresh.search(queries, k)

    def multiply() -> None:
        for r in coarse[1].split(BLOCK_ROWS):
            for q in coarse[0].split(TILE):
                torch.mm(q, r.T, out=product[: len(q), : len(r)])

    figures = []
    for k in (20, 1):
        unlike = rows_unlike(knn.search(query, reference, k), index.search(unit_query, k), unit_reference, unit_query)
        figures.append(bench.figure(f"k = {k}, rows unlike faiss's beyond 1e-6", unlike, 0, at_most=True))
        figures += bench.compare(
            f"k = {k}, from arrays of any length",
            lambda k=k: knn.search(query, reference, k),
            peers={
                "faiss, search alone": lambda k=k: index.search(unit_query, k),
                "faiss, from the same arrays": lambda k=k: from_raw(k),
            },
            limits={"the bfloat16 products alone": multiply} if bfloat16_pays() else {},
            reach={"faiss, search alone": aim(), "faiss, from the same arrays": aim()},
            repeats=repeats,
        )
    return figures


def aim() -> float:
    """The ratio to reach: bfloat16 is worth it where the processor multiplies it."""
    return 1.5 if "amx_bf16" in bench.machine()["instructions"] else 1.0


def from_files(query: np.ndarray, reference: np.ndarray, repeats: int) -> list:
    """The same search over memory-mapped files."""
    with tempfile.TemporaryDirectory() as folder:
        mapped = []
        for number, part in enumerate(np.array_split(reference, 4)):
            path = Path(folder) / f"part_{number}.npz"
            none = np.full(len(part), "")
            embeddings.save(path, embeddings.EmbeddingSet(part, none[:, None], none, none, none, {}))
            mapped.append(embeddings.load(path).vectors)
        return bench.compare(
            "k = 20, references in 4 memory-mapped npz",
            lambda: knn.search(query, mapped, 20),
            peers={"ours, references in memory": lambda: knn.search(query, reference, 20)},
            repeats=repeats,
        )


def among_themselves(rows: np.ndarray, unit: np.ndarray, repeats: int) -> list:
    """The neighbours of each row among the other rows, as UMAP and --neighbors want them."""
    import faiss

    among = faiss.IndexFlatIP(rows.shape[1])
    among.add(unit)
    return bench.compare(
        f"the 15 nearest of each of {len(rows):,} rows among themselves",
        lambda: knn.search_self(rows, 15),
        peers={
            "ours, a search of 16": lambda: knn.search(rows, rows, 16),
            "faiss, search alone": lambda: among.search(unit, 16),
        },
        reach={"faiss, search alone": aim()},
        repeats=repeats,
    )


def memory() -> list:
    figures = []
    for n_query, shards in ((5_000, 2), (200, 20)):
        command = [sys.executable, "-c", PEAK, str(n_query), str(shards)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        work = f"temporary memory, {n_query:,} x {shards * 50_000:,} x 768"
        figures.append(bench.figure(work, float(done.stdout), 1024, unit="MiB", at_most=True))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=5_000, help="number of queries (5000)")
    parser.add_argument("--references", type=int, default=100_000, help="number of references (100000)")
    parser.add_argument("--dim", type=int, default=768, help="dimensions (768)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, at least 5 (5)")
    args = parser.parse_args()
    import faiss

    query, reference = clustered(args.queries, args.references, args.dim)
    unit = query.copy(), reference.copy()
    for rows in unit:
        faiss.normalize_L2(rows)
    quarter = slice(args.references // 4)
    figures = [
        *against_faiss(query, reference, unit, args.repeats),
        *from_files(query, reference, args.repeats),
        *among_themselves(reference[quarter], unit[1][quarter], args.repeats),
        *memory(),
    ]
    bench.report(
        "knn",
        figures,
        notes=[
            "Ours checks and normalises its input in every run; faiss's search alone has it normalised and indexed before.",
            f"The coarse type here is {'bfloat16' if bfloat16_pays() else 'float32'}. Reach: 1.5 with AMX, 1.0 without.",
        ],
    )


if __name__ == "__main__":
    main()
