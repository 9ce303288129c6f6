"""A heat map of the similarity between classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plots import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def similarity_heatmap(path: Path | str, matrix: np.ndarray, labels: Sequence[str], *, title: str = "") -> None:
    """Draw the (n_class, n_class) mean cosines between classes, like beside like (average linkage).

    Up to 12 classes get their numbers; more have names on the left only, every n-th where there is no room, and a list of the pairs
    most alike. NaN (within a class of one row) stays grey.
    """
    n = len(matrix)
    order = _cluster_order(matrix)
    values, names = matrix[np.ix_(order, order)], [str(labels[at]) for at in order]
    few, every = n <= 12, -(-n // 60)
    side = 0.6 * n + 0.6 if few else float(np.clip(0.24 * n, 5, 7))
    widest = min(30, max(map(len, names), default=1)) * 0.08
    size = (side + widest + 1.0, side + widest + 0.8) if few else (side + widest + 4.0, side + 0.4)
    with figures.page(path, size, title, names) as (figure, clean):
        grid = figure.add_gridspec(1, 1 if few else 2, width_ratios=None if few else [side + widest + 1.0, 3.0])
        axes = figure.add_subplot(grid[0])
        axes.set_anchor("W")
        _cells(axes, values, "mean cosine")
        axes.set_aspect("equal")
        shown = [figures.short(clean(name), 30) for name in names[::every]]
        places = np.arange(0, n, every) + 0.5
        size_of_names = float(np.clip(side * 72 * every / max(1, n) * 0.75, 4.5, 8.5))
        axes.set_yticks(places, shown, fontsize=size_of_names)
        axes.set_xticks(places if few else [], shown if few else [], rotation=90, fontsize=8.5)
        axes.tick_params(length=0 if every == 1 else 2)
        if few:
            _annotate(axes, values)
        else:
            thinned = "" if every == 1 else f"; 1 name in {every} is shown"
            axes.set_xlabel(f"{n:,} classes, in the order of the rows{thinned}", fontsize=8)
            _list_pairs(figure.add_subplot(grid[1]), _most_alike(values, names), clean)


def _list_pairs(axes: Axes, pairs: list[tuple[float, str, str]], clean: Callable[[str], str]) -> None:
    axes.set(xlim=(0, 1), ylim=(14, -1))
    axes.set_axis_off()
    axes.text(0, -0.6, "Classes most alike", fontsize=8.5, va="center")
    for row, (value, first, second) in enumerate(pairs):
        axes.text(0, row + 0.5, f"{value:.2f}", fontsize=8, va="center", **figures.BOLD)
        names = "\n".join(figures.short(clean(name), 38) for name in (first, second))
        axes.text(0.15, row + 0.5, names, fontsize=7, va="center")


def _cells(axes: Axes, values: np.ndarray, bar: str) -> None:
    """Draw the cells, NaN grey, with a colour bar of this label."""
    import seaborn

    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    shape = {"shrink": 0.5, "aspect": 25, "pad": 0.02, "label": bar}
    look: dict[str, Any] = {"cmap": _light(), "vmin": low, "vmax": high, "cbar_kws": shape}
    # Pixels, not shapes: else an SVG of 500 classes has 250,000 of them.
    seaborn.heatmap(values, ax=axes, xticklabels=False, yticklabels=False, rasterized=True, **look)
    axes.set_facecolor("#EEEEEE")
    scale = axes.collections[0].colorbar.ax  # type: ignore[union-attr]
    scale.tick_params(labelsize=7, length=2)
    scale.set_ylabel(bar, fontsize=8)


def _cluster_order(matrix: np.ndarray) -> np.ndarray:
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(matrix) < 3:
        return np.arange(len(matrix))
    distance = np.clip(1 - np.nan_to_num((matrix + matrix.T) / 2), 0, 2)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=len(matrix) <= 600))


def _most_alike(values: np.ndarray, names: list[str], count: int = 12) -> list[tuple[float, str, str]]:
    rows, columns = np.triu_indices(len(values), 1)
    pairs = np.nan_to_num(values[rows, columns], nan=-2)
    best = np.argsort(-pairs, kind="stable")[:count]
    return [(float(pairs[at]), names[rows[at]], names[columns[at]]) for at in best]


def _annotate(axes: Axes, values: np.ndarray) -> None:
    """Write the values into the cells of a heat map."""
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.2f}" if np.isfinite(value) else "–"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=9)


def _light() -> Any:
    """White to a blue that black numbers can be read on: little ink, even steps of lightness, safe for colour-blind readers."""
    from matplotlib.colors import LinearSegmentedColormap

    steps = ["#FFFFFF", "#E3EEF7", "#B5D4EA", "#7BB5DB", "#3B8FC8"]
    return LinearSegmentedColormap.from_list("light", steps).with_extremes(bad="#EEEEEE")
