"""What evaluate_combo.py prints of one combination: every measure, its classes, and how similar the classes are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from classifiers.recipes import NEAREST
from combinations.paddings import PairedRow, starting_pair
from common import knn, messages
from conclusions.verdict import Findings
from evaluation import metrics, per_query
from evaluation.codes import CodedSets
from evaluation.evaluator import Evaluator, tally
from evaluation.metrics import RECALL_AT
from evaluation.records import Combination, Decisions, Rule, Tally
from evaluation.references import Curve, learning_curve, new_references
from terminal import tables
from terminal.tables import fixed_line
from uncertainty import intervals
from uncertainty.intervals import AccuracyInterval
from uncertainty.references import HALVINGS
from uncertainty.scores import class_recalls, macro_f1_interval

SHOWN = 30  # classes in a table
BY_QUERY = ("MAP@R", "R-precision")
CLASSES = (
    "label, worst first",
    "precision",
    "recall",
    "F1",
    "queries",
    "shrunken recall",
    "95% interval",
    "reliability",
)


def measures(
    coded: CodedSets,
    rule: Rule,
    combination: Combination,
    decisions: Decisions,
    retrieval: tuple[np.ndarray, np.ndarray],
) -> str:
    """Return every measure of one combination, from its decisions, and MAP@R and R-precision with their images (per_query)."""
    noun = coded.units.noun()
    totals = tally(coded, decisions, combination.reference_ids)
    lines = [fixed_line(combination, totals.accuracy), _accuracy(totals, 1, "Accuracy@1:", noun)]
    lines += [_accuracy(totals, 0, "Nearest neighbour alone:", noun)] if rule.k > 1 else []
    answerable = totals.n - totals.n_unknown
    share = f"{totals.right[1] / answerable:.4f}" if answerable else "-"
    lines.append(
        f"  Decisions {totals.n:,}, {totals.n_unknown:,} of them of a label without references; accuracy over the others {share}"
    )
    if totals.n_close:
        lines.append(f"  Close calls {totals.n_close:,}: another label is as near, to 1e-6, and rounding decides")
    n_reference = sum(len(coded.references[r]) for r in combination.reference_ids)
    rows = [
        (f"Recall@{k}", totals.image_recalled[row], totals.image_size)
        for row, k in enumerate(RECALL_AT)
        if k <= n_reference
    ]
    scores, image = retrieval
    rows += [
        (name, np.bincount(image, score), np.bincount(image)) for name, score in zip(BY_QUERY, scores, strict=True)
    ]
    lines += [_measure(name, intervals.accuracy_interval(total, size)) for name, total, size in rows]
    macro_f1, low, high = macro_f1_interval(decisions.label, decisions.voted, decisions.image)
    lines.append(f"  Macro-F1 {macro_f1:.4f}, 95% interval {low:.4f} to {high:.4f}\n")
    told = [lines[0], *(messages.wrap(line, 4) for line in lines[1:])]
    return "\n".join([*told, *_classes(coded, totals)])


def _measure(name: str, interval: AccuracyInterval) -> str:
    return f"  {name} {interval.accuracy:.4f}, 95% interval {interval.low:.4f} to {interval.high:.4f}"


def _accuracy(tally: Tally, row: int, name: str, noun: str) -> str:
    interval = intervals.accuracy_interval(tally.image_right[row], tally.image_size)
    few = f", few {noun}s" if interval.few_images else ""
    return (
        f"  {name} {tally.right[row] / tally.n:.4f}, 95% interval {interval.low:.4f} to {interval.high:.4f} "
        f"({messages.count(interval.n_images, noun)}{few})"
    )


def _classes(coded: CodedSets, tally: Tally) -> list[str]:
    """Return a row for each class; recall also shrunken towards that of all, see uncertainty.scores.class_recalls."""
    scores, recalls = tally.scores, class_recalls(tally.class_right, tally.class_size)
    rows = [
        (
            coded.classes[at],
            f"{scores.precision[at]:.3f}",
            f"{scores.recall[at]:.3f}",
            f"{scores.f1[at]:.3f}",
            int(scores.support[at]),
            f"{recalls.shrunken[at]:.3f}",
            f"{recalls.low[at]:.3f} to {recalls.high[at]:.3f}",
            f"{recalls.reliability[at]:.2f}",
        )
        for at in np.flatnonzero(scores.support)
    ]
    rows.sort(key=lambda row: (row[3], row[0]))
    lines = [messages.table(CLASSES, rows[:SHOWN])]
    lines.append(
        messages.wrap(
            "shrunken recall: towards the recall of all classes, most where crops are few; crops count one by one"
        )
    )
    if len(rows) > SHOWN:
        lines.append(f"… and {len(rows) - SHOWN:,} labels with higher F1; --predictions writes every query")
    return lines


def class_similarity(coded: CodedSets, reference_ids: Sequence[str]) -> tuple[str, np.ndarray, list[str]]:
    """Return the mean cosine within and between the classes of merged references: as text, as a matrix, and the classes in it."""
    vectors = np.concatenate([knn.unit(coded.references[r].vectors) for r in reference_ids])
    labels = np.concatenate([coded.reference_codes[r].label for r in reference_ids])
    present, codes = np.unique(labels, return_inverse=True)
    similarity = metrics.similarity(vectors, codes, len(present))
    names = coded.classes[present]
    text = messages.wrap(
        f"Similarity of references {'+'.join(reference_ids)}: mean cosine within classes {similarity.within:.4f}, "
        f"between classes {similarity.between:.4f}, silhouette {similarity.silhouette:.4f}"
    )
    if len(present) > 1:
        within = np.diag(similarity.matrix)
        between = similarity.matrix + np.diag(np.full(len(present), np.nan))
        nearest = np.where(np.isnan(between), -2, between).argmax(axis=1)
        rows = [
            (name, f"{within[at]:.4f}", f"{between[at, nearest[at]]:.4f}", names[nearest[at]])
            for at, name in enumerate(names)
        ]
        rows.sort(key=lambda row: float(row[2]), reverse=True)
        text += "\n" + messages.table(["label", "within", "to nearest class", "nearest class"], rows[:SHOWN])
    return text, similarity.matrix, list(names)


def map_points(
    coded: CodedSets, rule: Rule, combination: Combination, decisions: Decisions
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return what a map of the combination shows, one row a reference or query: vectors, labels, role, whether it is right.

    Where a decision is made for several rows at once, none of these is marked as wrong.
    """
    references = [coded.references[r] for r in combination.reference_ids]
    queries = [coded.queries[q] for q in combination.query_ids]
    vectors = np.concatenate([np.asarray(embedding_set.vectors) for embedding_set in (*references, *queries)])
    codes = [coded.reference_codes[r].label for r in combination.reference_ids]
    codes += [coded.query_codes[q].label for q in combination.query_ids]
    n_reference = sum(map(len, references))
    role = np.where(np.arange(len(vectors)) < n_reference, "reference", "query")
    correct = np.ones(len(vectors), bool)
    if rule.fusion == "stack" or (rule.fusion == "vote" and len(queries) == 1):
        correct[n_reference:] = decisions.right
    return vectors, coded.classes[np.concatenate(codes)], role, correct


def show(
    evaluator: Evaluator, asked: Sequence[Combination], choices: Sequence[str], rows: Sequence[PairedRow]
) -> dict[Combination, Decisions]:
    """Print every measure of each combination, and the classifiers side by side; return the decisions.

    Where classifiers were asked for, `nearest` is decided too, and is a row of their table.
    """
    for choice in choices:
        messages.show(messages.wrap(choice))
    decided = {}
    for combination in asked:
        decided[combination] = decisions = evaluator.decide(combination)
        if rows and combination.is_plain:
            continue
        retrieval = per_query.retrieval(evaluator, combination)
        messages.show(measures(evaluator.coded, evaluator.rule, combination, decisions, retrieval))
    if rows:
        messages.show(tables.classifiers(rows))
    return decided


def show_learning_curve(evaluator: Evaluator, start: Combination, findings: Findings | None, seed: int) -> None:
    """Print the accuracy of a pair over references per class."""
    curve = learning_curve(evaluator, start, seed=seed)
    messages.show(tables.learning_curve(curve, findings.final if findings else None))


def report_learning_curve(evaluator: Evaluator, findings: Findings, seed: int) -> Curve:
    """Print the curve of the pair of least padding, and return it for the report."""
    curve = learning_curve(evaluator, starting_pair(evaluator, None), seed=seed)
    messages.show(tables.learning_curve(curve, findings.final))
    return curve


def _work(combinations: Sequence[Combination]) -> str:
    learnt = [combination for combination in combinations if not combination.is_plain]
    if not learnt:
        return "searches"
    return "fits" if len(learnt) == len(combinations) else "fits and searches"


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} minutes"


def show_new_references(
    evaluator: Evaluator,
    findings: Findings,
    label_level: int | None,
    seed: int,
    combinations: Sequence[Combination] | None = None,
) -> Findings:
    """Print both intervals of the combinations that are reported, and return the findings with those for new references.

    `combinations`: those that are asked for, of which reported ones count (default: the first, the baseline, and `nearest` of it).
    """
    final = findings.final
    known = {result.combination: result for result in final.results}
    both = [final.results[0].combination, final.baseline.combination]
    both.append(replace(both[1], classifier=NEAREST))
    asked = [combination for combination in dict.fromkeys(combinations or both) if combination in known]
    start = time.perf_counter()
    for combination in asked:  # once with all references, which takes about as long as two halves
        Evaluator(evaluator.coded, evaluator.rule).decide(combination)
    expected = HALVINGS * (time.perf_counter() - start)
    messages.note(
        f"--references_vary: {messages.count(len(asked), 'combination')}, each decided {2 * HALVINGS} times on halves of the "
        f"reference photos: {2 * HALVINGS * len(asked)} {_work(asked)}, about {_duration(expected)} …"
    )
    found = new_references(evaluator.coded, evaluator.rule, asked, label_level=label_level, seed=seed)
    if told := tables.new_references(found, known):
        messages.show(told)
    return replace(findings, new_references=found)
