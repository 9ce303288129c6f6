"""A backbone with one linear layer on top, as it is trained; and the linear layer alone, fitted on fixed features."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from backbones import architectures, checkpoint, models
from backbones.backbone import CROP, Backbone, Normalised, Pooled, fingerprint, fit_input, keep_freed_memory, sized
from backbones.preprocess import BOX
from backbones.weights import RANDOM, full_name
from common.blocks import batches
from common.messages import UsageError, UserError, shorten
from training import calibration
from training.images import Inputs

STRENGTHS = tuple(10.0**power for power in np.arange(-5, 1.5, 0.5))  # scikit-learn's C: the inverse of the penalty
EVALUATED_AT_ONCE = 64  # images
DROPOUT = {"head": 0.2, "projection": 0.0}


@dataclass(frozen=True)
class Start:
    """The model that training starts from, the spec with which its architecture can be built again, and layer and pooling."""

    spec: str
    backbone: Backbone
    pooled: dict[str, Any]


class Network(nn.Module):
    """(n, h, w, 3) uint8 -> (n, n_outputs); `features` stops before the top layer, `top` goes on from there.

    The top layer is called "projection" or "head", as its weights are in a checkpoint; its input is dropped out while training.
    pretrained: batch normalisations keep the means and variances they have learnt. Those of a small batch are another function than
    the one that is used afterwards: with them, validation accuracy on the 24 grocery classes was 0.47 instead of 0.73.
    dim: of embeddings that are there; the input is these then, and the backbone never runs.
    """

    def __init__(
        self,
        started: Start,
        top: str,
        n_outputs: int,
        *,
        pretrained: bool,
        seed: int,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        self.pretrained = pretrained
        spec, backbone = started.spec, started.backbone
        self.spec, self.preprocess, self.top_name = spec, backbone.preprocess, top
        self.architecture = backbone.module
        self.features = features(spec, backbone) if dim is None else nn.Identity()
        self.dropout = nn.Dropout(DROPOUT[top])
        torch.manual_seed(seed)
        self.top = nn.Linear(dim or self._dim(), n_outputs)
        # Channels-last and kept memory together halve the time of an epoch on a CPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        keep_freed_memory()

    def _dim(self) -> int:
        shape = (2, self.preprocess.height, self.preprocess.width, 3)
        try:
            return predict(self.features.eval(), np.zeros(shape, np.uint8)).shape[1]
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:  # the model is the user's choice
            size = f"{self.preprocess.width} x {self.preprocess.height}"
            raise UserError(f"{self.spec} cannot take images of {size} pixels: {shorten(error)}") from None

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        for layer in self.features.modules() if self.pretrained else ():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        return self

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.top(self.dropout(self.features(pixels)))

    def regress(
        self, features: np.ndarray, labels: np.ndarray, val_features: np.ndarray, val_labels: np.ndarray
    ) -> list[dict[str, float]]:
        """Make the top layer a logistic regression on features (n, dim); return strength, loss and score of those tried."""
        weight, bias, tried = fit_linear(features, labels, val_features, val_labels)
        self.top.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
        least = min(cost for *_, cost in tried)
        return [
            {"strength": strength, "loss": cost, "score": accuracy, "chosen": int(cost == least)}
            for strength, accuracy, cost in tried
        ]

    def state(self) -> dict[str, torch.Tensor]:
        """Return the weights as a checkpoint names them."""
        parts = {"backbone": self.architecture, self.top_name: self.top}
        return {
            f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()
        }


def features(spec: str, backbone: Backbone) -> nn.Module:
    """Return the module (n, h, w, 3) uint8 -> (n, dim) of a backbone."""
    return Normalised(Pooled(backbone, None, None, spec), backbone.preprocess).eval()


def start(spec: str, weights: str | Path | None, image_size: int | None, seed: int) -> Start:
    """Return the model that training starts from.

    `siamese` and weights="random" start untrained; of a checkpoint the backbone is taken. Raises UserError or UsageError.
    """
    folder, _ = checkpoint.folder_and_code(spec)
    if spec != architectures.SIAMESE and (folder / checkpoint.ABOUT).is_file():
        if weights is not None:
            raise UsageError(f"{spec} holds its own weights; leave --weights away")
        spec, backbone = checkpoint.architecture(spec)
    elif weights == RANDOM or (spec == architectures.SIAMESE and weights is None):
        torch.manual_seed(seed)
        backbone = architectures.architecture(spec)
    else:
        backbone = models.build(spec, weights=weights)
    if not backbone.portable:
        raise UserError(f"{spec} is an exported program, which cannot be trained; name its architecture with --model")
    if image_size:
        preprocess = dataclasses.replace(backbone.preprocess, height=image_size, width=image_size, short_edge=None)
        fit_input(backbone.module, preprocess)
        backbone = dataclasses.replace(backbone, preprocess=preprocess)
    return Start(_absolute(spec), backbone, {"layer": None, "pooling": backbone.pooling})


def before_training(
    spec: str, weights: str | Path | None, image_size: int | None, seed: int, dim: int | None
) -> nn.Module:
    """Return the module that training started from, once more; of embeddings that are there (`dim`) one that changes nothing."""
    if dim is not None:
        return nn.Identity()
    started = start(spec, weights, image_size, seed)
    return features(started.spec, started.backbone)


def recorded(model: Mapping[str, Any], source: str, spec: str | None, weights: str | Path | None) -> Start:
    """Return the model that made the vectors of `source`, whose MODEL_FIELDS `model` are.

    `spec`, `weights`: where the model has moved to. Raises UserError where the model is unknown or cannot be trained on, or is
    another one by its weights or preprocessing.
    """
    if not (model.get("fingerprint") and model.get("model")):
        raise UserError(f"{source} does not say which model made it; make it with extract_embedding.py")
    if spec is None:
        architectures.refuse_code(model["model"], source)
        weights = weights or (model.get("model_options") or {}).get("weights")
    spec = full_name(spec or str(model["model"]))
    if (checkpoint.folder_and_code(spec)[0] / checkpoint.ABOUT).is_file():
        raise UserError(
            f"{source} was made with the checkpoint {spec}; train on its images: --data_root, --model {spec}"
        )
    recorded = model.get("model_options") or {}
    options, size = {name: recorded.get(name) for name in ("layer", "pooling")}, recorded.get("image_size")
    if options["pooling"] == BOX or size == CROP:
        raise UserError(
            f"{source} was made with --pooling box or --image_size crop, which cannot be trained on; name others"
        )
    backbone = models.build(spec, weights=weights, pooling=None if options["layer"] else options["pooling"])
    if not backbone.portable:
        raise UserError(f"{spec} is an exported program, which cannot be trained; name its architecture with --model")
    mode = (model.get("preprocess") or {}).get("resize_mode", "squash")
    backbone = sized(backbone, size, mode, spec)
    if fingerprint(backbone, {**options, "resize_mode": mode}) != model["fingerprint"]:
        raise UserError(
            f"{source} was made with {model['model']} of other weights or preprocessing than {spec}; "
            "name that model with --model and --weights, or extract anew"
        )
    options["pooling"] = backbone.pooled_by(options["layer"], options["pooling"])
    return Start(_absolute(spec), backbone, options)


def _absolute(spec: str) -> str:
    kind, name = ("hf/", spec[3:]) if spec.startswith("hf/") else ("", spec)
    return f"{kind}{Path(name).resolve()}" if Path(name, "config.json").is_file() else spec


def predict(module: nn.Module, inputs: np.ndarray | Inputs) -> np.ndarray:
    """Return what `module`, set to evaluation, makes of the inputs, in batches: (n, dim) float32."""
    device = next(
        module.parameters(), torch.empty(0)
    ).device  # embeddings that are there pass through a module without weights
    module.eval()
    parts = []
    with torch.inference_mode():
        for part in batches(len(inputs), EVALUATED_AT_ONCE):
            outputs = module(torch.from_numpy(np.ascontiguousarray(inputs[part])).to(device))
            parts.append(outputs.float().cpu().numpy())
    return np.concatenate(parts)


def fit_linear(
    features: np.ndarray, labels: np.ndarray, val_features: np.ndarray, val_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[tuple[float, float, float]]]:
    """Return weight (classes, dim), bias (classes,) and (C, validation accuracy, negative log-likelihood) of each strength tried.

    features: (n, dim) float32; labels: (n,) codes 0..classes-1, all of which occur. The columns are standardised by the training
    features, which is folded into weight and bias. The strength of the least validation negative log-likelihood is taken.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    scaled = (features - mean) / scale
    tried, best = [], (np.inf, np.empty(0), np.empty(0))
    model = LogisticRegression(max_iter=300, warm_start=True)
    for strength in STRENGTHS:
        model.C = strength
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest penalties are tried, seldom taken
            model.fit(scaled, labels)
        weight, bias = model.coef_, model.intercept_
        if len(weight) == 1:  # two classes have one row: half of it for either gives the same difference
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight = weight / scale
        bias = bias - weight @ mean
        logits = val_features @ weight.T + bias
        accuracy = float((logits.argmax(axis=1) == val_labels).mean())
        cost = calibration.negative_log_likelihood(logits, val_labels)
        tried.append((strength, accuracy, cost))
        if cost < best[0]:
            best = cost, weight.astype(np.float32), bias.astype(np.float32)
    return best[1], best[2], tried
