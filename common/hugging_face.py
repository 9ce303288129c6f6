"""Hugging Face vision models: their tokens or trained projections, and their image processors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from common.cli import UserError
from common.preprocess import INTERPOLATIONS, Preprocess

_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # PIL's numbers
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "distillation_token")


class Vision(nn.Module):
    """float (n, 3, h, w) -> (n, tokens, dim), (n, c, h, w), or (n, dim) where a trained projection pools (CLIP, SigLIP).

    Poolers (`pooler_output`) are left out: many checkpoints lack their weights, and then they are random.
    """

    def __init__(self, model: nn.Module, *, pooled: bool, spec: str) -> None:
        super().__init__()
        config: Any = model.config
        self.projects = pooled and hasattr(model, "get_image_features")
        if not self.projects and hasattr(model, "vision_model"):
            model = model.vision_model  # type: ignore[assignment]
        self.model, self.spec = model, spec
        names = {name.rsplit(".", 1)[-1] for name, _ in model.named_parameters()}
        has = sum(name in names for name in _CLASS_TOKENS)
        self.prefix_tokens = has + (int(getattr(config, "num_register_tokens", 0) or 0) if has else 0)

    def drop_pooler(self) -> None:
        """Remove an unused pooler, so that random weights in it change no fingerprint."""
        if not self.projects and isinstance(getattr(self.model, "pooler", None), nn.Module):
            names = [name for name, _ in self.model.pooler.named_parameters()]  # type: ignore[union-attr]
            if names:
                self.model.pooler = None  # type: ignore[assignment]

    def forward(self, images: torch.Tensor) -> Any:
        if self.projects:
            output = self.model.get_image_features(pixel_values=images)  # type: ignore[operator]
            return output if isinstance(output, torch.Tensor) else output.pooler_output
        output = self.model(pixel_values=images)
        hidden = getattr(output, "last_hidden_state", None)
        if hidden is None:
            raise UserError(f"{self.spec} gives no last_hidden_state: it is no vision model; choose another")
        return hidden


def preprocess_of(name: str, config: Any) -> Preprocess:
    """Return what the model's preprocessor_config.json says; raises UserError where it says something else than images."""
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        values, _ = BaseImageProcessor.get_image_processor_dict(name)
    except OSError:
        values = {}
    size, crop = values.get("size", {}), values.get("crop_size") if values.get("do_center_crop") else None
    size = {"height": size, "width": size} if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    own = int(getattr(getattr(config, "vision_config", config), "image_size", 224) or 224)
    short_edge = size.get("shortest_edge")
    target = crop or ({"height": short_edge, "width": short_edge} if short_edge else size)
    resample = values.get("resample", 2)
    found = {
        "height": target.get("height", own),
        "width": target.get("width", own),
        "mean": values.get("image_mean") or (0.5, 0.5, 0.5),
        "std": values.get("image_std") or (0.5, 0.5, 0.5),
        "interpolation": _RESAMPLE[resample] if isinstance(resample, int) else INTERPOLATIONS[2],
        "short_edge": short_edge,
    }
    if values.get("do_normalize") is False:
        found |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return Preprocess.from_dict(found, f"hf/{name}")
