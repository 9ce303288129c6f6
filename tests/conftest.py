"""Fixtures: the development data, where there is some, and scripts run as a user runs them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A shell starts what runs in its background with Ctrl-C ignored, and nohup ignores SIGHUP: the scripts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def study_data() -> Path:
    """The folder of real photographs; the test is skipped by name where there is none."""
    folder = Path(os.environ.get("STUDY_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no development data in {folder}: set STUDY_DATA")
    return folder


@pytest.fixture(scope="session")
def script(root):
    """Run a script in its own process, as from a shell: script("crop.py", "--help") -> CompletedProcess."""

    def run(name: str, *argv: object, cwd: Path | None = None, **kwargs) -> subprocess.CompletedProcess:
        command = [sys.executable, str(root / name), *map(str, argv)]
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=kwargs.pop("timeout", 240), **kwargs
        )

    return run


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of some MiB: small_disk(1) -> its folder, and again with another size to make it larger."""
    folder = tmp_path / "small_disk"

    def mount(mebibytes: int) -> Path:
        there = folder.is_dir()
        folder.mkdir(exist_ok=True)
        options = f"{'remount,' if there else ''}size={mebibytes}m"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("no small file system can be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], check=False, capture_output=True)


@pytest.fixture(autouse=True)
def _notes_are_said(monkeypatch):
    """A test that ran a script with --quiet must not silence the next one; sentences stay whole, see common/test_messages.py."""
    from common import messages

    monkeypatch.setenv("COLUMNS", "1000")
    messages.set_quiet(False)
