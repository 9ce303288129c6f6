"""What the page of view.py is asked: which rows there are, what is near a row, what an uploaded picture is like."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.messages import UserError, count
from viewer.parquet_rows import Points

NEAR = 12  # neighbours shown
UPLOAD_PIXELS = 60_000_000
SCOPES = {"all": "every row", "crops": "other crops", "samples": "other photos"}


@dataclass(frozen=True)
class Near:
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
    said: str
    near: list[Near]


class Explorer:
    """The files of a page. `keys`: for each file (n,) int32, the same number for the same crop in any file and at any padding.

    model: the spec to embed pictures with, in place of the one that the first file names. index: a gallery (see gallery.py) to
    search pictures in, or None.
    """

    def __init__(self, files: Sequence[Points], *, model: str | None = None, index: Any = None) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self.files, self.spec, self.index = list(files), model, index
        whole = pa.chunked_array([chunk for number, one in enumerate(self.files) for chunk in one.keys(number).chunks])
        codes = pc.dictionary_encode(whole.combine_chunks()).indices.to_numpy().astype(np.int32)
        self.keys = np.split(codes, np.cumsum([one.n for one in self.files])[:-1])
        self.repeats = any(len(np.unique(keys)) < len(keys) for keys in self.keys)
        self._embedder: Any = None
        self._one_at_a_time = threading.Lock()

    def place(self, file: int, row: int) -> tuple[int, int]:
        """Return (file, row), the nearest that there is."""
        file = min(max(0, int(file)), len(self.files) - 1)
        return file, min(max(0, int(row)), self.files[file].n - 1)

    def names(self, column: str) -> list[str]:
        """Return the values of a column, or of `label`, in all files."""
        parts = [one.codes(column)[1] for one in self.files if column == "label" or column in one.columns]
        return list(dict.fromkeys(name for names in parts for name in names))

    def sources(self) -> dict[str, str]:
        """Return what a map can show: {`file|id`: text}, `file|` for all ids of a file."""
        found = {}
        for number, one in enumerate(self.files):
            alike = sum(other.path.stem == one.path.stem for other in self.files) > 1
            name = f"{one.path.absolute().parent.name}/{one.path.stem}" if alike else one.path.stem
            before = f"{name}: " if len(self.files) > 1 else ""
            ids = one.codes("id")[1] if "id" in one.columns else []
            found[f"{number}|"] = before + (f"all {len(ids)} IDs" if len(ids) > 1 else "everything")
            found |= {f"{number}|{id}": f"{before}ID {id}" for id in ids if 1 < len(ids) <= 200}
        return found

    def colours(self) -> dict[str, str]:
        """Return the columns by which a map can be coloured, with their texts."""
        levels = max(one.levels for one in self.files)
        found = {"label": "label"} if levels else {}
        found |= {f"level:{level}": f"label, level {level}" for level in range(levels - 1)}
        plain = dict.fromkeys(name for one in self.files for name in one.columns if not name.startswith("class_"))
        return found | {
            name: {"correct": "right or wrong", "id": "ID"}.get(name, name.replace("_", " ")) for name in plain
        }

    def scopes(self) -> dict[str, str]:
        """Return the groups of rows that neighbours are looked for in."""
        splits = self.names("split")
        return SCOPES | ({f"split:{name}": f"split {name}" for name in splits} if len(splits) > 1 else {})

    def references(self) -> dict[str, str]:
        """Return what an uploaded picture can be compared with, the best choice first."""
        splits = sorted(self.names("split"), key=lambda name: name != "train")
        found = {"index": f"the index {self.index.source}"} if self.index is not None else {}
        named = {f"split:{name}": f"split {name}" for name in splits if len(splits) > 1}
        return found | (named | {"all": "every row"} if "split:train" in named else {"all": "every row"} | named)

    def _within(self, points: Points, scope: str) -> np.ndarray | None:
        """Return (n,) bool for a scope `split:NAME`, None for any other."""
        if not scope.startswith("split:") or "split" not in points.columns:
            return None
        codes, names = points.codes("split")
        return codes == (names.index(scope[6:]) if scope[6:] in names else -1)

    def near(self, file: int, row: int, scope: str) -> tuple[list[Near], str]:
        """Return a row's nearest neighbours, itself left out, and a sentence that says what they are."""
        points = self.files[file]
        stored = points.stored_neighbours(row) if scope == "all" else None
        if stored:
            return self._known(points, *(part[:NEAR] for part in stored)), "Exact, by cosine: from the file."
        if not points.dim:
            return [], f"{points.name} has no vectors to compare."
        among = self._within(points, scope)
        if scope == "crops":
            among = self.keys[file] != self.keys[file][row]
        elif scope == "samples" and "sample_id" in points.columns:
            among = points.codes("sample_id")[0] != points.codes("sample_id")[0][row]
        among = np.ones(points.n, bool) if among is None else among.copy()
        among[row] = False
        if not among.any():
            return [], "There is no other row to compare with."
        found = points.nearest(points.vectors[row : row + 1][0], NEAR, among)
        return self._known(points, *found), f"Exact, by cosine, among {count(int(among.sum()), 'row')}."

    def _known(self, points: Points, similarities: np.ndarray, rows: np.ndarray) -> list[Near]:
        codes, names = points.codes("label")
        return [Near(int(r), names[codes[r]], "", float(s)) for s, r in zip(similarities, rows, strict=True)]

    def embed(self, data: bytes) -> np.ndarray:
        """Return the vector (dim,) of an image file. Raises ImageError for the file, UserError for the model."""
        from common import images
        from embedding import query_images

        header = images.read_header(data)
        if header.width * header.height > UPLOAD_PIXELS:
            raise images.ImageError(
                f"{header.width:,} x {header.height:,} pixels are more than the {UPLOAD_PIXELS // 10**6} million taken"
            )
        pixels = images.Encoded(data, header, header.orientation).decode()
        with self._one_at_a_time:
            if self._embedder is None:
                model, source = self.files[0].model, self.files[0].name
                if self.spec is None and ":" in str(model.get("model", "")):  # a file must not choose what code runs
                    raise UserError(
                        f"{source} names code as its model ({model['model']}); if you trust it, start view.py with --model"
                    )
                self._embedder = query_images.recorded_model(model, source, spec=self.spec)
            return self._embedder(self._embedder.preprocess(pixels)[None])[0]

    def look_up(self, data: bytes, among: str, k: int) -> Answer:
        """Return what an image file is like among the rows of the first file, or of the index; the k most similar vote."""
        from common import knn

        points, vector = self.files[0], self.embed(data)
        if among == "index" and self.index is not None:
            hits = self.index.search(vector[None], max(k, NEAR))[0]
            rows = self._rows_of([hit.item for hit in hits])
            near = [Near(row, hit.item.label, hit.item.crop_id, hit.score) for hit, row in zip(hits, rows, strict=True)]
            said = f"The most similar rows of the index {self.index.source}."
        else:
            if points.dim != len(vector):
                raise UserError(
                    f"{points.name} has vectors of {points.dim} numbers, this model gives {len(vector)}; name its own with --model"
                )
            keep = self._within(points, among)
            near = self._known(points, *points.nearest(vector, max(k, NEAR), keep))
            n = points.n if keep is None else int(keep.sum())
            said = f"The most similar of {count(n, 'row')}, exact, by cosine."
        if not near:
            return Answer("no row to compare with", "", said, [])
        names, codes = np.unique([one.label for one in near[:k]], return_inverse=True)
        similarities = np.array([[one.similarity for one in near[:k]]], np.float32)
        label = str(names[knn.vote(similarities, codes.reshape(1, -1))[0]])
        own = sum(one.label == label for one in near[:k])
        return Answer(label, f"{own} of {count(len(near[:k]), 'neighbour')}", said, near)

    def _rows_of(self, items: Sequence[Any]) -> list[int | None]:
        """Return the rows of the first file that these items of an index are, None where it does not have them."""
        points = self.files[0]
        named = [name for name in ("split", "id", "crop_id") if name in points.columns]
        found: list[int | None] = []
        for item in items:
            keep = np.full(points.n, "crop_id" in named)
            for name in named:
                codes, names = points.codes(name)
                value = getattr(item, name)
                keep &= codes == (names.index(value) if value in names else -1)
            rows = np.flatnonzero(keep)
            found.append(int(rows[0]) if len(rows) else None)
        return found
