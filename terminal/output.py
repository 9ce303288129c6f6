"""Where findings go beside the screen: into results.txt, or as JSON to stdout alone."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from combinations import results
from combinations.verdict import Findings
from common import cli
from evaluation.codes import CodedSets
from evaluation.records import Rule
from terminal import tables


def add_to_results(
    path: Path | None, mode: str, safe: bool, coded: CodedSets, rule: Rule, findings: Findings, command: str
) -> None:
    """Add the run to results.txt and results.csv, where there is a path; `mode`: append or replace, `safe` for spreadsheets."""
    if path is None:
        return
    results.write(
        path,
        coded,
        rule,
        findings,
        command=command,
        version=cli.version(),
        models=tables.models(findings.models),
        replace=mode == "replace",
        spreadsheet_safe=safe,
    )


@contextlib.contextmanager
def told_as(form: str) -> Iterator[Callable[[Rule, Findings], None]]:
    """Yield the function that takes findings; as json they go to stdout, and what is printed meanwhile goes to stderr."""
    kept: list[str] = []

    def tell(rule: Rule, findings: Findings) -> None:
        kept.append(json.dumps(as_json(rule, findings), indent=1, ensure_ascii=False))

    with contextlib.redirect_stdout(sys.stderr) if form == "json" else contextlib.nullcontext():
        yield tell
    if form == "json" and kept:
        print(kept[-1])


def as_json(rule: Rule, findings: Findings) -> dict[str, Any]:
    """Return findings as JSON holds them: the verdict, models, and a row a combination as in results.csv; null for no number."""
    verdict = findings.verdict
    models = [{**asdict(row), "combination": str(row.combination)} for row in findings.models]
    return {
        "dataset": findings.title,
        "fusion": rule.fusion,
        "k": rule.k,
        "verdict": verdict and {"which": verdict.which, "combine": verdict.combine, "classifier": verdict.classifier},
        "models": [_plain(row) for row in models],
        "combinations": [_plain(row) for row in results.rows(rule, findings)],
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        value = value.item() if hasattr(value, "item") else value  # of numpy
        if isinstance(value, float):
            return None if math.isnan(value) else round(value, 6)
        return value

    return {name: plain(value) for name, value in row.items()}
