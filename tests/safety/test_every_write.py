"""Every write, not random moments: the n-th file operation fails or kills, for n = 1, 2, 3 … until the run ends.

After each, the same command again gives the uninterrupted result. The runs are children forked from one process that has imported
everything, so that a case costs tens of milliseconds.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import gc
import importlib
import io
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import call, picture, shelf, study

import classify
import crop
import evaluate_combo
import extract_embedding
import greedy_combo_eval
import npz_to_parquet
import npz_to_tensorboard
import search
import train

BUDGET = float(os.environ.get("EVERY_WRITE_SECONDS", "15"))  # for a script in the quick subset


class Fault(io.FileIO):
    """A file whose writes are counted."""

    count: Callable[[str, Any], None]

    def write(self, data: Any) -> int:
        Fault.count("write", (self, data))
        return super().write(data) or 0

    def truncate(self, size: int | None = None) -> int:
        Fault.count("truncate", None)
        return super().truncate(size)


def arm(at: int, how: str, below: str) -> Callable[[], int]:
    """Make the `at`-th operation that changes files below a folder fail with `how`: EIO, ENOSPC, short, or kill; 0 for none.

    Returns what tells how many such operations there were.
    """
    n = 0
    real_open = builtins.open

    def count(name: str, what: Any) -> None:
        nonlocal n
        n += 1
        if n != at:
            return
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "short" and name == "write":
            file, data = what
            io.FileIO.write(file, memoryview(data)[: len(memoryview(data)) // 2])
        code = errno.EIO if how == "EIO" else errno.ENOSPC
        raise OSError(code, os.strerror(code))

    Fault.count = staticmethod(count)

    def mine(path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.path.abspath(os.fspath(path)).startswith(below)

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not mine(path) or not set(mode) & set("wax+"):
            return real_open(path, mode, *args, **kwargs)
        count("open", None)
        raw = Fault(path, mode.replace("b", "").replace("t", ""))
        buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        names = ("encoding", "errors", "newline")
        return io.TextIOWrapper(buffered, **{name: kwargs[name] for name in names if name in kwargs})

    def counted(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if name in ("fsync",) or mine(path) or (args and mine(args[0])):
                count(name, None)
            return real(path, *args, **kwargs)

        setattr(module, name, call)

    real_os_open = os.open

    def os_opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT and mine(path):
            count("open", None)
        return real_os_open(path, flags, *args, **kwargs)

    os.open = os_opened  # type: ignore[assignment]
    builtins.open = io.open = opened  # type: ignore[assignment]
    for name in ("fsync", "replace", "rename", "mkdir", "unlink", "remove", "rmdir", "truncate"):
        counted(os, name)
    return lambda: n


def child(main: Callable[[list[str]], int], words: list[str], prepare: Callable[[], None], seconds: float = 240) -> int:
    """Run main() in a forked child and return its exit code, -9 where it was killed, or 99 for a traceback."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            log = os.open(os.environ["EVERY_WRITE_LOG"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            prepare()
            code = main(words)
            sys.stderr.flush()
        except BaseException:
            import traceback

            traceback.print_exc(file=sys.stderr)
            sys.stderr.flush()
            code = 99
        os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 98


def told_at_the_end(path: Path, below: Path) -> None:
    """Let the child write how many operations it did and the names of all modules that it has imported when it ends."""
    ended, operations = os._exit, arm(0, "count", str(below))

    def end(code: int) -> None:
        names = [name for name in sys.modules if not name.startswith(("__", "test_", "pytest"))]
        path.write_text("\n".join([str(operations()), *names]))
        ended(code)

    os._exit = end  # type: ignore[assignment]


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by its name, with what changes from run to run left out."""
    changing = re.compile(rb"\d{8}-\d{6}-\d{6}-[0-9a-f]{8}|\d{4}(-\d\d){2} \d\d(:\d\d){2} UTC| --results_mode replace")
    found = {
        str(path.relative_to(folder)): changing.sub(
            b"", re.sub(rb" \\\n +", b" ", path.read_bytes())
        )  # one line a command
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "models.csv"  # how fast a run was
    }
    for name in found:
        if name.endswith("training.csv"):  # its last column but one is how long an epoch took
            found[name] = re.sub(rb",[^,\n]*(,[^,\n]*)$", rb"\1", found[name], flags=re.MULTILINE)
    return found


def scripts_of(base: Path) -> dict[str, tuple[Callable, Callable[[Path], list[object]]]]:
    """Return each script and the command that writes into a folder."""
    words = shelf(base / "shelf", 2)
    for number in range(3):
        picture(base / "photos" / "x" / f"{number}.jpg", number)
    for number in range(10):
        picture(base / "classes" / "xyz"[number % 2] / f"{number}.jpg", number)
    sets = study(base / "sets")
    both = ["--train_npz", sets, "--test_npz", sets]
    siamese = ["--model", "siamese", "--weights", "random", "--workers", 1, "--device", "cpu", "--batch_size", 2]
    return {
        "crop": (crop.main, lambda out: [*words, "--output_root", out, "--workers", 1]),
        "extract": (
            extract_embedding.main,
            lambda out: ["--data_root", base / "photos", "--output_root", out, "--precision", "fp32", *siamese],
        ),
        "greedy": (
            greedy_combo_eval.main,
            lambda out: [*both, "--combination_size", 1, "--results", out / "r.txt", "--flips", out / "f.x"],
        ),
        "evaluate": (evaluate_combo.main, lambda out: [*both, "--predictions", out / "p.csv"]),
        "parquet": (npz_to_parquet.main, lambda out: ["--root", sets, "--out", out / "o.parquet"]),
        "train": (
            train.main,
            lambda out: [
                *("--data_root", base / "classes", "--output", out / "t", "--objective", "triplet", "--epochs", 1),
                *("--model", "siamese", "--weights", "random", "--workers", 1, "--device", "cpu", "--batch_size", 4),
            ],
        ),
        "search": (search.main, lambda out: ["build", "--npz", sets, "--uri", out / "i.faiss", "--index_type", "HNSW"]),
        "classify": (
            classify.main,
            lambda out: [
                *("--image", base / "classes" / "x", "--reference_npz", embedded(base), "--plot", out / "p.png"),
                *("--reject", 0.3, "--threshold", out / "t.json", "--workers", 1, "--device", "cpu"),
            ],
        ),
        "tensorboard": (npz_to_tensorboard.main, lambda out: ["--root", sets, "--logdir", out, "--thumbnails", 0]),
    }


def embedded(base: Path) -> Path:
    """Return the folder of a set of the classes, embedded by the small network."""
    words = ["--data_root", base / "classes", "--output_root", base / "embedded", "--model", "siamese"]
    assert call(extract_embedding.main, *words, "--weights", "random", "--precision", "fp32")[0] == 0
    return base / "embedded"


def enumerate_faults(base: Path, name: str, seconds: float, ways: tuple[str, ...]) -> tuple[int, int, list[str]]:
    """Return how many cases were run, how many there are, and what went wrong in which."""
    import torch

    torch.set_num_threads(1)
    os.environ["EVERY_WRITE_LOG"] = str(base / "log")
    main, command = scripts_of(base)[name]
    out = base / "out"
    words = [str(word) for word in command(out)]
    out.mkdir()
    names = base / "modules"
    assert child(main, words, lambda: told_at_the_end(names, out)) == 0, (base / "log").read_text()
    wanted = content(out)
    operations, *modules = names.read_text().split()
    for module in modules:  # so that no later child has to import
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    assert wanted
    todo = [(at, how) for at in range(1, int(operations) + 1) for how in ways]
    random.Random(0).shuffle(todo)
    started, done, faults = time.monotonic(), 0, []
    for at, how in todo:
        if time.monotonic() - started > seconds:
            break
        done += 1
        shutil.rmtree(out)
        out.mkdir()
        code = child(main, words, lambda at=at, how=how: arm(at, how, str(out)))
        told = (base / "log").read_text(errors="replace")
        if code not in ((-9,) if how == "kill" else (0, 1)) or "Traceback" in told:
            faults.append(f"{name} {how} at {at}: ended with {code}: {told[-300:]}")
            continue
        # The run can do without what failed, such as the removal of a leftover. A finished run of a search stays in its results.
        replaced = [*words, "--results_mode", "replace"] if code == 0 and name == "greedy" else words
        if code == 0:
            child(main, replaced, lambda: None)
        again = child(main, replaced, lambda: None)
        now = content(out)
        if again != 0 or now != wanted:
            differ = sorted(key for key in {*now, *wanted} if now.get(key) != wanted.get(key))
            faults.append(
                f"{name} {how} at {at}: then {again}, other files: {differ} {(base / 'log').read_text()[-200:]}"
            )
    return done, len(todo), faults


NAMES = ("crop", "extract", "greedy", "evaluate", "parquet", "tensorboard", "train", "search", "classify")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["greedy", "tensorboard"])
def test_every_write_a_sample(tmp_path: Path, name: str) -> None:
    done, total, faults = enumerate_faults(tmp_path, name, BUDGET, ("kill", "ENOSPC"))
    print(f"every write, {name}: {done} of {total} cases ({done / total:.0%}, by seed 0), {len(faults)} failures")
    assert done
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", NAMES)
def test_every_write(tmp_path: Path, name: str) -> None:
    done, total, faults = enumerate_faults(tmp_path, name, 3600, ("kill", "EIO", "ENOSPC", "short"))
    print(f"every write, {name}: {done} of {total} cases, {len(faults)} failures")
    assert done == total or done > 100
    assert not faults, "\n".join(faults)
    assert np.isfinite(done)
