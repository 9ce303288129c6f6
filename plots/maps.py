"""Maps of embeddings and curves of trainings, each written as PNG and SVG."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plots import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = {"reference": "o", "query": "^"}


def embedding_map(
    path: Path | str,
    points: np.ndarray,
    labels: Sequence[str] | np.ndarray,
    *,
    top_n: int = 10,
    marker_by: Sequence[str] | np.ndarray | None = None,
    correct: np.ndarray | None = None,
    title: str = "",
) -> None:
    """Draw (n, 2) coordinates as a map, or (n, 3) as three, coloured by (n,) labels.

    The `top_n` most frequent labels have colours and numbers, the rest is grey, OTHER, behind them. marker_by: (n,) "reference"
    or "query", shown by shape. correct: (n,) bool; what is False gets a ring.
    """
    labels = np.asarray(labels, dtype=str)
    roles = np.full(len(labels), "reference") if marker_by is None else np.asarray(marker_by, dtype=str)
    wrong = np.zeros(len(labels), bool) if correct is None else ~np.asarray(correct, bool)
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shown = sorted(np.lexsort((names, -counts))[:top_n].tolist())
    chosen = figures.label_colors(names.tolist(), names[shown].tolist())
    colors = [chosen.get(name, figures.OTHER) for name in names]
    sides = [(0, 1)] if points.shape[1] == 2 else [(0, 1), (0, 2), (1, 2)]
    extent = np.ptp(points, axis=0) if len(points) else np.ones(points.shape[1])
    height = 5.6 * float(np.clip(max(extent[y] / (extent[x] or 1) for x, y in sides), 0.7, 1.0))
    with figures.page(path, (5.6 * len(sides) + 3.2, height), title, names[shown].tolist()) as (figure, clean):
        for column, (x, y) in enumerate(sides, 1):
            axes = figure.add_subplot(1, len(sides), column)
            axes.set_title(f"{'xyz'[x]} and {'xyz'[y]}" if len(sides) > 1 else "")
            _scatter(axes, points[:, [x, y]], codes, colors, shown, roles, wrong)
        entries = []
        for place, code in enumerate(shown, 1):
            name = figures.short(clean(names[code]) or "(no label)", 38)
            entries.append(("o", colors[code], f"{place:>2}  {name}  {counts[code]:,}"))
        if rest := len(names) - len(shown):
            entries.append(("o", figures.OTHER, f"OTHER: {rest:,} more  {counts.sum() - counts[shown].sum():,}"))
        if len(kinds := sorted(set(roles.tolist()), key=[*MARKERS, *roles].index)) > 1:
            entries += [(MARKERS.get(role, "s"), "#8A8A8A", f"{role}  {np.sum(roles == role):,}") for role in kinds]
        if correct is not None:
            entries.append(("ring", figures.INK, f"wrong  {wrong.sum():,}"))
        figures.legend(figure, entries)
        for axes in figure.axes:
            _number(axes, colors, shown)


def _scatter(
    axes: Axes,
    points: np.ndarray,
    codes: np.ndarray,
    colors: list[str],
    shown: list[int],
    roles: np.ndarray,
    wrong: np.ndarray,
) -> None:
    """Draw one map: OTHER behind, then the labels shown, mixed so that none lies on top, then rings around what is wrong."""
    from matplotlib.colors import to_rgba_array

    size = float(np.clip(16_000 / max(1, len(points)), 4, 34))
    tints, known = to_rgba_array(colors), np.isin(codes, shown)
    mixed = np.random.default_rng(0).permutation(len(points))
    look: dict[str, Any] = {"rasterized": len(points) > 3000}  # or the SVG would hold a path for each point
    axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    axes.spines[:].set(visible=True, color="#DDDDDD")
    axes.margins(0.03)
    for front, role in itertools.product((False, True), np.unique(roles)):
        rows = mixed[(known[mixed] == front) & (roles[mixed] == role)]
        look |= {"marker": MARKERS.get(role, "s"), "linewidths": 0.3 * front, "alpha": 0.9 if front else 0.7}
        x, y = points[rows].T
        axes.scatter(x, y, s=size, c=tints[codes[rows]], edgecolors="white", zorder=1 + front, **look)
    look |= {"marker": "o", "linewidths": 0.5, "alpha": 1}
    axes.scatter(points[wrong, 0], points[wrong, 1], s=size * 2, c="none", edgecolors=figures.INK, zorder=3, **look)
    for code in shown:
        of_label = points[codes == code]
        x, y = of_label[np.linalg.norm(of_label - np.median(of_label, axis=0), axis=1).argmin()]
        axes.text(float(x), float(y), "", ha="center", va="center", fontsize=8, zorder=5, **figures.BOLD)


def _number(axes: Axes, colors: list[str], shown: list[int]) -> None:
    """Put each label's number where its points are, the numbers moved apart so that each can be read."""
    axes.figure.canvas.draw()  # only the layout decides where data lie on paper
    places = axes.transData.transform([text.get_position() for text in axes.texts] or np.empty((0, 2)))
    places = figures.apart(places, 16 * axes.figure.dpi / 72)  # type: ignore[union-attr]
    for number, (text, place, code) in enumerate(zip(axes.texts, places, shown, strict=True), 1):
        text.set(text=str(number), position=axes.transData.inverted().transform(place))
        text.set_bbox({"boxstyle": "circle,pad=0.2", "fc": "white", "ec": colors[code], "lw": 1.5})


def training_curve(path: Path | str, rows: list[dict[str, float]], score: str, title: str) -> None:
    """Draw the rows of training.csv, the chosen one marked, as PNG and SVG.

    The first column is what goes across (epochs, or strengths of a regression); `score` says what the column of that name is.
    """
    across = next(iter(rows[0]))
    best = next(row for row in rows if row["chosen"])
    with figures.page(path, (7.2, 3.0), title) as (figure, _):
        for place, (name, label) in enumerate((("loss", "loss"), ("score", f"{score}, validation")), 1):
            axes = figure.add_subplot(1, 2, place)
            x, y = ([row[column] for row in rows] for column in (across, name))
            axes.plot(x, y, "o-", color=figures.PALETTE[place - 1], markersize=3, linewidth=1.2)
            axes.plot(best[across], best[name], "o", markerfacecolor="none", markeredgecolor=figures.INK, markersize=9)
            axes.annotate(
                f"{best[name]:.3f}", (best[across], best[name]), (0, 9), textcoords="offset points", ha="center"
            )
            axes.set(xlabel=across, ylabel=label, xscale="log" if across == "strength" else "linear")
            if across == "strength":
                axes.xaxis.set_major_formatter("{x:g}")
            axes.margins(y=0.18)
            axes.grid(alpha=0.25, linewidth=0.5)
