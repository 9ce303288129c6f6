"""Boxes that cannot be right, judged over a whole annotation file: in which frame they stand, and whether they fit into it.

A photo has two frames: as stored, and turned as EXIF says. A box may also stand in a photo of another size, be written as
corners where width and height are meant, or as fractions. One box proves nothing; the share of a file's boxes that leave
their photo, or are under two pixels, does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from annotations.fields import PER_SIDE
from annotations.records import Skipped
from boxes.readings import Boxes, cannot_be_right, leaves, likely_cause, suspicion
from common.messages import UserError, count
from cropping.cutter import Crop
from imaging import images
from imaging.headers import Header, open_header

LIMIT = 0.25  # the share of wrong boxes from which on a file is not cropped unless the user says how to read it
_ALONE = 1  # a single wrong box is an outlier, whatever its share

Headers = Mapping[str, "Header | str"]  # of each image file, or the reason why it has none


@dataclass(frozen=True)
class Choice:
    """What the user says: how EXIF is obeyed, whether boxes are scaled, and whether wrong boxes are to be cropped anyway."""

    exif: str = "auto"
    rescale: bool = False
    confirmed: bool = False


def read_headers(planned: Sequence[Crop | Skipped], folder: Path) -> dict[str, Header | str]:
    """Return the header of every image that is to be cropped, or the reason why it has none."""
    headers: dict[str, Header | str] = {}
    for crop in planned:
        if isinstance(crop, Crop) and crop.file not in headers:
            try:
                headers[crop.file] = open_header(folder / crop.file)
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
        if isinstance(crop, Crop) and isinstance(header, Header):
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
    shares = np.array([1 / PER_SIDE.get(unit, 1) for unit in boxes.units.tolist()])
    scales = np.where(in_pixels[:, None], 1.0, frames * shares[:, None])
    if choice.rescale:
        scales = np.where(resized[:, None], frames / np.maximum(boxes.declared, 1), scales)
        messages.append(f"{source}: {count(int(resized.sum()), 'box', 'boxes')} scaled to the size of their photos")
    if choice.rescale or choice.exif != "auto":  # the declared sizes have done their part
        resized[:] = False
    if resized.any():  # their crops are skipped where the images are cut
        messages += _told(_sizes_differ(crops, boxes, frames, resized, source), resized, choice)
    wrong = cannot_be_right(boxes.values * np.tile(scales, 2), frames) & ~resized
    if not choice.confirmed and (words := suspicion(boxes, frames, box_format)):
        messages.append(f"{source}: {words}")
    messages += _judge(boxes, frames, wrong, choice, source, box_format)
    for row, crop, frame, scale, other in zip(rows, crops, frames.tolist(), scales.tolist(), resized, strict=True):
        if not other:
            settled[row] = _in_pixels(crop, tuple(frame), tuple(scale), choice.exif)
    return settled, messages


def _judge(
    boxes: Boxes, frames: np.ndarray, wrong: np.ndarray, choice: Choice, source: str, box_format: str
) -> list[str]:
    """Return the share of wrong boxes with its likely cause, nothing where it is an outlier; raises UserError, see settle."""
    if not wrong.any():
        return []
    share = f"{source}: {wrong.sum():,} of {count(len(wrong), 'box', 'boxes')} ({wrong.mean():.0%}) "
    share += "leave their photo or are under two pixels"
    if cause := likely_cause(boxes, frames, int(wrong.sum()), box_format):
        return _told(f"{share}; {cause}", wrong, choice)
    if wrong.sum() > _ALONE or wrong.mean() >= LIMIT:
        return [f"{share}, and no other reading of the file explains it; look at some of them"]
    return []


def _in_pixels(crop: Crop, frame: tuple[int, int], scale: tuple[float, float], exif: str) -> Crop:
    """Return the crop with its box in pixels; where EXIF is left to the boxes, the frame becomes the declared size."""
    item = crop.item
    if item.units != "pixels" or scale != (1, 1):
        item = item.scaled(*scale)
    if exif == "auto" and item.declared != frame:
        item = replace(item, declared=frame)
    return crop if item is crop.item else replace(crop, item=item)


def _boxes(crops: Sequence[Crop], headers: Headers) -> Boxes:
    found = [header for header in (headers[crop.file] for crop in crops) if isinstance(header, Header)]
    boxes = [crop.item.box for crop in crops]
    return Boxes(
        np.array([(box.left, box.top, box.right, box.bottom) for box in boxes]),
        np.array([crop.item.units for crop in crops]),
        np.array([(header.width, header.height) for header in found]),
        np.array([header.turned for header in found]),
        np.array([crop.item.declared or (0, 0) for crop in crops]),
    )


def _choose_frames(boxes: Boxes, exif: str, source: str) -> tuple[np.ndarray, list[str]]:
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
    fits_stored, fits_turned = (~leaves(boxes.values, frame) for frame in (boxes.stored, boxes.turned))
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


def _told(message: str, wrong: np.ndarray, choice: Choice) -> list[str]:
    if wrong.sum() > _ALONE and wrong.mean() >= LIMIT and not choice.confirmed:
        raise UserError(message)
    return [message]


def _sizes_differ(crops: Sequence[Crop], boxes: Boxes, frames: np.ndarray, resized: np.ndarray, source: str) -> str:
    row = int(np.flatnonzero(resized)[0])
    (width, height), (real_w, real_h) = boxes.declared[row], frames[row]
    fit = ~cannot_be_right(boxes.values, frames)[resized]
    remedy = "--rescale scales the boxes to the photos"
    remedy += f"; {fit.mean():.0%} of them fit as they are, which --exif apply leaves them" if fit.any() else ""
    return (
        f"{source}: {resized.sum():,} of {count(len(crops), 'box', 'boxes')} are in photos of another size than declared "
        f"({crops[row].file} is {real_w} x {real_h}, declared {width} x {height}); {remedy}"
    )
