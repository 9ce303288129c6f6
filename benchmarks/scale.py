#!/usr/bin/env python3
"""What the whole study costs from 10,000 to a billion crops: constants measured here, a model, and runs that check it.

python benchmarks/scale.py
python benchmarks/scale.py --checks 10000 100000 --skip_cluster

Each stage runs as a process of its own at a few small sizes; its fixed time and its time per unit are the least-squares fit. The
model adds them up for other sizes and for clusters of such nodes. The checks are real runs at sizes that the fit has not seen.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose crop.py is not the script
sys.path.append(str(ROOT / "benchmarks"))

import bench
import growth
import numpy as np

from imaging import crops
from indexes.index_types import index_size, plans

PADDINGS, PER_IMAGE = 4, 20
DISK = 1e9  # bytes a second that the shared file system is taken to give to all nodes together
SIZES, NODES = [10**n for n in range(4, 10)], (1, 10, 100, 1000)
QUERIES = 2_000


def seconds(script: str, options: list[str], folder: Path) -> tuple[float, float, str]:
    """Return (wall seconds, peak MiB, stderr) of one run of a script."""
    start = time.perf_counter()
    command = [sys.executable, "-c", growth.MEASURED.replace(', "--quiet"', ""), script, *options]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**growth.os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - start, float(done.stdout.split()[-1]), done.stderr


@dataclass
class Constants:
    """Seconds on one node of this machine, bytes; the `start`s are of a run, everything else of a unit."""

    decode: float = 0.0  # a 12-megapixel photograph
    cut: float = 0.0  # a crop at one padding: cut, resize, encode, write
    forward: float = 0.0  # a crop through the model, decoding and resizing it
    read: float = 0.0  # a row of a reference or query set: checked, its names coded
    similarity: float = 0.0  # a multiplication of a similarity
    row: float = 0.0  # a row of Parquet, without a map
    start: dict[str, float] = field(default_factory=dict)
    photo_bytes: float = 0.0
    crop_bytes: float = 0.0
    text_bytes: float = 0.0  # names and labels of a row of an .npz
    driver_bytes: float = 0.0  # memory of evaluate_combo.py a row
    manifest_bytes: float = 0.0  # memory of extract_embedding.py a crop: its line of crops.csv


def fit(rows: list[list[float]], values: list[float]) -> list[float]:
    """Return non-negative least-squares coefficients."""
    from scipy.optimize import nnls

    scale = np.abs(np.array(rows, float)).max(0)
    return (nnls(np.array(rows, float) / scale, np.array(values))[0] / scale).tolist()


def measure_crop(found: Constants) -> None:
    rows: list[list[float]] = []
    values: list[float] = []
    for number, (photos, boxes) in enumerate(((4, 1), *3 * ((4, 1), (48, 1), (4, 20), (16, 20)))):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            options = growth.crop(folder, photos // 8 or 1)
            path = folder / "a.json"
            content = {
                key: dict(list(value.items())[:boxes])
                for key, value in list(json.loads(path.read_text()).items())[:photos]
            }
            path.write_text(json.dumps(content))
            taken = seconds("crop", options, folder)[0]
            if not number:  # whose start was cold
                continue
            values.append(taken)
            rows.append([1, photos, photos * boxes * PADDINGS])
            if (photos, boxes) == (16, 20):
                found.crop_bytes = float(np.mean([one.stat().st_size for one in folder.glob("pad_*/**/*.jpg")]))
                found.photo_bytes = float(np.mean([one.stat().st_size for one in (folder / "images").iterdir()]))
    found.start["crop"], found.decode, found.cut = fit(rows, values)


def measure_extract(found: Constants) -> None:
    rows: list[list[float]] = []
    values: list[float] = []
    for times in (1, 2, 4):
        with tempfile.TemporaryDirectory() as name:
            values.append(seconds("extract_embedding", growth.extract(Path(name), times), Path(name))[0])
            rows.append([1, 256 * times])
    found.start["extract"], found.forward = fit(rows, values)
    with tempfile.TemporaryDirectory() as name:
        photos = [f"photo_{n // 20:09}" for n in range(100_000)]
        lines = [
            f"train/{n % 500}/{photo}_{n}.jpg,train,{photo},{photo}_{n},brand,f_{n % 500},{n},{n},500,400,{n},{n},550,440,10,0"
            for n, photo in enumerate(photos)
        ]
        header = "path,split,sample_id,crop_id,class_0,class_1,box_x,box_y,box_w,box_h,crop_x,crop_y,crop_w,crop_h,padding,clipped"
        Path(name, "crops.csv").write_text("\n".join([header, *lines]) + "\n")
        del lines, photos
        tracemalloc.start()
        manifest = crops.read(Path(name))
        found.manifest_bytes = tracemalloc.get_traced_memory()[0] / len(manifest)
        tracemalloc.stop()


def draw(folder: Path, references: int, queries: int) -> list[str]:
    growth.draw(folder, "train", references)
    growth.draw(folder, "test", queries)
    return ["--train_npz", str(folder), "--test_npz", str(folder)]


def measure_evaluate(found: Constants) -> None:
    rows, values, peaks = [], [], []
    for references, queries in ((5_000, 500), (50_000, 500), (50_000, 4_000), (200_000, 500), (200_000, 4_000)):
        with tempfile.TemporaryDirectory() as name:
            taken, peak, _ = seconds("evaluate_combo", draw(Path(name), references, queries), Path(name))
            rows.append([1, references + queries, references * queries * growth.DIM])
            values.append(taken)
            peaks.append(peak)
            shard = next(Path(name).glob("*train*"))
            found.text_bytes = shard.stat().st_size / min(references, 100_000) - 4 * growth.DIM
    found.start["evaluate"], found.read, found.similarity = fit(rows, values)
    found.driver_bytes = max(0.0, (peaks[3] - peaks[1]) * 2**20 / 150_000)


def measure_parquet(found: Constants) -> None:
    rows: list[list[float]] = []
    values: list[float] = []
    for n in (5_000, 50_000, 200_000):
        with tempfile.TemporaryDirectory() as name:
            values.append(seconds("npz_to_parquet", parquet(Path(name), n), Path(name))[0])
            rows.append([1, n])
    found.start["parquet"], found.row = fit(rows, values)


def parquet(folder: Path, n: int) -> list[str]:
    return ["--root", str(growth.draw(folder, "train", n)), "--out", str(folder / "all.parquet")]


def check(found: Constants, counts: list[int]) -> list[dict]:
    """Run evaluate and Parquet at sizes of vectors, and return how far the model is from what they took."""
    rows = []
    for n in counts:
        guess = found.start["evaluate"] + found.read * (n + QUERIES) + found.similarity * n * QUERIES * growth.DIM
        with tempfile.TemporaryDirectory() as name:
            taken = seconds("evaluate_combo", draw(Path(name), n, QUERIES), Path(name))[0]
        rows.append(error(f"evaluate, {QUERIES:,} queries, {n:,} vectors", guess, taken))
        guess = found.start["parquet"] + found.row * n
        with tempfile.TemporaryDirectory() as name:
            taken = seconds("npz_to_parquet", parquet(Path(name), n), Path(name))[0]
        rows.append(error(f"Parquet, {n:,} vectors", guess, taken))
    return rows


def error(work: str, guess: float, taken: float) -> dict:
    return bench.figure(f"{work}: model {guess:.1f} s, taken {taken:.1f} s", guess / taken - 1, unit="of the time")


def cluster(folder: Path) -> list[dict]:
    """One node through Ray against the local run: images a second once the model is loaded, and the driver's memory."""
    rates: dict[str, list[float]] = {"local": [], "ray": []}
    peaks = []
    for _ in range(5):
        for name in rates:
            with tempfile.TemporaryDirectory(dir=folder) as part:
                more = ["--cluster", "local"] if name == "ray" else []
                told = seconds("extract_embedding", [*growth.extract(Path(part), 2), *more], Path(part))[2]
                rates[name].append(float(re.findall(r"([\d.,]+) images/s", told)[-1].replace(",", "")))
    for times in (2, 8):
        with tempfile.TemporaryDirectory(dir=folder) as part:
            peaks.append(
                seconds("extract_embedding", [*growth.extract(Path(part), times), "--cluster", "local"], Path(part))[1]
            )
    shares = [ray / local for ray, local in zip(rates["ray"], rates["local"], strict=True)]
    work = "extraction on one node through Ray"
    return [
        bench.figure(
            f"{work}, share of the local rate ({np.median(rates['local']):.1f} images/s)",
            float(np.median(shares)),
            0.85,
        ),
        bench.figure(
            f"{work}, the driver's memory at 2,048 crops / at 512 ({peaks[0]:.0f} MiB)",
            peaks[1] / peaks[0],
            1.1,
            at_most=True,
        ),
    ]


@dataclass
class Cost:
    """Of one stage for N crops in all, on a number of nodes: seconds, bytes read and written over the network."""

    name: str
    compute: float
    serial: float
    network: float

    @property
    def time(self) -> float:
        return max(self.compute, self.network / DISK) + self.serial


def study(found: Constants, n: int, nodes: int, dim: int = 1280) -> list[Cost]:
    """The stages of the study for `n` crops, a quarter at each of four paddings, a fifth of them queries, 100,000 at most."""
    photos, queries = n / PADDINGS / PER_IMAGE, min(n / 5, 100_000)
    vector, scores = 4 * dim + found.text_bytes, n * queries * dim
    crop = photos * found.decode + n * found.cut
    rounds = -(-queries // 2**15)  # the references are read anew for each block of queries
    return [
        Cost("crop", crop / nodes, found.start["crop"], photos * found.photo_bytes + n * found.crop_bytes),
        Cost("extract", n * found.forward / nodes, found.start["extract"], n * (found.crop_bytes + 2 * vector)),
        Cost("evaluate", scores * found.similarity / nodes, found.start["evaluate"] + n * found.read, n * 4 * dim * rounds),
        Cost("Parquet", 0, found.start["parquet"] + n * found.row * dim / growth.DIM, 2 * n * vector),
    ]  # fmt: skip


def constants(found: Constants) -> list[str]:
    """Return the lines of the table of constants."""
    rows = [
        ("a photograph of 12 megapixels decoded", f"{1e3 * found.decode:.3g} ms, {index_size(found.photo_bytes)}"),
        (
            "a crop at one padding cut, resized, encoded, written",
            f"{1e3 * found.cut:.3g} ms, {index_size(found.crop_bytes)}",
        ),
        ("a crop decoded and put through lite0", f"{1e3 * found.forward:.3g} ms"),
        ("a row read and its names coded for evaluation", f"{1e6 * found.read:.3g} us"),
        ("10^9 multiplications of similarities", f"{1e12 * found.similarity:.3g} ms"),
        ("a row of Parquet of 256 numbers", f"{1e6 * found.row:.3g} us"),
        ("names and labels of a row in an .npz", index_size(found.text_bytes)),
        (
            "memory of evaluate_combo.py a row, of the manifest a crop",
            f"{index_size(found.driver_bytes)}, {index_size(found.manifest_bytes)}",
        ),
        ("start of each script", ", ".join(f"{name} {value:.1f} s" for name, value in found.start.items())),
    ]
    return ["| on one node | |", "|---|---|", *(f"| {what} | {cost} |" for what, cost in rows)]


def duration(value: float) -> str:
    for unit, length in (("s", 60), ("min", 60), ("h", 24), ("d", 365)):
        if value < 2 * length:
            return f"{value:.3g} {unit}"
        value /= length
    return f"{value:.3g} years"


def table(found: Constants) -> list[str]:
    """Return the lines of the table of docs/scale.md."""
    lines = [
        "| crops | nodes | crop | extract | evaluate | Parquet | binds | driver | disk | network | index |",
        "|" + "---|" * 11,
    ]
    for n in SIZES:
        best = next(plan for plan in plans(n, 1280) if plan.suggested)
        disk = n / PADDINGS / PER_IMAGE * found.photo_bytes + n * (found.crop_bytes + 2 * (4 * 1280 + found.text_bytes))
        for nodes in NODES:
            if n / nodes < 10_000 and nodes > 1:
                continue
            stages = study(found, n, nodes)
            worst = max(stages, key=lambda one: one.time)
            by = (
                "the file system"
                if worst.network / DISK > worst.compute
                else "the driver"
                if worst.serial > worst.compute
                else "its nodes"
            )
            cells = [f"{n:,}", f"{nodes:,}", *(duration(one.time) for one in stages), f"{worst.name}: {by}"]
            cells += [
                index_size(6e8 + n * max(found.driver_bytes, found.manifest_bytes)),
                index_size(disk),
                index_size(sum(one.network for one in stages)),
                f"{best.index_type}, {index_size(best.memory)}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checks", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="vectors of the real runs"
    )
    parser.add_argument("--skip_cluster", action="store_true", help="leave out the runs through Ray")
    args = parser.parse_args()
    found = Constants()
    for part in (measure_crop, measure_extract, measure_evaluate, measure_parquet):
        part(found)
        print(f"{part.__name__}: {found}", file=sys.stderr, flush=True)
    rows = check(found, args.checks)
    if not args.skip_cluster:
        with tempfile.TemporaryDirectory() as name:
            rows += cluster(Path(name))
    bench.report("scale", rows, [*constants(found), "", *table(found)])


if __name__ == "__main__":
    main()
