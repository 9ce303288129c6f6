"""The table of predictions: one row a decision, joined to other tables by dataset, split, crop_id and id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common import ranking

if TYPE_CHECKING:
    import pandas as pd

    from common.combinations import Combination
    from common.evaluation import Evaluator


def table(evaluator: Evaluator, combination: Combination) -> pd.DataFrame:
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
            "margin": _margins(evaluator, combination, decisions.row),
            "reference_ids": "+".join(combination.reference_ids),
            "query_ids": ids,
            "nearest_id": np.where(near >= 0, np.array(reference_names, object)[np.maximum(owner, 0)], ""),
            "nearest_crop_id": of_nearest("crop_ids"),
            "nearest_path": of_nearest("paths"),
        }
    )


def _margins(evaluator: Evaluator, combination: Combination, rows: np.ndarray) -> np.ndarray:
    margins = ranking.margins(evaluator, combination)
    if evaluator.mode != "vote":
        return margins
    from common import fusion

    sets = [evaluator.queries[q] for q in combination.query_ids]
    parts = np.split(margins, np.cumsum([len(one) for one in sets])[:-1])
    matched = fusion.common_crops(sets)
    return np.mean([part[row] for part, row in zip(parts, matched, strict=True)], axis=0)
