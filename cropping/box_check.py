"""Boxes that cannot be right, judged over a whole annotation file: in which frame they stand, and whether they fit into it.

A photo has two frames: as stored, and turned as EXIF says. A box may also stand in a photo of another size, be written as
corners where width and height are meant, or as fractions. One box proves nothing; the share of a file's boxes that leave
their photo, or are under two pixels, does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from annotations.records import Skipped
from common.messages import UserError, count
from cropping.cutter import Crop
from imaging import images

LIMIT = 0.25  # the share of wrong boxes from which on a file is not cropped unless the user says how to read it
_ALONE = 1  # a single wrong box is an outlier, whatever its share
_UNLIKELY = 1e-4  # a chance below which boxes are suspected to be percent
_READINGS = {"xywh": "x, y, width, height", "xyxy": "x1, y1, x2, y2", "cxcywh": "centre x, centre y, width, height"}

Headers = Mapping[str, "images.Header | str"]  # of each image file, or the reason why it has none


@dataclass(frozen=True)
class Choice:
    """What the user says: how EXIF is obeyed, whether boxes are scaled, and whether wrong boxes are to be cropped anyway."""

    exif: str = "auto"
    rescale: bool = False
    confirmed: bool = False


@dataclass(frozen=True)
class _Boxes:
    """The boxes of one file: `values` (n, 4) left, top, right, bottom as the file has them, in `units` (n,).

    `stored`, `turned` and `declared` (n, 2) are widths and heights of their photos; 0 where none is declared.
    """

    values: np.ndarray
    units: np.ndarray
    stored: np.ndarray
    turned: np.ndarray
    declared: np.ndarray


def read_headers(planned: Sequence[Crop | Skipped], folder: Path) -> dict[str, images.Header | str]:
    """Return the header of every image that is to be cropped, or the reason why it has none."""
    headers: dict[str, images.Header | str] = {}
    for crop in planned:
        if isinstance(crop, Crop) and crop.file not in headers:
            try:
                headers[crop.file] = images.open_header(folder / crop.file)
            except images.ImageError as error:
                headers[crop.file] = str(error)
    return headers


def settle(
    planned: Sequence[Crop | Skipped], headers: Headers, choice: Choice, *, source: str, box_format: str = ""
) -> tuple[list[Crop | Skipped], list[str]]:
    """Return the plan for one annotation file with boxes in pixels of their photos, and warnings.

    `box_format` says what the file's four bare numbers mean, "" where the format names the edges. Raises UserError when a
    quarter of the boxes cannot be right and another reading explains them, unless the user has said how they are meant.
    """
    settled: list[Crop | Skipped] = []
    rows: list[int] = []
    crops: list[Crop] = []
    for row, crop in enumerate(planned):
        header = headers[crop.file] if isinstance(crop, Crop) else None
        if isinstance(crop, Crop) and isinstance(header, str) and crop.item.units != "pixels":
            crop = Skipped(crop.item.sample_id, crop.item.object_id, header, crop.item.source)
        settled.append(crop)
        if isinstance(crop, Crop) and isinstance(header, images.Header):
            rows.append(row)
            crops.append(crop)
    if not rows:
        return settled, []
    boxes = _boxes(crops, headers)
    frames, messages = _choose_frames(boxes, choice.exif, source)
    in_pixels = boxes.units == "pixels"
    resized = in_pixels & (boxes.declared[:, 0] > 0)
    for frame in (boxes.stored, boxes.turned):
        resized &= (boxes.declared != frame).any(axis=1)
    scales = np.where(in_pixels[:, None], 1.0, frames * np.where(boxes.units == "percent", 0.01, 1.0)[:, None])
    if choice.rescale:
        scales = np.where(resized[:, None], frames / np.maximum(boxes.declared, 1), scales)
        messages.append(f"{source}: {count(int(resized.sum()), 'box', 'boxes')} scaled to the size of their photos")
    if choice.rescale or choice.exif != "auto":  # the declared sizes have done their part
        resized[:] = False
    if resized.any():  # their crops are skipped where the images are cut
        messages += _told(_sizes_differ(crops, boxes, frames, resized, source), resized, choice)
    wrong = _wrong(boxes.values * np.tile(scales, 2), frames) & ~resized
    messages += _percent_like(boxes, frames, choice, source)
    messages += _judge(boxes, frames, wrong, choice, source, box_format)
    for row, crop, frame, scale, other in zip(rows, crops, frames.tolist(), scales.tolist(), resized, strict=True):
        if not other:
            settled[row] = _in_pixels(crop, tuple(frame), tuple(scale), choice.exif)
    return settled, messages


def _judge(
    boxes: _Boxes, frames: np.ndarray, wrong: np.ndarray, choice: Choice, source: str, box_format: str
) -> list[str]:
    """Return the share of wrong boxes with its likely cause, nothing where it is an outlier; raises UserError, see settle."""
    if not wrong.any():
        return []
    share = f"{source}: {wrong.sum():,} of {count(len(wrong), 'box', 'boxes')} ({wrong.mean():.0%}) "
    share += "leave their photo or are under two pixels"
    if cause := _likely_cause(boxes, frames, wrong, box_format):
        return _told(f"{share}; {cause}", wrong, choice)
    if wrong.sum() > _ALONE or wrong.mean() >= LIMIT:
        return [f"{share}, and no other reading of the file explains it; look at some of them"]
    return []


def _percent_like(boxes: _Boxes, frames: np.ndarray, choice: Choice, source: str) -> list[str]:
    """Return a warning where boxes may be percent: all end within 100 pixels of the first corner.

    Of boxes that lie anywhere, each has a chance of 100 x 100 to the photo's pixels at most to do so.
    """
    chance = np.log(np.minimum(1, 1e4 / frames.prod(axis=1, dtype=float))).sum()
    inside = (boxes.units == "pixels").all() and boxes.values.min() >= 0 and 2 < boxes.values.max() <= 100
    if choice.confirmed or not inside or len(frames) < 3 or chance > np.log(_UNLIKELY):
        return []
    return [
        f"{source}: all {len(frames):,} boxes end within 100 pixels of their photos' first corner; if they are percent, "
        "--box_units percent reads them so, --box_units pixels says that they are not"
    ]


def _in_pixels(crop: Crop, frame: tuple[int, int], scale: tuple[float, float], exif: str) -> Crop:
    """Return the crop with its box in pixels; where EXIF is left to the boxes, the frame becomes the declared size."""
    item = crop.item
    if item.units != "pixels" or scale != (1, 1):
        item = item.scaled(*scale)
    if exif == "auto" and item.declared != frame:
        item = replace(item, declared=frame)
    return crop if item is crop.item else replace(crop, item=item)


def _boxes(crops: Sequence[Crop], headers: Headers) -> _Boxes:
    found = [header for header in (headers[crop.file] for crop in crops) if isinstance(header, images.Header)]
    boxes = [crop.item.box for crop in crops]
    return _Boxes(
        np.array([(box.left, box.top, box.right, box.bottom) for box in boxes]),
        np.array([crop.item.units for crop in crops]),
        np.array([(header.width, header.height) for header in found]),
        np.array([header.turned for header in found]),
        np.array([crop.item.declared or (0, 0) for crop in crops]),
    )


def _choose_frames(boxes: _Boxes, exif: str, source: str) -> tuple[np.ndarray, list[str]]:
    """Return the (width, height) in which each box is taken to stand, and what the boxes say against the declared sizes.

    Without --exif the declared size decides, where there is one; the boxes of the file overrule it where more of them fit
    only the other frame. A photo that is to be resized takes the frame of the more similar shape.
    """
    if exif != "auto":
        return (boxes.stored if exif == "ignore" else boxes.turned), []
    frames, messages = boxes.turned.copy(), []
    turns = (boxes.turned != boxes.stored).any(axis=1)
    as_stored, as_turned = ((boxes.declared == frame).all(axis=1) for frame in (boxes.stored, boxes.turned))
    none, pixels = boxes.declared[:, 0] == 0, boxes.units == "pixels"
    fits_stored, fits_turned = (~_leaves(boxes.values, frame) for frame in (boxes.stored, boxes.turned))
    for declares, expected in ((as_stored, "stored"), (as_turned, "turned"), (none, "turned")):
        group = turns & declares
        votes = {
            "stored": int((group & pixels & fits_stored & ~fits_turned).sum()),
            "turned": int((group & pixels & fits_turned & ~fits_stored).sum()),
        }
        other = "turned" if expected == "stored" else "stored"
        taken = other if votes[other] > votes[expected] else expected
        frames[group] = (boxes.stored if taken == "stored" else boxes.turned)[group]
        if taken != expected:
            says = (
                "as is usual"
                if declares is none
                else f"as their declared size says ({votes[expected]:,} fit only that)"
            )
            messages.append(
                f"{source}: {count(votes[taken], 'box', 'boxes')} fit only the photo as {_frame_name(taken)}, not as "
                f"{_frame_name(expected)} {says}; taken so (--exif {'ignore' if taken == 'stored' else 'apply'} says "
                f"so for all, --exif {'apply' if taken == 'stored' else 'ignore'} the other way)"
            )
    resized = turns & ~none & ~as_stored & ~as_turned
    ratio = np.log(np.maximum(boxes.declared[:, 0], 1) / np.maximum(boxes.declared[:, 1], 1))
    off = [np.abs(ratio - np.log(frame[:, 0] / frame[:, 1])) for frame in (boxes.stored, boxes.turned)]
    frames[resized & (off[0] < off[1])] = boxes.stored[resized & (off[0] < off[1])]
    return frames, messages


def _frame_name(frame: str) -> str:
    return "turned by EXIF" if frame == "turned" else "stored"


def _leaves(edges: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return (n,) bool: which boxes leave their frame by more than a pixel and a hundredth of its side."""
    slack = np.maximum(1.0, frames / 100)
    return np.logical_or((edges[:, :2] < -slack).any(axis=1), (edges[:, 2:] > frames + slack).any(axis=1))


def _wrong(edges: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return (n,) bool: which boxes leave their frame or are under two pixels wide or high."""
    small = ((edges[:, 2:] - edges[:, :2]) < 2).any(axis=1)
    return np.logical_or(_leaves(edges, frames), small)


def _told(message: str, wrong: np.ndarray, choice: Choice) -> list[str]:
    if wrong.sum() > _ALONE and wrong.mean() >= LIMIT and not choice.confirmed:
        raise UserError(message)
    return [message]


def _sizes_differ(crops: Sequence[Crop], boxes: _Boxes, frames: np.ndarray, resized: np.ndarray, source: str) -> str:
    row = int(np.flatnonzero(resized)[0])
    (width, height), (real_w, real_h) = boxes.declared[row], frames[row]
    fit = ~_wrong(boxes.values, frames)[resized]
    remedy = "--rescale scales the boxes to the photos"
    remedy += f"; {fit.mean():.0%} of them fit as they are, which --exif apply leaves them" if fit.any() else ""
    return (
        f"{source}: {resized.sum():,} of {count(len(crops), 'box', 'boxes')} are in photos of another size than declared "
        f"({crops[row].file} is {real_w} x {real_h}, declared {width} x {height}); {remedy}"
    )


@dataclass(frozen=True)
class _Reading:
    """Another meaning of a file's numbers: the edges (n, 4) in pixels, how to say it, and the options that choose it."""

    edges: np.ndarray
    words: str
    options: str


def _likely_cause(boxes: _Boxes, frames: np.ndarray, wrong: np.ndarray, box_format: str) -> str:
    """Return the other reading of the file under which the fewest boxes would be wrong, "" where none is much better."""
    units = str(boxes.units[0])
    readings = [*_by_number(boxes, frames, box_format, units), *(_by_frame(boxes, frames) if units == "pixels" else ())]
    counts = [int(_wrong(reading.edges, frames).sum()) for reading in readings]
    best = min(range(len(counts)), key=counts.__getitem__)
    if counts[best] > wrong.sum() / 2:
        return ""
    words, options = readings[best].words, readings[best].options
    others = [reading.options for reading, n in zip(readings, counts, strict=True) if n == counts[best]]
    others = [other for other in others if other != options][:3]
    alike = f" (so would {', or '.join(others)}: look at some crops)" if others else ""
    return f"{words}, {counts[best]:,} would: {options} reads them so{alike}, --box_units {units} as now"


def _by_number(boxes: _Boxes, frames: np.ndarray, box_format: str, units: str) -> Iterator[_Reading]:
    """Yield what the numbers say in other units and, where the format leaves it open, as other edges."""
    numbers = _numbers(boxes.values, box_format)
    for name in _READINGS if box_format else [""]:
        edges = _edges(numbers, name)
        for unit, scale in (("pixels", np.ones_like(frames)), ("fraction", frames), ("percent", frames / 100)):
            words = [f"read as {_READINGS.get(name)}"] * (name != box_format) + [f"in {unit}"] * (unit != units)
            options = [f"--box_format {name}"] * (name != box_format) + [f"--box_units {unit}"] * (unit != units)
            if options:
                yield _Reading(edges * np.tile(scale, 2), " ".join(words), " ".join(options))


def _by_frame(boxes: _Boxes, frames: np.ndarray) -> Iterator[_Reading]:
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
    return np.hstack([edges[:, :2], sides]) if box_format == "xywh" else edges


def _edges(numbers: np.ndarray, box_format: str) -> np.ndarray:
    first, second = numbers[:, :2], numbers[:, 2:]
    if box_format == "cxcywh":
        return np.hstack([first - second / 2, first + second / 2])
    return np.hstack([first, first + second]) if box_format == "xywh" else numbers
