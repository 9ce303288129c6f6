"""Plain folders of images: trees of class folders, with or without splits, and flat folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.cli import UserError, warn
from common.images import EXTENSIONS

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")


def scan(root: Path, splits: Sequence[str] = ()) -> tuple[list[str], list[str], list[tuple[str, ...]]]:
    """Return path, split and class names of every image below `root`, sorted by path; hidden files are left out.

    The first level is the split where all its folders are called so, in any case, or where `splits` names one of them; else
    the split is `all`. Raises UserError when two images differ in their extension only, for they would share an id.
    """
    paths = sorted(_walk(root, "", frozenset()))
    _check_ids(root, paths)
    parts = [path.split("/")[:-1] for path in paths]
    top = {folders[0] for folders in parts if folders}
    named = {name for name in top if name.lower() in SPLITS}
    by_split = bool(top & {*splits}) or (bool(top) and named == top)
    if named and not by_split:
        warn(
            f"{root}: {', '.join(sorted(named))} taken as a class, not a split, because of the folders beside it "
            f"({', '.join(sorted(top - named)[:5])}); --splits {' '.join(sorted(named))} says otherwise"
        )
    if not by_split:
        return paths, ["all"] * len(paths), [tuple(folders) for folders in parts]
    names = [folders[0] if folders else "all" for folders in parts]
    found = [name.lower() if name in named else name for name in names]
    return paths, found, [tuple(folders[1:]) for folders in parts]


def _walk(root: Path, below: str, above: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(root / below)
    if real in above:  # a link that leads back up
        return
    with os.scandir(root / below) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(root, f"{below}{entry.name}/", above | {real})
            elif entry.name.lower().endswith(EXTENSIONS):
                yield below + entry.name


def _check_ids(root: Path, paths: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for path in paths:
        other = first.setdefault(os.path.splitext(path)[0], path)
        if other is not path:
            raise UserError(f"{root}: {other} and {path} would share one id; rename or remove one of them")
