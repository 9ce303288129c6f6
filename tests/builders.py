"""Builders that several tests share: embedding sets, views of the same crops, older pickled files, accuracy by brute force,
scripts that wait to be ended."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import faiss
import numpy as np

from common.embeddings import EmbeddingSet
from evaluation.codes import code_sets
from evaluation.evaluator import Evaluator, tally
from evaluation.records import Combination, Rule, Tally

IDS = ("0", "10", "20")


def make(n=5, dim=7, seed=0, **meta) -> EmbeddingSet:
    rng = np.random.default_rng(seed)
    labels = np.array([[f"brand{i % 2}", f"taste{i % 3}" if i % 3 else ""] for i in range(n)])
    names = np.array([f"photo{i // 2}_{i}" for i in range(n)])
    samples = np.array([f"photo{i // 2}" for i in range(n)])
    paths = np.array([f"train/ä{i}.jpg" for i in range(n)])
    meta = {"dataset_name": "shelf", "id": "10", "split": "train", "fingerprint": "f", **meta}
    return EmbeddingSet(rng.normal(size=(n, dim)).astype(np.float32), labels, names, samples, paths, meta)


def pickled(path, value) -> None:
    """Write `value` as older tools did: a pickled 0-d object array."""
    entry = io.BytesIO()
    np.lib.format.write_array_header_1_0(entry, {"descr": "|O", "fortran_order": False, "shape": ()})
    entry.write(pickle.dumps(value, protocol=4))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("test.npy", entry.getvalue())


def study(
    seed=0, n_images=14, per_image=4, n_class=5, dim=6, noise=1.1, split="test", missing=()
) -> list[EmbeddingSet]:
    """Views of the same crops at several IDs: class centre + image offset + noise of each view."""
    rng = np.random.default_rng(seed)
    n = n_images * per_image
    centres = np.random.default_rng(99).normal(size=(n_class, dim))
    label = rng.integers(0, n_class, n)
    image = np.repeat(np.arange(n_images), per_image)
    base = centres[label] + 0.6 * rng.normal(size=(n_images, dim))[image]
    sets = []
    for identity in IDS:
        vectors = (base + noise * rng.normal(size=(n, dim))).astype(np.float32)
        crops = np.array([f"{split}{i}_{j}" for j, i in enumerate(image)])
        meta = {
            "dataset_name": "d",
            "split": split,
            "id": identity,
            "fingerprint": "m",
            "source": f"{identity}_{split}",
        }
        labels = np.array([[f"c{c}"] for c in label])
        one = EmbeddingSet(vectors, labels, crops, np.array([f"{split}{i}" for i in image]), crops, meta)
        drop = [j for i, j in missing if i == identity]
        sets.append(one.take(np.setdiff1d(np.arange(n), drop)))
    return sets


def make_evaluator(references, queries, **rule) -> Evaluator:
    return Evaluator(code_sets(references, queries), Rule(**rule))


def totals(evaluator: Evaluator, combination: Combination) -> Tally:
    return tally(evaluator.coded, evaluator.decide(combination), combination.reference_ids)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def nearest_by_faiss(query: np.ndarray, reference: np.ndarray, k: int) -> np.ndarray:
    index = faiss.IndexFlatIP(reference.shape[1])
    index.add(unit(reference))
    return index.search(unit(query), k)[1]


def brute(refs, queries, mode: str) -> float:
    """Accuracy@1 of one combination, from the definitions in docs/metrics.md, by faiss."""

    def labels(one):
        return one.label()

    if mode == "stack":
        vectors, names = np.concatenate([r.vectors for r in refs]), np.concatenate([labels(r) for r in refs])
        hits = [names[nearest_by_faiss(q.vectors, vectors, 1)[:, 0]] == labels(q) for q in queries]
        return float(np.concatenate(hits).mean())
    shared = sorted(set.intersection(*(set(q.crop_ids) for q in queries)))
    rows = [[list(q.crop_ids).index(crop) for crop in shared] for q in queries]
    actual = labels(queries[0])[rows[0]]
    if mode == "vote":
        vectors, names = np.concatenate([r.vectors for r in refs]), np.concatenate([labels(r) for r in refs])
        right = 0
        similarity = [unit(q.vectors) @ unit(vectors).T for q in queries]
        for at in range(len(shared)):
            views = [similarity[v][rows[v][at]] for v in range(len(queries))]
            ballots = [names[view.argmax()] for view in views]
            most = max(ballots.count(b) for b in ballots)
            tied = [v for v in range(len(views)) if ballots.count(ballots[v]) == most]
            right += ballots[max(tied, key=lambda v: views[v].max())] == actual[at]
        return right / len(shared)
    both_r = sorted(set.intersection(*(set(r.crop_ids) for r in refs)))
    rows_r = [[list(r.crop_ids).index(crop) for crop in both_r] for r in refs]
    parts_q = [unit(q.vectors)[row] for q, row in zip(queries, rows, strict=True)]
    parts_r = [unit(r.vectors)[row] for r, row in zip(refs, rows_r, strict=True)]
    merge = (lambda parts: np.mean(parts, axis=0)) if mode == "mean" else (lambda parts: np.concatenate(parts, axis=1))
    found = nearest_by_faiss(merge(parts_q), merge(parts_r), 1)[:, 0]
    return float((labels(refs[0])[np.array(rows_r[0])[found]] == actual).mean())


def paced(folder: Path, pause: float = 0.0, most: int = 1 << 30) -> dict[str, str]:
    """The environment of a script that waits `pause` seconds before each picture it writes, and for its end after `most` of them.

    A test that ends a script in the middle finds it there, however busy the machine is.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"""
import os, threading, time
replace, lock, pictures = os.replace, threading.Lock(), []
def wait(source, target, **more):
    if os.path.splitext(target)[1] in (".jpg", ".png"):
        with lock:
            pictures.append(target)
            held = len(pictures) > {most}
        time.sleep(3600 if held else {pause})
    replace(source, target, **more)
os.replace = wait
"""
    )
    return {**os.environ, "PYTHONPATH": str(folder)}
