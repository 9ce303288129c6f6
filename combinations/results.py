"""results.txt and results.csv: the numbers of each combination in the forms that users grep and load."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from combinations.comparison import Comparison, Result
from common import files
from common.messages import UserError
from evaluation.codes import CodedSets
from evaluation.fusion import DECISION
from evaluation.records import Rule
from uncertainty.intervals import FEW_IMAGES


def block(coded: CodedSets, rule: Rule, result: Result, comparison: Comparison, *, title: str, scored_on: str) -> str:
    """Return the block of one combination; its first three lines keep the form that older tools read."""
    combination = result.combination
    baseline = comparison.baseline.combination
    references = [Path(coded.references[r].source).name for r in combination.reference_ids]
    queries = [Path(coded.queries[q].source).name for q in combination.query_ids]
    few = ", few images" if result.n_images < FEW_IMAGES else ""
    rows = {
        "Reference npz files": f"({', '.join(references)})",
        "Query npz files": f"({', '.join(queries)})",
        "Accuracy@1": f"{result.accuracy_at_1:.4f}",
        **({f"Accuracy@{rule.k}": f"{result.score:.4f}"} if rule.k > 1 else {}),
        "95% interval": f"{result.low:.4f} to {result.high:.4f} ({result.n_images} images{few})",
        "Dataset": title,
        "Fusion": rule.fusion,
        "k": f"{rule.k}",
        "Reference IDs": ", ".join(combination.reference_ids),
        "Query IDs": ", ".join(combination.query_ids),
        "Matched": "yes" if combination.matched else "no",
        "Decisions": f"{result.n_queries} ({DECISION[rule.fusion]}s)",
        "Decisions of a label without references": f"{result.n_unknown}",
        "Accuracy over the others": _share(result.accuracy_answerable),
        "Macro-F1": _share(result.macro_f1),
        "Recall@5": _share(result.recall_at_5),
        "Recall@10": _share(result.recall_at_10),
        "Cost of a decision": f"{result.cost.forward_passes} forward passes, {result.cost.gallery_rows} gallery rows, "
        f"{result.cost.operations} multiply-adds",
        "Scored on": scored_on,
    }
    if combination != baseline:
        rows[f"Difference from {baseline}"] = f"{_signed(result.difference)} over {comparison.n_matched} common crops"
        rows["Difference 95% interval"] = f"{_signed(result.difference_low)} to {_signed(result.difference_high)}"
        rows[f"p corrected over {comparison.n_compared} combinations"] = _share(result.p)
    else:
        rows["Difference"] = "this is the baseline"
    return "".join(f"{name}: {value}\n" for name, value in rows.items()) + "\n"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.4f}"


def append(path: Path, blocks: Iterable[str]) -> None:
    """Append `blocks` to the text file in one replacement; a second run that appends meanwhile waits for its turn by the lock.

    A file that ends with these very blocks stays as it is: a run that was killed after it had written them may be repeated.
    """
    with files.locked(path.with_name(f".{path.name}.lock"), wait=True):
        old = path.read_bytes() if path.is_file() else b""
        new = "".join(blocks).encode("utf-8", "surrogateescape")
        if files.kind_of(old[: files.HEAD]) not in ("", files.kind_of(new[: files.HEAD])):
            raise UserError(
                f"{path} is {files.kind_of(old[: files.HEAD])}, not what results are appended to; name another file"
            )
        if not old.endswith(new):
            files.write_bytes(path, old + new)


def write_csv(path: Path, rule: Rule, comparisons: Iterable[tuple[str, Comparison]], *, title: str) -> None:
    """Write one row per combination of this run, replacing the file: `comparisons` are (scored_on, comparison)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = None
    for scored_on, comparison in comparisons:
        for rank, result in enumerate(comparison.results, 1):
            row = _row(result) | {
                "rank": rank,
                "matched": result.combination.matched,
                "fusion": rule.fusion,
                "k": rule.k,
                "dataset": title,
                "baseline": str(comparison.baseline.combination),
                "scored_on": scored_on,
            }
            if names is None:
                names = list(row)
                writer.writerow(names)
            writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in row.values()])
    files.write_text(path, text.getvalue())


def _row(result: Result) -> dict[str, object]:
    return {
        "reference_ids": "+".join(result.combination.reference_ids),
        "query_ids": "+".join(result.combination.query_ids),
        "accuracy_at_1": result.accuracy_at_1,
        "n_queries": result.n_queries,
        "score": result.score,
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
