#!/usr/bin/env python3
"""The whole padding study of `make demo`: examples/padding_sweep.sh against the plain way.

python benchmarks/study.py
python benchmarks/study.py --shelves 6 --repeats 5

The plain way: one pass of an OpenCV loop for each padding, a DataLoader and the model in fp32, each combination searched anew with
scikit-learn, pickled vectors as Python lists in Parquet, umap-learn on all rows. It computes no intervals, no p, no report. It is
one process, ours are five: both import and load what they need in every round.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose crop.py is not the script
sys.path.append(str(ROOT / "benchmarks"))

import bench
import numpy as np

from annotations.formats import parse
from annotations.records import Object
from combinations.search import enumerate_combinations

PADDINGS = ("0", "5", "10", "20", "40")
CORES = len(os.sched_getaffinity(0))


def sweep(shelf: Path, out: Path) -> None:
    """Our way: what `make demo` runs once the shelf is drawn, from nothing."""
    shutil.rmtree(out, ignore_errors=True)
    environment = {**os.environ, "PYTHON": sys.executable, "PADDINGS": " ".join(PADDINGS)}
    command = ["bash", str(ROOT / "examples/padding_sweep.sh"), str(shelf), str(out)]
    subprocess.run(command, env=environment, check=True, capture_output=True)


class Plain:
    """The plain way."""

    def __init__(self, shelf: Path, out: Path) -> None:
        import timm
        import torch

        from backbones import models

        self.shelf, self.out = shelf, out
        path = shelf / "annotations_sku.json"
        self.objects = [item for item in parse(path.read_bytes(), path) if isinstance(item, Object)]
        whole: Any = models.build("tf_efficientnet_lite0")
        self.model: Any = timm.create_model("tf_efficientnet_lite0", num_classes=0)
        self.model.load_state_dict(whole.module.state_dict(), strict=False)
        self.model.eval()
        self.labels = np.array(["/".join(item.classes) for item in self.objects])
        self.splits = np.array([item.split for item in self.objects])
        self.torch = torch

    def crop(self, padding: str) -> list[Path]:
        """Decode, slice, resize and write each object."""
        import cv2

        folder, paths, last = self.out / f"pad_{padding}", [], ""
        folder.mkdir(parents=True, exist_ok=True)
        images = {path.stem: path for path in (self.shelf / "images").iterdir()}
        for item in self.objects:
            if item.image != last:
                picture, last = np.asarray(cv2.imread(str(images[item.image]))), item.image
            box, p = item.box, float(padding) / 100
            left, right = round(box.left - box.width * p), round(box.right + box.width * p)
            top, bottom = round(box.top - box.height * p), round(box.bottom + box.height * p)
            cut = picture[max(top, 0) : bottom, max(left, 0) : right]
            paths.append(folder / f"{item.crop_id}.jpg")
            cv2.imwrite(str(paths[-1]), cv2.resize(cut, (224, 224), interpolation=cv2.INTER_AREA))
        return paths

    def embed(self, paths: list[Path]) -> np.ndarray:
        from extract import Crops

        size = types.SimpleNamespace(height=224, width=224, mean=(0.5,) * 3, std=(0.5,) * 3)  # of lite0
        loader = self.torch.utils.data.DataLoader(Crops(paths, size), 64, num_workers=CORES)
        with self.torch.no_grad():
            return np.concatenate([self.model(batch).numpy() for batch in loader])

    def evaluate(self, sets: dict[str, np.ndarray], combinations: list[Any]) -> None:
        """Search each combination anew."""
        from sklearn.neighbors import KNeighborsClassifier

        for one in combinations:
            for split in ("val", "test"):
                train, query = self.splits == "train", self.splits == split
                gallery = np.concatenate([sets[r][train] for r in one.reference_ids])
                labels = np.tile(self.labels[train], len(one.reference_ids))
                knn = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(gallery, labels)
                knn.score(
                    np.concatenate([sets[q][query] for q in one.query_ids]),
                    np.tile(self.labels[query], len(one.query_ids)),
                )

    def explore(self, sets: dict[str, np.ndarray]) -> None:
        """One Parquet file with a map."""
        import pandas as pd
        from umap import UMAP

        vectors = np.concatenate(list(sets.values()))
        x, y = UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(vectors).T
        pd.DataFrame({"embedding": vectors.tolist(), "x": x, "y": y}).to_parquet(self.out / "all.parquet")

    def __call__(self) -> None:
        sets = {padding: self.embed(self.crop(padding)) for padding in PADDINGS}
        self.evaluate(sets, enumerate_combinations(PADDINGS, PADDINGS, 1, 2, "crossed"))
        self.explore(sets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--plain", nargs=2, type=Path, metavar="DIR", help="go the plain way once: shelf and output folder"
    )
    parser.add_argument("make_shelf", nargs="*", help="options for examples/make_shelf.py, after --")
    args = parser.parse_args()
    if args.plain:
        Plain(*args.plain)()
        return
    with tempfile.TemporaryDirectory() as name:
        shelf, out = Path(name) / "shelf", Path(name) / "out"
        draw = [sys.executable, str(ROOT / "examples/make_shelf.py"), "--output_root", str(shelf), *args.make_shelf]
        subprocess.run(draw, check=True, capture_output=True)
        path = shelf / "annotations_sku.json"
        n = sum(isinstance(item, Object) for item in parse(path.read_bytes(), path))
        plain = [sys.executable, __file__, "--plain", str(shelf), str(Path(name) / "plain")]
        rows = bench.compare(
            f"the study of make demo, {n:,} objects, 5 paddings",
            lambda: sweep(shelf, out),
            peers={"the plain way": lambda: subprocess.run(plain, check=True, capture_output=True)},
            reach={"the plain way": 3},
            repeats=args.repeats,
            warm_up=False,
        )
    bench.report("study", rows, [f"rounds, s: {rows[0]['rounds']}"])


if __name__ == "__main__":
    main()
