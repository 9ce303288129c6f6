"""Tables and words of the report: matrix, ladders of intervals, accuracies by padding, confusion, numbers as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from combinations import report_charts
from combinations.comparison import Comparison, Result
from combinations.report_charts import Score
from evaluation.evaluator import Evaluator
from evaluation.records import Combination, Decisions
from uncertainty import intervals

LEVEL = 0.05  # a corrected p below it counts as more than chance


SETS = 30  # rows and columns of the matrix
CLASSES = 12  # classes in the confusion
WIDTHS = {"wide": 500, "narrow": 336}  # pixels of a chart in a column of a wide page, and on a phone


@dataclass(frozen=True)
class Ladder:
    """Accuracies one below the other on one scale: rows of (rank or 0, result), places in % of the width by `axis`."""

    axis: report_charts.Axis
    rows: list[tuple[int, Any]]
    baseline: float | None


def ladder(results: Sequence[Result | Score], baseline: Result | None = None) -> Ladder:
    """Lay out whiskers; the baseline comes last, without a rank, where it is not among the results."""
    rows = list(enumerate(results, 1))
    if baseline is not None and all(one.combination != baseline.combination for one in results):
        rows.append((0, baseline))
    values = [value for _, one in rows for value in (one.low, one.high)]
    return Ladder(report_charts.share_axis(values, 4, 96, room=23), rows, baseline.score if baseline else None)


def pair_scores(evaluator: Evaluator, comparison: Comparison) -> dict[tuple[str, str], Score]:
    """Return the scores of all single pairs by (reference ID, query ID); those the comparison knows are not searched again."""
    known = {one.combination: one for one in (*comparison.rivals, *comparison.results) if one.combination.is_pair}
    wanted = [Combination((r,), (q,)) for r in evaluator.references for q in evaluator.queries]
    scores = {one: Score(one, known[one].score, known[one].low, known[one].high) for one in wanted if one in known}
    asked = [one for one in wanted if one not in known and evaluator.valid(one)]
    for at, tally in evaluator.tallies(asked):
        low, high = intervals.accuracy_intervals(tally.image_right[1][None], tally.image_size)
        scores[asked[at]] = Score(asked[at], tally.vote_accuracy, float(low[0]), float(high[0]))
    return {(one.reference_ids[0], one.query_ids[0]): score for one, score in scores.items()}


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


def matrix(evaluator: Evaluator, pairs: dict[tuple[str, str], Score]) -> Matrix:
    """Return the matrix of at most SETS x SETS pairs; the range of colours is at least five points wide."""
    values = [one.score for one in pairs.values()] or [0.0, 1.0]
    widen = max(0.0, 0.05 - (max(values) - min(values)))
    low = max(0.0, min(values) - widen)
    best = max(pairs.values(), key=lambda one: one.score).combination if pairs else None
    references, queries = list(evaluator.references), list(evaluator.queries)
    hidden = len(references) * len(queries) - len(references[:SETS]) * len(queries[:SETS])
    return Matrix(references[:SETS], queries[:SETS], pairs, best, low, max([*values, low + 0.05]), hidden)


@dataclass(frozen=True)
class Padding:
    """Same-ID pairs in the order of their IDs: charts by width where IDs are numbers, else whiskers."""

    scores: list[Score]
    charts: dict[str, report_charts.PaddingChart]
    ladder: Ladder | None
    is_padding: bool


def padding(evaluator: Evaluator, pairs: dict[tuple[str, str], Score], best: Result) -> Padding:
    """Return the accuracy of every ID with its own references, by number where all IDs are different numbers."""
    same = {one: pairs[one, one] for one in evaluator.queries if (one, one) in pairs}
    numbers = {one: _number(one) for one in same}
    is_padding = all(str(evaluator.queries[one].meta.get("padding")) == one for one in same)
    if len(same) < 2 or None in numbers.values() or len(set(numbers.values())) < len(same):
        scores = list(same.values())
        return Padding(scores, {}, ladder(scores) if scores else None, is_padding)
    rising = sorted((number, one) for one, number in numbers.items() if number is not None)
    scores = [same[one] for _, one in rising]
    values = [number for number, _ in rising]
    drawn = {name: report_charts.padding_chart(values, scores, best.score, width) for name, width in WIDTHS.items()}
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


def confusion(evaluator: Evaluator, decisions: Decisions) -> Confusion:
    """Return the confusion among the CLASSES classes whose queries are most often wrong; memory grows with classes only."""
    classes, n_class = evaluator.classes, len(evaluator.classes)
    actual, given = decisions.label, decisions.voted
    wrong = np.bincount(actual[actual != given], minlength=n_class)
    worst = np.argsort(-wrong, kind="stable")[: min(CLASSES, int((wrong > 0).sum()))]
    place = np.full(n_class + 1, len(worst))  # the last entry is for -1, no label
    place[worst], place[-1] = np.arange(len(worst)), len(worst) + 1
    counts = np.zeros((len(worst) + 2, len(worst) + 2), np.int64)
    np.add.at(counts, (place[actual], place[given]), 1)
    further = [at for at in (len(worst), len(worst) + 1) if counts[: len(worst), at].any()]
    kept = [*range(len(worst)), *further]
    rows = [(str(classes[one]), int(wrong[one]), counts[at, kept].tolist()) for at, one in enumerate(worst)]
    labels = [*(str(classes[one]) for one in range(n_class)), "no label"]
    missed = actual != given
    pairs, times = np.unique(np.stack([actual[missed], given[missed]]), axis=1, return_counts=True)
    order = np.argsort(-times, kind="stable")[:6]
    mixups = [(labels[pairs[0, at]], labels[pairs[1, at]], int(times[at])) for at in order]
    return Confusion(
        [("other", "none")[at - len(worst)] for at in further],
        rows,
        mixups,
        int((wrong > 0).sum()),
        int(np.bincount(actual, minlength=n_class).astype(bool).sum()),
    )


def percent(value: float) -> str:
    """Return 0.7203 as 72.0."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def share(value: float) -> str:
    """Return 0.7203 as 72.0 %, with a space that does not break."""
    return f"{percent(value)}\u00a0%"


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
    return "the best single pair" if ranked.rivals else "the baseline"


def headline(best: Result, ranked: Comparison, baseline: Result, *, validated: bool) -> str:
    """Return the answer in one sentence: `best` against `baseline`, found by the search `ranked`."""
    name, other, rival = clip(str(best.combination)), clip(str(baseline.combination)), rival_words(ranked)
    chosen = f"{name}, chosen on validation sets," if validated else name
    if best.combination == baseline.combination:
        if not ranked.n_compared:
            return f"{name} is the only combination tried: {share(best.score)} right"
        place = " on the validation sets" if validated else ""
        return f"No combination beats {rival}{place}, {other}: {share(best.score)} right"
    if math.isnan(best.p):
        return f"{chosen} gets {share(best.score)} right, but has no crops in common with {other} to be compared on"
    if best.difference <= 0 and not validated:
        return f"No combination beats {rival}, {other}: {share(baseline.score)} right"
    if best.difference <= 0:
        return f"{chosen} does not beat {rival}, {other}: {share(best.score)} right against {share(baseline.score)}"
    if best.p < LEVEL:
        return f"{chosen} beats {rival}, {other}: {share(best.score)} right against {share(baseline.score)}"
    return f"{chosen} scores highest, {share(best.score)} right, but its lead over {rival}, {other}, may be chance"


FILTERS = {
    **{one.__name__: one for one in (percent, share, points, signed, p_value, p_is, stars, clip)},
    "ids": " + ".join,
    "short": report_charts.short_number,
}
