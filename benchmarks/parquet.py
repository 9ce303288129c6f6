#!/usr/bin/env python3
"""One Parquet file of a million embeddings: npz_to_parquet.py against a pandas/tolist writer and pyarrow's own limit.

python benchmarks/parquet.py
python benchmarks/parquet.py --rows 100000
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder
sys.path.append(str(ROOT / "benchmarks"))

import bench
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import npz_to_parquet
from common import embedding_sets, embeddings
from export import parquet_table

DIM = 768
SHARD = 100_000
SAMPLE = 25_000  # rows that the pandas writer gets; a million would need 25 GB as Python numbers


def draw(folder: Path, n: int) -> None:
    """Save n embeddings of 500 classes as shards, as extract_embedding.py leaves them."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((500, DIM), dtype=np.float32)
    count = -(-n // SHARD)
    for shard in range(count):
        rows = np.arange(shard * SHARD, min(n, (shard + 1) * SHARD))
        meta = {"dataset_name": "drawn", "id": "10", "split": "train", "padding": "10", "model": "timm/vit_base"}
        embeddings.save(
            folder / f"drawn_10_train_{shard:05d}-of-{count:05d}.npz",
            embeddings.EmbeddingSet(
                centres[rows % 500] + rng.standard_normal((len(rows), DIM), dtype=np.float32),
                np.array([[f"brand_{row % 50:02d}", f"product_{row % 500:03d}"] for row in rows]),
                np.array([f"photo_{row // 20:06d}_{row % 20}" for row in rows]),
                np.array([f"photo_{row // 20:06d}" for row in rows]),
                np.array([f"train/product_{row % 500:03d}/photo_{row // 20:06d}_{row % 20}.jpg" for row in rows]),
                meta | {"fingerprint": "f" * 64, "data_root": "/data/crops"},
            ),
        )


def ours(folder: Path, out: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert npz_to_parquet.main(["--root", str(folder), "--out", str(out), "--quiet"]) == 0


def pandas_writer(folder: Path, out: Path) -> None:
    """The usual way: every vector a list of Python numbers in a data frame."""
    one = embeddings.load(sorted(folder.glob("*.npz"))[0])
    rows = slice(0, SAMPLE)
    frame = pd.DataFrame({"embedding": one.vectors[rows].tolist(), "crop_id": one.crop_ids[rows]})
    frame["sample_id"], frame["source_file"] = one.sample_ids[rows], one.paths[rows]
    frame["class_0"], frame["class_1"] = one.labels[rows, 0], one.labels[rows, 1]
    frame = frame.assign(dataset_name="drawn", split="train", id="10", padding="10", model="timm/vit_base")
    frame.to_parquet(out, compression="zstd")
    flush(out)


def flush(path: Path) -> None:
    """Wait for the disk, as our writer does before the file gets its name."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def ready_made(table: pa.Table, out: Path, **options: Any) -> None:
    pq.write_table(table, out, compression="zstd", row_group_size=parquet_table.ROW_GROUP, **options)
    flush(out)


def peak(folder: Path, out: Path) -> tuple[float, float]:
    """Return (peak resident memory in MiB, seconds) of the script in a process of its own."""
    code = (
        "import sys, npz_to_parquet; assert npz_to_parquet.main(sys.argv[1:]) == 0\n"
        "lines = open('/proc/self/status').read().splitlines()\n"  # getrusage would count what the parent had when it forked
        "print(next(line.split()[1] for line in lines if line.startswith('VmHWM')))"
    )
    start = time.perf_counter()
    command = [sys.executable, "-c", code, "--root", str(folder), "--out", str(out), "--quiet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    n, work = args.rows, f"{args.rows:,} x {DIM} to Parquet"
    with tempfile.TemporaryDirectory() as folder_name:
        folder, out = Path(folder_name), Path(folder_name) / "out.parquet"
        sizes = {part: folder / str(part) for part in (n // 16, n // 4, n)}
        for part, where in sizes.items():
            draw(where, part)
        runs = {part: peak(where, out) for part, where in sizes.items()}
        small, middle, large = runs.values()
        rows = [
            bench.figure(f"{work}: peak memory", large[0], 1024, unit="MiB", at_most=True),
            bench.figure(f"peak memory, {n:,} rows / {n // 4:,} rows", large[0] / middle[0], 1.1, at_most=True),
            bench.figure(f"seconds a row, {n:,} rows / {n // 4:,} rows", large[1] / middle[1] / 4, 1.1, at_most=True),
        ]
        table = pa.concat_tables(
            list(
                parquet_table.tables(
                    [shard for shards in embedding_sets.read_shards([sizes[n]]) for shard in shards], {}
                )
            )
        )
        texts = [name for name in table.column_names if name != "embedding"]
        same: dict[str, Any] = {"compression_level": 1, "use_dictionary": texts, "write_statistics": texts}
        same["use_byte_stream_split"] = ["embedding.list.element"]
        rows += bench.compare(
            work,
            lambda: ours(sizes[n], out),
            peers={"pandas/tolist": lambda: pandas_writer(sizes[n], folder / "pandas.parquet")},
            limits={
                "pyarrow, ready-made table": lambda: ready_made(table, folder / "limit.parquet"),
                "pyarrow, ready-made table, our encoding": lambda: ready_made(table, folder / "same.parquet", **same),
            },
            reach={
                "pandas/tolist": 3,
                "pyarrow, ready-made table": 0.7,
                "pyarrow, ready-made table, our encoding": 0.7,
            },
            scale={"pandas/tolist": n / SAMPLE},
            repeats=args.repeats,
        )
        bytes_ours, bytes_limit = out.stat().st_size, (folder / "limit.parquet").stat().st_size
    notes = [
        "ours reads and checks the npz shards (CRC-32, zero and non-finite rows); the limit's table is in memory already",
        f"every writer waits for the disk; size {bytes_ours / 1e9:.2f} GB, pyarrow's default encoding {bytes_limit / 1e9:.2f} GB",
        "peak memory: "
        + ", ".join(f"{mib:.0f} MiB at {part:,} rows" for part, (mib, _) in runs.items())
        + f" ({small[1]:.0f}, {middle[1]:.0f}, {large[1]:.0f} s as whole processes)",
    ]
    bench.report("parquet", rows, notes)


if __name__ == "__main__":
    main()
