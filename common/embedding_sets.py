"""Which files form an embedding set, and which sets are references and which are queries."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common.blocks import Blocks, release
from common.cli import cores
from common.embeddings import SHARD, TEXTS, EmbeddingSet, load
from common.labels import natural, same_split
from common.messages import UserError, note, warn

PIECE = 1 << 16  # rows


SPLIT_OF = {"--train_npz": "--reference_split", "--test_npz": "--query_split", "--val_npz": "--val_split"}


def expand(specs: Iterable[str | Path]) -> list[tuple[str | None, Path]]:
    """Return (ID or None, file) for every `[id=]path`, folder or glob; each file once, in the order given.

    Raises UserError for a path that is not there and for a folder or glob without .npz files.
    """
    found: dict[Path, str | None] = {}
    for spec in map(str, specs):
        name, path = None, spec
        if "=" in spec and not Path(spec).exists():
            name, path = spec.split("=", 1)
        if Path(path).is_dir():
            matches = sorted(
                p for p in Path(path).rglob("*.npz") if not any(part.startswith(".") for part in p.parts[1:])
            )
            if not matches:
                raise UserError(
                    f"{path}: no .npz files in this folder; run extract_embedding.py first, or check the path"
                )
        elif Path(path).exists():
            matches = [Path(path)]
        else:
            matches = sorted(map(Path, glob.glob(path, recursive=True)))
            if not matches:
                raise UserError(f"{path}: no such file; check the path, or run extract_embedding.py first")
        for match in matches:
            found.setdefault(match.resolve(), name) if not name else found.__setitem__(match.resolve(), name)
    return [(name, Path(path)) for path, name in found.items()]


def read_sets(
    specs: Iterable[str | Path],
    *,
    key: str | None = None,
    company_name: str | None = None,
    drop_invalid: bool = False,
) -> list[EmbeddingSet]:
    """Read files, folders and globs and group shards into sets by dataset, ID, split and fingerprint, in the order given.

    Raises UserError for unreadable files, a missing shard, and shards of different dimension.
    """
    found = read_shards(specs, key=key, company_name=company_name, drop_invalid=drop_invalid)
    return [join(group) for group in found]


def read_shards(
    specs: Iterable[str | Path],
    *,
    key: str | None = None,
    company_name: str | None = None,
    drop_invalid: bool = False,
) -> list[list[EmbeddingSet]]:
    """Return the sets of `read_sets` as lists of their shards, for what goes through them one after the other."""
    groups: dict[tuple[str, str, str, str, str], list[tuple[Path, EmbeddingSet]]] = {}
    named = expand(specs)
    read = partial(load, key=key, company_name=company_name, drop_invalid=drop_invalid)
    with ThreadPoolExecutor(cores()) as pool:  # the checksum of every byte is computed without the interpreter's lock
        loaded = list(pool.map(read, [path for _, path in named]))
    for (name, path), one in zip(named, loaded, strict=True):
        one = one.renamed(id=name, named=True) if name else one
        shard = SHARD.search(path.stem)
        unsharded = "" if shard else str(path)
        groups.setdefault((one.dataset, one.id, one.split, one.fingerprint, unsharded), []).append((path, one))
    return [_in_order([path for path, _ in group], [one for _, one in group]) for group in groups.values()]


def _in_order(paths: list[Path], sets: list[EmbeddingSet]) -> list[EmbeddingSet]:
    numbers = [SHARD.search(path.stem) for path in paths]
    if numbers[0]:
        there = {int(number[1]) for number in numbers if number}
        missing = sorted(set(range(int(numbers[0][2]))) - there)
        if missing or len({number[2] for number in numbers if number}) > 1 or len(there) != len(paths):
            stem = SHARD.sub("", paths[0].stem)
            raise UserError(
                f"{paths[0].parent / stem}: shards missing or doubled ({missing or 'doubled'}); extract again"
            )
        sets = [sets[at] for at in np.argsort([int(number[1]) for number in numbers if number])]
    if len({one.dim for one in sets}) > 1:
        raise UserError(f"{paths[0]}: its shards have different dimensions; extract again with --overwrite")
    return sets


def read_sides(
    sides: Sequence[tuple[str, Sequence[str | Path], str]],
    *,
    label_level: int | None = None,
    key: str | None = None,
    company_name: str | None = None,
    drop_invalid: bool = False,
) -> list[list[EmbeddingSet]]:
    """Return the sets of each side, every row of them labelled; the first side are the references, the others queries.

    A side is (option, specs, split), such as ("--train_npz", ["*.npz"], "train"): it keeps the sets of its split and those that
    name none, IDs in their natural order unless `id=path` gives one. Sets left out are named on stderr. The same specs are read
    once. Raises UserError when a side is empty or has one ID twice, and when a set without a split is both reference and query.
    """
    read: dict[tuple[str, ...], list[EmbeddingSet]] = {}
    chosen = []
    for option, specs, split in sides:
        same = tuple(map(str, specs))
        if same not in read:
            read[same] = read_sets(same, key=key, company_name=company_name, drop_invalid=drop_invalid)
        kept = [one for one in read[same] if not one.split or same_split(one.split, split)]
        left = [one for one in read[same] if one not in kept]
        if left:
            names = ", ".join(Path(one.source).name for one in left)
            note(f"{option}: not of split {split!r}, left out: {names}")
        if not kept:
            splits = ", ".join(sorted({one.split for one in left}))
            raise UserError(
                f"{option} has no set of split {split!r}, only {splits}; change {SPLIT_OF[option]}, or add files"
            )
        by_id: dict[str, EmbeddingSet] = {}
        for one in kept:
            if one.id in by_id:
                both = f"{by_id[one.id].source} and {one.source}"
                raise UserError(f"{option} has the ID {one.id!r} twice ({both}); name them: id=path")
            by_id[one.id] = one
        if not any(one.meta.get("named") for one in kept):  # a shell sorts 0 10 20 5
            kept = sorted(kept, key=lambda one: natural(one.id))
        chosen.append([_labelled(one, label_level) for one in kept])
    nameless = [{one.source for one in side if not one.split and not one.meta.get("named")} for side in chosen]
    for queries in nameless[1:]:
        if shared := sorted(nameless[0] & queries):
            raise UserError(
                f"{shared[0]} is both reference and query, and names no split; if that is meant, name it twice: id=path"
            )
    return chosen


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
        both = [
            f"{one.source} ({one.model.get('model', 'unknown model')}, {one.dim} dimensions)" for one in (first, other)
        ]
        raise error(f"{' and '.join(both)} come from different models or preprocessing; {what}")
    return first.model


def _labelled(one: EmbeddingSet, label_level: int | None) -> EmbeddingSet:
    unlabelled = np.concatenate([piece.label(label_level) == "" for piece in pieces(one)])
    if unlabelled.all():
        raise UserError(f"{one.source} has no labels: there is nothing to score; look at it with npz_to_parquet.py")
    if unlabelled.any():
        warn(f"{one.source}: {unlabelled.sum():,} of {len(one):,} rows have no label and are left out")
        return one.take(~unlabelled)
    return one


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
