"""Choosing a classifier, on validation queries or by cross-validation over the reference photos, and what the choice gained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifiers.neighbours import vote_shares
from classifiers.recipes import Recipe, Rows
from common import knn
from common.messages import progress

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Choice:
    """What was tried: recipes, `right` (n_recipe, n_row) bool on rows of the photos `photo` (n_row,), and the place of the best.

    Equally good recipes: the first. how: on what it was chosen, for the output.
    """

    recipes: list[Recipe]
    right: NDArray[np.bool_]
    photo: np.ndarray
    how: str

    @property
    def best(self) -> int:
        return int(self.right.sum(axis=1).argmax())

    @property
    def recipe(self) -> Recipe:
        return self.recipes[self.best]

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """(n_recipe,) float64; NaN where nothing could be tried."""
        return self.right.sum(axis=1) / np.where(self.right.shape[1], self.right.shape[1], np.nan)


def choose(recipes: Sequence[Recipe], references: Rows, n_class: int, validation: Rows | None = None) -> Choice:
    """Try the recipes on `validation`, or without it by cross-validation over the references, photos kept whole.

    The folds are scikit-learn's StratifiedGroupKFold, seeded. A reference held out whose label is in no other fold counts as wrong
    for every recipe. With references of a single photo nothing can be tried: the first recipe is chosen.
    """
    if validation is not None:
        return Choice(
            list(recipes), _right(recipes, references, validation, n_class), validation.photo, "on validation queries"
        )
    n_photo = len(np.unique(references.photo))
    folds = min(FOLDS, n_photo)
    if folds < 2:
        none = np.zeros((len(recipes), 0), bool)
        return Choice(list(recipes), none, references.photo[:0], "untried, the references are of one photo")
    right = np.zeros((len(recipes), len(references.label)), bool)
    for kept, held_out in photo_folds(references, folds):
        right[:, held_out] = _right(recipes, references.take(kept), references.take(held_out), n_class)
    return Choice(
        list(recipes), right, references.photo, f"by {folds}-fold cross-validation over {n_photo} reference photos"
    )


def photo_folds(rows: Rows, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (rows kept, rows held out) of each fold: no photo in two of them, classes spread evenly as far as photos allow."""
    import warnings

    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    largest = int(np.bincount(rows.label).max())
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0) if largest >= folds else GroupKFold(folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds
        found = list(splitter.split(rows.vectors, rows.label, rows.photo))
    return [(kept, held_out) for kept, held_out in found if len(kept) and len(held_out)]


def _right(recipes: Sequence[Recipe], references: Rows, queries: Rows, n_class: int) -> NDArray[np.bool_]:
    """Return (n_recipe, n_query): whether each recipe decides rightly. All k-NN recipes share one search."""
    depth = min(max((recipe.k for recipe in recipes if recipe.kind == "knn"), default=0), len(references.label))
    if depth:
        similarities, rows = knn.search(queries.vectors, references.vectors, depth)
    right = np.empty((len(recipes), len(queries.label)), bool)
    for place, recipe in enumerate(progress(recipes, desc="classifiers", unit="setting")):
        if recipe.kind == "knn":
            near = slice(0, recipe.k)
            scores = vote_shares(similarities[:, near], references.label[rows[:, near]], n_class, recipe.temperature)
        else:
            scores = recipe.fit(references.vectors, references.label, n_class).scores(queries.vectors)
        right[place] = scores.argmax(axis=1) == queries.label
    return right


def per_photo(right: np.ndarray, photo: np.ndarray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return totals (…, n_photo) of `right`, (n_row,) or (n_recipe, n_row), and the rows of each photo (n_photo,)."""
    _, at, size = np.unique(photo, return_inverse=True, return_counts=True)
    totals = np.stack([np.bincount(at, row, minlength=len(size)).astype(float) for row in np.atleast_2d(right)])
    return totals.reshape(*right.shape[:-1], len(size)), size.astype(float)
