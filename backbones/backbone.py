"""A backbone: the torch module of a model with its preprocessing and identity, its pooling, and its fingerprint."""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from backbones.preprocess import BOX, KEEP, Preprocess
from common.messages import UsageError, UserError, shorten

GEM_POWER, GEM_LEAST = 3.0, 1e-6
LARGEST = 8192  # pixels a side
CROP = "crop"  # the image size of who feeds crops at their own sizes


@dataclass(frozen=True)
class Backbone:
    """What a spec stands for. `module` takes normalised float (n, 3, h, w); its output is pooled to (n, dim).

    prefix_tokens: class and register tokens ahead of the patch tokens (None: unknown, no class token).
    channels_last_output: 4-D outputs are (n, h, w, c). fixed_batch: the only batch size an exported program takes.
    portable: eager PyTorch code, so that layers can be hooked and the module compiled and cast. pooling: what its output is pooled
    by where nobody names another; None: by its class token, or else the mean.
    """

    module: nn.Module
    preprocess: Preprocess
    identity: dict[str, Any] = field(default_factory=dict)
    prefix_tokens: int = 0
    channels_last_output: bool = False
    fixed_batch: int | None = None
    portable: bool = True
    pooling: str | None = None

    def pooled_by(self, layer: str | None, pooling: str | None) -> str | None:
        """Return how the output is pooled where `pooling` is asked for; the model's own is of its last layer only."""
        return pooling or (None if layer else self.pooling)


class Pooled(nn.Module):
    """Normalised float (n, 3, h, w) -> (n, dim): run the backbone, take the output or that of `layer`, pool it.

    The pooling `box` takes the cells over the object only; boxes (n, 4) float say where it lies, as shares of the image: left,
    top, right, bottom. Without boxes it is the whole image.
    """

    def __init__(self, backbone: Backbone, layer: str | None, pooling: str | None, spec: str) -> None:
        super().__init__()
        self.module, self.spec = backbone.module, spec
        self.asked, self.pooling = pooling, backbone.pooled_by(layer, pooling)
        self.prefix_tokens, self.nhwc = backbone.prefix_tokens, backbone.channels_last_output
        self.keeps_size = backbone.preprocess.keeps_size
        self._layer_output: list[Any] = []
        self._hooked = layer is not None
        if layer is not None:
            find_layer(self.module, layer, spec).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._layer_output.append(output)

    def forward(self, images: torch.Tensor, boxes: torch.Tensor | None = None) -> torch.Tensor:
        output = self.module(images)
        if self._hooked:
            if not self._layer_output:
                raise UsageError(f"{self.spec}: the layer of --layer takes no part in the model's output; name another")
            output = self._layer_output[0]
            self._layer_output.clear()
        return self._pool(output, boxes, images.shape[2] / images.shape[3])

    def _pool(self, output: Any, boxes: torch.Tensor | None, aspect: float) -> torch.Tensor:
        """Pool the output for images that are `aspect` times as high as wide."""
        while isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4):
            kind = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else f"{type(output)}"
            raise UserError(f"{self.spec} gives {kind}, not (n, dim), (n, tokens, dim) or (n, c, h, w); use --layer")
        if output.ndim == 2:
            if self.asked is not None:
                raise UsageError(
                    f"{self.spec} gives one vector an image already; leave --pooling away, or choose a --layer"
                )
            return output
        if output.ndim == 4:
            if self.pooling == "cls":
                raise UsageError(f"{self.spec} has no class token; use --pooling mean")
            if self.pooling == BOX:
                return pool_boxes(output if self.nhwc else output.permute(0, 2, 3, 1), boxes)
            return pool(output, (1, 2) if self.nhwc else (2, 3), self.pooling or "mean")
        if self.keeps_size:
            raise UsageError(f"{self.spec} takes images of one size only; give it with --image_size PX")
        pooling = self.pooling or ("cls" if self.prefix_tokens else "mean")
        if pooling == BOX:
            return pool_boxes(self._grid(output[:, self.prefix_tokens :], aspect), boxes)
        if pooling != "cls":
            return pool(output[:, self.prefix_tokens :], (1,), pooling)
        if not self.prefix_tokens:
            raise UsageError(f"{self.spec} has no class token; use --pooling mean")
        return output[:, 0]

    def _grid(self, tokens: torch.Tensor, aspect: float) -> torch.Tensor:
        """Return patch tokens (n, h * w, dim) as the cells (n, h, w, dim) of an image that is `aspect` times as high as wide."""
        n, n_token, dim = tokens.shape
        high = round((n_token * aspect) ** 0.5)
        if not high or n_token % high:
            raise UsageError(
                f"{self.spec} gives {n_token} tokens, which are no map of the image; use another --pooling"
            )
        return tokens.reshape(n, high, n_token // high, dim)


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


def pool_boxes(cells: torch.Tensor, boxes: torch.Tensor | None) -> torch.Tensor:
    """Return the mean (n, dim) of the cells (n, h, w, dim) over each image's box, a cell weighing as much as the box covers of it.

    boxes: (n, 4) left, top, right, bottom as shares of the image, over which the cells are spread evenly; None: all of it.
    """
    if boxes is None:
        return cells.mean((1, 2))
    across = _covered(boxes[:, 0], boxes[:, 2], cells.shape[2])
    down = _covered(boxes[:, 1], boxes[:, 3], cells.shape[1])
    return torch.einsum("nhwd,nh,nw->nd", cells.float(), down, across)


def _covered(low: torch.Tensor, high: torch.Tensor, n_cell: int) -> torch.Tensor:
    """Return (n, n_cell): the share of each interval low..high, within 0..1, that lies in each of n_cell equal parts."""
    edges = torch.arange(n_cell + 1, device=low.device, dtype=low.dtype) / n_cell
    inside = torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])
    inside = inside.clamp(min=0)
    return inside / inside.sum(1, keepdim=True)


class Normalised(nn.Module):
    """uint8 (n, h, w, 3), and boxes where `module` takes them -> what it makes of the normalised float (n, 3, h, w)."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, module: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.module = module
        for name, values in (("mean", preprocess.mean), ("scale", preprocess.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor, boxes: torch.Tensor | None = None) -> torch.Tensor:
        # The permuted view of (n, h, w, 3) is channels-last already: nothing is copied.
        images = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.scale
        return self.module(images) if boxes is None else self.module(images, boxes)


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


def sized(backbone: Backbone, image_size: int | str | None, resize_mode: str, spec: str) -> Backbone:
    """Return the backbone for images of `image_size` pixels a side, `crop`: of their own sizes, None: of the model's own size.

    Convolutional networks take any size; transformers of timm and Hugging Face interpolate the positions of their patches. Raises
    UsageError and UserError where the model cannot take the size.
    """
    own = dataclasses.replace(backbone.preprocess, resize_mode=resize_mode)
    if image_size is None:
        return dataclasses.replace(backbone, preprocess=own)
    if image_size == CROP:
        if resize_mode != "squash":
            raise UsageError("--image_size crop takes crops as they are; leave --resize_mode away")
        return dataclasses.replace(backbone, preprocess=dataclasses.replace(own, resize_mode=KEEP))
    if not isinstance(image_size, int) or not 1 <= image_size <= LARGEST:
        raise UserError(f"{str(image_size)[:40]} is no input size: name pixels from 1 to {LARGEST}, or crop")
    size = image_size
    if (patch := _patch(backbone.module)) and size % patch:
        nearest = max(patch, size // patch * patch)
        raise UsageError(f"{spec} has patches of {patch} pixels; give --image_size {nearest} or {nearest + patch}")
    short_edge = own.short_edge and round(own.short_edge * size / own.height)
    preprocess = dataclasses.replace(own, height=size, width=size, short_edge=short_edge)
    fit_input(backbone.module, preprocess)
    if hasattr(backbone.module, "interpolates"):
        backbone.module.interpolates = True  # type: ignore[assignment]
    return dataclasses.replace(backbone, preprocess=preprocess)


def _patch(module: nn.Module) -> int | None:
    """Return the pixels a side of a transformer's patches, None for other models."""
    size: Any = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if hasattr(module, "interpolates"):
        size = getattr(getattr(getattr(module, "model", None), "config", None), "patch_size", None)
    size = size[0] if isinstance(size, (tuple, list)) and size else size
    return size if isinstance(size, int) else None


def fingerprint(backbone: Backbone, options: Mapping[str, Any] | None = None) -> str:
    """Return the sha256 over canonical JSON (identity, options, preprocessing) and over every weight: name, dtype, shape, bytes."""
    import torch

    default = {"layer": None, "pooling": None, "resize_mode": backbone.preprocess.resize_mode}
    asked = dict(options or default)
    if "pooling" in asked:
        asked["pooling"] = backbone.pooled_by(asked.get("layer"), asked["pooling"])
    identity = {**backbone.identity, **asked, "preprocess": backbone.preprocess.as_dict()}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode())
    for name, tensor in sorted(backbone.module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
