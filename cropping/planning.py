"""From annotation files, and what the user says of them, to a plan of crops; with the options that the scripts share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotations import formats
from annotations.fields import BOX_FORMATS, BOX_UNITS
from annotations.formats import Source
from annotations.records import Skipped
from common import cli, messages
from cropping import box_check, cutter, image_folder, padding, photo_splits, resizing
from cropping.cutouts import CUTOUTS
from cropping.cutter import Crop, Size, Style
from cropping.image_folder import ImageFolder
from cropping.padding import Padding
from imaging import images
from imaging.pixels import COLORS


def add_options(parser: argparse._ActionsContainer, *, required: bool) -> list[argparse.Action]:
    """Add the options of annotations, padding and style, --json_path first, and return them."""
    px, pad = cli.whole(1, 16384), cli.whole(0, 16384)
    add = parser.add_argument
    text = "annotations in any format of docs/inputs.md, or the folder of an export"
    actions = [add("--json_path", metavar="PATH", type=Path, nargs="+", required=required, help=text)]
    text = "where the images are (default: the folder that holds the annotations)"
    actions += [add("--image_folder", metavar="DIR", type=Path, help=text)]
    text = "format of the annotations (default: recognised by content)"
    actions += [add("--annotation_format", choices=formats.NAMES, help=text)]
    text = "meaning of a box's four bare numbers (default: as the format says)"
    actions += [add("--box_format", choices=BOX_FORMATS, help=text)]
    actions += [add("--box_units", choices=BOX_UNITS, help="units of the boxes (default: as the format says)")]
    text = "scale boxes from the declared size to the size of the photo"
    actions += [add("--rescale", action="store_true", help=text)]
    text = "percent of the box added on each side (default: 0, the box itself)"
    actions += [add("--padding_percent", metavar="P", type=cli.number(0, 1000), nargs="+", help=text)]
    actions += [add("--w_pad", metavar="PX", type=pad, default=0, help="pixels added left and right instead")]
    actions += [add("--h_pad", metavar="PX", type=pad, default=0, help="pixels added above and below instead")]
    text = "cut the whole box, or fill what is outside the object's polygon or mask with --fill"
    actions += [add("--cutout", choices=CUTOUTS, default="box", help=text)]
    text = "squash the crop, letterbox it, or leave it as large as it is"
    actions += [add("--post_padding_method", choices=resizing.RESIZERS, default="resize", help=text)]
    actions += [add("--target_w", metavar="PX", type=px, default=224, help="width of a crop")]
    actions += [add("--target_h", metavar="PX", type=px, default=224, help="height of a crop")]
    text = "colour around a letterboxed crop"
    actions += [add("--fill", choices=COLORS, default="white", help=text)]
    text = "where the padding leaves the image, clip it or fill the rest"
    actions += [add("--border", choices=resizing.BORDERS, default="clip", help=text)]
    text = "turn images as EXIF says; auto: where that fits the declared size and the boxes"
    actions += [add("--exif", choices=images.EXIF_MODES, default="auto", help=text)]
    text = "split of objects that name none (default: from the file's name or folder, else all)"
    actions += [add("--split", metavar="NAME", help=text)]
    text = "rename splits, as in 1=train 2=test"
    actions += [add("--split_names", metavar="OLD=NEW", nargs="+", default=[], help=text)]
    return actions


def given(values: Mapping[str, Any]) -> list[str]:
    """Return which of these options the values of all options name: those that are not at their default."""
    actions = add_options(argparse.ArgumentParser(), required=False)
    return [action.option_strings[0] for action in actions if values[action.dest] != action.default]


@dataclass(frozen=True)
class Annotations:
    """The annotation files and how they are to be read; the fields are named like the options."""

    json_path: Sequence[Path]
    image_folder: Path | None = None
    annotation_format: str | None = None
    box_format: str | None = None
    box_units: str | None = None
    rescale: bool = False
    split: str | None = None
    split_names: Sequence[str] = ()


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
    bare = sum(isinstance(crop, Crop) and not crop.item.outline for crop in settled)
    if style.cutout == "mask" and bare:
        messages.warn(f"{messages.count(bare, 'object')} without an outline; their whole boxes are cut")
    return Plan(settled, folder, headers)


def paddings(percents: Sequence[float] | None, w_pad: float = 0, h_pad: float = 0) -> list[Padding]:
    """Return the paddings that the options name; raises UsageError when they contradict each other."""
    return list(padding.choose("{padding}", percents, w_pad, h_pad).values())
