#!/usr/bin/env python3
"""Search in 100,000 rows x 128, warm, features apart: exactly over .npz files, through index files of faiss and Milvus Lite.

python benchmarks/search.py
python benchmarks/search.py --rows 20000 --index_types HNSW
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import bench
import numpy as np

from common import embeddings
from common.embedding_sets import read_sets, read_shards
from indexes import opening
from retrieval import scores
from retrieval.exact import ExactSearch
from retrieval.items import References

BATCH, K = 100, 10


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    """Return (n, dim) float32 around one centre per 100 rows."""
    centres = np.random.default_rng(0).standard_normal((1000, dim), dtype=np.float32)
    rng = np.random.default_rng(seed)
    return centres[rng.integers(0, len(centres), n)] + 0.5 * rng.standard_normal((n, dim), dtype=np.float32)


def write(folder: Path, rows: np.ndarray) -> list[Path]:
    """Write the rows as two sets and return their files."""
    paths = []
    for number, part in enumerate(np.array_split(rows, 2)):
        names = np.array([f"photo_{number}_{row}" for row in range(len(part))])
        labels = np.array([[f"class_{row % 100}"] for row in range(len(part))])
        meta = {"dataset_name": "bench", "id": str(number), "split": "train", "fingerprint": "f"}
        paths.append(folder / f"bench_{number}_train.npz")
        files = np.char.add(names, ".jpg")
        embeddings.save(paths[-1], embeddings.EmbeddingSet(part, labels, names, names, files, meta))
    return paths


def timed(references: References, queries: np.ndarray, repeats: int) -> tuple[float, float]:
    """Return the median milliseconds of a query, alone and in batches of BATCH."""

    def run(some: np.ndarray) -> float:
        started = time.perf_counter()
        references.search(some, K)
        return 1e3 * (time.perf_counter() - started) / len(some)

    run(queries[:1]), run(queries[:BATCH])
    alone = [run(queries[row : row + 1]) for row in range(5 * repeats)]
    return median(alone), median(run(queries[:BATCH]) for _ in range(repeats))


def exact_figures(exact: ExactSearch, rows: np.ndarray, queries: np.ndarray, repeats: int) -> list:
    """Exact search over the files against faiss over the same rows in memory."""
    import faiss

    unit, unit_queries = rows.copy(), queries.copy()
    faiss.normalize_L2(unit)
    faiss.normalize_L2(unit_queries)
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(unit)
    exact.search(queries[:1], K)
    figures = bench.compare(
        "exact over npz, one query",
        lambda: exact.search(queries[:1], K),
        peers={"faiss, rows normalised and in memory": lambda: flat.search(unit_queries[:1], K)},
        repeats=4 * repeats,
    )
    figures += bench.compare(
        f"exact over npz, {BATCH} queries",
        lambda: exact.search(queries, K),
        peers={"faiss, rows normalised and in memory": lambda: flat.search(unit_queries, K)},
        repeats=repeats,
    )
    alone, batch = timed(exact, queries, repeats)
    figures.append(bench.figure("exact over npz, one query", alone, 15, unit="ms", at_most=True))
    figures.append(bench.figure(f"exact over npz, a query of {BATCH}", batch, unit="ms"))
    return figures


def index_figures(
    kind: str, uri: str, name: str | None, files: list[Path], queries: np.ndarray, truth: list, repeats: int
) -> list:
    """Build an index of the files, then time it and count how many of the exact results it finds."""
    approximate, in_file = kind != "FLAT", opening.is_file(uri)
    what = f"{'faiss' if in_file else 'Milvus'} {kind}"
    started = time.perf_counter()
    opening.build(uri, name, read_shards(files), index_type=kind, batch_size=5000)
    figures = [bench.figure(f"{what}, build", time.perf_counter() - started, unit="s")]
    started = time.perf_counter()
    with opening.open_index(uri, name) as index:
        index.search(queries[:1], K)
        figures.append(bench.figure(f"{what}, open and first query", time.perf_counter() - started, unit="s"))
        alone, batch = timed(index, queries, repeats)
        recall = scores.agreement(index.search(queries, K), truth)
    limits = (15 if in_file else 50, 3) if approximate or in_file else (None, None)
    figures.append(bench.figure(f"{what}, one query", alone, limits[0], unit="ms", at_most=True))
    figures.append(bench.figure(f"{what}, a query of {BATCH}", batch, limits[1], unit="ms", at_most=True))
    figures.append(bench.figure(f"{what}, recall of the exact {K}", recall, 0.9 if approximate else 0.999))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows searched (100000)")
    parser.add_argument("--dim", type=int, default=128, help="dimensions (128)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, at least 5 (5)")
    parser.add_argument(
        "--index_types", nargs="+", default=["HNSW", "IVF_FLAT", "IVF_SQ8", "FLAT"], help="indexes (all four)"
    )
    parser.add_argument("--uri", help="a Milvus server to build on (default: Milvus Lite files)")
    parser.add_argument(
        "--milvus", choices=("yes", "no"), default="yes", help="measure Milvus beside index files (yes)"
    )
    args = parser.parse_args()
    rows, queries = clustered(args.rows, args.dim, 1), clustered(BATCH, args.dim, 2)
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), rows)
        exact = ExactSearch(read_sets(files))
        figures = exact_figures(exact, rows, queries, args.repeats)
        truth = exact.search(queries, K)
        for kind in args.index_types:
            places: list[tuple[str, str | None]] = [(str(Path(folder) / f"{kind}.faiss"), None)]
            if args.milvus == "yes":
                places.append((args.uri or str(Path(folder) / f"{kind}.db"), f"bench_{kind}"))
            for uri, name in places:
                figures += index_figures(kind, uri, name, files, queries, truth, args.repeats)
    lite = "Milvus Lite 3 is Python: whatever the index, every query goes once through the keys of all rows."
    bench.report(
        "search_server" if args.uri else "search",
        figures,
        notes=[
            f"{args.rows:,} rows x {args.dim}, {K} results with labels and paths, features apart, the process warm; medians.",
            f"Milvus at {args.uri}" if args.uri else lite,
        ],
    )


if __name__ == "__main__":
    main()
