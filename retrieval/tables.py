"""What search.py prints: the results of queries, how good the search is, what each re-ranking gains. All return text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from common.messages import count, table
from common.table_files import tsv_line
from evaluation.metrics import RECALL_AT
from retrieval.items import Hit, Item
from retrieval.scores import Measured, by_image, gain
from uncertainty.intervals import accuracy_interval


def results_as_tsv(names: Sequence[str], results: Sequence[Sequence[Hit]], *, spreadsheet_safe: bool = False) -> str:
    """Return a line for each result of each query, below a header."""
    lines = ["query\trank\tscore\tpath\tlabel"]
    for name, hits in zip(names, results, strict=True):
        for rank, hit in enumerate(hits, 1):
            cells = (name, rank, f"{hit.score:.4f}", hit.item.path, hit.item.label)
            lines.append(tsv_line(cells, spreadsheet_safe=spreadsheet_safe))
    return "\n".join(lines)


def results_as_json(names: Sequence[str], results: Sequence[Sequence[Hit]], *, spreadsheet_safe: bool = False) -> str:
    """Return a list of {query, results}, each result with its rank, score and item; no spreadsheet reads JSON."""
    queries = [
        {
            "query": name,
            "results": [
                {"rank": rank, "score": round(hit.score, 6), **hit.item._asdict()} for rank, hit in enumerate(hits, 1)
            ],
        }
        for name, hits in zip(names, results, strict=True)
    ]
    return json.dumps(queries, indent=1, ensure_ascii=False)


RESULT_FORMATS = {"tsv": results_as_tsv, "json": results_as_json}


def results_to_draw(
    names: Sequence[str], labels: Sequence[str | None], results: Sequence[Sequence[Hit]]
) -> list[tuple[str, str | None, list[tuple[str, str, float]]]]:
    """Return (picture, its label, [(path, label, score) of each result]) for each query that has results."""
    return [
        (name, label, [(hit.item.path, hit.item.label, hit.score) for hit in hits])
        for name, label, hits in zip(names, labels, results, strict=False)
        if hits
    ]


def evaluation_text(head: str, measured: Mapping[str, Measured], items: Sequence[Item], n_relevant: np.ndarray) -> str:
    """Return all that search.py evaluate says of the re-rankings; n_relevant (n_query,) as in Scores."""
    lines = [f"{head}, {count(len(items), 'query', 'queries')}, none among its own results"]
    if unknown := int((n_relevant == 0).sum()):
        lines.append(f"{unknown:,} queries have a label that no other row has; they count as wrong")
    lines += ["", measures_table(measured, items)]
    if gains := gains_table(measured, items):
        lines += ["", "Gain over no re-ranking, paired by query, interval by source image", "", gains]
    return "\n".join(lines)


def measures_table(measured: Mapping[str, Measured], items: Sequence[Item]) -> str:
    """Return a line for each re-ranking: its measures with intervals by source image, and the time of a query."""
    rows = []
    for method, of_method in measured.items():
        row = [method]
        for values in of_method.scores.measures.values():
            interval = accuracy_interval(*by_image(values, items))
            row += [f"{values.mean():.4f}", f"{interval.low:.4f} to {interval.high:.4f}"]
        row += [f"{value:.4f}" for value in of_method.scores.recalled[:, 1:].mean(axis=0)]
        rows.append([*row, *(f"{1e3 * np.percentile(of_method.seconds, q):.1f}" for q in (50, 95))])
    header = ["Recall@1", "95 % interval", "F1@10", "95 % interval", *(f"Recall@{k}" for k in RECALL_AT[1:])]
    return table(["re-ranking", *header, "p50 ms", "p95 ms"], rows)


def gains_table(measured: Mapping[str, Measured], items: Sequence[Item]) -> str:
    """Return a line for each re-ranking and measure: its gain over `none`; '' where there is nothing to compare."""
    plain, rows = measured["none"].scores.measures, []
    for method, of_method in measured.items():
        for name, values in of_method.scores.measures.items() if method != "none" else ():
            gained = gain(values, plain[name], items)
            interval = f"{gained.low[0]:+.4f} to {gained.high[0]:+.4f}"
            rows.append([method, name, f"{gained.difference[0]:+.4f}", interval, f"{gained.p[0]:.4f}"])
    return table(["re-ranking", "measure", "gain", "95 % interval", "p"], rows) if rows else ""
