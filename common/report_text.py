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
    "short": charts.short_number,
}
