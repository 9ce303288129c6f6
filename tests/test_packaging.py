"""The wheel: what it puts where, that its scripts run in another folder, and that the lists of requirements agree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheel and a foreign package called common; the other requirements are those of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "-q", "--no-deps", str(wheel)],
        check=True,
        capture_output=True,
    )
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (packages / "common").mkdir()
    (packages / "common/__init__.py").write_text("whose = 'foreign'\n")
    return folder


def names(requirements: str) -> set[str]:
    return {line.split("#")[0].strip() for line in requirements.splitlines() if line.strip() and line[0] not in "#-"}


def test_pyproject_and_the_requirements_files_say_the_same(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) == names((root / "requirements.txt").read_text())
    extras = project["optional-dependencies"]
    together = extras.pop("all")
    assert set().union(*extras.values()) == names((root / "requirements-extra.txt").read_text())
    assert set(re.findall(r"[a-z]+", together[0].partition("[")[2])) == set(extras)


def test_the_wheel_holds_one_folder_with_every_script_and_room(root, wheel):
    files = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in files if ".dist-info/" not in name} == {"padding_study"}
    rooms = [path.parent.name for path in root.glob("*/__init__.py")]
    here = [
        path.relative_to(root)
        for folder in (root, *(root / room for room in rooms))
        for pattern in ("*.py", "assets/*", "*.html", "*.css")
        for path in folder.glob(pattern)
    ]
    expected = {f"padding_study/{path}" for path in here if str(path) != "padding_study.py"}
    assert {name for name in files if ".dist-info/" not in name} == expected | {"padding_study/__init__.py"}


def run(installed: Path, *argv: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [str(installed / "bin" / argv[0]), *argv[1:]]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=120)


def test_installed_scripts_run_elsewhere_beside_a_foreign_package_of_a_rooms_name(installed, study_data, tmp_path):
    cards = study_data / "cards"
    options = ["--json_path", str(cards / "test.json"), "--image_folder", str(cards / "images")]
    done = run(installed, "padding-study", "crop", *options, "--output_root", "crops", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "crops/crops.csv").is_file()
    assert run(installed, "python", "-c", "import common; print(common.whose)", cwd=tmp_path).stdout == "foreign\n"


def test_the_launcher_tells_the_version_and_a_wrong_name(installed, root, tmp_path):
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert run(installed, "padding-study", "--version", cwd=tmp_path).stdout == f"padding-study {version}\n"
    assert run(installed, "padding-study", "crop", "--version", cwd=tmp_path).stdout == f"crop.py {version}\n"
    wrong = run(installed, "padding-study", "cropp", cwd=tmp_path)
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
    assert "cropp" in wrong.stderr


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("padding-study gre", {"greedy_combo_eval"}),
        ("padding-study crop --padding", {"--padding_percent"}),
        ("padding-study evaluate_combo --fusion v", {"vote"}),
    ],
)
def test_the_shell_completes_scripts_options_and_choices(installed, tmp_path, line, offered):
    asked = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": "out",
    }
    run(installed, "padding-study", cwd=tmp_path, _ARGCOMPLETE_IFS="\n", **asked)
    assert {word.strip() for word in (tmp_path / "out").read_text().split("\n")} == offered


def test_the_pages_build_as_a_site_without_a_warning(root, tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (root / "docs").glob("*.md")}
    assert {path.parent.name for path in (tmp_path / "site").glob("*/index.html")} == pages - {"index"}


def test_files_for_machines_that_are_not_here_can_be_read(root):
    workflow = yaml.safe_load((root / ".github/workflows/check.yml").read_text())
    systems = workflow["jobs"]["parts"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in systems["os"]} == {"ubuntu", "macos", "windows"}
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={systems['python'][0]}"
    assert yaml.safe_load((root / "CITATION.cff").read_text())["version"] == project["version"]
    copied = re.findall(r"^COPY (.+) \./$", (root / "Dockerfile").read_text(), re.MULTILINE)[0].split()
    assert all((root / name).is_file() for name in copied)
