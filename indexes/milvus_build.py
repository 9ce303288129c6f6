"""Build a Milvus index of embedding sets, whole or not at all; bring it up to date; delete it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from common.blocks import batches
from common.embeddings import EmbeddingSet
from common.messages import UserError
from indexes.description import (
    FORMAT,
    Built,
    IndexDescription,
    entry_of,
    key_of,
    new_description,
    require_same_options,
    summary,
)
from indexes.milvus_store import MilvusCollection, MilvusStore
from retrieval.items import Item, Items
from retrieval.pca import pca_recall, prepared, principal

FLUSH = 100_000  # rows between two points from which a killed build goes on
BUILDING = "__building"  # after the name of an index that is not complete

Advance = Callable[[int], object]


class BuildPlan(NamedTuple):
    """Rows go into the collection `target`: the index itself, or one under construction that takes its name in the end.

    description: what the target has now. directions: the PCA (dim, source_dim), or None. pca_recall: where it was fitted anew.
    """

    name: str
    target: str
    description: IndexDescription
    directions: np.ndarray | None
    pca_recall: float | None


def build(
    store: MilvusStore,
    name: str,
    groups: Sequence[Sequence[EmbeddingSet]],
    *,
    index_type: str = "FLAT",
    index_params: Mapping[str, int] | None = None,
    metric: str = "COSINE",
    pca: int | None = None,
    batch_size: int = 5_000,
    overwrite: bool = False,
    advance: Advance = lambda rows: None,
) -> Built:
    """Bring the index `name` up to date with the sets, each a list of its shards; sets that it has already change nothing.

    A new index grows under another name, <name>__building, and takes its own when it is complete. A killed run goes on from
    the last rows that were on disk. Into an index that is there, rows are put by key; rows of a set that its files no longer have
    are deleted last. Raises UserError when the index was made with another model or other options, unless `overwrite`.
    """
    sets = [shard for group in groups for shard in group]
    plan = _plan(store, name, sets, index_type, index_params or {}, metric, pca, overwrite)
    try:
        rows, skipped = _write(store, plan, groups, batch_size, advance)
    except UserError:
        if plan.target != name:
            with contextlib.suppress(UserError):
                left = store.description(plan.target)
                if left and not left.sets and not left.done:  # nothing in it is worth going on with
                    store.drop(plan.target)
        raise
    _publish(store, plan)
    return Built(rows, skipped, MilvusCollection(store, name).count(), plan.pca_recall)


def _plan(
    store: MilvusStore,
    name: str,
    sets: Sequence[EmbeddingSet],
    index_type: str,
    index_params: Mapping[str, int],
    metric: str,
    pca: int | None,
    overwrite: bool,
) -> BuildPlan:
    """Decide which collection the rows go into, and make it where it is not there yet."""
    old = store.description(name)  # raises for a collection that is not ours, --overwrite or not
    old = None if overwrite else old
    wanted = new_description(sets, old, index_type, index_params, metric, pca)
    if old is not None:
        require_same_options(f"{store.uri}: the index {name!r}", old, wanted)
        return BuildPlan(name, name, old, directions_of(store, old), None)
    directions = None if pca is None else principal(sets, pca)
    recall = None if directions is None else pca_recall(sets, directions)
    target = name + BUILDING
    unfinished = store.description(target)
    if unfinished is not None and unfinished.same_options(wanted):
        return BuildPlan(name, target, unfinished, directions, recall)
    store.drop(target)
    wanted = replace(wanted, axes=_keep_axes(store, name, directions))
    store.create(target, wanted.dim, wanted.to_json())
    return BuildPlan(name, target, wanted, directions, recall)


def _write(
    store: MilvusStore, plan: BuildPlan, groups: Sequence[Sequence[EmbeddingSet]], batch_size: int, advance: Advance
) -> tuple[int, int]:
    """Put the rows of all sets into the plan's collection and index them; returns (rows put in, sets that were in already)."""
    collection, description = MilvusCollection(store, plan.target), plan.description
    rows = skipped = 0
    for shards in groups:
        entry = entry_of(shards)
        if entry in description.sets:
            skipped += 1
            advance(entry.rows)
            continue
        going_on = description.growing == entry.version
        others_left_over = (
            description.growing is not None and not going_on
        )  # rows of files that are no longer the set's
        if not going_on:
            description = replace(description, growing=entry.version, done=0)
            if plan.target == plan.name:
                store.set_description(plan.target, description)
        advance(description.done)
        for put, on_disk in _put_rows(collection, plan, shards, entry.version, description.done, batch_size):
            rows += put
            advance(put)
            if on_disk:
                description = replace(description, done=on_disk)
                store.set_description(plan.target, description)
        others = tuple(other for other in description.sets if other.names != entry.names)
        collection.flush()
        if len(others) < len(description.sets) or others_left_over:
            store.load(plan.target)
            collection.remove_older(*entry.names, entry.version)
            collection.flush()
        description = replace(description, sets=(*others, entry), growing=None, done=0)
        store.set_description(plan.target, description)
    store.finish(plan.target, description.index_type, description.index_params, description.metric)
    return rows, skipped


def _put_rows(
    collection: MilvusCollection,
    plan: BuildPlan,
    shards: Sequence[EmbeddingSet],
    version: str,
    done: int,
    batch_size: int,
) -> Iterator[tuple[int, int]]:
    """Put in the rows of a set from row `done` on; yield (rows put in, rows of the set that are on disk, 0 where unchanged)."""
    start = 0  # of the shard, in the set
    for shard in shards:
        items = Items(shard)
        for batch in batches(len(shard), batch_size):
            first, last = start + batch.start, start + batch.stop
            if last > done:
                rows = [items[row] for row in range(batch.start, batch.stop)]
                vectors = prepared(shard.vectors[batch], plan.description.metric, plan.directions)
                collection.upsert([key_of(item) for item in rows], vectors, rows, version)
                flush = last // FLUSH > first // FLUSH
                if flush:
                    collection.flush()
                yield len(rows), last if flush else 0
        start += len(shard)


def _publish(store: MilvusStore, plan: BuildPlan) -> None:
    """Give a finished index its name, in place of the one that bore it."""
    if plan.target == plan.name:
        return
    old = store.description(plan.name)
    store.rename(plan.target, plan.name)
    if old and old.axes not in (None, plan.description.axes):
        store.drop(str(old.axes))
    store.load(plan.name)


def _keep_axes(store: MilvusStore, name: str, directions: np.ndarray | None) -> str | None:
    """Keep the PCA in a collection named by its content; returns the name."""
    if directions is None:
        return None
    axes = f"{name}__pca_{hashlib.blake2b(directions.tobytes(), digest_size=6).hexdigest()}"
    if axes not in store.names():
        store.create(axes, directions.shape[1], json.dumps({"format": FORMAT, "axes": len(directions)}))
    collection, nothing = MilvusCollection(store, axes), Item("", "", "", "", "", "", "")
    collection.upsert([f"{row:08d}" for row in range(len(directions))], directions, [nothing] * len(directions))
    collection.flush()
    store.finish(axes, "FLAT", {}, "IP")
    return axes


def directions_of(store: MilvusStore, description: IndexDescription) -> np.ndarray | None:
    """Return the PCA of an index, (dim, source_dim) float32, None where it has none."""
    if not description.axes:
        return None
    directions = MilvusCollection(store, description.axes).matrix(description.dim)
    if directions.shape != (description.dim, description.source_dim):
        raise UserError(f"{store.uri}: the PCA of the index is gone; build the index again with --overwrite")
    return directions


def delete(store: MilvusStore, name: str) -> int:
    """Remove an index, what belongs to it and what a killed build left of it; returns its number of rows."""
    descriptions = {bearer: store.description(bearer) for bearer in (name + BUILDING, name)}
    if not any(descriptions.values()):
        raise missing(store, name)
    rows = 0
    if descriptions[name] is not None:
        store.load(name)
        rows = MilvusCollection(store, name).count()
    for bearer, description in descriptions.items():
        store.drop(bearer)
        if description and description.axes:
            store.drop(description.axes)
    return rows


def describe(store: MilvusStore, name: str) -> list[str]:
    """Return lines that say what one collection holds. Raises UserError when there is none of this name."""
    try:
        description = store.description(name)
    except UserError:
        return [f"{name}: not made by search.py"]
    if description is None:
        raise missing(store, name)
    if name.endswith(BUILDING):
        return [f"{name}: not complete, run the same search.py build again"]
    store.load(name)
    return summary(description, name, MilvusCollection(store, name).count())


def index_names(store: MilvusStore) -> list[str]:
    """Return the names of the complete indexes of a store."""
    return [name for name in store.names() if "__" not in name]


def missing(store: MilvusStore, name: str) -> UserError:
    """Return the error for an index that is not there."""
    if name + BUILDING in store.names():
        return UserError(f"{store.uri}: the index {name!r} is not complete; run the same search.py build again")
    return UserError(
        f"{store.uri} has no index {name!r}, only: {', '.join(index_names(store)) or 'none'}; check --collection, "
        "or make it with search.py build"
    )
