"""Build an index of embedding sets in a vector store, whole or not at all; bring it up to date, describe it, delete it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common import knn
from common.blocks import Blocks
from common.embeddings import EmbeddingSet
from common.messages import UserError
from indexes.milvus_store import INDEX_PARAMS, Store
from retrieval.items import Item, Items, one_model

FORMAT = 1
FLUSH = 100_000  # rows between two points at which a killed build goes on
_FIXED = ("format", "dim", "metric", "index_type", "index_params", "pca", "source_dim", "fingerprint")


def key_of(item: Item) -> str:
    """Return the primary key: 128 bits of dataset, split, crop and ID, so that two of 10^12 rows share one with p < 10^-14."""
    name = json.dumps([item.dataset, item.split, item.crop_id, item.id], ensure_ascii=False)
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def default_params(index_type: str, n: int) -> dict[str, int]:
    """Return index parameters for n rows: 4 sqrt(n) lists (faiss's guideline), or a graph of 32 links a row."""
    nlist = int(min(65_536, max(1, 4 * math.sqrt(n), min(n, 8))))
    return {"nlist": {"nlist": nlist}, "M": {"M": 16, "efConstruction": 200}}.get(
        (*INDEX_PARAMS[index_type], "")[0], {}
    )


def search_params(index_type: str, index_params: Mapping[str, int], k: int) -> dict[str, int]:
    """Return search parameters for k neighbours: a sixteenth of the lists, or as many graph nodes as find most of them."""
    if index_type == "HNSW":
        return {"ef": max(128, 2 * k)}
    if index_type.startswith("IVF"):
        return {"nprobe": max(min(16, index_params["nlist"]), index_params["nlist"] // 16)}
    return {}


def prepared(vectors: np.ndarray, about: Mapping[str, Any], directions: np.ndarray | None) -> np.ndarray:
    """Return the vectors as the index holds them: unit length for COSINE and where a PCA was fitted, then projected."""
    if about["metric"] == "COSINE" or directions is not None:
        vectors = unit(np.asarray(vectors))
    if directions is None:
        return np.asarray(vectors, np.float32)
    vectors = vectors @ directions.T
    return unit(vectors) if about["metric"] == "COSINE" else vectors


def version_of(shards: Sequence[EmbeddingSet]) -> str:
    """Return what changes when a set's files do: a digest of how it is read and of the checksums that the .npz files hold."""
    first = shards[0]
    digest = hashlib.blake2b(json.dumps([first.dataset, first.split, first.id, first.meta.get("data_root")]).encode())
    for one in shards:
        with zipfile.ZipFile(one.source) as archive:
            digest.update(json.dumps([[i.filename, i.CRC, i.file_size] for i in archive.infolist()]).encode())
        digest.update(f"{len(one)}".encode())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Built:
    """What a build did: rows put in by this run, sets that were in already, rows now in the index, PCA's recall if fitted."""

    rows: int
    skipped: int
    total: int
    pca_recall: float | None


def build(
    store: Store,
    name: str,
    groups: Sequence[Sequence[EmbeddingSet]],
    *,
    index_type: str = "FLAT",
    index_params: Mapping[str, int] | None = None,
    metric: str = "COSINE",
    pca: int | None = None,
    batch_size: int = 5_000,
    overwrite: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> Built:
    """Bring the index `name` up to date with the sets, each a list of its shards; sets that it has already change nothing.

    A new index grows under another name, <name>__building, and takes its own when it is complete. A run that was killed is taken
    up where it was last on disk. Into an index that is there, rows are put by key; rows of a set that its files no longer have
    go last. Raises UserError when the index was made with another model or other options, unless `overwrite`.
    """
    sets = [one for group in groups for one in group]
    model, n = one_model(sets), sum(map(len, sets))
    known = None if overwrite else store.about(name)
    directions = None
    recall = None
    if known is None and pca is not None:
        directions = principal(sets, pca)
        recall = pca_recall(sets, directions)
    params = {**(known["index_params"] if known else default_params(index_type, n)), **(index_params or {})}
    wanted = {
        "format": FORMAT,
        "source_dim": sets[0].dim,
        "dim": pca or sets[0].dim,
        "metric": metric,
        "index_type": index_type,
        "index_params": params,
        "pca": pca,
        "fingerprint": model.get("fingerprint", ""),
    }
    target = name
    if known is not None:
        _same(store, name, known, wanted)
        about = known
        directions = directions_of(store, about)
    else:
        target = f"{name}__building"
        half = store.about(target)
        if half is not None and all(half.get(key) == value for key, value in wanted.items()):
            about = half
        else:
            store.drop(target)
            about = {**wanted, "model": model, "sets": [], "axes": _keep_axes(store, name, directions)}
            store.create(target, about["dim"], about)
    rows, skipped = 0, 0
    try:
        for group in groups:
            version, first = version_of(group), Items(group[0])[0]
            size = sum(map(len, group))
            entry = [first.dataset, first.split, first.id, size, version]
            if entry in about["sets"]:
                skipped += 1
                advance(size)
                continue
            going_on = about.get("growing") == version
            unfinished = about.get("growing") is not None and not going_on  # it may have left rows of other files
            done = about["done"] if going_on else 0
            advance(done)
            if target == name and not going_on:
                about = {**about, "growing": version, "done": 0}
                store.describe(target, about)
            seen = 0
            for one in group:
                items = Items(one)
                for at in range(0, len(one), batch_size):
                    stop = min(at + batch_size, len(one))
                    if seen + stop > done:
                        mine = [items[row] for row in range(at, stop)]
                        vectors = prepared(one.vectors[at:stop], about, directions)
                        store.upsert(target, [key_of(item) for item in mine], vectors, mine, version)
                        rows += stop - at
                        advance(stop - at)
                    if (seen + stop) // FLUSH > (seen + at) // FLUSH and seen + stop > done:
                        store.flush(target)
                        about = {**about, "growing": version, "done": seen + stop}
                        store.describe(target, about)
                seen += len(one)
            others = [old for old in about["sets"] if old[:3] != entry[:3]]
            if len(others) < len(about["sets"]) or unfinished:
                store.flush(target)
                store.load(target)
                store.remove_older(target, first, version)
            store.flush(target)
            about = {**about, "sets": [*others, entry], "growing": None, "done": 0}
            store.describe(target, about)
        store.finish(target, index_type, about["index_params"], metric)
    except UserError:
        if target != name and not about["sets"] and not about.get("done"):
            with contextlib.suppress(UserError):  # nothing in it is worth going on with
                store.drop(target)
        raise
    if target != name:
        old = store.about(name)
        store.rename(target, name)
        if old and old.get("axes") not in (None, about["axes"]):
            store.drop(old["axes"])
        store.load(name)
    return Built(rows, skipped, store.count(name), recall)


def _same(store: Store, name: str, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key, value in wanted.items():
        if known.get(key) != value:
            what = "another model" if key in ("fingerprint", "source_dim", "dim") else f"{key} {known.get(key)}"
            raise UserError(
                f"{store.uri}: the index {name!r} was made with {what}; add --overwrite, or name another --collection"
            )


def _keep_axes(store: Store, name: str, directions: np.ndarray | None) -> str | None:
    """Keep the PCA in a collection named by its content; returns the name."""
    if directions is None:
        return None
    axes = f"{name}__pca_{hashlib.blake2b(directions.tobytes(), digest_size=6).hexdigest()}"
    if store.about(axes) is None:
        store.create(axes, directions.shape[1], {"format": FORMAT, "axes": len(directions)})
    empty = Item("", "", "", "", "", "", "")
    store.upsert(axes, [f"{at:08d}" for at in range(len(directions))], directions, [empty] * len(directions))
    store.flush(axes)
    store.finish(axes, "FLAT", {}, "IP")
    return axes


def directions_of(store: Store, about: Mapping[str, Any]) -> np.ndarray | None:
    """Return the PCA of an index, (dim, source_dim) float32, None where it has none."""
    if not about.get("axes"):
        return None
    directions = store.matrix(about["axes"], about["dim"])
    if directions.shape != (about["dim"], about["source_dim"]):
        raise UserError(f"{store.uri}: the PCA of the index is gone; build the index again with --overwrite")
    return directions


def delete(store: Store, name: str) -> int:
    """Remove an index, what belongs to it and what a killed build left of it; returns its number of rows."""
    about = store.about(name)
    half = store.about(f"{name}__building")
    if about is None and half is None:
        raise missing(store, name)
    rows = 0
    if about is not None:
        store.load(name)
        rows = store.count(name)
    for one, its in ((f"{name}__building", half), (name, about)):
        store.drop(one)
        if its and its.get("axes"):
            store.drop(its["axes"])
    return rows


def describe(store: Store, name: str) -> list[str]:
    """Return lines that say what one collection holds. Raises UserError when there is none of this name."""
    try:
        about = store.about(name)
    except UserError:
        return [f"{name}: not made by search.py"]
    if about is None:
        raise missing(store, name)
    if name.endswith("__building"):
        return [f"{name}: not complete, run the same search.py build again"]
    store.load(name)
    kind = " ".join([about["index_type"], *(f"{key}={value}" for key, value in about["index_params"].items())])
    model = about["model"]
    lines = [
        f"{name}: {store.count(name):,} rows of {about['dim']} numbers, {kind} {about['metric']}",
        f"  model {model.get('model', 'unknown')}, fingerprint {model.get('fingerprint', 'unknown')[:12]}",
    ]
    if about["pca"]:
        lines.append(f"  PCA from {about['source_dim']} dimensions")
    for dataset, split, variant, rows, _ in about["sets"]:
        lines.append(f"  {dataset or '-'}, split {split or '-'}, ID {variant}: {rows:,} rows")
    if about.get("growing"):
        lines.append("  an update was interrupted; run the same search.py build again")
    return lines


def missing(store: Store, name: str) -> UserError:
    """Return the error for an index that is not there."""
    names = store.names()
    if f"{name}__building" in names:
        return UserError(f"{store.uri}: the index {name!r} is not complete; run the same search.py build again")
    there = ", ".join(one for one in names if "__" not in one) or "none"
    return UserError(
        f"{store.uri} has no index {name!r}, only: {there}; check --collection, or make it with search.py build"
    )


def principal(sets: Sequence[EmbeddingSet], n: int, *, seed: int = 0, rows: int = 50_000) -> np.ndarray:
    """Return (n, dim) float32 orthonormal directions that keep most of the unit vectors' length, from a sample of `rows`.

    Not centred: the product of two projections is then as near to the cosine as n numbers can bring it (Eckart & Young 1936).
    """
    total, dim = sum(map(len, sets)), sets[0].dim
    if not 1 <= n <= min(dim, total):
        raise UserError(f"--pca {n} is not from 1 to {min(dim, total)}, the number of dimensions and of rows")
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(rows, total), replace=False))
    moments = np.zeros((dim, dim))
    start = 0
    for one in sets:
        mine = chosen[(chosen >= start) & (chosen < start + len(one))] - start
        for at in range(0, len(mine), 8192):
            part = unit(one.vectors[mine[at : at + 8192]]).astype(np.float64)
            moments += part.T @ part
        start += len(one)
    directions = np.linalg.eigh(moments)[1][:, ::-1][:, :n].T
    signs = np.sign(directions[np.arange(n), np.abs(directions).argmax(1)])  # or equal data might give mirrored axes
    return np.ascontiguousarray(directions * signs[:, None], np.float32)


def pca_recall(sets: Sequence[EmbeddingSet], directions: np.ndarray, *, k: int = 10, rows: int = 100_000) -> float:
    """Return which share of the true k nearest rows of 200 the projection still finds, in 0..1, among a sample of `rows`."""
    matrix = Blocks([block for one in sets for block in one.blocks])
    reference = matrix[np.sort(np.random.default_rng(0).choice(len(matrix), min(rows, len(matrix)), replace=False))]
    k = min(k, len(reference) - 1)
    if k < 1:
        return 1.0
    own = np.arange(len(reference))
    some = own[:: max(1, len(own) // 200)][:200]
    short = unit(reference) @ directions.T
    both = [knn.search_excluding(of[some], of, k, some, own)[1] for of in (reference, short)]
    return float(np.mean([len(np.intersect1d(true, found)) / k for true, found in zip(*both, strict=True)]))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return (n, dim) float32 rows of length 1."""
    return (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)
