"""What else the numbers of a file's boxes may mean: other units, other edges, photos turned or of another size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from annotations.fields import PER_SIDE

READINGS = {
    "xywh": "x, y, width, height",
    "xyxy": "x1, y1, x2, y2",
    "cxcywh": "centre x, centre y, width, height",
    "yxyx": "y1, x1, y2, x2",
}
_SWAPPED = [1, 0, 3, 2]  # of the four numbers, as yxyx has them
_UNLIKELY = 1e-4  # a chance below which boxes are suspected to mean something else


@dataclass(frozen=True)
class Boxes:
    """The boxes of one file: `values` (n, 4) left, top, right, bottom as the file has them, in `units` (n,).

    `stored`, `turned` and `declared` (n, 2) are widths and heights of their photos; 0 where none is declared.
    """

    values: np.ndarray
    units: np.ndarray
    stored: np.ndarray
    turned: np.ndarray
    declared: np.ndarray


@dataclass(frozen=True)
class _Reading:
    """Another meaning of a file's numbers: the edges (n, 4) in pixels, how to say it, and the options that choose it."""

    edges: np.ndarray
    words: str
    options: str


def leaves(edges: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return (n,) bool: which boxes leave their frame by more than a pixel and a hundredth of its side."""
    slack = np.maximum(1.0, frames / 100)
    return np.logical_or((edges[:, :2] < -slack).any(axis=1), (edges[:, 2:] > frames + slack).any(axis=1))


def cannot_be_right(edges: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return (n,) bool: which boxes leave their frame or are under two pixels wide or high."""
    small = ((edges[:, 2:] - edges[:, :2]) < 2).any(axis=1)
    return np.logical_or(leaves(edges, frames), small)


def likely_cause(boxes: Boxes, frames: np.ndarray, n_wrong: int, box_format: str) -> str:
    """Return the other reading of the file under which the fewest boxes would be wrong, "" where none is much better.

    Readings that leave as few wrong but for chance (two standard deviations of a count), or no box outside, are named too.
    """
    units = str(boxes.units[0])
    usual = [*_by_number(boxes, frames, box_format, units), *(_by_frame(boxes, frames) if units == "pixels" else ())]
    words = _best(usual, frames, n_wrong, units)
    if words or units != "pixels":
        return words
    permille = _by_number(
        boxes, frames, box_format, units, ("permille",)
    )  # as models of pictures and language write boxes
    usual = [reading for reading in permille if 0.9 < (reading.edges[:, 2:] / frames).max() < 1.01]
    return _best(usual, frames, n_wrong, units) if usual else ""


def _best(readings: Sequence[_Reading], frames: np.ndarray, n_wrong: int, units: str) -> str:
    """Return the reading under which the fewest boxes would be wrong, and those close to it, "" where none is much better."""

    def fits(reading: _Reading) -> bool:
        return not leaves(reading.edges, frames).any()

    counted = [(int(cannot_be_right(reading.edges, frames).sum()), reading) for reading in readings]
    (least, best), *others = sorted(counted, key=lambda pair: pair[0])
    if least > n_wrong / 2:
        return ""
    close = [other.options for n, other in others if n < n_wrong and (n <= least + 2 * n**0.5 or fits(other))][:3]
    alike = f" (so may {', or '.join(close)}: look at some crops)" if close else ""
    return f"{best.words}, {least:,} would: {best.options} reads them so{alike}, --box_units {units} as now"


def suspicion(boxes: Boxes, frames: np.ndarray, box_format: str) -> str:
    """Return what boxes that all may be right are suspected to mean, and the options that say yes and no; "" for nothing."""
    if not (boxes.units == "pixels").all():
        return ""
    return _percent_like(boxes, frames, box_format) or _centre_like(boxes, frames, box_format)


def _percent_like(boxes: Boxes, frames: np.ndarray, box_format: str) -> str:
    """Suspect percent where no box ends above 100 in some reading of the numbers.

    A box that lies anywhere begins within 100 pixels of the photo's first corner with a chance of 100 to the ways it has.
    """
    numbers, ends = _numbers(boxes.values, box_format), boxes.values[:, 2:]
    ways = frames if ends.max() <= 100 else frames - (ends - boxes.values[:, :2])
    chance = np.log(np.minimum(1, 100 / np.maximum(ways, 100))).sum()
    if len(frames) < 3 or numbers.max() <= 2 or chance > np.log(_UNLIKELY):
        return ""
    options = []
    for name in [*READINGS][:3] if box_format else [""]:  # yxyx would fit as xyxy does
        edges = _edges(numbers, name)
        if edges.min() >= 0 and edges.max() <= 100 and (edges[:, 2:] > edges[:, :2]).all():
            options.append(f"--box_format {name} " * (name != box_format) + "--box_units percent")
    if not options:
        return ""
    return (
        f"all {len(frames):,} boxes have numbers from 0 to 100, as percent would; if they are percent, "
        f"{' or '.join(options)} reads them so, --box_units pixels says that they are not"
    )


def _centre_like(boxes: Boxes, frames: np.ndarray, box_format: str) -> str:
    """Suspect centres where sides are whole and x or y is a half exactly where its side is odd, as x + width / 2 is.

    Of corners that are whole or halves, each does so with a chance of one half, even sides and odd sides alike.
    """
    numbers = _numbers(boxes.values, box_format)
    twice, sides = 2 * numbers[:, :2], numbers[:, 2:]
    odd = sides % 2 == 1
    if box_format != "xywh" or (sides % 1 != 0).any() or (twice % 1 != 0).any() or ((twice % 2 == 1) != odd).any():
        return ""
    if 2.0 ** -min(odd.sum(), (~odd).sum()) > _UNLIKELY or leaves(_edges(numbers, "cxcywh"), frames).any():
        return ""
    return (
        f"x and y of all {len(frames):,} boxes are halves exactly where width and height are odd, as centres would be; "
        "if they are centres, --box_format cxcywh reads them so, --box_format xywh says that they are not"
    )


def _by_number(
    boxes: Boxes,
    frames: np.ndarray,
    box_format: str,
    units: str,
    others: Sequence[str] = ("pixels", "fraction", "percent"),
) -> Iterator[_Reading]:
    """Yield what the numbers say in other units and, where the format leaves it open, as other edges."""
    numbers = _numbers(boxes.values, box_format)
    for name in READINGS if box_format else [""]:
        edges = _edges(numbers, name)
        for unit in others:
            scale = frames / PER_SIDE[unit] if unit in PER_SIDE else np.ones_like(frames)
            words = [f"read as {READINGS.get(name)}"] * (name != box_format) + [f"in {unit}"] * (unit != units)
            options = [f"--box_format {name}"] * (name != box_format) + [f"--box_units {unit}"] * (unit != units)
            if options:
                yield _Reading(edges * np.tile(scale, 2), " ".join(words), " ".join(options))


def _by_frame(boxes: Boxes, frames: np.ndarray) -> Iterator[_Reading]:
    """Yield the boxes as they would lie in photos turned otherwise or of the declared size, scaled to these frames."""
    for other, words, options in (
        (boxes.turned, "in the photos turned by EXIF", "--exif apply"),
        (boxes.stored, "in the photos as stored", "--exif ignore"),
        (np.where(boxes.declared > 0, boxes.declared, frames), "scaled from the declared sizes", "--rescale"),
    ):
        if (other != frames).any():
            yield _Reading(boxes.values * np.tile(frames / other, 2), words, options)


def _numbers(edges: np.ndarray, box_format: str) -> np.ndarray:
    """Return (n, 4) the numbers of which these edges were read."""
    sides = edges[:, 2:] - edges[:, :2]
    if box_format == "cxcywh":
        return np.hstack([edges[:, :2] + sides / 2, sides])
    if box_format == "xywh":
        return np.hstack([edges[:, :2], sides])
    return edges[:, _SWAPPED] if box_format == "yxyx" else edges


def _edges(numbers: np.ndarray, box_format: str) -> np.ndarray:
    first, second = numbers[:, :2], numbers[:, 2:]
    if box_format == "cxcywh":
        return np.hstack([first - second / 2, first + second / 2])
    if box_format == "xywh":
        return np.hstack([first, first + second])
    return numbers[:, _SWAPPED] if box_format == "yxyx" else numbers
