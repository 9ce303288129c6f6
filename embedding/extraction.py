"""Image files to vectors: decode in threads, embed in fixed batches, and know where the time goes."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from backbones.preprocess import Preprocess
from common import cli
from imaging import images


class Model(Protocol):
    """What is needed of a model: its input, where it runs, and model((n, height, width, 3) uint8) -> (n, dim) float32."""

    preprocess: Preprocess
    device: Any

    def __call__(self, batch: np.ndarray) -> np.ndarray: ...


@dataclass
class Pace:
    """Seconds of each batch: waiting for decoded images, and in the model; `wall` is the whole run's, on `lanes` at once."""

    decode: list[float] = field(default_factory=list)
    model: list[float] = field(default_factory=list)
    wall: float = 0.0
    lanes: int = 1


@dataclass(frozen=True)
class Batch:
    """One batch's outcome: input rows `rows`; `vectors` (k, dim) float32 of those that are `fine`; the others' reasons."""

    rows: range
    fine: np.ndarray
    vectors: np.ndarray
    skipped: list[tuple[int, str]]

    def moved(self, by: int) -> Batch:
        """Return the same of rows that stand `by` further on."""
        rows = range(self.rows.start + by, self.rows.stop + by)
        return replace(self, rows=rows, skipped=[(row + by, reason) for row, reason in self.skipped])


def embed(
    paths: Sequence[Path],
    model: Model,
    *,
    batch_size: int,
    workers: int,
    first_batch: int,
    filled_to: int,
    max_pixels: int,
    pace: Pace,
) -> Iterator[Batch]:
    """Yield the vectors of the images, batch by batch, from batch `first_batch` on; `pace` is filled in.

    Batches are fixed groups of rows, always filled up to `filled_to` images (the place of a bad or absent image is grey), so that a
    vector never depends on what was done before, nor on which of its neighbours could be read. A bad image costs its own row only.
    """

    def load(row: int) -> np.ndarray | str:
        try:
            return model.preprocess(images.decode(paths[row], max_pixels=max_pixels))
        except images.ImageError as error:
            return str(error)

    groups = [
        range(start, min(start + batch_size, len(paths)))
        for start in range(first_batch * batch_size, len(paths), batch_size)
    ]
    # On a CPU decoding and the model take turns on all cores: overlapped, each would only slow the other down.
    ahead = 0 if model.device.type == "cpu" else 2
    started = clock = time.perf_counter()
    for group, loaded in _ahead(groups, load, workers, ahead):
        pixels = stack(loaded, model.preprocess, filled_to)
        clock = _lap(pace.decode, clock)
        vectors = model(pixels)[: len(group)]
        clock = _lap(pace.model, clock)
        sound = np.isfinite(vectors).all(1) & vectors.any(1)
        reasons = [
            image if isinstance(image, str) else "" if fine else "the model gives no finite vector"
            for image, fine in zip(loaded, sound, strict=True)
        ]
        fine = np.array([not reason for reason in reasons])
        skipped = [(row, reason) for row, reason in zip(group, reasons, strict=True) if reason]
        yield Batch(group, fine, vectors[fine], skipped)
        clock = time.perf_counter()
        pace.wall = clock - started


def filled_size(n_images: int, batch_size: int) -> int:
    """Return how many images every batch of a set of `n_images` is filled up to: a power of two, or batch_size for larger sets.

    It depends on the size of the whole set only, never on what is left to do: equal runs give equal bits.
    """
    return min(batch_size, 1 << max(0, n_images - 1).bit_length())


def stack(loaded: Sequence[np.ndarray | str], preprocess: Preprocess, batch_size: int) -> np.ndarray:
    """Return (batch_size, height, width, 3) uint8 of the images that were loaded, grey where there is none."""
    batch = np.full((batch_size, preprocess.height, preprocess.width, 3), 128, np.uint8)
    for place, image in enumerate(loaded):
        if not isinstance(image, str):
            batch[place] = image
    return batch


def sample(
    paths: Sequence[Path], preprocess: Preprocess, *, n: int = 16, max_pixels: int = cli.MAX_PIXELS
) -> np.ndarray:
    """Return up to n readable images, evenly spaced in `paths`, as (n, height, width, 3) uint8."""
    chosen = [paths[row] for row in np.unique(np.linspace(0, len(paths) - 1, min(n, len(paths))).astype(int))]
    loaded = []
    for path in chosen:
        with contextlib.suppress(images.ImageError):
            loaded.append(preprocess(images.decode(path, max_pixels=max_pixels)))
    return stack(loaded, preprocess, len(loaded))


def fill(pixels: np.ndarray, n: int) -> np.ndarray:
    """Return n images: those given, again and again."""
    return pixels[np.arange(n) % len(pixels)]


def _ahead(
    groups: Sequence[range], load: Callable[[int], np.ndarray | str], workers: int, ahead: int
) -> Iterator[tuple[range, list[np.ndarray | str]]]:
    """Yield each group with its images, loaded in threads, at most `ahead` groups before they are asked for."""
    pending: deque[tuple[range, list[Future]]] = deque()
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        for group in groups:
            pending.append((group, [pool.submit(load, row) for row in group]))
            if len(pending) > ahead:
                first, futures = pending.popleft()
                yield first, [future.result() for future in futures]
        for first, futures in pending:
            yield first, [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _lap(laps: list[float], since: float) -> float:
    now = time.perf_counter()
    laps.append(now - since)
    return now


def describe(pace: Pace, n: int) -> str:
    """Return the speed of a run over n images, its share of the limit, and what holds it back."""
    decode, model = (float(np.median(laps)) * len(laps) if laps else 0.0 for laps in (pace.decode, pace.model))
    wall = max(pace.wall, 1e-9)
    decode, model = decode / pace.lanes, model / pace.lanes
    share = min(1.0, (decode + model) / wall)
    holds = "the model" if model > decode else "decoding and resizing"
    return (
        f"{n / wall:,.1f} images/s, {share:.0%} of the limit set by the model ({model / wall:.0%} of the time) and by decoding and "
        f"resizing ({decode / wall:.0%}); {holds} holds it back"
    )
