"""Models of timm, torchvision and Hugging Face by name or folder, with or without their classifiers, and their preprocessing."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from backbones import weights as weights_of
from backbones.backbone import Backbone
from backbones.preprocess import INTERPOLATIONS, Preprocess
from common.messages import UsageError, UserError, note

_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # PIL's numbers
LOCAL = "local-dir:"  # before a folder, as timm names it
_LOAD_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    ImportError,
    TypeError,
    pickle.UnpicklingError,
    SafetensorError,
)
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "distillation_token")


def timm_model(name: str, weights: str | Path | None, pooling: str | None, *, head: bool = False) -> Backbone:
    """Return a model of timm, or of a folder that timm wrote (local-dir:FOLDER); `head`: with its classifier, for logits."""
    folder = name.startswith(LOCAL)
    embedded = weights_of.ALIASES.get(name, name) in weights_of.EMBEDDED and weights is None
    if not (embedded or folder):
        weights_of.go_offline_without("huggingface.co", "HF_ENDPOINT")
    import timm

    # timm would map xception itself, with a warning of its own
    name = {"xception": "legacy_xception", **weights_of.ALIASES}.get(name, name)
    if not folder and not timm.is_model(name.split(".")[0]):
        raise UsageError(f"--model {name}: no such file, and timm has no such model{_did_you_mean(name)}")
    try:
        options: dict[str, Any] = {} if head else {"num_classes": 0}
        module: Any = timm.create_model(name, pretrained=weights is None and not embedded, **options)
    except _LOAD_ERRORS as error:
        raise weights_of.unreachable(name if folder else f"timm/{name}", error, local=folder) from None
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
    spec = f"timm/{module.pretrained_cfg['architecture'] if folder else name}"
    if embedded:
        package = f"the package {weights_of.EMBEDDED[name]}"
        weights_of.fill(module, weights_of.embedded(module, name), spec, package)
    elif weights is not None:
        weights_of.give(module, weights, spec)
    own_pooling = None if head else weights_of.OWN_POOLING.get(name)
    if (pooling or own_pooling) and hasattr(module, "forward_features"):
        module.forward = module.forward_features  # type: ignore[assignment]  # tokens; the pooling is ours
    return Backbone(
        module,
        preprocess,
        {"spec": spec},
        prefix_tokens=int(getattr(module, "num_prefix_tokens", 0)),
        channels_last_output=str(getattr(module, "output_fmt", "")).endswith("NHWC"),
        pooling=own_pooling,
    )


def _did_you_mean(name: str) -> str:
    """Return the names of timm's models that are nearest to a misspelt one, as the end of a sentence."""
    import timm

    models = timm.list_models()
    near = (
        weights_of.near(name.split(".")[0].lower(), [*weights_of.ALIASES, *models])
        or [model for model in models if name in model][:6]
    )
    return f"; near it: {', '.join(near)}" if near else ""


def torchvision_model(name: str, weights: str | Path | None, *, head: bool = False) -> Backbone:
    """Return a classification model of torchvision; `head`: with its classifier, for logits."""
    import torchvision

    spec = f"torchvision/{name}"
    pretrained = torchvision_weights(name)
    module = torchvision.models.get_model(name, weights=None)
    transforms = pretrained.transforms()
    preprocess = Preprocess(
        transforms.crop_size[0],
        transforms.crop_size[0],
        tuple(transforms.mean),
        tuple(transforms.std),
        _interpolation(transforms.interpolation.value),
        transforms.resize_size[0],
    )
    if weights is None:
        _fill_from_hub(module, pretrained, spec)
    elif head:
        weights_of.give(module, weights, spec)
    if not head:
        _remove_head(module, n_classes=len(pretrained.meta["categories"]))
        if weights is not None:
            weights_of.give(module, weights, spec)
    return Backbone(
        module,
        preprocess,
        {"spec": spec},
        prefix_tokens=int(hasattr(module, "class_token")),
        channels_last_output=type(module).__name__ == "SwinTransformer",
    )


def torchvision_weights(name: str) -> Any:
    """Return the description of a model's best weights: url, transforms, and categories; raises UsageError for a misspelt name."""
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = ", ".join(weights_of.near(name, known)) or "none"
        raise UsageError(f"--model torchvision/{name}: no such model; near it: {near}")
    return torchvision.models.get_model_weights(name).DEFAULT


def _fill_from_hub(module: nn.Module, pretrained: Any, spec: str) -> None:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(pretrained.url).name
    if not cached.is_file() and not weights_of.in_reach("download.pytorch.org"):
        raise weights_of.unreachable(spec)
    try:
        weights_of.fill(module, pretrained.get_state_dict(progress=False, check_hash=True), spec, pretrained.url)
    except (OSError, RuntimeError) as error:
        raise weights_of.unreachable(spec, error) from None


def _remove_head(module: nn.Module, *, n_classes: int) -> None:
    """Put nothing in the place of the last layer that gives as many numbers as there are classes."""
    heads = [
        name
        for name, layer in module.named_modules()
        if getattr(layer, "out_features", getattr(layer, "out_channels", None)) == n_classes
    ]
    parent, _, last = heads[-1].rpartition(".")  # auxiliary classifiers come before it
    setattr(module.get_submodule(parent), last, nn.Identity())


def hugging_face_model(name: str, weights: str | Path | None, pooling: str | None) -> Backbone:
    """Return a vision model of the Hugging Face hub, or of a local folder, without its classifier."""
    model, config, preprocess = _from_hugging_face(name, weights, "AutoModel", optional=("pooler",))
    spec = f"hf/{name}"
    module = Vision(model, pooled=pooling is None, spec=spec)
    if weights is not None:
        weights_of.give(module.model, weights, spec, optional=("pooler",))
    module.drop_pooler()
    identity = {"spec": f"hf/{config.model_type}" if Path(name).is_dir() else spec}
    return Backbone(module, preprocess, identity, prefix_tokens=module.prefix_tokens)


def hugging_face_classifier(name: str, weights: str | Path | None) -> tuple[Backbone, Mapping[int, str]]:
    """Return an image classifier of the Hugging Face hub, or of a local folder, for logits; and the names of its classes."""
    model, config, preprocess = _from_hugging_face(name, weights, "AutoModelForImageClassification")
    if weights is not None:
        weights_of.give(model, weights, f"hf/{name}")
    return Backbone(Logits(model), preprocess, {"spec": f"hf/{name}"}), config.id2label


def _from_hugging_face(
    name: str, weights: str | Path | None, kind: str, optional: tuple[str, ...] = ()
) -> tuple[Any, Any, Preprocess]:
    """Return model, configuration and preprocessing; the model is unfilled where `weights` will be given to it.

    kind: the class of transformers that makes it. optional: words in the names of weights that may be missing.
    """
    local = Path(name).is_dir()
    if not local:
        weights_of.go_offline_without("huggingface.co", "HF_ENDPOINT")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    spec, maker = f"hf/{name}", getattr(transformers, kind)
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        if weights is None:
            model, loaded = maker.from_pretrained(name, trust_remote_code=False, output_loading_info=True)
            missing = sorted(key for key in loaded["missing_keys"] if not any(word in key for word in optional))
            if missing:
                raise UserError(f"{spec} lacks {len(missing)} weights, such as {missing[0]}; choose a complete model")
        else:
            model = maker.from_config(config, trust_remote_code=False)
        return model, config, preprocess_of(name, config)
    except _LOAD_ERRORS as error:
        raise weights_of.unreachable(spec, error, local=local) from None


class Logits(nn.Module):
    """float (n, 3, h, w) -> the logits (n, classes) of a classifier of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=images).logits


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
        self.interpolates = False  # positions of patches, for images of another size than the model's own
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
        run: Any = self.model.get_image_features if self.projects else self.model
        takes = inspect.signature(self.model.forward).parameters
        more = {"interpolate_pos_encoding": True} if self.interpolates and "interpolate_pos_encoding" in takes else {}
        output = run(pixel_values=images, **more)
        if self.projects:
            return output if isinstance(output, torch.Tensor) else output.pooler_output
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
    image_size = int(getattr(getattr(config, "vision_config", config), "image_size", 224) or 224)
    short_edge = size.get("shortest_edge")
    target = crop or ({"height": short_edge, "width": short_edge} if short_edge else size)
    resample = values.get("resample", 2)
    described = {
        "height": target.get("height", image_size),
        "width": target.get("width", image_size),
        "mean": values.get("image_mean") or (0.5, 0.5, 0.5),
        "std": values.get("image_std") or (0.5, 0.5, 0.5),
        "interpolation": _RESAMPLE[resample] if isinstance(resample, int) else INTERPOLATIONS[2],
        "short_edge": short_edge,
    }
    if not values:
        note(
            f"{name} has no preprocessor_config.json: {described['height']} x {described['width']} px, mean and std 0.5"
        )
    if values.get("do_normalize") is False:
        described |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return Preprocess.from_dict(described, f"hf/{name}")
