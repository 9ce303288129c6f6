#!/usr/bin/env python3
"""Turn crops into embeddings with any PyTorch model: one .npz for each split.

  python extract_embedding.py --data_root cropped_images/
  python extract_embedding.py --data_root crops/pad_* --company_name shelf --splits train test
  python extract_embedding.py --data_root photos/ --model torchvision/resnet50 --weights resnet50.safetensors --layer layer3
  python extract_embedding.py --data_root crops/ --model my_package.models:make_encoder --batch_size 32
  python extract_embedding.py --json_path annotations.json --image_folder images/ --padding_percent 0 10 20

Writes <output_root>/<company_name>_<ID>_<split>.npz. A run that was killed goes on where it was, with the same result.
--model takes a timm name (bare or timm/NAME), torchvision/NAME, hf/ID or hf/FOLDER, a TorchScript or torch.export file,
a checkpoint folder, or package.module:factory. The default needs no model hub, and neither does lite0, a smaller one at 224 px
in two thirds of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, messages
from cropping import options as cropping_options
from cropping import photo_splits
from imaging.colors import add_background

if TYPE_CHECKING:
    from annotations.records import Skipped
    from cropping import photos
    from embedding.arithmetic import Model
    from embedding.set_writer import Options, Part


def input_size(text: str) -> int | str:
    """Return the value of --image_size: pixels a side, or `crop`."""
    return text if text == "crop" else cli.whole(1, 8192)(text)


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    text = "crops folders, folders of class folders, or folders of images"
    add("--data_root", type=Path, nargs="+", metavar="DIR", help=text)
    text = "instead of crops: cut them from the photos as crop.py does, and write none"
    cropping_options.add_options(parser.add_argument_group("straight from annotations", text), required=False)
    text = "class folders to take (default: all); without --data_root, data roots"
    add("--folders", nargs="+", metavar="NAME", help=text)
    add("--splits", nargs="+", metavar="NAME", help="splits to take (default: all)")
    photo_splits.add_options(parser)
    add("--company_name", metavar="NAME", help="the data set's name (default: the data root's name)")
    add("--output_root", type=Path, default=Path("embeddings"), help="folder for the .npz files")
    text = "the sets' ID; may hold {padding} and {model} (default: the padding, then @image_size and -pooling if given)"
    add("--id", help=text)
    add("--model", metavar="SPEC", help="the model, see above (default: lite2, pooled by gem)")
    add("--weights", metavar="FILE", help="state dict for the model, or 'random' for timing (default: the model's own)")
    text = "which network of the file, where it holds several, such as teacher (default: the one that is clearly meant)"
    add("--weights_key", metavar="KEY", help=text)
    add("--layer", metavar="NAME", help="take the output of this inner layer (default: the last before the classifier)")
    poolings = ("cls", "mean", "gem", "max", "mean+max", "box")
    text = "from cells or tokens to one vector; box: of those over the object only (default: the model's own, gem of lite2)"
    add("--pooling", choices=poolings, help=text)
    text = "pixels a side of the model's input, or crop: crops go in at their own sizes (default: the model's own)"
    add("--image_size", type=input_size, metavar="PX", help=text)
    add("--resize_mode", choices=("squash", "letterbox", "model"), default="squash", help="how a crop fits the input")
    add("--batch_size", type=cli.whole(1, 65536), default=64, metavar="N", help="images in one batch")
    add("--workers", type=cli.whole(1, 1024), default=cli.cores(), metavar="N", help="decoding threads")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    text = "auto: that of existing sets of this model; else the fastest that stays within cosine 0.9995 of fp32"
    add("--precision", choices=("auto", "fp32", "mixed", "bf16", "fp16"), default="auto", help=text)
    cli.add_engine(parser, "existing sets of this model")
    text = "torch.compile; auto: from 20,000 images on a CPU"
    add("--compile", choices=("auto", "on", "off"), default="auto", help=text)
    add_background(parser)
    cli.add_cluster(parser)
    add("--num_gpus", type=cli.number(0), metavar="G", help="with --cluster: GPUs of each model replica (default: 1)")
    add("--normalize", action="store_true", help="scale every vector to length 1")
    cli.add_max_pixels(parser)
    add("--strict", action="store_true", help="fail when an image is skipped")
    cli.add_verify(parser, "embedded")
    cli.add_spreadsheet_safe(parser, "the list of skipped images")
    add("--overwrite", action="store_true", help="replace sets made with other options, model or input")
    return parser


def plan_cuts(values: Mapping[str, Any], drawing: photo_splits.Drawing | None) -> photos.Cuts:
    """Return the crops that the options of annotations, padding and style ask for; `values`: those of all options."""
    from cropping import photos, planning
    from cropping.cutter import Style

    styled = [field.name for field in fields(Style) if field.name not in ("image_format", "jpeg_quality")]
    style = Style(image_format="png", **{name: values[name] for name in styled})
    asked = cropping_options.Annotations(
        **{field.name: values[field.name] for field in fields(cropping_options.Annotations)}
    )
    paddings = planning.paddings(values["padding_percent"], values["w_pad"], values["h_pad"])
    return photos.Cuts(planning.read(asked, style, drawing), paddings, style)


def embed_cuts(cuts: photos.Cuts, parts: Sequence[Part], model: Model, options: Options) -> None:
    """Embed crops straight from their photos; print the files, and for each padding what became of the objects."""
    from cropping import crops_folder
    from embedding import joint_sets
    from imaging import crops

    written = joint_sets.write_sets(parts, cuts.photos([part.manifest for part in parts]), model, options)
    lists: dict[Path, list[Skipped]] = {}
    for padding in cuts.paddings:
        own = [(part, done) for part, done in zip(parts, written, strict=True) if part.manifest.padding == str(padding)]
        lost = {path: reason for _, done in own for path, reason in done.lost.items()}
        stem = own[0][0].stem.removesuffix(f"_{own[0][0].names['split']}")
        path = options.output_root / f"{stem}_{crops.SKIPPED}"
        lists[path] = cuts.skipped(padding, lost)
        if lists[path] or path.exists():
            crops_folder.write_skipped(path, lists[path], spreadsheet_safe=options.spreadsheet_safe)
        n_rows = sum(len(part.manifest) for part, _ in own) - len(lost)
        print(f"{stem}: {crops_folder.report('embedded', n_rows, n_rows, lists[path], path)}", file=sys.stderr)
        print(*(path for _, done in own for path in done.files), sep="\n", flush=True)
    for path, skipped in lists.items():
        if options.strict and skipped:
            raise messages.UserError(f"{path}: --strict forbids skipped objects; it names them")


def data_roots(roots: Sequence[Path] | None, folders: Sequence[str] | None) -> tuple[list[Path], Sequence[str] | None]:
    """Return the data roots and the class folders; without --data_root, --folders names the roots, as in an older script."""
    if roots is not None:
        return list(dict.fromkeys(roots)), folders
    missing = [folder for folder in folders or () if not Path(folder).is_dir()]
    if missing or not folders:
        raise messages.UsageError(f"name the crops with --data_root{f'; {missing[0]} is no folder' if missing else ''}")
    return [Path(folder) for folder in dict.fromkeys(folders)], None


def run(args: argparse.Namespace) -> None:
    from embedding import set_writer

    if args.num_gpus is not None and not args.cluster:
        raise messages.UsageError("--num_gpus goes with --cluster; one machine's GPU is chosen by --device")
    options = set_writer.Options(**{field.name: getattr(args, field.name) for field in fields(set_writer.Options)})
    drawing = photo_splits.Drawing(args.split_by_photo, args.group_by, args.seed) if args.split_by_photo else None
    given, cuts = cropping_options.given(vars(args)), None
    spec = args.model or set_writer.DEFAULT
    naming = spec, args.id, args.company_name, set_writer.variant_name(args.image_size, args.pooling)
    if args.json_path:
        if args.data_root or args.folders or args.cluster:
            raise messages.UsageError(
                "--json_path goes without --data_root, --folders and --cluster; crop.py writes crops"
            )
        if args.verify:
            raise messages.UsageError("--verify goes with --data_root; photos are known by size and time")
        cuts = plan_cuts(vars(args), drawing)
        manifests = [(manifest, manifest) for manifest in cuts.manifests(args.splits)]
        parts = set_writer.name_sets(manifests, None, *naming)
        parts = [replace(part, facts=cuts.facts(part.names["split"])) for part in parts]
    elif given:
        raise messages.UsageError(f"{given[0]} goes with --json_path; crops that lie in --data_root stay as they are")
    else:
        roots, folders = data_roots(args.data_root, args.folders)
        chosen = photo_splits.read_manifests(roots, folders, args.splits, drawing, strict=args.strict)
        parts = set_writer.name_sets(chosen, folders, *naming)
    if args.model is None and not args.overwrite:
        set_writer.refuse_unnamed(args.output_root, {part.names["dataset_name"] for part in parts})
    set_writer.tell_other_names(args.output_root, parts)
    about_model = ("weights", "weights_key", "layer", "pooling", "resize_mode", "device", "precision", "image_size")
    loading = {name: getattr(args, name) for name in about_model}
    with contextlib.ExitStack() as stack:
        model: Model
        if args.cluster:
            from ray_cluster import connection, replicas

            cluster = stack.enter_context(connection.connected(args.cluster))
            model = replicas.Replicas(cluster, spec, args.num_gpus, **loading)
        else:
            from embedding import embedder

            model = embedder.load(spec, **loading)
        if cuts:
            embed_cuts(cuts, parts, model, options)
        for part in () if cuts else parts:
            for path in set_writer.write_set(part, model, options, n_images=sum(len(each.manifest) for each in parts)):
                print(path, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
