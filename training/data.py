"""The rows that a model is trained on, chosen by and tested on, with their labels as codes of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import crops
from common.labels import SPLITS, label_paths
from common.messages import UserError, count, note, warn
from training import batches
from training.images import Pictures, Reader

HELD_OUT = 0.2  # share of every class for validation, where no split is
ROOM = 8 / 7  # times the input size: 256 px for views of 224


@dataclass(frozen=True)
class Study:
    """`codes` (n,) int64 index `classes`, -1 for labels that the training split lacks; `train`, `val` and `test` are rows.

    `test` may be empty.
    """

    manifest: crops.Manifest
    classes: list[str]
    codes: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    @property
    def samples(self) -> np.ndarray:
        """(n,) int codes of the source images."""
        return np.unique(np.array(self.manifest.sample_ids, str), return_inverse=True)[1]

    def labels(self, part: str) -> np.ndarray:
        """Return the codes of the rows of "train", "val" or "test"."""
        return self.codes[getattr(self, part)]


def read(root: Path | str, *, splits: dict[str, str | None], label_level: int | None = None) -> crops.Manifest:
    """Return the labelled images of the named splits (see SPLITS for those not named), each row's label path as its only level.

    The manifest's splits are then called train, val and test. Raises UserError when there is nothing to learn.
    """
    manifest = crops.read(root)
    names = _names(manifest, splits)
    label = label_paths(manifest.labels, label_level, source=root)
    rows = [row for row in range(len(manifest)) if manifest.splits[row] in names]
    kept = [row for row in rows if label[row]]
    if not kept:
        raise UserError(f"{root} has no labels: there is nothing to learn; sort the images into class folders")
    if len(kept) < len(rows):
        warn(f"{count(len(rows) - len(kept), 'image')} without a label left out")
    chosen = manifest.take(kept)
    parts = [names[split] for split in chosen.splits]
    return crops.Manifest(
        chosen.root, chosen.paths, parts, chosen.sample_ids, chosen.crop_ids, label[kept][:, None], chosen.padding
    )


def _names(manifest: crops.Manifest, splits: dict[str, str | None]) -> dict[str, str]:
    """Return the part that each split of the manifest plays."""
    there = list(dict.fromkeys(manifest.splits))
    names: dict[str, str] = {}
    for part, known in SPLITS.items():
        asked = splits.get(part)
        found = [split for split in there if split == asked or (asked is None and split.lower() in known)]
        if asked is not None and not found:
            raise UserError(f"{manifest.root} has no split {asked!r} (--{part}_split); it has: {', '.join(there)}")
        for split in found:
            if names.setdefault(split, part) != part:
                raise UserError(f"split {split!r} cannot be both {names[split]} and {part}")
    if "train" not in names.values():
        if len(there) > 1:
            raise UserError(f"{manifest.root} has no split train; name it with --train_split: {', '.join(there)}")
        names[there[0]] = "train"
    return names


def prepare(manifest: crops.Manifest, reader: Reader, *, vary: bool, seed: int) -> tuple[Study, Pictures, Pictures]:
    """Return the study and the pictures of its training and validation rows; no image of the test split is opened.

    vary: random views will be cut from the training pictures, which are larger then.
    """
    learnt = np.flatnonzero(np.array(manifest.splits) != "test")
    fine, everything = reader(learnt, "training and validation", ROOM if vary else 1.0)
    study = divide(manifest, np.setdiff1d(learnt, fine), seed)
    train, val = (everything.take(np.searchsorted(fine, rows)) for rows in (study.train, study.val))
    if vary:
        _, val = reader(study.val, "validation")
    return study, train, val


def divide(manifest: crops.Manifest, bad: np.ndarray, seed: int) -> Study:
    """Return the rows without the `bad` ones, by part; some of the training split are held out where there is no validation split.

    Raises UserError when fewer than two classes are left to learn.
    """
    label, part = manifest.labels[:, 0], np.array(manifest.splits)
    fine = ~np.isin(np.arange(len(manifest)), bad)
    rows = {name: np.flatnonzero(fine & (part == name)) for name in SPLITS}
    if (part == "val").any() and not len(rows["val"]):
        raise UserError(f"{manifest.root}: no image of the validation split can be read; repair it, or leave it away")
    classes = np.unique(label[rows["train"]])
    if len(classes) < 2:
        only = f"only the class {classes[0]}" if len(classes) else "no image that can be read"
        raise UserError(f"{manifest.root}: the training split has {only}; two classes are the least")
    codes = np.searchsorted(classes, label)
    codes = np.where(classes[np.minimum(codes, len(classes) - 1)] == label, codes, -1)
    if not len(rows["val"]):
        held = batches.hold_out(
            codes[rows["train"]], [manifest.sample_ids[row] for row in rows["train"]], HELD_OUT, seed
        )
        rows["val"], rows["train"] = rows["train"][held], rows["train"][~held]
        note(f"no validation split: {count(len(rows['val']), 'image')} of the training split held out, by source image")
        if not len(rows["val"]):
            raise UserError(
                f"{manifest.root}: every class has one source image only, nothing can be held out; add images"
            )
    _remark(manifest, codes, rows, classes.tolist())
    rows["val"] = rows["val"][codes[rows["val"]] >= 0]
    if not len(rows["val"]):
        raise UserError(
            f"{manifest.root}: no class of the validation split is in the training split; check --val_split"
        )
    return Study(manifest, classes.tolist(), codes, rows["train"], rows["val"], rows["test"])


def _remark(manifest: crops.Manifest, codes: np.ndarray, rows: dict[str, np.ndarray], classes: Sequence[str]) -> None:
    """Say what makes a result less than it seems: unknown labels, classes of one image, one photo on two sides."""
    single = np.flatnonzero(np.bincount(codes[rows["train"]], minlength=len(classes)) == 1)
    if len(single):
        names = ", ".join(classes[code] for code in single[:5])
        warn(
            f"{count(len(single), 'class', 'classes')} with a single training image ({names}{' …' * (len(single) > 5)})"
        )
    for name, fate in (("val", "left out"), ("test", "counted as wrong")):
        unknown = rows[name][codes[rows[name]] < 0]
        if len(unknown):
            named = sorted(set(manifest.labels[unknown, 0]))
            shown = ", ".join(named[:3])
            warn(
                f"{name}: {count(len(unknown), 'image')} of classes that are not trained, {fate}: {shown}{' …' * (len(named) > 3)}"
            )
    samples = {name: {manifest.sample_ids[row] for row in rows[name]} for name in rows}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := samples[one] & samples[other]:
            warn(
                f"{count(len(shared), 'source image')} of {one} also in {other}, such as {min(shared)}: scores are too good"
            )
