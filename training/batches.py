"""Which rows are trained on, in which batches, and which are held out. Labels are int codes (n,); rows are int64 indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def hold_out(labels: np.ndarray, samples: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Return (n,) bool, about `share` of the rows of every class, whole source images only; each class keeps a row outside.

    samples: (n,) the source image of each row. Images are taken in random order as long as every one of their classes has less
    than its share; a class with a single source image gives none.
    """
    order, image = np.unique(np.asarray(samples), return_inverse=True)
    counts = np.zeros((len(order), int(labels.max()) + 1), np.int64)
    np.add.at(counts, (image, labels), 1)
    total = counts.sum(axis=0)
    wanted = np.maximum(np.round(total * share), 1)
    held, taken = np.zeros(len(order), bool), np.zeros_like(total)
    for one in np.random.default_rng(seed).permutation(len(order)):
        present = counts[one] > 0
        fits = ((taken < wanted) & (taken + counts[one] < total))[present]
        if fits.all():
            held[one] = True
            taken += counts[one]
    return held[image]


def balanced_batches(
    labels: np.ndarray, batch_size: int, per_class: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield the batches of one epoch: `per_class` rows of each of batch_size // per_class classes (of all, where there are fewer).

    Classes come round in random order, each as often as the others; the rows of a class all come before one comes again. A class
    of fewer rows is repeated within the batch. There are as many batches as shuffled ones of the same size.
    """
    classes = np.unique(labels)
    members = {one: np.flatnonzero(labels == one) for one in classes}
    n_classes = min(max(2, batch_size // per_class), len(classes))
    order = _endless(classes, rng)
    rows = {one: _endless(members[one], rng) for one in classes}
    for _ in range(n_batches(len(labels), n_classes * per_class)):
        chosen: dict[int, None] = {}
        while len(chosen) < n_classes:  # across the seam of two rounds a class could come twice
            chosen.setdefault(int(next(order)))
        yield np.array([next(rows[one]) for one in chosen for _ in range(per_class)])


def shuffled_batches(n: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the rows 0..n-1 in random order in batches of nearly equal size, at most `batch_size`."""
    yield from np.array_split(rng.permutation(n), n_batches(n, batch_size))


def n_batches(n: int, batch_size: int) -> int:
    return -(-n // batch_size)


def _endless(values: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(values)
