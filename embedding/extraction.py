"""Image files to vectors: decode in threads, embed in fixed batches, and know where the time goes."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from backbones.preprocess import Preprocess
from common import cli
from imaging import images
from imaging.colors import COLORS

Loaded = TypeVar("Loaded")


class Model(Protocol):
    """What is needed of a model: its input, where it runs, and model((n, height, width, 3) uint8) -> (n, dim) float32.

    boxes (n, 4) float32: where the object lies in each image, for models that pool over it.
    """

    preprocess: Preprocess
    device: Any

    def __call__(self, batch: np.ndarray, boxes: np.ndarray | None = None) -> np.ndarray: ...


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
    filled_to: int,
    first_batch: int = 0,
    max_pixels: int = cli.MAX_PIXELS,
    background: str = "white",
    pace: Pace | None = None,
    boxes: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Yield the vectors of the images, batch by batch, from batch `first_batch` on; `pace` is filled in.

    Batches are fixed groups of rows, always filled up to `filled_to` images (the place of a bad or absent image is grey), so that a
    vector never depends on what was done before, nor on which of its neighbours could be read. A bad image costs its own row only.
    Where images keep their sizes, a group goes through the model in one batch for each size, not filled up: a neighbour that
    could not be read may then change the last bits. boxes (len(paths), 4) float32: see Model.
    """

    def load(row: int) -> np.ndarray | str:
        try:
            image = images.decode(paths[row], max_pixels=max_pixels, background=COLORS[background])
            return model.preprocess(image)
        except images.ImageError as error:
            return str(error)

    groups = [
        range(start, min(start + batch_size, len(paths)))
        for start in range(first_batch * batch_size, len(paths), batch_size)
    ]
    pace = pace or Pace()
    started = clock = time.perf_counter()
    for group, loaded in ahead(groups, load, workers, model.device):
        clock = lap(pace.decode, clock)
        taken, vectors = run(model, loaded, filled_to, None if boxes is None else boxes[group.start : group.stop])
        clock = lap(pace.model, clock)
        yield outcome(group, taken, vectors)
        clock = time.perf_counter()
        pace.wall = clock - started


def run(
    model: Model, loaded: Sequence[np.ndarray | str], filled_to: int, boxes: np.ndarray | None = None
) -> tuple[Sequence[np.ndarray | str], np.ndarray]:
    """Return what was loaded and the vectors (n or more, dim) float32; an image that the model cannot take becomes the reason."""
    if not model.preprocess.keeps_size:
        filled = boxes if boxes is None else np.concatenate([boxes, whole_boxes(filled_to - len(loaded))])
        return loaded, _embedded(model, stack(loaded, model.preprocess, filled_to), filled)
    outcomes: list[np.ndarray | str] = list(loaded)
    found: dict[int, np.ndarray] = {}
    for rows in by_size(loaded):
        pixels = np.stack([loaded[row] for row in rows])  # type: ignore[arg-type]
        try:
            found |= zip(rows, _embedded(model, pixels, None if boxes is None else boxes[rows]), strict=True)
        except (RuntimeError, TypeError, ValueError, AssertionError):  # the model is the user's choice
            for row in rows:
                outcomes[row] = f"the model cannot take {pixels.shape[2]} x {pixels.shape[1]} pixels"
    dim = len(next(iter(found.values()), ()))
    return outcomes, np.array([found.get(row, np.zeros(dim)) for row in range(len(loaded))], np.float32)


def _embedded(model: Model, pixels: np.ndarray, boxes: np.ndarray | None) -> np.ndarray:
    return model(pixels) if boxes is None else model(pixels, boxes)


def whole_boxes(n: int) -> np.ndarray:
    """Return the boxes (n, 4) float32 of whole images."""
    return np.tile(np.array([0, 0, 1, 1], np.float32), (n, 1))


def by_size(loaded: Sequence[np.ndarray | str]) -> list[list[int]]:
    """Return the places of the images of each size, the sizes in the order of their first image."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(loaded):
        if not isinstance(image, str):
            places.setdefault(image.shape, []).append(place)
    return list(places.values())


def outcome(group: range, loaded: Sequence[np.ndarray | str], vectors: np.ndarray) -> Batch:
    """Return what a batch came to: an image that was not loaded, or whose vector is not finite or zero, is skipped."""
    vectors = vectors[: len(group)]
    sound = np.isfinite(vectors).all(1) & vectors.any(1)
    reasons = [
        image if isinstance(image, str) else "" if fine else "the model gives no finite vector"
        for image, fine in zip(loaded, sound, strict=True)
    ]
    fine = np.array([not reason for reason in reasons])
    skipped = [(row, reason) for row, reason in zip(group, reasons, strict=True) if reason]
    return Batch(group, fine, vectors[fine], skipped)


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


def sample(load: Callable[[int], np.ndarray], n_images: int, preprocess: Preprocess, *, n: int = 16) -> np.ndarray:
    """Return up to n readable images, evenly spaced among the rows, as (n, height, width, 3) uint8.

    Where images keep their sizes, these are those of the most frequent size. load: returns the image of a row as RGB uint8, or
    raises ImageError.
    """
    loaded = []
    for row in np.unique(np.linspace(0, n_images - 1, min(n, n_images)).astype(int)):
        with contextlib.suppress(images.ImageError):
            loaded.append(preprocess(load(int(row))))
    if preprocess.keeps_size and loaded:
        return np.stack([loaded[place] for place in max(by_size(loaded), key=len)])
    return stack(loaded, preprocess, len(loaded))


def fill(pixels: np.ndarray, n: int) -> np.ndarray:
    """Return n images: those given, again and again."""
    return pixels[np.arange(n) % len(pixels)]


def ahead(
    groups: Iterable[range], load: Callable[[int], Loaded], workers: int, device: Any
) -> Iterator[tuple[range, list[Loaded]]]:
    """Yield each group with what was loaded for it in threads, a few groups before they are asked for.

    On a CPU decoding and the model take turns on all cores: overlapped, each would only slow the other down.
    """
    most = 0 if device.type == "cpu" else 2
    pending: deque[tuple[range, list[Future]]] = deque()
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        for group in groups:
            pending.append((group, [pool.submit(load, row) for row in group]))
            if len(pending) > most:
                first, futures = pending.popleft()
                yield first, [future.result() for future in futures]
        for first, futures in pending:
            yield first, [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def lap(laps: list[float], since: float) -> float:
    """Add the seconds since then to `laps`, and return the time now."""
    now = time.perf_counter()
    laps.append(now - since)
    return now


def describe(pace: Pace) -> str:
    """Return where the time of a run went: into the model, into decoding, and what holds it back."""
    decode, model = (float(np.median(laps)) * len(laps) if laps else 0.0 for laps in (pace.decode, pace.model))
    wall = max(pace.wall, 1e-9) * pace.lanes
    holds = "the model" if model > decode else "decoding and resizing"
    return f"the model takes {model / wall:.0%} of the time, decoding and resizing {decode / wall:.0%}; {holds} holds it back"
