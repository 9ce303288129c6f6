"""The picture of a training: its loss, and the score by which the model was chosen."""

from __future__ import annotations

from pathlib import Path

from common import figures


def draw(path: Path | str, rows: list[dict[str, float]], score: str, title: str) -> None:
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
