"""Arrays by name from files of several kinds: .npz, .npy, tables in Parquet and CSV. What a file is, its first bytes say.

Nothing in a file is run. Any other kind is named for what it is, with a line that converts it.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common import files, npz, table_files
from common.messages import UserError

# First bytes of files that hold arrays in ways that are not read here: what they are, and how `x` gets the arrays.
_OTHERS = (
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file",
        "import h5py; x = h5py.File({path!r}); x = {{name: x[name][:] for name in x}}",
    ),
    (
        b"MATLAB 5.0",
        "a MATLAB file",
        "import scipy.io; x = scipy.io.loadmat({path!r}, squeeze_me=True); x = {{k: x[k] for k in x if k[:2] != '__'}}",
    ),
    (b"ARROW1", "a Feather file", "import pandas; pandas.read_feather({path!r}).to_parquet({new!r})"),
    (b"\x1f\x8b", "a gzip file", "gunzip -k {path}"),
    (b"BZh", "a bzip2 file", "bunzip2 -k {path}"),
    (b"\xfd7zXZ", "an xz file", "unxz -k {path}"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "zstd -d {path}"),
    (b"7z\xbc\xaf", "a 7z archive", "7z x {path}"),
    (b"Rar!", "a RAR archive", "unrar x {path}"),
    (b"SQLite format 3", "an SQLite database", ""),
    (b"IxF", "an index of faiss", "import faiss; i = faiss.read_index({path!r}); x = i.reconstruct_n(0, i.ntotal)"),
)
# Saves every array that `x` holds under its own name, a single one as the embeddings.
_SAVE = (
    "import numpy; x = dict(x) if hasattr(x, 'keys') else dict(embeddings=x); "
    "numpy.savez({new!r}, **{{k: numpy.array(list(v)) for k, v in x.items() if hasattr(v, '__len__') and not isinstance(v, str)}})"
)
_JSON = "import pandas; pandas.read_json({path!r}, lines={lines}, dtype=False).to_parquet({new!r})"
_EXCEL = "import pandas; pandas.read_excel({path!r}).to_parquet({new!r})"
_OLD_PICKLES = re.compile(rb"\((dp|lp)\d+\n|[\]}]q|c[a-z_.]+\n[\w.]+\n")  # of protocols 0 and 1, which have no mark
_PICKLE = "import pandas; x = pandas.read_pickle({path!r})"
_TORCH = "import torch; x = torch.load({path!r}, map_location='cpu')"


# What a table calls its column of labels.
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "target", "category", "species", "y")


class Arrays(Protocol):
    """The arrays of one file, read one at a time."""

    path: Path

    @property
    def names(self) -> list[str]: ...
    def __contains__(self, name: str) -> bool: ...
    def read(self, name: str) -> Any: ...
    def shape(self, name: str) -> tuple[tuple[int, ...], np.dtype]: ...


class Columns:
    """Arrays that are in memory already, by name; `table` where they are the columns of a table.

    `unread` are columns that are no array, and why.
    """

    def __init__(
        self, path: Path, arrays: dict[str, np.ndarray], *, table: bool = False, unread: Mapping[str, str] | None = None
    ) -> None:
        self.path, self.table, self._arrays, self.unread = path, table, arrays, unread or {}

    @property
    def names(self) -> list[str]:
        return list(self._arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def read(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def shape(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        return self._arrays[name].shape, self._arrays[name].dtype


def open_arrays(path: Path) -> Arrays:
    """Return the arrays of a file. Raises UserError for other kinds and damaged files, OSError when it cannot be opened."""
    with open(path, "rb") as file:
        start = file.read(4096)
    if what := files.stand_in(start):
        raise UserError(f"{path} is {what}")
    if start.startswith(b"\x93NUMPY"):
        return Columns(path, {"embeddings": npz.read_npy(path)})
    if start.startswith(b"PAR1"):
        return _parquet(path)
    if start.startswith(b"PK"):
        kind = _zip_kind(path)
        if kind:
            raise _other(path, *kind)
        return npz.Archive(path)
    if start[257:262] == b"ustar":
        raise _other(path, "a tar archive", "tar xf {path}")
    for signature, what, line in _OTHERS:
        if start.startswith(signature):
            raise _other(path, what, line)
    if (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05") or _OLD_PICKLES.match(start):
        raise _other(path, "a pickle, which could run code when it is read", _PICKLE)
    if start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") < 1 << 27:
        raise _other(path, "a safetensors file", "import safetensors.numpy; x = safetensors.numpy.load_file({path!r})")
    if start.lstrip()[:1] in (b"{", b"["):
        lines = _has_lines(path)
        raise _other(path, "a file of JSON lines" if lines else "a JSON file", _JSON.replace("{lines}", str(lines)))
    called_so = path.suffix.lower() in (".csv", ".tsv", ".txt")
    if (called_so and start and b"\0" not in start) or (_is_text(start) and (called_so or start.count(b",") > 1)):
        return Columns(path, _csv(path), table=True)
    return npz.Archive(path)  # which says what is wrong


def described(arrays: Arrays, names: Sequence[str] | None = None) -> str:
    """Return `arr_0 (120, 8) float32, arr_1 (120,) int64` of all arrays of a file, or of these."""
    texts = []
    for name in arrays.names if names is None else names:
        shape, dtype = arrays.shape(name)
        texts.append(f"{name} {shape} {dtype.name if dtype.kind not in 'US' else 'text'}")
    return ", ".join(texts[:20]) + (f" and {len(texts) - 20} more" if len(texts) > 20 else "") or "nothing"


def read_labels(path: Path) -> np.ndarray:
    """Return the labels (n,) of a file: .npy, .npz, a JSON list, text with one label a line, or a table with a column of labels.

    Raises UserError when it is none of them, OSError when it cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(6)
        if start == b"\x93NUMPY":
            return np.atleast_1d(npz.read_npy(path))
        data = start + file.read()
    if start[:4] in (b"PAR1", b"PK\3\4"):
        return _labels_of(open_arrays(path))
    try:
        text = table_files.decoded(data)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"{path} holds no labels; give a .npy file, or text with one label a line")
    if text.lstrip()[:1] == "[":
        return _json_labels(text, path)
    lines = text.splitlines()
    if path.suffix.lower() in (".csv", ".tsv") and text.strip():
        _, rows = _rows(path, text)
        header = [cell.strip().lower() for cell in rows[0]]
        column = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
        if column is not None and len({len(row) for row in rows}) == 1:
            return np.array([row[column] for row in rows[1:]], dtype=str)
        if len(header) > 1:
            raise UserError(
                f"{path} has no column of labels ({', '.join(rows[0][:8])}); call it label, or give one label a line"
            )
    return np.array(lines, dtype=str)


def _labels_of(arrays: Arrays) -> np.ndarray:
    """Return the only array of labels of a file: the one that is called so, else the only one of one dimension."""
    usual = [name for name in (*LABEL_COLUMNS, "class_names", "targets") if name in arrays]
    single = [name for name in arrays.names if len(arrays.shape(name)[0]) == 1]
    if not usual and len(single) != 1:
        raise UserError(f"{arrays.path} holds no array called label ({described(arrays)}); give one label a line")
    return np.asarray(arrays.read((usual or single)[0]))


def _json_labels(text: str, path: Path) -> np.ndarray:
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError):
        labels = [[]]
    if not all(isinstance(label, (str, int, float, type(None))) for label in labels):
        raise UserError(f'{path} is no JSON list of labels; give ["ale", "brie", …], or text with one label a line')
    return np.array([*labels, None], dtype=object)[:-1]


def _has_lines(path: Path) -> bool:
    """Return whether a JSON file has a value on each of several lines."""
    with open(path, "rb") as file:
        first, second = file.readline(1 << 24).strip(), file.readline(4096).strip()
    return first[:1] == b"{" and first[-1:] == b"}" and second[:1] == b"{"


def _is_text(start: bytes) -> bool:
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16
        return True
    if b"\0" in start:
        return False
    try:
        start[: max(1, len(start) - 4)].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _zip_kind(path: Path) -> tuple[str, str] | None:
    """Return what a zip without arrays is, and the line that converts it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):  # damaged: npz.Archive says how
        return None
    if "[Content_Types].xml" in names:
        return "an Office document", _EXCEL
    if any(name.endswith("data.pkl") for name in names):
        return "a file of PyTorch, which could run code when it is read", _TORCH
    if names and not any(name.endswith(".npy") for name in names):
        return f"a zip of other files ({', '.join(names[:3])})", "unzip {path}"
    return None


def _other(path: Path, what: str, line: str) -> UserError:
    values = {"path": str(path), "new": str(path.with_suffix(".npz"))}
    if not line:
        return UserError(f"{path} is {what}, not embeddings; save its arrays with numpy.savez")
    if line.startswith("import"):
        parts = [line] if ".to_" in line else [line, _SAVE]
        if ".to_" in line:
            values["new"] = str(path.with_suffix(".parquet"))
        return UserError(f'{path} is {what}; convert it: python -c "{"; ".join(parts).format(**values)}"')
    return UserError(f"{path} is {what}; unpack it first: {line.format(**values)}")


def _parquet(path: Path) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is no sound Parquet file ({' '.join(str(error).split())[:100]}); make it anew"
        ) from None
    arrays, unread = {}, {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        column = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        kind = column.type
        if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
            matrix = _matrix(column)
            if isinstance(matrix, str):
                unread[name] = matrix
            else:
                arrays[name] = matrix
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            arrays[name] = column.to_numpy(zero_copy_only=False)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind):
            arrays[name] = np.array(column.to_pylist(), dtype=object)
        else:
            unread[name] = str(kind) if len(str(kind)) <= 40 else f"{str(kind)[:39]}…"
    return Columns(path, arrays, table=True, unread=unread)


def _matrix(column: Any) -> np.ndarray | str:
    """Return a column of lists of numbers as (n, dim), an empty cell as NaN; or why it is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    there = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.drop_null().flatten()
    if not there.any() or not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        return f"lists of {values.type}" if there.any() else "empty"
    lengths = pc.list_value_length(column.drop_null()).to_numpy(zero_copy_only=False)
    if (other := np.flatnonzero(lengths != lengths[0])).size:
        row = np.flatnonzero(there)[other[0]]
        return f"lists of {lengths[0]} numbers, but of {lengths[other[0]]} in row {row}, counted from 0"
    filled = values.to_numpy(zero_copy_only=False).reshape(len(lengths), -1)
    if there.all():
        return filled
    matrix = np.full((len(column), filled.shape[1]), np.nan, np.float32)
    matrix[there] = filled
    return matrix


def _csv(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a CSV or TSV file; those of numbers side by side as `columns`, too, where none is a list."""
    try:
        text = table_files.decoded(path.read_bytes())
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as UTF-8, for example with `iconv -f latin1 -t utf-8`") from None
    if not text.strip():
        raise UserError(f"{path} is empty; make it anew")
    delimiter, rows = _rows(path, text)
    if _has_header(rows):
        header, rows = rows[0], rows[1:]
    else:
        header = [str(place) for place in range(len(rows[0]))]
    lengths = {len(row) for row in rows} - {len(header)}
    if lengths or not rows:
        raise UserError(f"{path}: rows of {sorted(lengths)} fields under a header of {len(header)}; repair the file")
    if {"crop_id", "box_x", "crop_x"} <= set(header):
        raise UserError(f"{path} lists crops and their boxes, no vectors; run extract_embedding.py on its folder first")
    if len(set(header)) < len(header):
        raise UserError(f"{path}: two columns have one name; rename one of them")
    columns: dict[str, Sequence[str]] = dict(zip(header, zip(*rows, strict=True), strict=True))
    if delimiter == ";":
        columns = {name: _with_points(values) for name, values in columns.items()}
    return {name: _column(values) for name, values in columns.items()}


def _rows(path: Path, text: str) -> tuple[str, list[list[str]]]:
    """Return the delimiter and the rows of a table, at least one row; see table_files.split."""
    try:
        delimiter, rows = table_files.split(text)
        return delimiter, rows or [[""]]
    except csv.Error as error:  # such as a cell of more than 128 KiB
        raise UserError(f"{path} is no sound table: {error}; repair it, or save it as Parquet") from None


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row names the columns: with texts, or as pandas does with 0, 1, 2, …"""
    first = rows[0]
    numbers = [cell.strip() for cell in first if _is_number(cell)]
    if len(numbers) > 2 and any(numbers == [str(start + place) for place in range(len(numbers))] for start in (0, 1)):
        return True
    if len(first) < 3 or not all(map(_is_number, first[1:-1])):
        return True
    ends = [place for place in (0, len(first) - 1) if not _is_number(first[place])]
    return any(all(_is_number(row[place]) for row in rows[1:] if len(row) == len(first)) for place in ends)


def _with_points(values: Sequence[str]) -> Sequence[str]:
    """Return a column of numbers with decimal commas with points, any other as it is."""
    if all(re.fullmatch(r"\s*[-+]?\d*(,\d+)?([eE][-+]?\d+)?\s*", value) for value in values):
        return [value.replace(",", ".") for value in values]
    return values


def _column(values: Sequence[str]) -> np.ndarray:
    """Return a column of `[0.1, 0.2]` as a matrix, any other as text."""
    texts = [value.strip() for value in values]
    if all(text[:1] == "[" and text[-1:] == "]" for text in texts):
        try:
            lists = [np.array(text[1:-1].replace(",", " ").split(), np.float32) for text in texts]
        except ValueError:
            return np.array(values, dtype=str)
        if len({len(numbers) for numbers in lists}) == 1:
            return np.stack(lists)
    return np.array(values, dtype=str)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_numeric(values: np.ndarray) -> bool:
    """Whether every entry of a column is a number, or the text of one."""
    try:
        values.astype(np.float32)
    except (ValueError, TypeError):
        return False
    return True


def numbers_of(arrays: Columns, apart: Sequence[str]) -> tuple[np.ndarray, list[str], list[str]] | None:
    """Return the columns of numbers of a table side by side, (n, dim) float32, their names, and those of columns left out.

    `apart` are no numbers of a vector. Where most columns are numbered (`f0`, `f1`, …), the others are left out. An empty cell is
    NaN. None where fewer than two columns hold numbers; raises UserError for a numbered column with a text in it.
    """
    found: dict[str, np.ndarray] = {}
    counting: list[str] = []
    broken: dict[str, str] = {}  # columns of numbers with a text in them, and that text
    for name in arrays.names:
        values = arrays.read(name)
        if name in apart or name == "" or name.startswith("Unnamed:") or values.ndim != 1:
            continue
        filled = np.where(values == "", "nan", values) if values.dtype.kind in "US" and (values != "").any() else values
        if is_numeric(filled) and _counts_rows(filled):
            counting.append(name)
        elif is_numeric(filled):
            found[name] = filled.astype(np.float32)
        elif len(texts := [cell for cell in map(str, filled.tolist()) if not _is_number(cell)]) < len(filled) / 2:
            broken[name] = texts[0]
    numbered = _numbered([name for name in arrays.names if name in found or name in broken])
    numbered = numbered if len(numbered) > len(found) / 2 else list(found)
    for name in numbered[1:-1]:  # the first or the last one may be labels
        if name in broken:
            raise UserError(
                f"{arrays.path}: column {name!r} of the vectors holds {broken[name]!r}, no number; repair it"
            )
    numbered = [name for name in numbered if name in found]
    if len(numbered) < 2:
        return None
    return (
        np.stack([found[name] for name in numbered], axis=1),
        numbered,
        [*counting, *(name for name in found if name not in numbered)],
    )


def _counts_rows(values: np.ndarray) -> bool:
    """Return whether a column only counts the rows, as an index that was written with them."""
    with np.errstate(invalid="ignore"):  # of infinite values
        return len(values) > 2 and bool((np.diff(values.astype(np.float64)) == 1).all())


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the largest group of at least three names that differ only in their last number, which counts from 0 or 1."""
    groups: dict[str, dict[int, str]] = {}
    for name in names:
        if ending := re.search(r"\d+$", name):
            groups.setdefault(name[: ending.start()], {})[int(ending[0])] = name
    counted = [group for group in groups.values() if len(group) > 2 and max(group) - min(group) + 1 == len(group)]
    group = max((group for group in counted if min(group) < 2), key=len, default={})
    return [name for name in names if name in group.values()]
