"""From annotation files, and what the user says of them, to a plan of crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from annotations import formats
from annotations.formats import Source
from annotations.records import Skipped
from boxes import padding
from boxes.padding import Padding
from common import messages
from cropping import box_check, crop_runs, crops_folder, cutter, photo_splits
from cropping.cutter import Crop, Size, Style
from cropping.options import Annotations
from imaging import image_folder, images
from imaging.headers import Header
from imaging.image_folder import MISSING, ImageFolder


@dataclass(frozen=True)
class Plan:
    """What becomes of every object as far as the headers of the photos tell, and the folder and headers of the photos."""

    objects: list[Crop | Skipped]
    folder: Path
    headers: box_check.Headers

    def sizes(self, style: Style) -> dict[cutter.Image, Size | str]:
        """Return the size of every photo, or the reason why it cannot be used."""
        found: dict[cutter.Image, Size | str] = {}
        for file, declared in cutter.by_image(self.objects):
            header = self.headers[file]
            try:
                if isinstance(header, str):
                    raise images.ImageError(header)
                found[file, declared] = images.seen_size(
                    header, max_pixels=style.max_pixels, exif=style.exif, declared=declared
                )
            except images.ImageError as error:
                found[file, declared] = str(error)
        return found

    def wanted(self, padding: Padding, style: Style) -> crop_runs.Wanted:
        """Return what a run at this padding wants of a crops folder."""
        crops = {crop.path: crop.item for crop in self.objects if isinstance(crop, Crop)}
        missing = {
            f"{crop.sample_id}_{crop.object_id}": crop.reason.removeprefix(MISSING).partition(";")[0]
            for crop in self.objects
            if isinstance(crop, Skipped) and crop.reason.startswith(MISSING)
        }
        return crop_runs.Wanted(crops, missing, lambda: self._lines(padding, style))

    def _lines(self, padding: Padding, style: Style) -> list[dict[str, str]] | None:
        """Return the lines of crops.csv by column, None where pixels do not follow from them: of outlines, and of photos that
        are turned, transparent or deeper than 8 bits, for which the rules have changed."""
        headers = {header for header in self.headers.values() if isinstance(header, Header)}
        if style.cutout != "box" or any(header.orientation != 1 or not header.plain for header in headers):
            return None
        rows, _ = cutter.settle(self.objects, self.sizes(style), padding, style)
        header, lines = crops_folder.lines_of(rows)
        return [dict(zip(header, map(str, line), strict=True)) for line in lines]


def read(asked: Annotations, style: Style, drawing: photo_splits.Drawing | None) -> Plan:
    """Return the plan for all annotation files, and tell what was concluded; `drawing`: splits that are drawn anew."""
    outlines = style.cutout == "mask"
    options = formats.reading_options(
        asked.split, asked.split_names, asked.box_format, asked.box_units, outlines=outlines
    )
    sources = formats.read_all(asked.json_path, options, asked.annotation_format)
    if drawing:
        sources = photo_splits.split_objects(sources, drawing)
    folder = image_folder.choose(asked.image_folder, asked.json_path)
    confirmed = style.exif != "auto" or asked.rescale or bool(asked.box_format or asked.box_units)
    return plan(sources, folder, style, box_check.Choice(style.exif, asked.rescale, confirmed))


def plan(sources: Sequence[Source], folder: Path, style: Style, choice: box_check.Choice) -> Plan:
    """Return what becomes of every object, with boxes in pixels that were judged file by file."""
    items = [item for source in sources for item in source.items]
    planned = cutter.plan(items, ImageFolder(folder), style.image_format)
    headers = box_check.read_headers(planned, folder)
    settled: list[Crop | Skipped] = []
    for source in sources:
        own = planned[len(settled) : len(settled) + len(source.items)]
        own, warnings = box_check.settle(own, headers, choice, source=source.path, box_format=source.box_format)
        settled += own
        for warning in warnings:
            messages.warn(warning)
    missing = [crop.reason for crop in settled if isinstance(crop, Skipped) and crop.reason.startswith(MISSING)]
    if missing:
        objects, name = messages.count(len(missing), "object"), missing[0].removeprefix(MISSING)
        messages.warn(f"{objects} without an image, the first: there is no {folder / name}")
    bare = sum(isinstance(crop, Crop) and not crop.item.outline for crop in settled)
    if style.cutout == "mask" and bare:
        messages.warn(f"{messages.count(bare, 'object')} without an outline; their whole boxes are cut")
    return Plan(settled, folder, headers)


def paddings(percents: Sequence[float] | None, w_pad: float = 0, h_pad: float = 0) -> list[Padding]:
    """Return the paddings that the options name; raises UsageError when they contradict each other."""
    return list(padding.choose("{padding}", percents, w_pad, h_pad).values())
