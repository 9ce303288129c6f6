"""A combination of sets, the rule by which it is decided, its decisions, their totals, and what a decision costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from classifiers.recipes import NEAREST, Recipe
from evaluation import metrics


@dataclass(frozen=True)
class Rule:
    """How a decision is made.

    fusion: how sets are merged, see `fusion.DECISION`. k neighbours vote, with vote_weights uniform or similarity. exclude, what is
    no neighbour of a query: none, self (its own crop, at any ID), or sample (every crop of its photo).
    """

    fusion: str = "vote"
    k: int = 1
    vote_weights: str = "uniform"
    exclude: str = "none"


@dataclass(frozen=True, eq=False)
class Decisions:
    """One row per decision, a view under `stack`, else a crop; arrays (n,) unless said otherwise.

    view: index of the query set a row comes from; row: its row there. crop, image, label: codes of `CodedSets`.
    nearest: label of the nearest neighbour; voted: label that the k neighbours vote for, or that another classifier gives; -1 is
    none. similarities (n, depth)
    float32 and neighbours (n, depth) int64, rows of the references in the order of their sets, -1 where there are fewer.
    close: (n,) bool, whether a neighbour of another label is as near as the nearest, but for rounding, in any of the views.
    """

    view: np.ndarray
    row: np.ndarray
    crop: np.ndarray
    image: np.ndarray
    label: np.ndarray
    nearest: np.ndarray
    voted: np.ndarray
    similarities: np.ndarray
    neighbours: np.ndarray
    close: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def right(self) -> np.ndarray:
        """(n,) bool: whether the vote gives the right label."""
        return self.voted == self.label


@dataclass(frozen=True)
class Tally:
    """Totals of decisions, which add up.

    n, n_unknown, n_close: decisions, those whose label no reference has, those that are close (see `Decisions`). right (2,): by the
    nearest neighbour, by what decides. recalled (3,), image_recalled (3, n_image): decisions with their label among the first 1, 5,
    10, in all and by photo. image_right (2, n_image), image_size (n_image,): right and all decisions per photo.
    matched_right (n_image,): right votes on crops that every query set holds. class_* (n_class,).
    """

    n: int
    n_unknown: int
    n_close: int
    right: np.ndarray
    recalled: np.ndarray
    image_recalled: np.ndarray
    image_right: np.ndarray
    image_size: np.ndarray
    matched_right: np.ndarray
    class_right: np.ndarray
    class_predicted: np.ndarray
    class_size: np.ndarray

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def accuracy(self) -> float:
        """Share of right decisions, in 0..1: what `acc` and Accuracy@1 print, and combinations are ranked by."""
        return float(self.right[1] / self.n)

    @property
    def nearest_accuracy(self) -> float:
        """Share of decisions that the nearest neighbour alone would get right; the accuracy where k is 1."""
        return float(self.right[0] / self.n)

    @property
    def scores(self) -> metrics.ClassScores:
        return metrics.class_scores(self.class_right, self.class_predicted, self.class_size)


@dataclass(frozen=True)
class Cost:
    """What one decision costs: forward passes of the model, rows that are kept and compared, multiply-adds of comparing."""

    forward_passes: int
    gallery_rows: int
    operations: int


@dataclass(frozen=True)
class Combination:
    """IDs merged as references, IDs merged as queries, and the classifier that decides: `nearest` is the vote of the rule."""

    reference_ids: tuple[str, ...]
    query_ids: tuple[str, ...]
    classifier: Recipe = NEAREST

    @property
    def matched(self) -> bool:
        return self.reference_ids == self.query_ids

    @property
    def is_pair(self) -> bool:
        return len(self.reference_ids) == len(self.query_ids) == 1

    @property
    def is_plain(self) -> bool:
        """Whether neighbours decide, as the rule says."""
        return self.classifier.kind == "nearest"

    def __str__(self) -> str:
        classifier = "" if self.is_plain else f" {self.classifier}"
        return f"{'+'.join(self.reference_ids)}/{'+'.join(self.query_ids)}{classifier}"
