"""examples/config.yaml: the whole chain from one file, one command line a script."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import yaml


@pytest.fixture(scope="module")
def place(root, tmp_path_factory):
    """A folder with the demo's photos, a few of them, and the links that the file's comments need."""
    folder = tmp_path_factory.mktemp("config")
    make = [sys.executable, root / "examples" / "make_shelf.py", "--output_root", folder / "demo" / "shelf"]
    make += ["--shelves", "6", "--photos_per_shelf", "1", "--quiet"]
    subprocess.run(list(map(str, make)), check=True, capture_output=True, timeout=120)
    for script in root.glob("*.py"):
        (folder / script.name).symlink_to(script)
    (folder / "examples").symlink_to(root / "examples")
    return folder


def test_every_command_of_the_file_runs_in_order(root, place):
    text = (root / "examples" / "config.yaml").read_text()
    commands = re.findall(r"^#   python (.*)$", text, re.M)
    assert {command.split(".py")[0] for command in commands} == set(yaml.safe_load(text))
    env = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"}
    said = {}
    for command in commands:
        photo = next((place / "demo" / "shelf" / "images").glob("*.jpg"))
        line = command.replace("photo.jpg", str(photo)) + " --quiet"
        done = subprocess.run(
            ["python", *line.split()], cwd=place, env=env, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        said[" ".join(command.split(" --config")[0].split())] = done.stdout
    assert "acc: " in said["evaluate_combo.py"]
    assert said["classify.py"].startswith("image\trank\tlabel\tconfidence\n")
    n_images = len(list((place / "demo" / "crops" / "pad_10" / "test").rglob("*.jpg")))
    assert len(said["classify.py"].splitlines()) == 1 + 3 * n_images
    assert "rows put in" in said["search.py build"]
    assert len(said["search.py query"].splitlines()) == 1 + 5
    assert "k_reciprocal" in said["search.py evaluate"]
    assert (place / "demo" / "embeddings.parquet").is_file()
    assert (place / "demo" / "report.html").is_file()
