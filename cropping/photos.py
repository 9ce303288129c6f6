"""Crops that go from their photos straight to a model: a manifest for each padding, and photos that are decoded once for all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from annotations.records import Skipped
from boxes.padding import Padding
from common.messages import UserError, note, tally
from cropping import cutter
from cropping.crops_folder import Row
from cropping.cutter import Crop, Style
from cropping.planning import Plan
from imaging.crops import Manifest, keep_splits, levels

_MOST = 2048  # crops that one Photo gives; a photo of more is decoded again for the next ones


@dataclass(frozen=True)
class Photo:
    """A photo and its crops at every padding. `sets` and `rows` (crops, paddings): the manifest and the row of each, or -1."""

    path: Path
    crops: Sequence[Crop]
    paddings: Sequence[Padding]
    sets: np.ndarray
    rows: np.ndarray
    style: Style

    def cut(self, wanted: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the crops that are `wanted` (crops, paddings) bool, row by row, as RGB uint8. Raises ImageError."""
        encoded = cutter.load(self.path, self.crops[0].item.declared, self.style)
        image = encoded.decode()
        for at, padding in np.argwhere(wanted).tolist():
            crop = self.crops[at]
            fit = crop.fit(self.paddings[padding], encoded.size, self.style)
            yield cutter.pixels(image, crop, fit, self.style)


class Cuts:
    """The crops of a plan at several paddings, as rows of manifests like those of crops folders."""

    def __init__(self, plan: Plan, paddings: Sequence[Padding], style: Style) -> None:
        """Raises UserError where no object can be cropped."""
        self.plan, self.paddings, self.style = plan, paddings, style
        self._crops = [crop for crop in plan.objects if isinstance(crop, Crop)]
        self._manifests: list[Manifest] = []
        self._skipped: list[list[Skipped]] = []
        self._inputs: dict[str, str] = {}
        sizes = plan.sizes(style)
        for padding in paddings:
            rows, skipped = cutter.settle(plan.objects, sizes, padding, style)
            if not rows:
                kinds = tally(item.reason.partition(":")[0] for item in skipped)
                raise UserError(f"{plan.folder}: no object could be cropped ({kinds or 'the annotations have none'})")
            self._manifests.append(_manifest(plan.folder, rows, str(padding)))
            self._skipped.append(skipped)
        if rules := cutter.how_found(plan.objects):
            note(rules)

    def manifests(self, splits: Sequence[str] | None = None) -> list[Manifest]:
        """Return for each padding the rows that crop.py would write to crops.csv if no photo is damaged."""
        return [keep_splits(manifest, splits) for manifest in self._manifests]

    def facts(self, split: str) -> dict[str, Any]:
        """Return what the record of a set says of where its images come from: a hash of its input, and the style."""
        if split not in self._inputs:
            own = [crop for crop in self._crops if crop.item.split == split]
            content = json.dumps(cutter.fingerprints(own, self.plan.folder)).encode()
            self._inputs[split] = hashlib.sha256(content).hexdigest()
        style = self.style.record()
        del style["image_format"], style["jpeg_quality"]
        return {"input": self._inputs[split], "crop": style}

    def skipped(self, padding: Padding, lost: Mapping[str, str]) -> list[Skipped]:
        """Return the skipped objects; `lost`: why a crop could not be cut after all, by its path in the manifest."""
        more = [
            Skipped(crop.item.sample_id, crop.item.object_id, lost[crop.path], crop.item.source)
            for crop in self._crops
            if crop.path in lost
        ]
        return [*self._skipped[self.paddings.index(padding)], *more]

    def photos(self, manifests: Sequence[Manifest]) -> list[Photo]:
        """Return the photos, in the order of the plan, whose crops make the rows of these manifests."""
        names = [str(padding) for padding in self.paddings]
        number = {crop.path: at for at, crop in enumerate(self._crops)}
        set_of = np.full((len(number), len(names)), -1, np.int32)
        row_of = set_of.copy()
        for at, manifest in enumerate(manifests):
            places = [number[path] for path in manifest.paths]
            column = names.index(manifest.padding or "")
            set_of[places, column], row_of[places, column] = at, np.arange(len(manifest))
        most = max(1, _MOST // len(names))
        found = []
        for (file, _), batch in cutter.by_image(self._crops).items():
            kept = [at for at in (number[crop.path] for crop in batch) if (set_of[at] >= 0).any()]
            for start in range(0, len(kept), most):
                part = kept[start : start + most]
                own = [self._crops[at] for at in part]
                path = self.plan.folder / file
                found.append(Photo(path, own, self.paddings, set_of[part], row_of[part], self.style))
        return found


def _manifest(folder: Path, rows: Sequence[Row], padding: str) -> Manifest:
    items = [row.item for row in rows]
    paths, splits = [row.path for row in rows], [item.split for item in items]
    samples, ids = [item.sample_id for item in items], [item.crop_id for item in items]
    boxes = np.array([row.object_box for row in rows], np.float32)
    labels = levels([item.classes for item in items])
    return Manifest(folder, paths, splits, samples, ids, labels, padding, rows[0].object_px, boxes)
