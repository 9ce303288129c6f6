#!/usr/bin/env python3
"""Cut annotated objects out of images, with one padding around the boxes or several in one pass.

  python crop.py --json_path annotations.json --image_folder images/ --output_root cropped_images/
  python crop.py --json_path train.json test.json --image_folder images/ --output_root crops/pad_{padding} \\
      --padding_percent 0 5 10 20

An output folder gets <split>/<label>/<sample>_<object>.jpg, crops.csv and skipped.csv. A run that was killed or
interrupted goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from annotations.fields import BOX_FORMATS, BOX_UNITS
from annotations.options import FORMATS
from common import cli, messages
from cropping import photo_splits, resizing

if TYPE_CHECKING:
    from annotations.formats import Source
    from annotations.records import Skipped
    from cropping import box_check, cutter
    from cropping.cutter import Crop, Style

    Outcomes = Generator[tuple[cutter.Image, cutter.Size | str, Counter[Path]], None, None]


def plan(sources: Sequence[Source], folder: Path, style: Style, choice: box_check.Choice) -> list[Crop | Skipped]:
    """Return what becomes of every object, with boxes in pixels that were judged file by file."""
    from cropping import box_check, cutter
    from cropping.cutter import Crop
    from cropping.image_folder import ImageFolder

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
    return settled


def cut(results: Outcomes, total: int) -> tuple[dict[cutter.Image, cutter.Size | str], Counter[Path]]:
    """Cut all crops with a progress bar; returns what each image came to and the number of crops written to each root.

    `results` cuts while it is gone through, `total` is the number of images.
    """
    outcomes: dict[cutter.Image, cutter.Size | str] = {}
    written: Counter[Path] = Counter()
    try:
        with contextlib.closing(results), messages.progress(results, total=total, desc="crop", unit="image") as bar:
            for image, outcome, count in bar:
                outcomes[image] = outcome
                written.update(count)
    except KeyboardInterrupt:
        crops_written = messages.count(sum(written.values()), "crop")
        sys.stderr.write(f"{len(outcomes):,} of {messages.count(total, 'image')} done, with {crops_written}\n")
        raise
    return outcomes, written


def report(root: Path, n_written: int, n_there: int, skipped: Sequence[Skipped]) -> str:
    """Return one line that says what became of the objects of one output folder."""
    from imaging import crops

    text = f"{messages.count(n_written, 'crop')} written" if n_written or not n_there else "nothing to do"
    text += f" ({n_there - n_written:,} there already)" if n_there > n_written else ""
    text += f", {len(skipped):,} skipped"
    kinds = messages.tally(item.reason.partition(":")[0] for item in skipped)
    return text + (f" ({kinds}), see {root / crops.SKIPPED}" if skipped else "")


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    px = cli.whole(1, 16384)
    text = "annotations in any format of docs/inputs.md, or the folder of an export"
    add("--json_path", metavar="PATH", type=Path, nargs="+", required=True, help=text)
    text = "where the images are (default: the folder that holds the annotations)"
    add("--image_folder", metavar="DIR", type=Path, help=text)
    text = "format of the annotations (default: recognised by content)"
    add("--annotation_format", choices=FORMATS, help=text)
    text = "meaning of a box's four bare numbers (default: as the format says)"
    add("--box_format", choices=BOX_FORMATS, help=text)
    add("--box_units", choices=BOX_UNITS, help="units of the boxes (default: as the format says)")
    add("--rescale", action="store_true", help="scale boxes from the declared size to the size of the photo")
    add("--output_root", metavar="DIR", required=True, help="crops folder to write; {padding} becomes the padding")
    text = "percent of the box added on each side (default: 0, the box itself)"
    add("--padding_percent", metavar="P", type=cli.number(0, 1000), nargs="+", help=text)
    add("--w_pad", metavar="PX", type=cli.whole(0, 16384), default=0, help="pixels added left and right instead")
    add("--h_pad", metavar="PX", type=cli.whole(0, 16384), default=0, help="pixels added above and below instead")
    text = "cut the whole box, or fill what is outside the object's polygon or mask with --fill"
    add("--cutout", choices=("box", "mask"), default="box", help=text)
    text = "squash the crop, letterbox it, or leave it as large as it is"
    add("--post_padding_method", choices=resizing.RESIZERS, default="resize", help=text)
    add("--target_w", metavar="PX", type=px, default=224, help="width of a crop")
    add("--target_h", metavar="PX", type=px, default=224, help="height of a crop")
    add("--fill", choices=resizing.COLORS, default="white", help="colour around a letterboxed crop")
    text = "colour behind what is transparent in an image"
    add("--background", choices=resizing.COLORS, default="white", help=text)
    text = "where the padding leaves the image, clip it or fill the rest"
    add("--border", choices=resizing.BORDERS, default="clip", help=text)
    text = "turn images as EXIF says; auto: where that fits the declared size and the boxes"
    add("--exif", choices=("auto", "apply", "ignore"), default="auto", help=text)
    text = "split of objects that name none (default: from the file's name or folder, else all)"
    add("--split", metavar="NAME", help=text)
    add("--split_names", metavar="OLD=NEW", nargs="+", default=[], help="rename splits, as in 1=train 2=test")
    photo_splits.add_options(parser)
    add("--image_format", choices=("jpg", "png"), default="jpg", help="file format of the crops")
    add("--jpeg_quality", metavar="Q", type=cli.whole(1, 100), default=95, help="quality of jpg crops")
    cli.add_max_pixels(parser)
    add("--workers", metavar="N", type=cli.whole(1, 1024), default=cli.cores(), help="threads")
    cli.add_cluster(parser)
    add("--strict", action="store_true", help="exit with an error when an object is skipped")
    cli.add_spreadsheet_safe(parser, "skipped.csv")
    cli.add_verify(parser, "cut")
    add("--overwrite", action="store_true", help="start anew: remove the crops that an earlier run wrote there")
    return parser


def run(args: argparse.Namespace) -> None:
    from annotations import formats
    from cropping import box_check, crops_folder, cutter, image_folder, padding
    from cropping.cutter import Crop, Style
    from imaging import crops, images

    roots = padding.choose(args.output_root, args.padding_percent, args.w_pad, args.h_pad)
    style = Style(**{field.name: getattr(args, field.name) for field in fields(Style)})
    outlines = args.cutout == "mask"
    options = formats.reading_options(args.split, args.split_names, args.box_format, args.box_units, outlines=outlines)
    sources = formats.read_all(args.json_path, options, args.annotation_format)
    if args.split_by_photo:
        drawing = photo_splits.Drawing(args.split_by_photo, args.group_by, args.seed)
        sources = photo_splits.split_objects(sources, drawing)
    folder = image_folder.choose(args.image_folder, args.json_path)
    confirmed = args.exif != "auto" or args.rescale or bool(args.box_format or args.box_units)
    planned = plan(sources, folder, style, box_check.Choice(args.exif, args.rescale, confirmed))
    paths = [crop.path for crop in planned if isinstance(crop, Crop)]
    record = {**asdict(style), **cutter.fingerprints(planned, folder)}
    if style.background == "white":
        del record["background"]  # folders made before there was the option go on
    contents = cache(lambda: images.contents(folder, cutter.files_of(planned), args.workers))
    skipped: dict[Path, list[Skipped]] = {}
    written: Counter[Path] = Counter()
    with contextlib.ExitStack() as stack:
        todo = {}
        for root, around in roots.items():
            own_record = {**record, "padding": str(around)}
            how = {"overwrite": args.overwrite, "verify": args.verify}
            if stack.enter_context(crops_folder.writing(root, own_record, paths, contents, **how)):
                skipped[root] = crops_folder.read_skipped(root)
            else:
                todo[root] = around
        if todo:
            results: Outcomes
            if args.cluster:
                from ray_cluster import connection, tasks

                cluster = stack.enter_context(connection.connected(args.cluster))
                results = tasks.cut_all(cluster, planned, folder, todo, style)
            else:
                results = cutter.cut_all(planned, folder, todo, style, args.workers)
            outcomes, written = cut(results, total=len(cutter.by_image(planned)))
        for root, around in todo.items():
            rows, skipped[root] = cutter.settle(planned, outcomes, around, style)
            crops_folder.write(root, rows, skipped[root], spreadsheet_safe=args.spreadsheet_safe)
    if rules := cutter.how_found(planned):
        print(rules)
    for root in roots:
        line = report(root, written[root], len(planned) - len(skipped[root]), skipped[root])
        print(f"{root}: {line}" if len(roots) > 1 else line)
    if all(len(rows) == len(planned) for rows in skipped.values()):
        raise messages.UserError(f"{args.output_root}: no object could be cropped; {crops.SKIPPED} there says why")
    if args.strict and any(skipped.values()):
        raise messages.UserError(f"{args.output_root}: --strict forbids skipped objects; see {crops.SKIPPED} there")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
