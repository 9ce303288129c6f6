#!/usr/bin/env python3
"""Draw annotated photographs of supermarket shelves: the padding study's demo data.

  python examples/make_shelf.py --output_root demo/shelf
  python examples/make_shelf.py --output_root big --shelves 60 --photos_per_shelf 4 --seed 7

Writes images/, annotations_sku.json, and the same boxes as COCO in train.json, val.json and test.json. A class is brand,
category and flavour. A shelf's photographs all stand in one split. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shelf.packages import CATALOGUE, Array, Product, bgr
from shelf.scene import Camera, Facing, Picture, arrange, jitter, paint_bay, split_of, true_box

from common import cli, files, messages

MISDRAWN = 8  # a drawn box is off by at most this many pixels a side


@dataclass(frozen=True)
class Phone:
    """What a photographer's phone does to a picture."""

    suffix: str
    turned: bool  # stores pictures lying on their side, and says so in EXIF
    warmth: float
    noise: float  # standard deviation in mid-grey, of 255
    quality: int


PHONES = (
    Phone(".jpg", False, 0.0, 2.5, 92),
    Phone(".JPG", False, 0.06, 5.0, 85),
    Phone(".jpg", True, -0.05, 3.5, 88),
)


@dataclass(frozen=True)
class Shot:
    """A photograph to take: of which shelf, and the how manieth."""

    shelf: int
    number: int
    facings: tuple[Facing, ...]

    @property
    def phone(self) -> Phone:
        return PHONES[self.number % len(PHONES)]

    @property
    def name(self) -> str:
        return f"shelf_{self.shelf:02d}_{self.number + 1}"


@dataclass(frozen=True)
class Drawn:
    """A box that somebody drew; left, top, right, bottom in pixels, right and bottom exclusive."""

    product: Product
    box: tuple[int, int, int, int]


def take(shot: Shot, *, seed: int, width: int, height: int) -> tuple[Array, list[Drawn]]:
    """Return a photograph (height, width, 3) uint8 BGR, and its boxes.

    A package of which more than half lies outside the photograph has none.
    """
    rng = np.random.default_rng([seed, 10, shot.shelf, shot.number])
    camera = Camera(width, height, rng)
    facings = [jitter(facing, rng) for facing in shot.facings]
    picture = Picture(camera, bgr("#8f9396"))
    paint_bay(picture, shot.shelf, facings, rng)
    photo = develop(picture.pixels, shot.phone, rng)
    wide = rng.normal(-5, 2)  # some people draw wide boxes, most tight ones
    frame = np.array([width, height, width, height])
    drawn = []
    for facing in facings:
        truth = true_box(camera, facing)
        off = (np.array([-wide, -wide, wide, wide]) + rng.normal(0, 2, 4)).clip(-MISDRAWN, MISDRAWN)
        box = np.round(truth + off).clip(0, frame).astype(int)
        if area(truth.clip(0, frame)) >= 0.5 * area(truth) and area(box) > 0:
            drawn.append(Drawn(facing.product, tuple(box.tolist())))
    return photo, drawn


def area(box: Array) -> float:
    return float(max(0, box[2] - box[0]) * max(0, box[3] - box[1]))


def develop(scene: Array, phone: Phone, rng: np.random.Generator) -> Array:
    """Return the photograph (h, w, 3) uint8 of a scene painted larger: light, colour, blur, contrast, noise."""
    import cv2

    h, w = scene.shape[0] // 2, scene.shape[1] // 2
    image = cv2.resize(scene, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32)
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    slope, lamp = rng.uniform(-0.14, 0.14, 2), rng.uniform(-1, 1, 2)
    light = 1 + slope[0] * x + slope[1] * y
    light += rng.uniform(0.05, 0.3) * np.exp(-((x - lamp[0]) ** 2 + (y - lamp[1]) ** 2) / 0.6)
    light *= (1 - 0.08 * (x**2 + y**2)) * rng.uniform(0.85, 1.1)
    image *= cv2.resize(light.astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)[..., None]
    warmth = phone.warmth + rng.normal(0, 0.035)
    image *= np.array([1 - warmth, 1 + rng.normal(0, 0.01), 1 + warmth], np.float32)
    image = cv2.GaussianBlur(image, (0, 0), 0.15 + abs(rng.normal(0.3, 0.45)))
    if rng.random() < 0.2:  # a hand that moved
        kernel, angle = np.zeros((7, 7), np.float32), rng.uniform(0, np.pi)
        reach = rng.uniform(0.6, 1.6) * np.array([np.cos(angle), np.sin(angle)])
        start, end = np.round([3 - reach, 3 + reach]).astype(int).tolist()
        cv2.line(kernel, start, end, (1.0,))
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    image = 255 * (np.clip(image, 0, 255) / 255) ** rng.uniform(0.88, 1.12)
    image += rng.standard_normal(image.shape, np.float32) * phone.noise * (0.5 + np.sqrt(image / 255))
    return np.clip(image, 0, 255).astype(np.uint8)


def encode(photo: Array, phone: Phone) -> bytes:
    """Return the photograph as the phone's JPEG file; a turned one carries EXIF orientation 6."""
    import cv2

    stored = np.ascontiguousarray(np.rot90(photo)) if phone.turned else photo
    jpeg = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, phone.quality])[1].tobytes()
    exif = b"Exif\0\0" + struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
    return jpeg[:2] + struct.pack(">HH", 0xFFE1, len(exif) + 2) + exif + jpeg[2:] if phone.turned else jpeg


def shoot(shot: Shot, *, folder: Path, seed: int, width: int, height: int) -> list[Drawn]:
    """Take a photograph, write it unless it is there already, return its boxes."""
    photo, drawn = take(shot, seed=seed, width=width, height=height)
    path, content = folder / (shot.name + shot.phone.suffix), encode(photo, shot.phone)
    if not path.is_file() or path.read_bytes() != content:  # crops of an unchanged photo need not be made anew
        files.write_bytes(path, content, sync=False)
    return drawn


def describe(
    shots: Sequence[Shot], boxes: Sequence[Sequence[Drawn]], width: int, height: int
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return all boxes as SKU JSON, and as COCO JSON by split. An object has the same id in both."""
    category_ids = {product: at for at, product in enumerate(CATALOGUE, 1)}
    categories = [
        {"id": at, "name": product.sku_id, "supercategory": product.line.brand, "classes": product.classes}
        for product, at in category_ids.items()
    ]
    sku: dict[str, Any] = {shot.name: {} for shot in shots}
    coco: dict[str, dict[str, Any]] = {
        split: {"images": [], "annotations": [], "categories": categories} for split in ("train", "val", "test")
    }
    object_ids = count(1)
    for image_id, (shot, drawn) in enumerate(zip(shots, boxes, strict=True), 1):
        split = split_of(shot.shelf)
        coco[split]["images"].append(
            {"id": image_id, "file_name": shot.name + shot.phone.suffix, "width": width, "height": height}
        )
        for item in drawn:
            object_id, (left, top, right, bottom) = next(object_ids), item.box
            points = {"top_left": [left, top], "bottom_right": [right, bottom]}
            product = {"sku_id": item.product.sku_id, "classes": item.product.classes}
            sku[shot.name][str(object_id)] = {"points": points, **product, "split_id": split}
            size = (right - left, bottom - top)
            coco[split]["annotations"].append(
                {"id": object_id, "image_id": image_id, "category_id": category_ids[item.product],
                 "bbox": [left, top, *size], "area": size[0] * size[1], "iscrowd": 0}
            )  # fmt: skip
    return sku, coco


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    parser.add_argument("--output_root", type=Path, required=True, metavar="DIR", help="where images/ and the JSONs go")
    parser.add_argument("--shelves", type=cli.whole(3), default=16, metavar="N", help="shelves to fill")
    parser.add_argument("--photos_per_shelf", type=cli.whole(1), default=3, metavar="N", help="photos of each shelf")
    parser.add_argument("--width", type=cli.whole(64, 8192), default=768, metavar="PX", help="width of a photo")
    parser.add_argument("--height", type=cli.whole(64, 8192), default=1024, metavar="PX", help="height of a photo")
    parser.add_argument("--workers", type=cli.whole(1), default=cli.cores(), metavar="N", help="threads")
    cli.add_seed(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    shots = [
        Shot(shelf, number, tuple(facings))
        for shelf, facings in enumerate(arrange(args.shelves, args.seed))
        for number in range(args.photos_per_shelf)
    ]
    work = partial(shoot, folder=args.output_root / "images", seed=args.seed, width=args.width, height=args.height)
    with ThreadPoolExecutor(args.workers) as pool:
        boxes = list(messages.progress(pool.map(work, shots), total=len(shots), desc="photographs", unit="photo"))
    sku, coco = describe(shots, boxes, args.width, args.height)
    missing = len(CATALOGUE) - len({annotation["category_id"] for annotation in coco["train"]["annotations"]})
    if missing:
        raise messages.UsageError(
            f"{missing} of {len(CATALOGUE)} classes are on no train photo; raise --shelves or --photos_per_shelf"
        )
    files.write_text(args.output_root / "annotations_sku.json", json.dumps(sku, indent=1))
    for split, content in coco.items():
        files.write_text(args.output_root / f"{split}.json", json.dumps(content, indent=1))
    counts = ", ".join(f"{len(content['annotations']):,} {split}" for split, content in coco.items())
    photos, shelves = messages.count(len(shots), "photo"), messages.count(args.shelves, "shelf", "shelves")
    print(f"{args.output_root}: {photos} of {shelves}, boxes: {counts}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
