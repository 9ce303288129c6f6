"""From what `--model` names to a torch module that is not a checkpoint: models of libraries, exported programs, the user's factory,
and the small network of `--model siamese`.

Loading a TorchScript or torch.export file runs what the user named, but no pickle of free form is ever loaded.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from backbones.backbone import Backbone
from backbones.preprocess import Preprocess
from backbones.weights import UNFILLED, give
from common.messages import UsageError, UserError, note, shorten

SIAMESE = "siamese"
SIAMESE_WIDTHS = (32, 64, 128, 256)


def load_program(path: Path, weights: str | Path | None) -> Backbone:
    """A TorchScript or torch.export file. Loading one is running what the user named, but no pickle of free form is ever loaded."""
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError):
        names = []
    script = any("/code/" in name for name in names)
    exported = any(name.endswith("archive_format") for name in names)
    if not script and not exported:
        raise UserError(
            f"{path} is no TorchScript or torch.export program; for a state dict name the architecture too: "
            f"--model NAME --weights {path.name}"
        )
    if weights is not None:
        raise UsageError(f"{path} holds its own weights; leave --weights away")
    extra = {"preprocess.json": ""}
    height, width, fixed = 224, 224, None
    try:
        if script:
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra).eval()
        else:
            _refuse_pickles(path)
            program = torch.export.load(str(path), extra_files=extra)
            shape = next(
                node.meta["val"].shape
                for node in program.graph.nodes
                if node.name in program.graph_signature.user_inputs
            )
            fixed = shape[0] if isinstance(shape[0], int) else None
            height, width = (size if isinstance(size, int) else 224 for size in shape[2:4])
            module = program.module()
    except UserError:
        raise
    except Exception as error:  # the loaders raise whatever their parsers do
        raise UserError(f"{path} cannot be loaded: {shorten(error)}; export it again with this torch") from None
    given = extra["preprocess.json"]
    try:
        described = dict(json.loads(given)) if given else {}
    except (ValueError, TypeError):
        raise UserError(f"{path}: its preprocess.json is no JSON object; export it again") from None
    if not described:
        note(f"{path.name} says nothing of its preprocessing: {height} x {width} px, ImageNet's mean and std")
    preprocess = Preprocess.from_dict({"height": height, "width": width, **described}, str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Backbone(module, preprocess, {"spec": "program", "file": digest}, fixed_batch=fixed, portable=False)


def _refuse_pickles(path: Path) -> None:
    """Raise UserError where torch.export.load would unpickle freely: it falls back to that for anything but plain tensors."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            data = archive.read(name) if name.endswith((".pt", "_config.json")) else b""
            pickled = name.endswith("_config.json") and any(
                entry.get("use_pickle") for entry in json.loads(data).get("config", {}).values()
            )
            if name.endswith(".pt") and data:
                try:
                    torch.load(io.BytesIO(data), weights_only=True)
                except Exception:  # not plain tensors, or damaged: refused either way
                    pickled = True
            if pickled or "opaque_obj" in name or "custom_obj" in name:
                raise UserError(f"{path}: {name} holds pickled objects, which could run code; export it without them")


def build(spec: str, weights: str | Path | None, pooling: str | None) -> Backbone:
    """Return the model that `spec` names, if it is no checkpoint; weights: a file, UNFILLED or None for the model's own."""
    from backbones import hubs

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
        return load_program(path, weights)
    if re.fullmatch(r"[\w.]+:[\w.]+", spec):
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
