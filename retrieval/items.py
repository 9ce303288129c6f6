"""What a search is asked and answers: queries, items, hits, and what references must offer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from common import files
from common.embeddings import EmbeddingSet


class Item(NamedTuple):
    """One row of a gallery. `path` is that of the image, '' where unknown; `label` the whole label path, '' for none."""

    dataset: str
    split: str
    id: str
    crop_id: str
    sample_id: str
    path: str
    label: str

    @property
    def crop(self) -> tuple[str, str, str]:
        """What the crop is known by, at any ID."""
        return self.dataset, self.split, self.crop_id

    @property
    def sample(self) -> tuple[str, str, str]:
        """The source image that the crop was cut from; a crop without one stands for itself."""
        return self.dataset, self.split, self.sample_id or self.crop_id


@dataclass(frozen=True)
class Hit:
    """A result: `score` is the cosine (or what --metric of an index says), `vector` (dim,) float32 where it was asked for."""

    score: float
    item: Item
    vector: np.ndarray | None = None


class Items:
    """The items of one set by row, made when asked for. A row without a crop id is known by its path, else by its place.

    `data_root` is where the pictures are now (default: where they were).
    """

    def __init__(self, one: EmbeddingSet, data_root: str | os.PathLike | None = None) -> None:
        self._set, self.label = one, one.label()
        self._root = str(one.meta.get("data_root") or "") if data_root is None else str(data_root)

    def __getitem__(self, row: int) -> Item:
        one = self._set
        path = str(one.paths[row])
        crop_id = str(one.crop_ids[row]) or path or f"row {row}"
        whole = files.below(self._root, path)
        return Item(one.dataset, one.split, one.id, crop_id, str(one.sample_ids[row]), whole, str(self.label[row]))

    def __len__(self) -> int:
        return len(self._set)


class Gallery(Protocol):
    """gallery.NpzGallery or index.Index."""

    n_views: int

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
    """vectors (n, dim) float32; pictures: their files, '' where unknown; items: what they are in the gallery, or None."""

    vectors: np.ndarray
    pictures: Sequence[str]
    items: Sequence[Item | None]

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: Sequence[int]) -> Queries:
        """Return these queries."""
        return Queries(self.vectors[list(rows)], [self.pictures[r] for r in rows], [self.items[r] for r in rows])
