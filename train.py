#!/usr/bin/env python3
"""Train or fine-tune an embedding model (triplet) or a classifier on crops.

  python train.py --data_root crops/ --objective triplet --output trained/triplet
  python train.py --data_root crops/ --objective classifier --output trained/classifier
  python train.py --data_root crops/ --objective classifier --freeze_backbone --output trained/linear
  python train.py --data_root crops/ --objective triplet --model siamese --output trained/siamese

Writes a checkpoint folder, which --model of the other scripts takes, with training.csv and training.png. Only the training split is
learnt from; the model is chosen on the validation split (part of the training split, by source image, where there is none), and the
table printed at the end is of the test split, where there is one. A run that was killed goes on where it was, with the same result.
--model takes what extract_embedding.py takes, and siamese: a small network for 64 px and any other size.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, messages
from training import losses

if TYPE_CHECKING:
    import numpy as np
    import torch

    from backbones.backbone import Backbone
    from common.crops import Manifest
    from training.data import Study
    from training.images import Pictures, Reader
    from training.network import Network

RECORD, STATE, LOCK = "train.json", ".training", ".lock"
RESULTS = ("model.json", "model.safetensors", "training.csv", "training.png", "training.svg", "skipped.csv")
DECIDING = (  # what the weights and their test depend on
    *("train_split", "val_split", "test_split"),
    *("objective", "model", "weights", "image_size", "embedding_dim", "freeze_backbone", "epochs", "batch_size", "lr"),
    *("loss", "miner", "margin", "per_class", "patience", "label_level", "precision", "seed"),
)


def learn(
    network: Network, study: Study, train: Pictures, val: Pictures, reader: Reader, args: argparse.Namespace
) -> list[dict[str, float]]:
    """Train the network, or its top layer alone on features computed once, and return the rows of training.csv."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import torch

    from training import batches, scores
    from training.images import Views, cut_mix
    from training.loop import Plan, fit
    from training.network import run as run_network

    triplet, labels, val_labels = args.objective == "triplet", study.labels("train"), study.labels("val")
    val_samples = study.samples[study.val]
    alone = triplet and scores.answerable(val_labels, val_samples) < 0.5
    if alone:
        messages.note("most validation images have no other of their class: their references are the training split")

    def groups(epoch: int) -> Iterator[np.ndarray]:
        rng = np.random.default_rng([args.seed, epoch])
        if triplet:
            return batches.balanced_batches(labels, args.batch_size, args.per_class, rng)
        return batches.shuffled_batches(len(labels), args.batch_size, rng)

    def batch_stream(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number, group in enumerate(groups(epoch)):
            rows, targets = inputs(epoch, number, group), labels[group]
            if not triplet:
                rng = np.random.default_rng([args.seed, epoch, number])
                rows, targets = cut_mix(rows, targets, len(study.classes), rng)
            yield torch.from_numpy(rows), torch.from_numpy(targets)

    def validate(module: torch.nn.Module) -> tuple[float, float]:
        outputs = run_network(module, val_inputs)
        if not triplet:
            return scores.classification(outputs, val_labels)
        references = (run_network(module, reference_inputs), labels, study.samples[study.train]) if alone else None
        return scores.retrieval((outputs, val_labels, val_samples), references)

    loss = losses.metric_loss(args.loss, args.miner, args.margin) if triplet else losses.classifier_loss
    options = {name: getattr(args, name) for name in ("epochs", "lr", "patience", "seed", "precision")}
    error = 0.5 / len(val_labels) ** 0.5  # the score's standard error, at most: smaller differences tell nothing
    plan = Plan(**options, steps=sum(1 for _ in groups(0)), resolution=error)
    state_file = args.output / STATE / "epoch.pt"
    if args.freeze_backbone:
        known, val_inputs = (run_network(network.features, pictures) for pictures in (train, val))
        if not triplet:
            return network.regress(known, labels, val_inputs, val_labels)
        reference_inputs, inputs = known, lambda epoch, number, group: known[group]
        return fit(network.top, batch_stream, loss, validate, plan, state_file=state_file)
    val_inputs, reference_inputs = val, reader(study.train, "reference")[1] if alone else val
    with ThreadPoolExecutor(args.workers, "view") as pool:
        inputs = Views(train, network.preprocess, seed=args.seed, pool=pool)
        return fit(network, batch_stream, loss, validate, plan, state_file=state_file)


def begin(args: argparse.Namespace, record: dict[str, Any]) -> bool:
    """Return whether an earlier run with this record has finished. With --overwrite, results of other runs are removed first."""
    from common import files

    path, begun = args.output / RECORD, args.output / STATE / "epoch.pt"
    there = [name for name in RESULTS if (args.output / name).exists()]
    if there and not path.is_file() and not args.overwrite:
        raise messages.UserError(
            f"{args.output} holds {there[0]}, which train.py has not made; name another --output, or add --overwrite"
        )

    def clear() -> None:
        shutil.rmtree(args.output / STATE, ignore_errors=True)
        for name in RESULTS:
            (args.output / name).unlink(missing_ok=True)

    def finished() -> bool:
        return (args.output / "model.json").is_file()

    known = {"finished": finished, "begun": lambda: finished() or begun.is_file(), "clear": clear}
    complete = files.claim(path, record, overwrite=args.overwrite, **known)
    files.sweep(args.output)
    return complete


def train(manifest: Manifest, spec: str, backbone: Backbone, args: argparse.Namespace) -> None:
    """Train and write the checkpoint folder."""
    import pandas as pd

    from backbones import checkpoint
    from backbones.backbone import pick_device
    from common import files
    from plots import maps
    from training import data, scores
    from training.images import Reader
    from training.network import Network, features, start

    triplet = args.objective == "triplet"
    reader = Reader(manifest, backbone.preprocess, workers=args.workers, skipped=args.output / "skipped.csv")
    divided, train_pictures, val_pictures = data.prepare(
        manifest, reader, vary=not args.freeze_backbone, seed=args.seed
    )
    parts = ", ".join(f"{part} {len(getattr(divided, part)):,}" for part in data.SPLITS)
    messages.note(f"{messages.count(len(divided.classes), 'class', 'classes')}; images: {parts}")
    outputs = args.embedding_dim if triplet else len(divided.classes)
    device = pick_device(args.device)
    pretrained = args.model != "siamese" and args.weights != "random"
    top = "projection" if triplet else "head"
    network = Network(spec, backbone, top, outputs, pretrained=pretrained, seed=args.seed).to(device)
    rows = learn(network, divided, train_pictures, val_pictures, reader, args)
    del train_pictures  # what follows reads other images
    if triplet:
        before = (
            features(*start(args.model, args.weights, args.image_size, args.seed)).to(device) if pretrained else None
        )
        metrics = scores.judge_embedding(network, before, divided, val_pictures, reader)
    else:
        metrics = scores.judge_classifier(network, divided, val_pictures, reader)
    files.write_table(args.output / "training.csv", pd.DataFrame(rows))
    title = f"{args.objective}, {args.model}, {args.data_root.resolve().name}"
    maps.training_curve(args.output / "training.png", rows, "Recall@1" if triplet else "Accuracy", title)
    training = {name: getattr(args, name) for name in DECIDING} | {"data_root": args.data_root.resolve().name}
    checkpoint.save(
        args.output,
        spec=spec,
        options={"layer": None, "pooling": None},
        preprocess=backbone.preprocess,
        state=network.state(),
        classes=divided.classes,
        temperature=metrics.pop("temperature", None),
        training=training,
        metrics=metrics,
    )
    shutil.rmtree(args.output / STATE, ignore_errors=True)


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    add("--data_root", type=Path, required=True, help="crops folder, or folder of class folders")
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the checkpoint")
    add("--objective", choices=("triplet", "classifier"), required=True, help="an embedding model, or a classifier")
    add("--model", default="tf_efficientnet_lite0", metavar="SPEC", help="the model to start from, see above")
    add("--weights", metavar="FILE", help="state dict for the model, or 'random' (default: the model's own)")
    add("--freeze_backbone", action="store_true", help="train the layer on top only, on features computed once")
    add(
        "--image_size",
        type=cli.whole(8, 4096),
        metavar="PX",
        help="width and height of the input (default: the model's)",
    )
    for part, known in (("train", "train"), ("val", "val, valid or validation"), ("test", "test")):
        add(f"--{part}_split", metavar="NAME", help=f"name of this split (default: {known}, where there is one)")
    add("--label_level", type=cli.whole(0), metavar="L", help="label level that is learnt (default: the deepest)")
    loop = parser.add_argument_group("training").add_argument
    loop("--epochs", type=cli.whole(1), default=50, metavar="N", help="at most so many passes over the training split")
    loop("--batch_size", type=cli.whole(2, 65536), default=32, metavar="N", help="images in one batch")
    loop(
        "--lr",
        type=cli.number(1e-8, 10),
        default=1e-3,
        metavar="X",
        help="highest learning rate",
    )
    loop(
        "--patience",
        type=cli.whole(1),
        default=30,
        metavar="N",
        help="stop after so many epochs without a better validation score",
    )
    cli.add_seed(parser)
    metric = parser.add_argument_group("triplet only").add_argument
    metric("--embedding_dim", type=cli.whole(2, 65536), default=128, metavar="N", help="numbers in an embedding")
    metric("--loss", choices=losses.LOSSES, default="multi_similarity", help="what is minimised")
    metric(
        "--miner",
        choices=losses.MINERS,
        default="multi_similarity",
        help="which pairs of a batch count",
    )
    metric("--margin", type=cli.number(0, 2), default=0.2, metavar="X", help="of the triplet loss and the miners")
    metric("--per_class", type=cli.whole(2, 65536), default=4, metavar="N", help="images of one class in a batch")
    machine = parser.add_argument_group("machine").add_argument
    machine(
        "--workers", type=cli.whole(1, 1024), default=_cores(), metavar="N", help="threads that decode and vary images"
    )
    machine("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    machine("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 on a GPU, fp32 on a CPU")
    machine("--overwrite", action="store_true", help="replace a model trained with other options or data")
    return parser


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(args: argparse.Namespace) -> None:
    from backbones import checkpoint
    from backbones.backbone import fingerprint, pick_device
    from common import files
    from embedding.output_set import digest
    from training import data, scores
    from training.network import start

    device = pick_device(args.device)
    if args.precision == "auto":
        args.precision = "bf16" if device.type == "cuda" else "fp32"
    splits = {part: getattr(args, f"{part}_split") for part in data.SPLITS}
    manifest = data.read(args.data_root, splits=splits, label_level=args.label_level)
    spec, backbone = start(args.model, args.weights, args.image_size, args.seed)
    record = {name: getattr(args, name) for name in DECIDING}
    record |= {"input": digest(manifest), "fingerprint": fingerprint(backbone)}
    with files.locked(args.output / LOCK):
        if begin(args, record):
            messages.note(f"{args.output}: complete already")
        else:
            train(manifest, spec, backbone, args)
    print(scores.describe(checkpoint.describe(args.output)))
    print(f"\nwrote {args.output}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
