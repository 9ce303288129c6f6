"""What an index remembers of itself: its options, its model, the sets it holds, and how far an unfinished build came."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from common.embedding_sets import require_one_model
from common.embeddings import EmbeddingSet
from common.messages import UserError
from common.run_record import checksum
from indexes.index_types import INDEX_TYPES, METRICS
from retrieval.items import Item, Items

FORMAT = 1


class SetEntry(NamedTuple):
    """One embedding set of an index: its names, its number of rows, and the version of its files (see version_of)."""

    dataset: str
    split: str
    id: str
    rows: int
    version: str

    @property
    def names(self) -> tuple[str, str, str]:
        return self.dataset, self.split, self.id


@dataclass(frozen=True)
class IndexDescription:
    """dim, source_dim: of the vectors in the index, and of those that come in (they differ by a PCA to `pca` dimensions).

    model: MODEL_FIELDS of the model. axes: the collection that holds the PCA. growing: the version of the set that an unfinished
    build was putting in, of which `done` rows are on disk.
    """

    dim: int
    source_dim: int
    metric: str
    index_type: str
    index_params: dict[str, int]
    pca: int | None
    fingerprint: str
    model: dict[str, Any] = field(default_factory=dict)
    sets: tuple[SetEntry, ...] = ()
    axes: str | None = None
    growing: str | None = None
    done: int = 0

    def same_options(self, other: IndexDescription) -> bool:
        return not any(getattr(self, name) != getattr(other, name) for name in OPTIONS)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def from_fields(cls, fields: Any, uri: str, what: str) -> IndexDescription:
        """Return the description that `what` at `uri` keeps as parsed JSON; raises UserError for anything else."""
        if not isinstance(fields, dict):
            raise UserError(f"{uri}: search.py has not made {what}; choose another name")
        if fields.get("format") != FORMAT:
            raise UserError(f"{uri}: another version of search.py has made {what}; choose another name")
        known = {f.name: fields[f.name] for f in dataclasses.fields(cls) if f.name in fields}
        try:
            description = cls(**{**known, "sets": tuple(SetEntry(*entry) for entry in known.get("sets") or ())})
            description.check()
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{uri}: the description of {what} is damaged ({error}); choose another name") from None
        return description

    def check(self) -> None:
        """Raise ValueError for a field of a wrong type."""
        whole_numbers = (self.dim, self.source_dim, self.done, *self.index_params.values())
        texts = (self.metric, self.index_type, self.fingerprint, *(name for entry in self.sets for name in entry.names))
        if not all(type(value) is int and value >= 0 for value in whole_numbers) or self.dim < 1:
            raise ValueError("a number is none")
        if self.index_type not in INDEX_TYPES or self.metric not in METRICS:
            raise ValueError(f"index type {self.index_type} or metric {self.metric} is unknown")
        if not all(isinstance(value, str) for value in texts) or not isinstance(self.model, dict):
            raise ValueError("a text is none")


OPTIONS = ("fingerprint", "source_dim", "dim", "metric", "index_type", "index_params", "pca")


@dataclass(frozen=True)
class Built:
    """What a build did: rows put in by this run, sets that were in already, rows now in the index, PCA's recall if fitted."""

    rows: int
    skipped: int
    total: int
    pca_recall: float | None


def new_description(
    sets: Sequence[EmbeddingSet],
    old: IndexDescription | None,
    index_type: str,
    index_params: Mapping[str, int],
    metric: str,
    pca: int | None,
) -> IndexDescription:
    """Return the description of an index that is wanted now; parameters that are not given are those of the old one, if any.

    Raises UserError when the sets are not of one model.
    """
    model = require_one_model(sets, what="search sets of one model")
    params = old.index_params if old else INDEX_TYPES[index_type].defaults(sum(map(len, sets)))
    return IndexDescription(
        dim=pca or sets[0].dim,
        source_dim=sets[0].dim,
        metric=metric,
        index_type=index_type,
        index_params={**params, **index_params},
        pca=pca,
        fingerprint=model.get("fingerprint", ""),
        model=model,
    )


def entry_of(shards: Sequence[EmbeddingSet]) -> SetEntry:
    """Return the entry of a set, given as its shards."""
    first: Item = Items(shards[0])[0]
    return SetEntry(first.dataset, first.split, first.id, sum(map(len, shards)), version_of(shards))


def version_of(shards: Sequence[EmbeddingSet]) -> str:
    """Return a text that changes when a set's files do: a digest of how it is read and of the checksums in the .npz files."""
    first = shards[0]
    digest = hashlib.blake2b(json.dumps([first.dataset, first.split, first.id, first.meta.get("data_root")]).encode())
    for shard in shards:
        if zipfile.is_zipfile(shard.source):
            with zipfile.ZipFile(shard.source) as archive:
                digest.update(json.dumps([[i.filename, i.CRC, i.file_size] for i in archive.infolist()]).encode())
        else:  # a table or .npy of another tool
            digest.update(checksum(Path(shard.source)).encode())
        digest.update(f"{len(shard)}".encode())
    return digest.hexdigest()[:32]


def key_of(item: Item) -> str:
    """Return the primary key: 128 bits of dataset, split, crop and ID, so that two of 10^12 rows share one with p < 10^-14."""
    name = json.dumps([item.dataset, item.split, item.crop_id, item.id], ensure_ascii=False)
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def summary(description: IndexDescription, name: str, rows: int) -> list[str]:
    """Return lines that say what an index of this name holds."""
    params = (f"{key}={value}" for key, value in description.index_params.items())
    kind, model = " ".join([description.index_type, *params]), description.model
    lines = [
        f"{name}: {rows:,} rows of {description.dim} numbers, {kind} {description.metric}",
        f"  model {model.get('model', 'unknown')}, fingerprint {str(model.get('fingerprint', 'unknown'))[:12]}",
    ]
    if description.pca:
        lines.append(f"  PCA from {description.source_dim} dimensions")
    lines += [
        f"  {entry.dataset or '-'}, split {entry.split or '-'}, ID {entry.id}: {entry.rows:,} rows"
        for entry in description.sets
    ]
    if description.growing:
        lines.append("  an update was interrupted; run the same search.py build again")
    return lines


def require_same_options(source: str, have: IndexDescription, want: IndexDescription) -> None:
    """Raise UserError where an index was made with other options than those wanted now."""
    for name in OPTIONS:
        value = getattr(have, name)
        if value != getattr(want, name):
            what = "another model" if name in ("fingerprint", "source_dim", "dim") else f"{name} {value}"
            raise UserError(
                f"{source} was made with {what}; add --overwrite, or name another --uri or, in Milvus, --collection"
            )
