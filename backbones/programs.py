"""Exported programs, TorchScript and torch.export: every entry is checked, and torch is given the very bytes that were.

torch finds entries in its own way (it ignores case, and takes the first of two), evaluates expressions and guards as Python, and
falls back to unpickling freely. So the archive is read once, refused where it holds anything but plain tensors and a graph of ATen
operators, and written anew in memory. A TorchScript program is run by torch's own interpreter, which is what its user asks for.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from backbones.backbone import Backbone
from backbones.preprocess import Preprocess
from common.messages import UsageError, UserError, note, shorten

# The entries of a torch.export archive that are opened, below its one folder. Shared libraries and older layouts are none of them.
_ENTRIES = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)|extra/[^/]+"
)
_TARGET = re.compile(
    r"torch\.ops\.aten\.(?!from_file|save)\w+\.\w+|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|cond)"
    r"|_operator\.(getitem|add|sub|mul|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|floordiv|truediv|mod)"
    r"|torch\.sym_(int|float|max|min|not|sum)|math\.(ceil|floor|trunc|sqrt)"
)
_WORDS = {
    "Symbol",
    "Integer",
    "Float",
    "Rational",
    "Add",
    "Mul",
    "Pow",
    "Max",
    "Min",
    "Mod",
    "PythonMod",
    "FloorDiv",
    "CeilDiv",
}
_WORDS |= {
    "IntTrueDiv",
    "CleanDiv",
    "TruncToInt",
    "ToFloat",
    "Eq",
    "Ne",
    "Lt",
    "Le",
    "Gt",
    "Ge",
    "And",
    "Or",
    "Not",
    "Abs",
}
_WORDS |= {"positive", "nonnegative", "integer", "real", "True", "False", "evaluate"}
_TREES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def load_program(path: Path, weights: str | Path | None) -> Backbone:
    """Return the model in a TorchScript or torch.export file. Raises UserError for any other, and for one that could run Python."""
    entries = _entries(path)
    inside = {name.partition("/")[2]: data for name, data in entries.items()}
    script = any(name.startswith("code/") for name in inside)
    if not script and "archive_format" not in inside:
        raise UserError(
            f"{path} is no TorchScript or torch.export program; for a state dict name the architecture too: "
            f"--model NAME --weights {path.name}"
        )
    if weights is not None:
        raise UsageError(f"{path} holds its own weights; leave --weights away")
    if not script:
        _check_export(path, inside)
        model = json.loads(inside["models/model.json"])
        model["guards_code"] = []  # Python text that torch would run; what it checks, the model's first call shows
        root = next(iter(entries)).partition("/")[0]
        entries[f"{root}/models/model.json"] = json.dumps(model).encode()
    height, width, fixed = 224, 224, None
    extra = {"preprocess.json": ""}
    try:
        if script:
            module = torch.jit.load(_archive(entries), map_location="cpu", _extra_files=extra).eval()
        else:
            program = torch.export.load(_archive(entries), extra_files=extra)
            shape = next(
                node.meta["val"].shape
                for node in program.graph.nodes
                if node.name in program.graph_signature.user_inputs
            )
            fixed = shape[0] if isinstance(shape[0], int) else None
            height, width = (size if isinstance(size, int) else 224 for size in shape[2:4])
            module = program.module()
    except Exception as error:  # the loaders raise whatever their parsers do
        raise UserError(f"{path} cannot be loaded: {shorten(error)}; export it again with this torch") from None
    preprocess = _preprocess(path, extra["preprocess.json"], height, width)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Backbone(module, preprocess, {"spec": "program", "file": digest}, fixed_batch=fixed, portable=False)


def _preprocess(path: Path, given: str | bytes, height: int, width: int) -> Preprocess:
    try:
        described = dict(json.loads(given)) if given else {}
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"{path}: its preprocess.json is no JSON object; export it again") from None
    if not described:
        note(f"{path.name} says nothing of its preprocessing: {height} x {width} px, ImageNet's mean and std")
    return Preprocess.from_dict({"height": height, "width": width, **described}, str(path))


def _entries(path: Path) -> dict[str, bytes]:
    """Return the content of every entry, its CRC-32 compared; {} for what is no zip. Raises UserError where names are ambiguous."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            plain = [name.lower() for name in names]
            if len(set(plain)) < len(plain):
                twin = next(name for name in names if plain.count(name.lower()) > 1)
                raise UserError(f"{path}: {twin} is there twice, of which one could hide code; export it again")
            for name in names:
                if name.startswith("/") or "\\" in name or {"", ".", ".."} & set(name.split("/")):
                    raise UserError(f"{path}: the entry {name!r} has no plain name; export it again")
            if len({name.partition("/")[0] for name in names}) > 1:
                return {}  # older layouts have no folder, and others several
            if sum(info.file_size for info in infos) > 8 * path.stat().st_size + (32 << 20):
                raise UserError(f"{path} is damaged: it promises far more than it can hold; export it again")
            return {info.filename: archive.read(info) for info in infos}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError):
        return {}


def _archive(entries: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    buffer.seek(0)
    return buffer


def _check_export(path: Path, inside: dict[str, bytes]) -> None:
    """Raise UserError where torch.export.load would unpickle, import or evaluate anything."""
    for name, data in inside.items():
        if not _ENTRIES.fullmatch(name):
            raise UserError(
                f"{path}: {name} is no part of a plain torch.export program and could run code; export it again"
            )
        if name.endswith("_config.json"):
            config = _json(path, name, data).get("config", {})
            pickled = not isinstance(config, dict) or any(
                not isinstance(entry, dict) or entry.get("use_pickle") or not _ENTRIES.fullmatch(_member(name, entry))
                for entry in config.values()
            )
        elif name.endswith(".pt") and data:
            pickled = not _is_plain(data)
        else:
            pickled = False
        if pickled:
            raise UserError(f"{path}: {name} holds pickled objects, which could run code; export it without them")
    model = _json(path, "models/model.json", inside.get("models/model.json", b""))
    model["guards_code"] = []
    for key, value in _fields(model):
        if not _is_harmless(key, value):
            raise UserError(f"{path}: its graph says {key} {str(value)[:60]!r}, which could run code; export it again")


def _member(config: str, entry: dict[str, Any]) -> str:
    return config.rpartition("/")[0] + "/" + str(entry.get("path_name"))


def _json(path: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: {name} is damaged; export it again")
    return content


def _is_plain(data: bytes) -> bool:
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception:  # not plain tensors, or damaged: refused either way
        return False
    return True


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every (key, value) of nested objects and lists."""
    for key, inner in value.items() if isinstance(value, dict) else [("", item) for item in value]:
        yield str(key), inner
        if isinstance(inner, (dict, list)):
            yield from _fields(inner)


def _is_harmless(key: str, value: Any) -> bool:
    """Return whether torch makes no Python of this field of a graph: names, operators, expressions, trees of arguments."""
    if key == "target":
        return isinstance(value, str) and bool(_TARGET.fullmatch(value))
    if key == "expr_str":
        words = re.findall(r"[^\W\d]\w*", str(value))
        plain = re.fullmatch(r"[\w\s(),.+\-*/=<>']*", str(value)) is not None and "__" not in str(value)
        return plain and all(word in _WORDS or re.fullmatch(r"z?[suf]\d+", word) for word in words)
    if key in ("as_operator", "as_custom_obj", "as_string_to_argument"):
        return False
    if key in ("name", "as_name", "namedtuple_fields") and isinstance(value, str):
        return re.fullmatch(r"[\w.]*", value) is not None
    if key in ("in_spec", "out_spec") and value:
        try:
            return (
                all(name != "type" or kind in _TREES for name, kind in _fields(json.loads(value))) and "__" not in value
            )
        except (ValueError, TypeError, AttributeError):
            return False
    return True
