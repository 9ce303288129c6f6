"""Checkpoints: the folder in which train.py leaves a model and from which every script takes it with `--model <folder>`.

`model.safetensors` holds the weights: `backbone.*` of the architecture, then `projection.*` (--objective triplet: its output is
the embedding) or `head.*` (--objective classifier: its outputs are logits, its input is the embedding). `model.json` holds the
metadata, see docs/formats.md. Neither file can execute code.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from backbones import architectures, weights
from backbones.backbone import Backbone, Pooled, fingerprint, fit_input
from backbones.preprocess import Preprocess
from common import files, run_record
from common.messages import UserError

WEIGHTS, ABOUT = "model.safetensors", "model.json"
FIELDS = {  # of model.json, see docs/formats.md
    "spec": run_record.TEXT,
    "options": run_record.OBJECT,
    "preprocess": run_record.OBJECT,
    "objective": run_record.one_of("triplet", "classifier"),
    "classes": run_record.UNIQUE_TEXTS,
    "temperature": run_record.optional(run_record.POSITIVE),
    "training": run_record.OBJECT,
    "metrics": run_record.OBJECT,
    "fingerprint": run_record.TEXT,
    "weights_checksum": run_record.TEXT,
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
    about["fingerprint"] = fingerprint(_assemble(folder, about, tensors, ("projection",), spec))
    data = safetensors.torch.save(tensors, metadata={"fingerprint": about["fingerprint"]})
    (folder / ABOUT).unlink(missing_ok=True)
    files.write_bytes(folder / WEIGHTS, data)  # on a full disk it raises OSError; save_file would raise a Rust error
    about["weights_checksum"] = run_record.checksum(folder / WEIGHTS)
    run_record.write_json(folder / ABOUT, about)
    return about["fingerprint"]


def describe(folder: Path | str) -> dict[str, Any]:
    """Return the content of model.json. Raises UserError when there is none, or one that is not a checkpoint's, or damaged."""
    path = Path(folder) / ABOUT
    try:
        about = run_record.read_json(path)
    except OSError:
        raise UserError(
            f"{path} is no checkpoint's description; train the model again with train.py, or check --model"
        ) from None
    run_record.check_fields(about, FIELDS, str(path), needed=("spec", "preprocess"))
    return {"options": {}, "classes": [], "temperature": None, "training": {}, "metrics": {}, **about}


def folder_and_code(spec: str | Path) -> tuple[Path, str | None]:
    """Return the folder of `FOLDER=package.module:factory`, a checkpoint made from the user's own code, and the factory."""
    folder, equals, code = str(spec).rpartition("=")
    if equals and re.fullmatch(architectures.FACTORY, code) and not Path(spec).exists():
        return Path(folder), code
    return Path(spec), None


def backbone(spec: Path | str) -> Backbone:
    """Return the embedding model of a checkpoint: the architecture, and its projection where it learnt one."""
    return _read(spec, ("projection",))


def classifier(spec: Path | str) -> Backbone:
    """Return the classifier of a checkpoint: the architecture and its head; the module gives logits."""
    return _read(spec, ("head",))


def architecture(spec: Path | str) -> tuple[str, Backbone]:
    """Return the spec and the trained architecture of a checkpoint without projection or head, from which training goes on."""
    folder, code = folder_and_code(spec)
    about = describe(folder)
    return about["spec"], _filled(folder, about, _parts(_weights(folder, about)), code)


def _read(spec: Path | str, tops: Sequence[str]) -> Backbone:
    folder, code = folder_and_code(spec)
    about = describe(folder)
    state = _weights(folder, about)
    whole = _assemble(folder, about, state, tops, code)
    if "weights_checksum" not in about and about.get("fingerprint"):  # of an older version
        embedder = whole if tops == ("projection",) else _assemble(folder, about, state, ("projection",), code)
        if fingerprint(embedder) != about["fingerprint"]:
            raise _damaged(folder)
    return whole


def _weights(folder: Path, about: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the weights. Raises UserError where the file is not the one that model.json describes."""
    path = folder / WEIGHTS
    if "weights_checksum" in about and path.is_file() and run_record.checksum(path) != about["weights_checksum"]:
        raise _damaged(folder)
    return weights.read(path)


def _damaged(folder: Path) -> UserError:
    return UserError(
        f"{folder / WEIGHTS} is damaged, or of another training than {ABOUT} beside it; copy the whole folder again, or train again"
    )


def _parts(state: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the weights by part: backbone, projection, head."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        parts.setdefault(part, {})[rest] = value
    return parts


def _filled(
    folder: Path, about: Mapping[str, Any], parts: Mapping[str, Mapping[str, torch.Tensor]], code: str | None
) -> Backbone:
    """Return the architecture with the weights `backbone.*`; `code`: the factory that the command line allows."""
    spec, options = about["spec"], dict(about["options"])
    if spec != code:
        architectures.refuse_code(spec, folder / ABOUT, f"--model {folder}={spec}")
    preprocess = Preprocess.from_dict(about["preprocess"], str(folder / ABOUT))
    inner = architectures.architecture(spec, options.get("pooling"))
    fit_input(inner.module, preprocess)
    weights.fill(inner.module, parts.get("backbone", {}), spec, str(folder))
    # As it was trained, whatever the model's own is now.
    pooling = None if options.get("layer") else options.get("pooling")
    identity = {**inner.identity, "options": options}
    return dataclasses.replace(inner, preprocess=preprocess, identity=identity, pooling=pooling)


def _assemble(
    folder: Path, about: Mapping[str, Any], state: Mapping[str, torch.Tensor], tops: Sequence[str], code: str | None
) -> Backbone:
    """Return the trained architecture, followed by those linear layers of `tops` that the state has."""
    spec, options, parts = about["spec"], about["options"], _parts(state)
    inner = _filled(folder, about, parts, code)
    modules: list[torch.nn.Module] = [Pooled(inner, options.get("layer"), options.get("pooling"), spec)]
    for top in tops:
        if top in parts:
            weight = parts[top].get("weight")
            if weight is None or weight.ndim != 2:
                raise UserError(f"{folder / WEIGHTS} has no sound {top}.weight; train the model again")
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in parts[top])
            weights.fill(layer, parts[top], spec, str(folder))
            modules.append(layer)
    module = torch.nn.Sequential(*modules)
    return dataclasses.replace(inner, module=module, prefix_tokens=0, channels_last_output=False, pooling=None)
