#!/usr/bin/env python3
"""How long every --help takes, start of the interpreter included.

python benchmarks/help.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import bench

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    rows = []
    for script in sorted(ROOT.glob("*.py")):
        seconds = []
        for _ in range(6):
            start = time.perf_counter()
            subprocess.run([sys.executable, str(script), "--help"], check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
        rows.append(bench.figure(f"{script.name} --help", statistics.median(seconds[1:]), 0.5, unit="s", at_most=True))
    bench.report("help", rows)


if __name__ == "__main__":
    main()
