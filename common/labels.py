"""Labels and IDs: their natural order, and a sample in which every class keeps its share."""

from __future__ import annotations

import math
import re

import numpy as np

from common.messages import UserError


def label_paths(labels: np.ndarray, level: int | None = None, *, source: str) -> np.ndarray:
    """Return the (n,) str paths class_0/…/class_level of (n, levels) str labels; the deepest level unless one is given.

    An empty class adds nothing to a path. Raises UserError, naming `source`, when there is no such level.
    """
    n, levels = labels.shape
    if level is not None and not 0 <= level < levels:
        raise UserError(f"{source} has label levels 0 to {levels - 1}, not {level}; change --label_level")
    paths = np.full(n, "", dtype="<U1")
    for depth in range(levels if level is None else level + 1):
        part = labels[:, depth]
        longer = np.char.add(np.char.add(paths, "/"), part) if depth else part
        paths = np.where(part == "", paths, longer)
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
        while (
            over := int(wanted.sum()) - n
        ) > 0:  # the ones that were rounded up to a row, at the largest classes' cost
            richest = np.argsort(-(wanted - share) * (wanted > 1), kind="stable")[:over]
            wanted[richest[wanted[richest] > 1]] -= 1
        more = np.argsort(-np.where(wanted < sizes, share - wanted, -np.inf), kind="stable")[: n - int(wanted.sum())]
        wanted[more] += 1
    order = rng.permutation(len(codes))
    order = order[np.argsort(classes[order], kind="stable")]  # class by class, at random within
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.repeat(wanted, sizes)])


def natural_rank(text: str) -> tuple[int, float, str]:
    """Sort numbers by value, before texts."""
    return (0, float(text), text) if re.fullmatch(r"-?\d+(\.\d+)?", text, re.ASCII) else (1, 0.0, text)


def natural(text: str) -> list[tuple[float, str]]:
    """Return a sorting key by which 5 comes before 10, and 10 before 10-vit."""
    parts = enumerate(re.split(r"(\d+(?:\.\d+)?)", text))  # every second one is a number
    return [(float(part), "") if at % 2 else (math.inf, part) for at, part in parts if part]
