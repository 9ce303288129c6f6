#!/usr/bin/env python3
"""Which model and pooling should be the default? Every choice on several data sets, chosen on validation photos only.

python benchmarks/default_model.py grocery=../shared/data/grocery cards=crops/cards/pad_0 bccd=crops/bccd/pad_0
python benchmarks/default_model.py --most 1500 --models lite0 lite2 -- cards=crops/cards/pad_0

A data set is a crops folder, or a tree of class folders, with the splits train and val. References are the crops of train, queries
those of val; test is not looked at. The first choice is lite0 with mean, the default of earlier versions; the others are compared
with it on the same crops, p is corrected over the choices of a set. A model runs once over the crops; every pooling is taken from
the same feature maps, in fp32.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose crop.py is not the script

import numpy as np

from common import cli
from common.embeddings import EmbeddingSet
from common.messages import count, progress, table
from evaluation.codes import code_sets
from evaluation.evaluator import Evaluator
from evaluation.records import Combination, Rule
from imaging import crops, images
from imaging.crops import Manifest
from uncertainty import comparisons, intervals
from uncertainty.datasets import pooled_difference

POOLINGS = ("mean", "gem", "max", "mean+max")
BATCH, NORMAL = 32, 1.96


@dataclass(frozen=True)
class Row:
    """One choice on one data set: accuracy with its 95% interval, the difference from the first choice with its own, and p."""

    accuracy: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    p: float


def sample(manifest: Manifest, most: int | None) -> Manifest:
    """Return the crops of whole photos, drawn at random, until there are `most` of them."""
    if most is None or len(manifest) <= most:
        return manifest
    photos = np.random.default_rng(0).permutation(sorted({*manifest.sample_ids}))
    rows_of: dict[str, list[int]] = {}
    for row, photo in enumerate(manifest.sample_ids):
        rows_of.setdefault(photo, []).append(row)
    kept: list[int] = []
    for photo in photos:
        if len(kept) >= most:
            break
        kept += rows_of[photo]
    return manifest.take(sorted(kept))


def embed(model: str, manifests: Sequence[Manifest]) -> tuple[list[dict[str, np.ndarray]], float, float]:
    """Return for each manifest the vectors of every pooling, images per second, and the million weights of the model."""
    import torch

    from backbones.backbone import Normalised, pool
    from backbones.models import build

    backbone = build(model, pooling="mean")
    module = Normalised(backbone.module, backbone.preprocess).eval()
    found, seconds, n_image = [], 0.0, 0
    with ThreadPoolExecutor() as threads, torch.inference_mode():
        for manifest in manifests:
            vectors: dict[str, list[np.ndarray]] = {pooling: [] for pooling in POOLINGS}
            paths = [manifest.root / path for path in manifest.paths]
            starts = range(0, len(paths), BATCH)
            for start in progress(starts, total=len(starts), desc=model, unit="batch"):
                part = paths[start : start + BATCH]
                pixels = np.stack(list(threads.map(lambda path: backbone.preprocess(images.decode(path)), part)))
                clock = time.perf_counter()
                maps = module(torch.from_numpy(pixels))
                for pooling in POOLINGS:
                    vectors[pooling].append(pool(maps, (2, 3), pooling).numpy())
                seconds, n_image = seconds + time.perf_counter() - clock, n_image + len(part)
            found.append({pooling: np.concatenate(parts) for pooling, parts in vectors.items()})
    weights = sum(tensor.numel() for tensor in backbone.module.parameters()) / 1e6
    return found, n_image / seconds, weights


def compare(manifests: Sequence[Manifest], vectors: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Row]:
    """Return one row a choice: references are the first manifest, queries the second; each choice by its own nearest neighbour."""

    def sets(side: int) -> Iterator[EmbeddingSet]:
        one = manifests[side]
        crop_ids, sample_ids, paths = (np.array(values, str) for values in (one.crop_ids, one.sample_ids, one.paths))
        for choice, both in vectors.items():
            meta = {"id": choice, "fingerprint": choice}
            yield EmbeddingSet(both[side], one.labels, crop_ids, sample_ids, paths, meta)

    evaluator = Evaluator(code_sets(list(sets(0)), list(sets(1))), Rule())
    tallies = dict(evaluator.tallies([Combination((choice,), (choice,)) for choice in vectors]))
    found = [tallies[at] for at in range(len(vectors))]
    low, high = intervals.accuracy_intervals(
        np.stack([tally.image_right[1] for tally in found]), np.stack([tally.image_size for tally in found])
    )
    right = np.stack([tally.matched_right for tally in found])
    size = evaluator.coded.matched_sizes
    paired = comparisons.paired_comparison(right[1:] - right[0], size, baseline=right[0])
    gaps = np.stack([paired.difference, paired.low, paired.high, paired.p], axis=1)
    gaps = np.concatenate([[[0, 0, 0, np.nan]], gaps])
    return {
        choice: Row(found[at].accuracy, float(low[at]), float(high[at]), *gaps[at].tolist())
        for at, choice in enumerate(vectors)
    }


def overview(rows: dict[str, dict[str, Row]], speeds: dict[str, tuple[float, float]]) -> str:
    """Return one line a choice: its mean, its gain over the first pooled over data sets, where it loses, time and size."""
    lines = []
    for choice in next(iter(rows.values())):
        own = [of_set[choice] for of_set in rows.values()]
        spread = [((row.difference_high - row.difference_low) / (2 * NORMAL)) ** 2 for row in own]
        pooled = pooled_difference([row.difference for row in own], spread)
        loses = [name for name, of_set in rows.items() if of_set[choice].difference_high < 0]
        speed, weights = speeds[choice.rpartition(" ")[0]]
        first = np.isnan(own[0].p)
        gain = "" if first else f"{pooled.mean:+.3f} ({pooled.low:+.3f} to {pooled.high:+.3f})"
        mean = float(np.mean([row.accuracy for row in own]))
        lines.append([choice, f"{mean:.3f}", gain, ", ".join(loses) or "-", f"{speed:.1f}", f"{weights:.1f}"])
    return table(["choice", "mean accuracy", "gain, pooled over sets", "loses on", "images/s", "M weights"], lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER", help="crops folders with the splits train and val")
    parser.add_argument(
        "--models", nargs="+", default=["lite0", "lite2"], help="the others are compared with the first"
    )
    parser.add_argument("--most", type=cli.whole(1), help="crops of a split at most, as whole photos (default: all)")
    args = parser.parse_args()
    named = {name: Path(folder) for name, _, folder in (text.partition("=") for text in args.sets)}
    sides = {
        name: [sample(crops.read(folder, splits=[split]), args.most) for split in ("train", "val")]
        for name, folder in named.items()
    }
    speeds: dict[str, tuple[float, float]] = {}
    vectors: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in sides}
    for model in args.models:
        found, *speed = embed(model, list(itertools.chain(*sides.values())))
        speeds[model] = speed[0], speed[1]
        for at, (name, pooling) in enumerate(itertools.product(sides, POOLINGS)):
            both = found[2 * (at // len(POOLINGS)) : 2 * (at // len(POOLINGS)) + 2]
            vectors[name][f"{model} {pooling}"] = [one[pooling] for one in both]
    rows = {name: compare(both, vectors[name]) for name, both in sides.items()}
    for name, of_set in rows.items():
        references, queries = sides[name]
        print(f"{name}: {len(references):,} references, {count(len(queries), 'query', 'queries')} of val")
        cells = [
            (
                choice,
                f"{row.accuracy:.3f} ({row.low:.3f} to {row.high:.3f})",
                ""
                if np.isnan(row.p)
                else f"{row.difference:+.3f} ({row.difference_low:+.3f} to {row.difference_high:+.3f})",
                "" if np.isnan(row.p) else f"{row.p:.3f}",
            )
            for choice, row in of_set.items()
        ]
        print(table(["choice", "accuracy", "gain", "corrected p"], cells), end="\n\n")
    print(overview(rows, speeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
