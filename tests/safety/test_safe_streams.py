"""A reader that leaves ends no run; a stdout that is closed or full is told; signals end a run as Ctrl-C does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hostile import call, check, picture, shelf, study

import extract_embedding

COMMANDS = {  # script: options, and the files that a run with exit 0 has written
    "evaluate_combo.py": (["--train_npz", "{sets}", "--test_npz", "{sets}", "--predictions", "p.csv"], ["p.csv"]),
    "greedy_combo_eval.py": (
        ["--train_npz", "{sets}", "--test_npz", "{sets}", "--combination_size", "1", "--flips", "f.x"],
        ["results.txt", "results.csv", "f.csv", "f.parquet"],
    ),
    "npz_to_parquet.py": (["--root", "{sets}", "--out", "o.parquet"], ["o.parquet"]),
    "npz_to_tensorboard.py": (
        ["--root", "{sets}", "--logdir", "tb", "--thumbnails", "0"],
        ["tb/tensors.tsv", "tb/metadata.tsv", "tb/projector_config.pbtxt"],
    ),
    "crop.py": (["--json_path", "{shelf}/boxes.json", "--image_folder", "{shelf}/images", "--output_root", "c"], ["c/crops.csv"]),
    "search.py query": (
        ["query", "-q", "{photos}", "--npz", "{embedded}", "--plot", "q.png", "--device", "cpu"],
        ["q.png", "q.svg"],
    ),
    "search.py build": (["build", "--npz", "{sets}", "--uri", "i.faiss"], ["i.faiss"]),
    "search.py evaluate": (["evaluate", "--npz", "{sets}", "--query_npz", "{sets}"], []),
    "classify.py": (
        ["--image", "{photos}", "--reference_npz", "{embedded}", "--plot", "c.png", "--device", "cpu"],
        ["c.png", "c.svg"],
    ),
    "train.py": (
        ["--npz", "{embedded}", "--freeze_backbone", "--objective", "classifier", "--epochs", "1", "--output", "t"],
        ["t/model.json", "t/model.safetensors", "t/training.csv", "t/training.png"],
    ),
    "extract_embedding.py": (
        ["--data_root", "{photos}/a", "{photos}/b", "{photos}/c", "--model", "siamese", "--weights", "random"],
        ["embeddings/a_0_all.npz", "embeddings/b_0_all.npz", "embeddings/c_0_all.npz"],
    ),
    "view.py": (["--help"], []),
}  # fmt: skip
# How a shell leaves the streams, and the exit code that follows.
STREAMS = {
    ">/dev/null": 0,
    "| true": 0,
    "| head -c 20 >/dev/null": 0,
    "2>&-": 0,
    ">/dev/null 2>/dev/full": 0,
    "2>&1 >/dev/null | true": 0,
    ">&-": 1,
    ">/dev/full": 1,
    ">&- 2>&-": 1,
    "<&- >/dev/null": 0,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("inputs")
    shelf(base / "shelf")
    for name in "abc":
        picture(base / "photos" / name / "x" / "1.jpg", ord(name))
    for number in range(16):
        picture(base / "classes" / ("train", "test")[number % 2] / "xy"[number // 2 % 2] / f"{number}.jpg", number)
    embed = ["--data_root", base / "classes", "--output_root", base / "embedded", "--model", "siamese"]
    assert call(extract_embedding.main, *embed, "--weights", "random", "--precision", "fp32")[0] == 0
    found = {name: base / name for name in ("shelf", "photos", "embedded")}
    return {"sets": study(base / "sets"), **found}


def run_in_shell(root: Path, name: str, inputs: dict[str, Path], tail: str, cwd: Path) -> tuple[int, str]:
    """Run the script with these streams; return its own exit code and what it said on stderr, where that can be heard."""
    words = " ".join(word.format(**inputs) for word in COMMANDS[name][0])
    heard = "" if "2>" in tail else f"2>{cwd}.err"
    line = f"{sys.executable} {root / name.split()[0]} {words} {heard} {tail}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=cwd, capture_output=True, text=True, timeout=240, check=False)
    errors = Path(f"{cwd}.err")
    return done.returncode, done.stderr + (errors.read_text() if errors.exists() else "")


def fault_of(root: Path, name: str, tail: str, inputs: dict[str, Path], folder: Path) -> str | None:
    cwd = folder / f"{name.replace(' ', '_')}{abs(hash(tail))}"
    cwd.mkdir()
    code, err = run_in_shell(root, name, inputs, tail, cwd)
    missing = [file for file in COMMANDS[name][1] if not (cwd / file).is_file()]
    shutil.rmtree(cwd)
    if "Traceback" in err or "Exception ignored" in err:
        return err[-400:]
    if missing:
        return f"exit {code}, and {missing} are missing"
    return None if code == STREAMS[tail] else f"exit {code}, not {STREAMS[tail]}: {err[-200:]}"


QUICK = [("greedy_combo_eval.py", tail) for tail in (">&-", ">/dev/full", "| true", "2>&-")]
QUICK += [("crop.py", "| true"), ("classify.py", ">&-"), ("search.py query", "| true")]


def test_streams_that_close_or_fill(tmp_path: Path, root: Path, inputs: dict[str, Path]) -> None:
    check("closed or full streams, a sample", QUICK, lambda case: fault_of(root, *case, inputs, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_script_with_every_stream(tmp_path: Path, root: Path, inputs: dict[str, Path]) -> None:
    cases = [(name, tail) for name in COMMANDS for tail in STREAMS]
    check("closed or full streams", cases, lambda case: fault_of(root, *case, inputs, tmp_path))


def test_signals_have_their_exit_codes(tmp_path: Path, root: Path) -> None:
    """SIGINT 130, SIGTERM 143, SIGHUP 129, each with one sentence; SIGHUP under nohup is no signal."""
    waiting = (
        f"import sys, time; sys.path.insert(0, {str(root)!r}); from common import cli\n"
        "def run(args):\n  sys.stderr.write('ready\\n')\n  time.sleep(args.seconds)\n"
        "p = cli.make_parser('x', 'thing.py'); p.add_argument('--seconds', type=float, default=20)\n"
        "sys.exit(cli.main(p, run, None))\n"
    )
    cases = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

    def fault(number: signal.Signals) -> str | None:
        process = subprocess.Popen([sys.executable, "-c", waiting], stderr=subprocess.PIPE, text=True)
        assert process.stderr.readline() == "ready\n"
        process.send_signal(number)
        err = process.communicate(timeout=30)[1]
        good = (
            process.returncode == cases[number]
            and err.removeprefix("ready\n").count("\n") == 1
            and "interrupted" in err
        )
        return None if good else f"{process.returncode}: {err}"

    check("signals", cases, fault)
    command = ["nohup", sys.executable, "-c", waiting, "--seconds", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    time.sleep(1)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.slow
def test_interrupted_while_importing(root: Path) -> None:
    """Ctrl-C at 40 moments of a script's start: never a traceback."""
    cases = [(name, 0.04 + 0.05 * step) for name in ("evaluate_combo.py", "classify.py") for step in range(20)]

    def fault(case: tuple[str, float]) -> str | None:
        words = ["--train_npz", "x", "--test_npz", "x"] if case[0].startswith("eval") else ["--image", os.devnull]
        process = subprocess.Popen([sys.executable, str(root / case[0]), *words], stderr=subprocess.PIPE, text=True)
        time.sleep(case[1])
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1].removeprefix("ready\n")
        early = "site.py" in err or ("<frozen" in err and "common" not in err)  # before any line of the script
        return err[-600:] if "Traceback" in err and not early else None

    check("Ctrl-C while importing", cases, fault)


def ended(root: Path, run: str, *signals: signal.Signals, pause: float = 0.05) -> tuple[int, str]:
    """Run a script whose run() has these lines, send it signals once it has said `ready`; return its exit code and stderr."""
    code = (
        f"import os, signal, sys, time; sys.path.insert(0, {str(root)!r}); from common import cli, messages\n"
        f"def run(args):\n{textwrap.indent(textwrap.dedent(run), '  ')}\n"
        "sys.exit(cli.main(cli.make_parser('x', 'thing.py'), run, None))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "ready\n"
    for number in signals:
        process.send_signal(number)
        time.sleep(pause)
    err = process.communicate(timeout=60)[1].removeprefix("ready\n")
    return process.returncode, err


def test_further_signals_while_threads_compute_are_one_wish(root: Path) -> None:
    """`timeout` and terminals that close send several; the second must not leave threads running at the interpreter's end."""
    search = """
    import torch
    from concurrent.futures import ThreadPoolExecutor
    def work(_):
        for _ in range(500):
            torch.mm(rows, rows)
    rows = torch.ones(256, 256)
    torch.set_num_threads(1)
    with ThreadPoolExecutor(4) as pool:
        sys.stderr.write('ready\\n')
        list(pool.map(work, range(1000)))
    """
    INT, TERM = signal.SIGINT, signal.SIGTERM
    cases = [(INT,), (INT, INT, TERM), (TERM, INT, INT), (TERM, signal.SIGHUP, TERM)]

    def fault(sent: tuple[signal.Signals, ...]) -> str | None:
        code, err = ended(root, search, *sent)  # Python takes those that wait together by their numbers
        told = "thing.py: interrupted; run the same command again to go on\n"
        return None if code in {128 + number for number in sent} and err == told else f"{code}: {err}"

    check("signals that follow each other while threads compute", cases, fault)


def test_a_signal_that_strikes_in_a_destructor_is_not_lost(root: Path) -> None:
    """Python drops what is raised there; a cache of weak references, as imports have them, is such a place."""
    run = """
    class Thing:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(1000))
    sys.stderr.write('ready\\n')
    thing = Thing()
    del thing
    time.sleep(30)
    sys.stderr.write('slept\\n')
    """
    assert ended(root, run) == (143, "thing.py: interrupted; run the same command again to go on\n")


def test_ctrl_c_stops_one_command_of_a_session_and_other_signals_end_it(root: Path) -> None:
    run = """
    try:
        sys.stderr.write('ready\\n')
        time.sleep(30)
    except KeyboardInterrupt:
        messages.go_on()
    sys.stderr.write('next\\n')
    """
    assert ended(root, run, signal.SIGINT) == (0, "next\n")
    assert ended(root, run, signal.SIGTERM)[0] == 143
