"""From what `--model` names to a torch module that is not a checkpoint: models of libraries, exported programs, the user's factory,
and the small network of `--model siamese`.

A factory and a program are code. They are run where the command line names them, and refused where a file does, see refuse_code().
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from backbones.backbone import Backbone
from backbones.preprocess import Preprocess
from backbones.weights import UNFILLED, give
from common.messages import UserError, note, shorten

SIAMESE = "siamese"
FACTORY = r"[\w.]+:[\w.]+"  # package.module:callable
SIAMESE_WIDTHS = (32, 64, 128, 256)


def build(spec: str, weights: str | Path | None, pooling: str | None) -> Backbone:
    """Return the model that `spec` names, if it is no checkpoint; weights: a file, UNFILLED or None for the model's own."""
    from backbones import hubs, programs

    path = Path(spec)
    kind, _, name = spec.partition("/")
    if kind == "hf" and name:
        return hubs.hugging_face_model(name, weights, pooling)
    if kind == "torchvision" and name:
        return hubs.torchvision_model(name, weights)
    if kind == "timm" and name:
        return hubs.timm_model(name, weights, pooling)
    if spec == SIAMESE:  # ./siamese is a folder of that name
        return siamese_model(weights)
    if (path / "config.json").is_file():
        if is_timm_folder(path):
            return hubs.timm_model(f"{hubs.LOCAL}{path}", weights, pooling)
        return hubs.hugging_face_model(spec, weights, pooling)
    if path.is_file():
        return programs.load_program(path, weights)
    if re.fullmatch(FACTORY, spec):
        return _factory(spec, weights)
    if path.is_dir() and len(path.parts) > 1:
        raise UserError(f"{path}: neither a checkpoint (model.json) nor a Hugging Face model (config.json) is in it")
    return hubs.timm_model(spec, weights, pooling)


def is_timm_folder(folder: Path) -> bool:
    """Return whether timm wrote the config.json of this folder, not transformers."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "architecture" in config


def is_code(spec: str) -> bool:
    """Return whether `spec` stands for a factory, alone or with its checkpoint, or a program file, whose code would be run."""
    if re.fullmatch(f"(.*=)?{FACTORY}", spec, re.DOTALL):
        return True
    if (
        spec.partition("/")[0] in ("hf", "torchvision", "timm")
        or spec == SIAMESE
        or (Path(spec) / "config.json").is_file()
    ):
        return False
    return Path(spec).is_file()


def refuse_code(spec: object, source: object, remedy: str = "") -> None:
    """Raise UserError where the file `source` names code to be run: only the command line may."""
    if not isinstance(spec, str) or not spec or "\0" in spec:
        raise UserError(f"{source} names no model; name it with --model")
    if is_code(spec):
        raise UserError(
            f"{source} names the code {spec} as its model, which is run only if you name it: add {remedy or f'--model {spec}'}"
        )


def _factory(spec: str, weights: str | Path | None) -> Backbone:
    import importlib
    import inspect

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
    return build(spec, UNFILLED, pooling)


def siamese_model(weights: str | Path | None) -> Backbone:
    """Return the network with the given weights: normalised float (n, 3, h, w) -> (n, 256). Raises UserError without any."""
    import torch
    from torch import nn

    from backbones.backbone import Backbone

    if weights is None:
        raise UserError(
            f"{SIAMESE} has no weights before it is trained: train it with train.py and name the folder it wrote"
        )
    layers: list[nn.Module] = []
    before = 3
    for width in SIAMESE_WIDTHS:
        for wide, stride in ((before, 2), (width, 1)):  # strides, not pooling: an image of one pixel still gives one
            layers += [nn.Conv2d(wide, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        before = width
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for layer in module:
        if isinstance(layer, nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    give(module, weights, SIAMESE)
    return Backbone(module, Preprocess(64, 64, (0.5,) * 3, (0.5,) * 3, "bilinear"), {"spec": SIAMESE})
