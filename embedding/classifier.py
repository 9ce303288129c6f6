"""Classifiers made ready to run: the head of a checkpoint, or a pretrained model with its own classes and preprocessing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backbones import checkpoint
from backbones.backbone import fingerprint
from backbones.preprocess import Preprocess
from backbones.weights import DEFAULT
from common.messages import UsageError, UserError

if TYPE_CHECKING:
    from embedding.embedder import Embedder


@dataclasses.dataclass(frozen=True)
class Classifier:
    """classifier(batch) -> logits (n, len(classes)) float32 of (n, height, width, 3) uint8, as `preprocess` returns them."""

    embedder: Embedder
    classes: list[str]
    temperature: float

    @property
    def preprocess(self) -> Preprocess:
        return self.embedder.preprocess

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self.embedder(batch)


def load(
    spec: str | None = None, weights: str | Path | None = None, *, device: str = "auto", precision: str = "auto"
) -> Classifier:
    """Return the classifier that `spec` names: a checkpoint of train.py or a pretrained model.

    spec: by default the embedded model with ImageNet's classes. weights: a file with all weights of a pretrained model. Raises
    UserError or UsageError.
    """
    if spec is not None and (checkpoint.folder_and_code(spec)[0] / checkpoint.ABOUT).is_file():
        if weights is not None:
            raise UsageError(f"{spec} holds its own weights; leave --weights away")
        return load_classifier(spec, device=device, precision=precision)
    return load_pretrained(spec or DEFAULT, weights, device=device, precision=precision)


def load_pretrained(
    spec: str, weights: str | Path | None = None, *, device: str = "auto", precision: str = "auto"
) -> Classifier:
    """Return a pretrained model with its own head, names of classes and preprocessing.

    Its confidences are as they come, temperature 1: the images that could calibrate them are not here.
    """
    from backbones import models
    from embedding.embedder import Embedder

    whole, classes = models.classifier(spec, weights)
    whole = dataclasses.replace(whole, preprocess=dataclasses.replace(whole.preprocess, resize_mode="model"))
    own = fingerprint(whole)
    embedder = Embedder(whole, spec=spec, options={}, fingerprint=own, device=device, precision=precision)
    if embedder.dim != len(classes):
        raise UserError(f"{spec} names {len(classes)} classes and gives {embedder.dim} numbers; it is no classifier")
    return Classifier(embedder, classes, 1.0)


def load_classifier(folder: Path | str, *, device: str = "auto", precision: str = "auto") -> Classifier:
    """Return the classifier of a checkpoint. Raises UserError for one that has none, as those of --objective triplet."""
    from embedding.embedder import Embedder

    spec = folder
    folder, _ = checkpoint.folder_and_code(spec)
    about = checkpoint.describe(folder)
    classes = about["classes"]
    if about.get("objective") != "classifier" or not classes:
        raise UserError(
            f"{folder} holds an embedding model, not a classifier: train one with --objective classifier, or classify by "
            "nearest neighbours"
        )
    whole = checkpoint.classifier(spec)
    # The architecture has pooled already, so that the embedder takes the logits as they come.
    embedder = Embedder(
        whole,
        spec=str(folder),
        options={},
        fingerprint=fingerprint(whole),  # of all weights, so that no engine takes the backbone's program for this one
        device=device,
        precision=precision,
    )
    if embedder.dim != len(classes):
        raise UserError(
            f"{folder / checkpoint.ABOUT} names {len(classes)} classes, the head has {embedder.dim}; train the model again"
        )
    return Classifier(embedder, list(classes), float(about["temperature"] or 1.0))
