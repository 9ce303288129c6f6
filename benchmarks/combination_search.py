#!/usr/bin/env python3
"""All combinations of six embedding sets, sizes 1-3 crossed, against searching each anew with faiss.

python benchmarks/combination_search.py
python benchmarks/combination_search.py --rows 1000 --sample 20
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import bench
import numpy as np

from combinations import comparison
from combinations.search import enumerate_combinations
from common import knn
from common.embeddings import EmbeddingSet
from evaluation.codes import code_sets
from evaluation.evaluator import Evaluator
from evaluation.records import Combination, Rule

IDS = ("0", "5", "10", "20", "30", "40")


def views(split: str, n: int, dim: int, seed: int) -> list[EmbeddingSet]:
    """Return one set per ID: the same crops, five a photo, 100 classes, with noise of their own at each ID."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 100, n)
    base = np.random.default_rng(0).standard_normal((100, dim), dtype=np.float32)[label]
    base += 1.5 * rng.standard_normal((n, dim), dtype=np.float32)
    crops = np.array([f"{split}{i // 5}_{i}" for i in range(n)])
    samples = np.array([f"{split}{i // 5}" for i in range(n)])
    sets = []
    for identity in IDS:
        vectors = base + 2 * rng.standard_normal((n, dim), dtype=np.float32)
        meta = {"id": identity, "split": split, "dataset_name": "bench", "fingerprint": "bench"}
        sets.append(EmbeddingSet(vectors, label.astype(str)[:, None], crops, samples, crops, meta))
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000, help="references and queries of each set (5000)")
    parser.add_argument("--dim", type=int, default=768, help="dimensions (768)")
    parser.add_argument("--sample", type=int, default=20, help="combinations that faiss searches, a random sample (20)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, at least 5 (5)")
    args = parser.parse_args()
    import faiss

    references, queries = views("train", args.rows, args.dim, 1), views("test", args.rows, args.dim, 2)
    everything = enumerate_combinations(IDS, IDS, 1, 3, "crossed")
    chosen = np.random.default_rng(0).choice(len(everything), args.sample, replace=False)
    units = {("r", one.id): knn.unit(one.vectors) for one in references}
    units |= {("q", one.id): knn.unit(one.vectors) for one in queries}
    labels = {"r": references[0].label(), "q": queries[0].label()}

    def with_faiss(one: Combination) -> float:
        index = faiss.IndexFlatIP(args.dim)
        for r in one.reference_ids:
            index.add(units["r", r])
        found = index.search(np.concatenate([units["q", q] for q in one.query_ids]), 1)[1][:, 0]
        names = np.tile(labels["r"], len(one.reference_ids))
        return float((names[found] == np.tile(labels["q"], len(one.query_ids))).mean())

    def ours() -> list[float]:
        evaluator = Evaluator(code_sets(references, queries), Rule(fusion="stack"))
        tallies = dict(evaluator.tallies(everything))
        return [tallies[at].accuracy for at in range(len(everything))]

    def ours_with_statistics() -> None:
        evaluator = Evaluator(code_sets(references, queries), Rule(fusion="stack"))
        scored = {everything[at]: tally for at, tally in evaluator.tallies(everything)}
        comparison.compare_all(evaluator, scored, None, 0)

    accuracy = ours()
    unlike = [at for at in chosen if abs(accuracy[at] - with_faiss(everything[at])) > 1e-12]
    scale = len(everything) / args.sample
    name = f"{len(everything):,} combinations of 6 IDs, {args.rows:,} x {args.rows:,} x {args.dim}, k = 1"
    peer = {"faiss, each anew": lambda: [with_faiss(everything[at]) for at in chosen]}
    scales = {"faiss, each anew": scale}
    rows = bench.compare(name, ours, peers=peer, reach={"faiss, each anew": 100}, scale=scales, repeats=args.repeats)
    rows += [bench.figure(f"of {args.sample} combinations, accuracies unlike faiss's", len(unlike), 0, at_most=True)]
    work = "the same with intervals, differences and corrected p"
    rows += bench.compare(work, ours_with_statistics, peers={"ours, accuracies alone": ours}, repeats=args.repeats)
    bench.report("combinations", rows)


if __name__ == "__main__":
    main()
