"""Measures that need more than the first neighbours: MAP@R, R-precision, and the margin of each query."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common import metrics
from common.combinations import Combination
from common.embeddings import Blocks
from common.evaluation import Evaluator, Task

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
