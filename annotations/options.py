"""What the user says of the annotations, and what the readers conclude where nothing is said."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

FORMATS = {
    "coco": "COCO JSON",
    "sku": "SKU JSON",
    "yolo": "YOLO",
    "voc": "Pascal VOC",
    "labelme": "LabelMe",
    "label_studio": "Label Studio",
    "cvat": "CVAT for images",
    "via": "VIA",
    "open_images": "Open Images",
    "tensorflow": "CSV of boxes",
    "bbox_csv": "CSV with a column of boxes",
    "createml": "CreateML",
    "datumaro": "Datumaro JSON",
    "imagefolder": "Hugging Face imagefolder",
}
_SPLIT = r"train|training|validation|valid|val|testing|test|dev"


@dataclass(frozen=True)
class Options:
    """How annotations are to be read; None where the format decides.

    `split` is that of objects that name none. `box_format` and `box_units` are for formats that write a box as four bare
    numbers. `outlines` keeps polygons and masks, which need memory.
    """

    split: str | None = None
    split_names: Mapping[str, str] = field(default_factory=dict)
    box_format: str | None = None
    box_units: str | None = None
    outlines: bool = False

    def split_of(self, image: str, source: str, named: str | None = None, *, one_image: bool = False) -> str:
        """Return the split: the one `named` in the record, else --split, else what a name says, else `all`.

        The name of the annotation file `source` comes first, unless it is that of one image; then the folders of the image,
        then those of the file.
        """
        from common.labels import SPLIT_NAMES

        if named and named.strip().lower() in SPLIT_NAMES and named not in self.split_names:
            named = named.strip().lower()  # as folders of the name are called
        found = named or self.split or self.guessed(image, source, one_image=one_image)[0]
        return self.split_names.get(found, found.strip())

    def guessed(self, image: str, source: str, *, one_image: bool = False) -> tuple[str, str]:
        """Return the split that a name says and whose name that is; `all` and "" where none says any."""
        for split, of in (
            (None if one_image else split_in_name(source), "the file's name"),
            (split_in_folders(image), "the image's folder"),
            (split_in_folders(source), "the file's folder"),
        ):
            if split:
                return split, of
        return "all", ""


@functools.lru_cache(10_000)
def split_in_name(path: str) -> str | None:
    """Return the split that a file's own name holds: `train` of `instances_train2017.json`, none of `train_val.json`."""
    from common.labels import same_split

    found = re.findall(rf"(?<![a-z])({_SPLIT})(?![a-z])", PurePosixPath(path).stem.lower())
    return found[0] if found and all(same_split(found[0], other) for other in found) else None


def split_in_folders(path: str) -> str | None:
    """Return the split that the two folders above a file name, the nearest first: `train` of `train2017/images/a.jpg`."""
    return _split_in_folder(path.replace("\\", "/").rpartition("/")[0])


@functools.lru_cache(10_000)
def _split_in_folder(folder: str) -> str | None:
    from common.labels import split_of_folder

    return next(filter(None, map(split_of_folder, reversed(folder.split("/")[-2:]))), None)
