"""What all figures share: a page rendered to PNG and SVG without a display, colours, fonts that can draw any label.

Colours are safe for colour-blind readers (Okabe & Ito 2008, continued by Tol's muted scheme) and never stand alone: labels are
also numbered, roles have shapes, errors have rings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import files

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

INK, OTHER = "#222222", "#CFCFCF"
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"),  # Okabe & Ito, yellow apart
    *("#882255", "#999933", "#332288", "#44AA99", "#CC6677", "#117733", "#AA4499", "#88CCEE", "#DDCC77"),  # Tol
)
BOLD: dict[str, Any] = {"weight": "bold", "family": "DejaVu Sans"}  # other fonts may have no bold face
STYLE: dict[str, Any] = {
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8A8A8A",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "plots",  # equal figures give equal files
}


def label_colors(labels: Sequence[str], shown: Sequence[str]) -> dict[str, str]:
    """Return the colour of each of `shown` among all `labels`.

    A label takes the colour of its place in the sorted list of all labels, or the next one that is free, so that pictures of the
    same labels agree; colours come twice only when more than fifteen are shown.
    """
    places = {label: place for place, label in enumerate(sorted(set(labels)))}
    colors: dict[str, str] = {}
    for label in sorted(shown):
        turned = [PALETTE[(places[label] + step) % len(PALETTE)] for step in range(len(PALETTE))]
        colors[label] = next((color for color in turned if color not in colors.values()), turned[0])
    return colors


def short(text: str, width: int) -> str:
    """Leave out the middle of a text that is too long; of a label path its end tells most."""
    if len(text) <= width:
        return text
    tail = (2 * width) // 3
    return f"{text[: width - tail - 1]}…{text[-tail:]}"


def apart(places: np.ndarray, distance: float) -> np.ndarray:
    """Return (n, d) places pushed away from each other until any two are about `distance` apart."""
    import numpy as np

    places = places + np.random.default_rng(0).normal(0, 1e-3, places.shape)  # equal places must part too
    for _ in range(200):
        gap = places[:, None] - places[None]
        length = np.linalg.norm(gap, axis=2) + np.eye(len(places)) * 1e9
        push = np.clip(distance - length, 0, None)
        if not push.any():
            break
        places = places + (gap / length[..., None] * push[..., None]).sum(axis=1) / 2
    return places


def legend(figure: Figure, entries: Sequence[tuple[str, str, str]]) -> None:
    """List (marker or "ring", colour, text) to the right of the figure, smaller where there are many."""
    from matplotlib.lines import Line2D

    handles = []
    for marker, color, text in entries:
        face = "none" if marker == "ring" else color
        shape: dict[str, Any] = {"marker": "o" if marker == "ring" else marker, "markersize": 6, "linestyle": ""}
        handles.append(Line2D([], [], color=color, markerfacecolor=face, label=text, **shape))
    size = min(8.0, 8.0 * 26 / max(1, len(entries)))
    figure.legend(
        handles=handles, loc="outside right upper", frameon=False, fontsize=size, handletextpad=0.3, alignment="left"
    )


@contextmanager
def page(
    path: Path | str, size: tuple[float, float], title: str, texts: Sequence[str] = ()
) -> Iterator[tuple[Figure, Callable[[str], str]]]:
    """Yield a figure and the function that makes one of `texts` drawable; then write `path` as .png and .svg.

    size: width and height in inches; the width grows to hold the title.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    base = path.with_suffix("") if path.suffix.lower() in (".png", ".svg") else path
    families, clean = _fonts("".join([title, *texts]))
    style: Any = {**STYLE, "font.family": families}
    with matplotlib.rc_context(style):
        width = max(size[0], 0.4 + 0.105 * len(title))
        figure = Figure((width, size[1]), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(clean(title), x=0.01, ha="left", fontsize=11)
        yield figure, clean
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            with files.whole(base.with_name(base.name + suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], metadata=metadata)


def _fonts(text: str) -> tuple[list[str], Callable[[str], str]]:
    """Return font families that together can draw `text`, and a function that writes what none can draw as \\uXXXX."""
    from matplotlib import font_manager, ft2font

    families = ["DejaVu Sans"]  # comes with matplotlib
    default = ft2font.FT2Font(font_manager.findfont("DejaVu Sans"))
    missing = {
        character for character in set(text) if character.isprintable() and not default.get_char_index(ord(character))
    }
    for file in sorted(font_manager.findSystemFonts()) if missing else []:
        try:
            font = ft2font.FT2Font(file)
            found = {character for character in missing if font.get_char_index(ord(character))}
            if found:
                font_manager.fontManager.addfont(file)
                families.append(font.family_name)
                missing -= found
        except (OSError, RuntimeError):  # a font file that cannot be read
            continue

    def clean(text: str) -> str:
        drawable = (" " if not c.isprintable() else ascii(c)[1:-1] if c in missing else c for c in text)
        return "".join(drawable)

    return families, clean
