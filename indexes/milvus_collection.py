"""The rows of one collection of Milvus: put in, deleted, counted, searched under filters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from indexes import milvus_store
from indexes.milvus_store import TEXT_FIELDS, MilvusStore
from retrieval.items import Hit, Item

_RETURNED = ["dataset", "split", "variant", "label", "item"]


class MilvusCollection:
    """The rows of a collection that is there. What a search has not seen yet, the next one waits for."""

    def __init__(self, store: MilvusStore, name: str) -> None:
        self.name = name
        self._store, self._client = store, store.client
        self._searched = False  # since the last change by this object

    def upsert(self, keys: Sequence[str], vectors: np.ndarray, items: Sequence[Item], version: str = "") -> None:
        """Put rows in, replacing those of the same key."""
        self._searched = False
        rows = []
        for key, vector, item in zip(keys, vectors, items, strict=True):
            names = json.dumps([item.crop_id, item.sample_id, item.path], ensure_ascii=False)
            texts = (item.dataset, item.split, item.id, version, item.label, names)
            rows.append({"key": key, "vector": vector, **dict(zip(TEXT_FIELDS, texts, strict=True))})
        with self._store.errors(self.name):
            self._client.upsert(self.name, rows, timeout=milvus_store.SECONDS)

    def flush(self) -> None:
        """Write what was put in to the disk: until then, searching Milvus Lite takes twenty times as long."""
        with self._store.errors(self.name):
            self._client.flush(self.name, timeout=3600)

    def remove_older(self, dataset: str, split: str, id: str, version: str) -> None:
        """Delete the rows of a set that are not of this version."""
        self._searched = False
        of_set = expression({"dataset": [dataset], "split": [split], "variant": [id]})
        with self._store.errors(self.name):
            self._client.delete(
                self.name, filter=f"{of_set} and version != {_quoted(version)}", timeout=milvus_store.SECONDS
            )

    def count(self, where: Mapping[str, Sequence[str]] | None = None) -> int:
        """Return the number of rows that pass the filters, rows put in and not flushed among them."""
        with self._store.errors(self.name):
            answer = self._client.query(
                self.name,
                filter=expression(where or {}),
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=milvus_store.SECONDS,
            )
        return int(answer[0]["count(*)"])

    def count_keys(self, keys: Sequence[str]) -> int:
        """Return how many of these keys have a row."""
        if not keys:
            return 0
        with self._store.errors(self.name):
            rows = self._client.get(self.name, ids=list(keys), output_fields=["key"], timeout=milvus_store.SECONDS)
        return len(rows)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        where: Mapping[str, Sequence[str]],
        params: Mapping[str, Any],
        *,
        vectors: bool = False,
    ) -> list[list[Hit]]:
        """Return the nearest rows for each of (n, dim), best first.

        The first search sees all that was put in before it, for which a server takes a fifth of a second; later ones see as
        much, and of what others put in since, all that is older than five seconds.
        """
        with self._store.errors(self.name):
            answers = self._client.search(
                self.name,
                data=np.ascontiguousarray(queries, np.float32).tolist(),
                filter=expression(where),
                limit=k,
                output_fields=[*_RETURNED, "vector"] if vectors else _RETURNED,
                search_params={"params": dict(params)},
                consistency_level="Bounded" if self._searched else "Strong",
                timeout=milvus_store.SECONDS,
            )
        self._searched = True
        return [[_hit(row["distance"], row["entity"]) for row in rows] for rows in answers]

    def matrix(self, n: int) -> np.ndarray:
        """Return all n vectors of a small collection, (n, dim) float32 in the order of their keys."""
        self._store.load(self.name)
        with self._store.errors(self.name):
            rows = self._client.query(
                self.name,
                filter='key >= ""',
                output_fields=["key", "vector"],
                limit=n,
                timeout=milvus_store.SECONDS,
            )
        return np.array([row["vector"] for row in sorted(rows, key=lambda row: row["key"])], np.float32)


def expression(where: Mapping[str, Sequence[str]]) -> str:
    """Return the filter expression: one of the values of each; a `label` stands for those below it too, `exactly` does not."""
    parts = []
    for name, values in where.items():
        either = [f"{'label' if name == 'exactly' else name} == {_quoted(value)}" for value in values]
        if name == "label":
            either += [f"label like {_quoted(value + '/%')}" for value in values if not set(value) & set("%_\\")]
        parts.append(f"({' or '.join(either)})")
    return " and ".join(parts)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _hit(score: float, entity: Mapping[str, Any]) -> Hit:
    crop_id, sample_id, path = json.loads(entity["item"])
    item = Item(entity["dataset"], entity["split"], entity["variant"], crop_id, sample_id, path, entity["label"])
    return Hit(float(score), item, np.array(entity["vector"], np.float32) if "vector" in entity else None)
