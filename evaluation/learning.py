"""What a combination's classifiers learn from, as labelled rows, and the choice among classifiers on such rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from classifiers.choice import Choice, choose, per_photo
from classifiers.recipes import NEAREST, Recipe, Rows, candidates
from common.messages import UserError
from evaluation.codes import code
from evaluation.evaluator import Evaluator
from evaluation.records import Combination
from uncertainty.intervals import difference_intervals


@dataclass(frozen=True, eq=False)
class Chosen:
    """The recipe that was chosen for the `kind` that was asked for, on the rows of the combination `on`.

    `choice` tells what was tried, `nearest` first; None where there was nothing to choose.
    """

    kind: str
    recipe: Recipe
    on: Combination
    choice: Choice | None = None

    def __str__(self) -> str:
        """One sentence: what was chosen how, and its gain over `nearest` where it was chosen, paired by photo."""
        if self.choice is None:
            return f"{self.kind}: nothing to choose"
        text = f"--classifier {self.kind}: {self.recipe}, chosen {self.choice.how} of {self.on}"
        if not self.choice.right.shape[1]:
            return text
        place = self.choice.recipes.index(self.recipe)
        totals, size = per_photo(self.choice.right[[0, place]], self.choice.photo)
        gap = (totals[1] - totals[0])[None]
        low, high = difference_intervals(gap, size)
        nearest, best = self.choice.accuracies[[0, place]]
        gain = f"gain {100 * (best - nearest):+.1f} points, 95% interval {100 * low[0]:+.1f} to {100 * high[0]:+.1f}"
        return f"{text}: {best:.4f} there, nearest {nearest:.4f}; {gain}"


def choose_recipe(kind: str, evaluator: Evaluator, combination: Combination, *, on_queries: bool) -> Chosen:
    """Return the best recipe of a kind: on the combination's queries, or by cross-validation over its reference photos.

    Where the queries are to be scored, `evaluator` must be one of other queries, or `on_queries` False.
    """
    asked = candidates(kind)
    if len(asked) == 1:
        return Chosen(kind, asked[0], combination)
    missing = [q for q in combination.query_ids if q not in evaluator.coded.queries]
    if missing:
        raise UserError(
            f"--val_npz has no set of ID {missing[0]}; extract the validation split of it, or name one: {missing[0]}=path"
        )
    references, queries = rows(evaluator, combination)
    tried = [NEAREST, *(recipe for recipe in asked if recipe.kind != "nearest")]
    choice = choose(tried, references, len(evaluator.coded.classes), queries if on_queries else None)
    best = max(asked, key=lambda recipe: choice.right[tried.index(recipe)].sum())
    return Chosen(kind, best, combination, choice)


def choose_recipes(
    kinds: Sequence[str], evaluator: Evaluator, combination: Combination, *, on_queries: bool
) -> tuple[list[Recipe], list[str]]:
    """Return the recipes of the kinds, after `nearest`, which is always among them; and what was chosen, in words."""
    chosen = [choose_recipe(kind, evaluator, combination, on_queries=on_queries) for kind in dict.fromkeys(kinds)]
    recipes = dict.fromkeys([NEAREST, *(one.recipe for one in chosen)])
    return list(recipes), [str(one) for one in chosen if one.choice]


def asked_for(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Return the recipes that are spoken of: those beside `nearest`, or that where it is alone."""
    return [recipe for recipe in recipes if recipe != NEAREST] or [NEAREST]


def first_asked(recipes: Sequence[Recipe]) -> Recipe:
    """Return the recipe that is spoken of first."""
    return asked_for(recipes)[0]


def with_classifiers(combinations: Sequence[Combination], recipes: Sequence[Recipe]) -> list[Combination]:
    """Return every combination once for each recipe."""
    return [replace(combination, classifier=recipe) for recipe in recipes for combination in combinations]


def rows(evaluator: Evaluator, combination: Combination) -> tuple[Rows, Rows]:
    """Return the references and the queries of the combination's first search, labels as codes of the coded sets.

    Photos of the references are codes of their own, not those of the queries.
    """
    task, ids = evaluator.tasks(combination)[0], combination.reference_ids
    sets = evaluator.coded.references
    photos = dict(zip(sets, code(evaluator.coded.units.names(list(sets.values()), "reference"))[1], strict=True))
    if evaluator.rule.fusion in ("mean", "concat"):
        photo = photos[ids[0]][evaluator.fused("reference", ids).rows]
    else:
        searched = evaluator.references_of(combination, combination.query_ids[0])
        photo = np.concatenate([photos[r] for r in searched])
    vectors = np.concatenate([np.asarray(block) for block in task.reference])
    return Rows(vectors, task.reference_label, photo), Rows(np.asarray(task.query), task.query_label, task.query_image)
