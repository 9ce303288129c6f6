#!/usr/bin/env python3
"""Train or fine-tune an embedding model (triplet) or a classifier on crops.

  python train.py --data_root crops/ --objective triplet --output trained/triplet
  python train.py --data_root crops/ --objective classifier --output trained/classifier
  python train.py --data_root crops/ --objective classifier --freeze_backbone --output trained/linear
  python train.py --npz embeddings/shelf_0_*.npz --objective classifier --freeze_backbone --output trained/linear
  python train.py --data_root crops/ --objective triplet --model siamese --output trained/siamese

Writes a checkpoint folder, which --model of the other scripts takes, with training.csv and training.png. Only the training split is
learnt from; the model is chosen on the validation split (part of the training split, by photo, where there is none), and the
table printed at the end is of the test split, where there is one. A run that was killed goes on where it was, with the same result.
--model takes what extract_embedding.py takes, and siamese: a small network for 64 px and any other size.
--npz learns from embeddings that are there, without their images; the model that made them goes into the checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, files, messages, table_files

if TYPE_CHECKING:
    import torch

    from training.data import Reader
    from training.network import Start
    from training.objectives import Settings


def train(reader: Reader, started: Start, settings: Settings, output: Path, device: torch.device) -> None:
    """Train and write the checkpoint folder."""
    import pandas as pd

    from backbones import checkpoint
    from plots import maps
    from training import data, loop, output_folder, scores
    from training.network import Network, before_training

    triplet, vary = settings.objective == "triplet", not settings.freeze_backbone
    data_name = reader.manifest.root.resolve().name
    divided, train_images, val_images = data.prepare(reader, vary=vary, seed=settings.seed)
    pretrained = settings.model != "siamese" and settings.weights != "random"
    top, outputs = ("projection", settings.embedding_dim) if triplet else ("head", len(divided.classes))
    dim = reader.vectors.shape[1] if isinstance(reader, data.VectorReader) else None
    network = Network(started, top, outputs, pretrained=pretrained, seed=settings.seed, dim=dim).to(device)
    state_file = output_folder.state_file(output)
    rows = loop.learn(network, divided, train_images, val_images, reader, settings, state_file)
    del train_images  # what follows reads other images
    if triplet:
        before = None
        if pretrained:
            before = before_training(settings.model, settings.weights, settings.image_size, settings.seed, dim).to(
                device
            )
        metrics = scores.judge_embedding(network, before, divided, val_images, reader)
    else:
        metrics = scores.judge_classifier(network, divided, val_images, reader)
    table_files.write(output / output_folder.CURVE, pd.DataFrame(rows))
    title = f"{settings.objective}, {settings.model}, {data_name}"
    maps.training_curve(output / "training.png", rows, "Recall@1" if triplet else "Accuracy", title)
    checkpoint.save(
        output,
        spec=started.spec,
        options=started.pooled,
        preprocess=started.backbone.preprocess,
        state=network.state(),
        classes=divided.classes,
        temperature=metrics.pop("temperature", None),
        training=vars(settings) | {"data_root": data_name},
        metrics=metrics,
    )
    output_folder.forget_state(output)


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    add("--data_root", type=Path, help="crops folder, or folder of class folders")
    add("--npz", nargs="+", metavar="NPZ", help="with --freeze_backbone: embedding sets, in place of images")
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the checkpoint")
    add("--objective", choices=("triplet", "classifier"), required=True, help="an embedding model, or a classifier")
    add("--model", metavar="SPEC", help="the model to start from (default: lite2, or that of --npz)")
    add("--weights", metavar="FILE", help="state dict for the model, or 'random' (default: the model's own)")
    add("--weights_key", metavar="KEY", help="which network of the file, where it holds several, such as teacher")
    add("--freeze_backbone", action="store_true", help="train the layer on top only, on features computed once")
    add("--image_size", type=cli.whole(8, 4096), metavar="PX", help="side of the input (default: the model's)")
    for part, known in (("train", "train"), ("val", "val, valid or validation"), ("test", "test")):
        add(f"--{part}_split", metavar="NAME", help=f"name of this split (default: {known}, where there is one)")
    add("--label_level", type=cli.whole(0), metavar="L", help="label level that is learnt (default: the deepest)")
    loop = parser.add_argument_group("training").add_argument
    loop("--epochs", type=cli.whole(1), default=50, metavar="N", help="at most so many passes over the training split")
    loop("--batch_size", type=cli.whole(2, 65536), default=32, metavar="N", help="images in one batch")
    loop("--lr", type=cli.number(1e-8, 10), default=1e-3, metavar="X", help="highest learning rate")
    loop("--patience", type=cli.whole(1), default=30, metavar="N", help="stop after N epochs that are no better")
    cli.add_seed(parser)
    metric = parser.add_argument_group("triplet only").add_argument
    metric("--embedding_dim", type=cli.whole(2, 65536), default=128, metavar="N", help="numbers in an embedding")
    losses, miners = ("triplet", "multi_similarity", "supcon"), ("none", "semihard", "hard", "multi_similarity")
    metric("--loss", choices=losses, default="multi_similarity", help="what is minimised")
    metric("--miner", choices=miners, default="multi_similarity", help="which pairs count")
    metric("--margin", type=cli.number(0, 2), default=0.2, metavar="X", help="of the triplet loss and the miners")
    metric("--per_class", type=cli.whole(2, 65536), default=4, metavar="N", help="images of one class in a batch")
    machine = parser.add_argument_group("machine").add_argument
    machine("--workers", type=cli.whole(1, 1024), default=cli.cores(), metavar="N", help="decoding threads")
    machine("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    machine("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 on a GPU, fp32 on a CPU")
    cli.add_spreadsheet_safe(parser, "skipped.csv")
    machine("--overwrite", action="store_true", help="replace a model trained with other options or data")
    return parser


def run(args: argparse.Namespace) -> None:
    from dataclasses import fields

    from backbones import checkpoint, weights
    from backbones.backbone import fingerprint, pick_device
    from common.embedding_sets import read_sets
    from embedding.output_set import digest
    from training import data, network, output_folder, scores
    from training.images import ImageReader
    from training.objectives import Settings

    if bool(args.npz) == bool(args.data_root):
        raise messages.UsageError(
            "name images with --data_root, or embeddings that are there with --npz, one of the two"
        )
    if args.npz and (args.image_size or not args.freeze_backbone):
        raise messages.UsageError("--npz goes with --freeze_backbone and without --image_size: its vectors are made")
    device = pick_device(args.device)
    options = {field.name: getattr(args, field.name) for field in fields(Settings)}
    options["precision"] = ("bf16" if device.type == "cuda" else "fp32") if args.precision == "auto" else args.precision
    options["weights"] = weights.named_in(args.weights, args.weights_key)
    splits = {part: options[f"{part}_split"] for part in data.SPLITS}
    reader: data.Reader
    if args.npz:
        reader = data.VectorReader(read_sets(args.npz), splits=splits, label_level=args.label_level)
        started = network.recorded(reader.model, reader.source, args.model, options["weights"])
        options["model"], made_from = started.spec, reader.digest()
    else:
        options["model"] = weights.full_name(args.model or weights.DEFAULT)
        manifest = data.read(args.data_root, splits=splits, label_level=args.label_level)
        started = network.start(options["model"], options["weights"], args.image_size, args.seed)
        made_from = digest(manifest)
        skipped, safe = args.output / output_folder.SKIPPED, args.spreadsheet_safe
        preprocess = started.backbone.preprocess
        reader = ImageReader(manifest, preprocess, workers=args.workers, skipped=skipped, safe=safe)
    settings = Settings(**options)
    record = {**vars(settings), "input": made_from, "fingerprint": fingerprint(started.backbone)}
    with files.locked(args.output / output_folder.LOCK):
        if output_folder.begin(args.output, record, overwrite=args.overwrite):
            messages.note(f"{args.output}: complete already")
            wrote = ""
        else:
            train(reader, started, settings, args.output, device)
            wrote = f"\n\nwrote {args.output}"
    print(f"{scores.describe(checkpoint.describe(args.output))}{wrote}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
