"""What --reject prints in evaluate_combo.py: the threshold below which a query is UNKNOWN, and what it accepts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from classifiers.recipes import Rows
from common.embedding_sets import read_sets
from common.embeddings import EmbeddingSet
from common.messages import UsageError, UserError, wrap
from evaluation.codes import CodedSets, code
from evaluation.evaluator import Evaluator
from evaluation.learning import rows
from evaluation.records import Combination
from unknowns import threshold_file
from unknowns.open_set import open_set
from unknowns.products import products
from unknowns.scores import closeness
from unknowns.threshold import Threshold, set_threshold


def rejection(
    evaluator: Evaluator,
    validation: Evaluator | None,
    combinations: Sequence[Combination],
    reject: float,
    unknown_npz: Sequence[str] | None,
    file: Path | None,
) -> str:
    """Return of each combination its threshold and what that accepts; write the threshold of a single one to `file`.

    `validation` has the same references and other queries. The options have passed `check`.
    """
    unknown = read_sets(unknown_npz) if unknown_npz else []
    parts = []
    for combination in combinations:
        threshold = _threshold(validation or evaluator, combination, reject, on_queries=validation is not None)
        parts.append(_accepted(evaluator, combination, threshold, unknown))
        if file:
            sets = [evaluator.coded.references[r] for r in combination.reference_ids]
            threshold_file.write(file, threshold, products(sets).record)
            parts.append(f"  wrote {file}; classify.py and search.py query read it with --threshold")
    return "\n".join(parts)


def check(evaluator: Evaluator, combinations: Sequence[Combination], reject: float | None, file: Path | None) -> None:
    """Raise UsageError for options that exclude each other."""
    if not reject:
        return
    if evaluator.rule.exclude != "none":
        raise UsageError("--reject leaves no neighbours out: go without --exclude_self, --exclude_same_sample")
    if evaluator.rule.fusion == "vote" and any(len(one.query_ids) > 1 for one in combinations):
        raise UsageError(
            "--reject scores one vector a decision; name one query set, or use --fusion stack, mean or concat"
        )
    if file and (len(combinations) > 1 or len(combinations[0].query_ids) > 1 or evaluator.rule.fusion == "mean"):
        raise UsageError(
            "--threshold writes one threshold: name its references and one query set with --reference_ids and --query_ids"
        )


def _threshold(evaluator: Evaluator, combination: Combination, reject: float, *, on_queries: bool) -> Threshold:
    """Return the threshold set on the references, and on the queries too where they are validation queries."""
    missing = [q for q in combination.query_ids if q not in evaluator.coded.queries]
    if missing:
        raise UserError(
            f"--val_npz has no set of ID {missing[0]}; extract the validation split of it, or name one: {missing[0]}=path"
        )
    references = rows(evaluator, combination)[0]
    queries = _queries(evaluator, combination) if on_queries else None
    if queries is not None:
        queries = queries.take(np.isin(queries.label, references.label))
    return set_threshold(references, len(evaluator.coded.classes), reject, validation=queries)


def _queries(evaluator: Evaluator, combination: Combination) -> Rows:
    tasks = evaluator.tasks(combination)
    columns = ([getattr(task, name) for task in tasks] for name in ("query", "query_label", "query_image"))
    return Rows(*map(np.concatenate, columns))


def _accepted(
    evaluator: Evaluator, combination: Combination, threshold: Threshold, unknown: Sequence[EmbeddingSet]
) -> str:
    """Return what the threshold accepts of the queries, and of unknown crops."""
    references, queries = rows(evaluator, combination)[0], _queries(evaluator, combination)
    close = closeness(queries.vectors, references, len(evaluator.coded.classes))
    known, taught = close.score(threshold.score), np.isin(queries.label, references.label)
    if unknown:
        strange, photo = _strangers(unknown, references, evaluator.coded, threshold.score)
        whose = "--unknown_npz"
    elif not taught.all():
        strange, photo, whose = known[~taught], queries.photo[~taught], "queries of labels without references"
    else:
        strange, photo = close.without_own_class(queries.label).score(threshold.score), queries.photo
        whose = "the queries, each as if its class had no references"
    right = close.cosines.argmax(axis=1) == queries.label
    seen = open_set(known[taught], right[taught], queries.photo[taught], strange, photo, threshold.threshold)
    rates = {"correct accept": seen.correct_accept, "accept, known": seen.accept, "false accept": seen.false_accept}
    lines = [
        f"  {name}: {rate.accuracy:.3f}, 95% interval {rate.low:.3f} to {rate.high:.3f}" for name, rate in rates.items()
    ]
    measured = f"  AUROC {seen.auroc:.3f}, OSCR {seen.oscr:.3f}; unknown are {whose}"
    return "\n".join(
        wrap(line, 4) for line in (f"{combination} {threshold_file.describe(threshold)}", *lines, measured)
    )


def _strangers(
    unknown: Sequence[EmbeddingSet], references: Rows, coded: CodedSets, score: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores and photos of crops that show no product of the references."""
    vectors = np.concatenate([np.asarray(one.vectors) for one in unknown])
    if vectors.shape[1] != references.vectors.shape[1]:
        raise UserError(f"{unknown[0].source} has {vectors.shape[1]} dimensions; name a set of the references' model")
    close = closeness(vectors, references, len(coded.classes))
    return close.score(score), np.concatenate(code(coded.units.names(unknown, "query"))[1])
