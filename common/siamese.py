"""The small convolutional network of `--model siamese`: made for 64 x 64 px, takes any size, untrained at first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import UserError
from common.preprocess import Preprocess
from common.weights import give

if TYPE_CHECKING:
    from common.embedder import Backbone

SPEC = "siamese"
WIDTHS = (32, 64, 128, 256)


def model(weights: str | Path | None) -> Backbone:
    """Return the network with the given weights: normalised float (n, 3, h, w) -> (n, 256). Raises UserError without any."""
    import torch
    from torch import nn

    from common.embedder import Backbone

    if weights is None:
        raise UserError(
            f"{SPEC} has no weights before it is trained: train it with train.py and name the folder it wrote"
        )
    layers: list[nn.Module] = []
    before = 3
    for width in WIDTHS:
        for wide, stride in ((before, 2), (width, 1)):  # strides, not pooling: an image of one pixel still gives one
            layers += [nn.Conv2d(wide, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        before = width
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for layer in module:
        if isinstance(layer, nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    give(module, weights, SPEC)
    return Backbone(module, Preprocess(64, 64, (0.5,) * 3, (0.5,) * 3, "bilinear"), {"spec": SPEC})
