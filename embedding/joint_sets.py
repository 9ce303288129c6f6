"""Several embedding sets in one pass over photos: each photo is decoded once, and its crops go to the sets of all paddings."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common import knn, messages
from embedding import arithmetic, extraction, set_writer
from embedding.arithmetic import Model
from embedding.output_set import OutputSet
from embedding.set_writer import Options, Part
from imaging.images import ImageError

_TOGETHER = 2048  # crops that are loaded at a time, or somewhat more


class Photo(Protocol):
    """A photo and its crops. `sets` and `rows` (crops, paddings): the set and the row that each crop belongs to, -1 for none."""

    @property
    def sets(self) -> np.ndarray: ...
    @property
    def rows(self) -> np.ndarray: ...
    def cut(self, wanted: np.ndarray) -> Iterator[np.ndarray]: ...  # of (crops, paddings) bool, row by row


class _Layout:
    """Where each row of each set comes from. The rows of a set are made in the order of the photos, not in their own."""

    def __init__(self, photos: Sequence[Photo], sizes: Sequence[int]) -> None:
        sets = np.concatenate([photo.sets.ravel() for photo in photos])
        rows = np.concatenate([photo.rows.ravel() for photo in photos])
        photo_of = np.repeat(np.arange(len(photos)), [photo.sets.size for photo in photos])
        self.order = [rows[sets == number] for number in range(len(sizes))]
        self.photo_of = [photo_of[sets == number] for number in range(len(sizes))]
        self.place = [np.argsort(order) for order in self.order]

    def load(self, photos: Sequence[Photo], number: int, row: int) -> np.ndarray:
        """Return the image of one row of a set, RGB uint8; raises ImageError."""
        photo = photos[self.photo_of[number][self.place[number][row]]]
        return next(photo.cut((photo.sets == number) & (photo.rows == row)))

    def wanted(self, photo: Photo, done: dict[int, int]) -> np.ndarray:
        """Return (crops, paddings) bool: the crops of the sets of `done` that come after as many as are done."""
        wanted = np.zeros(photo.sets.shape, bool)
        for number, first in done.items():
            own = photo.sets == number
            wanted[own] = self.place[number][photo.rows[own]] >= first
        return wanted


class _OpenSet:
    """A set that is being made: the rows on disk, and the images that wait until a batch is full."""

    def __init__(self, part: Part, output: OutputSet, record: dict[str, Any], order: np.ndarray) -> None:
        self.output, self.record, self.order = output, record, order
        self.manifest = part.manifest.take(order.tolist())
        self.waiting: list[np.ndarray | str] = []
        self.seconds = 0.0  # that the model took

    def open(self, model: Model, batch_size: int) -> int:
        """Take up what an earlier run has left; returns how many images are done."""
        self.rows, self._batch_size = self.output.open(self.record, model.dim), batch_size
        self._boxes = set_writer.boxes_of(self.manifest, model)
        self._filled_to = batch_size if model.compiled else extraction.filled_size(len(self.manifest), batch_size)
        self.done = min(self.rows.batches * batch_size, len(self.manifest))
        if self.done:
            messages.note(f"{self.output.stem}: going on after {self.done:,} of {len(self.manifest):,} images")
        return self.done

    def embed(self, model: Any, pace: extraction.Pace) -> int:
        """Embed the batches that are full, and the last one; returns how many images were embedded."""
        before = self.done
        while self.waiting and len(self.waiting) >= min(self._batch_size, len(self.manifest) - self.done):
            loaded: Sequence[np.ndarray | str] = self.waiting[: self._batch_size]
            self.waiting = self.waiting[self._batch_size :]
            started = time.perf_counter()
            boxes = self._boxes[self.done : self.done + len(loaded)] if self._boxes is not None else None
            loaded, vectors = extraction.run(model, loaded, self._filled_to, boxes)
            extraction.lap(pace.model, started)
            self.seconds += time.perf_counter() - started
            batch = extraction.outcome(range(self.done, self.done + len(loaded)), loaded, vectors)
            unit = self.record["normalized"]
            self.rows.append(knn.unit(batch.vectors) if unit else batch.vectors, batch.skipped)
            self.done = batch.rows.stop
        return self.done - before

    def finish(self, spreadsheet_safe: bool) -> str:
        """Write the set; returns why it cannot be written, else ""."""
        skipped = messages.tally(reason for _, reason in self.rows.skipped)
        if not self.rows.rows:
            return f"{self.manifest.root}: no image of split {self.record['split']} gave a vector ({skipped})"
        in_order = bool((np.diff(self.order) > 0).all())
        order = None if in_order else self.order
        self.output.write(self.manifest, self.rows, self.record, order=order, spreadsheet_safe=spreadsheet_safe)
        told = f" ({skipped}), see {self.output.skipped_csv}" if skipped else ""
        rows = messages.count(self.rows.rows, "row")
        messages.note(f"{self.output.stem}: {rows} of {self.rows.dim} numbers, {len(self.rows.skipped)} skipped{told}")
        return ""


@dataclass(frozen=True)
class Written:
    """The files of a set, and by their paths the crops that gave no vector, with the reason."""

    files: list[Path]
    lost: dict[str, str]


def write_sets(parts: Sequence[Part], photos: Sequence[Photo], model: Any, options: Options) -> list[Written]:
    """Write the embedding sets of `parts`, each row cut out of one of the `photos`; complete ones stay as they are.

    Raises UserError for a set of another record, and where no image of a set gave a vector.
    """
    layout = _Layout(photos, [len(part.manifest) for part in parts])
    n_images = sum(len(part.manifest) for part in parts)
    with contextlib.ExitStack() as stack:
        passes: dict[arithmetic.Arithmetic, dict[int, _OpenSet]] = {}
        for number, part in enumerate(parts):
            output = OutputSet(options.output_root, part.stem)
            stack.enter_context(output.locked())
            wanted = set_writer.asked_for(part, model, options)
            record = output.earlier(wanted, overwrite=options.overwrite)
            if record and output.is_complete() and not options.overwrite:
                messages.note(f"{output.stem}: complete already")
                continue
            load = partial(layout.load, photos, number)
            set_writer.tell_enlarged(load, model)
            size = len(part.manifest)
            arithmetic.choose(model, record, output, wanted, load, **options.arithmetic, n_images=n_images, n_rows=size)
            record = {**wanted, **asdict(arithmetic.of(model))}
            opened = _OpenSet(part, output, record, layout.order[number])
            passes.setdefault(arithmetic.of(model), {})[number] = opened
        for used, sets in passes.items():
            number, first = next(iter(sets.items()))
            if arithmetic.of(model) != used:
                load, size = partial(layout.load, photos, number), len(first.manifest)
                how = {**options.arithmetic, "n_images": n_images, "n_rows": size}
                arithmetic.choose(model, first.record, first.output, first.record, load, **how)
            _embed(sets, layout, photos, model, options)
    outputs = [OutputSet(options.output_root, part.stem) for part in parts]
    return [Written(output.found(), output.lost()) for output in outputs]


def _embed(sets: dict[int, _OpenSet], layout: _Layout, photos: Sequence[Photo], model: Any, options: Options) -> None:
    """Embed what the sets have left, and write them."""
    done = {number: opened.open(model, options.batch_size) for number, opened in sets.items()}
    total, first = sum(len(opened.manifest) for opened in sets.values()), sum(done.values())
    left = [photo for photo in photos if layout.wanted(photo, done).any()]

    def load(at: int) -> list[tuple[int, np.ndarray | str]]:
        photo = left[at]
        wanted = layout.wanted(photo, done)
        numbers = photo.sets[wanted].tolist()
        try:
            return list(zip(numbers, map(model.preprocess, photo.cut(wanted)), strict=True))
        except ImageError as error:
            return [(number, str(error)) for number in numbers]

    pace, started = extraction.Pace(), time.perf_counter()
    try:
        with messages.progress(total=total, desc="embed", unit="image") as bar:
            bar.update(first)
            clock = started
            for _, loaded in extraction.ahead(_groups(left), load, options.workers, model.device):
                extraction.lap(pace.decode, clock)
                for number, image in (cut for cuts in loaded for cut in cuts):
                    sets[number].waiting.append(image)
                bar.update(sum(opened.embed(model, pace) for opened in sets.values()))
                clock = time.perf_counter()
    except KeyboardInterrupt:
        messages.note(f"{sum(opened.done for opened in sets.values()):,} of {total:,} images done")
        raise
    pace.wall = time.perf_counter() - started
    complaints = [text for text in [opened.finish(options.spreadsheet_safe) for opened in sets.values()] if text]
    rest = (pace.wall - sum(opened.seconds for opened in sets.values())) / max(1, total - first)
    for number, opened in sets.items():  # what is no set's own time falls on all images alike
        n_own = opened.done - done[number]
        set_writer.note_speed(options.output_root, model, opened.record["id"], n_own, opened.seconds + rest * n_own)
    n_new = messages.count(total - first, "image")
    messages.note(f"{n_new} embedded, {(total - first) / max(pace.wall, 1e-9):,.1f} images/s")
    messages.detail(extraction.describe(pace))
    if complaints:
        raise messages.UserError(complaints[0])


def _groups(photos: Sequence[Photo]) -> Iterator[range]:
    """Yield runs of photos that are loaded together."""
    start, cuts = 0, 0
    for at, photo in enumerate(photos):
        cuts += photo.sets.size
        if cuts >= _TOGETHER or at - start >= 63:
            yield range(start, at + 1)
            start, cuts = at + 1, 0
    if start < len(photos):
        yield range(start, len(photos))
