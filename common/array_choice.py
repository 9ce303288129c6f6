"""Which arrays of a file are the vectors, labels, paths and IDs: those that the user names, of the usual names, the only ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.array_files import LABEL_COLUMNS, Arrays, Columns, described, is_numeric, numbers_of, read_labels
from common.labels import SPLIT_NAMES, texts_of
from common.messages import UserError, note

SHARD = re.compile(r"_(\d{5})-of-(\d{5})$")
# Columns of tables of other tools that are no numbers of a vector, beside those of labels.
TABLE_PATHS = ("source_file", "path", "file", "filename", "file_name", "filepath", "file_path", "image_path")
TABLE_FIELDS = (
    *(*LABEL_COLUMNS, *TABLE_PATHS, "crop_id", "sample_id", "id", "index", "split", "dataset_name", "padding"),
    "source_npz",
    *(
        "model",
        "image",
        "class_0",
        "class_1",
        "class_2",
        "class_3",
        "projection_x",
        "projection_y",
        "projection_z",
        "neighbors",
    ),
)
LABELS = ("labels", "class_names", "targets", "classes")
TEXT_FIELDS = ("labels", "class_names", "targets", "classes", "crop_ids", "ids", "dolt_ids", "sample_ids", "paths")


def find_vectors(
    arrays: Arrays, key: str | None, company_name: str | None, chosen: dict[str, str | None]
) -> tuple[str, Any]:
    """Return the name and content of the vectors: `key`, a name of docs/formats.md, or the only matrix of numbers."""
    path, names = arrays.path, arrays.names
    unread = arrays.unread if isinstance(arrays, Columns) else {}
    reasons = "".join(f"; column {name!r} holds {reason}" for name, reason in unread.items())
    apart = [*filter(None, chosen.values()), *TEXT_FIELDS, *TABLE_FIELDS]
    apart = [name for name in apart if name not in LABEL_COLUMNS or not _has_fractions(arrays, name)]
    if key is not None:
        if key in arrays:
            return key, arrays.read(key)
        if key in unread:
            raise UserError(f"{path}: column {key!r} holds {unread[key]}, no vectors of one length; make it anew")
        hint = f" Try --key {'embeddings' if 'embeddings' in names else names[0]}" if names else ""
        raise UserError(
            f"{path} has no array {key!r}; it has: {', '.join(names[:12]) or 'nothing'}.{hint} ({described(arrays)})"
        )
    alone = names if len(names) == 1 and names[0] not in TEXT_FIELDS and not unread else []
    for name in ("embeddings", *alone, company_name, split_of(path), "embedding", "vector"):
        if name is not None and name in arrays:
            return name, arrays.read(name)
    matrices = [name for name in names if name not in apart and _is_matrix(*arrays.shape(name))]
    if len(matrices) == 1:
        note(f"{path}: the vectors are {described(arrays, matrices)}; another array is named with --key")
        return matrices[0], arrays.read(matrices[0])
    if isinstance(arrays, Columns) and arrays.table and not matrices and (found := numbers_of(arrays, apart)):
        vectors, columns, left_out = found
        others = f"; no part of them: {', '.join(left_out[:5])}{', …' * (len(left_out) > 5)}" if left_out else ""
        note(f"{path}: the vectors are {len(columns):,} columns of numbers, {columns[0]!r} to {columns[-1]!r}{others}")
        return f"{columns[0]} to {columns[-1]}", vectors
    shapes = {arrays.shape(name) for name in names}
    if (
        len(names) > 2
        and len(shapes) == 1
        and all(len(n) == 1 and n[0] > 1 and kind.kind in "fiu" for n, kind in shapes)
    ):
        line = f"import numpy; x = dict(numpy.load({str(path)!r})); numpy.savez({str(path.with_name(f'{path.stem}_one.npz'))!r}"
        raise UserError(
            f"{path} holds {len(names):,} arrays of one vector each; put them into one, their names as paths: "
            f'python -c "{line}, embeddings=list(x.values()), paths=list(x))"'
        )
    if line := _parts(arrays):
        raise UserError(f"{path} holds several splits ({described(arrays)}); save each in a file of its own: {line}")
    raise UserError(
        f"{path} has no array 'embeddings'; it has: {described(arrays)}{reasons}. "
        "Name the vectors with --key, the labels with --labels_key"
    )


def _parts(arrays: Arrays) -> str:
    """Return the line that saves vectors and labels of each split in a file of its own; "" unless two splits have one each."""
    saved = []
    for split in SPLIT_NAMES:
        own = [name for name in arrays.names if split in re.split(r"[^a-z]+", name.lower())]
        matrices = [name for name in own if _is_matrix(*arrays.shape(name))]
        labels = [name for name in own if len(arrays.shape(name)[0]) == 1]
        if len(matrices) == len(labels) == 1 and arrays.shape(matrices[0])[0][0] == arrays.shape(labels[0])[0][0]:
            new = str(arrays.path.with_name(f"{arrays.path.stem}_{split}.npz"))
            saved.append(f"numpy.savez({new!r}, embeddings=x[{matrices[0]!r}], labels=x[{labels[0]!r}])")
    start = f"import numpy; x = numpy.load({str(arrays.path)!r})"
    return f'python -c "{"; ".join([start, *saved])}"' if len(saved) > 1 else ""


def _is_matrix(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    return len(shape) == 2 and shape[1] > 1 and dtype.kind in "fiu"


def named_fields(arrays: Arrays, chosen: dict[str, str | None], fields: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays that --labels_key, --paths_key and --ids_key name, and take what they replace out of `fields`."""
    replaced = {"labels": ("class_names", "targets", "classes"), "ids": ("crop_ids", "dolt_ids"), "paths": ()}
    found: dict[str, Any] = {}
    for kind, name in chosen.items():
        if name is None:
            continue
        if name not in arrays:
            raise UserError(f"{arrays.path} has no array {name!r} (--{kind}_key); it has: {described(arrays)}")
        found[kind] = arrays.read(name)
        for other in replaced[kind]:
            fields.pop(other, None)
    return found


def find_labels(arrays: Arrays, fields: dict[str, Any], n: int, vectors: str, files: Sequence[str]) -> dict[str, Any]:
    """Return the labels where the file has none of the usual names: of a file of --labels, or the only array that fits."""
    path = arrays.path
    pairs = [text.split("=", 1) if "=" in text and not Path(text).exists() else ["", text] for text in files]
    named = [file for name, file in pairs if name in (path.name, str(path))]
    if not named and (fields.keys() & {"labels", "class_names", "targets"}):
        return {}
    read = {file: read_labels(Path(file)) for file in named or [file for name, file in pairs if not name]}
    read = {file: _without_edges(labels, n, file) for file, labels in read.items()}
    fitting = [file for file, labels in read.items() if len(labels) == n]
    if len(fitting) > 1:
        raise UserError(
            f"{path}: {' and '.join(fitting)} both have {n:,} labels; say which: --labels {path.name}={fitting[0]}"
        )
    if fitting:
        return {"labels": read[fitting[0]]}
    if read:
        lengths = ", ".join(f"{file} has {len(labels):,}" for file, labels in read.items())
        raise UserError(f"{path} has {n:,} vectors, and no file of --labels as many labels: {lengths}")
    candidates = [name for name in arrays.names if name not in (vectors, "meta", *TEXT_FIELDS)]
    fits = [name for name in candidates if _could_be_labels(arrays, name, n)]
    if len(fits) != 1:
        return {}
    note(f"{path}: the labels are {described(arrays, fits)}; another array is named with --labels_key")
    return {"labels": arrays.read(fits[0])}


def _without_edges(labels: np.ndarray, n: int, file: str) -> np.ndarray:
    """Return n labels of a file without empty lines at its end, and without a first line that names the column; told."""
    while len(labels) > n and labels.ndim == 1 and labels.dtype.kind == "U" and not labels[-1].strip():
        labels = labels[:-1]
    if len(labels) == n + 1 and labels.dtype.kind == "U" and str(labels[0]).strip().lower() in LABEL_COLUMNS:
        note(f"{file}: its first line, {str(labels[0])!r}, names the column and is no label")
        return labels[1:]
    return labels


def _could_be_labels(arrays: Arrays, name: str, n: int) -> bool:
    shape, dtype = arrays.shape(name)
    if shape != (n,) or dtype.kind not in "iuUSOfb":
        return False
    values = arrays.read(name)
    return dtype.kind != "f" or bool((np.isnan(values) | (values == np.floor(values))).all())


def table_fields(arrays: Arrays, fields: dict[str, Any], n: int) -> dict[str, Any]:
    """Return labels, IDs and paths of a table: its columns class_0, class_1 …, or of one of the usual names."""
    levels = sorted((name for name in arrays.names if re.fullmatch(r"class_\d+", name)), key=lambda name: int(name[6:]))
    usual = levels or [name for name in LABEL_COLUMNS if name in arrays and not _has_fractions(arrays, name)][:1]
    texts = [name for name in arrays.names if name not in TABLE_FIELDS and arrays.shape(name)[1].kind in "OU"]
    texts = [name for name in texts if arrays.shape(name)[0] == (n,) and not is_numeric(arrays.read(name))]
    columns: dict[str, Sequence[str]] = {"labels": usual or (texts if len(texts) == 1 else [])}
    columns |= {"crop_ids": ["crop_id"], "sample_ids": ["sample_id"], "paths": TABLE_PATHS}
    found: dict[str, Any] = {}
    for kind, names in columns.items():
        present = [name for name in names if name in arrays and arrays.shape(name)[0] == (n,)]
        if kind in fields or not present:
            continue
        parts = [texts_of(arrays.read(name)) for name in (present if kind == "labels" else present[:1])]
        found[kind] = np.stack(parts, axis=1) if kind == "labels" else parts[0]
    if "labels" in found:
        note(
            f"{arrays.path}: the labels are the columns {', '.join(columns['labels'])}; others are named with --labels_key"
        )
    return found


def _has_fractions(arrays: Arrays, name: str) -> bool:
    """Return whether a column of a table holds fractions: `y` beside `x` and `z` is one of a vector's numbers, no label."""
    if name not in arrays or not isinstance(arrays, Columns) or not arrays.table or arrays.read(name).ndim != 1:
        return False
    values = arrays.read(name)
    if not is_numeric(values):
        return False
    numbers = values.astype(np.float64)
    return bool((np.isfinite(numbers) & (numbers != np.floor(numbers))).any())


def split_of(path: Path) -> str | None:
    ending = re.split(r"[_\-. ]", SHARD.sub("", path.stem))[-1].lower()
    return ending if ending in (*SPLIT_NAMES, "all") else None
