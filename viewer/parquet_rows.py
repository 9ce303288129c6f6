"""The rows of one Parquet file as a viewer needs them: columns at once, vectors, pictures and neighbours when asked for.

Any Parquet with vectors or a map will do; the columns are those of docs/formats.md. One file is read by many threads: a lock
guards it, and what was read last is kept, of bounded size.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import files
from common.images import kind_of
from common.labels import natural
from common.messages import UserError

if TYPE_CHECKING:
    import pyarrow as pa

KEEP_BYTES = 1 << 30  # vectors up to this size stay in memory, larger ones are read anew for every search
KEEP_GROUPS = 4  # row groups of pictures or neighbours kept, each below 100 MB as npz_to_parquet.py writes them
FILE_BYTES = 1 << 28  # a picture's file above this size is not opened
NO_LABEL = "(no label)"
MODEL_FIELDS = ("model", "model_options", "fingerprint", "preprocess", "normalized")


class Points:
    """The rows of a Parquet file. Attributes: path, n, dim (0 without vectors), columns (names of plain columns), facts (what the
    npz files said of themselves), model (the fields that tell the model), levels (number of label levels)."""

    def __init__(self, path: Path | str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = Path(path)
        if not self.path.is_file():
            what = "is a folder; name a file in it," if self.path.is_dir() else "no such file;"
            raise UserError(f"{self.path}: {what} made with npz_to_parquet.py")
        self._lock, self._kept = threading.RLock(), OrderedDict[tuple[str, int], Any]()
        try:
            self._file = pq.ParquetFile(self.path)
            self.n = self._file.metadata.num_rows
            schema = self._file.schema_arrow
            names = schema.names
            self.columns = [name for name in names if _is_plain(schema.field(name).type) and name not in _MAP]
            self._table = self._file.read([*self.columns, *(name for name in _MAP if name in names)])
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")[:100]
            raise UserError(
                f"{self.path} is not a sound Parquet file ({reason}); make it with npz_to_parquet.py"
            ) from None
        if not self.n:
            raise UserError(f"{self.path} has no rows; make it anew with npz_to_parquet.py")
        self._starts = np.cumsum(
            [0] + [self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)]
        )
        self.dim = self._find_dim(names)
        self.has_pictures, self.has_neighbours = "image" in names, "neighbors" in names
        if not self.dim and not self.has_map:
            raise UserError(
                f"{self.path} has neither a column of vectors `embedding` nor a map `projection_x`, `projection_y`; it has: "
                f"{', '.join(names[:12])}. Make it with npz_to_parquet.py"
            )
        try:
            told = json.loads((schema.metadata or {}).get(b"sets") or "[]")
            self.facts = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
        except ValueError:
            self.facts = []
        first = next((one for one in self.facts if one.get("fingerprint")), {})
        self.model = {name: first[name] for name in MODEL_FIELDS if name in first}
        self.levels = sum(name.startswith("class_") for name in self.columns)
        self._codes: dict[str, tuple[np.ndarray, list[str]]] = {}
        self._maps: dict[int, np.ndarray] = {}

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def has_map(self) -> bool:
        """Whether the file itself places its rows."""
        return {"projection_x", "projection_y"} <= set(self._table.column_names)

    def _find_dim(self, names: list[str]) -> int:
        """Return the vectors' dimension from the schema, or from the first vector where lists may differ."""
        import pyarrow as pa

        if "embedding" not in names:
            return 0
        kind = self._file.schema_arrow.field("embedding").type
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            first = next(self._file.iter_batches(1, columns=["embedding"])).column(0)[0].as_py()
            return len(first or ())
        return 0

    # --- columns

    def numbers(self, column: str) -> np.ndarray | None:
        """Return a numeric column (n,) float64, nan where there is none; None for a column of another type."""
        import pyarrow as pa

        kind = self._table.schema.field(column).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return None
        return self._table[column].cast(pa.float64(), safe=False).to_numpy()

    def codes(self, column: str) -> tuple[np.ndarray, list[str]]:
        """Return (codes (n,) int32, sorted names) of a plain column; `label` and `level:L` are the label paths to that level."""
        if column not in self._codes:
            import pyarrow.compute as pc

            encoded = pc.dictionary_encode(self._texts(column).combine_chunks())
            encoded = encoded.combine_chunks() if hasattr(encoded, "combine_chunks") else encoded
            names = encoded.dictionary.to_pylist()
            order = sorted(range(len(names)), key=lambda at: (natural(names[at]), names[at]))
            place = np.empty(len(names), np.int32)
            place[order] = np.arange(len(names), dtype=np.int32)
            self._codes[column] = place[encoded.indices.to_numpy()], [names[at] for at in order]
        return self._codes[column]

    def _texts(self, column: str) -> pa.ChunkedArray:
        import pyarrow as pa
        import pyarrow.compute as pc

        if column == "label" or column.startswith("level:"):
            upto = self.levels if column == "label" else int(column.partition(":")[2]) + 1
            steps = [pc.cast(self._table[f"class_{level}"], pa.string()) for level in range(upto)]
            if not steps:
                return pa.chunked_array([pa.repeat(pa.scalar(NO_LABEL), self.n)])
            joined = pc.binary_join_element_wise(*steps, "/", null_handling="skip")
            return pc.if_else(pc.equal(joined, ""), NO_LABEL, joined)
        values = self._table[column]
        if pa.types.is_boolean(values.type):
            yes, no = ("right", "wrong") if column == "correct" else ("yes", "no")
            values = pc.if_else(values, yes, no)
        missing = {"correct": "not scored", "predicted": "not scored"}.get(column, "(none)")
        return pc.fill_null(pc.cast(values, pa.string()), missing)

    def containing(self, text: str) -> np.ndarray:
        """Return (n,) bool: rows whose crop id, sample id or file holds `text`, in any case."""
        import pyarrow.compute as pc

        found = np.zeros(self.n, bool)
        for column in ("crop_id", "sample_id", "source_file"):
            if column in self.columns:
                values = pc.cast(self._table[column], "string")
                found |= pc.fill_null(pc.match_substring(values, text, ignore_case=True), False).to_numpy()
        return found

    def row(self, row: int) -> dict[str, Any]:
        """Return the plain columns of one row that have a value, and `label`."""
        codes, names = self.codes("label")
        told = self._table.slice(row, 1).select(self.columns).to_pylist()[0]
        told = {name: value for name, value in told.items() if value is not None}
        return {"label": names[codes[row]], **told}

    def frame(self, rows: np.ndarray) -> Any:
        """Return the plain columns of some rows as a pandas frame."""
        return self._table.take(rows).to_pandas()

    def keys(self, file: int = 0) -> pa.ChunkedArray:
        """Return what each row's crop is known by in any file and at any padding; rows of no crop id by `file` and number."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if "crop_id" not in self.columns:
            return pa.chunked_array([pa.array([f"{file} {row}" for row in range(self.n)])])
        names = [name for name in ("dataset_name", "split", "crop_id") if name in self.columns]
        return pc.binary_join_element_wise(*(self._texts(name) for name in names), "\t")

    # --- the map

    def map(self, dimensions: int) -> tuple[np.ndarray, str]:
        """Return ((n, dimensions) float32, a sentence where it is not the file's own map). PCA makes what the file lacks."""
        names = [f"projection_{axis}" for axis in "xyz"[:dimensions]]
        if all(name in self._table.column_names for name in names):
            if dimensions not in self._maps:
                places = [self._table[name].cast("float32").to_numpy() for name in names]
                self._maps[dimensions] = np.nan_to_num(np.stack(places, 1), posinf=0, neginf=0)
            return self._maps[dimensions], ""
        if not self.dim:
            return np.pad(
                self.map(2)[0], [(0, 0), (0, 1)]
            ), f"{self.name} has a flat map and no vectors to make a third axis of."
        if dimensions not in self._maps:
            from plots import projection

            with self._lock:
                self._maps[dimensions] = projection.project(self.vectors, "pca", dimensions)  # type: ignore[arg-type]
        lacks = "no map of its own" if not self.has_map else "no third axis"
        return self._maps[dimensions], f"{self.name} has {lacks}: its places are PCA, computed now."

    # --- vectors, neighbours, pictures

    @cached_property
    def vectors(self) -> Vectors:
        return Vectors(self)

    def groups(self) -> list[slice]:
        """Return the rows of each row group."""
        return [slice(int(a), int(b)) for a, b in zip(self._starts[:-1], self._starts[1:], strict=True)]

    def read_vectors(self, group: int) -> np.ndarray:
        """Return the vectors of a row group, (rows, dim) float32. Raises UserError where they are not all of one length."""
        import pyarrow as pa

        with self._lock:
            column = self._file.read_row_group(group, columns=["embedding"]).column(0).combine_chunks()
        values = column.flatten() if not isinstance(column, pa.ChunkedArray) else column.combine_chunks().flatten()
        if len(values) != len(column) * self.dim or values.null_count:
            raise UserError(f"{self.path}: not every row has an `embedding` of {self.dim} numbers; make the file anew")
        return values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(-1, self.dim)

    def _value(self, column: str, row: int) -> Any:
        """Return one row of a large column, its row group kept for the next."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            if (column, group) not in self._kept:
                self._kept[column, group] = self._file.read_row_group(group, columns=[column]).column(0)
                while len(self._kept) > KEEP_GROUPS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end((column, group))
            return self._kept[column, group][row - int(self._starts[group])].as_py()

    def stored_neighbours(self, row: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (similarities, rows) of the column `neighbors`, None where there is none that can be used."""
        value = self._value("neighbors", row) if self.has_neighbours else None
        if not isinstance(value, dict) or not value.get("ids"):
            return None
        rows, distances = np.array(value["ids"], np.int64), np.array(value["distances"], np.float64)
        fine = (rows >= 0) & (rows < self.n) & (rows != row)
        return 1 - distances[fine], rows[fine]

    def nearest(self, query: np.ndarray, k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return (similarities, rows) of the k nearest rows by cosine, exact, of those where `among` (n,) bool is true.

        query: (dim,). Raises UserError where a row has no cosine.
        """
        from common import knn

        k = min(k, self.n)
        groups = (
            None if among is None else among.astype(np.int64)
        )  # the query is of group 0 and leaves out the rows of group 0
        mine = None if among is None else np.zeros(1, np.int64)
        try:
            found = knn.search_excluding(query[None], self.vectors.shards(), k, mine, groups)
        except ValueError as error:
            raise UserError(f"{self.path}: {error}; make the file anew with --drop_invalid") from None
        similarities, rows = found[0][0], found[1][0]
        return similarities[rows >= 0], rows[rows >= 0]

    def is_pictured(self, row: int) -> bool:
        """Return whether the file has a row's picture, or tells where it is."""
        return self.has_pictures or ("source_file" in self.columns and self._table["source_file"][row].is_valid)

    def lost_picture(self) -> str | None:
        """Return where the file's first picture should be and is not; None where it is, or where the file holds pictures itself."""
        if self.has_pictures or "source_file" not in self.columns:
            return None
        first = self._table["source_file"].drop_null()[:1].to_pylist()
        return first[0] if first and not os.path.isfile(str(first[0])) else None

    def picture(self, row: int, size: int, *, prefer_source: bool = False) -> bytes | None:
        """Return a row's picture as JPEG, PNG or WebP: its `image`, or its source file made small; None where there is none."""
        makers = [self._stored_picture, self._source_picture]
        for make in reversed(makers) if prefer_source else makers:
            if data := make(row, size):
                return data
        return None

    def _stored_picture(self, row: int, size: int) -> bytes | None:
        value = self._value("image", row) if self.has_pictures else None
        data = value.get("bytes") if isinstance(value, dict) else value
        return data if isinstance(data, bytes) and kind_of(data) else None

    def _source_picture(self, row: int, size: int) -> bytes | None:
        from common import images

        path = self._table["source_file"][row].as_py() if "source_file" in self.columns else None
        try:
            if not isinstance(path, str):
                return None
            status = os.stat(files.as_stored(path))
            if not stat.S_ISREG(status.st_mode) or status.st_size > FILE_BYTES:
                return None
            return images.encode(images.thumbnail(path, size), "jpg", 85)
        except (OSError, ValueError, images.ImageError):
            return None


class Vectors:
    """The column `embedding` as a matrix that gives rows by slice: in memory up to KEEP_BYTES, else a row group at a time."""

    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, points: Points) -> None:
        self._points, self.shape = points, (points.n, points.dim)
        self._whole: np.ndarray | None = None
        self._read: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def shards(self) -> list[Any]:
        """Return the rows as arrays, or as things read when they are sliced."""
        with self._points._lock:
            if self._whole is None and 4 * self.shape[0] * self.shape[1] <= KEEP_BYTES:
                self._whole = np.concatenate([self._points.read_vectors(g) for g in range(len(self._points.groups()))])
        return [self._whole] if self._whole is not None else [self.part(rows) for rows in self._points.groups()]

    def part(self, rows: slice) -> _Part:
        return _Part(self, rows)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        if self._whole is not None:
            return self._whole[start:stop]
        parts = [np.empty((0, self.shape[1]), np.float32)]
        for number, group in enumerate(self._points.groups()):
            if group.start < stop and start < group.stop:
                with self._points._lock:
                    if self._read is None or self._read[0] != number:
                        self._read = number, self._points.read_vectors(number)
                    values = self._read[1]
                parts.append(values[max(0, start - group.start) : stop - group.start])
        return parts[1] if len(parts) == 2 else np.concatenate(parts)


class _Part:
    """The rows of one row group, not read yet."""

    def __init__(self, vectors: Vectors, rows: slice) -> None:
        self._vectors, self._rows = vectors, rows
        self.shape = (rows.stop - rows.start, vectors.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        return self._vectors[self._rows.start + start : self._rows.start + stop]


_MAP = ("projection_x", "projection_y", "projection_z")


def _is_plain(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_floating,
    )
    return any(test(kind) for test in tests)
