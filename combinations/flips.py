"""Flips: the crops that a combination rescues or breaks, one row a crop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluation.codes import CodedSets
from evaluation.records import Combination, Decisions
from uncertainty import comparisons

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES = ("wrong", "split", "right")  # split: exactly half of a crop's stacked views are right
# index: 2 * right before + right now; split if either is
FLIPS = ("stays wrong", "rescued", "broken", "stays right", "split")


@dataclass(frozen=True)
class Flips:
    """A combination against a baseline, over the crops that every query set holds.

    Arrays (n_crop,) of crop codes and of codes into `FLIPS`; (n_class,) counts of rescued and broken crops; the two-sided
    p of rescued minus broken, of this comparison alone; McNemar's p, which takes crops for independent.
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


def crop_scores(coded: CodedSets, decisions: Decisions) -> np.ndarray:
    """Return (n_crop,) float64 over all crop codes: the share of a crop's decisions that are right, NaN where it has none."""
    n = len(coded.crops)
    right = np.bincount(decisions.crop, decisions.right, minlength=n)
    with np.errstate(invalid="ignore"):
        return right / np.bincount(decisions.crop, minlength=n)


def outcomes(coded: CodedSets, decisions: Decisions) -> np.ndarray:
    """Return (n_matched,) codes into `OUTCOMES` of each crop that every query set holds, by most of its decisions."""
    scores = crop_scores(coded, decisions)[coded.matched]
    return np.sign(scores - 0.5).astype(np.int64) + 1


def compare(coded: CodedSets, before: Decisions, now: Decisions, *, seed: int = 0) -> Flips:
    """Return the crops that the decisions `now` rescue and break against those `before`."""
    was, is_now = outcomes(coded, before), outcomes(coded, now)
    crops = np.flatnonzero(coded.matched)
    image, label = coded.crop_image[crops], coded.crop_label[crops]
    n_class, n_image = len(coded.classes), len(coded.images)
    rescued, broken = (was == 0) & (is_now == 2), (was == 2) & (is_now == 0)
    change = np.bincount(image, rescued.astype(float) - broken, minlength=n_image)
    size = np.bincount(image, minlength=n_image)
    right_before = np.bincount(image, was == 2, minlength=n_image)
    return Flips(
        crop=crops,
        flip=np.where((was == 1) | (is_now == 1), 4, was + is_now // 2),
        rescued=np.bincount(label[rescued], minlength=n_class),
        broken=np.bincount(label[broken], minlength=n_class),
        p=float(comparisons.paired_comparison(change[None], size, baseline=right_before, seed=seed).p[0])
        if len(crops)
        else 1.0,
        mcnemar_p=comparisons.mcnemar_p(int(rescued.sum()), int(broken.sum())),
    )


def table(coded: CodedSets, alone: Mapping[str, Decisions], decided: Mapping[Combination, Decisions]) -> pd.DataFrame:
    """Return one row per crop that every query set holds.

    Columns: dataset_name, split, crop_id, sample_id, label; `alone <ID>`, right, wrong or split with each ID's own references
    and queries; a column for each of the decided combinations; `flip` of the second of these, or the only one, against the first.
    """
    import pandas as pd

    first_id, first = next(iter(coded.queries.items()))
    row_of = {crop: row for row, crop in enumerate(coded.query_codes[first_id].crop)}
    crops = np.flatnonzero(coded.matched)
    rows = np.array([row_of[crop] for crop in crops], dtype=np.int64)
    names = np.array(OUTCOMES)
    baseline, *others = decided.values()
    return pd.DataFrame(
        {
            "dataset_name": first.dataset,
            "split": first.split,
            "crop_id": first.crop_ids[rows],
            "sample_id": first.sample_ids[rows],
            "label": coded.classes[coded.crop_label[crops]],
            **{f"alone {name}": names[outcomes(coded, decisions)] for name, decisions in alone.items()},
            **{str(combination): names[outcomes(coded, decisions)] for combination, decisions in decided.items()},
            "flip": np.array(FLIPS)[compare(coded, baseline, others[0] if others else baseline).flip],
        },
        index=range(len(crops)),
    )


def summary(change: Flips, *, if_independent: bool = False) -> str:
    """Return the counts and p of flips in words; McNemar's p too where it is asked for."""
    counts = f"{change.rescued.sum()} rescued, {change.broken.sum()} broken, {change.split} split, net {change.net:+d}"
    mcnemar = f" (McNemar {change.mcnemar_p:.3f}, if crops were independent)" if if_independent else ""
    return f"{counts}, p {change.p:.3f} of this comparison alone{mcnemar}"
