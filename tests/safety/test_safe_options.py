"""Odd values for every option of every script: an exit code and one sentence, never a traceback, never a hang."""

from __future__ import annotations

import argparse
import importlib
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import call, check, picture, sentence, shelf, study

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
    *("0-0", "1-", "+", "/"),
)
LEAVE = ("--help", "--version", "--cluster", "--device", "--uri", "--interactive", "--port", "--host", "--workers")
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
    return {
        "crop": [*shelf(base / "shelf", 2), "--output_root", base / "crops"],
        "extract_embedding": ["--data_root", base / "photos", "--output_root", base / "o", "--splits", "val", *siamese],
        "evaluate_combo": [*both, "--output_root", base / "evaluation"],
        "greedy_combo_eval": [*both, "--combination_size", 1, "--results", base / "results.txt"],
        "npz_to_parquet": ["--root", sets, "--out", base / "o.parquet"],
        "npz_to_tensorboard": ["--root", sets, "--logdir", base / "tb", "--thumbnails", 0],
        "classify": ["--image", base / "photos" / "val", "--model", base / "none"],
        "search": ["evaluate", "--npz", sets, "--query_npz", sets],
        "train": ["--data_root", base / "photos", "--output", base / "trained", "--objective", "triplet", "--epochs", 1, *siamese],
        "view": [base / "none.parquet"],
    }  # fmt: skip


def options_of(parser: argparse.ArgumentParser, words: list[object]) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from options_of(action.choices[str(words[0])], words)
        elif action.option_strings and action.nargs != 0 and not {*action.option_strings} & {*LEAVE}:
            yield action


def cases_of(scripts: dict[str, list[object]]) -> list[tuple[str, str, str]]:
    found = []
    for name in SCRIPTS:
        parser = importlib.import_module(name).build_parser()
        found += [(name, action.option_strings[-1], odd) for action in options_of(parser, scripts[name]) for odd in ODD]
    return found


def fault_of(scripts: dict[str, list[object]], case: tuple[str, str, str]) -> str | None:
    name, option, odd = case
    old = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        code, _, err = call(importlib.import_module(name).main, *scripts[name], option, odd)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    return sentence(code, err)


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[object]]:
    (tmp_path / "here").mkdir()
    found = commands(tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return found


@pytest.mark.timeout(900)
def test_odd_values_a_sample(scripts: dict[str, list[object]]) -> None:
    cases = [case for case in cases_of(scripts) if case[0] != "train"]
    chosen = random.Random(0).sample(cases, 120)
    print(f"{len(chosen)} of {len(cases)} cases")
    check("odd values on the command line, a sample", chosen, lambda case: fault_of(scripts, case))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SCRIPTS)
def test_odd_values_for_every_option(scripts: dict[str, list[object]], name: str) -> None:
    cases = [case for case in cases_of(scripts) if case[0] == name]
    check(f"odd values on the command line, {name}", cases, lambda case: fault_of(scripts, case))
