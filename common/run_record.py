"""The record of options that an output was made with, by which a run goes on; JSON objects with a checksum, and their fields."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import SEAL, check_seal, seal, whole
from common.messages import UserError

_REMOVED = {"state": "being removed"}  # in the place of a record
_HASHES = {
    "input": "images or labels were added, removed or changed",
    "images": "some were added, removed or changed",
    "annotations": "boxes, labels or splits were changed",
    "fingerprint": "another model by its weights or preprocessing",
    "base_fingerprint": "another model by its weights or preprocessing",
    "boxes": "the objects lie elsewhere in their crops",
}
# By key of a record: what a user knows it by, where that is not the option of the same name.
_NAMES = {"normalized": "--normalize", "dataset_name": "--company_name", "compiled": "--compile"}
_NAMES |= {name: name for name in ("padding", "split", "preprocess", "preprocessing_version")}
# By key of a record: what differs because it does.
_OF_PIXELS = ("fingerprint", "base_fingerprint")
_OF_OPTIONS = (*_OF_PIXELS, "preprocess", "image_size", "pooling")
_FOLLOWS = {"model": (*_OF_OPTIONS, "model_options"), "model_options": _OF_OPTIONS, "preprocess": _OF_PIXELS}


def write_json(path: Path | str, content: dict[str, Any]) -> None:
    """Write a JSON object with a seal, whole or not at all."""
    with whole(path) as temporary:
        text = json.dumps({**content, "checksum": SEAL}, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        temporary.write_bytes(text.encode("utf-8", "surrogatepass") + b"\n")
        seal(temporary)


def read_json(path: Path | str) -> dict[str, Any]:
    """Return the JSON object in `path` without its seal. Raises UserError where it is damaged, FileNotFoundError."""
    path = Path(path)
    try:
        content = json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object; make it anew")
    if "checksum" in content:
        check_seal(path)
    return {key: value for key, value in content.items() if key != "checksum"}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], keys: Iterable[str] | None = None) -> str:
    """Return what two records differ in, as `--seed 0 -> 1, images: some were added, removed or changed`.

    `keys`: those to compare (default: all). A hash says nothing to a reader, so that words stand in its place. What follows from
    another model, such as its preprocessing, is left out.
    """
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key)) if keys is None else list(keys)
    for cause, effects in _FOLLOWS.items():
        if cause in changed and (old.get(cause) or new.get(cause)):  # {} and None are alike
            changed = [key for key in changed if key not in effects]
    parts = []
    for key in changed:
        before, now = old.get(key), new.get(key)
        if key in _HASHES:
            parts.append(f"{key}: {_HASHES[key]}")
        elif key == "model_options":
            parts += [_change(f"--{name}", *values) for name, *values in _inner(before or {}, now or {})]
        elif key == "preprocess" and before and now:
            parts += _preprocessing(before, now)
        elif isinstance(before, dict) and isinstance(now, dict):
            parts += [_change(f"{key}.{name}", *values) for name, *values in _inner(before, now)]
        else:
            parts.append(_change(_NAMES.get(key, f"--{key}"), before, now))
    return ", ".join(parts)


def _inner(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (name, value before, value now) of what differs, by name."""
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return [(name, before.get(name), now.get(name)) for name in names]


def _preprocessing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs in a model's preprocessing, in words."""
    changed = {name: values for name, *values in _inner(before, now)}
    sizes = [f"{each.get('width')} x {each.get('height')}" for each in (before, now)]
    parts = [f"input size {sizes[0]} -> {sizes[1]} pixels"] if {"height", "width"} & {*changed} else []
    parts += ["other means or deviations of the pixels"] if {"mean", "std"} & {*changed} else []
    others = {name: values for name, values in changed.items() if name not in ("height", "width", "mean", "std")}
    return parts + [_change(name.replace("_", " "), *values) for name, values in others.items()]


def _change(name: str, before: object, now: object) -> str:
    texts = ("not given" if value is None else _short(value) for value in (before, now))
    return f"{name} {' -> '.join(texts)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:29] + "…" + text[-30:]


def claim(
    path: Path,
    record: dict[str, Any],
    *,
    overwrite: bool,
    finished: Callable[[], bool],
    begun: Callable[[], bool],
    clear: Callable[[], None],
    advice: str = "name another output",
    noted: Callable[[], dict[str, Any]] = dict,
) -> bool:
    """Make the output whose record file is `path` this run's, and return whether an earlier run has finished it.

    `record` is JSON-serialisable: the options, model and input that decide the output; what it says under `written` of the output
    itself, see finish(), is not compared. An output of the same record is gone on with;
    `overwrite` removes a finished one, and one of another record. Without it, another record is a UserError that names what
    differs, unless nothing was `begun`. `clear` removes what earlier runs wrote, but `path` itself; the record says so
    meanwhile, so that a run that is killed while it removes leaves nothing that a later one would go on with. What `noted` returns
    is put under `written` where a run begins.
    """
    record = json.loads(json.dumps(record))
    try:
        old = read_json(path)
    except FileNotFoundError:
        old = None
    except UserError:
        if not overwrite:
            raise UserError(f"{path} is damaged; add --overwrite to start anew, or name another output") from None
        old = {}
    if old is not None:
        old.pop("written", None)
    same = old == record
    if same and not (overwrite and finished()):
        return finished()
    if old not in (None, _REMOVED) and not same and not overwrite and begun():
        raise UserError(
            f"{path.parent} was made with other options or input ({differences(old or {}, record)}); "
            f"{advice}, or add --overwrite, which removes it"
        )
    if old is not None or overwrite:
        write_json(path, _REMOVED)
        clear()
    first = noted()
    write_json(path, record | ({"written": first} if first else {}))
    return False


def finish(path: Path, written: dict[str, Any]) -> None:
    """Add to the record file `path` what the run has written, such as a table's number of rows and its CRC-32."""
    record = read_json(path)
    write_json(path, record | {"written": record.get("written", {}) | written})


def checksum(path: Path) -> str:
    """Return the CRC-32 of a file as eight hexadecimal digits."""
    total = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 22):
            total = zlib.crc32(part, total)
    return f"{total:08x}"


Check = tuple[str, Callable[[Any], bool]]  # what a field has to be, in words and as a test

TEXT: Check = ("a text", lambda value: isinstance(value, str) and "\0" not in value)
NAME: Check = ("a text or a number", lambda value: TEXT[1](value) or _is_number(value))
OBJECT: Check = ("an object", lambda value: isinstance(value, dict))
FLAG: Check = ("true or false", lambda value: isinstance(value, bool))
NUMBER: Check = ("a number", lambda value: _is_number(value))
POSITIVE: Check = ("a number above 0", lambda value: _is_number(value) and value > 0)
WHOLE: Check = ("a whole number from 0 on", lambda value: type(value) is int and 0 <= value < 1 << 63)
UNIQUE_TEXTS: Check = (
    "a list of different texts",
    lambda value: isinstance(value, list) and all(map(TEXT[1], value)) and len({*value}) == len(value),
)


def optional(check: Check) -> Check:
    """Return the check of a field that may also be null."""
    return f"{check[0]} or null", lambda value: value is None or check[1](value)


def one_of(*known: str) -> Check:
    """Return the check of a field that has one of these texts."""
    return " or ".join(known), lambda value: isinstance(value, str) and value in known


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_fields(
    content: Any, fields: Mapping[str, Check], where: str, *, needed: Sequence[str] = (), version: int = 1
) -> None:
    """Raise UserError naming `where` and the field that is of another form, that is missing, or whose version is newer than ours.

    Fields that are not in the table are left alone: a later version of the same format may have them.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where} is no JSON object; the file is damaged, make it anew")
    number = content.get("format_version", version)
    if type(number) is not int or number < 1:
        raise UserError(f"{where}: format_version is {shown(number)}, not a whole number from 1 on; make the file anew")
    if number > version:
        raise UserError(f"{where} has format {shown(number)}, this version reads up to {version}; update the scripts")
    for name in needed:
        if name not in content:
            raise UserError(f"{where} has no field {name}; make the file anew")
    for name, (words, test) in fields.items():
        if name in content and not test(content[name]):
            raise UserError(f"{where}: {name} is {shown(content[name])}, not {words}; make the file anew")


def shown(value: object) -> str:
    """Return a value of JSON as it may stand in a message."""
    try:
        return _short(value)
    except (ValueError, RecursionError):
        return "nested too deeply"
