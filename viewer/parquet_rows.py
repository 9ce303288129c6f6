"""The rows of one Parquet file as a viewer needs them: small columns at once, large ones when asked for.

Any Parquet with vectors or a map will do; docs/formats.md names the columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import files
from common.embeddings import MODEL_FIELDS
from common.labels import natural
from common.messages import UserError
from viewer.parquet_columns import PictureColumn, RowGroups, VectorColumn, readable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

NO_LABEL = "(no label)"
MAP_COLUMNS = ("projection_x", "projection_y", "projection_z")


class ParquetRows:
    """The rows of a Parquet file. Pictures that it names are read below `data_roots` only (the working folder and its own).

    Attributes: path, n, dim (0 without vectors), columns (names of plain columns), model (MODEL_FIELDS of the first set that
    names one), levels (number of label levels), groups, vectors, pictures, has_neighbours.
    """

    def __init__(self, path: Path | str, data_roots: Sequence[Path] = ()) -> None:
        self.path = Path(path)
        roots = data_roots or (Path.cwd(), self.path.absolute().parent)
        if not self.path.is_file():
            what = "is a folder; name a file in it," if self.path.is_dir() else "no such file;"
            raise UserError(f"{self.path}: {what} made with npz_to_parquet.py")
        with readable(self.path):
            file, self.columns, self._table = _read_small_columns(self.path)
            names = file.schema_arrow.names
            self.n, self.dim = file.metadata.num_rows, _dimension(file)
        if not self.n:
            raise UserError(f"{self.path} has no rows; make it anew with npz_to_parquet.py")
        if not self.dim and not self.has_map:
            raise UserError(
                f"{self.path} has neither a column of vectors `embedding` nor a map `projection_x`, `projection_y`; it has: "
                f"{', '.join(names[:12])}. Make it with npz_to_parquet.py"
            )
        self.model = _model(file.schema_arrow.metadata or {})
        self.levels = sum(name.startswith("class_") for name in self.columns)
        self.groups, self.has_neighbours = RowGroups(str(self.path), file), "neighbors" in names
        self.vectors = VectorColumn(self.groups, self.dim)
        paths = self._table["source_file"] if "source_file" in self.columns else None
        self.pictures = PictureColumn(self.groups, stored="image" in names, paths=paths, roots=roots)
        self._codes: dict[str, tuple[np.ndarray, list[str]]] = {}
        self._maps: dict[int, np.ndarray] = {}

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def has_map(self) -> bool:
        """Whether the file itself places its rows."""
        return set(MAP_COLUMNS[:2]) <= set(self._table.column_names)

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
            order = sorted(range(len(names)), key=lambda code: (natural(names[code]), names[code]))
            new_code = np.empty(len(names), np.int32)
            new_code[order] = np.arange(len(names), dtype=np.int32)
            self._codes[column] = new_code[encoded.indices.to_numpy()], [names[code] for code in order]
        return self._codes[column]

    def having(self, column: str, values: Any) -> np.ndarray:
        """Return (n,) bool: rows whose value in a plain column, or whose `label`, is one of `values`."""
        codes, names = self.codes(column)
        return np.isin(codes, [code for code, name in enumerate(names) if name in values])

    def _texts(self, column: str) -> pa.ChunkedArray:
        import pyarrow as pa
        import pyarrow.compute as pc

        if column == "label" or column.startswith("level:"):
            n_levels = self.levels if column == "label" else int(column.partition(":")[2]) + 1
            steps = [pc.cast(self._table[f"class_{level}"], pa.string()) for level in range(n_levels)]
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

        matches = np.zeros(self.n, bool)
        for column in ("crop_id", "sample_id", "source_file"):
            if column in self.columns:
                values = pc.cast(self._table[column], "string")
                matches |= pc.fill_null(pc.match_substring(values, text, ignore_case=True), False).to_numpy()
        return matches

    def row(self, row: int) -> dict[str, Any]:
        """Return `label` and the plain columns of one row that have a value."""
        codes, names = self.codes("label")
        values = self._table.slice(row, 1).select(self.columns).to_pylist()[0]
        return {"label": names[codes[row]], **{name: value for name, value in values.items() if value is not None}}

    def frame(self, rows: np.ndarray) -> Any:
        """Return the plain columns of some rows as a pandas frame."""
        return self._table.take(rows).to_pandas()

    def keys(self, file: int = 0) -> pa.ChunkedArray:
        """Return a name of each row's crop, equal in any file and at any padding; rows of no crop id by `file` and number."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if "crop_id" not in self.columns:
            return pa.chunked_array([pa.array([f"{file} {row}" for row in range(self.n)])])
        names = [name for name in ("dataset_name", "split", "crop_id") if name in self.columns]
        return pc.binary_join_element_wise(*(self._texts(name) for name in names), "\t")

    def map(self, dimensions: int) -> tuple[np.ndarray, str]:
        """Return ((n, dimensions) float32, a sentence where it is not the file's own map). PCA makes what the file lacks."""
        columns = MAP_COLUMNS[:dimensions]
        if all(name in self._table.column_names for name in columns):
            if dimensions not in self._maps:
                places = np.stack([self._table[name].cast("float32").to_numpy() for name in columns], axis=1)
                self._maps[dimensions] = np.nan_to_num(places, posinf=0, neginf=0)
            return self._maps[dimensions], ""
        if not self.dim:
            flat = np.pad(self.map(2)[0], [(0, 0), (0, 1)])
            return flat, f"{self.name} has a flat map and no vectors to make a third axis of."
        if dimensions not in self._maps:
            from plots import projection

            with self.groups.lock:
                self._maps[dimensions] = projection.project(self.vectors, "pca", dimensions)  # type: ignore[arg-type]
        lacks = "no map of its own" if not self.has_map else "no third axis"
        return self._maps[dimensions], f"{self.name} has {lacks}: its places are PCA, computed now."


def _read_small_columns(path: Path) -> tuple[pq.ParquetFile, list[str], pa.Table]:
    """Return (the open file, the names of its plain columns, those and the map's columns as a table)."""
    import pyarrow.parquet as pq

    files.check_seal(path)
    file = pq.ParquetFile(path, page_checksum_verification=True)
    schema = file.schema_arrow
    columns = [name for name in schema.names if _is_plain(schema.field(name).type) and name not in MAP_COLUMNS]
    return file, columns, file.read([*columns, *(name for name in MAP_COLUMNS if name in schema.names)])


def _dimension(file: pq.ParquetFile) -> int:
    """Return the vectors' dimension from the schema, or from the first vector where lists may differ; 0 without vectors."""
    import pyarrow as pa

    if "embedding" not in file.schema_arrow.names or not file.metadata.num_rows:
        return 0
    kind = file.schema_arrow.field("embedding").type
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        first = next(file.iter_batches(1, columns=["embedding"])).column(0)[0].as_py()
        return len(first or ())
    return 0


def _model(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """Return MODEL_FIELDS of the first set of the file that tells its model, {} where none does."""
    try:
        facts = json.loads(metadata.get(b"sets") or "[]")
    except ValueError:
        return {}
    sets = [fact for fact in facts if isinstance(fact, dict)] if isinstance(facts, list) else []
    first = next((fact for fact in sets if fact.get("fingerprint")), {})
    return {name: first[name] for name in MODEL_FIELDS if name in first}


def _is_plain(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return is_text or is_number or pa.types.is_boolean(kind)
