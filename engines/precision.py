"""Arithmetic with fewer bits: where the hardware is fast at it, how to keep close to fp32; and layers folded into one."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from common import files
from common.messages import UserError

CLOSE = 1e-3  # relative difference of the outputs, of which rounding explains 1e-5
DTYPES = {"fp32": torch.float32, "mixed": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16}
MIN_COSINE = 0.9995  # of every row to its fp32 result
PROBE_COSINE = 0.99965  # of the rows that are tried: the others may be a little worse
KEPT_CONVOLUTIONS = 6  # the stem and the first blocks: most of the error, little of the time


def lowered(module: nn.Module, precision: str, device_type: str) -> nn.Module:
    """Return a copy of `module` to be run under autocast, its convolutions and linear layers stored in the lower precision.

    "mixed" is bf16 with two exceptions that cost little and remove most of the error, which in small convolutional networks is too
    large otherwise: the first convolutions stay in fp32, and depthwise weights are rounded so that the errors of a filter add up to
    nothing. (tf_efficientnet_lite0 on photographs of cards and groceries: least cosine 0.99976 instead of 0.998.)
    """
    module = copy.deepcopy(module)
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    kept = set(convolutions[:KEPT_CONVOLUTIONS]) if precision == "mixed" else set()
    for layer in module.modules():
        if layer in kept:
            layer.forward = _outside_autocast(layer.forward, device_type)  # type: ignore[method-assign]
            continue
        if precision == "mixed" and isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
            layer.weight.data = round_filters(layer.weight.data)
        # Not subclasses, which may look at their weights; autocast converts those.
        if type(layer) in (nn.Conv2d, nn.Linear):
            layer.to(DTYPES[precision])
    return module


def round_filters(weight: torch.Tensor) -> torch.Tensor:
    """Round (filters, …) to bfloat16 so that the errors of each filter's weights add up to (nearly) nothing.

    Neighbouring pixels are alike, so what rounding does to a depthwise filter's output is mostly the sum of the errors times the
    local mean. Each weight, the largest first, is rounded together with the error left by those before it (error diffusion).
    """
    rounded = torch.empty_like(flat := weight.flatten(1))
    error = torch.zeros_like(flat[:, :1])
    order = flat.abs().argsort(dim=1, descending=True, stable=True)
    for rank in range(flat.shape[1]):
        at = order[:, rank : rank + 1]
        wanted = flat.gather(1, at) + error
        nearest = wanted.bfloat16().to(weight.dtype)
        rounded.scatter_(1, at, nearest)
        error = wanted - nearest
    return rounded.view_as(weight)


def _outside_autocast(forward: Callable[[torch.Tensor], torch.Tensor], device_type: str) -> Callable:
    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device_type, enabled=False):
            return forward(images.float())

    return run


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of `one` with that of `other`; -1 where either is zero or not finite."""
    with np.errstate(all="ignore"):
        x, y = one.astype(np.float64), other.astype(np.float64)
        cosines = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.nan_to_num(cosines, nan=-1)


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16 itself; emulated, it would be slower than fp32."""
    device = torch.device(device)  # replicas on a cluster name theirs as text
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (f"_is_{name}_supported" for name in ("avx512_bf16", "amx_tile"))
    return device.type == "cpu" and any(getattr(torch.cpu, check, lambda: False)() for check in checks)


class Model(Protocol):
    """An Embedder, see there."""

    fingerprint: str
    device: torch.device

    def __call__(self, batch: np.ndarray) -> np.ndarray: ...
    def use(self, precision: str) -> None: ...


def fastest_close(model: Model, sample: Callable[[], np.ndarray], known: str | None) -> str | None:
    """Return the fastest precision whose rows for the images of `sample` are close to fp32's; None where it gives no image.

    What was measured for this model and these images on this processor is not measured again: the answer is that of the images,
    whatever others were looked at before. known: the only one to consider beside fp32, that of sets which this one is compared
    with; it is taken where it was close for any images, so that they stay alike.
    """
    tried = [precision for precision in ("bf16", "mixed") if known in (None, precision)]
    measured = Measured(model.fingerprint, model.device)
    if not tried:
        return "fp32"
    if known and measured.was_close(known):
        return known
    pixels = sample()
    if not len(pixels):
        return None
    for precision in tried:
        close = measured.is_close(precision, pixels)
        if close is None:
            close = _is_close(model, precision, pixels)
            measured.keep(precision, pixels, close)
        if close:
            return precision
    return "fp32"


def _is_close(model: Model, precision: str, pixels: np.ndarray) -> bool:
    model.use("fp32")
    exact = model(pixels)
    try:
        model.use(precision)
        return bool(cosines(model(pixels), exact).min() >= PROBE_COSINE)
    except (RuntimeError, TypeError, AttributeError):  # a model that cannot be copied, or insists on fp32
        return False


class Measured:
    """Which precisions were found close to fp32 on which images, kept for one model and processor in a cache folder of the user.

    Nothing is lost where the folder cannot be read or written: it is measured again.
    """

    def __init__(self, fingerprint: str, device: torch.device) -> None:
        key = f"{fingerprint} {processor(device)} torch {torch.__version__} {PROBE_COSINE} by images"
        self._path = cache_folder() / f"precision-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        self._answers = remembered(self._path)

    def is_close(self, precision: str, pixels: np.ndarray) -> bool | None:
        """Return whether this precision is close enough on these images, None where it was not measured."""
        answer = self._answers.get(_entry(precision, pixels))
        return answer if isinstance(answer, bool) else None

    def was_close(self, precision: str) -> bool:
        """Return whether this precision was close enough on any images."""
        return any(answer is True for name, answer in self._answers.items() if name.startswith(f"{precision} "))

    def keep(self, precision: str, pixels: np.ndarray, close: bool) -> None:
        """Remember what was measured."""
        self._answers[_entry(precision, pixels)] = close
        with contextlib.suppress(OSError, UserError):
            files.write_text(self._path, json.dumps(self._answers) + "\n")


def _entry(precision: str, pixels: np.ndarray) -> str:
    return f"{precision} {hashlib.sha256(pixels.tobytes()).hexdigest()[:32]}"


def cache_folder() -> Path:
    """Return the folder for what need not be measured again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "padding-study"


def remembered(path: Path) -> dict[str, Any]:
    """Return the answers that a file of the cache folder keeps, {} where it is not there, or damaged in any way."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        answers = json.loads(files.read_regular(path, 1 << 24))
        return answers if isinstance(answers, dict) else {}
    return {}


def processor(device: torch.device | str) -> str:
    """Return the name of the hardware that `device` computes on."""
    device = torch.device(device)  # replicas on a cluster name theirs as text
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"{platform.machine()} {platform.processor()} {device.type}"


def folded(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """Return `module` in which every batch normalisation that is a convolution's only consumer has become part of it.

    Which those are shows on a run with `example`. Layers with hooks stay as they are. Where the output for `example` does not stay
    the same (a convolution that computes its weights, say), the module cannot be copied, or it normalises no batch, as
    transformers don't, it is returned itself.
    """
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()):
        return module
    try:
        result = copy.deepcopy(module)
    except (RuntimeError, TypeError, AttributeError):
        return module
    with torch.inference_mode():
        before = result(example)
        pairs = _pairs(result, example)
    for convolution, name, norm in pairs:
        weight, bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,  # type: ignore[arg-type]
            norm.running_var,  # type: ignore[arg-type]
            norm.eps,
            norm.weight,
            norm.bias,
        )
        convolution.weight = weight
        convolution.bias = bias.requires_grad_(False)
        parent, _, last = name.rpartition(".")
        activation = getattr(norm, "act", nn.Identity())  # timm joins it with the normalisation
        setattr(result.get_submodule(parent), last, activation)
    with torch.inference_mode():
        difference = (result(example) - before).norm() / before.norm().clamp_min(1e-12)
    return result if pairs and difference < CLOSE else module


def _pairs(module: nn.Module, example: torch.Tensor) -> list[tuple[nn.Conv2d, str, nn.BatchNorm2d]]:
    """Return each convolution with the name and layer of the batch normalisation that alone takes its output."""
    made_by: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}
    calls: dict[nn.Module, int] = {}
    taken: dict[nn.Module, int] = {}
    uses: dict[int, int] = {}

    def convolved(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        made_by[id(output)] = layer, output  # type: ignore[assignment]  # held, so that ids stay distinct

    def normalised(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        taken[layer] = id(inputs[0])

    class Uses(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = function(*args, **(kwargs or {}))
            if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(output)):  # not a question about its shape
                for leaf in tree_leaves((args, kwargs)):
                    if id(leaf) in made_by:
                        uses[id(leaf)] = uses.get(id(leaf), 0) + 1
            return output

    layers = {name: layer for name, layer in module.named_modules() if not layer._forward_hooks}
    norms = {layer: name for name, layer in layers.items() if isinstance(layer, nn.BatchNorm2d)}
    hooks = [layer.register_forward_hook(convolved) for layer in layers.values() if isinstance(layer, nn.Conv2d)]
    hooks += [layer.register_forward_pre_hook(normalised) for layer in norms]
    with Uses():
        module(example)
    for hook in hooks:
        hook.remove()
    pairs = []
    for norm, output in taken.items():
        if output in made_by and uses.get(output) == 1 and norm.running_mean is not None:  # type: ignore[union-attr]
            convolution = made_by[output][0]
            if calls[norm] == calls[convolution] == 1:
                pairs.append((convolution, norms[norm], norm))  # type: ignore[index,arg-type]
    return pairs  # type: ignore[return-value]
