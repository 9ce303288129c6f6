"""The large columns of a Parquet file, read when asked for: vectors, pictures, stored neighbours.

Many threads read one file: a lock guards it, and what was read last is kept, of bounded size.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import files
from common.messages import UserError
from imaging import images
from imaging.images import kind_of

if TYPE_CHECKING:
    import pyarrow.parquet as pq

KEEP_BYTES = 1 << 30  # vectors up to this size stay in memory, larger ones are read anew for every search
KEEP_GROUPS = 4  # row groups of pictures or neighbours kept, each below 100 MB as npz_to_parquet.py writes them
FILE_BYTES = 1 << 28  # a picture's file above this size is not opened
_DECODING = threading.BoundedSemaphore(2)  # source pictures decoded at once: each may take hundreds of MB


@contextlib.contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn what pyarrow says of a file that is damaged, or no Parquet, into one sentence."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")[:100]
        raise UserError(f"{path} is not a sound Parquet file ({reason}); make it with npz_to_parquet.py") from None


class RowGroups:
    """The row groups of an open file. Attributes: path, n (rows), slices (the rows of each row group), lock."""

    def __init__(self, path: str, file: pq.ParquetFile) -> None:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self.path, self._file, self.lock = path, file, threading.RLock()
        self.n, self._starts = file.metadata.num_rows, np.cumsum([0, *sizes])
        self.slices = [slice(int(a), int(b)) for a, b in zip(self._starts[:-1], self._starts[1:], strict=True)]
        self._kept = OrderedDict[tuple[str, int], Any]()

    def read(self, column: str, group: int) -> Any:
        """Return a column of one row group. Raises UserError where the file is damaged there."""
        with self.lock, readable(self.path):
            return self._file.read_row_group(group, columns=[column]).column(0)

    def value(self, column: str, row: int) -> Any:
        """Return one row of a column; its row group is kept for the next."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self.lock:
            if (column, group) not in self._kept:
                self._kept[column, group] = self.read(column, group)
                while len(self._kept) > KEEP_GROUPS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end((column, group))
            return self._kept[column, group][row - int(self._starts[group])].as_py()

    def stored_neighbours(self, row: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (similarities, rows) of the column `neighbors`, None where the row has none that can be used."""
        value = self.value("neighbors", row)
        if not isinstance(value, dict) or not value.get("ids"):
            return None
        rows, distances = np.array(value["ids"], np.int64), np.array(value["distances"], np.float64)
        usable = (rows >= 0) & (rows < self.n) & (rows != row)
        return 1 - distances[usable], rows[usable]


class VectorColumn:
    """The column `embedding` as a matrix (n, dim) that gives rows by slice: in memory up to KEEP_BYTES, else by row group."""

    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, groups: RowGroups, dim: int) -> None:
        self._groups, self.shape = groups, (groups.n, dim)
        self._whole: np.ndarray | None = None
        self._last: tuple[int, np.ndarray] | None = None  # the row group read last

    def __len__(self) -> int:
        return self.shape[0]

    def shards(self) -> list[Any]:
        """Return the rows as arrays, or as things read when they are sliced."""
        with self._groups.lock:
            if self._whole is None and 4 * self.shape[0] * self.shape[1] <= KEEP_BYTES:
                self._whole = np.concatenate([self._read(group) for group in range(len(self._groups.slices))])
        return [self._whole] if self._whole is not None else [_Part(self, rows) for rows in self._groups.slices]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        if self._whole is not None:
            return self._whole[start:stop]
        parts = [np.empty((0, self.shape[1]), np.float32)]
        for number, group in enumerate(self._groups.slices):
            if group.start < stop and start < group.stop:
                with self._groups.lock:
                    if self._last is None or self._last[0] != number:
                        self._last = number, self._read(number)
                    values = self._last[1]
                parts.append(values[max(0, start - group.start) : stop - group.start])
        return parts[1] if len(parts) == 2 else np.concatenate(parts)

    def _read(self, group: int) -> np.ndarray:
        """Return the vectors of a row group, (rows, dim) float32. Raises UserError where they are not all of one length."""
        import pyarrow as pa

        column, dim = self._groups.read("embedding", group).combine_chunks(), self.shape[1]
        values = column.flatten() if not isinstance(column, pa.ChunkedArray) else column.combine_chunks().flatten()
        if len(values) != len(column) * dim or values.null_count:
            raise UserError(
                f"{self._groups.path}: not every row has an `embedding` of {dim} numbers; make the file anew"
            )
        return values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(-1, dim)

    def nearest(self, query: np.ndarray, k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return (similarities, rows) of the k nearest rows by cosine, exact, of those where `among` (n,) bool is true.

        query: (dim,). Raises UserError where a row has no cosine.
        """
        from common import knn

        # The query is of group 0 and leaves out the rows of group 0.
        groups = None if among is None else among.astype(np.int64)
        query_group = None if among is None else np.zeros(1, np.int64)
        try:
            found = knn.search_excluding(query[None], self.shards(), min(k, len(self)), query_group, groups)
        except ValueError as error:
            raise UserError(f"{self._groups.path}: {error}; make the file anew with --drop_invalid") from None
        similarities, rows = found[0][0], found[1][0]
        return similarities[rows >= 0], rows[rows >= 0]


class _Part:
    """The rows of one row group, not read yet."""

    def __init__(self, vectors: VectorColumn, rows: slice) -> None:
        self._vectors, self._rows = vectors, rows
        self.shape = (rows.stop - rows.start, vectors.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        return self._vectors[self._rows.start + start : self._rows.start + stop]


class PictureColumn:
    """The pictures of the rows: the column `image` where there is one, and the files that `source_file` names."""

    def __init__(self, groups: RowGroups, *, stored: bool, paths: Any | None, roots: Sequence[Path]) -> None:
        """stored: whether the file has `image`. paths: the column `source_file`, None without one. roots: folders of pictures."""
        self._groups, self.stored, self._paths, self._roots = groups, stored, paths, roots

    def has(self, row: int) -> bool:
        """Return whether the file holds a row's picture, or says where it is."""
        return self.stored or (self._paths is not None and self._paths[row].is_valid)

    def lost(self) -> str | None:
        """Return why the first picture that the file names is not shown, and what helps; None where it is, or is in the file."""
        first = [] if self.stored or self._paths is None else self._paths.drop_null()[:1].to_pylist()
        if not first or self._source(str(first[0])):
            return None
        if os.path.isfile(str(first[0])):
            return f"pictures from outside its own and the working folder ({first[0]}); name theirs with view.py --data_root"
        return (
            f"pictures from where they were, and the first is not there ({first[0]}). Make it anew with --data_root, or with "
            "--thumbnails, which keeps them in the file"
        )

    def _source(self, name: str) -> str | None:
        """Return the regular file that a row names, below one of the folders of pictures; None where it is none."""
        for root in self._roots:
            path = files.below(root, name)
            if path and os.path.isfile(path):
                return path
        return None

    def read(self, row: int, size: int, *, prefer_source: bool = False) -> bytes | None:
        """Return a row's picture as JPEG, PNG or WebP: its `image`, or its source file made small; None where there is none."""
        readers = [self._read_stored, self._read_source]
        for reader in reversed(readers) if prefer_source else readers:
            if data := reader(row, size):
                return data
        return None

    def _read_stored(self, row: int, size: int) -> bytes | None:
        value = self._groups.value("image", row) if self.stored else None
        data = value.get("bytes") if isinstance(value, dict) else value
        return data if isinstance(data, bytes) and kind_of(data) else None

    def _read_source(self, row: int, size: int) -> bytes | None:
        path = None if self._paths is None else self._paths[row].as_py()
        try:
            path = self._source(path) if isinstance(path, str) else None
            if path is None or os.stat(path).st_size > FILE_BYTES:
                return None
            with _DECODING:
                return images.encode(images.thumbnail(path, size), "jpg", 85)
        except (OSError, ValueError, images.ImageError):
            return None
