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
import hashlib
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from common import cli, crops, files, images
from common.annotations import Object, Skipped, parse
from common.boxes import Padding, Region, Unusable, place

Size = tuple[int, int]  # (width, height) in pixels
Image = tuple[str, "Size | None"]  # a file below the image folder, turned so that it has the declared size


@dataclass(frozen=True)
class Style:
    """How crops are made, the same at every padding; the fields are named like the options."""

    post_padding_method: str
    target_w: int
    target_h: int
    fill: str
    border: str
    exif: str
    image_format: str
    jpeg_quality: int
    max_pixels: int


@dataclass(frozen=True)
class Crop:
    """An object that can be cut: out of which image, and where to, relative to the output folder."""

    item: Object
    file: str
    path: str

    @property
    def image(self) -> Image:
        return self.file, self.item.declared

    def region(self, padding: Padding, size: Size, style: Style) -> Region:
        """Return the pixels to cut from an image of `size`; raises Unusable."""
        return place(self.item.box, padding, size, border=style.border, max_pixels=style.max_pixels)


def plan(found: Sequence[Object | Skipped], folder: images.ImageFolder, image_format: str) -> list[Crop | Skipped]:
    """Return what becomes of every object, in the annotations' order, as far as it is known before an image is opened.

    Raises UserError naming both when two objects would share a crop_id or a file.
    """
    planned: list[Crop | Skipped] = []
    taken: dict[str, Object] = {}
    for item in found:
        if isinstance(item, Object):
            try:
                split, label = crops.safe_name(item.split, "split"), crops.safe_name(item.classes[-1], "label")
                name = crops.safe_name(item.crop_id, "id", f".{image_format}")
                planned.append(Crop(item, folder.find(item.image), f"{split}/{label}/{name}"))
            except Unusable as error:
                planned.append(Skipped(item.sample_id, item.object_id, str(error)))
                continue
            other = taken.setdefault(name, item)
            if other is not item:
                raise cli.UserError(
                    f"object {other.object_id!r} of image {other.sample_id!r} in {other.source} and object {item.object_id!r} of "
                    f"image {item.sample_id!r} in {item.source} would both be {name}; rename one of them"
                )
        else:
            planned.append(item)
    return planned


def crop_image(
    path: Path, batch: Sequence[Crop], roots: dict[Path, Padding], style: Style, stop: threading.Event
) -> tuple[Size, Counter[Path]]:
    """Cut the crops `batch` out of the image in `path` at each root's padding, decoding it once.

    Returns the image's size and the number of crops written to each root. Crops that are there already stay as they are; an
    image whose crops are all there is not decoded. Raises ImageError when the image cannot be used.
    """
    encoded = images.load(path, max_pixels=style.max_pixels, exif=style.exif, declared=batch[0].item.declared)
    image = None
    written: Counter[Path] = Counter()
    for root, padding in roots.items():
        for crop in batch:
            target = root / crop.path
            if stop.is_set() or target.exists():
                continue
            try:
                region = crop.region(padding, encoded.size, style)
            except Unusable:
                continue
            image = encoded.decode() if image is None else image
            pixels = images.cut(image, region, border=style.border)
            pixels = images.RESIZERS[style.post_padding_method](pixels, (style.target_w, style.target_h), style.fill)
            files.write_bytes(target, images.encode(pixels, style.image_format, style.jpeg_quality), sync=False)
            written[root] += 1
    return encoded.size, written


def crop_all(
    planned: Sequence[Crop | Skipped], folder: Path, roots: dict[Path, Padding], style: Style, workers: int
) -> tuple[dict[Image, Size | str], Counter[Path]]:
    """Cut every planned crop on `workers` threads, an image at a time on each.

    Returns each image's size, or the reason why it cannot be used, and the number of crops written to each root.
    """
    import cv2

    cv2.setNumThreads(1)  # the threads are ours
    batches: dict[Image, list[Crop]] = {}
    for crop in planned:
        if isinstance(crop, Crop):
            batches.setdefault(crop.image, []).append(crop)
    outcomes: dict[Image, Size | str] = {}
    total: Counter[Path] = Counter()
    stop = threading.Event()
    try:
        with ThreadPoolExecutor(workers) as pool, cli.progress(total=len(batches), desc="crop", unit="image") as bar:
            try:
                jobs = (
                    (image, pool.submit(crop_image, folder / image[0], batch, roots, style, stop))
                    for image, batch in batches.items()
                )
                for image, job in ahead(jobs, 4 * workers):
                    try:
                        outcomes[image], written = job.result()
                        total.update(written)
                    except images.ImageError as error:
                        outcomes[image] = str(error)
                    bar.update()
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    except KeyboardInterrupt:
        done = f"{len(outcomes):,} of {cli.count(len(batches), 'image')}"
        sys.stderr.write(f"{done} done, {cli.count(sum(total.values()), 'crop')} written\n")
        raise
    return outcomes, total


def ahead(jobs: Iterator, n: int) -> Iterator:
    """Yield from `jobs`, n of them started in advance: enough to keep the threads busy, and no more memory for more images."""
    started: deque = deque()
    for job in jobs:
        started.append(job)
        if len(started) > n:
            yield started.popleft()
    yield from started


def settle(
    planned: Sequence[Crop | Skipped], outcomes: dict[Image, Size | str], padding: Padding, style: Style
) -> tuple[list[crops.Row], list[Skipped]]:
    """Return the lines of crops.csv and skipped.csv: each object is in one of them."""
    rows, skipped = [], []
    for crop in planned:
        if isinstance(crop, Skipped):
            skipped.append(crop)
            continue
        size = outcomes[crop.image]
        try:
            if isinstance(size, str):
                raise Unusable(size)
            rows.append(crops.Row(crop.path, crop.item, crop.region(padding, size, style), padding))
        except Unusable as error:
            skipped.append(Skipped(crop.item.sample_id, crop.item.object_id, str(error)))
    return rows, skipped


def choose_paddings(args: argparse.Namespace) -> dict[Path, Padding]:
    """Return each output folder with its padding; raises UsageError when the options contradict each other."""
    in_pixels = bool(args.w_pad or args.h_pad)
    percents = args.padding_percent or [0 if in_pixels else 10]
    if in_pixels and any(percents):
        raise cli.UsageError("--w_pad and --h_pad add pixels instead of --padding_percent; give one of the two")
    paddings = [Padding(percent, args.w_pad, args.h_pad) for percent in dict.fromkeys(percents)]
    if len(paddings) > 1 and "{padding}" not in args.output_root:
        raise cli.UsageError(
            "several values of --padding_percent need {padding} in --output_root, as in crops/pad_{padding}"
        )
    return {Path(args.output_root.replace("{padding}", str(padding))): padding for padding in paddings}


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add("--json_path", metavar="FILE", type=Path, nargs="+", required=True, help="SKU JSON or COCO JSON")
    add("--image_folder", metavar="DIR", type=Path, required=True, help="where the images are")
    add("--output_root", metavar="DIR", required=True, help="crops folder to write; {padding} becomes the padding")
    add(
        "--padding_percent",
        metavar="P",
        type=cli.number(0),
        nargs="+",
        help="percent of the box added on each side (default: 10)",
    )
    add("--w_pad", metavar="PX", type=cli.whole(0), default=0, help="pixels added left and right instead")
    add("--h_pad", metavar="PX", type=cli.whole(0), default=0, help="pixels added above and below instead")
    add(
        "--post_padding_method",
        choices=images.RESIZERS,
        default="resize",
        help="squash, letterbox or leave the padded box",
    )
    add("--target_w", metavar="PX", type=cli.whole(1, 16384), default=224, help="width of a crop")
    add("--target_h", metavar="PX", type=cli.whole(1, 16384), default=224, help="height of a crop")
    add("--fill", choices=images.COLORS, default="white", help="colour around a letterboxed crop")
    add("--border", choices=images.BORDERS, default="clip", help="what to do where the padding leaves the image")
    add(
        "--exif",
        choices=images.EXIF_MODES,
        default="auto",
        help="turn images as EXIF says; auto: where it fits the declared size",
    )
    add("--split", metavar="NAME", help="split of objects that name none (default: from the JSON's name, else all)")
    add("--split_names", metavar="OLD=NEW", nargs="+", default=[], help="rename splits, as in 1=train 2=test")
    add("--image_format", choices=("jpg", "png"), default="jpg", help="file format of crops")
    add("--jpeg_quality", metavar="Q", type=cli.whole(1, 100), default=95, help="quality of jpg crops")
    add("--max_pixels", metavar="N", type=cli.whole(1), default=images.MAX_PIXELS, help="skip images larger than this")
    add("--workers", metavar="N", type=cli.whole(1), default=os.cpu_count() or 1, help="threads")
    add("--strict", action="store_true", help="fail when an object is skipped")
    add("--overwrite", action="store_true", help="start anew where the folder was made with other options or input")
    return parser


def run(args: argparse.Namespace) -> None:
    roots = choose_paddings(args)
    style = Style(**{name: getattr(args, name) for name in Style.__dataclass_fields__})
    renamed = dict(pair.partition("=")[::2] for pair in args.split_names)
    if not all(renamed.values()) or not all("=" in pair for pair in args.split_names):
        raise cli.UsageError("--split_names takes OLD=NEW, as in 1=train 2=test")
    found: list[Object | Skipped] = []
    digest = hashlib.sha256()
    for path in args.json_path:
        data = path.read_bytes()
        digest.update(hashlib.sha256(data).digest())
        found += parse(data, path, split=args.split, split_names=renamed)
    if not args.image_folder.is_dir():
        raise cli.UserError(f"{args.image_folder}: no such folder; name the folder of images with --image_folder")
    planned = plan(found, images.ImageFolder(args.image_folder), style.image_format)
    used = [crop for crop in planned if isinstance(crop, Crop)]
    record = {
        **asdict(style),
        "split": args.split,
        "split_names": renamed,
        "annotations": digest.hexdigest(),
        "images": fingerprint(args.image_folder, {crop.file for crop in used}),
    }
    paths = [crop.path for crop in used]
    skipped: dict[Path, list[Skipped]] = {}
    with contextlib.ExitStack() as stack:
        todo = {}
        for root, padding in roots.items():
            own = {**record, "padding": str(padding)}
            if stack.enter_context(crops.writing(root, own, paths, overwrite=args.overwrite)):
                skipped[root] = crops.read_skipped(root)
            else:
                todo[root] = padding
        outcomes, written = crop_all(planned, args.image_folder, todo, style, args.workers) if todo else ({}, {})
        for root, padding in todo.items():
            rows, skipped[root] = settle(planned, outcomes, padding, style)
            crops.write(root, rows, skipped[root])
    for root in roots:
        there = len(planned) - len(skipped[root])
        report(root, written.get(root, 0), there, skipped[root], prefix=len(roots) > 1)
    if not any(len(planned) > len(left) for left in skipped.values()):
        raise cli.UserError(f"no object could be cropped: {cli.tally(item.reason for item in skipped[root])}")
    if args.strict and any(skipped.values()):
        raise cli.UserError("objects were skipped, which --strict forbids; see skipped.csv")


def report(root: Path, written: int, there: int, skipped: Sequence[Skipped], prefix: bool) -> None:
    """Print what became of the objects of one output folder."""
    text = f"{root}: " if prefix else ""
    text += f"{cli.count(written, 'crop')} written" if written or not there else "nothing to do"
    text += f" ({there - written:,} there already)" if there > written else ""
    text += f", {len(skipped):,} skipped"
    text += f" ({cli.tally(item.reason for item in skipped)}), see {root / crops.SKIPPED}" if skipped else ""
    print(text)


def fingerprint(folder: Path, names: set[str]) -> str:
    """Return a hash over the name, size and time of change of these files."""
    digest = hashlib.sha256()
    for name in sorted(names):
        status = os.stat(folder / name)
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
