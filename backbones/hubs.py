"""Models of timm, torchvision and Hugging Face by name, without their classifiers, with their own preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones import weights as weights_of
from backbones.backbone import Backbone
from backbones.preprocess import INTERPOLATIONS, Preprocess
from common.messages import UsageError, UserError

_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # PIL's numbers
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "distillation_token")


def timm_model(name: str, weights: str | Path | None, pooling: str | None) -> Backbone:
    weights_of.go_offline_without("huggingface.co", "HF_ENDPOINT")
    import timm

    # timm would map xception itself, with a warning of its own
    name = {"xception": "legacy_xception", **weights_of.ALIASES}.get(name, name)
    embedded = name in weights_of.EMBEDDED and weights is None
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:6] or weights_of.near(name, timm.list_models())
        raise UsageError(
            f"--model {name}: no such file, and timm has no such model{'; near it: ' + ', '.join(near) if near else ''}"
        )
    try:
        module = timm.create_model(name, pretrained=weights is None and not embedded, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise weights_of.unreachable(f"timm/{name}", error) from None
    config = timm.data.resolve_model_data_config(module)
    _, height, width = config["input_size"]
    preprocess = Preprocess(
        height,
        width,
        tuple(config["mean"]),
        tuple(config["std"]),
        _interpolation(config["interpolation"]),
        int(height / config["crop_pct"]) if config["crop_mode"] == "center" and height == width else None,
    )
    if embedded:
        package = f"the package {weights_of.EMBEDDED[name]}"
        weights_of.fill(module, weights_of.embedded(module, name), f"timm/{name}", package)
    elif weights is not None:
        weights_of.give(module, weights, f"timm/{name}")
    if pooling is not None and hasattr(module, "forward_features"):
        module.forward = module.forward_features  # type: ignore[assignment]  # tokens; the pooling is ours
    return Backbone(
        module,
        preprocess,
        {"spec": f"timm/{name}"},
        prefix_tokens=int(getattr(module, "num_prefix_tokens", 0)),
        channels_last_output=str(getattr(module, "output_fmt", "")).endswith("NHWC"),
    )


def torchvision_model(name: str, weights: str | Path | None) -> Backbone:
    import torch
    import torchvision

    spec = f"torchvision/{name}"
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UsageError(f"--model {spec}: no such model; near it: {', '.join(weights_of.near(name, known)) or 'none'}")
    pretrained = torchvision.models.get_model_weights(name).DEFAULT
    module = torchvision.models.get_model(name, weights=None)
    own = pretrained.transforms()
    preprocess = Preprocess(
        own.crop_size[0],
        own.crop_size[0],
        tuple(own.mean),
        tuple(own.std),
        _interpolation(own.interpolation.value),
        own.resize_size[0],
    )
    if weights is None:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(pretrained.url).name
        if not cached.is_file() and not weights_of.in_reach("download.pytorch.org"):
            raise weights_of.unreachable(spec)
        try:
            weights_of.fill(module, pretrained.get_state_dict(progress=False, check_hash=True), spec, pretrained.url)
        except (OSError, RuntimeError) as error:
            raise weights_of.unreachable(spec, error) from None
    n_classes = len(pretrained.meta["categories"])
    heads = [
        name
        for name, layer in module.named_modules()
        if getattr(layer, "out_features", getattr(layer, "out_channels", None)) == n_classes
    ]
    parent, _, last = heads[-1].rpartition(".")  # auxiliary classifiers come before it
    setattr(module.get_submodule(parent), last, torch.nn.Identity())
    if weights is not None:
        weights_of.give(module, weights, spec)
    return Backbone(
        module,
        preprocess,
        {"spec": spec},
        prefix_tokens=int(hasattr(module, "class_token")),
        channels_last_output=type(module).__name__ == "SwinTransformer",
    )


def hugging_face_model(name: str, weights: str | Path | None, pooling: str | None) -> Backbone:
    local = Path(name).is_dir()
    if not local:
        weights_of.go_offline_without("huggingface.co", "HF_ENDPOINT")
    import transformers

    from backbones.backbone import Backbone

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    spec = f"hf/{name}"
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        if weights is None:
            model, loaded = transformers.AutoModel.from_pretrained(
                name, trust_remote_code=False, output_loading_info=True
            )
            missing = sorted(key for key in loaded["missing_keys"] if "pooler" not in key)
            if missing:
                raise UserError(f"{spec} lacks {len(missing)} weights, such as {missing[0]}; choose a complete model")
        else:
            model = transformers.AutoModel.from_config(config, trust_remote_code=False)
        preprocess = preprocess_of(name, config)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, TypeError) as error:
        raise weights_of.unreachable(spec, error, local=local) from None
    module = Vision(model, pooled=pooling is None, spec=spec)
    if weights is not None:
        weights_of.give(module.model, weights, spec, optional=("pooler",))
    module.drop_pooler()
    identity = {"spec": f"hf/{config.model_type}" if local else spec}
    return Backbone(module, preprocess, identity, prefix_tokens=module.prefix_tokens)


def _interpolation(name: str) -> str:
    return {"random": "bicubic", "nearest-exact": "nearest"}.get(name, name)


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
