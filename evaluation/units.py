"""What counts as one where crops are not independent: the source photo, or a group of photos such as a shelf or a day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.embedding_sets import pieces
from common.embeddings import EmbeddingSet
from common.labels import groups
from common.messages import UserError
from evaluation import fusion


@dataclass(frozen=True)
class Units:
    """How units are made of photos; `group_by` as in common.labels.groups, None: each photo is a unit of its own."""

    group_by: str | None = None

    def noun(self, ungrouped: str = "photo") -> str:
        """Return what a unit is called: "group", or `ungrouped` where photos are not grouped."""
        return "group" if self.group_by else ungrouped

    def names(self, sets: Sequence[EmbeddingSet], side: str) -> list[Iterator[np.ndarray]]:
        """Return per set, in pieces, the join keys of the units of its rows; `side` is reference or query.

        Raises UserError where photos are grouped and one has no name or no group.
        """
        return [self._grouped(one) for one in sets] if self.group_by else photo_names(sets, side)

    def _grouped(self, embedding_set: EmbeddingSet) -> Iterator[np.ndarray]:
        for piece in pieces(embedding_set):
            samples, place = np.unique(piece.sample_ids, return_inverse=True)
            if (samples == "").any():
                raise UserError(f"{embedding_set.source} has rows without a sample id; --group_by groups these")
            named = np.array(groups(samples.tolist(), self.group_by), str)
            yield np.char.add(f"{embedding_set.dataset}/", named)[place.ravel()]


PHOTOS = Units()


def crop_names(sets: Sequence[EmbeddingSet], side: str) -> list[Iterator[np.ndarray]]:
    """Return per set, in pieces, the join keys of its crops; where crop_ids are missing, a row is known by side and number.

    Then rows of the same number are the same crop if all sets are of one length, which is how older files are laid out.
    """
    aligned = len({len(embedding_set) for embedding_set in sets}) == 1
    return [_crop_names(embedding_set, f"{side} {'' if aligned else embedding_set.id} row ") for embedding_set in sets]


def _crop_names(embedding_set: EmbeddingSet, prefix: str) -> Iterator[np.ndarray]:
    start = 0
    for piece in pieces(embedding_set):
        key, stop = fusion.crop_keys(piece), start + len(piece)
        missing = key == ""
        yield np.where(missing, np.char.add(prefix, np.arange(start, stop).astype(str)), key) if missing.any() else key
        start = stop


def photo_names(sets: Sequence[EmbeddingSet], side: str) -> list[Iterator[np.ndarray]]:
    """Return per set, in pieces, the join keys of the source photos.

    Without the source photo a crop is its own cluster; the prefix keeps it apart from photos of the same name.
    """
    return [_photo_names(*both) for both in zip(sets, crop_names(sets, side), strict=True)]


def _photo_names(embedding_set: EmbeddingSet, crops: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for piece, crop in zip(pieces(embedding_set), crops, strict=True):
        key = fusion.sample_keys(piece)
        missing = key == ""
        yield np.where(missing, np.char.add("crop ", crop), key) if missing.any() else key
