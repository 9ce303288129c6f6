"""Where findings go beside the screen: into results.txt, a table of flips, pictures, or as JSON to stdout alone."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from combinations import comparison, flips
from combinations.comparison import Comparison
from common import cli, files, messages, table_files
from conclusions import results
from conclusions.effects import Effect
from conclusions.verdict import Findings
from evaluation.codes import CodedSets
from evaluation.evaluator import Evaluator
from evaluation.records import Combination, Decisions, Rule
from plots import heatmaps, maps, projection
from terminal import tables
from terminal.measures import class_similarity, map_points


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
        tables=[
            text
            for text in (
                tables.models(findings.models, messages.WIDTH),
                tables.effects(findings.effects, messages.WIDTH),
            )
            if text
        ],
        replace=mode == "replace",
        spreadsheet_safe=safe,
    )
    messages.note(f"the run is added to {path} and {path.with_suffix('.csv').name}")


def write_flips(
    evaluator: Evaluator,
    decided: Mapping[Combination, Decisions],
    final: Comparison,
    path: Path,
    if_independent: bool,
    seed: int,
    safe: bool,
) -> None:
    """Write the table of flips and print how many crops each of the first combinations rescues and breaks."""
    coded, baseline = evaluator.coded, final.baseline.combination
    reported = [result.combination for result in final.results[: comparison.REPORTED]]
    alone = {name: decided[pair] for name, pair in comparison.same_id_pairs(evaluator).items()}
    table = flips.table(coded, alone, {name: decided[name] for name in dict.fromkeys([baseline, *reported])})
    for table_path in (path.with_suffix(".parquet"), path.with_suffix(".csv")):
        table_files.write(table_path, table, spreadsheet_safe=safe, checked=True)
    for combination in reported:
        if combination != baseline:
            change = flips.compare(coded, decided[baseline], decided[combination], seed=seed)
            print(f"{combination} against {baseline}: {flips.summary(change, if_independent=if_independent)}")
    print(f"wrote {path.with_suffix('.parquet')} and .csv: {messages.count(len(table), 'crop')}")


@contextlib.contextmanager
def told_as(form: str, command: str) -> Iterator[Callable[[Rule, Findings], None]]:
    """Yield the function that takes findings; as json they go to stdout, and what is printed meanwhile goes to stderr."""
    kept: list[str] = []

    def tell(rule: Rule, findings: Findings) -> None:
        kept.append(json.dumps(as_json(rule, findings, command), indent=1, ensure_ascii=False))

    with contextlib.redirect_stdout(sys.stderr) if form == "json" else contextlib.nullcontext():
        yield tell
    if form == "json" and kept:
        print(kept[-1])


def as_json(rule: Rule, findings: Findings, command: str) -> dict[str, Any]:
    """Return findings as JSON holds them: the verdict, models, and a row a combination as in results.csv; null for no number."""
    verdict = findings.verdict
    models = [{**asdict(row), "combination": str(row.combination)} for row in findings.models]
    return {
        "command": command,
        "dataset": findings.title,
        "fusion": rule.fusion,
        "k": rule.k,
        "verdict": verdict and {name: getattr(verdict, name) for name in ("which", "combine", "classifier", "caution")},
        "models": [_plain(row) for row in models],
        "effects": [_plain(_as_row(effect)) for effect in findings.effects],
        "combinations": [_plain(row) for row in results.rows(rule, findings)],
    }


def _as_row(effect: Effect) -> dict[str, Any]:
    fields = asdict(effect)
    now, before = fields.pop("speeds")
    names = {"of": str(effect.of), "against": str(effect.against), "images_s": now, "images_s_against": before}
    return {**fields, **names}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        value = value.item() if hasattr(value, "item") else value  # of numpy
        if isinstance(value, float):
            return None if math.isnan(value) else round(value, 6)
        return value

    return {name: plain(value) for name, value in row.items()}


def show_similarity(coded: CodedSets, reference_ids: Sequence[str], output_root: Path) -> None:
    """Print the mean cosine within and between classes of the merged references and draw it class by class."""
    text, matrix, names = class_similarity(coded, reference_ids)
    messages.show(text)
    ids = "+".join(reference_ids)
    path = output_root / files.name_part(f"similarity_{ids}.png")
    heatmaps.similarity_heatmap(path, matrix, names, title=f"Mean cosine between classes, references {ids}")
    print(f"wrote {path} and .svg")


def draw(
    coded: CodedSets,
    rule: Rule,
    combination: Combination,
    decisions: Decisions,
    methods: Sequence[str],
    *,
    top_n: int,
    output_root: Path,
    seed: int,
) -> None:
    """Draw references and queries of one combination as 2-D maps."""
    vectors, labels, role, correct = map_points(coded, rule, combination, decisions)
    ids = "+".join(combination.reference_ids), "+".join(combination.query_ids)
    for method in methods:
        messages.note(f"{method} of {len(vectors):,} vectors …")
        points = projection.project(vectors, method, 2, seed=seed)
        learnt = "" if combination.is_plain else f"_{combination.classifier}"
        path = output_root / files.name_part(f"{method}_{ids[0]}_{ids[1]}{learnt}.png")
        title = f"{method.upper()}, references {ids[0]}, queries {ids[1]}{learnt.replace('_', ', ')}"
        maps.embedding_map(path, points, labels, top_n=top_n, marker_by=role, correct=correct, title=title)
        print(f"wrote {path} and .svg")
