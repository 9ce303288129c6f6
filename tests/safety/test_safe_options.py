"""Odd values for every option of every script: an exit code and one sentence, never a traceback, never a hang."""

from __future__ import annotations

import argparse
import importlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import call, check, picture, sentence, shelf, study, vectors_of

import extract_embedding
import npz_to_parquet
import search
from common import embeddings
from viewer import local_server

SCRIPTS = (
    *("crop", "extract_embedding", "evaluate_combo", "greedy_combo_eval", "npz_to_parquet", "npz_to_tensorboard"),
    *("classify", "search", "train", "view"),
)
ODD = (
    *(
        "",
        " ",
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1e400",
        "9" * 30,
        "9" * 5000,
        "1_0",
        "٣",
        "a\nb",
        "--",
        "-x",
        "=",
        "x=",
    ),
    *(
        "/dev/null",
        "/dev/zero",
        "/proc/self/mem",
        "../..",
        "{id}",
        "{}",
        "%s",
        "\udcff",
        "x" * 5000,
        "*",
        "[",
        "~",
        "a=b=c",
    ),
    *("0-0", "1-", "+", "/", "folder", "file", "empty", "file/x", "/dev/full", "\n", "-", "1.5", "65535"),
)
LEAVE = ("--help", "--version", "--cluster", "--device", "--uri", "--interactive", "--port", "--host", "--workers")
# Options that write, and so take a pipe.
WRITTEN = ("--predictions", "--results", "--flips", "--threshold", "--plot", "--report", "--out", "--output")
SECONDS = 60


class Slow(BaseException):
    """A case took longer than SECONDS."""


def _too_long(*_: Any) -> None:
    raise Slow


def commands(base: Path) -> dict[str, list[object]]:
    """Return a command of each script that works, with small inputs."""
    sets = study(base / "sets")
    for number in range(4):
        for split in ("train", "val", "test"):
            for label in ("tea", "rice"):
                picture(base / "photos" / split / label / f"{number}.jpg", number)
    both = ["--train_npz", sets, "--test_npz", sets]
    siamese = ["--model", "siamese", "--weights", "random"]
    embed = ["--data_root", base / "photos", "--output_root", base / "embedded", *siamese, "--precision", "fp32"]
    assert call(extract_embedding.main, *embed)[0] == 0
    embedded = base / "embedded"
    assert call(npz_to_parquet.main, "--root", embedded, "--out", base / "e.parquet")[0] == 0
    assert call(search.main, "build", "--npz", embedded, "--uri", base / "e.faiss")[0] == 0
    one, frozen = base / "photos" / "val" / "tea", ["--freeze_backbone", "--objective", "classifier", "--epochs", 1]
    return {
        "crop": [*shelf(base / "shelf", 2), "--output_root", base / "crops"],
        "extract_embedding": ["--data_root", base / "photos", "--output_root", base / "o", "--splits", "val", *siamese],
        "evaluate_combo": [*both, "--output_root", base / "evaluation"],
        "greedy_combo_eval": [*both, "--combination_size", 1, "--results", base / "results.txt"],
        "npz_to_parquet": ["--root", sets, "--out", base / "o.parquet"],
        "npz_to_tensorboard": ["--root", sets, "--logdir", base / "tb", "--thumbnails", 0],
        "classify": ["--image", base / "photos" / "val", "--model", base / "none"],
        "classify references": ["--image", one, "--reference_npz", embedded, "--reject", 0.3, "--threshold", "t.json"],
        "search query": ["query", "-q", one, "--npz", embedded],
        "search query index": ["query", "-q", one, "--uri", base / "e.faiss"],
        "search build": ["build", "--npz", sets, "--uri", "i.faiss", "--overwrite"],
        "search": ["evaluate", "--npz", sets, "--query_npz", sets],
        "train": ["--data_root", base / "photos", "--output", base / "trained", "--objective", "triplet", "--epochs", 1, *siamese],
        "train npz": ["--npz", embedded, "--output", base / "frozen", *frozen, "--overwrite"],
        "view": [base / "e.parquet", "--port", 0],
    }  # fmt: skip


def options_of(parser: argparse.ArgumentParser, words: list[object]) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from options_of(action.choices[str(words[0])], words)
        elif action.option_strings and action.nargs != 0 and not {*action.option_strings} & {*LEAVE}:
            yield action


def cases_of(scripts: dict[str, list[object]]) -> list[tuple[str, str, str]]:
    found = []
    for name in scripts:
        parser = importlib.import_module(name.split()[0]).build_parser()
        found += [(name, action.option_strings[-1], odd) for action in options_of(parser, scripts[name]) for odd in ODD]
    return found


def fault_of(scripts: dict[str, list[object]], case: tuple[str, str, str]) -> str | None:
    name, option, odd = case
    old = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        code, _, err = call(importlib.import_module(name.split()[0]).main, *scripts[name], option, odd)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    return sentence(code, err)


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[object]]:
    (tmp_path / "here").mkdir()
    found = commands(tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(local_server, "serve", lambda *_: None)  # view.py starts, and ends
    Path("folder").mkdir()
    Path("file").write_text("x")
    Path("empty").touch()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return found


@pytest.mark.timeout(900)
def test_odd_values_a_sample(scripts: dict[str, list[object]]) -> None:
    cases = [case for case in cases_of(scripts) if case[0].split()[0] != "train"]
    chosen = random.Random(0).sample(cases, 120)
    print(f"{len(chosen)} of {len(cases)} cases")
    check("odd values on the command line, a sample", chosen, lambda case: fault_of(scripts, case))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SCRIPTS)
def test_odd_values_for_every_option(scripts: dict[str, list[object]], name: str) -> None:
    cases = [case for case in cases_of(scripts) if case[0].split()[0] == name]
    check(f"odd values on the command line, {name}", cases, lambda case: fault_of(scripts, case))


def test_a_pipe_that_is_to_be_read_is_no_wait_without_end(scripts: dict[str, list[object]]) -> None:
    os.mkfifo("pipe")
    Path("zeros").symlink_to("/dev/zero")
    cases = [case for case in cases_of(scripts) if case[2] == "" and case[1] not in WRITTEN]
    cases = [(name, option, odd) for name, option, _ in cases for odd in ("pipe", "id=pipe", "/dev/zero", "zeros")]
    check("pipes and devices in the place of files", cases, lambda case: fault_of(scripts, case))


def test_options_read_what_a_shell_makes_of_a_command(scripts: dict[str, list[object]]) -> None:
    reading, writing = os.pipe()
    os.write(writing, f"npz_to_parquet: {{root: {scripts['npz_to_parquet'][1]}, out: o.parquet}}".encode())
    os.close(writing)
    assert call(npz_to_parquet.main, "--config", f"/dev/fd/{reading}")[0] == 0
    os.close(reading)
    assert Path("o.parquet").is_file()


def test_the_exact_search_beside_an_index_reads_as_the_options_say(tmp_path: Path) -> None:
    """--drop_invalid and the names of arrays hold for it too."""
    sets = vectors_of(list("aabbccdd") * 3)
    sets.vectors[5] = 0
    embeddings.save(tmp_path / "a.npz", sets)
    words = ["--npz", tmp_path / "a.npz", "--uri", tmp_path / "i.faiss", "--drop_invalid"]
    assert call(search.main, "build", *words)[0] == 0
    code, out, err = call(search.main, "evaluate", *words, "--query_npz", tmp_path / "a.npz")
    assert (code, "23 rows" in out) == (0, True), err
