#!/usr/bin/env python3
"""Label images: label and confidence by a classifier, or by the nearest neighbours among embeddings.

  python classify.py --image photo.jpg
  python classify.py --image photos/ --model checkpoints/shelf --top_k 3 --plot labels.png
  python classify.py --image photos/ --reference_npz embeddings/*_train.npz --format json

Without --model the images get labels of ImageNet's 1,000 classes. --model is a checkpoint of train.py --objective classifier;
its confidences are calibrated on the validation images. --reference_npz embeds the images with the model that made the file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, messages

if TYPE_CHECKING:
    import numpy as np

Labelled = list[tuple[Path, list[tuple[str, float]]]]  # image, [(label, confidence), …], the most confident first


def by_classifier(pictures: Sequence[Path], args: argparse.Namespace) -> Labelled:
    """Return the most probable classes of each image."""
    from backbones import checkpoint
    from embedding import classifier, query_images
    from training import calibration

    if args.model is None:
        model = classifier.load_imagenet_classifier(device=args.device, precision="fp32")
    elif (args.model / checkpoint.ABOUT).is_file():
        model = classifier.load_classifier(args.model, device=args.device, precision="fp32")
    else:
        raise messages.UserError(
            f"{args.model} is no checkpoint of train.py (no {checkpoint.ABOUT} in it); leave --model away for ImageNet's classes"
        )
    logits, fine = query_images.embed(pictures, model.embedder, batch_size=args.batch_size, workers=args.workers)
    return list(zip(fine, best(calibration.softmax(logits, model.temperature), model.classes, args.top_k), strict=True))


def by_neighbours(pictures: Sequence[Path], args: argparse.Namespace) -> Labelled:
    """Return the labels of each image's nearest neighbours; the confidence is a label's share of their weighted votes."""
    import numpy as np

    from common.embedding_sets import read_sets
    from embedding import query_images
    from retrieval.exact import ExactSearch
    from training import calibration

    sets = [one.take(one.label() != "") for one in read_sets(args.reference_npz, key=args.key)]
    sets = [one for one in sets if len(one)]
    if not sets:
        raise messages.UserError(
            f"{args.reference_npz[0]} has no labels: there is nothing to learn from; name labelled sets"
        )
    gallery = ExactSearch(sets)
    embedder = query_images.recorded_model(
        gallery.model, gallery.source, spec=args.model and str(args.model), device=args.device
    )
    if embedder.dim != gallery.dim:
        raise messages.UserError(
            f"{embedder.spec} gives {embedder.dim} dimensions, {gallery.source} holds {gallery.dim}"
        )
    vectors, fine = query_images.embed(pictures, embedder, batch_size=args.batch_size, workers=args.workers)
    labelled = []
    for path, hits in zip(fine, gallery.search(vectors, args.k), strict=True):
        names = list(
            dict.fromkeys(hit.item.label for hit in hits)
        )  # by the rank of their best neighbour, which decides ties
        votes = np.zeros((1, len(names)))
        weights = calibration.softmax(np.array([[hit.score for hit in hits]]), 0.07)[0]
        for hit, weight in zip(hits, weights, strict=True):
            votes[0, names.index(hit.item.label)] += weight
        labelled.append((path, best(votes, names, args.top_k)[0]))
    return labelled


def best(confidences: np.ndarray, names: Sequence[str], top_k: int) -> list[list[tuple[str, float]]]:
    """Return for each row of (n, classes) the `top_k` names and confidences, the highest first, ties by their order."""
    import numpy as np

    order = np.argsort(-confidences, axis=1, kind="stable")[:, :top_k]
    return [[(names[at], float(row[at])) for at in mine] for row, mine in zip(confidences, order, strict=True)]


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    add("--image", nargs="+", required=True, metavar="IMAGE", help="images, or folders of them")
    add(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="checkpoint of train.py (default: the embedded ImageNet classifier)",
    )
    add(
        "--reference_npz", nargs="+", metavar="[ID=]NPZ", help="labelled embedding sets: classify by nearest neighbours"
    )
    add("--key", help="name of the array or of the pickled dict inside a foreign .npz")
    add("--k", type=cli.whole(1, 10_000), default=5, help="neighbours that vote, with --reference_npz")
    add("--top_k", type=cli.whole(1, 1000), default=1, metavar="N", help="labels for each image")
    add("--format", choices=("tsv", "json"), default="tsv", help="form of the results on stdout")
    add("--plot", type=Path, metavar="FILE.png", help="draw the images with their labels (the first 60)")
    add("--batch_size", type=cli.whole(1, 65536), default=64, metavar="N", help="images in one batch")
    add("--workers", type=cli.whole(1, 1024), default=os.cpu_count() or 1, metavar="N", help="decoding threads")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    return parser


def run(args: argparse.Namespace) -> None:
    from embedding import query_images

    pictures = query_images.find(args.image)
    labelled = by_neighbours(pictures, args) if args.reference_npz else by_classifier(pictures, args)
    if args.format == "json":
        rows = [
            {"image": str(path), "labels": [{"label": name, "confidence": round(value, 6)} for name, value in found]}
            for path, found in labelled
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        print("image\trank\tlabel\tconfidence")
        for path, found in labelled:
            for rank, (name, confidence) in enumerate(found, 1):
                print(messages.one_line(path), rank, messages.one_line(name), f"{confidence:.4f}", sep="\t")
    if args.plot:
        from plots import picture_sheets

        picture_sheets.labels(args.plot, [(str(path), found) for path, found in labelled[:60]])
        messages.note(f"wrote {args.plot}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
