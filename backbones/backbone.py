"""A backbone: the torch module of a model with its preprocessing and identity, its pooling, and its fingerprint."""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from backbones.preprocess import Preprocess
from common.messages import UsageError, UserError, shorten

GEM_POWER, GEM_LEAST = 3.0, 1e-6


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
            return pool(output, (1, 2) if self.nhwc else (2, 3), self.pooling or "mean")
        pooling = self.pooling or ("cls" if self.prefix_tokens else "mean")
        if pooling != "cls":
            return pool(output[:, self.prefix_tokens :], (1,), pooling)
        if not self.prefix_tokens:
            raise UsageError(f"{self.spec} has no class token; use --pooling mean")
        return output[:, 0]


def pool(cells: torch.Tensor, axes: tuple[int, ...], pooling: str) -> torch.Tensor:
    """Return the cells of a feature map, or the patch tokens, pooled over `axes` by mean, max, mean+max or gem.

    mean+max is half the sum of both. gem is the generalised mean with p = 3 over positive values (Radenović, Tolias & Chum
    2018, "Fine-tuning CNN Image Retrieval with No Human Annotation"): values below 1e-6 count as 1e-6.
    """
    if pooling == "mean":
        return cells.mean(axes)
    if pooling == "max":
        return cells.amax(axes)
    if pooling == "mean+max":
        return (cells.mean(axes) + cells.amax(axes)) / 2
    positive = cells.float().clamp(min=GEM_LEAST)  # half precision cannot hold its cube
    return positive.pow(GEM_POWER).mean(axes).pow(1 / GEM_POWER)


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


def fit_input(module: torch.nn.Module, preprocess: Preprocess) -> None:
    """Let a transformer of timm take another input size than its own; other models need nothing."""
    embed: Any = getattr(module, "patch_embed", None)
    wanted = (preprocess.height, preprocess.width)
    if hasattr(module, "set_input_size") and getattr(embed, "img_size", None) not in (None, wanted):
        try:
            module.set_input_size(img_size=wanted)  # type: ignore[operator]
        except (AssertionError, ValueError, RuntimeError, TypeError) as error:
            raise UserError(f"the model cannot take {wanted[1]} x {wanted[0]} pixels: {shorten(error)}") from None


def fingerprint(backbone: Backbone, options: Mapping[str, Any] | None = None) -> str:
    """Return the sha256 over canonical JSON (identity, options, preprocessing) and over every weight: name, dtype, shape, bytes."""
    import torch

    default = {"layer": None, "pooling": None, "resize_mode": backbone.preprocess.resize_mode}
    identity = {**backbone.identity, **(options or default), "preprocess": backbone.preprocess.as_dict()}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode())
    for name, tensor in sorted(backbone.module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
