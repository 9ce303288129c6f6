"""What every script does alike: options from --config, mistakes as one sentence, exit codes."""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from common import cli, messages


def script(run=lambda args: None) -> tuple[argparse.ArgumentParser, list[argparse.Namespace]]:
    """A script with an option of each kind, and what it was run with."""
    parser = cli.make_parser("Does something.\n\n  python thing.py --size 3\n", "thing.py")
    parser.add_argument("--size", type=cli.whole(1, 9), default=1)
    parser.add_argument("--ids", nargs="*", default=[])
    parser.add_argument("--names", nargs="*", default=[])
    parser.add_argument("--strict", action="store_true")
    return parser, []


def parsed(tmp_path: Path, text: str, *words: str) -> argparse.Namespace:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    parser, seen = script()
    assert cli.main(parser, seen.append, ["--config", str(path), *words]) == 0
    return seen[0]


def test_config_gives_numbers_lists_switches_and_renames(tmp_path: Path) -> None:
    text = "thing:\n  size: 4\n  ids: [0, 7.5]\n  names: {1: train, 2: test}\n  strict: true\ncrop:\n  unknown: 1\n"
    args = parsed(tmp_path, text)
    assert (args.size, args.ids, args.names, args.strict) == (4, ["0", "7.5"], ["1=train", "2=test"], True)


def test_the_command_line_wins_over_config(tmp_path: Path) -> None:
    args = parsed(tmp_path, "thing:\n  size: 4\n  ids: [0]\n", "--size", "5", "--ids", "a", "b")
    assert (args.size, args.ids) == (5, ["a", "b"])


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("thing:\n  sise: 4\n", 2, "has no option 'sise'"),
        ("thing:\n  strict: yes please\n", 2, "write true or false"),
        ("thing:\n  size: 10\n", 2, "10 is not from 1 to 9"),
        ("thing: [1, 2]\n", 1, "write the options as `thing:`"),
        ("thing: {\n", 1, "is not valid YAML"),
        (None, 2, "no such file"),
    ],
)
def test_a_wrong_config_is_one_sentence(tmp_path: Path, capsys, text: str | None, code: int, says: str) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    parser, seen = script()
    assert cli.main(parser, seen.append, ["--config", str(path)]) == code
    assert says in capsys.readouterr().err
    assert not seen


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (messages.UserError("a.json: empty; write it again"), 1, "thing.py: error: a.json: empty; write it again\n"),
        (messages.UsageError("--size and --ids contradict"), 2, "thing.py: error: --size and --ids contradict\n"),
        (KeyboardInterrupt(), 130, "thing.py: interrupted; run the same command again to go on\n"),
        (OSError(errno.ENOSPC, "x", "out.npz"), 1, "thing.py: error: out.npz: no space is left on its disk; "),
        (MemoryError(), 1, "thing.py: error: not enough memory"),
        (ModuleNotFoundError("x", name="pandas"), 1, "the package pandas is not installed here; activate"),
        (ModuleNotFoundError("x", name="cv2"), 1, "requirements.txt"),
        (ModuleNotFoundError("x", name="embedding_atlas"), 1, "requirements-extra.txt"),
        (ModuleNotFoundError("x", name="left_pad"), 1, "run pip install left-pad"),
    ],
)
def test_each_end_has_its_exit_code_and_sentence(capsys, error: BaseException, code: int, says: str) -> None:
    def run(args: argparse.Namespace) -> None:
        raise error

    assert cli.main(script()[0], run, []) == code
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sise", "3"], "there is no option --sise; did you mean --size?"),
        (["--colour=red"], "there is no option --colour; thing.py --help lists the options"),
        (["--size", "many"], "argument --size: 'many' is not a whole number; thing.py --help lists the options"),
        (
            ["--size", "3", "left"],
            "left belongs to no option, or is half of a path whose spaces lack quotes; thing.py --help lists the options",
        ),
    ],
)
def test_a_wrong_command_line_is_one_sentence_without_the_usage(capsys, words: list[str], says: str) -> None:
    parser, seen = script()
    assert cli.main(parser, seen.append, words) == 2
    assert capsys.readouterr().err == f"thing.py: error: {says}\n"
    assert not seen


def test_in_one_log_the_error_comes_last():
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from common import cli; from common.messages import UserError\n"
        "def run(args): print('a result'); raise UserError('a mistake')\n"
        "sys.exit(cli.main(cli.make_parser('', 'thing.py'), run, None))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert (ended.returncode, ended.stdout) == (1, "a result\nthing.py: error: a mistake\n")


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("*.py")))
def test_a_python_without_the_requirements_gets_a_sentence_and_no_traceback(name: str) -> None:
    """-S hides every installed package, as in a shell where the environment was not activated."""
    ended = subprocess.run([sys.executable, "-S", str(ROOT / name), "--help"], capture_output=True, text=True)
    assert ended.returncode == (1 if ended.stderr else 0)
    assert not ended.stderr or "is not installed here; activate its environment" in ended.stderr
    assert "Traceback" not in ended.stderr
