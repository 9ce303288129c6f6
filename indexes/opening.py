"""Open what is searched: an index that search.py has built, or .npz files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.embedding_sets import read_sets
from common.messages import UsageError
from indexes.index_types import SEARCH_PARAMS, parse_params
from indexes.milvus_build import index_names
from indexes.milvus_index import MilvusIndex
from indexes.milvus_store import MilvusStore
from retrieval.exact import ExactSearch
from retrieval.items import References


@contextlib.contextmanager
def open_index(uri: str, name: str | None = None, *, params: Mapping[str, int] | None = None) -> Iterator[References]:
    """Yield an index; without a name the only one that is there. Raises UserError where there is none of this name."""
    with MilvusStore(uri) as store:
        names = [name] if name else index_names(store)
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
        if not collection:
            raise UsageError("--uri needs --collection; search.py info --uri lists them")
        with open_index(uri, collection, params=parse_params("--search_params", search_params, SEARCH_PARAMS)) as index:
            yield index
    elif npz:
        yield ExactSearch(read_sets(npz, **reading), data_root=data_root)
    else:
        raise UsageError("give --npz FILES to search exactly, or --uri and --collection of an index")
