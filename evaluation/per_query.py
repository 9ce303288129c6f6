"""Measures of single queries: MAP@R, R-precision, margins, and the table of predictions with one row a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from common.blocks import Blocks
from common.embeddings import EmbeddingSet
from evaluation import metrics
from evaluation.codes import CodedSets
from evaluation.evaluator import Evaluator, Task
from evaluation.records import Combination, Decisions, Rule

if TYPE_CHECKING:
    import pandas as pd

_BYTES = 1 << 28  # of neighbour lists held at a time


def retrieval(evaluator: Evaluator, combination: Combination) -> tuple[np.ndarray, np.ndarray]:
    """Return (MAP@R, R-precision) of the queries of all views, (2, n) in 0..1, and their photos, (n,) int codes."""
    tasks = evaluator.tasks(combination)
    scores = [_retrieval(evaluator, task) for task in tasks]
    return np.concatenate(scores, axis=1), np.concatenate([task.query_image for task in tasks])


def _retrieval(evaluator: Evaluator, task: Task) -> np.ndarray:
    sizes = np.bincount(task.reference_label, minlength=len(evaluator.coded.classes))[task.query_label]
    if evaluator.rule.exclude != "none":
        sizes = sizes - _left_out(task)
    depth = max(1, int(sizes.max(initial=1)))
    step = max(1, _BYTES // (16 * depth))
    scores = []
    for start in range(0, len(task.query_label), step):
        rows = np.arange(start, min(start + step, len(task.query_label)))
        part = _queries(task, rows)
        neighbours = evaluator.search(part, depth)[1]
        relevant = (task.reference_label[neighbours] == part.query_label[:, None]) & (neighbours >= 0)
        scores.append(np.stack(metrics.average_precision_at_r(relevant, sizes[rows])))
    return np.concatenate(scores, axis=1)


def _queries(task: Task, rows: np.ndarray) -> Task:
    """Return the task with these queries only."""
    names = ("query", "query_label", "query_group", "query_image")
    return replace(task, **{name: getattr(task, name)[rows] for name in names})


def _left_out(task: Task) -> np.ndarray:
    """Return (n,) how many references of the query's own label are left out with its group."""
    both = np.stack(
        [np.r_[task.query_group, task.reference_group], np.r_[task.query_label, task.reference_label]], axis=1
    )
    codes = np.unique(both, axis=0, return_inverse=True)[1].ravel()
    n = len(task.query_group)
    return np.bincount(codes[n:], minlength=codes.max() + 1)[codes[:n]]


def margins(evaluator: Evaluator, combination: Combination, chosen: np.ndarray | None = None) -> np.ndarray:
    """Return float32: cosine of the nearest reference of the right label minus that of the nearest of any other label.

    One row a decision of the combination, or of the `chosen` ones by index; under `vote` the mean over the views of the crop.
    Positive where the nearest neighbour is right; NaN where one of the two does not exist.
    """
    tasks = evaluator.tasks(combination)
    if evaluator.rule.fusion == "vote":
        crops = evaluator.common_rows(combination.query_ids)
        crops = crops if chosen is None else crops[:, chosen]
        return np.mean(
            [_margins(evaluator, _queries(task, rows)) for task, rows in zip(tasks, crops, strict=True)], axis=0
        )
    if chosen is None:
        return np.concatenate([_margins(evaluator, task) for task in tasks])
    result, start = np.empty(len(chosen), np.float32), 0
    for task in tasks:
        here = (chosen >= start) & (chosen < start + len(task.query_label))
        if here.any():
            result[here] = _margins(evaluator, _queries(task, chosen[here] - start))
        start += len(task.query_label)
    return result


def _margins(evaluator: Evaluator, task: Task) -> np.ndarray:
    right = np.full(len(task.query_label), np.nan, np.float32)
    other = np.full(len(task.query_label), -np.inf, np.float32)
    vectors = Blocks(task.reference)  # takes a class's rows without a copy of all
    for label in np.unique(task.reference_label):
        members = np.flatnonzero(task.reference_label == label)
        of_label = replace(
            task,
            reference=[vectors[members]],
            reference_label=task.reference_label[members],
            reference_group=task.reference_group[members],
        )
        similarity = evaluator.search(of_label, 1)[0][:, 0]
        same = task.query_label == label
        right[same] = similarity[same]
        other[~same] = np.maximum(other[~same], similarity[~same])
    with np.errstate(invalid="ignore"):  # where both are -inf
        margin = right - other
    return np.where(np.isfinite(margin), margin, np.nan).astype(np.float32)


def prediction_table(evaluator: Evaluator, decided: Mapping[Combination, Decisions]) -> pd.DataFrame:
    """Return the decisions of the combinations as one table, a row a decision.

    Columns: dataset_name, split, id, crop_id, sample_id, path, label, predicted ('' for none), correct, similarity (cosine of the
    nearest reference), margin (see `margins`), reference_ids, query_ids, nearest_id, nearest_crop_id, nearest_path. `id` is the
    query set's; under vote, mean and concat the merged IDs joined by `+`. classifier last, where one decides that is not `nearest`.
    """
    import pandas as pd

    tables = [
        pd.DataFrame(_columns(evaluator.coded, evaluator.rule, combination, decisions, margins(evaluator, combination)))
        for combination, decisions in decided.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    return table.fillna({"classifier": "nearest"}) if "classifier" in table else table


def _columns(
    coded: CodedSets, rule: Rule, combination: Combination, decisions: Decisions, margin: np.ndarray
) -> dict[str, object]:
    queries = list(coded.queries.values())
    query_ids = "+".join(combination.query_ids)
    labels = np.append(coded.classes.astype(object), "")
    return {
        # As the set's own file says, by which rows are joined to it.
        "dataset_name": np.array([one.meta.get("own_dataset_name", one.dataset) for one in queries], object)[
            decisions.view
        ],
        "split": np.array([one.split for one in queries], object)[decisions.view],
        "id": np.array(list(coded.queries), object)[decisions.view] if rule.fusion == "stack" else query_ids,
        **{name: _texts(queries, field, decisions.view, decisions.row) for name, field in _TEXTS.items()},
        "label": labels[decisions.label],
        "predicted": labels[decisions.voted],
        "correct": decisions.right,
        "similarity": decisions.similarities[:, 0],
        "margin": margin,
        "reference_ids": "+".join(combination.reference_ids),
        "query_ids": query_ids,
        **({} if combination.is_plain else {"classifier": str(combination.classifier)}),
        **_nearest_columns(coded, decisions.neighbours[:, 0]),
    }


_TEXTS = {"crop_id": "crop_ids", "sample_id": "sample_ids", "path": "paths"}  # of a table: field of an embedding set


def _nearest_columns(coded: CodedSets, nearest: np.ndarray) -> dict[str, np.ndarray]:
    """Return the ID, crop ID and path of each nearest reference, a row counted over all; '' for -1."""
    starts = np.array(list(coded.starts.values()))
    owner = np.where(nearest >= 0, np.searchsorted(starts, nearest, side="right") - 1, -1)
    rows = nearest - starts[owner]
    references = list(coded.references.values())
    return {
        "nearest_id": np.array([*coded.references, ""], object)[owner],
        "nearest_crop_id": _texts(references, "crop_ids", owner, rows),
        "nearest_path": _texts(references, "paths", owner, rows),
    }


def _texts(sets: list[EmbeddingSet], field: str, owner: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return (n,) str: `field` of row `rows[i]` of set `owner[i]`; '' where the owner is -1."""
    texts = np.full(len(rows), "", dtype=object)
    for number in np.unique(owner[owner >= 0]):
        here = owner == number
        texts[here] = getattr(sets[number], field)[rows[here]]
    return texts
