"""Classes that cannot be told apart by the nearest other crops of their crops. No disk, no printing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from common import knn
from uncertainty.intervals import AccuracyInterval, accuracy_interval

NEIGHBOURS, TEMPERATURE = 50, 0.2
CHANCE = 0.5  # of deciding between two classes
BARELY = 0.75  # pairs of classes that are told apart better than that are not looked into
LEAST = 5  # crops of each of two classes
SURE = 0.9  # an interval that holds CHANCE and this as well says nothing


@dataclass(frozen=True)
class AlikePair:
    """Two classes, and how well they are told apart: a balanced accuracy, where 0.5 is chance, with its 95% interval by photo."""

    one: int
    other: int
    told_apart: AccuracyInterval
    n_crop: int


@dataclass(frozen=True, eq=False)
class Votes:
    """What each crop loses to another label: arrays (n_entry,), one entry for each other label among a crop's neighbours.

    wrong: 1 where `label` has more votes than the crop's own, 0.5 where as many, else 0. alone (n_crop,): what a crop loses to any
    label that is not among its neighbours: 0.5 where its own is not there either, a tie, else 0.
    """

    crop: np.ndarray
    label: np.ndarray
    wrong: np.ndarray
    alone: np.ndarray


def neighbours(vectors: np.ndarray, crop: np.ndarray) -> knn.Neighbours:
    """Return the NEIGHBOURS nearest rows of other crops, or as many as there are; `crop`: (n,) int codes."""
    depth = min(NEIGHBOURS, len(vectors) - 1)
    if len(np.unique(crop)) == len(crop):  # half of the products
        return knn.search_self(vectors, depth)
    return knn.search_excluding(vectors, vectors, depth, crop, crop)


def weights(similarities: np.ndarray) -> np.ndarray:
    """Return the votes (n, depth) of neighbours: softmax of cosine / TEMPERATURE, 0 for no neighbour."""
    raw = np.exp(
        (similarities - similarities[:, :1]) / TEMPERATURE,
        where=np.isfinite(similarities),
        out=np.zeros_like(similarities),
    )
    return raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-12)


def alike_classes(
    similarities: np.ndarray, indices: np.ndarray, label: np.ndarray, photo: np.ndarray, n_class: int
) -> tuple[list[AlikePair], int]:
    """Return the pairs of classes that cannot be told apart, the worst first, and how many pairs have too few photos to say.

    Each crop of the two classes is decided between them by the votes of its neighbours (n, depth), see `weights`; a tie
    is half right, and both classes weigh the same. A pair is listed where it is told apart in at most BARELY of the cases and the
    interval holds CHANCE; where that holds SURE as well, or one class has fewer than LEAST crops, there are too few photos.
    `label`, `photo`: (n,) int codes.
    """
    votes = _votes(similarities, indices, label, n_class)
    found, unsure = [], 0
    for a, b in _candidates(votes, label, n_class):
        seen = _told_apart(a, b, votes, label, photo)
        if seen.low > CHANCE:
            continue
        if seen.high >= SURE or min((label == a).sum(), (label == b).sum()) < LEAST:
            unsure += 1
        else:
            found.append(AlikePair(a, b, seen, int(((label == a) | (label == b)).sum())))
    return sorted(found, key=lambda pair: pair.told_apart.accuracy), unsure


def _votes(similarities: np.ndarray, indices: np.ndarray, label: np.ndarray, n_class: int) -> Votes:
    there = indices >= 0
    keys = (np.arange(len(label))[:, None] * n_class + np.where(there, label[indices], 0))[there]
    keys, place = np.unique(keys, return_inverse=True)
    crop, named = np.divmod(keys, n_class)
    vote = np.bincount(place, weights(similarities)[there])
    mine = named == label[crop]
    own = np.zeros(len(label))
    own[crop[mine]] = vote[mine]
    crop, named, vote = crop[~mine], named[~mine], vote[~mine]
    wrong = np.where(vote > own[crop], 1.0, 0.5 * (vote == own[crop]))
    return Votes(crop, named, wrong, np.where(own == 0, 0.5, 0.0))


def _candidates(votes: Votes, label: np.ndarray, n_class: int) -> list[tuple[int, int]]:
    """Return the pairs (a, b), a < b, that are told apart in at most BARELY of the cases."""
    size = np.bincount(label, minlength=n_class)
    alone = np.bincount(label, votes.alone, minlength=n_class)
    keys, place = np.unique(label[votes.crop] * n_class + votes.label, return_inverse=True)
    lost = np.bincount(place, votes.wrong - votes.alone[votes.crop], minlength=len(keys))
    loss = {divmod(int(key), n_class): float(total) for key, total in zip(keys, lost, strict=True)}

    def told_apart(a: int, b: int) -> float:
        return 1 - sum((alone[x] + loss.get((x, y), 0.0)) / size[x] for x, y in ((a, b), (b, a))) / 2

    pairs = sorted({(min(pair), max(pair)) for pair in loss})
    return [pair for pair in pairs if told_apart(*pair) <= BARELY]


def _told_apart(a: int, b: int, votes: Votes, label: np.ndarray, photo: np.ndarray) -> AccuracyInterval:
    """Return the balanced accuracy between two classes, by photo."""
    wrong = votes.alone.copy()
    for one, other in itertools.permutations((a, b)):
        entries = (votes.label == other) & (label[votes.crop] == one)
        wrong[votes.crop[entries]] = votes.wrong[entries]
    members = np.flatnonzero((label == a) | (label == b))
    size = np.where(label[members] == a, (label == a).sum(), (label == b).sum())
    weight = len(members) / 2 / size
    photos = np.unique(photo[members], return_inverse=True)[1]
    return accuracy_interval(np.bincount(photos, weight * (1 - wrong[members])), np.bincount(photos, weight))
