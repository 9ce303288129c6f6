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
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, messages
from cropping import options, photo_splits
from imaging.colors import add_background

if TYPE_CHECKING:
    from annotations.records import Skipped
    from cropping import cutter

    Outcomes = Generator[tuple[cutter.Image, cutter.Size | str, Counter[Path]], None, None]


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


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    options.add_options(parser, required=True)
    add_background(parser)
    add("--output_root", metavar="DIR", required=True, help="crops folder to write; {padding} becomes the padding")
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
    from boxes import padding
    from cropping import crops_folder, cutter, planning
    from cropping.cutter import Style
    from imaging import crops, images

    roots = padding.choose(args.output_root, args.padding_percent, args.w_pad, args.h_pad)
    style = Style(**{field.name: getattr(args, field.name) for field in fields(Style)})
    asked = options.Annotations(**{field.name: getattr(args, field.name) for field in fields(options.Annotations)})
    drawing = photo_splits.Drawing(args.split_by_photo, args.group_by, args.seed) if args.split_by_photo else None
    plan = planning.read(asked, style, drawing)
    planned, folder = plan.objects, plan.folder
    if not planned:
        raise messages.UserError(
            f"{', '.join(map(str, args.json_path))}: no annotations of objects, so there is nothing to crop"
        )
    record = {**style.record(), **cutter.fingerprints(planned, folder)}
    contents = cache(lambda: images.contents(folder, cutter.files_of(planned), args.workers))
    skipped: dict[Path, list[Skipped]] = {}
    written: Counter[Path] = Counter()
    with contextlib.ExitStack() as stack:
        todo, held = {}, {}
        for root, around in roots.items():
            own_record = {**record, "padding": str(around)}
            how = {"overwrite": args.overwrite, "verify": args.verify}
            wanted = plan.wanted(around, style)
            held[root] = stack.enter_context(crops_folder.writing(root, own_record, wanted, contents, **how))
            if held[root].finished:
                skipped[root] = held[root].skipped()
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
            held[root].write(rows, skipped[root], spreadsheet_safe=args.spreadsheet_safe)
    if rules := cutter.how_found(planned):
        print(rules)
    for root in roots:
        n_there = len(planned) - len(skipped[root])
        line = crops_folder.report("written", written[root], n_there, skipped[root], root / crops.SKIPPED)
        print(f"{root}: {line}" if len(roots) > 1 else line)
    if all(len(rows) == len(planned) for rows in skipped.values()):
        raise messages.UserError(f"{args.output_root}: no object could be cropped; {crops.SKIPPED} there says why")
    if args.strict and any(skipped.values()):
        raise messages.UserError(f"{args.output_root}: --strict forbids skipped objects; see {crops.SKIPPED} there")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
