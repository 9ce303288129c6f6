#!/usr/bin/env python3
"""Fetch the 102 Flowers data set (8,189 photographs, 345 MB) into class folders, in its official splits.

  python examples/get_flowers.py --output_root flowers
  python examples/get_flowers.py --output_root flowers --source downloads/
  python train.py --data_root flowers --objective triplet --output trained/flowers

Writes train/, val/ and test/ with a folder for each flower. Run again after an interruption, it goes on.
Nilsback and Zisserman 2008, "Automated Flower Classification over a Large Number of Classes".
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import cli, files, messages

URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
SPLITS = ("train", "val", "test")
STAGING, LOCK = ".download", ".lock"


def fetch(folder: Path, source: str) -> dict[str, list[tuple[Path, str]]]:
    """Bring the data set into `folder` and return, by split, each image's file and the flower's name."""
    from torchvision.datasets import Flowers102
    from torchvision.datasets.utils import check_integrity

    class Flowers(Flowers102):
        _download_url_prefix = source.rstrip("/") + "/"

    known = dict(Flowers102._file_dict.values())
    if Path(source).is_dir():
        for name, checksum in known.items():
            if not check_integrity(Path(source, name), checksum):
                raise messages.UserError(f"{Path(source, name)} is missing or damaged; fetch it from {URL}")
            with files.whole(folder / "flowers-102" / name) as temporary:
                shutil.copyfile(Path(source, name), temporary)
    found = {}
    try:
        for split in SPLITS:
            flowers = Flowers(folder, split, download=True)
            names = [Flowers.classes[label].replace(" ", "_") for label in flowers._labels]
            found[split] = list(zip(flowers._image_files, names, strict=True))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise messages.UserError(
            f"{source} is out of reach ({reason}); --source names a folder that holds {', '.join(known)}"
        ) from None
    except (RuntimeError, ValueError) as error:  # a wrong checksum, or no address
        raise messages.UserError(f"{source} did not give the data set ({error}); run the same command again") from None
    return found


def place(found: dict[str, list[tuple[Path, str]]], root: Path) -> None:
    """Put every image into `root/<split>/<flower>/`; the staged file is linked where the file system can, else copied."""
    for split, images in found.items():
        for source, name in messages.progress(images, desc=split, unit="image"):
            target = root / split / name / source.name
            if target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except FileNotFoundError:
                raise messages.UserError(f"{source.name} is not in the archive; run the same command again") from None
            except OSError:
                files.write_bytes(target, source.read_bytes(), sync=False)


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    parser.add_argument("--output_root", type=Path, default=Path("flowers"), help="folder for train/, val/ and test/")
    parser.add_argument("--source", default=URL, metavar="URL|FOLDER", help="where the three files are taken from")
    return parser


def run(args: argparse.Namespace) -> None:
    staging = args.output_root / STAGING
    socket.setdefaulttimeout(30)  # seconds without a byte
    with files.locked(args.output_root / LOCK):
        if staging.exists() or not all((args.output_root / split).is_dir() for split in SPLITS):
            found = fetch(staging, args.source)
            place(found, args.output_root)
            shutil.rmtree(staging)
    for split in SPLITS:
        folders = [path for path in (args.output_root / split).iterdir() if path.is_dir()]
        n = sum(1 for folder in folders for _ in folder.iterdir())
        print(f"{args.output_root / split}: {messages.count(n, 'image')} of {messages.count(len(folders), 'flower')}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
