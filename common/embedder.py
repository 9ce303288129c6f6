"""A model made ready to embed: pooling to one vector an image, precision, channels-last, compilation, memory."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from common.cli import UsageError, UserError, warn
from common.folding import folded
from common.precision import DTYPES, MIN_COSINE, PROBE_COSINE, cosines, lowered, multiplies_bf16
from common.preprocess import Preprocess


@dataclass(frozen=True)
class Backbone:
    """What a spec stands for. `module` takes normalised float (n, 3, h, w); its output is pooled to (n, dim).

    prefix_tokens: class and register tokens ahead of the patch tokens (None: unknown, no class token).
    channels_last_output: 4-D outputs are (n, h, w, c). fixed_batch: the only batch size an exported program takes.
    portable: eager PyTorch code, so that layers can be hooked and the module compiled and cast.
    """

    module: nn.Module
    preprocess: Preprocess
    identity: dict[str, Any] = field(default_factory=dict)
    prefix_tokens: int = 0
    channels_last_output: bool = False
    fixed_batch: int | None = None
    portable: bool = True


class Pooled(nn.Module):
    """Normalised float (n, 3, h, w) -> (n, dim): run the backbone, take the output or that of `layer`, pool it."""

    def __init__(self, backbone: Backbone, layer: str | None, pooling: str | None, spec: str) -> None:
        super().__init__()
        self.module, self.pooling, self.spec = backbone.module, pooling, spec
        self.prefix_tokens, self.nhwc = backbone.prefix_tokens, backbone.channels_last_output
        self._layer_output: list[Any] = []
        self._hooked = layer is not None
        if layer is not None:
            find_layer(self.module, layer, spec).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._layer_output.append(output)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output = self.module(images)
        if self._hooked:
            if not self._layer_output:
                raise UsageError(f"{self.spec}: the layer of --layer takes no part in the model's output; name another")
            output = self._layer_output[0]
            self._layer_output.clear()
        return self._pool(output)

    def _pool(self, output: Any) -> torch.Tensor:
        while isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4):
            kind = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else f"{type(output)}"
            raise UserError(f"{self.spec} gives {kind}, not (n, dim), (n, tokens, dim) or (n, c, h, w); use --layer")
        if output.ndim == 2:
            if self.pooling is not None:
                raise UsageError(
                    f"{self.spec} gives one vector an image already; leave --pooling away, or choose a --layer"
                )
            return output
        if output.ndim == 4:
            if self.pooling == "cls":
                raise UsageError(f"{self.spec} has no class token; use --pooling mean")
            return output.mean((1, 2) if self.nhwc else (2, 3))
        if (self.pooling or ("cls" if self.prefix_tokens else "mean")) == "mean":
            return output[:, self.prefix_tokens :].mean(1)
        if not self.prefix_tokens:
            raise UsageError(f"{self.spec} has no class token; use --pooling mean")
        return output[:, 0]


class Normalised(nn.Module):
    """uint8 (n, h, w, 3) -> what `module` makes of the normalised float (n, 3, h, w)."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, module: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.module = module
        for name, values in (("mean", preprocess.mean), ("scale", preprocess.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # The permuted view of (n, h, w, 3) is channels-last already: nothing is copied.
        return self.module((pixels.permute(0, 3, 1, 2).float() - self.mean) / self.scale)


def find_layer(module: nn.Module, layer: str, spec: str) -> nn.Module:
    """Return the inner module called `layer`; raises UsageError with the nearest names."""
    import difflib

    layers = dict(module.named_modules())
    if layer and layer in layers:
        return layers[layer]
    names = [name for name in layers if name]
    near = difflib.get_close_matches(layer, names, 6, 0.5) or [name for name in names if "." not in name][:12]
    raise UsageError(f"{spec} has no layer {layer!r}; near it: {', '.join(near) or 'no named layer at all'}")


class Embedder:
    """embedder(batch) -> (n, dim) float32, from a batch of what `preprocess` returns: (n, height, width, 3) uint8.

    Attributes: dim; preprocess (RGB uint8 of any size -> RGB uint8 (height, width, 3)); fingerprint; spec and options, with which
    models.load makes the same again; device; precision (see PRECISIONS; "auto" is fp32 until settle()); compiled.
    """

    def __init__(
        self, backbone: Backbone, *, spec: str, options: dict[str, Any], fingerprint: str, device: str, precision: str
    ) -> None:
        if not backbone.portable and precision not in ("auto", "fp32"):
            raise UsageError(f"{spec} runs in the precision it was exported in; leave --precision away")
        self.spec, self.options, self.fingerprint = spec, options, fingerprint
        self.preprocess = backbone.preprocess
        self.device = pick_device(device)
        self._portable, self._fixed_batch = backbone.portable, backbone.fixed_batch
        self._chunk: int | None = backbone.fixed_batch
        self.settled = precision != "auto"
        pooled = Pooled(backbone, options.get("layer"), options.get("pooling"), spec)
        normalised = Normalised(pooled, backbone.preprocess).requires_grad_(False)
        if backbone.portable:  # exported programs refuse it
            normalised.eval()
        self._plain: nn.Module = normalised.to(self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self._exact: nn.Module = self._plain
        self.use("fp32")
        shape = (2, self.preprocess.height, self.preprocess.width, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.dim = int(self._first(noise).shape[1])
        if backbone.portable:
            self._plain = self._plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._exact = folded(self._plain, torch.from_numpy(noise).to(self.device))
            self.use("fp32")
        if precision not in ("auto", "fp32"):
            self.use(precision)

    def _first(self, batch: np.ndarray) -> np.ndarray:
        try:
            return self(batch)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:  # the model is the user's choice
            reason = " ".join(str(error).split())[:160]
            size = f"{self.preprocess.width} x {self.preprocess.height}"
            raise UserError(f"{self.spec} cannot embed images of {size} pixels: {reason}") from None

    def __call__(self, batch: np.ndarray | torch.Tensor) -> np.ndarray:
        pixels = batch if isinstance(batch, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(batch))
        if not len(pixels):
            return np.empty((0, self.dim), np.float32)
        while True:
            size = self._chunk or len(pixels)
            try:
                return np.concatenate([self._forward(part) for part in pixels.split(size)])
            except torch.OutOfMemoryError:
                if size == 1 or self._fixed_batch:
                    raise UserError("the device has too little memory for this model; try --device cpu") from None
                self._chunk = (min(size, len(pixels)) + 1) // 2
                torch.cuda.empty_cache()
                warn(f"out of device memory: going on with batches of {self._chunk} images")

    def _forward(self, pixels: torch.Tensor) -> np.ndarray:
        n = len(pixels)
        if self._fixed_batch and n < self._fixed_batch:
            pixels = torch.cat([pixels, pixels[-1:].expand(self._fixed_batch - n, -1, -1, -1)])
        dtype = DTYPES[self.precision]
        with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return self._run(pixels.to(self.device)).float().cpu().numpy()[:n]

    def use(self, precision: str) -> None:
        """Compute in this precision from now on, not compiled."""
        self.precision, self.compiled = precision, False
        # Folded normalisations would put their fp32 offsets into rounded biases, an error that mixed precision is there to avoid.
        source = self._plain if precision == "mixed" else self._exact
        self._module = source if precision == "fp32" else lowered(source, precision, self.device.type)
        self._run: Callable[[torch.Tensor], torch.Tensor] = self._module

    def settle(self, pixels: np.ndarray, known: str | None = None) -> None:
        """Under precision "auto", choose the fastest precision whose rows for `pixels` stay close to fp32's.

        They are compared on the (n, height, width, 3) uint8 images given; with none, or on hardware without bfloat16, fp32 stays.
        `known` is the precision of the sets that this one will be compared with: it is taken if it is close enough, else fp32.
        """
        if self.settled or not len(pixels):
            return
        self.settled = True
        if not (self._portable and multiplies_bf16(self.device)):
            return
        self.use("fp32")  # an earlier set may have been finished in another precision
        exact = self(pixels)
        for precision in ("bf16", "mixed"):
            if known not in (None, precision):
                continue
            try:
                self.use(precision)
                if cosines(self(pixels), exact).min() >= PROBE_COSINE:
                    return
            except (RuntimeError, TypeError, AttributeError):  # a model that cannot be copied, or insists on fp32
                continue
        self.use("fp32")

    def compile(self, pixels: np.ndarray) -> float | None:
        """Compile for batches of this shape; returns the seconds it took, or None where it cannot be done (and says why)."""
        if not self._portable or self._chunk:
            return None
        plain, started = self(pixels), time.perf_counter()
        # That no CUDA runtime is found is no news here.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        try:
            self._run = torch.compile(self._module, dynamic=False)
            close = cosines(self(pixels), plain).min() >= MIN_COSINE
            reason = "" if close else "its results differ"
        except Exception as error:  # no compiler, no Python headers, a model it cannot trace …
            reason = " ".join(str(error).split())[:160]
        if reason:
            self._run = self._module
            warn(f"going on without torch.compile: {reason}")
            return None
        self.compiled = True
        return time.perf_counter() - started


def pick_device(name: str) -> torch.device:
    """Return the device; "auto" is CUDA, then Apple's MPS, then the CPU. Raises UsageError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UsageError(f"--device {name} is not usable here ({reason}); use --device auto or cpu") from None
    return device


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next layer: returned to the kernel and asked for again, it cost half the time."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    mallopt(m_mmap_threshold, 1 << 30)
    mallopt(m_trim_threshold, (1 << 31) - 1)
