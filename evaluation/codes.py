"""Whether embedding sets can be compared, and the codes by which their labels and crops are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from common.embedding_sets import pieces, require_one_model
from common.embeddings import EmbeddingSet
from common.messages import UserError
from evaluation import fusion


def code(columns: Iterable[Iterable[np.ndarray]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the sorted distinct texts and, per column, the int64 code of each entry. A column comes in pieces."""
    parts = [[np.unique(piece, return_inverse=True) for piece in column] for column in columns]
    values = np.unique(np.concatenate([own for column in parts for own, _ in column]))
    return values, [
        np.concatenate([np.searchsorted(values, own)[at.ravel()] for own, at in column]) for column in parts
    ]


def look_up(values: np.ndarray, columns: Iterable[Iterable[np.ndarray]]) -> list[np.ndarray]:
    """Return per column the int64 code of each entry among the sorted distinct texts `values`; -1 where it is none of them."""
    return [np.concatenate([_codes(values, piece) for piece in column]) for column in columns]


def _codes(values: np.ndarray, piece: np.ndarray) -> np.ndarray:
    own, inverse = np.unique(piece, return_inverse=True)
    at = np.minimum(np.searchsorted(values, own), len(values) - 1)
    return np.where(values[at] == own, at, -1)[inverse.ravel()]


def crop_names(sets: Sequence[EmbeddingSet], side: str) -> list[Iterator[np.ndarray]]:
    """Return per set, in pieces, the join keys of its crops; where crop_ids are missing, a row is known by side and number.

    Then rows of the same number are the same crop if all sets are of one length, which is how older files are laid out.
    """
    aligned = len({len(one) for one in sets}) == 1
    return [_crop_names(one, f"{side} {'' if aligned else one.id} row ") for one in sets]


def _crop_names(one: EmbeddingSet, prefix: str) -> Iterator[np.ndarray]:
    start = 0
    for piece in pieces(one):
        key, stop = fusion.crop_keys(piece), start + len(piece)
        missing = key == ""
        yield np.where(missing, np.char.add(prefix, np.arange(start, stop).astype(str)), key) if missing.any() else key
        start = stop


def image_names(sets: Sequence[EmbeddingSet], side: str) -> list[Iterator[np.ndarray]]:
    """Return per set, in pieces, the join keys of the source images.

    Without the source image a crop is its own cluster; the prefix keeps it apart from images of the same name.
    """
    return [_image_names(one, crops) for one, crops in zip(sets, crop_names(sets, side), strict=True)]


def _image_names(one: EmbeddingSet, crops: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for piece, crop in zip(pieces(one), crops, strict=True):
        key = fusion.sample_keys(piece)
        missing = key == ""
        yield np.where(missing, np.char.add("crop ", crop), key) if missing.any() else key


def label_names(sets: Sequence[EmbeddingSet], level: int | None) -> list[Iterator[np.ndarray]]:
    """Return per set, in pieces, the labels at this level."""
    return [(piece.label(level) for piece in pieces(one)) for one in sets]


def without_samples(sets: Sequence[EmbeddingSet]) -> list[str]:
    """Return the files of sets in which a row does not name its source image."""
    return [one.source for one in sets if any((piece.sample_ids == "").any() for piece in pieces(one))]


def check(references: Sequence[EmbeddingSet], queries: Sequence[EmbeddingSet], mode: str, k: int) -> None:
    """Raise UserError unless the sets can be compared in this fusion mode: one model, one dimension, at least k references each."""
    if mode in ("stack", "mean"):
        require_one_model([*references, *queries], what="extract them with one model, or use --fusion concat or vote")
    else:
        for query in queries:
            for reference in references:
                same = query.fingerprint == reference.fingerprint or "" in (query.fingerprint, reference.fingerprint)
                if (query.id == reference.id or (mode == "vote" and same)) and query.dim != reference.dim:
                    raise UserError(
                        f"{query.source} has {query.dim} dimensions, {reference.source} {reference.dim}; compare sets of one model"
                    )
                if mode == "concat" and query.id == reference.id and not same:
                    raise UserError(
                        f"{query.source} and {reference.source} have one ID and different models; name them apart: id=path"
                    )
    for one in references:
        if k > len(one):
            raise UserError(f"--k {k} is larger than the {len(one)} references of {one.source}; choose a smaller --k")
