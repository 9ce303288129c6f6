"""Embedding sets and their .npz files: the schema of docs/formats.md, and what older tools wrote."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from common import array_choice, files, npz
from common.array_files import Columns, described, is_numeric, open_arrays
from common.blocks import Blocks, release
from common.labels import label_paths, texts_of
from common.messages import UserError, note, warn
from common.run_record import FLAG, NAME, OBJECT, TEXT, WHOLE, check_fields, optional

# The fields of meta that say which model made the vectors.
MODELS_CSV = "models.csv"  # beside the sets of a folder: how large and how fast the models are that made them
MODEL_FIELDS = (
    "model",
    "model_options",
    "fingerprint",
    "preprocess",
    "preprocessing_version",
    "normalized",
    "background",
    "engine",
)
FORMAT_VERSION = 1
PREPROCESSING_VERSION = (
    1  # higher wherever the same image and options give other pixels: another decoder, another resize
)
META = {  # the fields that this suite reads, see docs/formats.md
    **dict.fromkeys(("id", "split", "dataset_name", "padding"), optional(NAME)),
    **dict.fromkeys(
        ("model", "fingerprint", "data_root", "precision", "engine", "input", "contents", "background"),
        optional(TEXT),
    ),
    **dict.fromkeys(("model_options", "preprocess"), optional(OBJECT)),
    **dict.fromkeys(("skipped", "batch_size", "preprocessing_version"), optional(WHOLE)),
    **dict.fromkeys(("normalized", "compiled"), optional(FLAG)),
    **dict.fromkeys(("pooling", "base_fingerprint"), optional(TEXT)),
    "object_px": optional(WHOLE),
    "image_size": optional(NAME),
}
TEXTS = ("labels", "crop_ids", "sample_ids", "paths")  # of an EmbeddingSet, beside its vectors
RUN_ONLY = ("source", "named", "unread", "own_id", "known_by_path")  # of meta: what only this run knows


@dataclass(frozen=True, eq=False)
class EmbeddingSet:
    """The vectors of one dataset, one split, one model and one variant.

    vectors: (n, dim) float32 as the model gives them, an array, a read-only memory map, or `Blocks` of several shards.
    labels: (n, levels) str, '' where a level is missing. crop_ids, sample_ids, paths: (n,) str, '' where unknown.
    meta: see docs/formats.md; `id`, `split`, `dataset_name`, `fingerprint` decide which sets belong together.
    """

    vectors: np.ndarray
    labels: np.ndarray
    crop_ids: np.ndarray
    sample_ids: np.ndarray
    paths: np.ndarray
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    @property
    def id(self) -> str:
        return str(self.meta.get("id", "0"))

    @property
    def split(self) -> str:
        return str(self.meta.get("split") or "")

    @property
    def dataset(self) -> str:
        return str(self.meta.get("dataset_name") or "")

    @property
    def fingerprint(self) -> str:
        return str(self.meta.get("fingerprint") or "")

    @property
    def base(self) -> str:
        """The fingerprint of the same model at its own input size and pooling: that of its weights, whatever the variant."""
        return str(self.meta.get("base_fingerprint") or self.fingerprint)

    @property
    def is_variant(self) -> bool:
        """Whether the model had another input size or pooling than its own."""
        return bool(self.meta.get("image_size") or self.meta.get("pooling"))

    @property
    def model(self) -> dict[str, Any]:
        """MODEL_FIELDS of the model that made the vectors, as far as the file tells them."""
        return {name: self.meta[name] for name in MODEL_FIELDS if name in self.meta}

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def source(self) -> str:
        """The file or files the set was read from, for messages."""
        return str(self.meta.get("source") or self.id)

    @property
    def blocks(self) -> list[np.ndarray]:
        """The vectors as a list of arrays, one a shard, none of them copied."""
        return list(self.vectors.blocks) if isinstance(self.vectors, Blocks) else [self.vectors]

    @property
    def shards(self) -> tuple[EmbeddingSet, ...]:
        """The sets of one file each that this one is made of."""
        return (self,)

    @cached_property
    def _label_paths(self) -> dict[int | None, np.ndarray]:
        """The label paths by level, each made when it is first asked for."""
        return {}

    def label(self, level: int | None = None) -> np.ndarray:
        """Return the (n,) str labels at `level`: the path class_0/…/class_level; the deepest unless a level is given.

        Raises UserError when the set has no such level.
        """
        if level not in self._label_paths:
            self._label_paths[level] = label_paths(self.labels, level, source=self.source)
        return self._label_paths[level]

    def take(self, rows: np.ndarray) -> EmbeddingSet:
        """Return the set of the given rows (a boolean mask or indices), in that order."""
        arrays = {name: getattr(self, name)[rows] for name in ("vectors", *TEXTS)}
        return EmbeddingSet(**arrays, meta=self.meta)

    def renamed(self, **meta: object) -> EmbeddingSet:
        """Return the set with changed meta."""
        return dataclasses.replace(self, meta={**self.meta, **meta})


def computed(precision: object, engine: object) -> str:
    """Return how vectors were computed as models.csv has it: `fp32`, or `fp32 by openvino`."""
    return str(precision) if engine in (None, "torch") else f"{precision} by {engine}"


def save(path: Path | str, embedding_set: EmbeddingSet) -> None:
    """Write the set to `path`, whole or not at all, streaming its vectors. Equal sets give equal bytes.

    Raises UserError when an array's length is not that of the vectors.
    """
    n = len(embedding_set)
    arrays: dict[str, Any] = {"embeddings": embedding_set.vectors}
    for name in TEXTS:
        values = np.asarray(getattr(embedding_set, name), dtype=str)
        if len(values) != n:
            raise UserError(f"{path}: {len(values)} {name} for {n} vectors")
        arrays[name] = values
    kept = {name: value for name, value in embedding_set.meta.items() if name not in RUN_ONLY}
    meta = {"format_version": FORMAT_VERSION, **kept}
    arrays["meta"] = np.array(json.dumps(meta, sort_keys=True, ensure_ascii=False))
    with files.whole(path) as temporary, open(temporary, "wb") as file:
        npz.write(file, arrays)


def load(
    path: Path | str,
    key: str | None = None,
    *,
    company_name: str | None = None,
    drop_invalid: bool = False,
    labels_key: str | None = None,
    paths_key: str | None = None,
    ids_key: str | None = None,
    labels: Sequence[str] = (),
) -> EmbeddingSet:
    """Read the set of one file: this suite's, another tool's arrays or table (see common.array_files), or an older pickled dict.

    `key` names the array of vectors, or the dict, inside; `labels_key`, `paths_key` and `ids_key` name those of the labels, image
    paths and crop IDs. Without them the names of docs/formats.md are taken; labels are else the only other array that fits in
    length. `labels`: files `[NAME=]FILE` of labels for files without any. Vectors are memory-mapped where they are stored as
    float32. Zero and non-finite rows are an error, or with `drop_invalid` are left out and counted on stderr. What was guessed is
    told there. Raises UserError naming file and remedy.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one .npz file")
    arrays = open_arrays(path)
    chosen = {"labels": labels_key, "paths": paths_key, "ids": ids_key}
    name, value = array_choice.find_vectors(arrays, key, company_name, chosen)
    if isinstance(value, dict):
        held = {str(inner): content for inner, content in value.items()}
        if "embeddings" not in held:
            raise UserError(f"{path}: {name!r} is a dict without 'embeddings'; it has: {', '.join(held) or 'nothing'}")
        value, fields = held["embeddings"], {inner: held[inner] for inner in held if inner != "embeddings"}
        arrays = Columns(path, {inner: np.asarray(content, dtype=object) for inner, content in fields.items()})
    else:
        fields = {
            other: arrays.read(other)
            for other in (*array_choice.TEXT_FIELDS, "meta")
            if other in arrays and other != name
        }
    vectors = _matrix(path, name, value)
    fields |= array_choice.named_fields(arrays, chosen, fields)
    is_table = isinstance(arrays, Columns) and arrays.table
    fields |= array_choice.table_fields(arrays, fields, len(vectors)) if is_table else {}
    fields |= array_choice.find_labels(arrays, fields, len(vectors), name, labels)
    meta = _meta(path, fields, company_name)
    if not (fields.keys() & {"labels", "class_names", "targets"}):
        others = [other for other in arrays.names if other != name and other not in fields]
        readable = [other for other in others if is_table and not is_numeric(arrays.read(other))]
        by_columns = is_table and name not in arrays and not readable
        meta["unread"] = f"one of {name}" if by_columns else described(arrays, readable or others)
    texts = _texts(path, fields, *vectors.shape)
    by_path = "sample_ids" not in fields and (texts["paths"] != "").any()
    meta["known_by_path"] = len(np.unique(texts["paths"])) / len(vectors) if by_path else None  # photos a row
    embedding_set = EmbeddingSet(vectors, **texts, meta=meta)
    return _without_invalid(embedding_set, drop_invalid)


def _without_invalid(embedding_set: EmbeddingSet, drop_invalid: bool) -> EmbeddingSet:
    """Return the set without zero and non-finite rows; raises UserError where there are any, unless they are to be dropped."""
    sound, path = _sound_rows(embedding_set.vectors), embedding_set.source
    if sound.all():
        return embedding_set
    bad = np.flatnonzero(~sound)
    if not drop_invalid or len(bad) == len(sound):
        shown = ", ".join(map(str, bad[:5])) + (" …" if len(bad) > 5 else "")
        raise UserError(
            f"{path}: {len(bad)} of {len(sound)} vectors are zero or not finite (row {shown}, counted from 0); "
            "make them anew, or leave them out with --drop_invalid"
        )
    warn(f"{path}: {len(bad)} of {len(sound)} rows left out, zero or not finite")
    return embedding_set.take(sound)


def _matrix(path: Path, name: str, value: Any) -> np.ndarray:
    vectors: np.ndarray = np.empty(0, dtype=object)
    try:
        vectors = np.asanyarray(value)
        if vectors.dtype.hasobject:  # numbers, or rows that are arrays or lists of numbers
            vectors = vectors.astype(np.float32) if vectors.ndim != 1 else np.stack([_row(row) for row in vectors])
    except (ValueError, TypeError):
        kinds = ", ".join(sorted({type(row).__name__ for row in vectors.ravel()[:1000]})[:3])
        raise UserError(
            f"{path}: {name!r} is no matrix of numbers but holds {kinds or 'nothing'}; save rows of one length, or name another "
            "array with --key"
        ) from None
    if vectors.dtype.kind in "US" and any("..." in text for text in map(str, vectors.ravel()[:100])):
        raise UserError(
            f"{path}: {name!r} holds vectors that were cut short with '...' when they were printed; save the numbers themselves, "
            "for example with to_parquet"
        )
    if vectors.dtype.names:
        line = f"x = numpy.load({str(path)!r}); x = x if hasattr(x, 'dtype') else x[{name!r}]"
        raise UserError(
            f"{path}: {name!r} is a table with the fields {', '.join(vectors.dtype.names)}; save each as an array: "
            f'python -c "import numpy; {line}; '
            f'numpy.savez({str(path.with_suffix("")) + "_arrays.npz"!r}, **{{k: x[k] for k in x.dtype.names}})"'
        )
    if vectors.dtype.kind not in "fiu":
        raise UserError(f"{path}: {name!r} holds {_kind(vectors)}, not numbers; save the embeddings as float32")
    if vectors.ndim > 2 and vectors.size == len(vectors) * max(vectors.shape[1:]):  # (n, dim, 1, 1) of a last pooling
        vectors = vectors.reshape(len(vectors), -1)
    if vectors.ndim != 2:
        remedy = "; of tokens save the first, x[:, 0], or the mean, x.mean(axis=1)" * (vectors.ndim == 3)
        raise UserError(
            f"{path}: {name!r} has shape {vectors.shape}; embeddings need two dimensions, one row a crop{remedy}"
        )
    if vectors.dtype == np.uint8:
        note(f"{path}: {name!r} holds bytes, taken as numbers; packed bits are unpacked by numpy.unpackbits(x, axis=1)")
    if not vectors.size:
        raise UserError(f"{path}: {name!r} has shape {vectors.shape}: there are no vectors in it; make it anew")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported as such
        return vectors if vectors.dtype == np.float32 and vectors.dtype.isnative else vectors.astype(np.float32)


def _row(value: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # as in _matrix
        return np.asarray(value, np.float32)


def _kind(array: np.ndarray) -> str:
    return (
        f"text such as {str(array.ravel()[0])[:40]!r}" if array.dtype.kind in "US" and array.size else str(array.dtype)
    )


def _sound_rows(vectors: np.ndarray) -> np.ndarray:
    sound = np.empty(len(vectors), bool)
    step = max(1, npz.CHUNK // (4 * vectors.shape[1]))
    for at in range(0, len(vectors), step):
        rows = np.asarray(vectors[at : at + step])
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            norms = np.einsum("ij,ij->i", rows, rows)
            if not (np.isfinite(norms) & (norms > 0)).all():  # or too large or too small to be squared in float32
                norms = np.einsum("ij,ij->i", *2 * (rows.astype(np.float64),))
        sound[at : at + step] = np.isfinite(norms) & (norms > 0)
        release(vectors)
    return sound


def _texts(path: Path, arrays: dict[str, Any], n: int, dim: int) -> dict[str, np.ndarray]:
    """Return labels, crop_ids, sample_ids, paths from a schema file or an older one."""
    text = {name: _text(path, name, arrays[name]) for name in array_choice.TEXT_FIELDS if name in arrays}
    if "targets" in text and "classes" in text and not {"labels", "class_names"} & set(text):
        try:
            targets = np.asarray(arrays["targets"], dtype=np.int64)
            if targets.min(initial=0) < -1:
                raise IndexError
            text["labels"] = np.append(text["classes"], "")[targets]  # -1: of no class
        except (IndexError, ValueError, TypeError):
            raise UserError(f"{path}: 'targets' do not index the {len(text['classes'])} 'classes'") from None
    labels = next((text[name] for name in ("labels", "class_names", "targets") if name in text), None)
    ids: list[str] = [name for name in ("crop_ids", "ids", "dolt_ids", "sample_ids") if name in text]
    if ids == ["sample_ids"] and len(np.unique(text["sample_ids"])) < len(text["sample_ids"]):
        ids = ["", "sample_ids"]  # what repeats names photos; older files name their crops so
    empty = np.full(n, "", dtype="<U1")
    paths = text.get("paths", empty)
    found = {
        "labels": np.empty((n, 0), "<U1")
        if labels is None
        else labels.reshape(len(labels), math.prod(labels.shape[1:])),
        "crop_ids": text.get(ids[0], empty) if ids else empty,
        "sample_ids": text["sample_ids"] if "sample_ids" in ids[1:] else paths,
        "paths": paths,
    }
    for name, values in found.items():
        if len(values) != n or (name != "labels" and values.ndim != 1):
            remedy = "the file is damaged or from another tool"
            if len(values) == dim:
                remedy = f"each is a column of the ({n}, {dim}) matrix: save it transposed, one row a crop"
            raise UserError(f"{path}: {len(values)} {name} for {n} vectors; {remedy}")
    return found


def _text(path: Path, name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
        if array.dtype.kind == "U" and name not in array_choice.LABELS:
            return array
        if name in array_choice.LABELS and array.ndim == 2 and array.shape[1] > 1 and _is_one_hot(array):
            note(
                f"{path}: {name!r} {array.shape} has a single 1 in each row; the labels are their columns, counted from 0"
            )
            return texts_of(array.argmax(axis=1))
        if name in array_choice.LABELS and array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "fiub":
            array = _levels(path, name, array)
        if array.ndim in (1, 2):
            return texts_of(array)
    except (ValueError, TypeError, RecursionError):
        pass
    raise UserError(f"{path}: {name!r} is no list of texts; save it as an array of strings")


def _levels(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """Return labels (n, k) of numbers as they are meant: the largest of k probabilities, else k levels of one label; told.

    Raises UserError where they say several classes of one row.
    """
    shape = f"{path}: {name!r} {array.shape}"
    if array.dtype.kind == "f" and (array >= 0).all() and (abs(array.sum(axis=1) - 1) < 1e-3).all():
        note(
            f"{shape} has shares that add up to 1 in each row; the labels are the columns of the largest, counted from 0"
        )
        return array.argmax(axis=1)
    if array.shape[1] > 2 and ((array == 0) | (array == 1)).all():
        raise UserError(f"{shape} has several 1, or none, in some rows; each crop needs one label: save its number")
    if array.dtype.kind == "f" and not (np.isnan(array) | (array == np.floor(array))).all():
        raise UserError(f"{shape} holds fractions, which are no labels; save one number or name for each crop")
    note(f"{shape} holds numbers, taken as {array.shape[1]} levels of one label")
    return array


def _is_one_hot(array: np.ndarray) -> bool:
    """Return whether numbers are a single 1 in each row and 0 beside it."""
    return array.dtype.kind in "fiub" and bool(((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all())


def _meta(path: Path, arrays: dict[str, Any], company_name: str | None) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    if "meta" in arrays:
        try:
            meta = json.loads(str(np.asarray(arrays["meta"]).item()))
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise UserError(f"{path}: 'meta' is no JSON object; the file is damaged, make it anew") from None
        check_fields(meta, META, f"{path}: meta", version=FORMAT_VERSION)
    stem = array_choice.SHARD.sub("", path.stem)
    named = next((arrays[name] for name in ("dataset_name", "company_name") if isinstance(arrays.get(name), str)), None)
    number = re.search(r"_(\d+(?:\.\d+)?)", stem)
    split = array_choice.split_of(path)
    meta.setdefault("dataset_name", named or company_name or "")
    meta.setdefault("split", split or "")
    meta.setdefault("id", number[1] if number else stem.removesuffix(f"_{split}") if split else stem)
    meta = {name: files.without_bytes(value) if isinstance(value, str) else value for name, value in meta.items()}
    return meta | {"source": str(path)}
