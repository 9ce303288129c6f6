#!/usr/bin/env python3
"""Label images: label and confidence by a classifier, or by the nearest neighbours among embeddings.

  python classify.py --image photo.jpg
  python classify.py --image photos/ --model checkpoints/shelf --top_k 3 --plot labels.png
  python classify.py --image photos/ --model hf/google/vit-base-patch16-224
  python classify.py --image photos/ --reference_npz embeddings/*_train.npz --format json
  python classify.py --image photos/ --reference_npz embeddings/*_train.npz --classifier auto --reject 0.05

Without --model the images get labels of ImageNet's 1,000 classes. --model is a checkpoint of train.py --objective classifier, whose
confidences are calibrated on its validation images, or any pretrained classifier with its own classes and preprocessing:
a timm name, torchvision/NAME, hf/ID, or a local folder of timm or Hugging Face; --engine computes it with its head.
--reference_npz embeds the images with the model that made the file, and by its engine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, messages, table_files
from imaging.colors import add_background
from terminal.options import add_reference_options

if TYPE_CHECKING:
    import numpy as np

    from common.embeddings import EmbeddingSet
    from retrieval.exact import ExactSearch

HOW = ("top_k", "device", "engine", "batch_size", "workers", "background")  # options of embedding and labelling images
Answer = Callable[["np.ndarray"], list[list[tuple[str, float]]]]  # vectors to labels
Labelled = list[tuple[Path, list[tuple[str, float]]]]  # image, [(label, confidence), …], the most confident first


def by_classifier(
    paths: Sequence[Path],
    model: str | None,
    weights: str | Path | None,
    *,
    top_k: int,
    device: str,
    engine: str,
    batch_size: int,
    workers: int,
    background: str | None,
) -> Labelled:
    """Return the most probable classes of each image."""
    from embedding import arithmetic, classifier, query_images
    from training import calibration

    loaded = classifier.load(model, weights, device=device, precision="fp32")
    arithmetic.choose_engine(loaded.embedder, engine, None, paths, batch_size=batch_size)
    color = background or "white"
    sizes = {"batch_size": batch_size, "workers": workers}
    logits, readable = query_images.embed(paths, loaded.embedder, background=color, **sizes)
    confidences = calibration.softmax(logits, loaded.temperature)
    return list(zip(readable, best(confidences, loaded.classes, top_k), strict=True))


def by_references(
    paths: Sequence[Path],
    references: Sequence[EmbeddingSet],
    model: str | None,
    answer: Answer | None = None,
    *,
    k: int,
    top_k: int,
    **how: Any,
) -> Labelled:
    """Return what `answer` says of the images' vectors, without it the votes of their nearest neighbours.

    how: device, engine, batch_size, workers and background of query_images.embed_alike.
    """
    from embedding import query_images
    from retrieval.exact import ExactSearch

    gallery = ExactSearch(references)
    vectors, readable = query_images.embed_alike(paths, gallery, spec=model, **how)
    labelled = answer(vectors) if answer else votes(gallery, vectors, k)
    return [(path, ranked[:top_k]) for path, ranked in zip(readable, labelled, strict=True)]


def votes(gallery: ExactSearch, vectors: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
    """Return the labels of each row's nearest neighbours; the confidence is a label's share of their weighted votes."""
    import numpy as np

    from common import knn

    hits = gallery.search(vectors, k)
    similarities = np.array([[hit.score for hit in near] for near in hits])
    names, codes = np.unique([[hit.item.label for hit in near] for near in hits], return_inverse=True)
    image, label, weight = knn.votes(similarities, codes.reshape(similarities.shape), "similarity")
    shares = weight / np.bincount(image, weight)[image]
    labelled: list[list[tuple[str, float]]] = [[] for _ in hits]
    for row, name, share in zip(image, names[label].tolist(), shares.tolist(), strict=True):
        labelled[row].append((name, share))
    return labelled


def best(confidences: np.ndarray, names: Sequence[str], top_k: int) -> list[list[tuple[str, float]]]:
    """Return for each row of (n, classes) the `top_k` names and confidences, the highest first, ties by their order."""
    import numpy as np

    order = np.argsort(-confidences, axis=1, kind="stable")[:, :top_k]
    return [
        [(names[column], float(row[column])) for column in columns]
        for row, columns in zip(confidences, order, strict=True)
    ]


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    add("--image", nargs="+", required=True, metavar="IMAGE", help="images, or folders of them")
    text = "checkpoint of train.py, or a pretrained classifier, see above (default: the embedded one of ImageNet)"
    add("--model", metavar="SPEC", help=text)
    add("--weights", metavar="FILE", help="state dict for a pretrained classifier, its head included")
    add("--weights_key", metavar="KEY", help="which network of the file, where it holds several, such as ema")
    text = "labelled embedding sets: classify by nearest neighbours, or by --classifier"
    add("--reference_npz", nargs="+", metavar="[ID=]NPZ", help=text)
    add("--key", help="name of the array or of the pickled dict inside a foreign .npz")
    cli.add_arrays(parser)
    add("--k", type=cli.whole(1, 10_000), default=5, help="neighbours that vote, with --reference_npz")
    add_reference_options(parser)
    add("--top_k", type=cli.whole(1, 1000), default=1, metavar="N", help="labels for each image")
    add("--format", choices=("tsv", "json"), default="tsv", help="form of the results on stdout")
    cli.add_spreadsheet_safe(parser, "the TSV")
    add("--plot", type=cli.PICTURE, metavar="FILE.png", help="draw the images with their labels (the first 60)")
    add("--batch_size", type=cli.whole(1, 65536), default=64, metavar="N", help="images in one batch")
    add("--workers", type=cli.whole(1, 1024), default=cli.cores(), metavar="N", help="decoding threads")
    add_background(parser, None)
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    cli.add_engine(parser, "the sets of --reference_npz")
    return parser


def run(args: argparse.Namespace) -> None:
    from backbones import weights
    from embedding import query_images

    paths = query_images.find(args.image)
    options = {name: getattr(args, name) for name in HOW}
    if args.reference_npz:
        if args.weights or args.weights_key:
            raise messages.UsageError(
                "--weights goes with a pretrained classifier; --reference_npz names its own model"
            )
        from unknowns import products

        references = products.labelled_sets(args.reference_npz, cli.reading(args))
        if len(splits := sorted({each.split for each in references})) > 1:
            messages.note(f"references are of the splits {', '.join(splits)}: an image that is among them finds itself")
        answer: Answer | None = None
        if args.val_npz and (args.classifier or args.reject or args.threshold):
            raise messages.UsageError(
                "--val_npz calibrates the votes of neighbours; go without --classifier and --reject"
            )
        if args.classifier or args.reject or args.threshold:
            unknown = products.labelled_sets(args.unknown_npz, cli.reading(args)) if args.unknown_npz else []
            answer = products.Answer(references, args.classifier, args.k, args.reject, args.threshold, unknown)
        elif args.val_npz:
            validation = products.labelled_sets(args.val_npz, cli.reading(args))
            answer = products.CalibratedVotes(references, validation, args.k)
        labelled = by_references(paths, references, args.model, answer, k=args.k, **options)
    elif args.classifier or args.reject or args.threshold or args.val_npz:
        text = "--classifier, --reject, --threshold and --val_npz work over references: add --reference_npz"
        raise messages.UsageError(text)
    else:
        labelled = by_classifier(paths, args.model, weights.named_in(args.weights, args.weights_key), **options)
    if args.format == "json":
        rows = [
            {"image": str(path), "labels": [{"label": name, "confidence": round(value, 6)} for name, value in labels]}
            for path, labels in labelled
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        print("image\trank\tlabel\tconfidence")
        for path, labels in labelled:
            for rank, (name, confidence) in enumerate(labels, 1):
                cells = path, rank, name, f"{confidence:.4f}"
                print(table_files.tsv_line(cells, spreadsheet_safe=args.spreadsheet_safe))
    if args.plot:
        from plots import picture_sheets

        picture_sheets.labels(args.plot, [(str(path), labels) for path, labels in labelled[:60]])
        messages.note(f"wrote {args.plot}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
