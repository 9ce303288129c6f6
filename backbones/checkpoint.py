"""Checkpoints: the folder in which train.py leaves a model and from which every script takes it with `--model <folder>`.

`model.safetensors` holds the weights: `backbone.*` of the architecture, then `projection.*` (--objective triplet: its output is
the embedding) or `head.*` (--objective classifier: its outputs are logits, its input is the embedding). `model.json` says the rest,
see FIELDS. Nothing in either runs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbones.preprocess import Preprocess
from common import files
from common.messages import UserError

if TYPE_CHECKING:
    import torch

    from backbones.backbone import Backbone

WEIGHTS, ABOUT = "model.safetensors", "model.json"
FIELDS = {
    "format_version": "1",
    "spec": "the architecture, as --model takes it",
    "options": "layer and pooling, where the architecture gives no vector by itself",
    "preprocess": "what the model wants to see",
    "objective": "triplet or classifier",
    "classes": "label paths class_0/class_1/…, in the order of the logits",
    "temperature": "by which logits are divided before the softmax; null for triplet",
    "training": "the arguments of train.py",
    "metrics": "what was measured",
    "fingerprint": "of the embedding model, as in the .npz files made with it",
}


def save(
    folder: Path | str,
    *,
    spec: str,
    options: Mapping[str, Any],
    preprocess: Preprocess,
    state: Mapping[str, torch.Tensor],
    classes: Sequence[str],
    temperature: float | None = None,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """Write a checkpoint, whole or not at all, and return its fingerprint.

    state: tensors called backbone.*, and projection.* or head.*. The description is written last: without it, the folder is no
    checkpoint. What was written is loaded once before it takes the place of an older one.
    """
    import safetensors.torch

    from backbones.backbone import fingerprint

    folder = Path(folder)
    about: dict[str, Any] = {
        "format_version": 1,
        "spec": spec,
        "options": dict(options),
        "preprocess": preprocess.as_dict(),
        "objective": "classifier" if any(key.startswith("head.") for key in state) else "triplet",
        "classes": list(classes),
        "temperature": temperature,
        "training": dict(training or {}),
        "metrics": dict(metrics or {}),
    }
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}  # none may share memory
    about["fingerprint"] = fingerprint(_assemble(folder, about, tensors, ("projection",)))
    data = safetensors.torch.save(tensors, metadata={"fingerprint": about["fingerprint"]})
    (folder / ABOUT).unlink(missing_ok=True)
    files.write_bytes(folder / WEIGHTS, data)  # not save_file, whose error on a full disk is none of Python's
    files.write_text(folder / ABOUT, json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return about["fingerprint"]


def describe(folder: Path | str) -> dict[str, Any]:
    """Return the content of model.json (see FIELDS). Raises UserError when there is none, or one that is not a checkpoint's."""
    path = Path(folder) / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        sound = isinstance(about["spec"], str) and isinstance(about["preprocess"], dict)
        sound = sound and isinstance(about.setdefault("options", {}), dict)
        sound = sound and all(isinstance(name, str) for name in about.setdefault("classes", []))
        sound = sound and isinstance(about.setdefault("temperature", None), (int, float, type(None)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"{path} is no checkpoint's description; train the model again with train.py, or check --model")
    return about


def backbone(folder: Path | str) -> Backbone:
    """Return the embedding model of a checkpoint: the architecture, and its projection where it learnt one."""
    return _load(Path(folder), describe(folder), ("projection",))


def _load(folder: Path, about: Mapping[str, Any], tops: Sequence[str]) -> Backbone:
    from backbones import weights

    return _assemble(folder, about, weights.read(folder / WEIGHTS), tops)


def _assemble(
    folder: Path, about: Mapping[str, Any], state: Mapping[str, torch.Tensor], tops: Sequence[str]
) -> Backbone:
    """Return the architecture filled with `backbone.*`, followed by those linear layers of `tops` that the state has."""
    import torch

    from backbones import architectures
    from backbones.backbone import Pooled, fit_input
    from backbones.weights import fill

    spec, options = about["spec"], dict(about["options"])
    preprocess = Preprocess.from_dict(about["preprocess"], str(folder / ABOUT))
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        parts.setdefault(part, {})[rest] = value
    inner = architectures.architecture(spec, options.get("pooling"))
    fit_input(inner.module, preprocess)
    fill(inner.module, parts.get("backbone", {}), spec, str(folder))
    modules: list[torch.nn.Module] = [Pooled(inner, options.get("layer"), options.get("pooling"), spec)]
    for top in tops:
        if top in parts:
            weight = parts[top].get("weight")
            if weight is None or weight.ndim != 2:
                raise UserError(f"{folder / WEIGHTS} has no sound {top}.weight; train the model again")
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in parts[top])
            fill(layer, parts[top], spec, str(folder))
            modules.append(layer)
    identity = {**inner.identity, "options": options}
    return dataclasses.replace(
        inner,
        module=torch.nn.Sequential(*modules),
        preprocess=preprocess,
        identity=identity,
        prefix_tokens=0,
        channels_last_output=False,
    )
