#!/usr/bin/env python3
"""Time and peak memory at 1, 4 and 16 times the input: crop, extract, evaluate and Parquet, each as a process of its own.

Median time and largest memory of three runs.

python benchmarks/growth.py
python benchmarks/growth.py --scripts crop evaluate_combo
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose crop.py is not the script
sys.path.append(str(ROOT / "benchmarks"))

import bench
import cv2
import numpy as np

from common import embeddings

TIMES = (1, 4, 16)
DIM = 256
MEASURED = """
import importlib, re, sys, time
script = importlib.import_module(sys.argv[1])
assert script.main([*sys.argv[2:], "--quiet"]) == 0
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
print("\\n", time.process_time(), int(peak) / 1024)
"""
Sized = Callable[[Path, int], list[str]]  # a folder and the number of times -> the options that do that much work


def crop(folder: Path, times: int) -> list[str]:
    """8 photographs of 12 megapixels with 20 boxes, four paddings; the same files under as many names as it takes."""
    rng, boxes = np.random.default_rng(0), {}
    (folder / "images").mkdir()
    for i in range(8 * times):
        path = folder / "images" / f"{i}.jpg"
        if i < 8:
            coarse = rng.integers(0, 256, (375, 500, 3), np.uint8)
            cv2.imwrite(str(path), cv2.resize(coarse, (4000, 3000), interpolation=cv2.INTER_CUBIC))
        else:
            path.hardlink_to(folder / "images" / f"{i % 8}.jpg")
        corners = np.random.default_rng(i % 8).integers(0, 2000, (20, 2)).tolist()
        boxes[str(i)] = {
            str(j): {"points": {"top_left": corner, "bottom_right": [corner[0] + 500, corner[1] + 400]}, "sku_id": "a"}
            for j, corner in enumerate(corners)
        }
    (folder / "a.json").write_text(json.dumps(boxes))
    argv = ["--json_path", str(folder / "a.json"), "--image_folder", str(folder / "images")]
    return [*argv, "--output_root", str(folder / "pad_{padding}"), "--padding_percent", "0", "5", "10", "20"]


def extract(folder: Path, times: int) -> list[str]:
    """256 crops of 224 px, put through lite0."""
    rng = np.random.default_rng(0)
    (folder / "crops").mkdir()
    for i in range(256 * times):
        path = folder / "crops" / f"{i}.jpg"
        if i < 256:
            coarse = rng.integers(0, 256, (14, 14, 3), np.uint8)
            cv2.imwrite(str(path), cv2.resize(coarse, (224, 224), interpolation=cv2.INTER_CUBIC))
        else:
            path.hardlink_to(folder / "crops" / f"{i % 256}.jpg")
    argv = ["--model", "lite0", "--data_root", str(folder / "crops"), "--output_root", str(folder / "e")]
    return [*argv, "--compile", "off"]


def draw(folder: Path, split: str, n: int) -> Path:
    """Save n embeddings of 100 classes in shards of 100,000 rows."""
    centres = np.random.default_rng(0).standard_normal((100, DIM), dtype=np.float32)
    rng, count = np.random.default_rng(n), -(-n // 100_000)
    for shard in range(count):
        at = np.arange(shard * 100_000, min(n, (shard + 1) * 100_000))
        crops = np.array([f"{split}_{row // 10}_{row}" for row in at])
        vectors = centres[at % 100] + rng.standard_normal((len(at), DIM), dtype=np.float32)
        samples = np.array([f"{split}_{row // 10}" for row in at])
        meta = {"dataset_name": "drawn", "id": "0", "split": split, "fingerprint": "f" * 64, "model": "drawn"}
        one = embeddings.EmbeddingSet(vectors, (at % 100).astype(str)[:, None], crops, samples, crops, meta)
        embeddings.save(folder / f"drawn_0_{split}_{shard:05d}-of-{count:05d}.npz", one)
    return folder


def evaluate(folder: Path, times: int) -> list[str]:
    """2,000 queries against 50,000 references."""
    draw(folder, "train", 50_000 * times)
    draw(folder, "test", 2_000)
    return ["--train_npz", str(folder), "--test_npz", str(folder)]


def parquet(folder: Path, times: int) -> list[str]:
    """50,000 rows."""
    return ["--root", str(draw(folder, "train", 50_000 * times)), "--out", str(folder / "all.parquet")]


WORK: dict[str, Sized] = {
    "crop": crop,
    "extract_embedding": extract,
    "evaluate_combo": evaluate,
    "npz_to_parquet": parquet,
}


ANEW = {"crop": ["--overwrite"], "extract_embedding": ["--overwrite"]}  # else a second run has nothing to do


def measure(script: str, options: list[str], folder: Path) -> tuple[float, float]:
    """Return (seconds of processor time, peak resident memory in MiB) of one run of the script."""
    command = [sys.executable, "-c", MEASURED, script, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    seconds, peak = map(float, done.stdout.split()[-2:])
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", nargs="+", choices=WORK, default=WORK, help="which to run (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="runs at each size (default: %(default)s)")
    args = parser.parse_args()
    rows, notes = [], []
    for script in args.scripts:
        seconds, peaks = [], []
        for times in TIMES:
            with tempfile.TemporaryDirectory() as name:
                options = WORK[script](Path(name), times)
                runs = [measure(script, [*options, *ANEW.get(script, [])], Path(name)) for _ in range(args.repeats)]
            seconds.append(median(used for used, _ in runs))
            peaks.append(max(peak for _, peak in runs))
        # What does not grow (imports, loading the model) cancels in differences.
        slope = (seconds[2] - seconds[1]) / (seconds[1] - seconds[0]) / ((TIMES[2] - TIMES[1]) / (TIMES[1] - TIMES[0]))
        unit = str(WORK[script].__doc__).rstrip(".")
        rows.append(bench.figure(f"{script}: processor time of a further unit, 16x / 4x", slope, 1.1, at_most=True))
        rows.append(bench.figure(f"{script}: peak memory, 16x / 4x", peaks[2] / peaks[1], 1.1, at_most=True))
        told = ", ".join(f"{s:.1f} s and {p:.0f} MiB at {t}x" for s, p, t in zip(seconds, peaks, TIMES, strict=True))
        notes.append(f"{script}: 1x is {unit}; {told}")
    bench.report("growth", rows, notes)


if __name__ == "__main__":
    main()
