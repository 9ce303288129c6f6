"""Measures of single queries: MAP@R, R-precision, margins, and the table of predictions with one row a decision."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from common.blocks import Blocks
from evaluation import metrics
from evaluation.evaluator import Evaluator, Task
from evaluation.records import Combination

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.evaluator import Evaluator
    from evaluation.records import Combination

_BYTES = 1 << 28  # of neighbour lists held at a time


def retrieval(evaluator: Evaluator, combination: Combination) -> tuple[np.ndarray, np.ndarray]:
    """Return (MAP@R, R-precision) of the queries of all views, (2, n) in 0..1, and their source images, (n,) int codes."""
    tasks = evaluator.tasks(combination)
    scores = [_retrieval(evaluator, task) for task in tasks]
    return np.concatenate(scores, axis=1), np.concatenate([task.query_image for task in tasks])


def _retrieval(evaluator: Evaluator, task: Task) -> np.ndarray:
    sizes = np.bincount(task.reference_label, minlength=len(evaluator.classes))[task.query_label]
    if evaluator.exclude != "none":
        sizes = sizes - _left_out(task)
    depth = max(1, int(sizes.max(initial=1)))
    step = max(1, _BYTES // (16 * depth))
    scores = []
    for at in range(0, len(task.query_label), step):
        part = slice(at, at + step)
        some = replace(
            task, query=task.query[part], query_label=task.query_label[part], query_group=task.query_group[part]
        )
        rows = evaluator.search(some, depth)[1]
        relevant = (task.reference_label[rows] == some.query_label[:, None]) & (rows >= 0)
        scores.append(np.stack(metrics.average_precision_at_r(relevant, sizes[part])))
    return np.concatenate(scores, axis=1)


def _left_out(task: Task) -> np.ndarray:
    """Return (n,) how many references of the query's own label are left out with its group."""
    both = np.stack(
        [np.r_[task.query_group, task.reference_group], np.r_[task.query_label, task.reference_label]], axis=1
    )
    codes = np.unique(both, axis=0, return_inverse=True)[1].ravel()
    n = len(task.query_group)
    return np.bincount(codes[n:], minlength=codes.max() + 1)[codes[:n]]


def margins(evaluator: Evaluator, combination: Combination) -> np.ndarray:
    """Return (n,) float32: cosine of the nearest reference of the right label minus that of the nearest of any other label.

    Positive where the nearest neighbour is right; NaN where one of the two does not exist. One row a decision under `stack`,
    `mean` and `concat`; under `vote` one row a view, query set after query set.
    """
    return np.concatenate([_margins(evaluator, task) for task in evaluator.tasks(combination)])


def _margins(evaluator: Evaluator, task: Task) -> np.ndarray:
    right = np.full(len(task.query_label), np.nan, np.float32)
    other = np.full(len(task.query_label), -np.inf, np.float32)
    matrix = Blocks(task.reference)  # takes a class's rows without a copy of all
    for code in np.unique(task.reference_label):
        mine = np.flatnonzero(task.reference_label == code)
        some = replace(
            task,
            reference=[matrix[mine]],
            reference_label=task.reference_label[mine],
            reference_group=task.reference_group[mine],
        )
        similarity = evaluator.search(some, 1)[0][:, 0]
        same = task.query_label == code
        right[same] = similarity[same]
        other[~same] = np.maximum(other[~same], similarity[~same])
    margin = right - other
    return np.where(np.isfinite(margin), margin, np.nan).astype(np.float32)


def prediction_table(evaluator: Evaluator, combination: Combination) -> pd.DataFrame:
    """Return the decisions of one combination as a table.

    Columns: dataset_name, split, id, crop_id, sample_id, path, label, predicted ('' for none), correct, similarity (cosine of the
    nearest reference), margin (of `ranking.margins`, averaged over the views of a vote), reference_ids, query_ids, nearest_id,
    nearest_crop_id, nearest_path. `id` is the query set's; under vote, mean and concat the merged IDs joined by `+`.
    """
    import pandas as pd

    decisions = evaluator.decide(combination)
    query_names, reference_names = list(evaluator.queries), list(evaluator.references)
    sets = [evaluator.queries[name] for name in query_names]
    near = decisions.neighbours[:, 0]
    starts = np.cumsum([0, *(len(evaluator.references[name]) for name in reference_names)])
    owner = np.searchsorted(starts, near, side="right") - 1

    def of_query(field: str) -> np.ndarray:
        out = np.full(len(decisions), "", dtype=object)
        for view in np.unique(decisions.view):
            here = decisions.view == view
            out[here] = getattr(sets[view], field)[decisions.row[here]]
        return out

    def of_nearest(field: str) -> np.ndarray:
        out = np.full(len(decisions), "", dtype=object)
        for number in np.unique(owner[near >= 0]):
            here = (owner == number) & (near >= 0)
            out[here] = getattr(evaluator.references[reference_names[number]], field)[near[here] - starts[number]]
        return out

    ids = "+".join(combination.query_ids)
    first = sets[decisions.view[0]]
    labels = np.append(evaluator.classes.astype(object), "")
    return pd.DataFrame(
        {
            "dataset_name": first.dataset,
            "split": first.split,
            "id": np.array(query_names, object)[decisions.view] if evaluator.mode == "stack" else ids,
            "crop_id": of_query("crop_ids"),
            "sample_id": of_query("sample_ids"),
            "path": of_query("paths"),
            "label": labels[decisions.label],
            "predicted": labels[decisions.voted],
            "correct": decisions.voted == decisions.label,
            "similarity": decisions.similarities[:, 0],
            "margin": _decision_margins(evaluator, combination, decisions.row),
            "reference_ids": "+".join(combination.reference_ids),
            "query_ids": ids,
            "nearest_id": np.where(near >= 0, np.array(reference_names, object)[np.maximum(owner, 0)], ""),
            "nearest_crop_id": of_nearest("crop_ids"),
            "nearest_path": of_nearest("paths"),
        }
    )


def _decision_margins(evaluator: Evaluator, combination: Combination, rows: np.ndarray) -> np.ndarray:
    per_view = margins(evaluator, combination)
    if evaluator.mode != "vote":
        return per_view
    from evaluation import fusion

    sets = [evaluator.queries[q] for q in combination.query_ids]
    parts = np.split(per_view, np.cumsum([len(one) for one in sets])[:-1])
    matched = fusion.common_crops(sets)
    return np.mean([part[row] for part, row in zip(parts, matched, strict=True)], axis=0)
