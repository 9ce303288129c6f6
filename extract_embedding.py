#!/usr/bin/env python3
"""Turn crops into embeddings with any PyTorch model: one .npz for each split.

  python extract_embedding.py --data_root cropped_images/
  python extract_embedding.py --data_root crops/pad_10/ --company_name shelf --id '{padding}' --splits train test
  python extract_embedding.py --data_root photos/ --model torchvision/resnet50 --weights resnet50.safetensors --layer layer3
  python extract_embedding.py --data_root crops/ --model my_package.models:make_encoder --batch_size 32

Writes <output_root>/<company_name>_<ID>_<split>.npz. A run that was killed goes on where it was, with the same result.
--model takes a timm name (bare or timm/NAME), torchvision/NAME, hf/ID or hf/FOLDER, a TorchScript or torch.export file,
a checkpoint folder of train.py, or package.module:factory. The default needs no model hub.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, files

if TYPE_CHECKING:
    from common.crops import Manifest
    from common.embedder import Embedder
    from common.rows import RowFile

SHARD_ROWS = 100_000
COMPILE_FROM = 20_000  # images from which torch.compile pays for its own time on a CPU


def input_digest(manifest: Manifest) -> str:
    """Return the sha256 of what the output is made from: each row's ids, labels, and its image's name, size and time."""
    digest = hashlib.sha256()
    for row, path in enumerate(manifest.paths):
        try:
            status = os.stat(manifest.root / path)
            state = [status.st_size, status.st_mtime_ns]
        except (OSError, ValueError):
            state = []
        entry = [path, manifest.sample_ids[row], manifest.crop_ids[row], manifest.labels[row].tolist(), state]
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()


def outputs_of(folder: Path, stem: str) -> list[Path]:
    """Return the files of the set `stem` that exist: its one file, or its shards."""
    pattern = re.compile(re.escape(stem) + r"(_\d{5}-of-\d{5})?\.npz")
    return sorted(path for path in folder.glob("*.npz") if pattern.fullmatch(path.name))


def targets(folder: Path, stem: str, n: int) -> list[Path]:
    """Return the files that n rows are written to."""
    shards = -(-n // SHARD_ROWS)
    names = [stem] if shards <= 1 else [f"{stem}_{at:05d}-of-{shards:05d}" for at in range(shards)]
    return [folder / f"{name}.npz" for name in names]


def is_complete(found: Sequence[Path], record: dict[str, Any], *, overwrite: bool) -> bool:
    """Return whether the files found are the finished set of `record`; raises UserError when they are another's."""
    from common import npz

    for path in found:
        meta = json.loads(str(npz.Archive(path).read("meta")))
        changed = [key for key, value in record.items() if meta.get(key) != value]
        if changed and overwrite:
            return False
        if changed:
            raise cli.UserError(
                f"{path} was made with another {', '.join(changed)}; add --overwrite, or choose another --id or --output_root"
            )
    return bool(found) and len(found) == (int(found[0].stem[-5:]) if "-of-" in found[0].stem else 1)


def save(
    manifest: Manifest, rows: RowFile, record: dict[str, Any], folder: Path, stem: str, partial: Path
) -> list[Path]:
    """Write the set, in shards where it is large, and return the files."""
    import numpy as np

    from common import embeddings

    bad = {row for row, _ in rows.skipped}
    kept = manifest.take([row for row in range(len(manifest)) if row not in bad])
    texts = {name: np.array(getattr(kept, name), str) for name in ("crop_ids", "sample_ids", "paths")}
    meta = {**record, "data_root": str(manifest.root.resolve())}
    whole = embeddings.EmbeddingSet(rows.vectors, kept.labels, **texts, meta=meta)
    paths = targets(folder, stem, len(kept))
    for path in set(outputs_of(folder, stem)) - {*paths}:
        path.unlink()
    for at, path in enumerate(paths):
        embeddings.save(partial / path.name, whole.take(slice(at * SHARD_ROWS, (at + 1) * SHARD_ROWS)))
        os.replace(partial / path.name, path)
    return paths


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    add("--data_root", type=Path, required=True, help="crops folder, folder of class folders, or folder of images")
    add("--folders", nargs="+", metavar="NAME", help="class folders to take (default: all)")
    add("--splits", nargs="+", metavar="NAME", help="splits to take (default: all)")
    add("--company_name", metavar="NAME", help="the data set's name (default: the data root's name)")
    add("--output_root", type=Path, default=Path("embeddings"), help="folder for the .npz files")
    add("--id", help="the sets' ID; may hold {padding} and {model} (default: the padding)")
    add("--model", default="tf_efficientnet_lite0", metavar="SPEC", help="the model, see above")
    add("--weights", metavar="FILE", help="state dict for the model, or 'random' for timing (default: the model's own)")
    add("--layer", metavar="NAME", help="take the output of this inner layer (default: the last before the classifier)")
    add("--pooling", choices=("cls", "mean"), help="from tokens to one vector (default: the model's own)")
    add("--resize_mode", choices=("squash", "letterbox", "model"), default="squash", help="how a crop fits the input")
    add("--batch_size", type=cli.whole(1, 65536), default=64, metavar="N", help="images in one batch")
    add("--workers", type=cli.whole(1, 1024), default=_cores(), metavar="N", help="decoding threads")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="auto: bf16 where it is fast")
    add(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help=f"torch.compile; auto: from {COMPILE_FROM:,} images",
    )
    add("--normalize", action="store_true", help="scale every vector to length 1")
    add("--max_pixels", type=cli.whole(1), default=200_000_000, metavar="N", help="skip larger images")
    add("--strict", action="store_true", help="fail when an image is skipped")
    add("--overwrite", action="store_true", help="replace sets made with other options, model or input")
    return parser


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def extract(manifest: Manifest, embedder: Embedder, names: dict[str, str], args: argparse.Namespace) -> list[Path]:
    """Write the embedding set of one split, going on where an earlier run stopped, and return its files."""
    from common import extraction
    from common.rows import RowFile

    stem = "_".join(file_name(names[key]) for key in ("dataset_name", "id", "split"))
    folder, partial = args.output_root, args.output_root / f".{stem}.partial"
    record: dict[str, Any] = {
        **names,
        "padding": manifest.padding,
        "model": embedder.spec,
        **embedder.options,
        "fingerprint": embedder.fingerprint,
        "preprocess": embedder.preprocess.as_dict(),
        "normalized": args.normalize,
        "batch_size": args.batch_size,
        "input": input_digest(manifest),
    }
    with files.locked(folder / f".{stem}.lock"):
        found = outputs_of(folder, stem)
        if is_complete(found, record, overwrite=args.overwrite) and not args.overwrite:
            cli.note(f"{stem}: complete already")
            return found
        if not files.claim(partial / "record.json", record, overwrite=args.overwrite):
            for path in partial.glob("*.*"):
                if path.name != "record.json":
                    path.unlink()
        rows = RowFile(partial, embedder.dim)
        if rows.batches:
            cli.note(f"{stem}: going on after {rows.rows + len(rows.skipped):,} of {len(manifest):,} images")
        pace = extraction.Pace()
        first = rows.rows + len(rows.skipped)
        batches = extraction.embed(
            [manifest.root / path for path in manifest.paths],
            embedder,
            batch_size=args.batch_size,
            workers=args.workers,
            first_batch=rows.batches,
            max_pixels=args.max_pixels,
            pace=pace,
        )
        with cli.progress(total=len(manifest), desc=stem, unit="image") as bar:
            bar.update(first)
            for batch in batches:
                vectors = batch.vectors
                if args.normalize:
                    vectors = vectors / (vectors**2).sum(1, keepdims=True) ** 0.5
                rows.append(vectors, batch.skipped)
                bar.update(len(batch.rows))
        for row, reason in rows.skipped:
            cli.warn(f"{manifest.root / manifest.paths[row]} skipped: {reason}")
        if not rows.rows:
            raise cli.UserError(f"{manifest.root}: no image of split {names['split']} gave a vector")
        paths = save(manifest, rows, record, folder, stem, partial)
        shutil.rmtree(partial)
    cli.note(
        f"{stem}: {cli.count(rows.rows, 'row')} of {rows.dim} numbers, {len(rows.skipped)} skipped; "
        f"{extraction.describe(pace, len(manifest) - first)}"
    )
    return paths


def file_name(text: str) -> str:
    """Return `text` as a part of a file's name."""
    return text.replace("/", "__").replace("\0", "")


def run(args: argparse.Namespace) -> None:
    from common import crops, models

    manifest = crops.read(args.data_root, folders=args.folders, splits=args.splits)
    embedder = models.load(
        args.model,
        weights=args.weights,
        layer=args.layer,
        pooling=args.pooling,
        resize_mode=args.resize_mode,
        device=args.device,
        precision=args.precision,
    )
    padding = manifest.padding or "0"
    names = {
        "dataset_name": args.company_name or args.data_root.resolve().name,
        "id": (args.id or "{padding}").replace("{padding}", padding).replace("{model}", args.model),
    }
    for split in dict.fromkeys(manifest.splits):
        part = manifest.take([row for row, own in enumerate(manifest.splits) if own == split])
        for path in extract(part, embedder, {**names, "split": split}, args):
            print(path)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
