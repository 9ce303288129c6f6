"""What the evaluation scripts print of several combinations: the fixed line, the matrix, paddings, the ranking."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from classifiers.recipes import NEAREST, Recipe
from combinations.comparison import Comparison, Result
from combinations.paddings import PairedRow
from common.messages import count, table, wrap
from conclusions.effects import Effect
from conclusions.models import ModelRow
from conclusions.verdict import Findings, outlook
from evaluation.codes import CodedSets
from evaluation.fusion import AVERAGE, DECISION, NAME
from evaluation.learning import asked_for, first_asked
from evaluation.records import Combination, Rule
from evaluation.references import Curve, NewReferences
from uncertainty.intervals import FEW_IMAGES


def fixed_line(combination: Combination, accuracy: float) -> str:
    """Return the line that users grep for: `Ref [0, 10] Query 10 => acc: 0.8421`."""
    queries = "+".join(combination.query_ids) + ("" if combination.is_plain else f" {combination.classifier}")
    return f"Ref [{', '.join(combination.reference_ids)}] Query {queries} => acc: {accuracy:.4f}"


def sets(coded: CodedSets, rule: Rule, title: str) -> str:
    """Return the first line of the output: what is compared, and how decisions are made."""
    named = f"Dataset {title}: " if title else ""
    return wrap(
        f"{named}{count(len(coded.references), 'reference set')}, {count(len(coded.queries), 'query set')}, "
        f"{count(len(coded.classes), 'label')}, {how(rule)}{grouped(coded)}"
    )


def new_references(found: Mapping[Combination, NewReferences | None], accuracies: Mapping[Combination, Result]) -> str:
    """Return both intervals of some combinations: for the given references, and for new ones; "" for none."""
    rows = []
    for combination, new in found.items():
        given = accuracies[combination]
        cells = (
            (
                f"{new.interval.low:.4f} to {new.interval.high:.4f}",
                f"{100 * new.spread:.1f}" if new.spread > 0 else "none seen",
            )
            if new
            else ("-", "-")
        )
        rows.append((combination, f"{given.score:.4f}", f"{given.low:.4f} to {given.high:.4f}", *cells))
    if not rows:
        return ""
    header = ["combination", "accuracy", "these references", "new references as well", "points (sd) by references"]
    missing = "" if all(found.values()) else "\n- where the photos of references are unknown, or too few to be halved"
    title = "95% intervals for the given references, and for new ones (halves of their photos)"
    return f"{wrap(title)}\n\n{table(header, rows)}{missing}"


def grouped(coded: CodedSets) -> str:
    """Return what intervals, p and resampling count as one, where that is not the photo; "" else."""
    if not coded.units.group_by:
        return ""
    n_photo = len({photo for codes in coded.query_codes.values() for photo in np.unique(codes.photo).tolist()})
    counted = f"{count(len(coded.images), 'group')} of {count(n_photo, 'photo')}"
    return f"; intervals, p and resampling by group, --group_by {coded.units.group_by}: {counted}"


def how(rule: Rule) -> str:
    """Return how decisions are made."""
    weights = f", {rule.vote_weights} weights" if rule.k > 1 else ""
    average = f" ({AVERAGE})" if rule.fusion == "stack" else ""
    return f"fusion {NAME[rule.fusion]}{average}, k {rule.k}{weights}"


def matrix(
    coded: CodedSets,
    rule: Rule,
    findings: Findings,
    rows_of_ids: Sequence[PairedRow],
    recipes: Sequence[Recipe] = (NEAREST,),
) -> str:
    """Return every reference set against every query set as a table, then in the fixed form; models, paddings, the verdict.

    The table shows the first of the classifiers that were asked for, the fixed form all of them; `nearest` is a line beside them.
    """
    every = {one.combination: one for one in findings.final.results}
    first = first_asked(recipes)
    of_first = [one for one in findings.final.results if one.combination.classifier == first]
    results = {(one.combination.reference_ids[0], one.combination.query_ids[0]): one for one in of_first}
    unit = coded.units.noun()
    few = " (few)" if min(one.n_images for one in results.values()) < FEW_IMAGES else ""
    heading = (
        f"Accuracy of {_range([one.n_queries for one in results.values()])} {DECISION[rule.fusion]}s on "
        f"{_range([one.n_images for one in results.values()])} {unit}s{few}{_by(first)}, "
        "± half of the 95% interval in points, * best\n"
        "reference ID by row, query ID by column"
    )
    lines = [
        fixed_line(combination, every[combination].score)
        for recipe in asked_for(recipes)
        for r in coded.references
        for q in coded.queries
        if (combination := Combination((r,), (q,), recipe)) in every
    ]
    parts = [*map(wrap, findings.choices), *([models(findings.models)] if findings.models else [])]
    parts += [wrap(heading), *_matrices(coded, results, of_first[0]), "\n".join(lines)]
    if len(rows_of_ids) > 1 and not findings.models:
        parts.append(_paddings(rows_of_ids, padding=findings.verdict is not None and findings.verdict.padding))
    parts += [effects(findings.effects)] if findings.effects else []
    parts += [classifiers(findings.classifiers)] if findings.classifiers else []
    parts += [calls] if (calls := close_calls(findings.final.results)) else []
    parts += [findings.verdict.text()] if findings.verdict else []
    return "\n\n".join(parts)


def _by(recipe: Recipe) -> str:
    return "" if recipe == NEAREST else f" by {recipe}"


def _matrices(coded: CodedSets, results: Mapping[tuple[str, str], Result], best: Result) -> Iterator[str]:
    """Yield one table for each group of query sets that can be scored with the same references: one a model."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for q in coded.queries:
        groups.setdefault(tuple(r for r in coded.references if (r, q) in results), []).append(q)
    for references, queries in groups.items():
        rows = [[r, *(_cell(results.get((r, q)), best) for q in queries)] for r in references]
        if rows:
            yield table(["ref \\ query", *queries], rows)


def models(rows: Sequence[ModelRow], width: int | None = None) -> str:
    """Return the models side by side, the most accurate first; "" where there are no rows. `width`: of lines in a file."""
    if not rows:
        return ""
    cells = [
        (
            row.model,
            row.id,
            row.dim,
            _number(row.weights / 1e6, ".2g" if row.weights < 1e5 else ".1f"),
            _number(row.images_per_second, ".1f"),
            f"{row.accuracy:.4f}",
            f"{row.low:.4f} to {row.high:.4f}",
            _number(100 * row.difference, "+.1f"),
            "-"
            if math.isnan(row.difference)
            else f"{100 * row.difference_low:+.1f} to {100 * row.difference_high:+.1f}",
            _p(row.p),
        )
        for row in rows
    ]
    header = [
        "model",
        "ID",
        "dims",
        "M weights",
        "images/s",
        "accuracy",
        "95% interval",
        "points",
        "95% interval",
        "p",
    ]
    by = _by(rows[0].combination.classifier)
    title = f"Models{by}, each at its least padding, beside the first on the same crops; p corrected over all"
    return f"{wrap(title, width=width)}\n\n{table(header, cells, fold=width is None)}"


def _cell(result: Result | None, best: Result) -> str:
    if result is None:
        return "-"
    return f"{'*' if result is best else ''}{result.score:.4f} ±{50 * (result.high - result.low):.1f}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _paddings(rows: Sequence[PairedRow], *, padding: bool) -> str:
    """Return every ID with its own references beside the first of them."""
    by = _by(rows[0].combination.classifier)
    title = f"{'Paddings' if padding else 'IDs'} with their own references{by}, beside {rows[0].id} on the same crops"
    cells = [[row.id, *_paired(row)] for row in rows]
    return f"{wrap(title)}\n\n{table(['padding' if padding else 'ID', *PAIRED], cells)}"


def classifiers(rows: Sequence[PairedRow]) -> str:
    """Return the classifiers of one combination beside the first of them, and how many rows each keeps."""
    first = rows[0].combination
    title = f"Classifiers of {first}, beside {first.classifier} on the same crops"
    cells = [[row.combination.classifier, *_paired(row), row.kept_rows] for row in rows]
    return f"{wrap(title)}\n\n{table(['classifier', *PAIRED, 'rows kept'], cells)}"


def effects(rows: Sequence[Effect], width: int | None = None) -> str:
    """Return what each padding does, context and resolution apart; '' without rows. `width`: of lines in a file."""
    if not rows:
        return ""
    cells = [
        (
            row.padding,
            row.kind,
            f"{row.of.query_ids[0]} against {row.against.query_ids[0]}",
            *_gap(row),
            *(_number(speed, ".1f") for speed in row.speeds),
        )
        for row in rows
    ]
    title = (
        f"What padding does{_by(rows[0].of.classifier)}, on the same crops. "
        "context: more surroundings, the object's pixels kept; resolution: fewer pixels of the object, the surroundings kept"
    )
    named = ["padding", "effect", "IDs", "points", "95% interval", "corrected p", "images/s", "against"]
    return f"{wrap(title, width=width)}\n\n{table(named, cells, fold=width is None)}"


def learning_curve(curve: Curve, compared: Comparison | None) -> str:
    """Return the accuracy of a combination by the number of reference photos per class, and the least gain that queries show."""
    points = curve.points
    rows = [
        (
            point.photos if point is not points[-1] else f"all, up to {point.photos}",
            f"{point.references:.1f}",
            f"{point.accuracy:.4f}",
            f"{point.low:.4f} to {point.high:.4f}",
            f"{point.low_draw:.4f} to {point.high_draw:.4f}" if point is not points[-1] else "-",
        )
        for point in points
    ]
    title = (
        f"Learning curve of {curve.combination}, nearest neighbours: how accurate with so many reference photos of each class; "
        f"the mean of {curve.draws} draws of whole photos"
    )
    header = ["photos per class", "crops per class", "accuracy", "95% interval", "95% of draws"]
    text = f"{wrap(title)}\n\n{table(header, rows)}"
    if compared is None or math.isnan(compared.evidence.smallest_gain):
        return text
    photos = count(compared.baseline.n_images, f"query {compared.unit}")
    return (
        f"{text}\n\n{photos} can show a gain of {100 * compared.evidence.smallest_gain:.1f} points or more (power 80%)"
    )


PAIRED = ("accuracy", "95% interval", "points", "95% interval", "corrected p")


def _paired(row: PairedRow) -> list[str]:
    gap = _difference(row.difference, row.difference_low, row.difference_high)
    return [f"{row.accuracy:.4f}", f"{row.low:.4f} to {row.high:.4f}", *gap, _p(row.p)]


def _gap(row: Effect) -> list[str]:
    return [*_difference(row.difference, row.low, row.high), _p(row.p)]


def _difference(points: float, low: float, high: float) -> list[str]:
    """Return a difference in points and its interval as cells."""
    if math.isnan(points):
        return ["-", "-"]
    return [f"{100 * points:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"]


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else _number(p, ".3f")


def ranking(results: Sequence[Result], top: int) -> str:
    """Return the best `top` combinations as a table, with their classifiers where there are several."""
    several = len({result.combination.classifier for result in results}) > 1
    rows = [
        (
            rank,
            "+".join(result.combination.reference_ids),
            "+".join(result.combination.query_ids),
            *([result.combination.classifier] if several else []),
            f"{result.score:.4f}",
            f"{result.low:.4f} to {result.high:.4f}",
            _number(100 * result.difference, "+.1f"),
            _p(result.p),
            "*" if result.pareto else "",
        )
        for rank, result in enumerate(results[:top], 1)
    ]
    named = ["rank", "references", "queries", *(["classifier"] if several else [])]
    return table([*named, "accuracy", "95% interval", "points", "p", "Pareto"], rows, names=("references", "queries"))


def close_calls(results: Sequence[Result]) -> str:
    """Return a sentence about the combination with most decisions that rounding may have made; "" where there are none."""
    most = max(results, key=lambda result: result.n_close)
    if not most.n_close:
        return ""
    where = f" of {most.combination}" if len(results) > 1 else ""
    counted = f"{most.n_close:,} of {most.n_queries:,} decisions{where}"
    return wrap(f"Close calls: {counted}: another label is as near, to 1e-6, and rounding decides.")


def summary(findings: Findings, top: int, unit: str = "") -> str:
    """Return the verdict, the models, the ranking, what may be believed of the winner, and the verdict again.

    `unit`: what `grouped` returns.
    """
    ranked, chosen_on = findings.ranked, findings.chosen_on
    n_pair = sum(result.combination.is_pair for result in ranked.results)
    kinds = ((n_pair, "single pair"), (len(ranked.results) - n_pair, "combination"))
    counted = " and ".join(count(n, noun) for n, noun in kinds if n)
    kind = "the baseline" if ranked.named else "the best single pair"
    answer = findings.verdict.text() if findings.verdict else ""
    parts = [*map(wrap, findings.choices), answer]
    parts += [models(findings.models)] if findings.models else []
    parts += [effects(findings.effects)] if findings.effects else []
    beside = (
        f"; points: difference from {kind} {ranked.baseline.combination}, p corrected over the "
        f"{count(ranked.n_compared, 'other')}, Pareto *: nothing cheaper is as accurate"
    )
    parts.append(wrap(f"{counted}{f' on {chosen_on}' if chosen_on else ''}{beside if ranked.n_compared else ''}{unit}"))
    if findings.classifiers:
        parts.insert(-1, classifiers(findings.classifiers))
    parts.append(ranking(ranked.results, top))
    if len(ranked.results) > top:
        parts[-1] += f"\n… and {len(ranked.results) - top:,} more, down to {ranked.results[-1].score:.4f}"
    parts += [calls] if (calls := close_calls(ranked.results)) else []
    if chosen_on:
        final = findings.final.results
        parts += [f"Chosen on {chosen_on}, scored once on {findings.scored_on}", ranking(final, len(final))]
    elif ranked.n_compared:
        parts.append(wrap(_winner(ranked)))
    return "\n\n".join([*parts, answer])


def _winner(ranked: Comparison) -> str:
    winner = ranked.evidence.winner
    text = f"{outlook(ranked)}\n".lstrip("\n")
    first = ranked.results[0].combination
    if math.isnan(winner.accuracy):
        return (
            text
            + f"{first} was chosen on the queries it is scored on, so its accuracy is optimistic; choose with --val_npz."
        )
    return text + (
        f"{first} was chosen on the queries it is scored on: without that luck {winner.accuracy:.4f} "
        f"({winner.low:.4f} to {winner.high:.4f}); choose with --val_npz."
    )
