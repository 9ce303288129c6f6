"""Labels, IDs and splits: label paths, split names, natural order, and a sample in which every class keeps its share."""

from __future__ import annotations

import math
import re

import numpy as np

from common.messages import UserError

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
SPLIT_NAMES = tuple(name for names in SPLITS.values() for name in names)


def same_split(first: str, second: str) -> bool:
    """Whether two names are those of one split, such as `val` and `validation`."""
    return first == second or any(first in names and second in names for names in SPLITS.values())


def label_paths(labels: np.ndarray, level: int | None = None, *, source: object = "the data") -> np.ndarray:
    """Return the (n,) str paths class_0/…/class_level of (n, levels) str class names, '' where a level is missing.

    Without a level: the whole paths. Raises UserError, which names `source`, where there is no such level.
    """
    levels = labels.shape[1]
    if level is not None and not 0 <= level < levels:
        raise UserError(f"{source} has label levels 0 to {levels - 1}, not {level}; change --label_level")
    paths = np.full(len(labels), "", dtype="<U1")
    for column in range(levels if level is None else level + 1):
        names = labels[:, column]
        longer = np.char.add(np.char.add(paths, "/"), names) if column else names
        paths = np.where(names == "", paths, longer)
    return paths


def stratified_sample(codes: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Return at most `n` rising row numbers (int64) of `codes` (rows,) int, stratified by code; all rows where there are no more.

    Every class gets its share of `n`, rounded by the largest remainder, and at least one row as long as there are not more classes
    than `n`; then `n` classes, drawn at random, get one each.
    """
    if len(codes) <= n:
        return np.arange(len(codes))
    rng = np.random.default_rng(seed)
    _, classes, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    if len(sizes) > n:
        wanted = np.zeros(len(sizes), np.int64)
        wanted[rng.permutation(len(sizes))[:n]] = 1
    else:
        share = sizes * (n / len(codes))
        wanted = np.maximum(1, np.floor(share).astype(np.int64))
        # Classes that were rounded up to one row may make too many: the largest classes give rows back.
        while (over := int(wanted.sum()) - n) > 0:
            richest = np.argsort(-(wanted - share) * (wanted > 1), kind="stable")[:over]
            wanted[richest[wanted[richest] > 1]] -= 1
        more = np.argsort(-np.where(wanted < sizes, share - wanted, -np.inf), kind="stable")[: n - int(wanted.sum())]
        wanted[more] += 1
    order = rng.permutation(len(codes))
    order = order[np.argsort(classes[order], kind="stable")]  # class by class, in random order within a class
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.repeat(wanted, sizes)])


def natural(text: str) -> list[tuple[float, str]]:
    """Return a sorting key by which -5 comes before 5, 5 before 10, and 10 before 10-vit; numbers come before words."""
    parts = enumerate(re.split(r"((?:^-)?\d+(?:\.\d+)?)", text))  # every second one is a number
    return [(float(part), "") if at % 2 else (math.inf, part) for at, part in parts if part]
