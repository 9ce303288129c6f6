"""Whether embedding sets can be compared, and the codes by which their labels and crops are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common import fusion
from common.cli import UserError
from common.embeddings import EmbeddingSet


def code(texts: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the sorted distinct texts and, per input array, the int64 code of each entry."""
    values, codes = np.unique(np.concatenate(texts), return_inverse=True)
    return values, np.split(codes.ravel().astype(np.int64), np.cumsum([len(one) for one in texts])[:-1])


def crop_names(references: Sequence[EmbeddingSet], queries: Sequence[EmbeddingSet]) -> list[np.ndarray]:
    """Return the join keys of every set's crops; where crop_ids are missing, a row is known by side and number.

    Then rows of the same number are the same crop if all query sets are of one length, which is how older files are laid out.
    """
    names = []
    for side, sets in (("reference", references), ("query", queries)):
        aligned = len({len(one) for one in sets}) == 1
        for one in sets:
            key = fusion.crop_keys(one)
            if (key == "").any():
                number = np.char.add(f"{side} {'' if aligned else one.id} row ", np.arange(len(one)).astype(str))
                key = np.where(key == "", number, key)
            names.append(key)
    return names


def check(references: Sequence[EmbeddingSet], queries: Sequence[EmbeddingSet], mode: str, k: int) -> None:
    """Raise UserError unless the sets can be compared in this fusion mode: one model, one dimension, at least k references each."""
    everything = [*references, *queries]
    first = everything[0]
    if mode in ("stack", "mean"):
        for one in everything[1:]:
            if one.dim != first.dim:
                raise UserError(
                    f"{first.source} has {first.dim} dimensions, {one.source} {one.dim}; compare sets of one model"
                )
            if one.fingerprint and first.fingerprint and one.fingerprint != first.fingerprint:
                raise UserError(
                    f"{first.source} ({first.meta.get('model')}) and {one.source} ({one.meta.get('model')}) come from different "
                    f"models or preprocessing; extract them with the same options, or use --fusion concat or vote"
                )
            first = first if first.fingerprint else one
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
