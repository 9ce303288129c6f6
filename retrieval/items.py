"""What a search takes and gives: queries, items, hits, and what the references that are searched must offer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from common import files
from common.embeddings import EmbeddingSet


class Item(NamedTuple):
    """One row of the references. `path` is that of the image, '' where unknown; `label` the whole label path, '' for none."""

    dataset: str
    split: str
    id: str
    crop_id: str
    sample_id: str
    path: str
    label: str

    @property
    def crop(self) -> tuple[str, str, str]:
        """The name of the crop, the same at every ID."""
        return self.dataset, self.split, self.crop_id

    @property
    def sample(self) -> tuple[str, str, str]:
        """The photo that the crop was cut from; a crop without one stands for itself."""
        return self.dataset, self.split, self.sample_id or self.crop_id


@dataclass(frozen=True)
class Hit:
    """A result: `score` is the cosine (or what --metric of an index says), `vector` (dim,) float32 where it was asked for."""

    score: float
    item: Item
    vector: np.ndarray | None = None


class Items:
    """The items of one set by row, each made when it is asked for. A row without a crop ID is named by its path or its number.

    `data_root` is the folder of the pictures now (default: the one that the set names).
    """

    def __init__(self, embedding_set: EmbeddingSet, data_root: str | os.PathLike | None = None) -> None:
        self._set, self.label = embedding_set, embedding_set.label()
        self._root = str(embedding_set.meta.get("data_root") or "") if data_root is None else str(data_root)

    def __getitem__(self, row: int) -> Item:
        rows = self._set
        path = str(rows.paths[row])
        crop_id = str(rows.crop_ids[row]) or path or f"row {row}"
        full_path = files.below(self._root, path)
        sample_id, label = str(rows.sample_ids[row]), str(self.label[row])
        return Item(rows.dataset, rows.split, rows.id, crop_id, sample_id, full_path, label)

    def __len__(self) -> int:
        return len(self._set)


class References(Protocol):
    """Rows that can be searched: exact.ExactSearch over files, or an index of the room indexes/.

    n_views: how many rows one crop may have. source: the name to show. metric: COSINE, IP or L2. model: its MODEL_FIELDS.
    """

    n_views: int
    dim: int
    source: str
    metric: str
    model: dict[str, Any]

    def __len__(self) -> int: ...
    def search(
        self,
        queries: np.ndarray,
        k: int,
        where: Mapping[str, Sequence[str]] | None = None,
        *,
        vectors: bool = False,
        ready: bool = False,
    ) -> list[list[Hit]]: ...
    def prepared(self, queries: np.ndarray) -> np.ndarray: ...
    def label_counts(self, labels: Iterable[str]) -> dict[str, int]: ...
    def own_counts(self, queries: Sequence[Item], *, same_sample: bool = False) -> np.ndarray: ...


@dataclass(frozen=True)
class Queries:
    """vectors (n, dim) float32; pictures: their files, '' where unknown; items: the reference rows that they are, or None."""

    vectors: np.ndarray
    pictures: Sequence[str]
    items: Sequence[Item | None]

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: Sequence[int]) -> Queries:
        """Return the queries of these rows."""
        return Queries(self.vectors[list(rows)], [self.pictures[r] for r in rows], [self.items[r] for r in rows])
