"""The report's words: numbers as they are read, and the answer in one sentence."""

from __future__ import annotations

import math

from common import charts
from common.comparison import Comparison, Result

LEVEL = 0.05  # a corrected p below it counts as more than chance


def percent(value: float) -> str:
    """Return 0.7203 as 72.0."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def share(value: float) -> str:
    """Return 0.7203 as 72.0 %, with a space that does not break."""
    return f"{percent(value)}\u00a0%"


def points(difference: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return "–" if math.isnan(difference) else f"{100 * difference:+.1f}".replace("-", "−")


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


def headline(best: Result, baseline: Result, rival: str, *, validated: bool) -> str:
    """Return the answer in one sentence."""
    name, other = clip(str(best.combination)), clip(str(baseline.combination))
    score, low = share(best.score), share(baseline.score)
    chosen = f"{name}, chosen on validation sets," if validated else name
    if best.combination == baseline.combination:
        return f"No combination beats {rival}, {other}: {low} right"
    if math.isnan(best.p):
        return f"{chosen} gets {score} right, but has no crops in common with {rival}, {other}, to be compared on"
    if best.difference <= 0:
        subject = chosen if validated else "No combination"
        return f"{subject} {'does not beat' if validated else 'beats'} {rival}, {other}: {low} right"
    if best.p < LEVEL:
        return f"{chosen} beats {rival}, {other}: {score} right against {low}"
    return f"{chosen} scores highest, {score} right, but its lead over {rival}, {other}, may be chance"


FILTERS = {
    **{one.__name__: one for one in (percent, share, points, signed, p_value, p_is, stars, clip)},
    "ids": " + ".join,
    "short": charts.short_number,
}
