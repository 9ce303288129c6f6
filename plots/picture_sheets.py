"""Sheets of pictures: a query and its results in a row, an image and its labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plots import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG = "#00795C", "#B23A00"  # dark enough to be read as text, apart for colour-blind readers
SIDE = 240  # pixels of a picture at most


def results(
    path: Path | str,
    rows: Sequence[tuple[str, str | None, Sequence[tuple[str, str, float]]]],
    *,
    title: str = "",
    score: str = "cosine",
    judged: bool = True,
    first: str = "query",
) -> None:
    """Draw a row for each query: its picture, then the results with rank, score and label.

    rows: (picture, true label or None, [(picture, label, score)]). Where the truth is known, results are marked with a sign, a
    word and a frame, unless they are not `judged`. `first` stands over the first picture of a row.
    """
    columns = 1 + max(len(found) for _, _, found in rows)
    texts = [text for _, truth, found in rows for text in (truth or "", *(label for _, label, _ in found))]
    with figures.page(path, (1.38 * columns + 0.2, 2.2 * len(rows) + 0.3), title, texts) as (figure, clean):
        for at, (picture, truth, found) in enumerate(rows):
            axes = figure.add_subplot(len(rows), columns, at * columns + 1)
            _show(axes, picture, figures.INK, 2.2)
            axes.set_title(first, fontsize=8, color=figures.INK, loc="left", pad=3, **figures.BOLD)
            axes.set_xlabel(_label(clean, truth or Path(picture).name), fontsize=7, loc="left", labelpad=3)
            for rank, (shown, label, value) in enumerate(found, 1):
                axes = figure.add_subplot(len(rows), columns, at * columns + 1 + rank)
                right = None if truth is None or not judged else label == truth
                color = figures.INK if right is None else RIGHT if right else WRONG
                _show(axes, shown, "#BBBBBB" if right is None else color, 0.8 if right is None else 2.2)
                mark = "" if right is None else " ✓ right" if right else " ✗ wrong"
                axes.set_title(f"{rank}{mark}", fontsize=8, color=color, loc="left", pad=3, **figures.BOLD)
                caption = f"{_label(clean, label or '(no label)')}\n{score} {value:.3f}"
                axes.set_xlabel(caption, fontsize=7, loc="left", labelpad=3)


def labels(path: Path | str, rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, title: str = "") -> None:
    """Draw each picture with its labels and their confidences as bars. rows: (picture, [(label, confidence in 0..1)])."""
    columns, deepest = min(3, len(rows)), max(len(found) for _, found in rows)
    lines = -(-len(rows) // columns)
    texts = [label for _, found in rows for label, _ in found]
    with figures.page(path, (3.9 * columns, 1.62 * lines + 0.35), title, texts) as (figure, clean):
        grid = figure.add_gridspec(lines, 2 * columns, width_ratios=[1.0, 1.5] * columns)
        for at, (picture, found) in enumerate(rows):
            line, column = divmod(at, columns)
            axes = figure.add_subplot(grid[line, 2 * column])
            _show(axes, picture, "#BBBBBB", 0.8)
            axes.set_xlabel(clean(figures.short(Path(picture).name, 24)), fontsize=7, loc="left", labelpad=3)
            axes = figure.add_subplot(grid[line, 2 * column + 1])
            axes.set(xlim=(0, 1), ylim=(deepest - 0.4, -0.75), xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            for place, (label, confidence) in enumerate(found):
                color = figures.PALETTE[0] if place == 0 else "#8FB8D4"
                axes.barh(place + 0.22, 1, height=0.22, color="#EEEEEE")
                axes.barh(place + 0.22, confidence, height=0.22, color=color)
                weight: dict[str, Any] = figures.BOLD if place == 0 else {}
                text = f"{confidence:4.0%}  {clean(figures.short(label or '(no label)', 30))}"
                axes.text(0, place + 0.02, text, fontsize=7, va="bottom", **weight)


def _label(clean: Callable[[str], str], label: str) -> str:
    """Return the last name of a label path, and above it in a second line what leads to it, in a picture's width."""
    head, _, tail = label.rpartition("/")
    return "\n".join(clean(figures.short(part, 20)) for part in (tail, head) if part)


def _show(axes: Axes, picture: str, color: str, width: float) -> None:
    from imaging import images

    axes.set(xticks=[], yticks=[], anchor="NW")
    axes.spines[:].set(visible=True, color=color, linewidth=width)
    try:
        image = images.thumbnail(picture, SIDE) if picture else None
    except images.ImageError:
        image = None
    if image is None:
        axes.text(0.5, 0.5, "no picture", ha="center", va="center", fontsize=7, color="#8A8A8A")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    else:
        axes.imshow(image, interpolation="antialiased")
