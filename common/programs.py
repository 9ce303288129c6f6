"""TorchScript and torch.export files. Loading one runs what the user named, but no pickle of free form is ever loaded."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import torch

from common.cli import UsageError, UserError, note
from common.embedder import Backbone
from common.preprocess import Preprocess
from common.weights import shorten


def load(path: Path, weights: str | Path | None) -> Backbone:
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
