"""Engines beside torch: a model exported once to ONNX, then run by ONNX Runtime or OpenVINO, in float32 on a CPU."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from common import cli, files
from common.messages import UserError, shorten
from engines.precision import cache_folder, processor, remembered

ENGINES = ("torch", "onnxruntime", "openvino")
CLOSE = 1e-4  # the largest relative difference of a vector from torch's
PAYS_FROM = (
    500  # images from which exporting a model, about ten seconds, pays for itself where an engine is twice as fast
)
FASTER = 1.1  # times the speed of the engines before it in ENGINES, for one to be chosen: no near tie decides
MOST = 1 << 31  # bytes of a program: ONNX holds no more in one file
ROUNDS = 5  # in which engines are timed, each once in every round
REST = 0.02  # seconds for which threads that have done their work may still keep a core busy

Run = Callable[[torch.Tensor], torch.Tensor]


def installed() -> tuple[str, ...]:
    """Return the engines that can be used here, torch first. Exporting a model needs the package onnxscript as well."""
    return ("torch", *(name for name in ENGINES[1:] if _version(name) and _version("onnxscript")))


def _version(package: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


def missing(engine: str) -> list[str]:
    """Return the packages that this engine needs and that are not here; onnxruntime has several distributions of one module."""
    return [name for name in (engine, "onnxscript") if importlib.util.find_spec(name) is None]


class Program:
    """A model as an ONNX file in the cache folder of the user, and what was measured of it there.

    module: uint8 (n, height, width, 3) -> float32 (n, dim), images of one `size` (height, width), any n. fingerprint: of the
    model; with torch's version it names the file, so that another model or version is exported anew.
    """

    def __init__(self, module: nn.Module, size: tuple[int, int], fingerprint: str) -> None:
        self._module, self._size = module, size
        key = f"{fingerprint} {size} torch {torch.__version__} onnxscript {_version('onnxscript')}"
        self.folder = cache_folder() / f"program-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
        self.path = self.folder / "model.onnx"
        self._seal, self._fastest = self.folder / "sha256", self.folder / "fastest.json"

    def export(self) -> Path:
        """Return the ONNX file, written on the first call; one that is damaged, or of another model, is written anew.

        Raises UserError where the model cannot be exported or the folder not be written.
        """
        if not self._is_whole():
            try:
                with files.locked(self.folder.with_suffix(".lock"), wait=True):  # other runs export as well
                    if not self._is_whole():
                        self._export()
            except OSError as error:
                raise UserError(f"{self.folder} cannot be written: {shorten(error)}; use --engine torch") from None
            except Exception as error:  # a model that cannot be traced, whatever it is
                raise UserError(f"this model cannot be exported: {shorten(error)}; use --engine torch") from None
        return self.path

    def _is_whole(self) -> bool:
        """Whether the file is there as it was exported for this model."""
        with contextlib.suppress(OSError):
            return files.read_regular(self._seal, 1 << 10) == self._digest().encode()
        return False

    def _digest(self) -> str:
        """Return what stands beside the file to tell that it is whole, and of this model."""
        digest = hashlib.sha256(self.folder.name.encode())  # which names the model
        digest.update(files.read_regular(self.path, MOST))
        return digest.hexdigest()

    def _export(self) -> None:
        if self.folder.is_dir() and not self.folder.is_symlink():
            shutil.rmtree(self.folder)
        else:
            self.folder.unlink(missing_ok=True)
        self.folder.mkdir()
        with _silence(), torch.inference_mode(), files.whole(self.path) as temporary:
            program = torch.onnx.export(
                self._module.eval(),
                (torch.zeros((4, *self._size, 3), dtype=torch.uint8),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("n", min=1, max=65536)},),
            )
            assert program is not None
            program.save(str(temporary), external_data=False)
        files.write_text(self._seal, self._digest())

    def start(self, engine: str) -> Run:
        """Return the function from pixels to vectors, computed by this engine. Raises UserError where it cannot."""
        if lacking := missing(engine):
            remedy = f"run pip install {' '.join(lacking)}, or use --engine torch"
            raise UserError(f"--engine {engine}: {' and '.join(lacking)} not installed here; {remedy}")
        path = self.export()
        try:
            return _in_onnxruntime(path) if engine == "onnxruntime" else _in_openvino(path)
        except ImportError as error:
            raise UserError(f"--engine {engine}: {shorten(error)}; run pip install {engine} onnxscript") from None
        except Exception as error:  # an operator that the engine lacks
            raise UserError(f"{engine} cannot run this model: {shorten(error)}; use --engine torch") from None

    def remembered(self, batch_size: int) -> str | None:
        """Return the engine that was the fastest for this batch size on this processor, None where it was not measured."""
        name = remembered(self._fastest).get(self._where(batch_size))
        return name if name in installed() else None

    def fastest(self, torch_run: Run, pixels: torch.Tensor) -> str:
        """Return the engine that takes a batch of pixels (n, height, width, 3) soonest and is close to torch; remembers it."""
        expected, runs = torch_run(pixels), {"torch": torch_run}
        for name in installed()[1:]:
            with contextlib.suppress(UserError):
                run = self.start(name)
                if differs(run(pixels), expected) <= CLOSE:
                    runs[name] = run
        seconds, chosen = _seconds(runs, pixels), "torch"
        for name in runs:
            if seconds[name] * FASTER < seconds[chosen]:
                chosen = name
        with contextlib.suppress(OSError, UserError):
            answers = {**remembered(self._fastest), self._where(len(pixels)): chosen}
            files.write_text(self._fastest, json.dumps(answers) + "\n")
        return chosen

    def _where(self, batch_size: int) -> str:
        versions = " ".join(f"{name} {_version(name)}" for name in installed())
        return f"{processor('cpu')}, {cli.cores()} cores, batch {batch_size}, {versions}"


def differs(vectors: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest relative difference |x - y| / |y| of a row; infinite where one is not finite."""
    x, y = vectors.double(), expected.double()
    if x.shape != y.shape:
        return float("inf")
    largest = float(((x - y).norm(dim=1) / y.norm(dim=1).clamp_min(1e-30)).max())
    return largest if largest == largest else float("inf")


def _seconds(runs: Mapping[str, Run], pixels: torch.Tensor) -> dict[str, float]:
    """Return the median time of each run, taken in turn: what else the machine does meanwhile slows all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(pixels)  # warms up
    for name in list(runs) * ROUNDS:
        time.sleep(REST)
        start = time.perf_counter()
        runs[name](pixels)
        times[name].append(time.perf_counter() - start)
    return {name: median(taken) for name, taken in times.items()}


def _in_onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores decode images meanwhile
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: torch.from_numpy(session.run(None, {name: pixels.numpy()})[0])


def _in_openvino(path: Path) -> Run:
    import openvino

    hints: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(str(path), "CPU", {**hints, "INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: torch.from_numpy(np.array(model(pixels.numpy())[0]))


@contextlib.contextmanager
def _silence() -> Any:
    """Keep an exporter's remarks, which are for its authors, off the terminal."""
    loud = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", "torch.export", "onnx_ir")]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)
