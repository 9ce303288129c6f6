"""Is the data sound? Near twins between references and queries, likely label errors, and classes that cannot be told apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common import knn
from evaluation.evaluator import Evaluator
from evaluation.records import Combination
from soundness import label_errors, pictures
from soundness.alike_classes import AlikePair, alike_classes, neighbours
from soundness.crops import Crops, of_pair, one_view
from soundness.label_errors import Chances
from soundness.twins import Twins, near_twins
from uncertainty.intervals import AccuracyInterval, accuracy_interval


@dataclass(frozen=True, eq=False)
class Soundness:
    """What was found in one pair of sets; rows are those of `crops`, the references before the queries.

    known (n_crop,) bool: whether the picture was read. accuracy, without_twins: of all queries, and of those without a near twin,
    by photo; without_twins is None where every query has one. twin_photos, query_photos: photos with such a query, and all.
    suspects: rows of likely label errors, the likeliest first. alike: classes that cannot be told apart; n_unsure pairs have too
    few photos to say.
    """

    pair: Combination
    crops: Crops
    classes: np.ndarray
    known: np.ndarray
    twins: Twins
    accuracy: AccuracyInterval
    without_twins: AccuracyInterval | None
    twin_photos: int
    query_photos: int
    chances: Chances
    suspects: np.ndarray
    alike: list[AlikePair]
    n_unsure: int

    @property
    def n_pictures(self) -> int:
        return int(self.known.sum())

    @property
    def n_query(self) -> int:
        return len(self.crops) - self.crops.n_reference

    def near_suggested(self, row: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of other crops of the label that suits `row` better, and their cosines, the nearest `most` first."""
        crops = self.crops
        rows = np.flatnonzero((crops.label == self.chances.suggested[row]) & (crops.crop != crops.crop[row]))
        cosine = knn.unit(crops.vectors[rows]) @ knn.unit(crops.vectors[[row]])[0]
        nearest = np.argsort(-cosine, kind="stable")[:most]
        return rows[nearest], cosine[nearest]


def check(evaluator: Evaluator, combination: Combination) -> Soundness:
    """Return what is wrong with the data of a combination: of its first query set and the first references of that.

    Needs the pictures of the crops, where `data_root` says; near twins of those that are gone are found by their embeddings alone.
    Twins that the rule of the evaluation leaves out, such as the query's own crop under `self`, are none.
    """
    pair = one_view(evaluator, combination)
    crops = of_pair(evaluator, pair)
    rule, n = evaluator.rule, crops.n_reference
    groups = None if rule.exclude == "none" else crops.photo if rule.exclude == "sample" else crops.crop
    seen = pictures.read(crops.pictures.tolist())
    twins = near_twins(crops, seen, groups)
    decisions = evaluator.decide(pair)
    has_twin = np.isin(decisions.row + n, twins.query)
    n_class = len(evaluator.coded.classes)
    chances = label_errors.chances(crops.vectors, crops.label, crops.crop, n_class)
    alike, unsure = alike_classes(*neighbours(crops.vectors, crops.crop), crops.label, crops.photo, n_class)
    return Soundness(
        pair=pair,
        crops=crops,
        classes=evaluator.coded.classes,
        known=seen.known,
        twins=twins,
        accuracy=_accuracy(decisions.right, decisions.image),
        without_twins=None if has_twin.all() else _accuracy(decisions.right[~has_twin], decisions.image[~has_twin]),
        twin_photos=len(np.unique(decisions.image[has_twin])),
        query_photos=len(np.unique(decisions.image)),
        chances=chances,
        suspects=chances.suspects(),
        alike=alike,
        n_unsure=unsure,
    )


def _accuracy(right: np.ndarray, photo: np.ndarray) -> AccuracyInterval:
    return accuracy_interval(np.bincount(photo, right), np.bincount(photo))
