"""An index in one file, index.faiss: searched in memory by faiss (Johnson, Douze, Jegou 2017), the index types those of Milvus.

The file is an .npz of faiss's own bytes, the rows' names, the PCA and the description. It is read whole, with its checksums, and
written whole: a build that is killed leaves the old file. faiss trusts its bytes, so open only files that you trust.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from common import npz
from common.messages import UserError
from indexes.description import IndexDescription
from indexes.index_types import INDEX_TYPES
from retrieval.items import Hit, Item
from retrieval.pca import prepared

SUFFIX = ".faiss"
FEW = 20_000  # rows that pass a filter, up to which all of them are compared
TEXTS = ("crop_id", "sample_id", "path", "label")


class FaissIndex:
    """An index file, opened. `params` are search parameters. Attributes: those of retrieval.items.References."""

    def __init__(self, path: str | Path, *, params: Mapping[str, int] | None = None) -> None:
        import faiss

        archive = open_archive(path)
        self.description, self.source = read_description(archive), str(path)
        self.model, self.metric, self.dim = (
            self.description.model,
            self.description.metric,
            self.description.source_dim,
        )
        self.n_views, self._params = max(1, len(self.description.sets)), dict(params or {})
        self._texts = {name: archive.read(name) for name in TEXTS}
        self._set = archive.read("set")
        self._directions = archive.read("pca") if self.description.pca else None
        try:
            self._index = faiss.deserialize_index(archive.read("faiss"))
        except RuntimeError as error:
            raise UserError(f"{path} cannot be read by this faiss ({str(error)[:100]}); build it anew") from None
        if (self._index.d, self._index.ntotal) != (self.description.dim, len(self._set)):
            raise UserError(f"{path} is damaged: its parts do not fit together; build it anew with --overwrite")
        self._kept: tuple[str, np.ndarray] | None = None  # the last filter and its rows

    def __len__(self) -> int:
        return len(self._set)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        where: Mapping[str, Sequence[str]] | None = None,
        *,
        vectors: bool = False,
        ready: bool = False,
    ) -> list[list[Hit]]:
        """Return for each row of (n, dim) up to k nearest rows that pass the filters; their vectors as the index holds them.

        `ready`: the queries are what `prepared` returns. Where few rows pass, all of them are compared; else an approximate
        search is widened until k rows are found.
        """
        kept = self._passing(where) if where else None
        k = min(k, len(self) if kept is None else len(kept))
        if not k or not len(queries):
            return [[] for _ in queries]
        queries = np.ascontiguousarray(queries if ready else self.prepared(queries), np.float32)
        scores, rows = self._neighbours(queries, k, kept)
        results = []
        for row_scores, row_numbers in zip(scores.tolist(), rows, strict=True):
            found = row_numbers[row_numbers >= 0]
            found_vectors = list(self._vectors(found)) if vectors else [None] * len(found)
            columns = zip(row_scores[: len(found)], found.tolist(), found_vectors, strict=True)
            results.append([Hit(score, self.item(row), vector) for score, row, vector in columns])
        return results

    def _neighbours(self, queries: np.ndarray, k: int, kept: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return (scores (n, k), rows (n, k), -1 where there are fewer), the nearest first."""
        import faiss

        if kept is not None and len(kept) <= FEW:
            scores, places = faiss.knn(queries, self._vectors(kept), k, metric=self._index.metric_type)
            return scores, kept[places]
        kind, build_params = INDEX_TYPES[self.description.index_type], self.description.index_params
        params = {**kind.search_defaults(build_params, k), **self._params}
        widest = kind.widest(build_params, len(self))
        while True:
            scores, rows = self._index.search(queries, k, params=self._search_parameters(params, kept))
            now = params.get(kind.search_param, widest)
            if now >= widest or (rows >= 0).all():
                return scores, rows
            params[kind.search_param] = min(widest, 8 * now)

    def _search_parameters(self, params: Mapping[str, int], kept: np.ndarray | None) -> Any:
        import faiss

        library: Any = faiss  # whose stubs do not know all of it
        options: dict[str, Any] = {} if kept is None else {"sel": library.IDSelectorBatch(kept)}
        if self.description.index_type == "HNSW":
            return library.SearchParametersHNSW(efSearch=params["ef"], **options)
        if self.description.index_type.startswith("IVF"):
            return library.SearchParametersIVF(nprobe=params["nprobe"], **options)
        return library.SearchParameters(**options)

    def _vectors(self, rows: np.ndarray) -> np.ndarray:
        import faiss

        if self.description.index_type.startswith("IVF"):
            faiss.extract_index_ivf(self._index).make_direct_map(True)
        return self._index.reconstruct_batch(rows)

    def item(self, row: int) -> Item:
        """Return one row's item."""
        entry = self.description.sets[self._set[row]]
        crop_id, sample_id, path, label = (str(self._texts[name][row]) for name in TEXTS)
        return Item(entry.dataset, entry.split, entry.id, crop_id, sample_id, path, label)

    def _passing(self, where: Mapping[str, Sequence[str]]) -> np.ndarray:
        """Return the rows that pass the filters."""
        key = repr(sorted(where.items()))
        if self._kept is None or self._kept[0] != key:
            kept = np.ones(len(self), bool)
            for name, values in where.items():
                if name == "label":
                    labels = self._texts["label"]
                    below = [(labels == value) | np.char.startswith(labels, f"{value}/") for value in values]
                    kept &= np.logical_or.reduce(below)
                else:
                    of_set = np.array([getattr(entry, name) in values for entry in self.description.sets])
                    kept &= of_set[self._set]
            self._kept = key, np.flatnonzero(kept)
        return self._kept[1]

    def prepared(self, queries: np.ndarray) -> np.ndarray:
        """Return the queries as the vectors of hits are: projected where the index has a PCA."""
        return prepared(queries, self.metric, self._directions)

    @cached_property
    def _label_counts(self) -> dict[str, int]:
        names, counts = np.unique(self._texts["label"], return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))

    def label_counts(self, labels: Iterable[str]) -> dict[str, int]:
        """Return how many rows have exactly each of these labels; those without any are left out."""
        return {label: self._label_counts[label] for label in labels if label and label in self._label_counts}

    def own_counts(self, queries: Sequence[Item], *, same_sample: bool = False) -> np.ndarray:
        """Return (n,) how many rows of the query's label are its own crop at any ID, or cut from its own photo."""
        key = (lambda item: (item.sample, item.label)) if same_sample else (lambda item: (item.crop, item.label))
        count_of = Counter(key(self.item(row)) for row in range(len(self)))
        return np.array([count_of[key(item)] for item in queries], int)


def open_archive(path: str | Path) -> npz.Archive:
    """Return the arrays of an index file. Raises UserError where it is none."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such index; make it with search.py build, or check --uri")
    archive = npz.Archive(path)
    if not {"set", "meta", "faiss", *TEXTS} <= set(archive.names):
        raise UserError(f"{path} is no index of search.py; choose another name")
    return archive


def read_description(archive: npz.Archive) -> IndexDescription:
    """Return the description of an index file. Raises UserError where it is damaged."""
    text = str(archive.read("meta"))
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    description = IndexDescription.from_fields(fields, str(archive.path), "this file")
    if len(description.sets) == 0:
        raise UserError(f"{archive.path} is damaged: it names no sets; build it anew with --overwrite")
    return description
