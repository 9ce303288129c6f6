"""Splits by photo: a share of every class for each split, whole photos, and groups of photos kept together."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common import cli
from common.messages import UsageError, UserError, count, note

if TYPE_CHECKING:
    import numpy as np

    from annotations.formats import Source
    from annotations.records import Object, Skipped
    from imaging.crops import Manifest

NAMES = {2: ("train", "test"), 3: ("train", "val", "test")}  # by how many shares are given


def shares(text: str) -> tuple[float, ...]:
    """Return the shares of `70/15/15` (train, val, test) or `80/20` (train, test) in percent; an argparse type."""
    try:
        percents = tuple(float(part) for part in text.split("/"))
    except ValueError:
        percents = ()
    if len(percents) not in NAMES or min(percents) <= 0 or abs(sum(percents) - 100) > 1e-6:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not two or three shares that add up to 100, as in 70/15/15 (train, val, test) or 80/20 (train, test)"
        )
    return percents


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --split_by_photo, --group_by and --seed."""
    text = (
        "draw train, val and test anew, photos whole, every class in its share: 70/15/15, or 80/20 for train and test"
    )
    parser.add_argument("--split_by_photo", type=shares, metavar="SHARES", help=text)
    text = "with --split_by_photo: keep photos together whose sample ids share its first group; or a CSV of sample_id,group"
    parser.add_argument("--group_by", metavar="REGEX|FILE.csv", help=text)
    cli.add_seed(parser)


class Drawing(NamedTuple):
    """How splits are drawn: shares in percent, what keeps photos together (an expression or a CSV file), and the seed."""

    shares: tuple[float, ...]
    group_by: str | None = None
    seed: int = 0

    def draw(self, samples: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
        """Return the split of each photo, from the photo and label of every crop.

        The order of the crops changes nothing. Raises UserError when a photo has no group, or a split would stay empty.
        """
        import numpy as np

        from common.labels import groups

        photos = sorted(set(samples))
        names = NAMES[len(self.shares)]
        group_of = dict(zip(photos, groups(photos, self.group_by), strict=True))
        group_names, group = np.unique([group_of[sample] for sample in samples], return_inverse=True)
        _, label = np.unique(np.asarray(labels, str), return_inverse=True)
        counts = np.zeros((len(group_names), int(label.max(initial=0)) + 1), np.int64)
        np.add.at(counts, (group, label), 1)
        drawn = stratified(counts, np.array(self.shares) / 100, self.seed)
        split_of = {name: names[split] for name, split in zip(group_names.tolist(), drawn.tolist(), strict=True)}
        result = {photo: split_of[group_of[photo]] for photo in photos}
        sizes = {name: sum(split == name for split in result.values()) for name in names}
        if not all(sizes.values()):
            kinds = "groups" if self.group_by else "photos"
            raise UserError(
                f"--split_by_photo: {len(group_names)} {kinds} are too few for {len(names)} splits; add some, or take fewer"
            )
        told = ", ".join(f"{name} {count(size, 'photo')}" for name, size in sizes.items())
        note(f"splits drawn by photo, seed {self.seed}: {told}")
        return result


def split_objects(sources: Sequence[Source], drawing: Drawing) -> list[Source]:
    """Return the annotations with every object in the split that is drawn for its photo."""
    from dataclasses import replace

    from annotations.records import Object

    objects = [item for source in sources for item in source.items if isinstance(item, Object)]
    _tell_of({item.split for item in objects})
    split_of = drawing.draw([item.sample_id for item in objects], ["/".join(item.classes) for item in objects])

    def moved(item: Object | Skipped) -> Object | Skipped:
        return replace(item, split=split_of[item.sample_id]) if isinstance(item, Object) else item

    return [replace(source, items=[moved(item) for item in source.items]) for source in sources]


def split_manifests(manifests: Sequence[Manifest], drawing: Drawing, kept: Sequence[str] | None) -> list[Manifest]:
    """Return the manifests with every image in the split that is drawn for its photo, the same at all paddings.

    kept: splits to keep (default: all).
    """
    from dataclasses import replace

    import numpy as np

    from common.labels import label_paths

    _tell_of({split for manifest in manifests for split in manifest.splits})
    samples = [sample for manifest in manifests for sample in manifest.sample_ids]
    labels = [label_paths(manifest.labels, source=str(manifest.root)) for manifest in manifests]
    split_of = drawing.draw(samples, np.concatenate(labels).tolist())
    unknown = sorted({*(kept or ())} - {*split_of.values()})
    if unknown:
        raise UsageError(f"--splits {unknown[0]}: --split_by_photo draws {', '.join(NAMES[len(drawing.shares)])}")
    moved = []
    for manifest in manifests:
        splits = [split_of[sample] for sample in manifest.sample_ids]
        rows = [row for row, split in enumerate(splits) if kept is None or split in kept]
        moved.append(replace(manifest, splits=splits).take(rows))
    return moved


def read_manifests(
    roots: Sequence[Path],
    folders: Sequence[str] | None,
    splits: Sequence[str] | None,
    drawing: Drawing | None,
    *,
    strict: bool,
) -> list[tuple[Manifest, Manifest]]:
    """Return for each data root the images of the folders and splits that are asked for, and those of all folders.

    `drawing`: splits that are drawn anew, from all folders, so that a further folder moves no photo.
    """
    wanted = None if drawing else splits
    from imaging import crops

    wholes = [crops.read(root, splits=wanted, strict=strict) for root in roots]
    if drawing:
        wholes = split_manifests(wholes, drawing, splits)
    if not folders:
        return [(whole, whole) for whole in wholes]
    chosen = []
    for root, whole in zip(roots, wholes, strict=True):
        paths = {*crops.read(root, folders=folders, splits=wanted, strict=strict).paths}
        chosen.append((whole.take([row for row, path in enumerate(whole.paths) if path in paths]), whole))
    return chosen


def _tell_of(splits: set[str]) -> None:
    if len(splits) > 1:
        note(f"--split_by_photo takes the place of the splits that the data name: {', '.join(sorted(splits))}")


def stratified(counts: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Return the split (n,) of each of n groups, so that every class comes near its share of every split.

    counts: (n, classes) rows of each class in each group. The groups with the rarest class come first, of these the largest, else
    at random. Each goes to the split that has got least of its classes, measured by the split's share: the squared fill of each
    class, weighted by the group's rows of it. scikit-learn's StratifiedGroupKFold makes parts of equal size only.
    """
    import numpy as np

    total = counts.sum(axis=0)
    goal = shares[:, None] * total
    rarest = np.where(counts > 0, total, counts.sum() + 1).min(axis=1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.lexsort((-counts[order].sum(axis=1), rarest[order]))]
    given, drawn = np.zeros_like(goal), np.empty(len(counts), np.int64)
    for number in order:
        present = counts[number] > 0
        fill = ((given[:, present] / goal[:, present]) ** 2 * counts[number, present]).sum(axis=1)
        split = int(np.argmin(np.round(fill, 9)))  # equally filled: the first, which is to learn from
        given[split] += counts[number]
        drawn[number] = split
    return drawn
