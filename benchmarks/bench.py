"""Compare our code with its peers and its limits in one run: interleaved, medians, ratios, the machine, JSON and a table.

rows = [bench.compare("search, k = 20", ours, peers={"faiss": search}, limits={"the matrix product": multiply},
                      reach={"faiss": 1.5})]
bench.report("knn", rows)        # a table on stdout, benchmarks/results/knn.json
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PACKAGES = (
    *("numpy", "torch", "onnxruntime", "openvino", "faiss-cpu", "scikit-learn"),
    *("opencv-python-headless", "pyarrow", "umap-learn"),
)

Run = Callable[[], object]


def compare(
    work: str,
    ours: Run,
    *,
    peers: Mapping[str, Run] | None = None,
    limits: Mapping[str, Run] | None = None,
    reach: Mapping[str, float] | None = None,
    scale: Mapping[str, float] | None = None,
    repeats: int = 5,
    warm_up: bool = True,
) -> list[dict[str, Any]]:
    """Time all runs `repeats` (>= 5) times in turn and return a row of the table for each peer and limit.

    A ratio is the median over the rounds of the other's time / ours: how many times as fast as a peer, what share of
    what a limit allows. `reach` gives the ratio aimed at, by name. `scale` multiplies the time of a run that does only a
    sample of the work; the table says so.
    """
    if repeats < 5:
        raise ValueError("a median needs at least five repeats")
    others = {**(peers or {}), **(limits or {})}
    runs, scale, reach = {"ours": ours, **others}, scale or {}, reach or {}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    load = os.getloadavg()[0]
    for number in range(repeats + warm_up):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number >= warm_up:
                seconds[name].append((time.perf_counter() - start) * scale.get(name, 1))
    rows = []
    for name in others:
        ratios = [other / own for other, own in zip(seconds[name], seconds["ours"], strict=True)]
        row = figure(work, statistics.median(ratios), reach.get(name), unit="x")
        row |= {
            "than": name + (f" (a sample, times {scale[name]:g})" if name in scale else ""),
            "kind": "peer" if name in (peers or {}) else "limit",
            "ours_s": statistics.median(seconds["ours"]),
            "theirs_s": statistics.median(seconds[name]),
            "rounds": {"ours": seconds["ours"], "theirs": seconds[name]},
            "load": [load, os.getloadavg()[0]],
        }
        rows.append(row)
    return rows


def figure(
    work: str, value: float, reach: float | None = None, *, unit: str = "", at_most: bool = False
) -> dict[str, Any]:
    """Return a row for one number that is aimed to be at least (or `at_most`) `reach`."""
    met = None if reach is None else bool(value <= reach if at_most else value >= reach)
    return {"work": work, "value": value, "unit": unit, "reach": reach, "at_most": at_most, "met": met}


def machine() -> dict[str, Any]:
    """Describe the machine and the software as far as figures depend on them."""
    info = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in info.splitlines())}
    flags = fields.get("flags", "").split()
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def report(name: str, rows: Sequence[dict[str, Any]], notes: Sequence[str] = ()) -> None:
    """Print the table and write it, with every round's time and the machine, to benchmarks/results/<name>.json."""
    described = machine()
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    RESULTS.mkdir(exist_ok=True)
    record = {"name": name, "when": when, "machine": described, "notes": list(notes), "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")

    table = [("work", "ours", "compared with", "takes", "ratio or figure", "reach", "")]
    for row in rows:
        ours, theirs = (f"{row[key]:.3g} s" if key in row else "" for key in ("ours_s", "theirs_s"))
        than = f"{row['kind']}: {row['than']}" if "than" in row else ""
        reach = "" if row["reach"] is None else f"{'<=' if row['at_most'] else '>='} {row['reach']:g}"
        verdict = {None: "", True: "met", False: "NOT met"}[row["met"]]
        table.append((row["work"], ours, than, theirs, f"{row['value']:.3g} {row['unit']}".strip(), reach, verdict))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(
        f"{name}: {described['processor']}, {described['cores']} cores, {' '.join(described['instructions'])}; medians"
    )
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for note in notes:
        print(f"  {note}")
    sys.stdout.flush()
