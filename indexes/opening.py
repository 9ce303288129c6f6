"""What --uri names: an index file of faiss (index.faiss), a Milvus Lite file (index.db) or a Milvus server. Or .npz files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.embedding_sets import read_sets
from common.embeddings import EmbeddingSet
from common.messages import UsageError
from indexes import faiss_build, milvus_build
from indexes.description import Built
from indexes.faiss_index import SUFFIX, FaissIndex
from indexes.index_types import SEARCH_PARAMS, parse_params
from indexes.milvus_index import MilvusIndex
from indexes.milvus_store import MilvusStore, check_name
from retrieval.exact import ExactSearch
from retrieval.items import References


def is_file(uri: str) -> bool:
    """Return whether `uri` is an index file of faiss, which holds one index and needs no --collection."""
    return uri.endswith(SUFFIX) and "://" not in uri


def check_names(uri: str, collection: str | None, *, needed: bool = True) -> None:
    """Raise UsageError where --uri and --collection do not fit together."""
    if is_file(uri):
        if collection:
            raise UsageError(f"{uri} holds one index; leave --collection away")
    elif collection:
        check_name(collection)
    elif needed:
        raise UsageError("--uri needs --collection; search.py info --uri lists them")


@contextlib.contextmanager
def open_index(uri: str, name: str | None = None, *, params: Mapping[str, int] | None = None) -> Iterator[References]:
    """Yield an index; without a name the only one that is there. Raises UserError where there is none of this name."""
    check_names(uri, name, needed=False)
    if is_file(uri):
        yield FaissIndex(uri, params=params)
        return
    with MilvusStore(uri) as store:
        names = [name] if name else milvus_build.index_names(store)
        if len(names) != 1:
            raise UsageError(f"{uri} has the collections {', '.join(names) or 'none'}; name one with --collection")
        yield MilvusIndex(store, names[0], params=params)


@contextlib.contextmanager
def open_references(
    *,
    uri: str | None,
    collection: str | None,
    search_params: Sequence[str],
    npz: Sequence[str] | None,
    data_root: str | None,
    **reading: Any,
) -> Iterator[References]:
    """Yield the index where `uri` is given, else the files of `npz`; `reading` are options of embedding_sets.read_sets."""
    if uri:
        check_names(uri, collection)
        with open_index(uri, collection, params=parse_params("--search_params", search_params, SEARCH_PARAMS)) as index:
            yield index
    elif npz:
        yield ExactSearch(read_sets(npz, **reading), data_root=data_root)
    else:
        raise UsageError("give --npz FILES to search exactly, or --uri and --collection of an index")


def build(
    uri: str, collection: str | None, groups: Sequence[Sequence[EmbeddingSet]], *, batch_size: int, **options: Any
) -> Built:
    """Build an index, or bring it up to date; `options` are those of milvus_build.build and faiss_build.build."""
    check_names(uri, collection)
    if is_file(uri):
        return faiss_build.build(Path(uri), groups, **options)
    with MilvusStore(uri, create=True) as store:
        return milvus_build.build(store, str(collection), groups, batch_size=batch_size, **options)


def describe(uri: str, collection: str | None) -> list[str]:
    """Return lines that say what one index holds, or all of them."""
    check_names(uri, collection, needed=False)
    if is_file(uri):
        return faiss_build.describe(Path(uri))
    with MilvusStore(uri) as store:
        names = [collection] if collection else [name for name in store.names() if "__pca_" not in name]
        lines = [line for name in names for line in milvus_build.describe(store, name)]
    return lines or [f"{uri}: no collections"]


def delete(uri: str, collection: str | None) -> int:
    """Remove an index; returns its number of rows."""
    check_names(uri, collection)
    if is_file(uri):
        return faiss_build.delete(Path(uri))
    with MilvusStore(uri) as store:
        return milvus_build.delete(store, str(collection))
