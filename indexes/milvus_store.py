"""Milvus behind one small interface: a Milvus Lite file (`index.db`) or a Milvus server (`http://host:19530`).

An index is a collection with one row a vector, and its description as JSON among the collection's properties, which both keep
(Milvus Lite forgets descriptions). Errors of either become one sentence.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.messages import UsageError, UserError
from retrieval.items import Hit, Item

INDEX_PARAMS: dict[str, tuple[str, ...]] = {
    "FLAT": (),
    "IVF_FLAT": ("nlist",),
    "IVF_SQ8": ("nlist",),
    "HNSW": ("M", "efConstruction"),
}
METRICS = ("COSINE", "IP", "L2")
SECONDS = 120.0  # that one request may take before a server counts as gone
_ABOUT = "search.about"
_TEXT = 65_535  # bytes in a text field, the most there are
_SCALARS = ("dataset", "split", "variant", "version", "label", "item")
_OUTPUT = ["dataset", "split", "variant", "label", "item"]


class Store:
    """A connection; use it as a context manager. `create` makes a Milvus Lite file that is not there yet."""

    def __init__(self, uri: str, *, create: bool = False, token: str = "") -> None:
        self.uri, self.lite = uri, "://" not in uri
        if self.lite:
            _check_file(Path(uri), create)
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        import pymilvus

        # They print tracebacks of what is one sentence here; pymilvus sets its levels when it is imported.
        for name in ("pymilvus", "pymilvus.milvus_client", "milvus_lite", "grpc"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._seen: set[str] = set()  # collections of which a search has waited for all that was put in before
        with self._told():
            self._client = pymilvus.MilvusClient(uri, token=token, timeout=10)
            self._client.list_collections(timeout=10)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self.lite:
            with contextlib.suppress(ImportError):
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(self.uri)  # and with it the lock on the file

    @contextlib.contextmanager
    def _told(self, name: str = "") -> Iterator[None]:
        """Turn errors of Milvus into one sentence."""
        import grpc
        import pymilvus

        try:
            yield
        except (pymilvus.MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise UserError(_sentence(self.uri, name, error)) from None

    def names(self) -> list[str]:
        """Return the names of all collections."""
        with self._told():
            return sorted(self._client.list_collections(timeout=SECONDS))

    def about(self, name: str) -> dict[str, Any] | None:
        """Return the description of an index, None where there is no such collection. Raises UserError for a foreign one."""
        check_name(name)
        if name not in self.names():
            return None
        with self._told(name):
            properties = self._client.describe_collection(name, timeout=SECONDS).get("properties") or {}
        about = properties.get(_ABOUT)
        about = json.loads(about) if isinstance(about, str) else about
        if not isinstance(about, dict):
            raise UserError(f"{self.uri}: search.py has not made the collection {name!r}; name another --collection")
        return about

    def describe(self, name: str, about: Mapping[str, Any]) -> None:
        """Replace the description of an index."""
        with self._told(name):
            self._client.alter_collection_properties(name, {_ABOUT: json.dumps(about)}, timeout=SECONDS)

    def create(self, name: str, dim: int, about: Mapping[str, Any]) -> None:
        """Make an empty collection for vectors of `dim` dimensions."""
        from pymilvus import DataType

        check_name(name)
        with self._told(name):
            schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=64)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
            for field in _SCALARS:
                schema.add_field(field, DataType.VARCHAR, max_length=_TEXT)
            self._client.create_collection(
                name,
                schema=schema,
                consistency_level="Strong",
                properties={_ABOUT: json.dumps(about)},
                timeout=SECONDS,
            )

    def upsert(
        self, name: str, keys: Sequence[str], vectors: np.ndarray, items: Sequence[Item], version: str = ""
    ) -> None:
        """Put rows in, replacing those of the same key."""
        self._seen.discard(name)
        rows = []
        for key, vector, item in zip(keys, vectors, items, strict=True):
            rest = json.dumps([item.crop_id, item.sample_id, item.path], ensure_ascii=False)
            texts = (item.dataset, item.split, item.id, version, item.label, rest)
            rows.append({"key": key, "vector": vector, **dict(zip(_SCALARS, texts, strict=True))})
        with self._told(name):
            self._client.upsert(name, rows, timeout=SECONDS)

    def flush(self, name: str) -> None:
        """Write what was put in to the disk: until then, searching Milvus Lite takes twenty times as long."""
        with self._told(name):
            self._client.flush(name, timeout=3600)

    def remove_older(self, name: str, item: Item, version: str) -> None:
        """Delete the rows of the item's set that are not of this version."""
        where = {"dataset": [item.dataset], "split": [item.split], "variant": [item.id]}
        self._seen.discard(name)
        with self._told(name):
            self._client.delete(name, filter=f"{expression(where)} and version != {_quoted(version)}", timeout=SECONDS)

    def finish(self, name: str, index_type: str, params: Mapping[str, int], metric: str) -> None:
        """Build the index where there is none, and load it."""
        with self._told(name):
            if not self._client.list_indexes(name, field_name="vector", timeout=SECONDS):
                index = self._client.prepare_index_params()
                sent = (
                    {"params": dict(params)} if self.lite else dict(params)
                )  # Lite overlooks what pymilvus sends flat
                index.add_index("vector", index_type=index_type, metric_type=metric, params=sent)
                self._client.create_index(name, index, timeout=24 * 3600)
        self.load(name)

    def load(self, name: str) -> None:
        """Make an index ready to be searched."""
        with self._told(name):
            self._client.load_collection(name, timeout=24 * 3600)

    def rename(self, old: str, new: str) -> None:
        """Give a collection another name; one that bears it is dropped."""
        self._seen.discard(new)
        with self._told(new):
            if new in self.names():
                self._client.drop_collection(new, timeout=SECONDS)
            self._client.rename_collection(old, new, timeout=SECONDS)

    def drop(self, name: str) -> None:
        """Remove a collection, if there is one."""
        self._seen.discard(name)
        with self._told(name):
            if name in self.names():
                self._client.drop_collection(name, timeout=SECONDS)

    def count(self, name: str, where: Mapping[str, Sequence[str]] | None = None) -> int:
        """Return the number of rows that pass the filters, rows put in and not flushed among them."""
        with self._told(name):
            found = self._client.query(
                name,
                filter=expression(where or {}),
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=SECONDS,
            )
        return int(found[0]["count(*)"])

    def count_keys(self, name: str, keys: Sequence[str]) -> int:
        """Return how many of these keys have a row."""
        with self._told(name):
            return len(self._client.get(name, ids=list(keys), output_fields=["key"], timeout=SECONDS)) if keys else 0

    def search(
        self,
        name: str,
        queries: np.ndarray,
        k: int,
        where: Mapping[str, Sequence[str]],
        params: Mapping[str, Any],
        *,
        vectors: bool = False,
    ) -> list[list[Hit]]:
        """Return the nearest rows for each of (n, dim), best first.

        The first search sees all that was put in before it, for which a server takes a fifth of a second; later ones see as
        much, and of what other processes put in since, all that is older than five seconds.
        """
        fields = [*_OUTPUT, "vector"] if vectors else _OUTPUT
        with self._told(name):
            found = self._client.search(
                name,
                data=np.ascontiguousarray(queries, np.float32).tolist(),
                filter=expression(where),
                limit=k,
                output_fields=fields,
                search_params={"params": dict(params)},
                consistency_level="Bounded" if name in self._seen else "Strong",
                timeout=SECONDS,
            )
        self._seen.add(name)
        return [[_hit(row["distance"], row["entity"]) for row in rows] for rows in found]

    def matrix(self, name: str, n: int) -> np.ndarray:
        """Return all n vectors of a small collection, (n, dim) float32 in the order of their keys."""
        self.load(name)
        with self._told(name):
            rows = self._client.query(
                name, filter='key >= ""', output_fields=["key", "vector"], limit=n, timeout=SECONDS
            )
        return np.array([row["vector"] for row in sorted(rows, key=lambda row: row["key"])], np.float32)


def check_name(name: str) -> None:
    """Raise UsageError for a name that Milvus would not take."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", name):
        raise UsageError(f"--collection {name}: use up to 200 letters, digits and _, with no digit first")


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
        with open(lock, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{path} is in use by another process; wait for it, or use a Milvus server") from None


def _sentence(uri: str, name: str, error: Exception) -> str:
    """Return what to tell the user of an error of Milvus."""
    text = " ".join(str(getattr(error, "message", "") or error).split())
    code = getattr(error, "code", None)
    low = text.lower()
    if "no space left" in low or "disk quota" in low or "errno 28" in low:
        restart = ", restart the server" if "://" in uri else ""  # it goes on refusing what a full disk has refused
        return f"{uri}: no space is left on its disk; free some{restart} and run the same command again"
    if any(word in low for word in ("unavailable", "fail connecting", "failed to connect", "deadline", "illegal uri")):
        return f"{uri}: no Milvus server answers there; start it, or check --uri"
    if isinstance(error, TimeoutError) or type(error).__name__ == "FutureTimeoutError":
        return f"{uri}: no Milvus server answers there; start it, or check --uri"
    if "open local milvus failed" in low:
        return f"{uri} cannot be opened as a Milvus Lite database; it is damaged or in use: build it anew"
    if "memory" in low and ("insufficient" in low or "oom" in low or "exceed" in low):
        return f"{uri}: the server has too little memory for {name!r}; build it with --index_type IVF_SQ8 or --pca"
    if code in (100, 4) or "does not exist" in low or "not found" in low:
        return f"{uri} has no collection {name!r}; check --collection, or make it with search.py build"
    return f"{uri}: Milvus refuses {f'this of {name!r}' if name else 'that'}: {text[:200] or type(error).__name__}"
