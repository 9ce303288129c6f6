"""What a map shows: which rows, in which places, as which groups of colour and symbol."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from common.labels import stratified_sample
from plots.figures import label_colors
from viewer.parquet_rows import Points

LIMITS = {
    2: 50_000,
    3: 20_000,
}  # points that a map of so many dimensions draws in well under 100 ms without a graphics card
GROUPS = 15  # colours at a time, the last for all OTHER classes
BINS = 7
SYMBOLS = (0, 1, 2, 3, 4, 5, 7)  # of map.js and view.css, for classes
REST = 6  # the ring: what is OTHER, not scored, or has no value; it is drawn below the rest
ROLES = {"right": ("#0068a5", 0), "wrong": ("#b54400", 5), "not scored": ("#8a94a0", REST)}
RAMP = ("#440154", "#443983", "#31688e", "#21918c", "#35b779", "#90d743", "#fde725")  # viridis
OTHER = "OTHER"
GROUND = {"light": "#fbfcfd", "dark": "#12161a"}  # of the maps
CONTRAST = 3.0  # at least, between a symbol and its ground (WCAG 2.1, 1.4.11)


@dataclass(frozen=True)
class Group:
    """An entry of the legend: its name, number of points, colour on light and on dark ground, symbol 0 to 7."""

    name: str
    count: int
    light: str
    dark: str
    symbol: int


@dataclass(frozen=True)
class Filters:
    """What a row must be to be shown; empty is anything. labels, splits and paddings are names of their columns."""

    labels: Sequence[str] = ()
    splits: Sequence[str] = ()
    paddings: Sequence[str] = ()
    wrong: bool = False
    flipped: bool = False
    text: str = ""


def passing(points: Points, id: str | None, filters: Filters) -> np.ndarray:
    """Return (n,) bool: the rows of the set `id` (None: of all) that pass the filters."""
    keep = np.ones(points.n, bool)
    wanted: dict[str, Sequence[str]] = {"id": [id] if id is not None else [], "split": filters.splits}
    wanted |= {"padding": filters.paddings, "label": filters.labels, "correct": ["wrong"] if filters.wrong else []}
    for column, values in wanted.items():
        if values:
            if column != "label" and column not in points.columns:
                return np.zeros(points.n, bool)
            codes, names = points.codes(column)
            keep &= np.isin(codes, [at for at, name in enumerate(names) if name in values])
    if filters.flipped:
        keep &= flips(points)
    return keep & points.containing(filters.text.strip()) if filters.text.strip() else keep


def flips(points: Points) -> np.ndarray:
    """Return (n,) bool: rows that a combination rescues or breaks."""
    if "flip" not in points.columns:
        return np.zeros(points.n, bool)
    codes, names = points.codes("flip")
    return np.isin(codes, [at for at, name in enumerate(names) if name in ("rescued", "broken")])


def sampled(points: Points, keep: np.ndarray, limit: int) -> np.ndarray:
    """Return the rows where `keep` is true, or a sample of them stratified by label."""
    rows = np.flatnonzero(keep)
    return rows if len(rows) <= limit else rows[stratified_sample(points.codes("label")[0][rows], limit)]


def grouped(parts: Sequence[tuple[Points, np.ndarray]], column: str) -> tuple[list[Group], list[np.ndarray]]:
    """Return the legend of all parts together, and each row's group (uint8). Numbers of many values are put into bins."""
    numbers = [points.numbers(column) if column in points.columns else None for points, _ in parts]
    if all(values is not None for values in numbers):
        values = [v[rows] for v, (_, rows) in zip(numbers, parts, strict=True) if v is not None]
        whole = np.concatenate(values)
        if len(np.unique(whole[np.isfinite(whole)])) > GROUPS:
            return _binned(values)
    return _named(parts, column)


def _binned(values: list[np.ndarray]) -> tuple[list[Group], list[np.ndarray]]:
    whole = np.concatenate(values)
    finite = whole[np.isfinite(whole)]
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, BINS + 1)))
    bins = [np.where(np.isfinite(v), np.searchsorted(edges[1:-1], v, side="right"), len(edges) - 1) for v in values]
    counts = np.bincount(np.concatenate(bins), minlength=len(edges))
    groups = []
    for at, (low, high) in enumerate(pairwise(edges)):
        light, dark = (on(RAMP[round(at * (BINS - 1) / max(1, len(edges) - 2))], ground) for ground in GROUND)
        groups.append(Group(f"{low:.3g} to {high:.3g}", int(counts[at]), light, dark, at % 6))
    if counts[-1]:
        groups.append(Group("(none)", int(counts[-1]), on("#8a94a0", "light"), on("#8a94a0", "dark"), REST))
    return groups, [part.astype(np.uint8) for part in bins]


def _named(parts: Sequence[tuple[Points, np.ndarray]], column: str) -> tuple[list[Group], list[np.ndarray]]:
    coded, counts = [], dict[str, int]()
    known: set[str] = set()  # in all rows, so that a filter changes no colour
    for points, rows in parts:
        there = column in points.columns or column == "label" or column.startswith("level:")
        codes, names = points.codes(column) if there else (np.zeros(points.n, np.int32), ["(none)"])
        coded.append((codes[rows], names))
        known |= set(names)
        for at, count in enumerate(np.bincount(codes[rows], minlength=len(names)).tolist()):
            if count:
                counts[names[at]] = counts.get(names[at], 0) + count
    shown = list(counts)
    if len(counts) > GROUPS:
        shown = sorted(counts, key=lambda name: (-counts[name], name))[: GROUPS - 1]
    order = [name for _, names in coded for name in names]
    shown.sort(key=order.index)
    colors = label_colors(sorted(known), shown) if known - set(ROLES) else {}
    groups = []
    for at, name in enumerate(shown):
        color, symbol = ROLES[name] if known <= set(ROLES) else (colors[name], SYMBOLS[at % len(SYMBOLS)])
        groups.append(Group(name, counts[name], on(color, "light"), on(color, "dark"), symbol))
    if len(counts) > len(shown):
        left = len(counts) - len(shown)
        rest = sum(counts.values()) - sum(counts[name] for name in shown)
        groups.append(Group(f"{OTHER} ({left:,} more)", rest, on("#9aa3ad", "light"), on("#77828e", "dark"), REST))
    places = {name: at for at, name in enumerate(shown)}
    lookup = [np.array([places.get(name, len(shown)) for name in names], np.uint8) for _, names in coded]
    return groups, [table[codes] for (codes, _), table in zip(coded, lookup, strict=True)]


def scene(
    points: Points, rows: np.ndarray, groups: np.ndarray, keys: np.ndarray, legend: Sequence[Group], dimensions: int
) -> dict[str, Any]:
    """Return what map.js draws: arrays as base64, places scaled so that the file's whole map fills -1 to 1."""
    places, _ = points.map(dimensions)
    low, high = places.min(axis=0), places.max(axis=0)
    half = (high - low) / 2
    half = np.full(3, half.max()) if dimensions == 3 else half  # what is turned must not be stretched
    scaled = ((places[rows] - (low + high) / 2) / np.where(half == 0, 1, half)).astype(np.float32)
    axes = {axis: _base64(values) for axis, values in zip("xyz", scaled.T, strict=False)}
    palette = [
        {"light": one.light, "dark": one.dark, "symbol": one.symbol, "rear": one.symbol == REST} for one in legend
    ]
    arrays: Mapping[str, np.ndarray] = {"rows": rows.astype(np.int32), "keys": keys[rows], "groups": groups}
    return {
        **{name: _base64(values) for name, values in arrays.items()},
        **axes,
        "n": len(rows),
        "three": dimensions == 3,
        "palette": palette,
        "frame": f"{points.path} {dimensions}",
    }


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def on(color: str, ground: str) -> str:
    """Return the colour, mixed with black on light ground and with white on dark as far as CONTRAST needs."""
    goal = 0 if ground == "light" else 255
    parts = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
    for step in range(20):
        mixed = [round(part + (goal - part) * step / 20) for part in parts]
        text = "#" + "".join(f"{part:02x}" for part in mixed)
        if contrast(text, GROUND[ground]) >= CONTRAST:
            break
    return text


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.1)."""
    light = sorted((_luminance(one), _luminance(other)))
    return (light[1] + 0.05) / (light[0] + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
