"""Annotated boxes, the padding around them, and the whole pixels that both cover in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from annotations.records import Box
from common.messages import Unusable, UsageError


@dataclass(frozen=True, slots=True)
class Padding:
    """What is added around a box: percent of its width left and right and of its height above and below, or pixels."""

    percent: float = 0
    w_pad: float = 0
    h_pad: float = 0

    def __str__(self) -> str:
        if self.w_pad or self.h_pad:
            return f"w{number_text(self.w_pad)}h{number_text(self.h_pad)}"
        return number_text(self.percent)

    def pixels(self, box: Box) -> tuple[float, float]:
        """Return what to add on the left and on the right, and above and below."""
        return box.width * self.percent / 100 + self.w_pad, box.height * self.percent / 100 + self.h_pad


def choose(
    output_root: str, percents: Sequence[float] | None, w_pad: float = 0, h_pad: float = 0
) -> dict[Path, Padding]:
    """Return each output folder with its padding; raises UsageError when the options contradict each other."""
    percents = percents or [0]
    if (w_pad or h_pad) and any(percents):
        raise UsageError("--w_pad and --h_pad add pixels instead of --padding_percent; give one of the two")
    paddings = [Padding(percent, w_pad, h_pad) for percent in dict.fromkeys(percents)]
    if len(paddings) > 1 and "{padding}" not in output_root:
        raise UsageError("several paddings need {padding} in --output_root, as in crops/pad_{padding}")
    return {Path(output_root.replace("{padding}", str(padding))): padding for padding in paddings}


def number_text(value: float) -> str:
    """Return `10`, `7.5`: the shortest text that reads back as the same number."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


@dataclass(frozen=True, slots=True)
class Region:
    """A padded box in whole pixels of the image, right and bottom exclusive; it reaches over the image only to be filled."""

    left: int
    top: int
    right: int
    bottom: int
    clipped: bool

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


def place(box: Box, padding: Padding, size: tuple[int, int], *, border: str = "clip", max_pixels: int) -> Region:
    """Return the pixels that `padding` around `box` covers in an image of `size` (width, height).

    Edges are computed in floats, rounded once (half to even), then clipped unless the `border` is to be filled. Raises
    Unusable when the box itself, without padding, covers no pixel of the image: so every padding skips the same objects.
    """
    own = _clip(_rounded(box, 0, 0), size)
    if own.width <= 0 or own.height <= 0:
        inside = box.right > 0 and box.bottom > 0 and box.left < size[0] and box.top < size[1]
        raise Unusable("box under one pixel" if inside else "box outside the image")
    x_pad, y_pad = padding.pixels(box)
    edges = _rounded(box, x_pad, y_pad)
    region = _clip(edges, size)
    if border == "clip":
        return region
    if (edges[2] - edges[0]) * (edges[3] - edges[1]) > max_pixels:
        raise Unusable("padded box above --max_pixels")
    return Region(*edges, clipped=False)


def whole_size(box: Box, padding: Padding) -> tuple[int, int]:
    """Return width and height in pixels that the padded box has before anything is clipped."""
    left, top, right, bottom = _rounded(box, *padding.pixels(box))
    return right - left, bottom - top


def _rounded(box: Box, x_pad: float, y_pad: float) -> tuple[int, int, int, int]:
    return round(box.left - x_pad), round(box.top - y_pad), round(box.right + x_pad), round(box.bottom + y_pad)


def _clip(edges: tuple[int, int, int, int], size: tuple[int, int]) -> Region:
    left, top, right, bottom = edges
    inner = (max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1]))
    return Region(*inner, clipped=inner != edges)
