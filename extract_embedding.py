#!/usr/bin/env python3
"""Turn crops into embeddings with any PyTorch model: one .npz for each split.

  python extract_embedding.py --data_root cropped_images/
  python extract_embedding.py --data_root crops/pad_* --company_name shelf --splits train test
  python extract_embedding.py --data_root photos/ --model torchvision/resnet50 --weights resnet50.safetensors --layer layer3
  python extract_embedding.py --data_root crops/ --model my_package.models:make_encoder --batch_size 32

Writes <output_root>/<company_name>_<ID>_<split>.npz. A run that was killed goes on where it was, with the same result.
--model takes a timm name (bare or timm/NAME), torchvision/NAME, hf/ID or hf/FOLDER, a TorchScript or torch.export file,
a checkpoint folder, or package.module:factory. The default needs no model hub, and neither does lite2, a larger one at 260 px.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, files, messages
from cropping import photo_splits

if TYPE_CHECKING:
    from embedding.set_writer import Model, Part
    from imaging.crops import Manifest


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    text = "crops folders, folders of class folders, or folders of images"
    add("--data_root", type=Path, nargs="+", metavar="DIR", help=text)
    text = "class folders to take (default: all); without --data_root, data roots"
    add("--folders", nargs="+", metavar="NAME", help=text)
    add("--splits", nargs="+", metavar="NAME", help="splits to take (default: all)")
    photo_splits.add_options(parser)
    add("--company_name", metavar="NAME", help="the data set's name (default: the data root's name)")
    add("--output_root", type=Path, default=Path("embeddings"), help="folder for the .npz files")
    add("--id", help="the sets' ID; may hold {padding} and {model} (default: the padding)")
    add("--model", default="tf_efficientnet_lite0", metavar="SPEC", help="the model, see above")
    add("--weights", metavar="FILE", help="state dict for the model, or 'random' for timing (default: the model's own)")
    text = "which network of the file, where it holds several, such as teacher (default: the one that is clearly meant)"
    add("--weights_key", metavar="KEY", help=text)
    add("--layer", metavar="NAME", help="take the output of this inner layer (default: the last before the classifier)")
    poolings = ("cls", "mean", "gem", "max", "mean+max")
    add("--pooling", choices=poolings, help="from cells or tokens to one vector (default: the model's own)")
    add("--resize_mode", choices=("squash", "letterbox", "model"), default="squash", help="how a crop fits the input")
    add("--batch_size", type=cli.whole(1, 65536), default=64, metavar="N", help="images in one batch")
    add("--workers", type=cli.whole(1, 1024), default=cli.cores(), metavar="N", help="decoding threads")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    text = "auto: that of existing sets of this model; else the fastest that stays within cosine 0.9995 of fp32"
    add("--precision", choices=("auto", "fp32", "mixed", "bf16", "fp16"), default="auto", help=text)
    text = "torch.compile; auto: from 20,000 images on a CPU"
    add("--compile", choices=("auto", "on", "off"), default="auto", help=text)
    cli.add_cluster(parser)
    add("--num_gpus", type=cli.number(0), metavar="G", help="with --cluster: GPUs of each model replica (default: 1)")
    add("--normalize", action="store_true", help="scale every vector to length 1")
    cli.add_max_pixels(parser)
    add("--strict", action="store_true", help="fail when an image is skipped")
    cli.add_verify(parser, "embedded")
    cli.add_spreadsheet_safe(parser, "the list of skipped images")
    add("--overwrite", action="store_true", help="replace sets made with other options, model or input")
    return parser


def name_sets(
    chosen: Sequence[tuple[Manifest, Manifest]],
    folders: Sequence[str] | None,
    model: str,
    identity: str | None,
    company_name: str | None,
) -> list[Part]:
    """Return each split of each data root with its set's names; raises UsageError where two sets would share a file.

    chosen: for each data root the images to embed, and all there are. identity: the sets' ID, which may hold {padding} and {model}.
    """
    from embedding.set_writer import Part

    model_name = Path(model).stem if Path(model).exists() else model
    parts: list[Part] = []
    roots: dict[tuple[str, ...], Path] = {}
    for manifest, whole in chosen:
        set_id = (identity or "{padding}").replace("{padding}", manifest.padding or "0").replace("{model}", model_name)
        for split in dict.fromkeys(manifest.splits):
            dataset = files.without_bytes(company_name or manifest.root.resolve().name)
            names = {"dataset_name": dataset, "id": set_id, "split": split}
            other = roots.setdefault(tuple(names.values()), manifest.root)
            if other != manifest.root:
                raise messages.UsageError(
                    f"{other} and {manifest.root} both make the set {'_'.join(names.values())}; embed them with two --id"
                )
            images, all_images = (
                each.take([row for row, row_split in enumerate(each.splits) if row_split == split])
                for each in (manifest, whole)
            )
            parts.append(Part(names, images, all_images, tuple(folders or ())))
    return parts


def read_manifests(
    roots: Sequence[Path],
    folders: Sequence[str] | None,
    splits: Sequence[str] | None,
    drawing: photo_splits.Drawing | None,
    *,
    strict: bool,
) -> list[tuple[Manifest, Manifest]]:
    """Return for each data root the images of the folders and splits that are asked for, and those of all folders.

    `drawing`: splits that are drawn anew, from all folders, so that a further folder moves no photo.
    """
    from imaging import crops

    wanted = None if drawing else splits
    wholes = [crops.read(root, splits=wanted, strict=strict) for root in roots]
    if drawing:
        wholes = photo_splits.split_manifests(wholes, drawing, splits)
    if not folders:
        return [(whole, whole) for whole in wholes]
    chosen = []
    for root, whole in zip(roots, wholes, strict=True):
        paths = {*crops.read(root, folders=folders, splits=wanted, strict=strict).paths}
        chosen.append((whole.take([row for row, path in enumerate(whole.paths) if path in paths]), whole))
    return chosen


def data_roots(roots: Sequence[Path] | None, folders: Sequence[str] | None) -> tuple[list[Path], Sequence[str] | None]:
    """Return the data roots and the class folders; without --data_root, --folders names the roots, as in an older script."""
    if roots is not None:
        return list(dict.fromkeys(roots)), folders
    missing = [folder for folder in folders or () if not Path(folder).is_dir()]
    if missing or not folders:
        raise messages.UsageError(f"name the crops with --data_root{f'; {missing[0]} is no folder' if missing else ''}")
    return [Path(folder) for folder in dict.fromkeys(folders)], None


def run(args: argparse.Namespace) -> None:
    from dataclasses import fields

    from embedding.set_writer import Options, write_set

    if args.num_gpus is not None and not args.cluster:
        raise messages.UsageError("--num_gpus goes with --cluster; one machine's GPU is chosen by --device")
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    drawing = photo_splits.Drawing(args.split_by_photo, args.group_by, args.seed) if args.split_by_photo else None
    roots, folders = data_roots(args.data_root, args.folders)
    chosen = read_manifests(roots, folders, args.splits, drawing, strict=args.strict)
    parts = name_sets(chosen, folders, args.model, args.id, args.company_name)
    n_images = sum(len(part.manifest) for part in parts)
    about_model = ("weights", "weights_key", "layer", "pooling", "resize_mode", "device", "precision")
    loading = {name: getattr(args, name) for name in about_model}
    with contextlib.ExitStack() as stack:
        model: Model
        if args.cluster:
            from ray_cluster import connection, replicas

            cluster = stack.enter_context(connection.connected(args.cluster))
            model = replicas.Replicas(cluster, args.model, args.num_gpus, **loading)
        else:
            from embedding import embedder

            model = embedder.load(args.model, **loading)
        for part in parts:
            for path in write_set(part, model, options, n_images=n_images):
                print(path, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
