"""The rows that a model is trained on, chosen by and tested on, with their labels as codes of classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from common.embedding_sets import join, require_one_model
from common.embeddings import EmbeddingSet
from common.labels import SPLITS, label_paths, warn_strangers
from common.messages import UserError, count, note, warn
from imaging import crops
from training.images import ImageReader, Inputs, Vectors

HELD_OUT = 0.2  # share of every class for validation, where no split is
ENLARGED = 8 / 7  # size of the images from which random views are cut: 256 px for views of 224


@dataclass(frozen=True)
class TrainingData:
    """The labelled images by what they are for. `codes` (n,) int64 index `classes`, -1 for labels that the training split lacks.

    `train`, `val` and `test` are rows; `test` may be empty.
    """

    manifest: crops.Manifest
    classes: list[str]
    codes: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    @cached_property
    def samples(self) -> np.ndarray:
        """(n,) int codes of the photos."""
        return np.unique(np.array(self.manifest.sample_ids, str), return_inverse=True)[1]

    def labels(self, part: str) -> np.ndarray:
        """Return the codes of the rows of "train", "val" or "test"."""
        return self.codes[getattr(self, part)]


def read(root: Path | str, *, splits: dict[str, str | None], label_level: int | None = None) -> crops.Manifest:
    """Return the labelled images of the named splits (see SPLITS for those not named), each row's label path as its only level.

    The manifest's splits are then called train, val and test. Raises UserError when there is nothing to learn.
    """
    return choose(crops.read(root), splits=splits, label_level=label_level)[0]


def choose(
    manifest: crops.Manifest, *, splits: dict[str, str | None], label_level: int | None
) -> tuple[crops.Manifest, list[int]]:
    """Return what `read` returns of a manifest, and which of its rows these are."""
    root, names = manifest.root, _names(manifest, splits)
    label = label_paths(manifest.labels, label_level, source=str(root))
    rows = [row for row in range(len(manifest)) if manifest.splits[row] in names]
    kept = [row for row in rows if label[row]]
    if not kept:
        raise UserError(f"{root} has no labels: there is nothing to learn; sort the images into class folders")
    if len(kept) < len(rows):
        warn(f"{count(len(rows) - len(kept), 'image')} without a label left out")
    chosen = manifest.take(kept)
    parts = [names[split] for split in chosen.splits]
    labels = label[kept][:, None]
    return replace(chosen, splits=parts, labels=labels), kept


class VectorReader:
    """Like ImageReader: reader(rows, desc) -> the rows and their vectors, of embedding sets of one model; no image is read.

    `model`: MODEL_FIELDS of the model that made them; `source`: a file that names it.
    """

    workers = 1

    def __init__(self, sets: Sequence[EmbeddingSet], *, splits: dict[str, str | None], label_level: int | None) -> None:
        self.model = require_one_model(sets, what="name sets of one model with --npz")
        self.source = next((one.source for one in sets if one.fingerprint), sets[0].source)
        if any(one.meta.get("normalized") for one in sets):
            raise UserError(
                f"{self.source} holds vectors of length 1, which no model gives; extract without --normalize"
            )
        rows, parts = join(sets), [one.split for one in sets for _ in range(len(one))]
        texts = rows.sample_ids.tolist(), rows.crop_ids.tolist()
        whole = crops.Manifest(Path(self.source), rows.paths.tolist(), parts, *texts, rows.labels)
        self.manifest, kept = choose(whole, splits=splits, label_level=label_level)
        self.vectors = np.concatenate([np.asarray(one.vectors) for one in sets])[kept]

    def digest(self) -> str:
        """Return the sha256 of vectors, labels and samples."""
        rows = (self.manifest.splits, self.manifest.sample_ids, self.manifest.labels.tolist())
        return hashlib.sha256(self.vectors.tobytes() + json.dumps(rows).encode()).hexdigest()

    def __call__(self, rows: np.ndarray, desc: str, factor: float = 1.0) -> tuple[np.ndarray, Vectors]:
        return rows, Vectors(self.vectors[rows])


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


Reader = ImageReader | VectorReader


def prepare(reader: Reader, *, vary: bool, seed: int) -> tuple[TrainingData, Inputs, Inputs]:
    """Return the data and the images of its training and validation rows; no image of the test split is opened.

    vary: random views will be cut from the training images, which are larger then.
    """
    learnt = np.flatnonzero(np.array(reader.manifest.splits) != "test")
    readable, images = reader(learnt, "training and validation", ENLARGED if vary else 1.0)
    data = divide(reader.manifest, np.setdiff1d(learnt, readable), seed)
    train, val = (images.take(np.searchsorted(readable, rows)) for rows in (data.train, data.val))
    if vary:
        _, val = reader(data.val, "validation")
    parts = ", ".join(f"{part} {len(getattr(data, part)):,}" for part in SPLITS)
    note(f"{count(len(data.classes), 'class', 'classes')}; images: {parts}")
    return data, train, val


def divide(manifest: crops.Manifest, bad: np.ndarray, seed: int) -> TrainingData:
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
        samples = [manifest.sample_ids[row] for row in rows["train"]]
        held = hold_out(codes[rows["train"]], samples, HELD_OUT, seed)
        rows["val"], rows["train"] = rows["train"][held], rows["train"][~held]
        note(f"no validation split: {count(len(rows['val']), 'image')} of the training split held out, by photo")
        if not len(rows["val"]):
            raise UserError(f"{manifest.root}: every class has one photo only, nothing can be held out; add photos")
    _remark(manifest, codes, rows, classes.tolist())
    for name in ("val", "test"):
        warn_strangers(label[rows["train"]].tolist(), label[rows[name]].tolist(), ("training split", f"{name} split"))
    rows["val"] = rows["val"][codes[rows["val"]] >= 0]
    if not len(rows["val"]):
        raise UserError(
            f"{manifest.root}: no class of the validation split is in the training split; check --val_split"
        )
    return TrainingData(manifest, classes.tolist(), codes, rows["train"], rows["val"], rows["test"])


def hold_out(labels: np.ndarray, samples: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Return (n,) bool, about `share` of the rows of every class, whole photos only; each class keeps a row outside.

    labels: (n,) int codes. samples: (n,) the photo of each row. Images are taken in random order as long as every one of
    their classes has less than its share; a class with a single photo gives none.
    """
    # StratifiedGroupKFold of scikit-learn does not promise that each class keeps a row outside: a class whose images all fall into
    # one fold could not be learnt.
    names, image = np.unique(np.asarray(samples), return_inverse=True)
    counts = np.zeros((len(names), int(labels.max()) + 1), np.int64)
    np.add.at(counts, (image, labels), 1)
    total = counts.sum(axis=0)
    wanted = np.maximum(np.round(total * share), 1)
    held, taken = np.zeros(len(names), bool), np.zeros_like(total)
    for number in np.random.default_rng(seed).permutation(len(names)):
        present = counts[number] > 0
        fits = ((taken < wanted) & (taken + counts[number] < total))[present]
        if fits.all():
            held[number] = True
            taken += counts[number]
    return held[image]


def _remark(manifest: crops.Manifest, codes: np.ndarray, rows: dict[str, np.ndarray], classes: Sequence[str]) -> None:
    """Say what makes a result less than it seems: unknown labels, classes of one image, one photo on two sides."""
    single = np.flatnonzero(np.bincount(codes[rows["train"]], minlength=len(classes)) == 1)
    if len(single):
        names = ", ".join(classes[code] for code in single[:5]) + " …" * (len(single) > 5)
        warn(f"{count(len(single), 'class', 'classes')} with a single training image ({names})")
    for name, fate in (("val", "left out"), ("test", "counted as wrong")):
        unknown = rows[name][codes[rows[name]] < 0]
        if len(unknown):
            labels = sorted(set(manifest.labels[unknown, 0]))
            shown = ", ".join(labels[:3]) + " …" * (len(labels) > 3)
            warn(f"{name}: {count(len(unknown), 'image')} of classes that are not trained, {fate}: {shown}")
    samples = {name: {manifest.sample_ids[row] for row in rows[name]} for name in rows}
    for part, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := samples[part] & samples[other]:
            images = count(len(shared), "photo")
            warn(f"{images} of {part} also in {other}, such as {min(shared)}: scores are too good")
