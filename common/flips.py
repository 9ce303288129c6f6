"""Flips: the crops that a combination rescues or breaks, one row a crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common import statistics
from common.combinations import Combination
from common.decisions import Decisions
from common.evaluation import Evaluator

if TYPE_CHECKING:
    import pandas as pd

FLIPS = ("stays wrong", "broken", "rescued", "stays right")  # index: 2 * right now + right before


@dataclass(frozen=True)
class Flips:
    """A combination against a baseline, over the crops that every query set holds.

    Arrays (n_crop,) of crop codes and of codes into `FLIPS`; (n_class,) counts of rescued and broken crops; the two-sided
    sign-flip p of rescued minus broken, whole images flipped.
    """

    crop: np.ndarray
    flip: np.ndarray
    rescued: np.ndarray
    broken: np.ndarray
    p: float

    @property
    def net(self) -> int:
        return int(self.rescued.sum() - self.broken.sum())


def crop_scores(evaluator: Evaluator, decisions: Decisions) -> np.ndarray:
    """Return (n_crop,) float64 over all crop codes: the share of a crop's decisions that are right, NaN where it has none."""
    n = len(evaluator.crops)
    right = np.bincount(decisions.crop, decisions.voted == decisions.label, minlength=n)
    with np.errstate(invalid="ignore"):
        return right / np.bincount(decisions.crop, minlength=n)


def outcomes(evaluator: Evaluator, combination: Combination) -> np.ndarray:
    """Return (n_matched,) bool: whether each crop that every query set holds is right, by more than half of its decisions."""
    return crop_scores(evaluator, evaluator.decide(combination))[evaluator.matched] > 0.5


def compare(evaluator: Evaluator, before: Combination, now: Combination, *, seed: int = 0) -> Flips:
    """Return the crops that `now` rescues and breaks against `before`."""
    was, is_now = outcomes(evaluator, before), outcomes(evaluator, now)
    crops = np.flatnonzero(evaluator.matched)
    image, label = evaluator.crop_image[crops], evaluator.crop_label[crops]
    n_class, n_image = len(evaluator.classes), len(evaluator.images)
    change = is_now.astype(float) - was
    return Flips(
        crop=crops,
        flip=2 * is_now.astype(np.int64) + was,
        rescued=np.bincount(label[is_now & ~was], minlength=n_class),
        broken=np.bincount(label[was & ~is_now], minlength=n_class),
        p=statistics.sign_flip_p(np.bincount(image, change, minlength=n_image), seed=seed),
    )


def table(evaluator: Evaluator, baseline: Combination, reported: Sequence[Combination]) -> pd.DataFrame:
    """Return one row per crop that every query set holds.

    Columns: dataset_name, split, crop_id, sample_id, label; `alone <ID>`, right or wrong with each ID's own references and
    queries; a column for the baseline and each reported combination; `flip` of the first of these against the baseline.
    """
    import pandas as pd

    first = next(iter(evaluator.queries.values()))
    row_of = {crop: row for row, crop in enumerate(evaluator.query_crop[first.id])}
    crops = np.flatnonzero(evaluator.matched)
    rows = np.array([row_of[crop] for crop in crops], dtype=np.int64)
    columns: dict[str, object] = {
        "dataset_name": first.dataset,
        "split": first.split,
        "crop_id": first.crop_ids[rows],
        "sample_id": first.sample_ids[rows],
        "label": evaluator.classes[evaluator.crop_label[crops]],
    }
    for one in evaluator.queries:
        alone = Combination((one,), (one,))
        if one in evaluator.references and evaluator.valid(alone):
            columns[f"alone {one}"] = outcomes(evaluator, alone)
    for combination in dict.fromkeys([baseline, *reported]):
        columns[str(combination)] = outcomes(evaluator, combination)
    if reported:
        columns["flip"] = np.array(FLIPS)[compare(evaluator, baseline, reported[0]).flip]
    return pd.DataFrame(columns, index=range(len(crops)))
