"""What search.py prints: the results of queries, how good the search is, what each re-ranking gains. All return text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from common.messages import count, table
from common.table_files import tsv_line
from evaluation.metrics import RECALL_AT
from retrieval.items import Hit, Item
from retrieval.scores import TOP, Measured, by_image, gain
from uncertainty.intervals import accuracy_interval


def results_as_tsv(
    names: Sequence[str], results: Sequence[Sequence[Hit]], score: str = "score", *, spreadsheet_safe: bool = False
) -> str:
    """Return a line for each result of each query, below a header; `score`: the name of that column."""
    lines = [f"query\trank\t{score}\tpath\tlabel"]
    for name, hits in zip(names, results, strict=True):
        for rank, hit in enumerate(hits, 1):
            cells = (name, rank, f"{hit.score:.4f}", hit.item.path, hit.item.label)
            lines.append(tsv_line(cells, spreadsheet_safe=spreadsheet_safe))
    return "\n".join(lines)


def results_as_json(
    names: Sequence[str], results: Sequence[Sequence[Hit]], score: str = "score", *, spreadsheet_safe: bool = False
) -> str:
    """Return a list of {query, results}, each result with rank, score (by that name) and item; no spreadsheet reads JSON."""
    queries = [
        {
            "query": name,
            "results": [
                {"rank": rank, score: round(hit.score, 6), **hit.item._asdict()} for rank, hit in enumerate(hits, 1)
            ],
        }
        for name, hits in zip(names, results, strict=True)
    ]
    return json.dumps(queries, indent=1, ensure_ascii=False)


def with_unknown(results: Sequence[Sequence[Hit]], refused: np.ndarray, name: str) -> list[list[Hit]]:
    """Return the results, those of each refused query (n,) bool after a first one whose label is `name`."""
    first = Hit(0.0, Item("", "", "", "", "", "", name))
    return [[first, *hits] if refuse else list(hits) for hits, refuse in zip(results, refused, strict=True)]


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


def evaluation_as_text(
    head: str, measured: Mapping[str, Measured], items: Sequence[Item], n_relevant: np.ndarray, recall: float | None
) -> str:
    """Return all that search.py evaluate says of the re-rankings; n_relevant (n_query,) as in Scores.

    recall: the index's recall of the true nearest rows, where that was measured.
    """
    lines = [f"{head}, {count(len(items), 'query', 'queries')}, none among its own results"]
    if unknown := int((n_relevant == 0).sum()):
        lines.append(
            f"{count(unknown, 'query has', 'queries have')} a label that no other row has, which counts as wrong"
        )
    lines += ["", measures_table(measured, items)]
    if gains := gains_table(measured, items):
        lines += ["", "Gain over no re-ranking, paired by query, interval by photo", "", gains]
    if recall is not None:
        lines += ["", f"Recall of the index against exact search over --npz: {recall:.4f} of the top {TOP}"]
    return "\n".join(lines)


def evaluation_as_json(
    head: str, measured: Mapping[str, Measured], items: Sequence[Item], n_relevant: np.ndarray, recall: float | None
) -> str:
    """Return the same as one JSON object; accuracies and gains with their intervals by photo."""
    rerankings = []
    for method, of_method in measured.items():
        row: dict[str, object] = {"reranking": method}
        for name, values in of_method.scores.measures.items():
            interval = accuracy_interval(*by_image(values, items))
            row[name] = {"value": float(values.mean()), "low": interval.low, "high": interval.high}
            if method != "none":
                gained = gain(values, measured["none"].scores.measures[name], items)
                row[f"gain of {name}"] = gained._asdict()
        shares = of_method.scores.recalled[:, 1:].mean(axis=0).tolist()
        row |= {f"Recall@{k}": share for k, share in zip(RECALL_AT[1:], shares, strict=True)}
        row |= {f"p{q} ms": 1e3 * float(np.percentile(of_method.seconds, q)) for q in (50, 95)}
        rerankings.append(row)
    about = {"searched": head, "queries": len(items), "without_relevant": int((n_relevant == 0).sum())}
    content = {**about, "rerankings": rerankings, "index_recall": recall}
    return json.dumps(content, indent=1, ensure_ascii=False)


EVALUATION_FORMATS = {"text": evaluation_as_text, "json": evaluation_as_json}


def measures_table(measured: Mapping[str, Measured], items: Sequence[Item]) -> str:
    """Return a line for each re-ranking: its measures with intervals by photo, and the time of a query."""
    rows = []
    for method, of_method in measured.items():
        row = [method]
        for values in of_method.scores.measures.values():
            interval = accuracy_interval(*by_image(values, items))
            row += [f"{values.mean():.4f}", f"{interval.low:.4f} to {interval.high:.4f}"]
        row += [f"{value:.4f}" for value in of_method.scores.recalled[:, 1:].mean(axis=0)]
        rows.append([*row, *(f"{1e3 * np.percentile(of_method.seconds, q):.1f}" for q in (50, 95))])
    header = ["Recall@1", "95% interval", "F1@10", "95% interval", *(f"Recall@{k}" for k in RECALL_AT[1:])]
    return table(["re-ranking", *header, "p50 ms", "p95 ms"], rows)


def gains_table(measured: Mapping[str, Measured], items: Sequence[Item]) -> str:
    """Return a line for each re-ranking and measure: its gain over `none`; '' where there is nothing to compare."""
    plain, rows = measured["none"].scores.measures, []
    for method, of_method in measured.items():
        for name, values in of_method.scores.measures.items() if method != "none" else ():
            gained = gain(values, plain[name], items)
            interval = f"{gained.low:+.4f} to {gained.high:+.4f}"
            rows.append([method, name, f"{gained.difference:+.4f}", interval, f"{gained.p:.4f}"])
    return table(["re-ranking", "measure", "gain", "95% interval", "p"], rows) if rows else ""
