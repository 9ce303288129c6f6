"""Images that a user asks about, embedded by the very model that made the vectors they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from backbones.preprocess import BOX, KEEP, POOLINGS, RESIZE_MODES
from common.cli import cores
from common.messages import UserError, progress, warn
from common.run_record import NAME, TEXT, check_fields, one_of, optional
from imaging import crops
from imaging.colors import COLORS

if TYPE_CHECKING:
    from embedding.embedder import Embedder

OPTIONS = {  # of embedder.load(), as the file of an embedding set records them
    "layer": optional(TEXT),
    "pooling": optional(one_of(*POOLINGS)),
    "resize_mode": optional(one_of(*RESIZE_MODES)),
    "weights": optional(TEXT),
    "image_size": optional(NAME),
}


def find(paths: Sequence[Path | str]) -> list[Path]:
    """Return the files named, and for folders the images in and below them, each once. Raises UserError for what is not there."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = [path / name for name in crops.image_files(path)]
            if not inside:
                raise UserError(f"{path}: no images in this folder; check the path")
            found |= dict.fromkeys(inside)
        elif path.exists():
            found[path] = None
        else:
            raise UserError(f"{path}: no such image; check the path")
    return list(found)


class References(Protocol):
    """What images are compared with: its MODEL_FIELDS, the name to show, the length of its vectors."""

    model: dict[str, Any]
    source: str
    dim: int


def embed_alike(
    paths: Sequence[Path],
    references: References,
    *,
    spec: str | None = None,
    device: str = "auto",
    engine: str = "auto",
    background: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
) -> tuple[np.ndarray, list[Path]]:
    """Return what `embed` does, by the model and over the background that `references` were made with; see `recorded_model`."""
    about = references.model, references.source
    how: dict[str, Any] = {"device": device, "engine": engine, "pictures": paths, "batch_size": batch_size}
    embedder = recorded_model(*about, dim=references.dim, spec=spec, **how)
    color = background_of(*about, background)
    return embed(paths, embedder, batch_size=batch_size, workers=workers, background=color)


def recorded_model(
    model: Mapping[str, Any],
    source: str,
    *,
    dim: int | None = None,
    spec: str | None = None,
    device: str = "auto",
    engine: str = "auto",
    pictures: Sequence[Path] = (),
    batch_size: int = 1,
) -> Embedder:
    """Return the model that made the vectors of `source`, whose meta fields `model` are; `spec`: where it has moved to.

    It is computed by the engine that made them, unless another one is named. pictures: those that it will embed, in batches of
    `batch_size`, if they are known: see arithmetic.choose_engine. Raises UserError when the model is unknown, or is another one
    than that by its fingerprint or its dimensions `dim`, or where an engine that is named cannot be had.
    """
    from backbones.architectures import refuse_code
    from embedding.arithmetic import choose_engine
    from embedding.embedder import load as load_model
    from engines.program import ENGINES

    if spec is None and not model.get("model"):
        raise UserError(f"{source} does not say which model made it; name it with --model")
    if spec is None:
        refuse_code(model["model"], source)
    check_fields(model, {"engine": optional(one_of(*ENGINES))}, source)
    options, resize_mode = _recorded_options(model, source)
    if options.get("pooling") == BOX:
        raise UserError(
            f"{source} was made with --pooling box, and where the object lies in a new picture is not known; "
            "name sets of another pooling"
        )
    if spec is not None:
        options.pop("weights", None)
    embedder = load_model(spec or model["model"], resize_mode=resize_mode, **options, device=device, precision="fp32")
    if model.get("fingerprint") and embedder.fingerprint != model["fingerprint"]:
        raise UserError(
            f"{source} was made with {model.get('model')} of fingerprint {model['fingerprint'][:12]}, and {spec or model['model']} "
            f"has {embedder.fingerprint[:12]}; name the model that made it with --model, or extract and build anew"
        )
    if dim is not None and embedder.dim != dim:
        raise UserError(f"{embedder.spec} gives {embedder.dim} dimensions, {source} holds {dim}")
    choose_engine(embedder, engine, model.get("engine"), pictures, batch_size=batch_size)
    return embedder


def _recorded_options(model: Mapping[str, Any], source: str) -> tuple[dict[str, Any], str]:
    """Return the options of embedder.load() and the resize mode that a file records. Raises UserError for what is none of them."""
    options, preprocess = model.get("model_options") or {}, model.get("preprocess") or {}
    check_fields(options, OPTIONS, f"{source}: model_options")
    check_fields(preprocess, {"resize_mode": one_of(*RESIZE_MODES, KEEP)}, f"{source}: preprocess")
    given = {name: options[name] for name in OPTIONS if options.get(name) is not None}
    return given, given.pop("resize_mode", preprocess.get("resize_mode", "squash"))


def background_of(model: Mapping[str, Any], source: str, asked: str | None = None) -> str:
    """Return the colour behind what is transparent in a query: the one `asked` for, else that of the vectors of `source`.

    `model`: their meta fields. Raises UserError where these name no colour.
    """
    check_fields(model, {"background": optional(one_of(*COLORS))}, source)
    return asked or model.get("background") or "white"


def embed(
    paths: Sequence[Path],
    embedder: Embedder,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    background: str = "white",
) -> tuple[np.ndarray, list[Path]]:
    """Return the vectors (n, dim) float32 and the images they are of; those that cannot be read are named on stderr and left out.

    Raises UserError when none can be read.
    """
    vectors, readable = [], []
    with progress(total=len(paths), desc="embedding", unit="image") as bar:
        for batch in embedder.embed(paths, batch_size=batch_size, workers=workers or cores(), background=background):
            vectors.append(batch.vectors)
            readable += [paths[row] for row, sound in zip(batch.rows, batch.fine, strict=True) if sound]
            for row, reason in batch.skipped:
                warn(f"{paths[row]}: {reason}; left out")
            bar.update(len(batch.rows))
    if not readable:
        raise UserError(f"{paths[0]}: none of the {len(paths)} images can be used; check the files")
    return np.concatenate(vectors), readable
