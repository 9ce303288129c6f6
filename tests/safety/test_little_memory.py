"""Little memory: under steps of RLIMIT_AS a script ends with all its files, or with one sentence, exit 1 and nothing half-written.

Each run is a process of its own, as the limit may strike while Python, torch or OpenCV are being loaded.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import picture, shelf, study

GIB = 1 << 30
ABOVE = 40 << 20  # bytes above what Python itself takes: the smallest step
NAMES = (
    *("crop", "extract_embedding", "evaluate_combo", "greedy_combo_eval", "npz_to_parquet", "npz_to_tensorboard"),
    *("search", "train", "classify"),
)
SIAMESE = ("--model", "siamese", "--weights", "random", "--workers", 1, "--device", "cpu", "--batch_size", 2)


def commands(base: Path) -> dict[str, tuple[list[object], list[str]]]:
    """Return of each script its options, without where it writes, and the files that a finished run has written."""
    words = shelf(base / "shelf", 2)
    for number in range(10):
        picture(base / "photos" / "xy"[number % 2] / f"{number}.jpg", number)
    sets = study(base / "sets")
    both = ["--train_npz", sets, "--test_npz", sets]
    photos = ["--data_root", base / "photos"]
    return {
        "crop": ([*words, "--output_root", "c", "--workers", 1], ["c/crops.csv", "c/skipped.csv"]),
        "extract_embedding": ([*photos, "--output_root", "o", *SIAMESE], ["o/photos_0_all.npz"]),
        "evaluate_combo": ([*both, "--predictions", "p.csv"], ["p.csv"]),
        "greedy_combo_eval": ([*both, "--combination_size", 1], ["results.txt", "results.csv"]),
        "npz_to_parquet": (["--root", sets, "--out", "o.parquet"], ["o.parquet"]),
        "npz_to_tensorboard": (
            ["--root", sets, "--logdir", "t", "--thumbnails", 0],
            ["t/tensors.tsv", "t/projector_config.pbtxt"],
        ),
        "search": (["build", "--npz", sets, "--uri", "i.faiss"], ["i.faiss"]),
        "train": (
            [*photos, "--output", "t", "--objective", "triplet", "--epochs", 1, *SIAMESE],
            ["t/model.json", "t/model.safetensors"],
        ),
        "classify": (["--image", base / "photos", "--device", "cpu", "--workers", 1, "--plot", "p.png"], ["p.png"]),
    }


def bare() -> int:
    """Return how much address space Python itself takes, in bytes."""
    code = "import re; print(int(re.search(r'VmPeak:\\s+(\\d+)', open('/proc/self/status').read())[1]) << 10)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def steps(n: int) -> list[int]:
    """Return n limits, each the same factor above the one before it, from just above Python itself to 12 GiB."""
    low, high = bare() + ABOVE, 12 * GIB
    return [round(low * (high / low) ** (step / (n - 1))) for step in range(n)]


def fault_of(
    root: Path, name: str, words: list[object], files: list[str], limit: int, cwd: Path
) -> tuple[int, str | None]:
    """Run a script under a limit of its address space; return its exit code and what is wrong with how it ended."""
    cwd.mkdir(parents=True)
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    done = subprocess.run(
        [sys.executable, str(root / f"{name}.py"), *map(str, words)],
        cwd=cwd,
        env={**os.environ, **one_thread, "HF_HUB_OFFLINE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
        check=False,
    )
    there = [file for file in files if (cwd / file).is_file()]
    halves = [path.name for path in cwd.rglob("*.tmp")]
    last = done.stderr.strip().splitlines()[-1:] or [""]
    if "Traceback" in done.stderr or "Exception ignored" in done.stderr:
        return done.returncode, f"traceback: {done.stderr[-400:]}"
    if halves:
        return done.returncode, f"left over: {halves}"
    if done.returncode == 0:
        return 0, None if there == files else f"exit 0 with {there}"
    if done.returncode != 1 or not last[0].startswith(f"{name}.py: "):
        return done.returncode, f"exit {done.returncode}: {done.stderr[-300:]}"
    return 1, None


def run_steps(root: Path, tmp_path: Path, names: list[str], n: int) -> None:
    todo = commands(tmp_path / "in")
    ended, faults = {0: 0, 1: 0}, []
    for name in names:
        words, files = todo[name]
        for at, limit in enumerate(steps(n)):
            code, fault = fault_of(root, name, words, files, limit, tmp_path / "out" / f"{name}{at}")
            ended[code] = ended.get(code, 0) + 1
            faults += [f"{name} with {limit >> 20} MiB: {fault}"] if fault else []
    print(f"little memory: {len(names) * n} cases, {ended[0]} finished, {ended[1]} told, {len(faults)} failures")
    assert not faults, "\n".join(faults)


@pytest.mark.timeout(600)
def test_little_memory_a_sample(tmp_path: Path, root: Path) -> None:
    run_steps(root, tmp_path, ["crop", "evaluate_combo"], 3)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", NAMES)
def test_little_memory(tmp_path: Path, root: Path, name: str) -> None:
    run_steps(root, tmp_path, [name], 8)
