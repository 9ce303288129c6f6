#!/usr/bin/env python3
"""What a script costs before its work begins: processor time of a tiny run beside that of importing what it must import.

  python benchmarks/start.py
  python benchmarks/start.py --repeats 5 --only evaluate_combo.py

Each script does one image or a few vectors. The limit is a bare interpreter that imports torch, and for the scripts that run a
model its library too, and builds that model. Processor time is that of all threads, user and system, so that other work on the
machine disturbs it little.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder
sys.path.append(str(ROOT / "benchmarks"))

import bench
import numpy as np

from common import embeddings
from imaging import images

TORCH = "import torch"
TIMM = "import torch, timm; timm.create_model('tf_efficientnet_lite2')"
TORCHVISION = "import torch, torchvision; torchvision.models.get_model('resnet18', weights=None)"
TRANSFORMERS = "import sys, torch, transformers; transformers.AutoModel.from_pretrained(sys.argv[1])"
NAMES = {
    TORCH: "torch",
    TIMM: "timm and building the model",
    TORCHVISION: "torchvision and building the model",
    TRANSFORMERS: "transformers and loading the model",
}
IDS, ROWS, DIM = ("0", "5", "10", "20", "40"), 200, 64


def processor_seconds(command: Sequence[str]) -> float:
    """Return the processor time of a command and all its threads."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepare(folder: Path) -> None:
    """Write one image, its embedding, and five small sets for each of two splits."""
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    (folder / "image" / "a").mkdir(parents=True)
    (folder / "image" / "a" / "one.png").write_bytes(images.encode(pixels, "png"))
    for split, seed in (("train", 1), ("test", 2)):
        rng = np.random.default_rng(seed)
        labels = (np.arange(ROWS) % 10).astype(str)
        centres = np.random.default_rng(0).normal(size=(10, DIM))
        for identity in IDS:
            vectors = (centres[np.arange(ROWS) % 10] + rng.normal(size=(ROWS, DIM))).astype(np.float32)
            ids = np.array([f"{split}{row}" for row in range(ROWS)])
            meta = {"dataset_name": "d", "id": identity, "split": split, "fingerprint": "made up"}
            one = embeddings.EmbeddingSet(vectors, labels[:, None], ids, ids, ids, meta)
            embeddings.save(folder / "sets" / f"d_{identity}_{split}.npz", one)
    make = "import sys, transformers as t; t.ViTImageProcessor().save_pretrained(sys.argv[1]); "
    make += "t.ViTForImageClassification(t.ViTConfig(num_labels=3)).save_pretrained(sys.argv[1])"
    subprocess.run([sys.executable, "-c", make, str(folder / "vit")], check=True, capture_output=True)
    extract = ["--data_root", str(folder / "image"), "--output_root", str(folder / "one"), "--quiet"]
    subprocess.run([sys.executable, str(ROOT / "extract_embedding.py"), *extract], check=True, capture_output=True)


def runs(folder: Path) -> list[tuple[str, list[str], str, float]]:
    """Return name, command, what the limit imports, and how many times its processor time may be used."""
    sets = ["--train_npz", str(folder / "sets"), "--test_npz", str(folder / "sets")]
    image = str(folder / "image" / "a" / "one.png")
    extract = ["--data_root", str(folder / "image"), "--output_root", str(folder / "out"), "--overwrite"]
    random = ["--model", "torchvision/resnet18", "--weights", "random"]
    npz = str(next((folder / "one").glob("*.npz")))
    return [
        ("evaluate_combo.py", sets, TORCH, 1.3),
        ("greedy_combo_eval.py", [*sets, "--results", str(folder / "results.txt")], TORCH, 1.3),
        ("extract_embedding.py", extract, TIMM, 1.2),
        ("extract_embedding.py", [*extract, *random], TORCHVISION, 1.2),
        ("extract_embedding.py", [*extract, "--model", f"hf/{folder / 'vit'}"], TRANSFORMERS, 1.2),
        ("classify.py", ["--image", image], TIMM, 1.2),
        ("classify.py", ["--image", image, "--model", f"hf/{folder / 'vit'}"], TRANSFORMERS, 1.2),
        ("search.py", ["query", "--npz", npz, "--query", image], TIMM, 1.2),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, in turn; the median counts")
    parser.add_argument("--only", metavar="SCRIPT", help="this script alone")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        chosen = [run for run in runs(Path(folder)) if args.only in (None, run[0])]
        seconds: dict[int, list[float]] = {number: [] for number in range(len(chosen))}
        limits: dict[str, list[float]] = {limit: [] for _, _, limit, _ in chosen}
        for turn in range(args.repeats + 1):
            for limit, measured in limits.items():
                measured.append(processor_seconds(["-c", limit, str(Path(folder) / "vit")]))
            for number, (script, options, _, _) in enumerate(chosen):
                seconds[number].append(processor_seconds([str(ROOT / script), *options]))
            if turn == 0:  # what is kept for the next start is made here, and pages are read
                for measured in (*limits.values(), *seconds.values()):
                    measured.clear()
        for number, (script, options, limit, times) in enumerate(chosen):
            ours, theirs = statistics.median(seconds[number]), statistics.median(limits[limit])
            model = f" --model {options[options.index('--model') + 1]}" if "--model" in options else ""
            print(f"{script}{model}: {ours:.1f} s of processor time; `{limit}`: {theirs:.1f} s")
            rows.append(
                bench.figure(
                    f"{script}{model} / importing {NAMES[limit]}", ours / theirs, times, unit="x", at_most=True
                )
            )
    bench.report("start", rows)


if __name__ == "__main__":
    main()
