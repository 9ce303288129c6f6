"""The cases of engines, in a process of their own: Milvus Lite closes the streams of one that has loaded OpenVINO."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_cases_of_engines_in_a_process_of_their_own(root):
    cases = Path(__file__).with_name("engine_cases.py")
    command = [sys.executable, "-m", "pytest", "-n", "0", "--tb", "short", "-rs", str(cases)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-6000:]
