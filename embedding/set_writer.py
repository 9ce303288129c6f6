"""From the images of one split to its embedding set on disk, going on where an earlier run stopped."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from backbones.preprocess import BOX
from backbones.weights import ALIASES, DEFAULT, full_name
from common import files, knn, messages, table_files
from common.embeddings import MODELS_CSV, PREPROCESSING_VERSION, computed
from embedding import arithmetic, extraction, output_set
from embedding.arithmetic import Model
from embedding.output_set import OutputSet, digest
from imaging import images
from imaging.colors import COLORS
from imaging.crops import Manifest


@dataclass(frozen=True)
class Options:
    """How sets are made; the fields are named like the options of extract_embedding.py."""

    output_root: Path
    batch_size: int
    workers: int
    precision: str
    compile: str
    normalize: bool
    background: str
    max_pixels: int
    strict: bool
    overwrite: bool
    engine: str = "auto"
    verify: bool = False
    spreadsheet_safe: bool = False

    @property
    def arithmetic(self) -> dict[str, Any]:
        """What arithmetic.choose takes of them."""
        return {"compilation": self.compile, "engine": self.engine, "batch_size": self.batch_size}


@dataclass(frozen=True)
class Part:
    """The images of one split: those to embed, and where --folders names a part of the classes, all that there are.

    facts: what the record says of images that are no files of their own: `input`, a hash of what they are made from, and more.
    """

    names: dict[str, str]  # dataset_name, id, split
    manifest: Manifest
    whole: Manifest
    folders: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The name of the set's files without ending."""
        return "_".join(file_name(self.names[key]) for key in ("dataset_name", "id", "split"))


def asked_for(part: Part, model: Model, options: Options) -> dict[str, Any]:
    """Return the record of what is to be made; None stands for what an earlier run may have chosen."""
    return {
        **part.names,
        "padding": part.manifest.padding or "",
        "model": model.spec,
        "model_options": model.options,
        "fingerprint": model.fingerprint,
        "preprocess": model.preprocess.as_dict(),
        "preprocessing_version": PREPROCESSING_VERSION,
        "normalized": options.normalize,
        "batch_size": options.batch_size,
        **(part.facts or {"input": digest(part.manifest)}),
        **_variant(part.manifest, model),
        **({"folders": list(part.folders)} if part.folders else {}),
        **({"background": options.background} if options.background != "white" else {}),
        "precision": None if options.precision == "auto" else options.precision,
        "compiled": None,
        "engine": None if options.engine == "auto" else options.engine,
    }


def _variant(manifest: Manifest, model: Model) -> dict[str, Any]:
    """Return what a record says of input size, pooling and size of the object, where they are not the model's own, or not known."""
    facts = {"image_size": model.options.get("image_size"), "pooling": model.options.get("pooling")}
    facts["base_fingerprint"] = model.base_fingerprint if any(facts.values()) else None
    facts["object_px"] = manifest.object_px
    boxes = boxes_of(manifest, model)
    facts["boxes"] = None if boxes is None else f"{zlib.crc32(boxes.tobytes()):08x}"
    return {name: value for name, value in facts.items() if value is not None}


def variant_name(image_size: int | str | None, pooling: str | None) -> str:
    """Return what the default ID of a set says after its padding of input size and pooling: `@314`, `-box`, `@314-gem`, or ''."""
    size = "" if image_size is None else f"@{image_size}"
    return f"{size}-{pooling.replace('+', '-')}" if pooling else size  # a + joins IDs


def boxes_of(manifest: Manifest, model: Model) -> np.ndarray | None:
    """Return where the object lies in each crop, (n, 4) float32, for a model that pools over it; None for others.

    Raises UsageError where that is not known.
    """
    if model.options.get("pooling") != BOX:
        return None
    if manifest.boxes is None:
        raise messages.UsageError(
            f"{manifest.root} does not say where the object lies in its crops, which --pooling box needs; "
            "cut them with crop.py (--overwrite for older ones), or choose another --pooling"
        )
    return manifest.boxes


def _tell_apart(parts: Sequence[Part]) -> None:
    """Warn where folders of another padding each are data sets of their own: their crops would never be compared."""
    named = list(dict.fromkeys((part.names["dataset_name"], part.manifest.padding) for part in parts))
    if len(named) > 1 and all(len(set(each)) == len(named) for each in zip(*named, strict=True)):
        some = ", ".join(name for name, _ in named[:3]) + " …" * (len(named) > 3)
        messages.warn(
            f"the folders' names make {len(named)} data sets ({some}); if they are paddings of the same crops, "
            "--company_name NAME makes them one"
        )


def tell_other_names(folder: Path, parts: Sequence[Part]) -> None:
    """Warn where the folder has these crops at another padding as another data set, as a loop over paddings makes them."""
    for part in parts:
        if other := output_set.other_name_of(folder, part.names, part.manifest):
            messages.warn(
                f"{folder} has these crops at another padding as data set {other}, here it is {part.names['dataset_name']}: the "
                "evaluation takes them as one, search and viewer as two; the same --company_name NAME makes them one"
            )
            return


def name_sets(
    chosen: Sequence[tuple[Manifest, Manifest]],
    folders: Sequence[str] | None,
    model: str,
    identity: str | None,
    company_name: str | None,
    variant: str = "",
) -> list[Part]:
    """Return each split of each data root with its set's names; raises UsageError where two sets would share a file.

    chosen: for each data root the images to embed, and all there are. identity: the sets' ID, which may hold {padding} and {model}.
    variant: what the ID has after the padding where no identity is given, see variant_name.
    """
    model_name = Path(model).stem if Path(model).exists() else model
    parts: list[Part] = []
    made: dict[tuple[str, ...], Manifest] = {}
    for manifest, whole in chosen:
        set_id = identity or f"{{padding}}{variant}"
        set_id = set_id.replace("{padding}", manifest.padding or "0").replace("{model}", model_name)
        for split in dict.fromkeys(manifest.splits):
            dataset = files.without_bytes(company_name or manifest.root.resolve().name)
            names = {"dataset_name": dataset, "id": set_id, "split": split}
            other = made.setdefault(tuple(names.values()), manifest)
            if other is not manifest:
                both = f"{other.root} and {manifest.root}"
                if other.root == manifest.root:
                    both = f"the paddings {other.padding} and {manifest.padding}"
                raise messages.UsageError(
                    f"{both} both make the set {'_'.join(names.values())}; embed them with two --id, or {{padding}} in it"
                )
            images, all_images = (
                each.take([row for row, row_split in enumerate(each.splits) if row_split == split])
                for each in (manifest, whole)
            )
            parts.append(Part(names, images, all_images, tuple(folders or ())))
    _tell_apart(parts)
    return parts


def refuse_unnamed(folder: Path, datasets: Collection[str]) -> None:
    """Raise UsageError where the folder's sets of these data sets are all of other models than the default: which one is meant?"""
    made = output_set.models_of(folder, datasets)
    if made and DEFAULT not in map(full_name, made.values()):
        path, model = next(iter(made.items()))
        short = {name: alias for alias, name in ALIASES.items()}
        default, earlier = short[DEFAULT], short.get(model, model)
        raise messages.UsageError(
            f"{path} was made with {model}, and the default is {default}: add --model {earlier} to go on with it, "
            f"--model {default} and another --id to have both, --overwrite to replace it, or another --output_root"
        )


def write_set(part: Part, model: Model, options: Options, *, n_images: int) -> list[Path]:
    """Write the embedding set of one split and return its files; one that is complete already stays as it is.

    A set of some folders is extended by further ones. n_images: how many the whole run embeds. Raises UserError for a set of
    another record, and where no image gave a vector.
    """
    output = OutputSet(options.output_root, part.stem)
    with output.locked():
        extended = None if options.overwrite else _extended(output, part)
        part = extended or part
        manifest = part.manifest
        wanted = asked_for(part, model, options)
        anew = options.overwrite or (extended is not None and not output.has(wanted["input"]))
        record = output.earlier(wanted, overwrite=anew)
        if record and output.is_complete() and not anew:
            if options.verify:
                output.verify(images.contents(manifest.root, manifest.paths, options.workers))
            messages.note(f"{output.stem}: complete already")
            return checked(output, options)
        if extended is not None:
            messages.note(f"{output.stem}: embedded anew with further folders, {len(manifest):,} images")
        paths = [manifest.root / path for path in manifest.paths]

        def load(row: int) -> np.ndarray:
            return images.decode(paths[row], max_pixels=options.max_pixels, background=COLORS[options.background])

        tell_enlarged(load, model)
        arithmetic.choose(
            model, record, output, wanted, load, **options.arithmetic, n_images=n_images, n_rows=len(paths)
        )
        contents = images.contents(manifest.root, manifest.paths, options.workers)  # before they are embedded
        record = {**wanted, **asdict(arithmetic.of(model)), "contents": contents}
        _embed(model, output, record, manifest, paths, options)
    return checked(output, options)


def _extended(output: OutputSet, part: Part) -> Part | None:
    """Return `part` with the images of the finished set too, where one of the two is of some --folders only.

    None where there is no such set, its images have changed, or nothing says that it is of some folders.
    """
    finished = output.finished() if output.found() else None
    if finished is None:
        return None
    meta, done = finished
    earlier = tuple(str(name) for name in meta.get("folders") or ())
    if not earlier and not part.folders:
        return None
    asked = {*part.manifest.paths}
    rows = [row for row, path in enumerate(part.whole.paths) if path in done]
    if len(rows) != len(done) or digest(part.whole.take(rows)) != meta.get("input"):
        return None
    if asked <= done:
        return replace(part, manifest=part.whole.take(rows), folders=earlier)
    if not earlier:
        return None
    together = [row for row, path in enumerate(part.whole.paths) if path in done or path in asked]
    folders = tuple(sorted({*earlier, *part.folders})) if part.folders else ()
    return replace(part, manifest=part.whole.take(together), folders=folders)


def note_speed(folder: Path, model: Model, set_id: str, n_images: int, seconds: float) -> None:
    """Add a run to the models.csv of the folder: one row a model, precision, processor and ID, its images and seconds added up."""
    from engines.precision import processor

    names = ("model", "fingerprint", "precision", "processor", "weights", "images", "seconds", "id")
    how = computed(model.precision, model.engine)
    key = (model.spec, model.fingerprint, how, processor(model.device), set_id)
    path = folder / MODELS_CSV
    try:
        with files.locked(folder / f".{MODELS_CSV}.lock", wait=True):
            rows = {tuple(row[name] for name in (*names[:4], "id")): row for row in _read_speeds(path, names)}
            old = rows.get(key, {})
            total = [int(old.get("images", 0)) + n_images, float(old.get("seconds", 0)) + seconds]
            values = (*key[:4], getattr(model, "n_weights", ""), total[0], f"{total[1]:.3f}", set_id)
            rows[key] = dict(zip(names, map(str, values), strict=True))
            text = table_files.csv_text(names, ([row[name] for name in names] for row in rows.values()))
            files.write_text(path, text)
    # The set itself is written; its speed is not worth a failure.
    except (messages.UserError, OSError, ValueError) as error:
        messages.warn(f"the speed of this run is not noted in {path}: {messages.shorten(error)}")


def _read_speeds(path: Path, names: Sequence[str]) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    header, rows = table_files.read_csv(path, "repair or remove it")
    if not set(names[:-1]) <= {*header}:
        return []
    return [{"id": "", **dict(zip(header, row, strict=True))} for row in rows]  # an older version noted no IDs


def _embed(
    model: Model, output: OutputSet, record: dict[str, Any], manifest: Manifest, paths: list[Path], options: Options
) -> None:
    """Embed the images that the unfinished run has left, and write the set."""
    rows = output.open(record, model.dim)
    done = first = min(rows.batches * options.batch_size, len(paths))
    if first:
        messages.note(f"{output.stem}: going on after {first:,} of {len(paths):,} images")
    pace = extraction.Pace()
    try:
        with messages.progress(total=len(paths), desc=output.stem, unit="image") as bar:
            bar.update(first)
            batches = model.embed(
                paths,
                batch_size=options.batch_size,
                workers=options.workers,
                first_batch=rows.batches,
                filled_to=options.batch_size if model.compiled else None,  # for which it was compiled
                max_pixels=options.max_pixels,
                background=options.background,
                pace=pace,
                boxes=boxes_of(manifest, model),
            )
            for batch in batches:
                rows.append(knn.unit(batch.vectors) if options.normalize else batch.vectors, batch.skipped)
                done = batch.rows.stop
                bar.update(len(batch.rows))
    except KeyboardInterrupt:
        messages.note(f"{output.stem}: {done:,} of {len(paths):,} images done")
        raise
    skipped = messages.tally(reason for _, reason in rows.skipped)
    if not rows.rows:
        raise messages.UserError(f"{manifest.root}: no image of split {record['split']} gave a vector ({skipped})")
    n_new = len(paths) - first
    output.write(manifest, rows, record, spreadsheet_safe=options.spreadsheet_safe)
    note_speed(options.output_root, model, record["id"], n_new, pace.wall)
    messages.note(
        f"{output.stem}: {messages.count(rows.rows, 'row')} of {rows.dim} numbers, {len(rows.skipped)} skipped"
        f"{f' ({skipped}), see {output.skipped_csv}' if skipped else ''}; {n_new / max(pace.wall, 1e-9):,.1f} images/s"
    )
    messages.detail(f"{output.stem}: {extraction.describe(pace)}")


def tell_enlarged(load: Callable[[int], np.ndarray], model: Model) -> None:
    """Warn where the first image is smaller than the input size that was asked for: its photo may have more pixels."""
    size = model.options.get("image_size")
    with contextlib.suppress(images.ImageError):
        if isinstance(size, int) and max((image := load(0)).shape[:2]) < size:
            messages.warn_once(
                "enlarged",
                f"crops of {image.shape[1]} x {image.shape[0]} pixels are enlarged to {size}; where the photos have more "
                "pixels, cut larger crops: --object_px, or --post_padding_method none",
            )


def checked(output: OutputSet, options: Options) -> list[Path]:
    """Return the files of a complete set; raises UserError under --strict when images are missing from it."""
    if options.strict and output.skipped_csv.exists():
        raise messages.UserError(
            f"{output.skipped_csv}: images were skipped, and --strict is given; repair or remove them"
        )
    return output.found()


def file_name(text: str) -> str:
    """Return `text` as a part of a file's name."""
    return text.replace("/", "__").replace("\0", "")
