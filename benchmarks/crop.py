#!/usr/bin/env python3
"""Four paddings of 20 boxes from 12-megapixel JPEGs: crop.py in one pass against an OpenCV loop that runs four times.

python benchmarks/crop.py
python benchmarks/crop.py --images 24 --repeats 7
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose crop.py is not the script
sys.path.append(str(ROOT / "benchmarks"))

import bench
import cv2
import numpy as np

import crop
from annotations.formats import parse
from annotations.records import Object
from boxes import resizing
from boxes.padding import Padding, place
from imaging import images

PADDINGS = (0, 5, 10, 20)
SIZE = (224, 224)
CORES = len(os.sched_getaffinity(0))


def draw(folder: Path, n: int, width: int = 4000, height: int = 3000, seed: int = 0) -> None:
    """Write n JPEGs of about 4 MB, each with 20 boxes of 100 to 1,000 px, and annotations.json."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    annotations = {}
    for i in range(n):
        image = np.zeros((height, width, 3), np.float32)
        for cell in (8, 64, 512):  # shapes of several sizes, and the grain of a sensor
            coarse = rng.uniform(-70, 70, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
            image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        image += rng.normal(128, 5, image.shape)
        cv2.imwrite(
            str(folder / "images" / f"{i}.jpg"), np.clip(image, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90]
        )
        objects = {}
        for j in range(20):
            w, h = (int(value) for value in rng.integers(100, 1001, 2))
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            points = {"top_left": [x, y], "bottom_right": [x + w, y + h]}
            objects[str(j)] = {"points": points, "sku_id": f"class{j % 5}", "split_id": "train"}
        annotations[str(i)] = objects
    (folder / "annotations.json").write_text(json.dumps(annotations))


def arguments(folder: Path, out: Path) -> list[str]:
    """Return the options of crop.py for all paddings at once."""
    argv = ["--json_path", str(folder / "annotations.json"), "--image_folder", str(folder / "images"), "--overwrite"]
    argv += ["--output_root", str(out / "pad_{padding}"), "--padding_percent", *map(str, PADDINGS)]
    return [*argv, "--workers", str(CORES), "--quiet"]


def crop_once(folder: Path, out: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert crop.main(arguments(folder, out)) == 0


def opencv_image(job: tuple[Path, Path, list[Object], int]) -> None:
    """The usual loop: imread, slice, resize, imwrite."""
    path, out, objects, percent = job
    cv2.setNumThreads(1)
    image = np.asarray(cv2.imread(str(path)))
    height, width = image.shape[:2]
    for item in objects:
        box = item.box
        x_pad, y_pad = box.width * percent / 100, box.height * percent / 100
        left, top = max(round(box.left - x_pad), 0), max(round(box.top - y_pad), 0)
        right, bottom = min(round(box.right + x_pad), width), min(round(box.bottom + y_pad), height)
        cut = image[top:bottom, left:right]
        shrink = cut.shape[0] * cut.shape[1] > SIZE[0] * SIZE[1]
        cut = cv2.resize(cut, SIZE, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
        target = out / f"pad_{percent}" / item.split / item.classes[0] / f"{item.crop_id}.jpg"
        cv2.imwrite(str(target), cut, [cv2.IMWRITE_JPEG_QUALITY, 95])


def opencv_passes(folder: Path, out: Path, by_image: dict[str, list[Object]]) -> None:
    """Run the loop once for each padding, on as many processes as crop.py has threads."""
    for percent in PADDINGS:
        for items in by_image.values():
            for item in items:
                (out / f"pad_{percent}" / item.split / item.classes[0]).mkdir(parents=True, exist_ok=True)
        jobs = [(folder / "images" / f"{name}.jpg", out, items, percent) for name, items in by_image.items()]
        with multiprocessing.get_context("fork").Pool(CORES) as pool:
            pool.map(opencv_image, jobs, chunksize=1)


class Limit:
    """Decoding, resizing and encoding and nothing else, each on its own, on as many threads."""

    def __init__(self, folder: Path, by_image: dict[str, list[Object]]) -> None:
        self.files = [images.load(folder / "images" / f"{name}.jpg") for name in by_image]
        self.items = list(by_image.values())
        self.pool = ThreadPoolExecutor(CORES)

    def __call__(self) -> None:
        decoded = list(self.pool.map(lambda file: file.decode(), self.files))
        crops = list(self.pool.map(self._resize, decoded, self.items))
        list(self.pool.map(lambda batch: [images.encode(cut, "jpg") for cut in batch], crops))

    def _resize(self, image: np.ndarray, items: list[Object]) -> list[np.ndarray]:
        size = (image.shape[1], image.shape[0])
        regions = [place(item.box, Padding(p), size, max_pixels=10**9) for p in PADDINGS for item in items]
        return [resizing.squash(resizing.cut(image, region), SIZE) for region in regions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16, help="12-megapixel JPEGs (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, args.images)
        by_image: dict[str, list[Object]] = {}
        for item in parse((folder / "annotations.json").read_bytes(), "annotations.json"):
            assert isinstance(item, Object)
            by_image.setdefault(item.image, []).append(item)
        rows = bench.compare(
            f"crop {args.images} images, 4 paddings",
            lambda: crop_once(folder, folder / "ours"),
            peers={"four passes of an OpenCV loop": lambda: opencv_passes(folder, folder / "theirs", by_image)},
            limits={"decode + resize + encode": Limit(folder, by_image)},
            reach={"four passes of an OpenCV loop": 2.3, "decode + resize + encode": 0.9},
            repeats=args.repeats,
        )
    bench.report("crop", rows)


if __name__ == "__main__":
    main()
