"""Crops from annotated objects: planned, cut image by image at every padding, and accounted for."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotations.records import Object, Skipped
from boxes import cutouts, resizing
from boxes.padding import Padding, place
from common import cli, files
from common.messages import Unusable, UsageError, UserError
from cropping import crops_folder
from imaging import crops, image_folder, images
from imaging.colors import COLORS
from imaging.image_folder import EMBEDDED, OWN_NAME, RULES, Found, ImageFolder, is_plain

if TYPE_CHECKING:
    import numpy as np

Size = tuple[int, int]  # (width, height) in pixels
Image = tuple[str, "Size | None"]  # a file below the image folder, and the size it is declared to have when turned
_JPEG_LIMIT = 65_500  # pixels a side, of libjpeg


@dataclass(frozen=True)
class Style:
    """How crops are made, the same at every padding; the fields are named like the options of crop.py.

    Raises UsageError where they contradict each other.
    """

    cutout: str = "box"
    post_padding_method: str = "resize"
    target_w: int = 224
    target_h: int = 224
    fill: str = "white"
    border: str = "clip"
    exif: str = "auto"
    background: str = "white"
    image_format: str = "jpg"
    jpeg_quality: int = 95
    max_pixels: int = cli.MAX_PIXELS
    object_px: int | None = None

    def __post_init__(self) -> None:
        if self.object_px and (self.target_w, self.target_h) != (Style.target_w, Style.target_h):
            raise UsageError(
                "--object_px says how large crops are, and so do --target_w and --target_h; give one of them"
            )
        if self.object_px and self.post_padding_method == "none":
            raise UsageError("--object_px resizes crops, and --post_padding_method none does not; leave one away")

    def record(self) -> dict[str, Any]:
        """Return the fields as a record has them: those that older versions did not know only where they say something."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in _NEWER or getattr(self, field.name) != field.default
        }


_NEWER = ("cutout", "background", "object_px")  # a field that is added later has to be named here


@dataclass(frozen=True)
class Crop:
    """An object that can be cut: out of which file of the image folder, and to which path of the output folder."""

    item: Object
    file: str
    path: str
    rule: str = ""  # by which the file was found

    @property
    def image(self) -> Image:
        return self.file, self.item.declared

    def fit(self, padding: Padding, size: Size, style: Style) -> resizing.Fit:
        """Return what to cut from the image of `size`, and how it becomes the crop; raises Unusable where it cannot be done."""
        box, method = self.item.box, style.post_padding_method
        region = place(box, padding, size, border=style.border, max_pixels=style.max_pixels)
        if style.object_px:
            fit = resizing.fit_object(region, box, padding, style.object_px, method)
            if fit.size[0] * fit.size[1] > style.max_pixels:
                raise Unusable("crop above --max_pixels")
        else:
            fit = resizing.fit(region, (style.target_w, style.target_h), method)
        if style.image_format == "jpg" and max(fit.size) > _JPEG_LIMIT:
            raise Unusable("crop too large for jpg")
        return fit


def plan(found: Sequence[Object | Skipped], folder: ImageFolder, image_format: str) -> list[Crop | Skipped]:
    """Return what becomes of every object, in their order, as far as it is known before an image is opened.

    Raises UserError naming both when two objects would share a crop_id or a file.
    """
    planned: list[Crop | Skipped] = []
    taken: dict[str, Object] = {}
    besides = {
        source: _below(source, folder.folder) for source in {item.source for item in found if isinstance(item, Object)}
    }
    for located in _with_unique_samples([_locate(item, folder, besides) for item in found]):
        if isinstance(located, Skipped):
            planned.append(located)
            continue
        item, image = located
        try:
            split, label = safe_name(item.split, "split"), safe_name(item.classes[-1], "label")
            name = safe_name(item.crop_id, "id", f".{image_format}")
        except Unusable as error:
            planned.append(Skipped(item.sample_id, item.object_id, str(error), item.source))
            continue
        other = taken.setdefault(name, item)
        if other is not item:
            raise UserError(
                f"object {other.object_id!r} of image {other.sample_id!r} in {other.source} and object {item.object_id!r} "
                f"of image {item.sample_id!r} in {item.source} would both be {name}; rename one of them"
            )
        planned.append(Crop(item, image.file, f"{split}/{label}/{name}", image.rule))
    return planned


def _below(source: str, folder: Path) -> str:
    """Return the annotation file's folder relative to the image folder, "" where it is not inside."""
    below = os.path.relpath(os.path.dirname(source) or ".", folder)
    return "" if below == "." or below.startswith("..") else below


def _locate(item: Object | Skipped, folder: ImageFolder, besides: Mapping[str, str]) -> tuple[Object, Found] | Skipped:
    """Return the object with its image file. An id that is an address gives way to the file's path without its ending."""
    if isinstance(item, Skipped):
        return item
    try:
        image = folder.find(item.image, beside=besides[item.source], split=item.split)
    except Unusable as error:
        try:
            image = Found(folder.find(item.own_name, beside=besides[item.source], split=item.split).file, OWN_NAME)
        except Unusable:
            if not item.embedded:
                return Skipped(item.sample_id, item.object_id, str(error), item.source)
            image = Found(os.path.relpath(item.source, folder.folder), EMBEDDED)
    if other := _named_otherwise(item, image, folder, besides[item.source]):
        reason = f"image ambiguous: {image.file}, as its annotation file says, and {other}, as that file is called"
        return Skipped(item.sample_id, item.object_id, reason, item.source)
    named_as_file = item.sample_id != item.image or "://" in item.image  # a URL may end in a query
    if named_as_file and not is_plain(item.sample_id.replace("\\", "/")):
        item = replace(item, sample_id=os.path.splitext(_within(image.file))[0])
    return item, image


def _within(file: str) -> str:
    """Return a file's path without what leads out of the image folder, as to an annotation file that holds its photo."""
    return re.sub(r"^(\.\./)+", "", file)


def _named_otherwise(item: Object, image: Found, folder: ImageFolder, beside: str) -> str:
    """Return the photo that is called as the annotation file of one photo, where it lies beside the one named in it; "" else.

    Such files are copied, or renamed with their photos, and go on naming another one.
    """
    own = item.own_name.rpartition("/")[2]
    if not own or own == os.path.splitext(os.path.basename(image.file))[0]:
        return ""
    try:
        other = folder.find(item.own_name, beside=beside, split=item.split).file
    except Unusable:
        return ""
    return other if image_folder.same_folder_other_name(image.file, other) else ""


def _with_unique_samples(located: Sequence[tuple[Object, Found] | Skipped]) -> Iterator[tuple[Object, Found] | Skipped]:
    """Yield the objects; where one sample id means several files, as `1` in train/ and in val/, it becomes the file's path.

    The path goes without its ending, unless that is all in which the files differ.
    """
    files: dict[str, set[str]] = {}
    for pair in located:
        if not isinstance(pair, Skipped):
            files.setdefault(pair[0].sample_id, set()).add(pair[1].file)
    for pair in located:
        if not isinstance(pair, Skipped) and len(same := files[pair[0].sample_id]) > 1:
            item, image = pair
            stems, file = {os.path.splitext(file)[0] for file in same}, _within(image.file)
            sample_id = os.path.splitext(file)[0] if len(stems) == len(same) else file
            pair = replace(item, sample_id=sample_id), image
        yield pair


def how_found(planned: Sequence[Crop | Skipped]) -> str:
    """Return how many images were found by which rule; "" where all lie where the annotations say."""
    rules = {crop.file: crop.rule for crop in planned if isinstance(crop, Crop)}
    counts = Counter(rules.values())
    if not rules or counts[RULES[0]] == len(rules):
        return ""
    return "images found: " + ", ".join(f"{counts[rule]:,} {rule}" for rule in RULES if counts[rule])


def fingerprints(planned: Sequence[Crop | Skipped], folder: Path) -> dict[str, str]:
    """Return hashes of the input: of what the annotations say, and of the image files' names, sizes and times of change."""
    objects, stats = hashlib.sha256(), hashlib.sha256()
    for crop in planned:
        item = replace(crop.item, source="") if isinstance(crop, Crop) else crop
        objects.update(repr((item, crop.path if isinstance(crop, Crop) else "")).encode("utf-8", "backslashreplace"))
    for name in files_of(planned):
        status = os.stat(folder / name)
        stats.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return {"annotations": objects.hexdigest(), "images": stats.hexdigest()}


def files_of(planned: Sequence[Crop | Skipped]) -> list[str]:
    """Return the image files that are cut, sorted."""
    return sorted({crop.file for crop in planned if isinstance(crop, Crop)})


def safe_name(text: str, kind: str, ending: str = "") -> str:
    """Return `text` as a file or folder name, slashes as `__`. Raises Unusable where no name can be made of it."""
    name = text.replace("/", "__") + ending
    if not text.strip():
        raise Unusable(f"empty {kind}")
    if min(text) < " " or text == "." or ".." in text.split("/") or name in crops.RESERVED:
        raise Unusable(f"unsafe {kind}")
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:  # half a surrogate pair
        raise Unusable(f"unsafe {kind}") from None
    if length > 255:
        raise Unusable(f"{kind} too long")
    return name


def load(path: Path, declared: Size | None, style: Style) -> images.Encoded:
    """Return the photo in `path`, not decoded yet, as the style wants it to be seen; raises ImageError."""
    background = COLORS[style.background]
    return images.load(path, max_pixels=style.max_pixels, exif=style.exif, declared=declared, background=background)


def pixels(image: np.ndarray, crop: Crop, fit: resizing.Fit, style: Style) -> np.ndarray:
    """Return the crop, RGB uint8: its region of the decoded image, what is outside the outline filled, then resized."""
    cut = resizing.cut(image, fit.region, border=style.border)
    if style.cutout == "mask" and crop.item.outline:
        cut = cutouts.fill_outside(cut, fit.region, crop.item.outline, COLORS[style.fill])
    return fit.pixels(cut, style.fill)


def cut_image(
    path: Path, batch: Sequence[Crop], roots: Mapping[Path, Padding], style: Style, stop: threading.Event
) -> tuple[Size, Counter[Path]]:
    """Cut `batch` out of the image in `path` at each root's padding, decoding it once; ends early once `stop` is set.

    Returns the image's size and the number of crops written to each root. Crops that are there already stay as they are;
    an image whose crops are all there is not decoded. Raises ImageError when the image cannot be used.
    """
    encoded = load(path, batch[0].item.declared, style)
    image = None
    written: Counter[Path] = Counter()
    for root, padding in roots.items():
        for crop in batch:
            target = root / crop.path
            if stop.is_set() or target.exists():
                continue
            try:
                fit = crop.fit(padding, encoded.size, style)
            except Unusable:
                continue
            image = encoded.decode() if image is None else image
            cut = pixels(image, crop, fit, style)
            files.write_bytes(target, images.encode(cut, style.image_format, style.jpeg_quality), sync=False)
            written[root] += 1
    return encoded.size, written


def outcome(
    path: Path, batch: Sequence[Crop], roots: Mapping[Path, Padding], style: Style, stop: threading.Event
) -> tuple[Size | str, Counter[Path]]:
    """Like cut_image, but return the reason in place of the size when the image cannot be used."""
    try:
        return cut_image(path, batch, roots, style, stop)
    except images.ImageError as error:
        return str(error), Counter()


def by_image(planned: Sequence[Crop | Skipped]) -> dict[Image, list[Crop]]:
    """Return the crops of each image, in the order of the plan."""
    batches: dict[Image, list[Crop]] = {}
    for crop in planned:
        if isinstance(crop, Crop):
            batches.setdefault(crop.image, []).append(crop)
    return batches


def cut_all(
    planned: Sequence[Crop | Skipped], folder: Path, roots: Mapping[Path, Padding], style: Style, workers: int
) -> Generator[tuple[Image, Size | str, Counter[Path]], None, None]:
    """Cut every planned crop on `workers` threads, an image at a time on each, and few of them started ahead.

    Yields, as each image is done, the image, its size or the reason why it cannot be used, and the number of crops written to
    each root. Interrupted or closed early, it stops its threads between two crops and waits for them.
    """
    import cv2

    cv2.setNumThreads(1)  # each image has a thread; OpenCV must not start its own
    stop = threading.Event()
    started: deque[tuple[Image, Future[tuple[Size | str, Counter[Path]]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="cut")
    try:
        waiting = iter(by_image(planned).items())
        while True:
            for image, batch in waiting:
                started.append((image, pool.submit(outcome, folder / image[0], batch, roots, style, stop)))
                if len(started) > 4 * workers:
                    break
            if not started:
                return
            image, job = started[0]
            size, written = job.result()
            started.popleft()
            yield image, size, written
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def settle(
    planned: Sequence[Crop | Skipped], outcomes: Mapping[Image, Size | str], padding: Padding, style: Style
) -> tuple[list[crops_folder.Row], list[Skipped]]:
    """Return the lines of crops.csv and of skipped.csv at this padding: each object is in one of them."""
    rows: list[crops_folder.Row] = []
    skipped: list[Skipped] = []
    for crop in planned:
        if isinstance(crop, Skipped):
            skipped.append(crop)
            continue
        size = outcomes[crop.image]
        try:
            if isinstance(size, str):
                raise Unusable(size)
            fit = crop.fit(padding, size, style)
            rows.append(crops_folder.Row(crop.path, crop.item, fit, padding, style.object_px))
        except Unusable as error:
            skipped.append(Skipped(crop.item.sample_id, crop.item.object_id, str(error), crop.item.source))
    return rows, skipped
