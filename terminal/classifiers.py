"""What --classifier and --reject print in evaluate_combo.py, for every combination of sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from classifiers import recipes
from classifiers.choice import Choice, choose, per_photo
from classifiers.recipes import Recipe, Rows
from common.embedding_sets import read_sets, read_sides
from common.embeddings import EmbeddingSet
from common.messages import UsageError, UserError
from evaluation import fusion
from evaluation.codes import code, code_sets, image_names
from evaluation.evaluator import Evaluator
from evaluation.records import Combination
from uncertainty.intervals import accuracy_interval, difference_intervals

OPTIONS = ("label_level", "classifier", "reject", "val_npz", "unknown_npz")  # that classified() takes, in its order


def classified(
    evaluator: Evaluator,
    combinations: Iterable[Combination],
    label_level: int | None,
    classifier: str | None,
    reject: float | None,
    val_npz: Sequence[str] | None,
    unknown_npz: Sequence[str] | None,
) -> str:
    """Return the text of every combination; "" without the options. Raises UsageError for options that exclude each other."""
    if classifier is None and reject is None:
        if val_npz or unknown_npz:
            raise UsageError("--val_npz and --unknown_npz go with --classifier or --reject")
        return ""
    if evaluator.rule.exclude != "none":
        raise UsageError(
            "--classifier and --reject leave no neighbours out: go without --exclude_self, --exclude_same_sample"
        )
    combinations = list(combinations)
    if reject is not None and evaluator.rule.fusion == "vote" and any(len(c.query_ids) > 1 for c in combinations):
        raise UsageError(
            "--reject scores one vector a decision; name one query set, or use --fusion stack, mean or concat"
        )
    validation = None
    if val_npz:
        queries = read_sides([("--val_npz", val_npz, "val")], label_level=label_level)[0]
        coded = code_sets(list(evaluator.coded.references.values()), queries, label_level)
        validation = Evaluator(coded, evaluator.rule)
    unknown = read_sets(unknown_npz) if unknown_npz else []
    parts = []
    for combination in combinations:
        trial = Trial(evaluator, validation, combination)
        if classifier:
            parts.append(trial.accuracy(recipes.candidates(classifier)))
        if reject is not None:
            parts.append(trial.rejection(reject, unknown))
    return "\n".join(parts) + "\n\n"


class Trial:
    """The rows of one combination: of the references, and of each search, the queries and, if there are any, validation queries."""

    def __init__(self, evaluator: Evaluator, validation: Evaluator | None, combination: Combination) -> None:
        self.combination, self.evaluator = combination, evaluator
        coded = evaluator.coded
        self.classes = coded.classes
        photos = dict(
            zip(coded.references, code(image_names(list(coded.references.values()), "reference"))[1], strict=True)
        )
        self.references = list(_references(evaluator, combination, photos))
        self.queries = list(_queries(evaluator, combination, self.classes))
        self.validation = None if validation is None else list(_queries(validation, combination, self.classes))

    def accuracy(self, candidates: Sequence[Recipe]) -> str:
        """Return what was chosen, how accurate it is on the queries, and what it gains over the nearest neighbour, by photo."""
        tried = [Recipe(), *(recipe for recipe in candidates if recipe.kind != "nearest")]
        only = [0] if len(tried) == 1 else range(len(tried))
        choice = _pooled(self.references, self.validation, tried, len(self.classes))
        asked = [place for place in only if tried[place] in candidates]
        best = max(asked, key=lambda place: choice.right[place].sum())
        fitted = [
            [tried[place].fit(r.vectors, r.label, len(self.classes)) for r in self.references] for place in (0, best)
        ]
        right, photo = self._decisions(fitted)
        totals, size = per_photo(right, photo)
        interval = accuracy_interval(totals[1], size)
        # Under `vote` each view has references of its own model, often the same ones.
        kept = fitted[1][0].rows if self.evaluator.rule.fusion != "vote" else max(model.rows for model in fitted[1])
        lines = [
            f"{self.combination} {tried[best]}: {interval.accuracy:.3f}, 95 % interval {interval.low:.3f} to {interval.high:.3f}"
        ]
        if best:
            lines[0] += f"; nearest {totals[0].sum() / size.sum():.3f}, gain {_difference(totals, size)}"
            lines.append(f"  {'chosen' if len(asked) > 1 else 'tried'} {choice.how}: {_chosen_on(choice, best)}")
        lines.append(f"  rows kept: {kept} of {len(self.references[0].label)}")
        return "\n".join(lines)

    def _decisions(self, fitted: list[list[recipes.Classifier]]) -> tuple[np.ndarray, np.ndarray]:
        """Return right (2, n) and photo (n,) of the decisions of two classifiers, views pooled under `vote`."""
        scored = [
            [model.scores(query.vectors) for model, query in zip(models, self.queries, strict=True)]
            for models in fitted
        ]
        if self.evaluator.rule.fusion != "vote":
            label, photo = (
                np.concatenate([getattr(query, name) for query in self.queries]) for name in ("label", "photo")
            )
            return np.stack([np.concatenate(scores).argmax(axis=1) == label for scores in scored]), photo
        sets = [self.evaluator.coded.queries[q] for q in self.combination.query_ids]
        rows = fusion.common_crops(sets)
        label, photo = self.queries[0].label[rows[0]], self.queries[0].photo[rows[0]]
        decided = []
        for scores in scored:
            views = [view[row] for view, row in zip(scores, rows, strict=True)]
            ballots = np.stack([view.argmax(axis=1) for view in views])
            decided.append(fusion.majority(ballots, np.stack([view.max(axis=1) for view in views])) == label)
        return np.stack(decided), photo

    def rejection(self, reject: float, unknown: Sequence[EmbeddingSet]) -> str:
        """Return the threshold and what it accepts of known and unknown queries."""
        from classifiers.open_set import open_set
        from classifiers.threshold import set_threshold
        from classifiers.unknowns import closeness
        from terminal.threshold_file import describe

        references, queries = self.references[0], _joined(self.queries)
        validation = _joined(self.validation) if self.validation else None
        n_class = len(self.classes)
        taught = np.isin(queries.label, references.label)
        if validation is not None:
            validation = validation.take(np.isin(validation.label, references.label))
        found = set_threshold(references, n_class, reject, validation=validation)
        close = closeness(queries.vectors, references, n_class)
        known = close.score(found.score)
        if unknown:
            vectors = np.concatenate([np.asarray(one.vectors) for one in unknown])
            if vectors.shape[1] != references.vectors.shape[1]:
                raise UserError(
                    f"{unknown[0].source} has {vectors.shape[1]} dimensions; name a set of the references' model"
                )
            strange, photo = (
                closeness(vectors, references, n_class).score(found.score),
                np.concatenate(code(image_names(unknown, "query"))[1]),
            )
            whose = "--unknown_npz"
        elif not taught.all():
            strange, photo, whose = known[~taught], queries.photo[~taught], "queries of labels without references"
        else:
            strange, photo = close.without_own_class(queries.label).score(found.score), queries.photo
            whose = "the queries, each as if its class had no references"
        right = close.cosines.argmax(axis=1) == queries.label
        seen = open_set(known[taught], right[taught], queries.photo[taught], strange, photo, found.threshold)
        rates = {"correct accept": seen.correct_accept, "accept, known": seen.accept, "false accept": seen.false_accept}
        lines = [f"{self.combination} {describe(found)}"]
        lines += [
            f"  {name}: {rate.accuracy:.3f}, 95 % interval {rate.low:.3f} to {rate.high:.3f}"
            for name, rate in rates.items()
        ]
        return "\n".join([*lines, f"  AUROC {seen.auroc:.3f}, OSCR {seen.oscr:.3f}; unknown are {whose}"])


def _references(evaluator: Evaluator, combination: Combination, photos: dict[str, np.ndarray]) -> Iterator[Rows]:
    for number, task in enumerate(evaluator.tasks(combination)):
        ids = combination.reference_ids
        if evaluator.rule.fusion in ("mean", "concat"):
            photo = photos[ids[0]][evaluator.fused("reference", ids).rows]
        else:
            photo = np.concatenate(
                [photos[r] for r in evaluator.references_of(combination, combination.query_ids[number])]
            )
        yield Rows(np.concatenate([np.asarray(block) for block in task.reference]), task.reference_label, photo)


def _queries(evaluator: Evaluator, combination: Combination, classes: np.ndarray) -> Iterator[Rows]:
    """Yield the rows of each search with labels as codes of `classes`, -1 where a label is none of them."""
    missing = [q for q in combination.query_ids if q not in evaluator.coded.queries]
    if missing:
        raise UserError(
            f"--val_npz has no set of ID {missing[0]}; extract the validation split of it, or name one: {missing[0]}=path"
        )
    own = evaluator.coded.classes
    place = np.minimum(np.searchsorted(classes, own), len(classes) - 1)
    codes = np.where(classes[place] == own, place, -1)
    for task in evaluator.tasks(combination):
        yield Rows(np.asarray(task.query), codes[task.query_label], task.query_image)


def _joined(parts: Sequence[Rows]) -> Rows:
    return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("vectors", "label", "photo")))


def _pooled(
    references: Sequence[Rows], validation: Sequence[Rows] | None, tried: Sequence[Recipe], n_class: int
) -> Choice:
    """Return the choice over the validation queries of all searches, or without them over the first search's references."""
    if validation is None:
        return choose(tried, references[0], n_class)
    parts = [choose(tried, reference, n_class, rows) for reference, rows in zip(references, validation, strict=True)]
    right, photo = (
        np.concatenate([part.right for part in parts], axis=1),
        np.concatenate([part.photo for part in parts]),
    )
    return Choice(list(tried), right, photo, parts[0].how)


def _chosen_on(choice: Choice, best: int) -> str:
    if not choice.right.shape[1]:
        return "no photo to try on"
    totals, size = per_photo(choice.right, choice.photo)
    return f"{choice.accuracies[best]:.3f}, nearest {choice.accuracies[0]:.3f}, gain {_difference(totals[[0, best]], size)}"


def _difference(totals: np.ndarray, size: np.ndarray) -> str:
    """Return the second row's accuracy less the first's, with its interval by photo."""
    difference = (totals[1] - totals[0])[None]
    low, high = difference_intervals(difference, size)
    return f"{difference.sum() / size.sum():+.3f} ({low[0]:+.3f} to {high[0]:+.3f})"
