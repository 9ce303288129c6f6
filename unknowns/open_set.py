"""How well known and unknown queries are told apart: AUROC, OSCR, and the rates at a threshold with intervals by photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from classifiers.choice import per_photo
from uncertainty.intervals import AccuracyInterval, accuracy_interval


@dataclass(frozen=True)
class OpenSet:
    """Rates at a threshold, and measures over all thresholds, in 0..1.

    correct_accept: of the known queries, those accepted with the right label. accept: those accepted. false_accept: of the unknown
    ones, those accepted. auroc and oscr: see the functions.
    """

    correct_accept: AccuracyInterval
    accept: AccuracyInterval
    false_accept: AccuracyInterval
    auroc: float
    oscr: float


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return the chance that a known query scores higher than an unknown one, ties half. NaN without either."""
    return oscr(known, np.ones(len(known), bool), unknown)


def oscr(known: np.ndarray, right: np.ndarray, unknown: np.ndarray) -> float:
    """Return the area under the curve of right and accepted known queries over accepted unknown ones (Dhamija et al. 2018).

    That is the chance that a known query (scores (n,), right (n,) bool) is right and scores higher than an unknown one, ties half.
    """
    if not len(known) or not len(unknown):
        return float("nan")
    below = np.sort(unknown)
    wins = (np.searchsorted(below, known, "left") + np.searchsorted(below, known, "right")) / 2
    return float((wins * right).sum() / (len(known) * len(unknown)))


def open_set(
    known: np.ndarray,
    right: np.ndarray,
    known_photo: np.ndarray,
    unknown: np.ndarray,
    unknown_photo: np.ndarray,
    threshold: float,
) -> OpenSet:
    """Return the measures of scores of known (n,) and unknown (m,) queries and their photos, accepted above `threshold`."""
    accepted = known > threshold
    return OpenSet(
        correct_accept=_share(accepted & right, known_photo),
        accept=_share(accepted, known_photo),
        false_accept=_share(unknown > threshold, unknown_photo),
        auroc=auroc(known, unknown),
        oscr=oscr(known, right, unknown),
    )


def _share(hits: np.ndarray, photo: np.ndarray) -> AccuracyInterval:
    return accuracy_interval(*per_photo(hits, photo))
