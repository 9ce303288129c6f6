"""Milvus behind one small interface: a Milvus Lite file (`index.db`) or a Milvus server (`http://host:19530`).

An index is a collection with one row a vector, and its description as JSON among the collection's properties, which both keep
(Milvus Lite forgets descriptions). Errors of either become one sentence.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.messages import UsageError, UserError
from indexes.description import IndexDescription
from retrieval.items import Hit, Item

SECONDS = 120.0  # that one request may take before a server counts as gone
LONG = 24 * 3600  # seconds that building an index may take
TEXT_BYTES = 65_535  # in a VARCHAR field at most
TEXT_FIELDS = ("dataset", "split", "variant", "version", "label", "item")
_PROPERTY = "search.about"


class MilvusStore:
    """A connection; use it as a context manager. `create` makes a Milvus Lite file that is not there yet.

    A server's token comes from the environment variable MILVUS_TOKEN: a command line would show it to everybody.
    """

    def __init__(self, uri: str, *, create: bool = False) -> None:
        self.uri, self.lite = uri, "://" not in uri
        if self.lite:
            _check_file(Path(uri), create)
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        import pymilvus

        # Silence the clients' own tracebacks; pymilvus sets its log levels when it is imported.
        for name in ("pymilvus", "pymilvus.milvus_client", "milvus_lite", "grpc"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        with self.errors():
            self.client = pymilvus.MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=10)
            self.client.list_collections(timeout=10)

    def __enter__(self) -> MilvusStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.lite:
            with contextlib.suppress(ImportError):
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(self.uri)  # and with it the lock on the file

    @contextlib.contextmanager
    def errors(self, name: str = "") -> Iterator[None]:
        """Turn an error of Milvus, met in the collection `name`, into one sentence."""
        import grpc
        import pymilvus

        try:
            yield
        except (pymilvus.MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise UserError(_sentence(self.uri, name, error)) from None

    def names(self) -> list[str]:
        """Return the names of all collections."""
        with self.errors():
            return sorted(self.client.list_collections(timeout=SECONDS))

    def description(self, name: str) -> IndexDescription | None:
        """Return the description of an index, None where there is no such collection. Raises UserError for a foreign one."""
        check_name(name)
        if name not in self.names():
            return None
        with self.errors(name):
            properties = self.client.describe_collection(name, timeout=SECONDS).get("properties") or {}
        fields = properties.get(_PROPERTY)
        with contextlib.suppress(ValueError):
            fields = json.loads(fields) if isinstance(fields, str) else fields
        return IndexDescription.from_fields(fields, self.uri, f"the collection {name!r}")

    def set_description(self, name: str, description: IndexDescription) -> None:
        """Replace the description of an index."""
        with self.errors(name):
            self.client.alter_collection_properties(name, {_PROPERTY: description.to_json()}, timeout=SECONDS)

    def create(self, name: str, dim: int, description: str) -> None:
        """Make an empty collection for vectors of `dim` dimensions; `description` is JSON."""
        from pymilvus import DataType

        check_name(name)
        with self.errors(name):
            schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=64)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
            for field in TEXT_FIELDS:
                schema.add_field(field, DataType.VARCHAR, max_length=TEXT_BYTES)
            properties = {_PROPERTY: description}
            self.client.create_collection(
                name, schema=schema, consistency_level="Strong", properties=properties, timeout=SECONDS
            )

    def finish(self, name: str, index_type: str, params: Mapping[str, int], metric: str) -> None:
        """Build the index where there is none, and load it."""
        with self.errors(name):
            if not self.client.list_indexes(name, field_name="vector", timeout=SECONDS):
                index = self.client.prepare_index_params()
                # Milvus Lite overlooks parameters that pymilvus sends flat.
                sent: dict[str, Any] = {"params": dict(params)} if self.lite else dict(params)
                index.add_index("vector", index_type=index_type, metric_type=metric, params=sent)
                self.client.create_index(name, index, timeout=LONG)
        self.load(name)

    def load(self, name: str) -> None:
        """Make an index ready to be searched."""
        with self.errors(name):
            self.client.load_collection(name, timeout=LONG)

    def rename(self, old: str, new: str) -> None:
        """Give a collection another name; one that bears it is dropped."""
        with self.errors(new):
            if new in self.names():
                self.client.drop_collection(new, timeout=SECONDS)
            self.client.rename_collection(old, new, timeout=SECONDS)

    def drop(self, name: str) -> None:
        """Remove a collection, if there is one."""
        with self.errors(name):
            if name in self.names():
                self.client.drop_collection(name, timeout=SECONDS)


def check_name(name: str) -> None:
    """Raise UsageError for a name that Milvus would not take."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", name):
        raise UsageError(f"--collection {name}: use up to 200 letters, digits and _, with no digit first")


def _check_file(path: Path, create: bool) -> None:
    """Raise for a path that Milvus Lite cannot use, or would make a new database of."""
    if path.suffix != ".db":
        raise UsageError(f"--uri {path}: name a Milvus Lite file index.db, or a server http://host:19530")
    if path.is_file():
        with open(path, "rb") as file:
            old = file.read(16) == b"SQLite format 3\0"
        what = "was made by an older Milvus Lite, which kept SQLite files" if old else "is no Milvus Lite database"
        raise UserError(f"{path} {what}; move it away, or build anew under another name")
    if not path.exists():
        if not create:
            raise UserError(f"{path}: no such index; make it with search.py build, or check --uri")
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    names = set(os.listdir(path))
    if names and "collections" not in names:
        raise UserError(f"{path} is a folder of other files, no Milvus Lite database; choose another name")
    lock = path / "LOCK"
    if lock.is_file():
        import fcntl  # Milvus Lite does not run on Windows, which lacks it

        with open(lock, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{path} is in use by another process; wait for it, or use a Milvus server") from None


def _sentence(uri: str, name: str, error: Exception) -> str:
    """Return what to tell the user of an error of Milvus."""
    text = " ".join(str(getattr(error, "message", "") or error).split())
    code = getattr(error, "code", None)
    lower = text.lower()
    if "no space left" in lower or "disk quota" in lower or "errno 28" in lower:
        # A server that ran out of space keeps failing until it is restarted.
        restart = ", restart the server" if "://" in uri else ""
        return f"{uri}: no space is left on its disk; free some{restart} and run the same command again"
    if any(
        word in lower for word in ("unavailable", "fail connecting", "failed to connect", "deadline", "illegal uri")
    ):
        return f"{uri}: no Milvus server answers there; start it, or check --uri"
    if isinstance(error, TimeoutError) or type(error).__name__ == "FutureTimeoutError":
        return f"{uri}: no Milvus server answers there; start it, or check --uri"
    if "open local milvus failed" in lower:
        return f"{uri} cannot be opened as a Milvus Lite database; it is damaged or in use: build it anew"
    if "memory" in lower and ("insufficient" in lower or "oom" in lower or "exceed" in lower):
        return f"{uri}: the server has too little memory for {name!r}; build it with --index_type IVF_SQ8 or --pca"
    if code in (100, 4) or "does not exist" in lower or "not found" in lower:
        return f"{uri} has no collection {name!r}; check --collection, or make it with search.py build"
    return f"{uri}: Milvus refuses {f'this of {name!r}' if name else 'that'}: {text[:200] or type(error).__name__}"


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
            self._client.upsert(self.name, rows, timeout=SECONDS)

    def flush(self) -> None:
        """Write what was put in to the disk: until then, searching Milvus Lite takes twenty times as long."""
        with self._store.errors(self.name):
            self._client.flush(self.name, timeout=3600)

    def remove_older(self, dataset: str, split: str, id: str, version: str) -> None:
        """Delete the rows of a set that are not of this version."""
        self._searched = False
        of_set = expression({"dataset": [dataset], "split": [split], "variant": [id]})
        with self._store.errors(self.name):
            self._client.delete(self.name, filter=f"{of_set} and version != {_quoted(version)}", timeout=SECONDS)

    def count(self, where: Mapping[str, Sequence[str]] | None = None) -> int:
        """Return the number of rows that pass the filters, rows put in and not flushed among them."""
        with self._store.errors(self.name):
            answer = self._client.query(
                self.name,
                filter=expression(where or {}),
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=SECONDS,
            )
        return int(answer[0]["count(*)"])

    def count_keys(self, keys: Sequence[str]) -> int:
        """Return how many of these keys have a row."""
        if not keys:
            return 0
        with self._store.errors(self.name):
            rows = self._client.get(self.name, ids=list(keys), output_fields=["key"], timeout=SECONDS)
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
                timeout=SECONDS,
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
                timeout=SECONDS,
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
