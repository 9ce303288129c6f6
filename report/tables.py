"""Tables and words of the report: matrix, ladders of intervals, accuracies by padding, confusion, numbers as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from combinations.comparison import Comparison, Result
from combinations.evidence import LEVEL
from combinations.paddings import PairedRow
from evaluation.codes import CodedSets
from evaluation.evaluator import Evaluator
from evaluation.records import Combination, Decisions
from report import charts
from report.charts import Score
from uncertainty import intervals

SETS = 30  # rows and columns of the matrix
CLASSES = 12  # classes in the confusion
WIDTHS = {"wide": 500, "narrow": 336}  # pixels of a chart in a column of a wide page, and on a phone


@dataclass(frozen=True)
class Ladder:
    """Accuracies one below the other on one scale: rows of (rank or 0, result), places in % of the width by `axis`."""

    axis: charts.Axis
    rows: list[tuple[int, Any]]
    baseline: float | None


def ladder(results: Sequence[Result | Score | PairedRow], baseline: Result | None = None) -> Ladder:
    """Lay out whiskers; the baseline comes last, without a rank, where it is not among the results."""
    rows = list(enumerate(results, 1))
    if baseline is not None and all(result.combination != baseline.combination for result in results):
        rows.append((0, baseline))
    values = [value for _, result in rows for value in (result.low, result.high)]
    return Ladder(charts.share_axis(values, 4, 96, room=23), rows, baseline.score if baseline else None)


def pair_scores(evaluator: Evaluator, comparison: Comparison) -> dict[tuple[str, str], Score]:
    """Return the scores of all single pairs by (reference ID, query ID); those the comparison knows are not decided again."""
    results = comparison.results
    known = {one.combination: one for one in results if one.combination.is_pair and one.combination.is_plain}
    pairs = [Combination((r,), (q,)) for r in evaluator.coded.references for q in evaluator.coded.queries]
    scores = {
        pair: Score(pair, known[pair].score, known[pair].low, known[pair].high) for pair in pairs if pair in known
    }
    missing = [pair for pair in pairs if pair not in known and evaluator.valid(pair)]
    for index, tally in evaluator.tallies(missing):
        low, high = intervals.accuracy_intervals(tally.image_right[1][None], tally.image_size)
        scores[missing[index]] = Score(missing[index], tally.accuracy, float(low[0]), float(high[0]))
    return {(pair.reference_ids[0], pair.query_ids[0]): score for pair, score in scores.items()}


@dataclass(frozen=True)
class Matrix:
    """Single pairs, references down and queries across; `heat` in 0..100 by place between `low` and `high`."""

    references: list[str]
    queries: list[str]
    scores: dict[tuple[str, str], Score]
    best: Combination | None
    low: float
    high: float
    hidden: int

    def heat(self, score: Score) -> int:
        return round(100 * (score.score - self.low) / (self.high - self.low))


def matrix(coded: CodedSets, pairs: dict[tuple[str, str], Score]) -> Matrix:
    """Return the matrix of at most SETS x SETS pairs; the range of colours is at least five points wide."""
    values = [pair.score for pair in pairs.values()] or [0.0, 1.0]
    widen = max(0.0, 0.05 - (max(values) - min(values)))
    low = max(0.0, min(values) - widen)
    best = max(pairs.values(), key=lambda pair: pair.score).combination if pairs else None
    references, queries = list(coded.references), list(coded.queries)
    hidden = len(references) * len(queries) - len(references[:SETS]) * len(queries[:SETS])
    return Matrix(references[:SETS], queries[:SETS], pairs, best, low, max([*values, low + 0.05]), hidden)


@dataclass(frozen=True)
class Padding:
    """Same-ID pairs in the order of their IDs: charts by width where IDs are numbers, else whiskers."""

    scores: list[Score]
    charts: dict[str, charts.PaddingChart]
    ladder: Ladder | None
    is_padding: bool


def padding(coded: CodedSets, pairs: dict[tuple[str, str], Score], best: Result) -> Padding:
    """Return the accuracy of every ID with its own references, by number where all IDs are different numbers.

    Other input sizes and poolings of the same paddings are left to the ranking and to the table of effects.
    """
    same_id = {name: pairs[name, name] for name in coded.queries if (name, name) in pairs}
    own = {name: score for name, score in same_id.items() if not coded.queries[name].is_variant}
    same_id = own if len(own) > 1 else same_id
    numbers = {name: _number(name) for name in same_id}
    is_padding = all(str(coded.queries[name].meta.get("padding")) == name for name in same_id)
    if len(same_id) < 2 or None in numbers.values() or len(set(numbers.values())) < len(same_id):
        scores = list(same_id.values())
        return Padding(scores, {}, ladder(scores) if scores else None, is_padding)
    rising = sorted((number, name) for name, number in numbers.items() if number is not None)
    scores = [same_id[name] for _, name in rising]
    values = [number for number, _ in rising]
    drawn = {name: charts.padding_chart(values, scores, best.score, width) for name, width in WIDTHS.items()}
    return Padding(scores, drawn, None, is_padding)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Confusion:
    """Counts of decisions on the classes with most errors: (name, errors, row) each, `n_class` in all.

    A row holds the decisions for these same classes, then those of the further `columns`. `mixups`: (actual, given, count).
    """

    columns: list[str]
    rows: list[tuple[str, int, list[int]]]
    mixups: list[tuple[str, str, int]]
    n_wrong_classes: int
    n_class: int


def confusion(classes: np.ndarray, decisions: Decisions) -> Confusion:
    """Return the confusion among the CLASSES classes whose queries are most often wrong; memory grows with classes only."""
    n_class = len(classes)
    actual, given = decisions.label, decisions.voted
    wrong = np.bincount(actual[actual != given], minlength=n_class)
    worst = np.argsort(-wrong, kind="stable")[: min(CLASSES, int((wrong > 0).sum()))]
    place = np.full(n_class + 1, len(worst))  # the last entry is for -1, no label
    place[worst], place[-1] = np.arange(len(worst)), len(worst) + 1
    counts = np.zeros((len(worst) + 2, len(worst) + 2), np.int64)
    np.add.at(counts, (place[actual], place[given]), 1)
    further = [column for column in (len(worst), len(worst) + 1) if counts[: len(worst), column].any()]
    kept = [*range(len(worst)), *further]
    rows = [(str(classes[label]), int(wrong[label]), counts[row, kept].tolist()) for row, label in enumerate(worst)]
    return Confusion(
        [("other", "none")[column - len(worst)] for column in further],
        rows,
        _mixups(classes, actual, given),
        int((wrong > 0).sum()),
        int(np.bincount(actual, minlength=n_class).astype(bool).sum()),
    )


def _mixups(classes: np.ndarray, actual: np.ndarray, given: np.ndarray) -> list[tuple[str, str, int]]:
    labels = [*map(str, classes), "no label"]
    missed = actual != given
    pairs, times = np.unique(np.stack([actual[missed], given[missed]]), axis=1, return_counts=True)
    most_often = np.argsort(-times, kind="stable")[:6]
    return [(labels[pairs[0, at]], labels[pairs[1, at]], int(times[at])) for at in most_often]


def percent(value: float) -> str:
    """Return 0.7203 as 72.0."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def share(value: float) -> str:
    """Return 0.7203 as 72.0%."""
    return f"{percent(value)}%"


def points(difference: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    text = "–" if math.isnan(difference) else f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def signed(count: int) -> str:
    """Return a count with its sign, 0 without one."""
    return f"{count:+,}".replace("-", "−") if count else "0"


def p_value(p: float) -> str:
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_is(p: float) -> str:
    """Return `p = 0.983` or `p < 0.001`, with spaces that do not break."""
    return f"p {'' if p < 0.001 else '= '}{p_value(p)}".replace(" ", "\u00a0")


def stars(p: float) -> str:
    return "" if math.isnan(p) else "*" * sum(p < limit for limit in (LEVEL, 0.01, 0.001))


def clip(text: str, length: int = 40) -> str:
    """Return the text, shortened in the middle where it is long."""
    text = str(text)
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def rival_words(ranked: Comparison) -> str:
    return "the best single pair" if not ranked.named else "the baseline"


FILTERS = {
    **{word.__name__: word for word in (percent, share, points, signed, p_value, p_is, stars, clip)},
    "ids": " + ".join,
    "short": charts.short_number,
}
