"""The section of the report about more reference photos: the points of a learning curve, and where its marks stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.references import Curve, CurvePoint
from report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, Axis, path, ribbon, share_axis
from report.tables import WIDTHS


@dataclass(frozen=True)
class CurveChart:
    """Accuracy against reference photos per class, on a logarithmic axis: intervals and draws as ribbons, the line, its dots."""

    width: int
    height: int
    y: Axis
    left: float
    right: float
    ribbon: str
    draws: str
    line: str
    dots: list[tuple[float, float]]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class LearningCurve:
    """charts: by name of their width; none where one photo per class is all that there is. smallest_gain: NaN for not known."""

    curve: Curve
    charts: dict[str, CurveChart]
    smallest_gain: float


def learning_curve(curve: Curve, smallest_gain: float) -> LearningCurve:
    """Return what the page shows of a curve; `smallest_gain` in 0..1: what the query photos can show."""
    widths = WIDTHS if len(curve.points) > 1 else {}
    return LearningCurve(
        curve, {name: curve_chart(curve.points, width) for name, width in widths.items()}, smallest_gain
    )


def curve_chart(points: Sequence[CurvePoint], width: int) -> CurveChart:
    """Lay out a curve of at least two points."""
    x = Axis(points[0].photos, points[-1].photos, LEFT + 18, width - RIGHT - 14, log=True)
    shares = [value for one in points for value in (one.low, one.high, one.low_draw, one.high_draw)]
    y = share_axis(shares, HEIGHT - BOTTOM, TOP, room=38)
    at = [x(one.photos) for one in points]
    dots = [(px, y(one.accuracy)) for px, one in zip(at, points, strict=True)]
    ticks: list[tuple[float, str]] = []
    for px, one in reversed(list(zip(at, points, strict=True))):  # the last, all photos, is always named
        if not ticks or ticks[-1][0] - px >= 24:
            ticks.append((px, str(one.photos)))
    intervals = ribbon(at, y, [one.low for one in points], [one.high for one in points])
    draws = ribbon(at, y, [one.low_draw for one in points], [one.high_draw for one in points])
    return CurveChart(width, HEIGHT, y, LEFT, width - RIGHT, intervals, draws, path(dots), dots, ticks[::-1])
