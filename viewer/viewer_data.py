"""What the page of view.py asks for: its files, the choices of its controls, the neighbours of a row or of an uploaded picture."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.messages import UserError, count
from viewer.parquet_rows import ParquetRows

N_NEIGHBOURS = 12  # shown
UPLOAD_PIXELS = 60_000_000
SCOPES = {"all": "every row", "crops": "other crops", "samples": "other photos"}


@dataclass(frozen=True)
class Neighbour:
    """One similar row: its place in the file (None: it is in none of this page's), its label and id, its cosine."""

    row: int | None
    label: str
    name: str
    similarity: float


@dataclass(frozen=True)
class Answer:
    """What an uploaded picture is like: its k-NN label, how the vote went, what was compared, the most similar rows."""

    label: str
    votes: str
    compared: str
    neighbours: list[Neighbour]


class ViewerData:
    """The files of a page. `keys`: for each file (n,) int32, the same number for the same crop in any file and at any padding."""

    def __init__(self, files: Sequence[ParquetRows]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self.files = list(files)
        names = pa.chunked_array(
            [chunk for number, file in enumerate(self.files) for chunk in file.keys(number).chunks]
        )
        codes = pc.dictionary_encode(names.combine_chunks()).indices.to_numpy().astype(np.int32)
        self.keys = np.split(codes, np.cumsum([file.n for file in self.files])[:-1])
        self.repeats = any(len(np.unique(keys)) < len(keys) for keys in self.keys)

    def clamp(self, file: int, row: int) -> tuple[int, int]:
        """Return (file, row), the nearest that there is."""
        file = min(max(0, int(file)), len(self.files) - 1)
        return file, min(max(0, int(row)), self.files[file].n - 1)

    def names(self, column: str) -> list[str]:
        """Return the values of a column, or of `label`, in all files."""
        parts = [file.codes(column)[1] for file in self.files if column == "label" or column in file.columns]
        return list(dict.fromkeys(name for names in parts for name in names))

    def sources(self) -> dict[str, str]:
        """Return what a map can show: {`file|id`: text}, `file|` for all IDs of a file."""
        sources = {}
        for number, file in enumerate(self.files):
            alike = sum(other.path.stem == file.path.stem for other in self.files) > 1
            name = f"{file.path.absolute().parent.name}/{file.path.stem}" if alike else file.path.stem
            before = f"{name}: " if len(self.files) > 1 else ""
            ids = file.codes("id")[1] if "id" in file.columns else []
            sources[f"{number}|"] = before + (f"all {len(ids)} IDs" if len(ids) > 1 else "everything")
            sources |= {f"{number}|{id}": f"{before}ID {id}" for id in ids if 1 < len(ids) <= 200}
        return sources

    def colours(self) -> dict[str, str]:
        """Return the columns by which a map can be coloured, with their texts."""
        levels = max(file.levels for file in self.files)
        labels = {"label": "label"} if levels else {}
        labels |= {f"level:{level}": f"label, level {level}" for level in range(levels - 1)}
        plain = dict.fromkeys(name for file in self.files for name in file.columns if not name.startswith("class_"))
        texts = {"correct": "right or wrong", "id": "ID"}
        return labels | {name: texts.get(name, name.replace("_", " ")) for name in plain}

    def scopes(self) -> dict[str, str]:
        """Return the groups of rows that neighbours are looked for in."""
        splits = self.names("split")
        return SCOPES | ({f"split:{name}": f"split {name}" for name in splits} if len(splits) > 1 else {})

    def neighbours(self, file: int, row: int, scope: str) -> tuple[list[Neighbour], str]:
        """Return a row's nearest neighbours, itself left out, and a sentence that says what they are."""
        rows = self.files[file]
        stored = rows.groups.stored_neighbours(row) if scope == "all" and rows.has_neighbours else None
        if stored:
            return described(rows, *(part[:N_NEIGHBOURS] for part in stored)), "Exact, by cosine: from the file."
        if not rows.dim:
            return [], f"{rows.name} has no vectors to compare."
        among = within(rows, scope)
        if scope == "crops":
            among = self.keys[file] != self.keys[file][row]
        elif scope == "samples" and "sample_id" in rows.columns:
            samples = rows.codes("sample_id")[0]
            among = samples != samples[row]
        among = np.ones(rows.n, bool) if among is None else among.copy()
        among[row] = False
        if not among.any():
            return [], "There is no other row to compare with."
        nearest = rows.vectors.nearest(rows.vectors[row : row + 1][0], N_NEIGHBOURS, among)
        return described(rows, *nearest), f"Exact, by cosine, among {count(int(among.sum()), 'row')}."


def within(file: ParquetRows, scope: str) -> np.ndarray | None:
    """Return (n,) bool for a scope `split:NAME`, None for any other."""
    if not scope.startswith("split:") or "split" not in file.columns:
        return None
    return file.having("split", (scope.removeprefix("split:"),))


def described(file: ParquetRows, similarities: np.ndarray, rows: np.ndarray) -> list[Neighbour]:
    """Return rows of a file with what there is to say of each."""
    codes, names = file.codes("label")
    columns = zip(similarities.tolist(), rows.tolist(), strict=True)
    return [Neighbour(row, names[codes[row]], "", similarity) for similarity, row in columns]


class PictureSearch:
    """Search by an uploaded picture, among the rows of the page's first file or in an index.

    model: the spec to embed pictures with, in place of the one that the file names. background: the colour behind
    what is transparent in them, in place of that of the file. engine: what computes the model, by default that of the file.
    index: see retrieval.items.References, or None.
    """

    def __init__(
        self,
        data: ViewerData,
        model: str | None = None,
        *,
        index: Any = None,
        background: str | None = None,
        engine: str = "auto",
    ) -> None:
        self.data, self.file, self.spec, self.index = data, data.files[0], model, index
        self.background, self.engine = background, engine
        self._embedder: Any = None
        self._one_at_a_time = threading.Lock()

    def references(self) -> dict[str, str]:
        """Return what an uploaded picture can be compared with, the best choice first."""
        splits = sorted(self.data.names("split"), key=lambda name: name != "train")
        index = {"index": f"the index {self.index.source}"} if self.index is not None else {}
        by_split = {f"split:{name}": f"split {name}" for name in splits if len(splits) > 1}
        every_row = {"all": "every row"}
        return index | (by_split | every_row if "split:train" in by_split else every_row | by_split)

    def embed(self, data: bytes) -> np.ndarray:
        """Return the vector (dim,) of an image file. Raises ImageError for the file, UserError for the model."""
        from embedding import query_images
        from imaging import images
        from imaging.colors import COLORS
        from imaging.headers import read_header

        header = read_header(data)
        if header.width * header.height > UPLOAD_PIXELS:
            raise images.ImageError(
                f"{header.width:,} x {header.height:,} pixels are more than the {UPLOAD_PIXELS // 10**6} million taken"
            )
        with self._one_at_a_time:  # so that no more than one picture is in memory, whole
            if self._embedder is None:
                self._embedder = query_images.recorded_model(
                    self._recorded_model(), self.file.name, spec=self.spec, engine=self.engine
                )
            color = COLORS[query_images.background_of(self.file.model, self.file.name, self.background)]
            pixels = images.Encoded(data, header, header.orientation, background=color).decode()
            return self._embedder(self._embedder.preprocess(pixels)[None])[0]

    def _recorded_model(self) -> dict[str, Any]:
        """Return the fields that tell the file's model. Raises UserError where it is a path, or code: a file chooses neither."""
        model, source = self.file.model, self.file.name
        name = str(model.get("model", ""))
        if self.spec is None and (":" in name or (name and os.path.lexists(name))):
            what = "code" if ":" in name else "a path"
            raise UserError(f"{source} names {what} as its model ({name}); if you trust it, start view.py with --model")
        return model

    def look_up(self, data: bytes, among: str, k: int) -> Answer:
        """Return what an image file is like among the rows of the first file, or of the index; the k most similar vote."""
        from common import knn

        vector = self.embed(data)
        in_index = among == "index" and self.index is not None
        neighbours, compared = (self._in_index if in_index else self._in_file)(vector, among, max(k, N_NEIGHBOURS))
        if not neighbours:
            return Answer("no row to compare with", "", compared, [])
        voters = neighbours[:k]
        names, codes = np.unique([voter.label for voter in voters], return_inverse=True)
        similarities = np.array([[voter.similarity for voter in voters]], np.float32)
        label = str(names[knn.vote(similarities, codes.reshape(1, -1))[0]])
        votes = sum(voter.label == label for voter in voters)
        return Answer(label, f"{votes} of {count(len(voters), 'neighbour')}", compared, neighbours)

    def _in_index(self, vector: np.ndarray, among: str, n: int) -> tuple[list[Neighbour], str]:
        hits = self.index.search(vector[None], n)[0]
        rows = self._rows_of([hit.item for hit in hits])
        neighbours = [
            Neighbour(row, hit.item.label, hit.item.crop_id, hit.score) for hit, row in zip(hits, rows, strict=True)
        ]
        return neighbours, f"The most similar rows of the index {self.index.source}."

    def _in_file(self, vector: np.ndarray, among: str, n: int) -> tuple[list[Neighbour], str]:
        file = self.file
        if file.dim != len(vector):
            raise UserError(
                f"{file.name} has vectors of {file.dim} numbers, this model gives {len(vector)}; name its own with --model"
            )
        kept = within(file, among)
        n_rows = file.n if kept is None else int(kept.sum())
        neighbours = described(file, *file.vectors.nearest(vector, n, kept))
        return neighbours, f"The most similar of {count(n_rows, 'row')}, exact, by cosine."

    def _rows_of(self, items: Sequence[Any]) -> list[int | None]:
        """Return the rows of the first file that these items of an index are, None where it does not have them."""
        columns = [name for name in ("split", "id", "crop_id") if name in self.file.columns]
        result: list[int | None] = []
        for item in items:
            same = np.full(self.file.n, "crop_id" in columns)
            for name in columns:
                same &= self.file.having(name, (getattr(item, name),))
            rows = np.flatnonzero(same)
            result.append(int(rows[0]) if len(rows) else None)
        return result
