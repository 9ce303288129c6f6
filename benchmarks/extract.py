#!/usr/bin/env python3
"""Embedding 224-px JPEG crops: extract_embedding.py's loop against its limit and against a plain fp32 DataLoader loop.

python benchmarks/extract.py
python benchmarks/extract.py --models tf_efficientnet_lite0 --images 512
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder
sys.path.append(str(ROOT / "benchmarks"))

import bench
import cv2
import numpy as np
import torch

from backbones.preprocess import Preprocess
from embedding import extraction
from embedding.embedder import Embedder
from embedding.embedder import load as load_model
from embedding.extraction import Batch
from engines.precision import cosines, multiplies_bf16
from imaging import images

MODELS = ("tf_efficientnet_lite0", "resnet50", "vit_small_patch16_224")
BATCH = 64
CORES = len(os.sched_getaffinity(0))


def draw(folder: Path, n: int) -> list[Path]:
    """Write n crops of 224 px with shapes of several sizes, edges and grain, and return their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        picture = np.full((224, 224, 3), rng.integers(0, 256, 3), np.uint8)
        for _ in range(12):
            (x, y), (w, h) = rng.integers(-40, 224, 2), rng.integers(8, 160, 2)
            color = tuple(map(int, rng.integers(0, 256, 3)))
            cv2.rectangle(picture, (int(x), int(y)), (int(x + w), int(y + h)), color, -1)
        cv2.putText(picture, f"{i:04d}", (20, 130), cv2.FONT_HERSHEY_SIMPLEX, 2, (255, 255, 255), 3)
        noisy = np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{i}.jpg")
        cv2.imwrite(str(paths[-1]), noisy, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return paths


def ready(name: str, sample: np.ndarray, *, best: bool) -> tuple[Embedder, str]:
    """Return the embedder in fp32, or in its best setting and what that is."""
    weights = None if name == MODELS[0] else "random"
    torch.manual_seed(0)
    embedder = load_model(name, weights=weights, precision="auto" if best else "fp32", device="auto")
    said = "fp32"
    if best:
        embedder.settle(lambda: sample)
        seconds = embedder.compile(extraction.fill(sample, BATCH))
        said = embedder.precision + (f", compiled in {seconds:.0f} s" if seconds is not None else ", not compiled")
    return embedder, said


class Limit:
    """Decoding and resizing alone, then the model alone, on all cores, in the setting that the script uses."""

    def __init__(self, paths: list[Path], embedder: Embedder) -> None:
        self.paths, self.embedder, self.pool = paths, embedder, ThreadPoolExecutor(CORES)
        self.batches = [
            extraction.stack(self._decode(paths[i : i + BATCH]), embedder.preprocess, BATCH) for i in starts(paths)
        ]

    def _decode(self, paths: list[Path]) -> list[np.ndarray]:
        return list(self.pool.map(lambda path: self.embedder.preprocess(images.decode(path)), paths))

    def decode(self) -> None:
        self._decode(self.paths)

    def model(self) -> None:
        for batch in self.batches:
            self.embedder(batch)

    def both(self) -> None:
        self.decode()
        self.model()


class Crops(torch.utils.data.Dataset):
    """The usual data set: PIL and torchvision's transforms."""

    def __init__(self, paths: list[Path], own: Preprocess) -> None:
        from torchvision import transforms

        steps = [
            transforms.Resize((own.height, own.width)),
            transforms.ToTensor(),
            transforms.Normalize(own.mean, own.std),
        ]
        self.paths, self.transform = paths, transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> torch.Tensor:
        from PIL import Image

        return self.transform(Image.open(self.paths[at]).convert("RGB"))


def plain(paths: list[Path], embedder: Embedder, module: torch.nn.Module) -> None:
    """The usual loop: DataLoader with a worker a core, fp32, no gradients."""
    loader = torch.utils.data.DataLoader(Crops(paths, embedder.preprocess), BATCH, num_workers=CORES)
    with torch.no_grad():
        for batch in loader:
            module(batch.to(embedder.device)).cpu().numpy()


def starts(paths: list[Path]) -> range:
    return range(0, len(paths), BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="timm names (default: %(default)s)")
    parser.add_argument("--images", type=int, default=256, help="crops, whole batches of 64 (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    args = parser.parse_args()
    import timm

    rows, notes = [], []
    with tempfile.TemporaryDirectory() as name:
        paths = draw(Path(name), args.images)
        for model in args.models:
            exact, _ = ready(model, np.empty((0,)), best=False)
            sample = extraction.sample(lambda row: images.decode(paths[row]), len(paths), exact.preprocess)
            embedder, setting = ready(model, sample, best=True)
            own = [batch.vectors for batch in run(paths, embedder)]
            least = cosines(np.concatenate(own), np.concatenate([b.vectors for b in run(paths, exact)])).min()
            rows.append(bench.figure(f"{model} ({setting}): least cosine to fp32", float(least), 0.9995))
            del exact
            limit = Limit(paths, embedder)
            module = timm.create_model(model, num_classes=0).eval().to(embedder.device)
            overlap = embedder.device.type != "cpu"
            rows += bench.compare(
                f"{model}, {args.images} crops",
                lambda paths=paths, embedder=embedder: list(run(paths, embedder)),
                peers={"plain fp32 DataLoader loop": lambda e=embedder, m=module: plain(paths, e, m)},
                limits={"the model alone": limit.model, "decode and resize alone": limit.decode}
                if overlap
                else {"decode and resize alone, then the model alone": limit.both},
                reach={
                    "plain fp32 DataLoader loop": 3,
                    "decode and resize alone, then the model alone": 0.95,
                },
                repeats=args.repeats,
            )
            notes.append(f"{model}: {args.images / rows[-1]['ours_s']:.0f} images/s, {setting}")
    if not multiplies_bf16(torch.device("cpu")):
        notes.append("this processor does not multiply bfloat16: fp32 only")
    bench.report("extract", rows, notes)


def run(paths: list[Path], embedder: Embedder) -> Iterator[Batch]:
    return embedder.embed(paths, batch_size=BATCH, workers=CORES)


if __name__ == "__main__":
    main()
