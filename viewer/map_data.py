"""What a map shows: which rows, in which places, as which groups of colour and symbol."""

from __future__ import annotations

import base64
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from common.labels import stratified_sample
from common.messages import count
from plots.figures import label_colors
from viewer.parquet_rows import ParquetRows

# Points that a map of so many dimensions draws in well under 100 ms without a graphics card.
LIMITS = {2: 50_000, 3: 20_000}
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


def passing(file: ParquetRows, id: str | None, filters: Filters) -> np.ndarray:
    """Return (n,) bool: the rows of the set `id` (None: of all) that pass the filters."""
    keep = np.ones(file.n, bool)
    wanted: dict[str, Sequence[str]] = {"id": [id] if id is not None else [], "split": filters.splits}
    wanted |= {"padding": filters.paddings, "label": filters.labels, "correct": ["wrong"] if filters.wrong else []}
    for column, values in wanted.items():
        if values:
            if column != "label" and column not in file.columns:
                return np.zeros(file.n, bool)
            keep &= file.having(column, values)
    if filters.flipped:
        keep &= flips(file)
    return keep & file.containing(filters.text.strip()) if filters.text.strip() else keep


def flips(file: ParquetRows) -> np.ndarray:
    """Return (n,) bool: rows that a combination rescues or breaks."""
    return file.having("flip", ("rescued", "broken")) if "flip" in file.columns else np.zeros(file.n, bool)


def sampled(file: ParquetRows, keep: np.ndarray, limit: int) -> np.ndarray:
    """Return the rows where `keep` is true, or a sample of them stratified by label."""
    rows = np.flatnonzero(keep)
    return rows if len(rows) <= limit else rows[stratified_sample(file.codes("label")[0][rows], limit)]


def grouped(parts: Sequence[tuple[ParquetRows, np.ndarray]], column: str) -> tuple[list[Group], list[np.ndarray]]:
    """Return the legend of all parts together, and each row's group (uint8). Numbers of many values are put into bins."""
    numbers = [file.numbers(column) if column in file.columns else None for file, _ in parts]
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
    for number, (low, high) in enumerate(pairwise(edges)):
        color = RAMP[round(number * (BINS - 1) / max(1, len(edges) - 2))]
        light, dark = (on(color, ground) for ground in GROUND)
        groups.append(Group(f"{low:.3g} to {high:.3g}", int(counts[number]), light, dark, number % 6))
    if counts[-1]:
        groups.append(Group("(none)", int(counts[-1]), on("#8a94a0", "light"), on("#8a94a0", "dark"), REST))
    return groups, [part.astype(np.uint8) for part in bins]


def _named(parts: Sequence[tuple[ParquetRows, np.ndarray]], column: str) -> tuple[list[Group], list[np.ndarray]]:
    coded, counts = [], Counter[str]()
    all_names: set[str] = set()  # of all rows, so that a filter changes no colour
    for file, rows in parts:
        has_column = column in file.columns or column == "label" or column.startswith("level:")
        codes, names = file.codes(column) if has_column else (np.zeros(file.n, np.int32), ["(none)"])
        coded.append((codes[rows], names))
        all_names |= set(names)
        for code, n in enumerate(np.bincount(codes[rows], minlength=len(names)).tolist()):
            counts[names[code]] += n
    counts = +counts  # without the zeros
    shown = list(counts)
    if len(counts) > GROUPS:
        shown = sorted(counts, key=lambda name: (-counts[name], name))[: GROUPS - 1]
    order = [name for _, names in coded for name in names]
    shown.sort(key=order.index)
    are_roles = all_names <= set(ROLES)
    colors = {} if are_roles else label_colors(sorted(all_names), shown)
    groups = []
    for number, name in enumerate(shown):
        color, symbol = ROLES[name] if are_roles else (colors[name], SYMBOLS[number % len(SYMBOLS)])
        groups.append(Group(name, counts[name], on(color, "light"), on(color, "dark"), symbol))
    if left := len(counts) - len(shown):
        rest = counts.total() - sum(counts[name] for name in shown)
        groups.append(Group(f"{OTHER} ({left:,} more)", rest, on("#9aa3ad", "light"), on("#77828e", "dark"), REST))
    group_of = {name: number for number, name in enumerate(shown)}
    lookup = [np.array([group_of.get(name, len(shown)) for name in names], np.uint8) for _, names in coded]
    return groups, [table[codes] for (codes, _), table in zip(coded, lookup, strict=True)]


def scene(
    file: ParquetRows, rows: np.ndarray, groups: np.ndarray, keys: np.ndarray, legend: Sequence[Group], dimensions: int
) -> dict[str, Any]:
    """Return what map.js draws: arrays as base64, places scaled so that the file's whole map fills -1 to 1."""
    places, _ = file.map(dimensions)
    low, high = places.min(axis=0), places.max(axis=0)
    half = (high - low) / 2
    half = np.full(3, half.max()) if dimensions == 3 else half  # a map that turns must not be stretched
    scaled = ((places[rows] - (low + high) / 2) / np.where(half == 0, 1, half)).astype(np.float32)
    axes = {axis: _base64(values) for axis, values in zip("xyz", scaled.T, strict=False)}
    palette = [
        {"light": group.light, "dark": group.dark, "symbol": group.symbol, "rear": group.symbol == REST}
        for group in legend
    ]
    arrays: Mapping[str, np.ndarray] = {"rows": rows.astype(np.int32), "keys": keys[rows], "groups": groups}
    return {
        **{name: _base64(values) for name, values in arrays.items()},
        **axes,
        "n": len(rows),
        "three": dimensions == 3,
        "palette": palette,
        "frame": f"{file.path} {dimensions}",
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


class Map:
    """What one map shows: `rows` of a file, a sample where more pass the filters than it can draw."""

    def __init__(self, file: ParquetRows, keys: np.ndarray, id: str | None, filters: Filters, dimensions: int) -> None:
        """keys (n,) int32: of the file's rows, see ViewerData. id: the set that is shown, None for all."""
        self.file, self._keys, self._dimensions = file, keys, dimensions
        keep = passing(file, id, filters)
        self._n_passing = int(keep.sum())
        self._n_all = file.n if id is None else int(file.having("id", (id,)).sum())
        self.rows = sampled(file, keep, LIMITS[dimensions])

    def scene(self, groups: np.ndarray, legend: Sequence[Group]) -> dict[str, Any]:
        """Return what map.js draws."""
        return scene(self.file, self.rows, groups, self._keys, legend, self._dimensions)

    def status(self) -> str:
        """Return `40 points, all shown`, or how many of them are."""
        points = count(len(self.rows), "point")
        return f"{points} of {self._n_all:,} shown" if len(self.rows) < self._n_all else f"{points}, all shown"

    def notes(self) -> list[str]:
        """Return what must be said of this map."""
        notes = []
        if self.file.has_map and (note := self.file.map(self._dimensions)[1]):
            notes.append(note)
        if len(self.rows) < self._n_passing:
            notes.append(
                f"{self._n_passing:,} points pass; the map shows {len(self.rows):,}, a sample in which every label keeps its "
                f"share. Filter to see all of fewer, or see all at once with `{atlas_command(self.file)}`"
            )
        return notes


def atlas_command(file: ParquetRows) -> str:
    """Return the command that shows a whole file in embedding-atlas."""
    flags = {
        " --vector embedding": bool(file.dim),
        " --x projection_x --y projection_y": file.has_map,
        " --neighbors neighbors": file.has_neighbours,
        " --image image": file.pictures.stored,
    }
    return f"embedding-atlas {shlex.quote(str(file.path))}{''.join(flag for flag, wanted in flags.items() if wanted)}"
