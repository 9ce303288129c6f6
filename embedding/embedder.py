"""A model made ready to embed: one vector an image, precision, channels-last, compilation, memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from backbones import checkpoint
from backbones.backbone import CROP, Backbone, Normalised, Pooled, fingerprint, keep_freed_memory, pick_device, sized
from backbones.models import build
from backbones.preprocess import BOX
from backbones.weights import DEFAULT, EMBEDDED, RANDOM, full_name, named_in
from common.messages import UsageError, UserError, shorten, warn
from embedding import extraction
from engines.compilation import compiled
from engines.precision import DTYPES, fastest_close, folded, lowered, multiplies_bf16
from engines.program import Program, Run


class Embedder:
    """embedder(batch) -> (n, dim) float32, from a batch of what `preprocess` returns: (n, height, width, 3) uint8.

    Under the pooling `box` it takes boxes too, (n, 4) float32, see backbone.Pooled; without them they are the whole images.

    Attributes: dim; preprocess (RGB uint8 of any size -> RGB uint8 (height, width, 3)); fingerprint, and base_fingerprint: that of
    the same model at its own input size and pooling; spec and options, with which load() makes the same again; device; precision (a
    key of DTYPES; fp32 until settle() has chosen one, where it is not given); settled (it is given or chosen).
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        spec: str,
        options: dict[str, Any],
        fingerprint: str,
        device: str,
        precision: str,
        base_fingerprint: str | None = None,
    ) -> None:
        if not backbone.portable and precision not in ("auto", "fp32"):
            raise UsageError(f"{spec} runs in the precision it was exported in; leave --precision away")
        self.spec, self.options, self.fingerprint = spec, options, fingerprint
        self.base_fingerprint, self._boxed = base_fingerprint or fingerprint, options.get("pooling") == BOX
        self.preprocess = backbone.preprocess
        self.device = pick_device(device)
        self._portable, self._fixed_batch = backbone.portable, backbone.fixed_batch
        self._chunk: int | None = backbone.fixed_batch
        self._compiled_module: Run | None = None
        self.settled = precision != "auto"
        pooled = Pooled(backbone, options.get("layer"), options.get("pooling"), spec)
        normalised = Normalised(pooled, backbone.preprocess).requires_grad_(False)
        if backbone.portable:  # exported programs refuse it
            normalised.eval()
        if self.device.type == "cpu":
            keep_freed_memory()
        # The model in fp32 as it was loaded, and with its batch normalisations folded into the convolutions before them.
        self._unfolded: nn.Module = normalised.to(self.device)
        self._folded: nn.Module = self._unfolded
        self.use("fp32")
        noise, self.dim = _noise_and_dim(self)
        if backbone.portable:
            self._unfolded = self._unfolded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._folded = folded(self._unfolded, torch.from_numpy(noise).to(self.device))
            self.use("fp32")
        if precision not in ("auto", "fp32"):
            self.use(precision)

    @property
    def n_weights(self) -> int:
        """Number of parameters of the model, its classifier left away."""
        return sum(weights.numel() for weights in self._unfolded.parameters())

    def __call__(self, batch: np.ndarray | torch.Tensor, boxes: np.ndarray | None = None) -> np.ndarray:
        pixels = batch if isinstance(batch, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(batch))
        if not len(pixels):
            return np.empty((0, self.dim), np.float32)
        boxes = extraction.whole_boxes(len(pixels)) if self._boxed and boxes is None else boxes
        while True:
            size = self._chunk or len(pixels)
            parts = [pixels.split(size)] if boxes is None else [pixels.split(size), torch.from_numpy(boxes).split(size)]
            try:
                return np.concatenate([self._forward(*part) for part in zip(*parts, strict=True)])
            except torch.OutOfMemoryError:
                if size == 1 or self._fixed_batch:
                    raise UserError("the device has too little memory for this model; try --device cpu") from None
                self._chunk = (min(size, len(pixels)) + 1) // 2
                torch.cuda.empty_cache()
                warn(f"out of device memory: going on with batches of {self._chunk} images")

    def _forward(self, pixels: torch.Tensor, *boxes: torch.Tensor) -> np.ndarray:
        n = len(pixels)
        if self._fixed_batch and n < self._fixed_batch:
            pixels = torch.cat([pixels, pixels[-1:].expand(self._fixed_batch - n, -1, -1, -1)])
        dtype = DTYPES[self.precision]
        run = self._module if self._compiled_module is None else self._compiled_module
        with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return run(pixels.to(self.device), *(box.to(self.device) for box in boxes)).float().cpu().numpy()[:n]

    def embed(
        self, paths: Sequence[Path], *, batch_size: int, filled_to: int | None = None, **how: Any
    ) -> Iterator[extraction.Batch]:
        """Yield the vectors of the images, batch by batch; how: see extraction.embed.

        filled_to: images that the model is given at a time (default: what extraction.filled_size says of all these images).
        """
        filled_to = filled_to or extraction.filled_size(len(paths), batch_size)
        return extraction.embed(paths, self, batch_size=batch_size, filled_to=filled_to, **how)

    @property
    def compiled(self) -> bool:
        """Whether batches go through torch.compile."""
        return self._compiled_module is not None and self.engine == "torch"

    @property
    def exportable(self) -> bool:
        """Whether an engine beside torch can compute this: in fp32 on a CPU, images of one size, without boxes."""
        is_plain = self._portable and not self._boxed and not self.preprocess.keeps_size
        return is_plain and (self.device.type, self.precision) == ("cpu", "fp32")

    def program(self) -> Program:
        """Return the model as engines beside torch take it."""
        size = self.preprocess.height, self.preprocess.width
        return Program(self._folded, size, self.fingerprint)

    def use_engine(self, engine: str, run: Run) -> None:
        """Compute by this engine from now on; `run` is what Program.start gave for it."""
        self.use("fp32")
        self.engine, self._compiled_module = engine, run

    def use(self, precision: str) -> None:
        """Compute in this precision from now on, not compiled."""
        self.precision, self.engine = precision, "torch"
        # Folded normalisations would put their fp32 offsets into rounded biases, an error that mixed precision is there to avoid.
        source = self._unfolded if precision == "mixed" else self._folded
        self._module = source if precision == "fp32" else lowered(source, precision, self.device.type)
        self._compiled_module = None

    def settle(self, sample: Callable[[], np.ndarray], known: str | None = None) -> None:
        """Under precision "auto", choose the fastest precision whose rows stay close to fp32's.

        They are compared on the (n, height, width, 3) uint8 images that `sample` gives; where there are none, or on hardware
        without bfloat16, fp32 stays. What was measured is kept for this model on this processor: `sample` is not called again.
        `known` is the precision of the sets that this one will be compared with: it is taken if it is close enough, else fp32.
        """
        if self.settled:
            return
        if not (self._portable and multiplies_bf16(self.device)):
            self.settled = True
            return
        chosen = fastest_close(self, sample, known)
        self.settled = chosen is not None
        self.use(chosen or "fp32")

    def compile(self, pixels: np.ndarray) -> float | None:
        """Compile for batches of this shape; returns the seconds it took, or None where it cannot be done (and says why)."""
        if not self._portable or self._chunk:
            return None
        if self.preprocess.keeps_size:
            warn("going on without torch.compile: the crops have many sizes")
            return None
        started = time.perf_counter()

        def rows(run: Run) -> np.ndarray:
            self._compiled_module = run
            return self(pixels)

        self._compiled_module = compiled(self._module, rows)
        return None if self._compiled_module is None else time.perf_counter() - started


def _noise_and_dim(embedder: Embedder) -> tuple[np.ndarray, int]:
    """Return two images of noise in the model's input size, and how long its vectors are. Raises UserError where it cannot run."""
    height, width = embedder.preprocess.height, embedder.preprocess.width
    noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    try:
        return noise, int(embedder(noise).shape[1])
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:  # the model is the user's choice
        raise UserError(f"{embedder.spec} cannot embed images of {width} x {height} pixels: {shorten(error)}") from None


def _check_any_size(embedder: Embedder) -> None:
    """Raise UsageError unless the model takes images of another size than its own, and gives vectors as long."""
    larger = (1, embedder.preprocess.height + 17, embedder.preprocess.width + 39, 3)
    try:
        fine = embedder(np.full(larger, 128, np.uint8)).shape[1] == embedder.dim
    except (RuntimeError, TypeError, ValueError, AssertionError):
        fine = False
    if not fine:
        raise UsageError(f"{embedder.spec} takes images of one size only; give it with --image_size PX")


def load(
    spec: str | Path = DEFAULT,
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    layer: str | None = None,
    pooling: str | None = None,
    resize_mode: str = "squash",
    device: str = "auto",
    precision: str = "auto",
    image_size: int | str | None = None,
) -> Embedder:
    """Return the embedder that `spec` stands for (see the table in backbones/models.py).

    weights: a state dict (safetensors, or a torch file without code), or "random" for untrained ones; weights_key: which network of
    the file. layer: the inner module whose
    output is taken. pooling: one of POOLINGS, from cells or tokens to one vector; else the model's own. resize_mode: squash,
    letterbox or model. precision: auto, fp32, mixed, bf16 or fp16. image_size: pixels a side, or `crop`, see backbone.sized. Raises
    UserError or UsageError in one sentence.
    """
    spec = full_name(str(spec))
    if pooling == BOX and resize_mode != "squash":
        raise UsageError("--pooling box knows where the object lies in the whole crop; leave --resize_mode away")
    built = build(spec, weights=named_in(weights, weights_key), pooling=None if layer else pooling)
    options: dict[str, Any] = {"layer": layer, "pooling": pooling, "resize_mode": resize_mode}
    variant, base = image_size is not None or pooling is not None, None
    if variant:  # before the positions of a transformer are interpolated
        base = fingerprint(sized(built, None, resize_mode, spec), {**options, "pooling": None})
    backbone = sized(built, image_size, resize_mode, spec)
    identified = fingerprint(backbone, options)
    if image_size is not None:
        options["image_size"] = image_size
    if weights is not None:
        options["weights"] = RANDOM if weights == RANDOM else str(Path(weights).resolve())
    if weights_key is not None:
        options["weights_key"] = weights_key
    folder, code = checkpoint.folder_and_code(spec)
    if code:
        spec = f"{folder.resolve()}={code}"
    kind, name = ("hf/", spec[3:]) if spec.startswith("hf/") else ("", spec)
    spec = f"{kind}{Path(name).resolve()}" if Path(name).exists() and name not in EMBEDDED else spec
    embedder = Embedder(
        backbone,
        spec=spec,
        options=options,
        fingerprint=identified,
        device=device,
        precision=precision,
        base_fingerprint=base,
    )
    if image_size == CROP:
        _check_any_size(embedder)
    return embedder
