"""The commands of the README and of the example scripts, run as they stand on a small demo shelf."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import evaluate_combo
import greedy_combo_eval
from common import cli


def commands(root: Path) -> list[str]:
    """Return the lines after `$ ` in the README's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", (root / "README.md").read_text(), re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def shell(command: str, root: Path, folder: Path) -> subprocess.CompletedProcess:
    """Run one line in bash with `python` this interpreter and the scripts found beside the user's data."""
    bin_folder = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    for script in root.glob("*.py"):
        link = folder / script.name
        if not link.exists():
            link.symlink_to(script)
    return subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def place(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    make = [sys.executable, root / "examples" / "make_shelf.py", "--output_root", folder / "demo" / "shelf"]
    make += ["--shelves", "6", "--photos_per_shelf", "1", "--quiet"]
    subprocess.run(list(map(str, make)), check=True, capture_output=True, timeout=120)
    return folder


def in_order(lines: list[str], root: Path, place: Path) -> None:
    for line in lines:
        done = shell(line, root, place)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_after_the_five_scripts_run_in_order(root, place):
    lines = commands(root)
    names = ["npz_to_tensorboard", "train", "classify", "search", "search"]
    assert [re.search(r"(\w+)\.py", line)[1] for line in lines[5:]] == names
    in_order(lines[:2] + lines[5:], root, place)
    assert (place / "trained" / "model.safetensors").is_file()


@pytest.mark.study
@pytest.mark.timeout(900)
def test_the_readmes_commands_run_in_order(root, place):
    lines = commands(root)[:5]
    assert [re.search(r"(\w+)\.py", line)[1] for line in lines] == [
        "crop",
        "extract_embedding",
        "evaluate_combo",
        "greedy_combo_eval",
        "npz_to_parquet",
    ]
    in_order(lines, root, place)
    crops = pd.read_csv(place / "crops" / "pad_10" / "crops.csv")
    assert len(pd.read_parquet(place / "embeddings.parquet")) == 3 * len(crops)
    assert "</html>" in (place / "report.html").read_text()
    assert (place / "results.txt").read_text().count("Accuracy@1:") == 49


@pytest.mark.study
def test_the_older_scripts_commands_run_as_they_stand(root, place):
    """The five lines of the README that this suite's users have typed for years."""
    folder = place / "old"
    folder.mkdir()
    for name, target in (("annotations.json", "annotations_sku.json"), ("images", "images")):
        (folder / name).symlink_to(place / "demo" / "shelf" / target)
    lines = [
        "python crop.py --json_path annotations.json --image_folder images/ --output_root cropped_images/",
        "python extract_embedding.py --folders cropped_images/ --company_name datasetX",
        "python evaluate_combo.py --train_npz embeddings/*_train.npz --test_npz embeddings/*_test.npz --company_name datasetX",
        "python greedy_combo_eval.py --train_npz embeddings/*_train.npz --test_npz embeddings/*_test.npz --combination_size 2",
        "cp embeddings/datasetX_0_train.npz embeddings/b_5_train.npz; cp embeddings/datasetX_0_test.npz embeddings/b_5_test.npz",
        "cd embeddings && python ../greedy_combo_eval.py --train_npz 5=b_5_train.npz *X*.npz --test_npz 5=b_5_test.npz *X*.npz "
        "--combination_size 2 --company_name datasetX",
        "rm embeddings/b_*; python npz_to_parquet.py --root embeddings/ --out embeddings.parquet",
    ]
    for line in lines:
        done = shell(line, root, folder)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (
        "Reference npz files: (b_5_train.npz, datasetX_0_train.npz)"
        in (folder / "embeddings" / "results.txt").read_text()
    )


def test_every_option_that_the_docs_name_exists(root):
    known, parsers = set(), [__import__(path.stem).build_parser() for path in root.glob("*.py")]
    while parsers:
        for action in parsers.pop()._actions:
            known |= set(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    for path in [root / "README.md", *(root / "docs").glob("*.md")]:
        text = re.sub(r"embedding-atlas [^`]*|pip install[^`]*|python benchmarks/[^`]*", "", path.read_text())
        named = set(re.findall(r"(?<![\w-])--[a-z_]+", text))
        assert named <= known, f"{path.name} names {named - known}"


def test_the_exit_codes_of_the_readme(capsys):
    assert evaluate_combo.main(["--train_npz", "nothing.npz", "--test_npz", "nothing.npz"]) == 1
    assert greedy_combo_eval.main(["--no_such_option"]) == 2

    def interrupted(_):
        raise KeyboardInterrupt

    assert cli.main(cli.make_parser("python x.py", "x.py"), interrupted, []) == 130
    assert "interrupted" in capsys.readouterr().err
