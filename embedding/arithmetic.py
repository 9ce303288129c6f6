"""How the vectors of a set are computed: precision, torch.compile and engine, chosen once and kept for what stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from backbones.preprocess import Preprocess
from common import cli, messages
from embedding import extraction
from embedding.output_set import OutputSet, arithmetic_of_others
from engines import program
from imaging import images

if TYPE_CHECKING:
    from engines.program import Program, Run

COMPILE_FROM = 20_000  # images from which torch.compile pays for its own time on a CPU


class Model(Protocol):
    """An Embedder, or Replicas on a cluster; see there."""

    spec: str
    options: dict[str, Any]
    fingerprint: str
    base_fingerprint: str
    preprocess: Preprocess
    dim: int
    device: Any
    settled: bool
    precision: str
    engine: str

    @property
    def compiled(self) -> bool: ...
    @property
    def exportable(self) -> bool: ...
    def program(self) -> Program: ...
    def use_engine(self, engine: str, run: Run) -> None: ...
    def settle(self, sample: Callable[[], np.ndarray], known: str | None = None) -> None: ...
    def use(self, precision: str) -> None: ...
    def compile(self, pixels: np.ndarray) -> float | None: ...
    def embed(
        self,
        paths: Sequence[Path],
        *,
        batch_size: int,
        workers: int,
        first_batch: int = 0,
        filled_to: int | None = None,
        max_pixels: int = cli.MAX_PIXELS,
        background: str = "white",
        pace: extraction.Pace | None = None,
        boxes: np.ndarray | None = None,
    ) -> Iterator[extraction.Batch]: ...


@dataclass(frozen=True)
class Arithmetic:
    """The fields of a record that say how vectors were computed; sets of equal arithmetic are equal to the last bit."""

    precision: str
    compiled: bool
    engine: str


def of(model: Model) -> Arithmetic:
    """Return the arithmetic that the model uses now."""
    return Arithmetic(model.precision, model.compiled, model.engine)


def choose(
    model: Model,
    record: dict[str, Any] | None,
    output: OutputSet,
    wanted: dict[str, Any],
    load: Callable[[int], np.ndarray],
    *,
    compilation: str,
    engine: str,
    batch_size: int,
    n_images: int,
    n_rows: int,
) -> None:
    """Set the model's arithmetic: that of the unfinished run, else that of the sets in the folder, else what pays.

    Images are read for that, by `load` from its row, only where something is to be measured. compilation: auto, on, off. engine:
    auto or one of ENGINES. n_images: how many the run embeds, n_rows: how many the set has. Raises UserError where the unfinished
    run's arithmetic cannot be had now.
    """

    @cache
    def sample() -> np.ndarray:
        return extraction.sample(load, n_rows, model.preprocess)

    before = of(model)
    _choose_precision(model, record, output, wanted, sample)
    if compilation == "auto":
        pays = str(model.device) == "cpu" and n_images >= COMPILE_FROM and not model.preprocess.keeps_size
        compilation = "on" if pays and engine in ("auto", "torch") and len(program.installed()) == 1 else "off"
    if record["compiled"] if record else compilation == "on":
        _compile(model, sample, batch_size, is_needed=record is not None)
    known = arithmetic_of_others(output.folder, wanted, "engine")
    filled_to = extraction.filled_size(n_rows, batch_size)
    _choose_engine(model, record["engine"] if record else engine, known, sample, filled_to, n_images)
    if model.engine != before.engine:
        messages.note(f"computing by {model.engine}")


def choose_engine(
    model: Model, engine: str = "auto", known: str | None = None, paths: Sequence[Path] = (), *, batch_size: int = 1
) -> None:
    """Set the engine for images that a user asks about: the one named, else, under auto, the `known` one, else what pays.

    known: that of the vectors which the images will be compared with; torch takes over where it cannot be had, told once. paths:
    the images, some of which are looked at where engines are compared; without any, noise is. Raises UserError where an engine
    that is named cannot be had.
    """

    @cache
    def sample() -> np.ndarray:
        return extraction.sample(lambda row: images.decode(paths[row]), len(paths), model.preprocess)

    _choose_engine(model, engine, known, sample, extraction.filled_size(len(paths), batch_size), len(paths))
    if model.engine != "torch":
        messages.note(f"computing in {model.precision} by {model.engine}")


def _choose_precision(
    model: Model,
    record: dict[str, Any] | None,
    output: OutputSet,
    wanted: dict[str, Any],
    sample: Callable[[], np.ndarray],
) -> None:
    if record is None and not model.settled:
        known = arithmetic_of_others(output.folder, wanted, "precision")
        model.settle(sample, known)
        messages.note(f"computing in {model.precision} on {model.device}")
        if known not in (None, model.precision):
            messages.note(
                f"{output.folder} has sets of this model in {known}, which is not close enough to fp32 for these images; "
                "for all alike: --precision fp32 --overwrite"
            )
    if record is not None and (model.precision, model.compiled) != (record["precision"], record["compiled"]):
        model.use(record["precision"])


def _compile(model: Model, sample: Callable[[], np.ndarray], batch_size: int, *, is_needed: bool) -> None:
    if model.compiled or not len(sample()):
        return
    seconds = model.compile(extraction.fill(sample(), batch_size))
    if seconds is not None:
        messages.note(f"compiled in {seconds:.0f} s")
    elif is_needed:
        raise messages.UserError(
            "the unfinished run was compiled, which cannot be done now; add --overwrite to start anew"
        )


def _choose_engine(
    model: Model,
    engine: str,
    known: str | None,
    sample: Callable[[], np.ndarray],
    batch_size: int,
    n_images: int,
) -> None:
    """Set the engine: the one named, else the `known` one of sets that this one is compared with, else the fastest."""
    asked = None if engine == "auto" else engine
    wanted = asked or known
    if wanted == model.engine or (wanted is None and model.engine != "torch"):
        return
    if wanted == "torch":
        model.use(model.precision)
    elif model.exportable and not model.compiled:
        looks = wanted is not None or (len(program.installed()) > 1 and n_images >= program.PAYS_FROM)
        try:
            if looks:
                _start(model, wanted, sample, batch_size)
        except messages.UserError as error:
            if asked:
                raise
            messages.warn_once("engine", f"going on in torch: {error}")
    elif asked:
        raise messages.UserError(
            f"--engine {wanted} computes in fp32 on a CPU, uncompiled, images of one size, not --pooling box; use --engine torch"
        )


def _start(model: Model, wanted: str | None, sample: Callable[[], np.ndarray], batch_size: int) -> None:
    """Start the `wanted` engine, or where none is, the fastest. Raises UserError where it cannot run, or is not close to torch."""
    exported = model.program()
    wanted = wanted or exported.remembered(batch_size)
    if wanted == "torch":
        return
    shown = sample()
    if not len(shown):  # none of the sample can be read; others may be
        size = 2, model.preprocess.height, model.preprocess.width, 3
        shown = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    pixels = torch.from_numpy(extraction.fill(shown, batch_size))
    embedder: Any = model  # what is exportable is one, and no replicas

    def in_torch(batch: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(embedder(batch.numpy()))

    if wanted is None:
        messages.note(f"trying engines: {', '.join(program.installed())}")
        wanted = exported.fastest(in_torch, pixels)
    if wanted == "torch":
        return
    run = exported.start(wanted)
    apart = program.differs(run(pixels), in_torch(pixels))
    if apart > program.CLOSE:
        raise messages.UserError(f"{wanted} gives vectors that differ by {apart:.1g} from torch's; use --engine torch")
    model.use_engine(wanted, run)
