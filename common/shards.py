"""An embedding set that lies in several files: one set to its users, gone through piece by piece where memory counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from common.embeddings import TEXTS, Blocks, EmbeddingSet
from common.pages import release

PIECE = 1 << 16  # rows


class Joined(EmbeddingSet):
    """The rows of several shards one after the other: their vectors as `Blocks`, their texts joined when first asked for.

    Most work asks for few of them, and at a million rows each column is 100 MB of text.
    """

    def __init__(self, shards: Sequence[EmbeddingSet]) -> None:
        """Take shards of one dimension; where some have fewer label levels, the deeper ones are '' there."""
        levels = max(one.labels.shape[1] for one in shards)
        whole = [one if one.labels.shape[1] == levels else _deepen(one, levels) for one in shards]
        # A frozen dataclass keeps its fields in __dict__; the texts are left out of it.
        self.__dict__.update(_shards=tuple(whole), vectors=Blocks([one.vectors for one in whole]), meta=shards[0].meta)

    @property
    def shards(self) -> tuple[EmbeddingSet, ...]:
        return self.__dict__["_shards"]

    def __getattr__(self, name: str) -> np.ndarray:
        """Join a column of texts; asked only for what is not there yet."""
        if name not in TEXTS:
            raise AttributeError(name)
        self.__dict__[name] = np.concatenate([getattr(one, name) for one in self.shards])
        return self.__dict__[name]

    def renamed(self, **meta: object) -> EmbeddingSet:
        return Joined([one.renamed(**meta) for one in self.shards])


def _deepen(one: EmbeddingSet, levels: int) -> EmbeddingSet:
    empty = np.full((len(one), levels - one.labels.shape[1]), "", one.labels.dtype)
    return dataclasses.replace(one, labels=np.concatenate([one.labels, empty], axis=1))


def join(shards: Sequence[EmbeddingSet]) -> EmbeddingSet:
    """Return the shards, in their order, as one set."""
    return shards[0] if len(shards) == 1 else Joined(shards)


def pieces(one: EmbeddingSet) -> Iterator[EmbeddingSet]:
    """Yield the set's rows as sets of up to PIECE rows that copy nothing; what was read from a file is given back after each."""
    for shard in one.shards:
        columns = {name: getattr(shard, name) for name in ("vectors", *TEXTS)}
        for at in range(0, len(shard), PIECE):
            part = {name: column[at : at + PIECE] for name, column in columns.items()}
            yield EmbeddingSet(**part, meta=one.meta)
            for column in columns.values():
                release(column)
