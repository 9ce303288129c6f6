"""Which classifier, with which settings, and its form fitted to references.

Vectors are (n, dim) rows of any length, for only directions count; labels are int codes 0..n_class-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from classifiers.kinds import AUTO, KINDS
from classifiers.linear import discriminant, logistic
from classifiers.neighbours import Nearest, Neighbours, Prototypes
from common.knn import VOTE_TEMPERATURE

BLOCK = 1 << 24  # scores held at once


class Classifier(Protocol):
    """A classifier fitted to references. `rows`: how many rows it keeps and compares a query with."""

    @property
    def rows(self) -> int: ...
    @property
    def n_class(self) -> int: ...

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """Return (n, n_class) scores of queries (n, dim): the largest is the decision, -inf is a class without references."""
        ...


@dataclass(frozen=True)
class Rows:
    """Labelled vectors: vectors (n, dim), label codes (n,), and photo codes (n,) of the photo of each row."""

    vectors: np.ndarray
    label: np.ndarray
    photo: np.ndarray

    def take(self, rows: np.ndarray) -> Rows:
        return Rows(self.vectors[rows], self.label[rows], self.photo[rows])


@dataclass(frozen=True)
class Recipe:
    """A kind of classifier and its settings, of which each kind uses its own.

    knn: k neighbours vote by softmax(cosine / temperature). prototype: centres a class. linear: strength, scikit-learn's C.
    """

    kind: str = "nearest"
    k: int = 5
    temperature: float = VOTE_TEMPERATURE
    centres: int = 1
    strength: float = 100.0

    def __str__(self) -> str:
        settings = {
            "knn": f" (k {self.k}, T {self.temperature:g})",
            "prototype": f" ({self.centres} a class)",
            "linear": f" (C {self.strength:g})",
        }
        return self.kind + settings.get(self.kind, "")

    def fit(self, vectors: np.ndarray, labels: np.ndarray, n_class: int) -> Classifier:
        """Return the classifier of these references. Raises ValueError for no references or an unknown kind."""
        if not len(vectors):
            raise ValueError("a classifier needs references")
        if self.kind == "nearest":
            return Nearest(vectors, labels, n_class)
        if self.kind == "knn":
            return Neighbours(vectors, labels, n_class, self.k, self.temperature)
        if self.kind == "prototype":
            return Prototypes(vectors, labels, n_class, self.centres)
        if self.kind == "lda":
            return discriminant(vectors, labels, n_class)
        if self.kind == "linear":
            return logistic(vectors, labels, n_class, self.strength)
        raise ValueError(f"{self.kind} is no classifier; known are {', '.join(KINDS)}")


NEAREST = Recipe()


def decisions_of(classifier: Classifier, queries: np.ndarray) -> np.ndarray:
    """Return (n,) int64 label codes: the class of the highest score of each query (n, dim), the first of equal ones."""
    step = max(1, BLOCK // max(1, classifier.n_class))
    parts = [classifier.scores(queries[at : at + step]).argmax(axis=1) for at in range(0, len(queries), step)]
    return np.concatenate(parts)


def candidates(kind: str) -> list[Recipe]:
    """Return the recipes that are tried for a kind, the simplest first; for `auto` those of every kind."""
    if kind == AUTO:
        return [recipe for name in KINDS for recipe in candidates(name)]
    if kind == "knn":
        return [Recipe("knn", k=k, temperature=t) for k in (3, 5, 10, 20) for t in (0.02, 0.07, 0.2)]
    if kind == "prototype":
        return [Recipe("prototype", centres=centres) for centres in (1, 2, 4)]
    if kind == "linear":
        return [Recipe("linear", strength=strength) for strength in (1.0, 10.0, 100.0)]
    return [Recipe(kind)]
