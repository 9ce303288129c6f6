"""examples/config.yaml: the whole chain from one file, one command line a script."""

from __future__ import annotations

import importlib
import re
import shlex
import sys

import pytest
import yaml
from conftest import ROOT

from common import cli

sys.path.insert(0, str(ROOT / "examples"))
import make_shelf


@pytest.fixture(scope="module")
def place(root, tmp_path_factory):
    """A folder with a few of the demo's photos, and the file where the commands name it."""
    folder = tmp_path_factory.mktemp("config")
    argv = ["--output_root", str(folder / "demo" / "shelf"), "--shelves", "6", "--photos_per_shelf", "1", "--quiet"]
    assert make_shelf.main(argv) == 0
    (folder / "examples").symlink_to(root / "examples")
    return folder


def commands_of(text: str) -> list[str]:
    return re.findall(r"^#   python (.*)$", text, re.M)


def test_every_section_is_understood_by_its_script(root, monkeypatch):
    text = (root / "examples" / "config.yaml").read_text()
    assert {command.split(".py")[0] for command in commands_of(text)} == set(yaml.safe_load(text))
    monkeypatch.chdir(root)
    for command in commands_of(text):
        script, *argv = shlex.split(command)
        parser = importlib.import_module(script.removesuffix(".py")).build_parser()
        args = parser.parse_args(cli.with_config(parser, argv))
        assert any("demo" in str(value) for value in vars(args).values())


@pytest.mark.slow
@pytest.mark.timeout(900)  # eleven scripts
def test_every_command_of_the_file_runs_in_order(root, place, monkeypatch, capsys):
    commands = commands_of((root / "examples" / "config.yaml").read_text())
    monkeypatch.chdir(place)
    photo = str(next((place / "demo" / "shelf" / "images").glob("*.jpg")))
    said = {}
    for command in commands:
        script, *argv = shlex.split(command.replace("photo.jpg", photo))
        assert importlib.import_module(script.removesuffix(".py")).main([*argv, "--quiet"]) == 0, (
            capsys.readouterr().err
        )
        said[command.split(" --config")[0]] = capsys.readouterr().out
    assert "acc: " in said["evaluate_combo.py"]
    assert said["classify.py"].startswith("image\trank\tlabel\tconfidence\n")
    n_images = len(list((place / "demo" / "crops" / "pad_10" / "test").rglob("*.jpg")))
    assert len(said["classify.py"].splitlines()) == 1 + 3 * n_images
    assert "rows put in" in said["search.py build"]
    assert len(said["search.py query"].splitlines()) == 1 + 5
    assert "k_reciprocal" in said["search.py evaluate"]
    assert (place / "demo" / "embeddings.parquet").is_file()
    assert (place / "demo" / "report.html").is_file()
