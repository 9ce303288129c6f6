"""What the readers of all formats share: a photo's records, each an Object or the reason why it is none."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from annotations.options import Options
from annotations.records import Box, Object, Outline, Skipped
from common.messages import Unusable
from imaging.headers import EXTENSIONS

T = TypeVar("T")


@dataclass(frozen=True)
class Photo:
    """The image that records are about; `source` is the annotation file."""

    name: str
    split: str
    declared: tuple[int, int] | None
    source: str
    own_name: str = ""  # of the annotation file, where it is about this photo only
    embedded: bool = False  # whether the annotation file holds the photo itself

    @property
    def sample_id(self) -> str:
        return sample_of(self.name)


@dataclass(frozen=True)
class Shape:
    """One record as its format has it. `object_id` is the record's number in its photo unless the format gives one."""

    classes: tuple[str, ...]
    box: Box
    units: str = "pixels"
    outline: Outline | None = None
    object_id: str | None = None


def sample_of(name: str) -> str:
    """Return the sample id of an image's name: the name without the ending of an image, of a photo as text its kind."""
    if name.startswith("data:"):
        return name.partition(",")[0][:80]
    name = re.sub(r"^(\./|\.\\)+(?=.)", "", name)  # a crop's name must not begin with a dot
    stem, ending = os.path.splitext(name.strip())
    return stem if ending.lower() in EXTENSIONS else name


def objects(
    photo: Photo, records: Iterable[tuple[int, T]], read: Callable[[T], Shape], options: Options, first: int = 1
) -> Iterator[Object | Skipped]:
    """Yield what `read` makes of each record, given with its line in the file (0: unknown), numbered from `first`."""
    for number, (line, record) in enumerate(records, first):
        try:
            shape = read(record)
        except Unusable as error:
            yield Skipped(photo.sample_id, str(number), str(error), photo.source, str(line or ""))
            continue
        outline = shape.outline if options.outlines else None
        yield Object(
            photo.name,
            photo.sample_id,
            shape.object_id or str(number),
            photo.split,
            shape.classes,
            shape.box,
            photo.declared,
            photo.source,
            shape.units,
            outline,
            photo.own_name,
            photo.embedded,
        )


def rows(records: Iterable[T]) -> Iterator[tuple[int, T]]:
    """Yield the records with no line, for formats that do not know it."""
    return ((0, record) for record in records)
