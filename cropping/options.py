"""The options of annotations, padding and style, which crop.py and extract_embedding.py share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotations.fields import BOX_FORMATS, BOX_UNITS
from annotations.options import FORMATS
from boxes import resizing
from common import cli
from imaging.colors import COLORS


def add_options(parser: argparse._ActionsContainer, *, required: bool) -> list[argparse.Action]:
    """Add the options of annotations, padding and style, --json_path first, and return them."""
    px, pad = cli.whole(1, 16384), cli.whole(0, 16384)
    add = parser.add_argument
    text = "annotations in any format of docs/inputs.md, or the folder of an export"
    actions = [add("--json_path", metavar="PATH", type=Path, nargs="+", required=required, help=text)]
    text = "where the images are (default: the folder that holds the annotations)"
    actions += [add("--image_folder", metavar="DIR", type=Path, help=text)]
    text = "format of the annotations (default: recognised by content)"
    actions += [add("--annotation_format", choices=FORMATS, help=text)]
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
    actions += [add("--cutout", choices=("box", "mask"), default="box", help=text)]
    text = "squash the crop, letterbox it, or leave it as large as it is"
    actions += [add("--post_padding_method", choices=resizing.METHODS, default="resize", help=text)]
    actions += [add("--target_w", metavar="PX", type=px, default=224, help="width of a crop")]
    actions += [add("--target_h", metavar="PX", type=px, default=224, help="height of a crop")]
    text = "pixels that the object itself has, instead: crops grow with their padding; squashed a side, letterboxed its longer side"
    actions += [add("--object_px", metavar="PX", type=px, help=text)]
    text = "colour around a letterboxed crop"
    actions += [add("--fill", choices=COLORS, default="white", help=text)]
    text = "where the padding leaves the image, clip it or fill the rest"
    actions += [add("--border", choices=resizing.BORDERS, default="clip", help=text)]
    text = "turn images as EXIF says; auto: where that fits the declared size and the boxes"
    actions += [add("--exif", choices=("auto", "apply", "ignore"), default="auto", help=text)]
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
