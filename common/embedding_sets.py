"""Which files form an embedding set, and which sets are references and which are queries."""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common import files
from common.array_choice import SHARD
from common.blocks import Blocks, batches, release
from common.cli import cores
from common.embeddings import TEXTS, EmbeddingSet, load
from common.labels import natural, same_split, warn_alike, warn_strangers
from common.messages import UserError, count, detail, note, warn

PIECE = 1 << 16  # rows
# The option that says which split a side takes.
SPLIT_OF = {"--train_npz": "--reference_split", "--test_npz": "--query_split", "--val_npz": "--val_split"}


def expand(specs: Iterable[str | Path]) -> list[tuple[str | None, Path]]:
    """Return (ID or None, file) for every `[id=]path`, folder or glob; each file once, in the order given.

    Raises UserError for a path that is not there and for a folder or glob without .npz files.
    """
    ids: dict[Path, str | None] = {}
    for spec in map(str, specs):
        name, path = None, spec
        if "=" in spec and not Path(spec).exists():
            name, path = spec.split("=", 1)
        for found in _files(path):
            file = Path(os.path.realpath(found))
            if not file.is_file():  # a pipe would be waited for, for ever
                raise UserError(f"{file} is no regular file, which an .npz has to be; remove it, or name the others")
            ids[file] = name or ids.get(file)
    return [(name, file) for file, name in ids.items()]


def _files(path: str) -> list[Path]:
    """Return the .npz files that a path, a folder or a glob names, sorted."""
    if Path(path).is_dir():
        inside = Path(path).rglob("*.npz")
        files = sorted(file for file in inside if not any(part.startswith(".") for part in file.parts[1:]))
        if not files:
            raise UserError(f"{path}: no .npz files in this folder; run extract_embedding.py first, or check the path")
        return files
    if Path(path).exists():
        return [Path(path)]
    files = sorted(map(Path, glob.glob(path, recursive=True)))
    if not files:
        raise UserError(f"{path}: no such file; check the path, or run extract_embedding.py first")
    return files


def read_sets(specs: Iterable[str | Path], **reading: Any) -> list[EmbeddingSet]:
    """Read files, folders and globs and group shards into sets by dataset, ID, split and fingerprint, in the order given.

    `reading`: keyword arguments of `embeddings.load`. Raises UserError for unreadable files, a missing shard, and shards of
    different dimension.
    """
    groups = read_shards(specs, **reading)
    return [join(shards) for shards in groups]


def read_shards(specs: Iterable[str | Path], **reading: Any) -> list[list[EmbeddingSet]]:
    """Return the sets of `read_sets` as lists of their shards, for what goes through them one after the other."""
    named = expand(specs)
    read = partial(load, **reading)
    with ThreadPoolExecutor(cores()) as pool:  # the checksum of every byte is computed without the interpreter's lock
        loaded = list(pool.map(read, [path for _, path in named]))
    groups: dict[tuple[str, str, str, str, str], list[tuple[Path, EmbeddingSet]]] = {}
    for (name, path), embedding_set in zip(named, loaded, strict=True):
        if name:
            embedding_set = embedding_set.renamed(id=files.without_bytes(name), named=True)
        unsharded = "" if SHARD.search(path.stem) else str(path)
        same = (embedding_set.dataset, embedding_set.id, embedding_set.split, embedding_set.fingerprint, unsharded)
        groups.setdefault(same, []).append((path, embedding_set))
    return [_in_order([path for path, _ in group], [shard for _, shard in group]) for group in groups.values()]


def _in_order(paths: list[Path], shards: list[EmbeddingSet]) -> list[EmbeddingSet]:
    """Return the shards of one set by their numbers; raises UserError where one is missing or of another dimension."""
    matches = [match for path in paths if (match := SHARD.search(path.stem))]
    if matches:
        numbers = [int(match[1]) for match in matches]
        missing = sorted(set(range(int(matches[0][2]))) - set(numbers))
        if missing or len({match[2] for match in matches}) > 1 or len(set(numbers)) != len(paths):
            stem = paths[0].parent / SHARD.sub("", paths[0].stem)
            raise UserError(f"{stem}: shards missing or doubled ({missing or 'doubled'}); extract again")
        shards = [shards[place] for place in np.argsort(numbers)]
    if len({shard.dim for shard in shards}) > 1:
        raise UserError(f"{paths[0]}: its shards have different dimensions; extract again with --overwrite")
    return shards


def read_sides(
    sides: Sequence[tuple[str, Sequence[str | Path], str]],
    *,
    label_level: int | None = None,
    **reading: Any,
) -> list[list[EmbeddingSet]]:
    """Return the sets of each side, every row of them labelled; the first side are the references, the others queries.

    A side is (option, specs, split), such as ("--train_npz", ["*.npz"], "train"): it keeps the sets of its split and those that
    name none, IDs in their natural order unless `id=path` gives one. Sets left out are counted on stderr. The same specs are read
    once. Raises UserError when a side is empty or has one ID twice, and when a set without a split is both reference and query.
    """
    read: dict[tuple[str, ...], list[EmbeddingSet]] = {}
    for _, specs, _ in sides:
        same = tuple(map(str, specs))
        if same not in read:
            read[same] = read_sets(same, **reading)
    read = {same: _named_by_model(sets, _several_models(read.values())) for same, sets in read.items()}
    unused = {embedding_set.source: embedding_set.split for sets in read.values() for embedding_set in sets}
    chosen = []
    for option, specs, split in sides:
        same = tuple(map(str, specs))
        kept = _of_side(option, read[same], split, {wanted: other for other, _, wanted in sides})
        for embedding_set in kept:
            unused.pop(embedding_set.source, None)
        chosen.append([_labelled(embedding_set, label_level) for embedding_set in kept])
    if unused:
        splits = ", ".join(sorted(set(unused.values())))
        note(
            f"not used, as no option takes their split: {count(len(unused), 'set')} of {splits} (--verbose names the files)"
        )
    _tell_labels(chosen, label_level)
    nameless = [{kept.source for kept in side if not kept.split and not kept.meta.get("named")} for side in chosen]
    for queries in nameless[1:]:
        if shared := sorted(nameless[0] & queries):
            raise UserError(
                f"{shared[0]} is both reference and query, and names no split; if that is meant, name it twice: id=path"
            )
    return chosen


def _tell_labels(sides: Sequence[Sequence[EmbeddingSet]], level: int | None) -> None:
    """Warn of labels that the references lack, and of labels that differ only in how they are written."""
    labels: list[set[str]] = []
    for side in sides:
        labels.append(set())
        for embedding_set in side:
            for piece in pieces(embedding_set):
                labels[-1].update(piece.label(level).tolist())
    for queries in labels[1:]:
        warn_strangers(labels[0], queries)
    warn_alike(set().union(*labels))


def _several_models(sides: Iterable[Sequence[EmbeddingSet]]) -> dict[str, str]:
    """Return the short name of each model by its fingerprint, where some ID of one split is that of two models; else {}."""
    models: dict[str, str] = {}
    ids: dict[tuple[str, str], set[str]] = {}
    for embedding_set in itertools.chain(*sides):
        if embedding_set.fingerprint and not embedding_set.meta.get("named"):
            name = re.sub(r"[+/]", "_", Path(str(embedding_set.meta.get("model") or "model")).name)
            size, pooling = (embedding_set.meta.get(field) for field in ("image_size", "pooling"))
            name += (f"@{size}" if size else "") + (f"-{pooling}".replace("+", "-") if pooling else "")
            models[embedding_set.fingerprint] = name
            ids.setdefault((embedding_set.id, embedding_set.split), set()).add(embedding_set.fingerprint)
    if all(len(of_id) == 1 for of_id in ids.values()):
        return {}
    names = list(models.values())
    return {
        fingerprint: name if names.count(name) == 1 else f"{name}#{fingerprint[:4]}"
        for fingerprint, name in models.items()
    }


def _named_by_model(sets: Sequence[EmbeddingSet], models: dict[str, str]) -> list[EmbeddingSet]:
    """Return the sets; those of the named models have them in their IDs: `10@resnet18`."""
    return [
        embedding_set.renamed(id=f"{embedding_set.id}@{models[embedding_set.fingerprint]}", own_id=embedding_set.id)
        if embedding_set.fingerprint in models and not embedding_set.meta.get("named")
        else embedding_set
        for embedding_set in sets
    ]


def _of_side(option: str, sets: Sequence[EmbeddingSet], split: str, takers: dict[str, str]) -> list[EmbeddingSet]:
    """Return the sets of one side: those of its split and those that name none, each of another ID; see `read_sides`.

    takers: the option that keeps each split.
    """
    kept = [
        embedding_set for embedding_set in sets if not embedding_set.split or same_split(embedding_set.split, split)
    ]
    others = [embedding_set for embedding_set in sets if embedding_set not in kept]
    if others:
        names = ", ".join(Path(other.source).name for other in others)
        detail(f"{option}: not of split {split!r}, left out: {names}")
    if not kept:
        splits = ", ".join(sorted({other.split for other in others}))
        swap = f"give {splits} to {takers[splits]}, " if splits in takers else ""
        raise UserError(
            f"{option} has no set of split {split!r}, only {splits}; {swap}change {SPLIT_OF[option]}, or add files"
            + (", or make splits with --split_by_photo 70/15/15 of crop.py" if splits == "all" else "")
        )
    by_id: dict[str, EmbeddingSet] = {}
    for embedding_set in kept:
        first = by_id.setdefault(embedding_set.id, embedding_set)
        if first is not embedding_set:
            both = f"{first.source} and {embedding_set.source}"
            apart = first.dataset and embedding_set.dataset and first.dataset != embedding_set.dataset
            more = ", or score data sets together with greedy_combo_eval.py --across_datasets" if apart else ""
            raise UserError(f"{option} has the ID {embedding_set.id!r} twice ({both}); name them: id=path{more}")
    if any(embedding_set.meta.get("named") for embedding_set in kept):
        return kept
    return sorted(kept, key=lambda embedding_set: natural(embedding_set.id))  # a shell sorts 0 10 20 5


class Vectors(Protocol):
    """What `require_one_model` compares: an embedding set, or an index of vectors. `model` is as in `EmbeddingSet`."""

    @property
    def source(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def model(self) -> dict[str, Any]: ...


def require_one_model(sets: Sequence[Vectors], *, what: str, error: type[UserError] = UserError) -> dict[str, Any]:
    """Return MODEL_FIELDS of the model that made all these vectors, {} where no set tells it.

    Raises `error` when two sets differ in dimension, or in fingerprint where both have one; `what`, the remedy, ends its sentence.
    """
    first = next((vectors for vectors in sets if vectors.model.get("fingerprint")), sets[0])
    for other in sets:
        fingerprint = other.model.get("fingerprint")
        if other.dim == first.dim and (not fingerprint or fingerprint == first.model["fingerprint"]):
            continue
        both = [f"{vectors.source} ({_model_text(vectors)})" for vectors in (first, other)]
        raise error(f"{' and '.join(both)} come from different models or preprocessing; {what}")
    versions = {int(one.model.get("preprocessing_version") or 1): one.source for one in sets}
    if len(versions) > 1:
        told = ", ".join(f"{version} as {source}" for version, source in sorted(versions.items()))
        note(f"the vectors were made by different versions of the preprocessing ({told}); extract again for equal ones")
    return first.model


def _model_text(vectors: Vectors) -> str:
    return f"{vectors.model.get('model', 'unknown model')}, {vectors.dim} dimensions"


def _labelled(embedding_set: EmbeddingSet, label_level: int | None) -> EmbeddingSet:
    """Return the rows that have a label at this level; raises UserError where none has."""
    unlabelled = np.concatenate([piece.label(label_level) == "" for piece in pieces(embedding_set)])
    source = embedding_set.source
    if unlabelled.all():
        others = embedding_set.meta.get("unread")
        remedy = (
            f"name them with --labels_key ({others}), or give them with --labels FILE"
            if others not in (None, "nothing")
            else "give them with --labels FILE"
        )
        raise UserError(f"{source} has no labels: there is nothing to score; {remedy}")
    if not unlabelled.any():
        return embedding_set
    warn(f"{source}: {unlabelled.sum():,} of {len(embedding_set):,} rows have no label and are left out")
    return embedding_set.take(~unlabelled)


class Joined(EmbeddingSet):
    """The rows of several shards one after the other: their vectors as `Blocks`, a column of texts joined when it is asked for.

    Most work asks for few of them, and at a million rows each column is 100 MB of text.
    """

    def __init__(self, shards: Sequence[EmbeddingSet]) -> None:
        """Take shards of one dimension; where some have fewer label levels, the deeper ones are '' there."""
        levels = max(shard.labels.shape[1] for shard in shards)
        object.__setattr__(self, "_shards", tuple(_with_levels(shard, levels) for shard in shards))

    @property
    def shards(self) -> tuple[EmbeddingSet, ...]:
        return self.__dict__["_shards"]

    @cached_property
    def vectors(self) -> Any:
        return Blocks([shard.vectors for shard in self.shards])

    @cached_property
    def meta(self) -> dict[str, Any]:
        return self.shards[0].meta

    @cached_property
    def labels(self) -> np.ndarray:
        return np.concatenate([shard.labels for shard in self.shards])

    @cached_property
    def crop_ids(self) -> np.ndarray:
        return np.concatenate([shard.crop_ids for shard in self.shards])

    @cached_property
    def sample_ids(self) -> np.ndarray:
        return np.concatenate([shard.sample_ids for shard in self.shards])

    @cached_property
    def paths(self) -> np.ndarray:
        return np.concatenate([shard.paths for shard in self.shards])

    def renamed(self, **meta: object) -> EmbeddingSet:
        return Joined([shard.renamed(**meta) for shard in self.shards])


def _with_levels(embedding_set: EmbeddingSet, levels: int) -> EmbeddingSet:
    """Return the set with this many label levels; those it lacks are ''."""
    labels = embedding_set.labels
    if labels.shape[1] == levels:
        return embedding_set
    missing = np.full((len(labels), levels - labels.shape[1]), "", labels.dtype)
    return dataclasses.replace(embedding_set, labels=np.concatenate([labels, missing], axis=1))


def join(shards: Sequence[EmbeddingSet]) -> EmbeddingSet:
    """Return the shards, in their order, as one set."""
    return shards[0] if len(shards) == 1 else Joined(shards)


def pieces(embedding_set: EmbeddingSet) -> Iterator[EmbeddingSet]:
    """Yield the set's rows as sets of up to PIECE rows that copy nothing; what was read from a file is given back after each."""
    for shard in embedding_set.shards:
        columns = {name: getattr(shard, name) for name in ("vectors", *TEXTS)}
        for part in batches(len(shard), PIECE):
            yield EmbeddingSet(**{name: column[part] for name, column in columns.items()}, meta=embedding_set.meta)
            for column in columns.values():
                release(column)
