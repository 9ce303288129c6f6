"""results.txt and results.csv: the numbers of each combination in the forms that users grep and load, one run after the other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

from combinations.comparison import Result
from common import files, table_files
from common.messages import WIDTH, UserError, count, wrap
from conclusions.verdict import Findings
from evaluation.codes import CodedSets, remarks
from evaluation.fusion import DECISION, NAME
from evaluation.records import Combination, Rule
from uncertainty.intervals import FEW_IMAGES

FIRST = ("reference_ids", "query_ids", "accuracy_at_1", "n_queries")  # columns that older tools read by their place

# A text that an editor has saved may have other line ends, or blanks at the end of a line.
_BEGIN, _END = (re.compile(rf"^{words}: (\S+)\s*?$", re.MULTILINE) for words in ("Run", "End of run"))


@dataclass(frozen=True)
class Run:
    """One run of a script: `identity` is its time and a digest of its command and inputs, the same for the same run again."""

    identity: str
    date: str
    version: str
    command: str
    dataset: str
    models: list[str]
    n_reference: int
    n_query: int

    @property
    def digest(self) -> str:
        return self.identity.rpartition("-")[2]


def describe(coded: CodedSets, *, command: str, version: str, dataset: str) -> Run:
    """Return what stands in the header of a run that starts now."""
    now = datetime.now(timezone.utc)
    everything = [*coded.references.values(), *coded.queries.values()]
    models = {one.fingerprint: str(one.meta.get("model") or "unknown model") for one in everything}
    inputs = [(one.source, len(one), one.dim, {**one.meta, "source": ""}) for one in everything]
    content = json.dumps([command, inputs], sort_keys=True, default=str)
    return Run(
        identity=f"{now:%Y%m%d-%H%M%S-%f}-{hashlib.sha256(content.encode()).hexdigest()[:8]}",
        date=f"{now:%Y-%m-%d %H:%M:%S} UTC",
        version=version,
        command=command,
        dataset=dataset,
        models=[f"{name} ({fingerprint[:12] or 'no fingerprint'})" for fingerprint, name in models.items()],
        n_reference=len(coded.references),
        n_query=len(coded.queries),
    )


def blocks(coded: CodedSets, rule: Rule, findings: Findings) -> list[str]:
    """Return the block of every combination that is reported, the best first."""
    return [_block(coded, rule, result, findings) for result in findings.final.results]


def _block(coded: CodedSets, rule: Rule, result: Result, findings: Findings) -> str:
    """Return the block of one combination; its first three lines keep the form that older tools read."""
    combination, comparison = result.combination, findings.final
    baseline = comparison.baseline.combination
    how = f"chosen on {findings.chosen_on}" if findings.chosen_on else "where it was also chosen"
    references = [Path(coded.references[r].source).name for r in combination.reference_ids]
    queries = [Path(coded.queries[q].source).name for q in combination.query_ids]
    noun = coded.units.noun()
    few = f", few {noun}s" if result.n_images < FEW_IMAGES else ""
    rows = {
        "Reference npz files": f"({', '.join(references)})",
        "Query npz files": f"({', '.join(queries)})",
        "Accuracy@1": f"{result.score:.4f}",
        **(
            {"Nearest neighbour alone": f"{result.nearest_accuracy:.4f}"}
            if rule.k > 1 or not combination.is_plain
            else {}
        ),
        "95% interval": f"{result.low:.4f} to {result.high:.4f} ({count(result.n_images, noun)}{few})",
        **(
            {"95% interval, new references": _new(findings, combination)}
            if combination in findings.new_references
            else {}
        ),
        **({"Dataset": findings.title} if findings.title else {}),
        "Fusion": NAME[rule.fusion],
        **({"k": f"{rule.k}"} if combination.is_plain else {"Classifier": str(combination.classifier)}),
        "Reference IDs": ", ".join(combination.reference_ids),
        "Query IDs": ", ".join(combination.query_ids),
        "Matched": "yes" if combination.matched else "no",
        "Decisions": f"{result.n_queries} ({DECISION[rule.fusion]}s)",
        "Decisions of a label without references": f"{result.n_unknown}",
        "Accuracy over the others": _share(result.accuracy_answerable),
        "Macro-F1": _share(result.macro_f1),
        "Recall@5": _within(result.recall_at_5, result.recall_limits[0]),
        "Recall@10": _within(result.recall_at_10, result.recall_limits[1]),
        **(
            {"Close calls": f"{count(result.n_close, 'decision')} that rounding may have made"}
            if result.n_close
            else {}
        ),
        "Cost of a decision": f"{count(result.cost.forward_passes, 'forward pass', 'forward passes')}, "
        f"{result.cost.gallery_rows} reference rows, {result.cost.operations} multiply-adds",
        "Scored on": f"{findings.scored_on}, {how}" if findings.verdict else findings.scored_on,
    }
    if combination != baseline:
        rows[f"Difference from {baseline}"] = f"{_signed(result.difference)} over {comparison.n_matched} common crops"
        rows["Difference 95% interval"] = f"{_signed(result.difference_low)} to {_signed(result.difference_high)}"
        rows[f"p corrected over the {count(comparison.n_compared, 'other')}"] = _share(result.p)
    else:
        rows["Difference"] = "this is the baseline"
    return _lines(rows) + "\n"


def _new(findings: Findings, combination: Combination) -> str:
    new = findings.new_references[combination]
    return f"{new.interval.low:.4f} to {new.interval.high:.4f}" if new else "reference photos unknown or too few"


def _lines(rows: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in rows.items())


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _within(value: float, limits: tuple[float, float]) -> str:
    return f"{_share(value)}, 95% interval {limits[0]:.4f} to {limits[1]:.4f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.4f}"


def table(rule: Rule, findings: Findings) -> list[dict[str, str]]:
    """Return the rows of results.csv, all as text; see `rows`."""
    return [
        {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in row.items()}
        for row in rows(rule, findings)
    ]


def rows(rule: Rule, findings: Findings) -> list[dict[str, object]]:
    """Return what is reported, then the search on another split, each the best first: one row a combination."""
    return [
        {
            **_row(result),
            **(_new_columns(findings, result.combination) if findings.new_references else {}),
            "rank": rank,
            "matched": result.combination.matched,
            "fusion": rule.fusion,
            "classifier": str(result.combination.classifier),
            "k": rule.k,
            "dataset": findings.title,
            "baseline": str(comparison.baseline.combination),
            "scored_on": scored_on,
        }
        for comparison, scored_on in (
            (findings.final, findings.scored_on),
            *([(findings.ranked, findings.chosen_on)] if findings.chosen_on else []),
        )
        for rank, result in enumerate(comparison.results, 1)
    ]


def _new_columns(findings: Findings, combination: Combination) -> dict[str, object]:
    new = findings.new_references.get(combination)
    low, high = (new.interval.low, new.interval.high) if new else (math.nan, math.nan)
    return {"low_new_references": low, "high_new_references": high}


def _row(result: Result) -> dict[str, object]:
    return {
        "reference_ids": "+".join(result.combination.reference_ids),
        "query_ids": "+".join(result.combination.query_ids),
        "accuracy_at_1": result.score,
        "n_queries": result.n_queries,
        "score": result.score,
        "nearest_neighbour": result.nearest_accuracy,
        "low": result.low,
        "high": result.high,
        "n_images": result.n_images,
        "n_unknown": result.n_unknown,
        "accuracy_answerable": result.accuracy_answerable,
        "macro_f1": result.macro_f1,
        "recall_at_5": result.recall_at_5,
        "recall_at_10": result.recall_at_10,
        "difference": result.difference,
        "difference_low": result.difference_low,
        "difference_high": result.difference_high,
        "p_corrected": result.p,
        "forward_passes": result.cost.forward_passes,
        "gallery_rows": result.cost.gallery_rows,
        "operations": result.cost.operations,
        "pareto": result.pareto,
    }


def write(
    path: Path,
    coded: CodedSets,
    rule: Rule,
    findings: Findings,
    *,
    command: str,
    version: str,
    tables: Sequence[str] = (),
    replace: bool = False,
    spreadsheet_safe: bool = False,
) -> None:
    """Add the run of a command, by a version of the suite, to the text file and to the .csv beside it, each in one replacement.

    A second run meanwhile waits for its turn. The verdict and `tables`, where there are some, stand in the run's
    header, the verdict also at its end; the text says last that the run has ended. What a killed run of the same command and inputs
    left in either file is replaced, what others wrote is kept; `replace` keeps nothing. `spreadsheet_safe`: see common.table_files.
    """
    run = describe(coded, command=command, version=version, dataset=findings.title)
    table_path = path.with_suffix(".csv")
    with _alone(path.with_name(f".{path.name}.lock")) as killed:
        old = _old_text(path) if path.is_file() and not replace else ""
        old_rows = _read(table_path) if table_path.is_file() and not replace else []
        ended = _END.findall(old)
        finished = set(ended[:-1] if killed and ended and _is_of(run, ended[-1]) else ended)
        kept = [row for row in old_rows if row.get("run") in finished or not _is_of(run, row.get("run", ""))]
        new = [{**row, "run": run.identity} for row in table(rule, findings)]
        files.write_text(table_path, _csv([*kept, *new], spreadsheet_safe))
        text = _text(run, coded, rule, findings, tables)
        try:
            files.write_text(path, _without_unfinished(old, run, finished) + text)
        except OSError:  # a run that is reported as failed must not stand there as finished
            with contextlib.suppress(OSError):
                files.write_text(path, old)
            raise


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Hold the lock file for the block; yields whether a run that held it before was killed, as it has left the file."""
    left = lock.exists()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(lock))
        except UserError:  # another run is writing
            stack.enter_context(files.locked(lock, wait=True))
            left = False
        yield left


def _old_text(path: Path) -> str:
    content = path.read_bytes()
    if (kind := files.kind_of(content[: files.HEAD])) not in ("", "a text file"):
        raise UserError(f"{path} is {kind}, not what results are appended to; name another file")
    return content.decode("utf-8", "surrogateescape")


def _is_of(run: Run, identity: str) -> bool:
    return identity.rpartition("-")[2] == run.digest


def _without_unfinished(text: str, run: Run, finished: set[str]) -> str:
    starts = [found.start() for found in _BEGIN.finditer(text)]
    parts = [text[start:stop] for start, stop in pairwise([0, *starts, len(text)])]
    names = [_BEGIN.match(part) for part in parts]
    return "".join(
        part
        for part, name in zip(parts, names, strict=True)
        if name is None or name[1] in finished or not _is_of(run, name[1])
    )


def _text(run: Run, coded: CodedSets, rule: Rule, findings: Findings, tables: Sequence[str]) -> str:
    answers = f"{findings.verdict.text(WIDTH)}\n" if findings.verdict else ""
    told, group_by = remarks(coded, rule), coded.units.group_by
    header = {
        "Run": run.identity,
        "Date": run.date,
        "Version": run.version,
    }
    about = {
        **({"Data set": run.dataset} if run.dataset else {}),
        "Models": ", ".join(run.models),
        "Sets": f"{count(run.n_reference, 'reference set')}, {count(run.n_query, 'query set')}",
        **({"Intervals by": f"group, {group_by}"} if group_by else {}),
        **({"Classifiers": "; ".join(findings.choices)} if findings.choices else {}),
        **({"Remarks": "; ".join(told)} if told else {}),
    }
    more = "".join(f"\n{table}\n" for table in tables)
    return (
        _lines(header)
        + _in_lines(run.command)
        + wrap(_lines(about), 2, width=WIDTH)
        + answers
        + more
        + "\n"
        + "".join(blocks(coded, rule, findings))
        + answers
        + f"End of run: {run.identity}\n\n"
    )


def _in_lines(command: str) -> str:
    """Return a command broken between its words, with a backslash at each line's end: a shell takes it as it stands."""
    lines = ["Command:"]
    for word in map(shlex.quote, shlex.split(command)):
        if len(lines[-1]) + len(word) + 3 <= WIDTH:  # with a blank before it, and one and a backslash behind
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}")
    return " \\\n".join(lines) + "\n"


def _read(path: Path) -> list[dict[str, str]]:
    header, rows = table_files.read_csv(path, "repair it, or start anew with --results_mode replace")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _csv(rows: Sequence[Mapping[str, str]], spreadsheet_safe: bool) -> str:
    names = list(dict.fromkeys([*FIRST, *(name for row in rows for name in row)]))
    cells = ([row.get(name, "") for name in names] for row in rows)
    return table_files.csv_text(names, cells, spreadsheet_safe=spreadsheet_safe)
