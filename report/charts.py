"""Where the marks of the report's charts stand, in pixels; the template draws them. Nothing here reads a file or knows HTML.

Charts are laid out once per width, so that text keeps its size on a narrow screen instead of shrinking with the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from combinations.comparison import Result
    from evaluation.records import Combination


HEIGHT = 300
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 44  # margins in pixels, for tick labels and axis titles
LABEL_GAP = 22  # pixels between the numbers above the Pareto front
NUMBERED = 12  # Pareto points that are numbered at most


@dataclass(frozen=True)
class Score:
    """The accuracy of a combination and its 95% interval, in 0..1."""

    combination: Combination
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Axis:
    """A scale: the value `low` stands at pixel `start`, `high` at `stop`; logarithmic where `log`; a tick takes `room` pixels."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False
    room: float = 48

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(one) if self.log else one for one in (self.low, self.high, value))
        return round(self.start + (at - low) / (high - low) * (self.stop - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(pixel, text) of round values."""
        at_most = max(2, int(abs(self.stop - self.start) // self.room))
        if self.log:
            return [(self(value), short_number(value)) for value in _log_ticks(self.low, self.high, at_most)]
        step = next((one for one in _STEPS if (self.high - self.low) / one <= at_most + 1e-9), 1.0)
        values = [step * n for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]
        return [(self(value), f"{100 * value:.{max(0, -math.floor(math.log10(100 * step)))}f}%") for value in values]


_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)


def share_axis(values: Sequence[float], start: float, stop: float, room: float = 48) -> Axis:
    """Return the axis of shares in 0..1 that holds `values`, at least two points wide and never beyond 0 and 1."""
    low, high = min(values), max(values)
    margin = max(0.04 * (high - low), 0.01 - (high - low) / 2)
    return Axis(max(0.0, low - margin), min(1.0, high + margin), start, stop, room=room)


def _log_ticks(low: float, high: float, at_most: int) -> list[float]:
    powers = [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for steps in ((1, 2, 5), (1, 3), (1,)):
        values = [power * step for power in powers for step in steps if low <= power * step <= high]
        if len(values) <= at_most:
            break
    values = values[:: -(-len(values) // at_most)] if values else []
    return values if len(values) > 1 else [low * 1.001, high / 1.001]


def short_number(value: float) -> str:
    """Return 2,500,000 as 2.5 M: three digits and a unit."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def path(points: Sequence[tuple[float, float]]) -> str:
    """Return the points as the lines of an SVG path."""
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def ribbon(at: Sequence[float], y: Axis, low: Sequence[float], high: Sequence[float]) -> str:
    """Return the area from `low` to `high` at these places across as an SVG path."""
    upper, lower = ([(px, y(value)) for px, value in zip(at, values, strict=True)] for values in (high, low))
    return path(upper + lower[::-1]) + "Z"


def _dots(results: Sequence[Result], x: Axis, y: Axis) -> str:
    """Return an SVG path with one dot per pixel that holds a result: as small as the picture, however many there are."""
    pixels = sorted({(round(x(_cost(one))), round(y(one.score))) for one in results})
    return "".join(f"M{across} {down}h0" for across, down in pixels)


def _cost(result: Result) -> int:
    return max(1, result.cost.operations)


@dataclass(frozen=True)
class FrontPoint:
    """A numbered point of the Pareto front: all results of one cost and accuracy."""

    number: int
    results: list[Result]


def pareto_points(results: Sequence[Result]) -> list[FrontPoint]:
    """Return the Pareto front by rising cost, thinned evenly to NUMBERED points; the best stays."""
    places: dict[tuple[int, float], list[Result]] = {}
    for one in results:
        if one.pareto:
            places.setdefault((_cost(one), one.score), []).append(one)
    front = [places[place] for place in sorted(places)]
    kept = sorted({round(at * (len(front) - 1) / max(1, NUMBERED - 1)) for at in range(NUMBERED)} if front else ())
    return [FrontPoint(number, front[at]) for number, at in enumerate(kept, 1)]


@dataclass(frozen=True)
class CostChart:
    """Accuracy against cost: dots of pairs and of combinations, the front as steps, its numbers with their dots."""

    width: int
    height: int
    x: Axis
    y: Axis
    pairs: str
    combinations: str
    front: str
    numbers: list[tuple[float, float, float, float, int]]  # x and y of the number, x and y of its dot, the number


def cost_chart(results: Sequence[Result], width: int) -> CostChart:
    """Lay out accuracy against multiply-adds per decision, on a logarithmic axis."""
    costs, scores = [_cost(one) for one in results], [one.score for one in results]
    spread = max(1.25, (max(costs) / min(costs)) ** 0.06)
    x = Axis(min(costs) / spread, max(costs) * spread, LEFT, width - RIGHT, log=True)
    y = share_axis(scores, HEIGHT - BOTTOM, TOP + LABEL_GAP, room=38)
    steps: list[tuple[float, float]] = []
    for column, down in sorted({(round(x(_cost(one))), -round(y(one.score))) for one in results if one.pareto}):
        steps += [(column, steps[-1][1]), (column, -down)] if steps else [(column, -down)]
    steps += [(x.stop, steps[-1][1])] if steps else []
    points = pareto_points(results)
    dots = [(x(_cost(one.results[0])), y(one.results[0].score)) for one in points]
    across = _apart([dot[0] for dot in dots], LEFT + 8, width - RIGHT - 8)
    numbers = [
        (at, max(TOP - 4.0, dy - 18), dx, dy, one.number)
        for at, (dx, dy), one in zip(across, dots, points, strict=True)
    ]
    pairs = [one for one in results if one.combination.is_pair]
    others = [one for one in results if not one.combination.is_pair]
    return CostChart(width, HEIGHT, x, y, _dots(pairs, x, y), _dots(others, x, y), path(steps), numbers)


def _apart(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """Return rising places near the rising `wanted`, at least LABEL_GAP apart and within low..high where there is room."""
    places: list[float] = []
    for at in wanted:
        places.append(max(at, low, places[-1] + LABEL_GAP if places else low))
    for i in reversed(range(len(places))):
        places[i] = min(places[i], high if i == len(places) - 1 else places[i + 1] - LABEL_GAP)
    return places


@dataclass(frozen=True)
class PaddingChart:
    """Accuracy against padding: the ribbon of the intervals, the line, its dots, and the best combination as a level."""

    width: int
    height: int
    y: Axis
    left: float
    right: float
    ribbon: str
    line: str
    dots: list[tuple[float, float]]
    ticks: list[tuple[float, str]]
    best: float
    best_at_end: bool  # whether its name stands at the right end, where the line is farther away, or at the left


def padding_chart(numbers: Sequence[float], pairs: Sequence[Score], best: float, width: int) -> PaddingChart:
    """Lay out the same-ID pairs over their IDs as `numbers`, which rise, at least two."""
    x = Axis(numbers[0], numbers[-1], LEFT + 18, width - RIGHT - 14)
    y = share_axis([value for one in pairs for value in (one.low, one.high)] + [best], HEIGHT - BOTTOM, TOP, room=38)
    at = [x(number) for number in numbers]
    band = ribbon(at, y, [one.low for one in pairs], [one.high for one in pairs])
    dots = [(px, y(one.score)) for px, one in zip(at, pairs, strict=True)]
    ticks: list[tuple[float, str]] = []
    for px, one in zip(at, pairs, strict=True):
        text = one.combination.query_ids[0]
        if not ticks or px - ticks[-1][0] >= 5 * (len(text) + len(ticks[-1][1])):
            ticks.append((px, text))
    level = y(best)
    at_end = abs(dots[-1][1] - level) >= abs(dots[0][1] - level)
    outer = LEFT, width - RIGHT
    return PaddingChart(width, HEIGHT, y, *outer, band, path(dots), dots, ticks, level, at_end)
