#!/usr/bin/env python3
"""Turn crops into embeddings with any PyTorch model: one .npz for each split.

  python extract_embedding.py --data_root cropped_images/
  python extract_embedding.py --data_root crops/pad_* --company_name shelf --splits train test
  python extract_embedding.py --data_root photos/ --model torchvision/resnet50 --weights resnet50.safetensors --layer layer3
  python extract_embedding.py --data_root crops/ --model my_package.models:make_encoder --batch_size 32

Writes <output_root>/<company_name>_<ID>_<split>.npz. A run that was killed goes on where it was, with the same result.
--model takes a timm name (bare or timm/NAME), torchvision/NAME, hf/ID or hf/FOLDER, a TorchScript or torch.export file,
a checkpoint folder, or package.module:factory. The default needs no model hub.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, knn, messages

if TYPE_CHECKING:
    from common.crops import Manifest
    from embedding.embedder import Embedder
    from embedding.output_set import OutputSet
    from ray_cluster.replicas import Replicas

COMPILE_FROM = 20_000  # images from which torch.compile pays for its own time on a CPU


def extract(
    manifest: Manifest, embedder: Embedder | Replicas, names: dict[str, str], args: argparse.Namespace
) -> list[Path]:
    """Write the embedding set of one split, going on where an earlier run stopped, and return its files."""
    from embedding import extraction
    from embedding.output_set import OutputSet, digest

    output = OutputSet(args.output_root, "_".join(file_name(names[key]) for key in ("dataset_name", "id", "split")))
    wanted: dict[str, Any] = {
        **names,
        "padding": manifest.padding or "",
        "model": embedder.spec,
        "model_options": embedder.options,
        "fingerprint": embedder.fingerprint,
        "preprocess": embedder.preprocess.as_dict(),
        "normalized": args.normalize,
        "batch_size": args.batch_size,
        "input": digest(manifest),
        "precision": None if args.precision == "auto" else args.precision,
        "compiled": None,
    }
    with output.locked():
        record = output.earlier(wanted, overwrite=args.overwrite)
        if record and output.is_complete() and not args.overwrite:
            messages.note(f"{output.stem}: complete already")
            return finish(output, output.found(), args)
        images = [manifest.root / path for path in manifest.paths]
        choose(embedder, record, lambda: output.precision_of_others(wanted), images, args)
        record = {**wanted, "precision": embedder.precision, "compiled": embedder.compiled}
        rows = output.open(record, embedder.dim)
        done = first = min(rows.batches * args.batch_size, len(images))
        if first:
            messages.note(f"{output.stem}: going on after {first:,} of {len(images):,} images")
        pace = extraction.Pace()
        options = {"batch_size": args.batch_size, "workers": args.workers, "max_pixels": args.max_pixels}
        embed = embedder.embed if args.cluster else partial(extraction.embed, embedder=embedder)
        try:
            with messages.progress(total=len(images), desc=output.stem, unit="image") as bar:
                bar.update(first)
                for batch in embed(images, **options, first_batch=rows.batches, pace=pace):
                    vectors = batch.vectors
                    rows.append(knn.unit(vectors) if args.normalize else vectors, batch.skipped)
                    done = batch.rows.stop
                    bar.update(len(batch.rows))
        except KeyboardInterrupt:
            messages.note(f"{output.stem}: {done:,} of {len(images):,} images done")
            raise
        skipped = messages.tally(reason for _, reason in rows.skipped)
        if not rows.rows:
            raise messages.UserError(f"{manifest.root}: no image of split {names['split']} gave a vector ({skipped})")
        paths = output.write(manifest, rows, record)
    messages.note(
        f"{output.stem}: {messages.count(rows.rows, 'row')} of {rows.dim} numbers, {len(rows.skipped)} skipped"
        f"{f' ({skipped}), see {output.skipped_csv}' if skipped else ''}; {extraction.describe(pace, len(images) - first)}"
    )
    return finish(output, paths, args)


def finish(output: OutputSet, paths: list[Path], args: argparse.Namespace) -> list[Path]:
    """Return the files of a complete set; raises UserError under --strict when images are missing from it."""
    if args.strict and output.skipped_csv.exists():
        raise messages.UserError(
            f"{output.skipped_csv}: images were skipped, and --strict is given; repair or remove them"
        )
    return paths


def choose(
    embedder: Embedder | Replicas,
    record: dict[str, Any] | None,
    beside: Callable[[], str | None],
    images: Sequence[Path],
    args: argparse.Namespace,
) -> None:
    """Set precision and compilation: those of the unfinished run, else that of the sets `beside`, else what pays."""
    from embedding import extraction

    sample = extraction.sample(images, embedder, max_pixels=args.max_pixels)
    if record is None and not embedder.settled:
        known = beside()
        embedder.settle(sample, known)
        messages.note(f"computing in {embedder.precision} on {embedder.device}")
        if known not in (None, embedder.precision):
            messages.note(
                f"{args.output_root} has sets of this model in {known}, which is not close enough to fp32 for these images; "
                "for all alike: --precision fp32 --overwrite"
            )
    if record is not None and (embedder.precision, embedder.compiled) != (record["precision"], record["compiled"]):
        embedder.use(record["precision"])
    pays = str(embedder.device) == "cpu" and args.n_images >= COMPILE_FROM
    compiled = record["compiled"] if record else args.compile == "on" or (args.compile == "auto" and pays)
    if compiled and not embedder.compiled and len(sample):
        seconds = embedder.compile(extraction.fill(sample, args.batch_size))
        if seconds is not None:
            messages.note(f"compiled in {seconds:.0f} s")
        elif record is not None:
            raise messages.UserError(
                "the unfinished run was compiled, which cannot be done now; add --overwrite to start anew"
            )


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    text = "crops folders, folders of class folders, or folders of images"
    add("--data_root", type=Path, nargs="+", required=True, metavar="DIR", help=text)
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
    add("--workers", type=cli.whole(1, 1024), default=cli.cores(), metavar="N", help="decoding threads")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add(
        "--precision",
        choices=("auto", "fp32", "mixed", "bf16", "fp16"),
        default="auto",
        help="auto: that of the model's sets beside it, else the fastest, if within cosine 0.9995 of fp32",
    )
    add(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help=f"torch.compile; auto: from {COMPILE_FROM:,} images",
    )
    cli.add_cluster(parser)
    add("--num_gpus", type=cli.number(0), metavar="G", help="with --cluster: GPUs of each model replica (default: 1)")
    add("--normalize", action="store_true", help="scale every vector to length 1")
    add("--max_pixels", type=cli.whole(1), default=200_000_000, metavar="N", help="skip larger images")
    add("--strict", action="store_true", help="fail when an image is skipped")
    add("--overwrite", action="store_true", help="replace sets made with other options, model or input")
    return parser


def file_name(text: str) -> str:
    """Return `text` as a part of a file's name."""
    return text.replace("/", "__").replace("\0", "")


def named(args: argparse.Namespace) -> list[tuple[Manifest, dict[str, str]]]:
    """Return each split of each data root with its set's names; raises UsageError where two sets would share a file."""
    from common import crops

    model = Path(args.model).stem if Path(args.model).exists() else args.model
    parts, roots = [], {}
    for root in dict.fromkeys(args.data_root):
        manifest = crops.read(root, folders=args.folders, splits=args.splits)
        identity = args.id or "{padding}"
        identity = identity.replace("{padding}", manifest.padding or "0").replace("{model}", model)
        for split in dict.fromkeys(manifest.splits):
            names = {"dataset_name": args.company_name or root.resolve().name, "id": identity, "split": split}
            other = roots.setdefault(tuple(names.values()), root)
            if other != root:
                raise messages.UsageError(
                    f"{other} and {root} both make the set {'_'.join(names.values())}; embed them with two --id"
                )
            parts.append((manifest.take([row for row, own in enumerate(manifest.splits) if own == split]), names))
    return parts


def run(args: argparse.Namespace) -> None:
    if args.num_gpus is not None and not args.cluster:
        raise messages.UsageError("--num_gpus goes with --cluster; one machine's GPU is chosen by --device")
    parts = named(args)
    args.n_images = sum(len(manifest) for manifest, _ in parts)
    options = {
        name: getattr(args, name) for name in ("weights", "layer", "pooling", "resize_mode", "device", "precision")
    }
    with contextlib.ExitStack() as stack:
        embedder: Embedder | Replicas
        if args.cluster:
            from ray_cluster import connection, replicas

            ray = stack.enter_context(connection.connected(args.cluster))
            embedder = replicas.Replicas(ray, args.model, args.num_gpus, **options)
        else:
            from embedding.embedder import load as load_model

            embedder = load_model(args.model, **options)
        for manifest, names in parts:
            for path in extract(manifest, embedder, names, args):
                print(path, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
