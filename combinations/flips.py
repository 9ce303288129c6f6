"""Flips: the crops that a combination rescues or breaks, one row a crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluation.evaluator import Evaluator
from evaluation.records import Combination, Decisions
from uncertainty import comparisons

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES = ("wrong", "split", "right")  # split: exactly half of a crop's stacked views are right
FLIPS = (
    "stays wrong",
    "rescued",
    "broken",
    "stays right",
    "split",
)  # index: 2 * right before + right now; split if either is


@dataclass(frozen=True)
class Flips:
    """A combination against a baseline, over the crops that every query set holds.

    Arrays (n_crop,) of crop codes and of codes into `FLIPS`; (n_class,) counts of rescued and broken crops; the two-sided
    sign-flip p of rescued minus broken, whole images flipped; McNemar's p, which takes crops for independent.
    """

    crop: np.ndarray
    flip: np.ndarray
    rescued: np.ndarray
    broken: np.ndarray
    p: float
    mcnemar_p: float

    @property
    def net(self) -> int:
        return int(self.rescued.sum() - self.broken.sum())

    @property
    def split(self) -> int:
        """Number of crops of which exactly half of the stacked views are right, before or now."""
        return int((self.flip == FLIPS.index("split")).sum())


def crop_scores(evaluator: Evaluator, decisions: Decisions) -> np.ndarray:
    """Return (n_crop,) float64 over all crop codes: the share of a crop's decisions that are right, NaN where it has none."""
    n = len(evaluator.crops)
    right = np.bincount(decisions.crop, decisions.voted == decisions.label, minlength=n)
    with np.errstate(invalid="ignore"):
        return right / np.bincount(decisions.crop, minlength=n)


def outcomes(evaluator: Evaluator, combination: Combination) -> np.ndarray:
    """Return (n_matched,) codes into `OUTCOMES` of each crop that every query set holds, by most of its decisions."""
    scores = crop_scores(evaluator, evaluator.decide(combination))[evaluator.matched]
    return np.sign(scores - 0.5).astype(np.int64) + 1


def compare(evaluator: Evaluator, before: Combination, now: Combination, *, seed: int = 0) -> Flips:
    """Return the crops that `now` rescues and breaks against `before`."""
    was, is_now = outcomes(evaluator, before), outcomes(evaluator, now)
    crops = np.flatnonzero(evaluator.matched)
    image, label = evaluator.crop_image[crops], evaluator.crop_label[crops]
    n_class, n_image = len(evaluator.classes), len(evaluator.images)
    rescued, broken = (was == 0) & (is_now == 2), (was == 2) & (is_now == 0)
    change = rescued.astype(float) - broken
    return Flips(
        crop=crops,
        flip=np.where((was == 1) | (is_now == 1), 4, was + is_now // 2),
        rescued=np.bincount(label[rescued], minlength=n_class),
        broken=np.bincount(label[broken], minlength=n_class),
        p=comparisons.sign_flip_p(np.bincount(image, change, minlength=n_image), seed=seed),
        mcnemar_p=comparisons.mcnemar_p(int(rescued.sum()), int(broken.sum())),
    )


def table(evaluator: Evaluator, baseline: Combination, reported: Sequence[Combination]) -> pd.DataFrame:
    """Return one row per crop that every query set holds.

    Columns: dataset_name, split, crop_id, sample_id, label; `alone <ID>`, right, wrong or split with each ID's own references
    and queries; a column for the baseline and each reported combination; `flip` of the first of these against the baseline.
    """
    import pandas as pd

    first = next(iter(evaluator.queries.values()))
    row_of = {crop: row for row, crop in enumerate(evaluator.query_crop[first.id])}
    crops = np.flatnonzero(evaluator.matched)
    rows = np.array([row_of[crop] for crop in crops], dtype=np.int64)
    names = np.array(OUTCOMES)
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
            columns[f"alone {one}"] = names[outcomes(evaluator, alone)]
    for combination in dict.fromkeys([baseline, *reported]):
        columns[str(combination)] = names[outcomes(evaluator, combination)]
    if reported:
        columns["flip"] = np.array(FLIPS)[compare(evaluator, baseline, reported[0]).flip]
    return pd.DataFrame(columns, index=range(len(crops)))
