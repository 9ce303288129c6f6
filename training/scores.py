"""How good a model is: while it is trained, by one number and another that decides between equals; at the end, class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from common import knn
from common.messages import UserError, count, table
from evaluation import metrics
from training import calibration
from training.data import Study
from training.images import Pictures, Reader
from uncertainty import intervals

if TYPE_CHECKING:
    from torch import nn

    from training.network import Network

NEIGHBOURS = 5
SHOWN = 30  # classes


Rows = tuple[
    np.ndarray, np.ndarray, np.ndarray
]  # embeddings (n, dim), labels (n,) codes, samples (n,) codes of source images


def retrieval(query: Rows, reference: Rows | None = None) -> tuple[float, float]:
    """Return Recall@1 and the precision among the nearest 5, each in 0..1, by exact cosine.

    Without references the queries are each other's. A query's own source image is never among its neighbours.
    """
    embeddings, labels, samples = query
    vectors, reference_labels, reference_samples = reference or query
    indices = nearest(embeddings, vectors, min(NEIGHBOURS, len(vectors)), samples, reference_samples)
    right = (reference_labels[indices] == labels[:, None]) & (indices >= 0)
    return float(right[:, 0].mean()), float(right.mean())


def answerable(labels: np.ndarray, samples: np.ndarray) -> float:
    """Return the share of the rows (n,) whose label another source image has too."""
    pairs = np.unique(np.column_stack([labels, samples]), axis=0)
    return float((np.bincount(pairs[:, 0])[labels] > 1).mean())


def nearest(
    query: np.ndarray, reference: np.ndarray, k: int, query_samples: np.ndarray, reference_samples: np.ndarray
) -> np.ndarray:
    """Return the (n_query, k) k nearest references, -1 for none, without those of the query's own source image.

    Raises UserError where a vector has no direction.
    """
    try:
        return knn.search_excluding(query, reference, k, query_samples, reference_samples)[1]
    except ValueError as error:
        raise UserError(
            f"the model gives a vector that is zero or not finite ({error}); choose a smaller --lr"
        ) from None


def classification(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return accuracy and the mean log-likelihood (0 is best)."""
    likelihood = -calibration.negative_log_likelihood(logits, labels)
    return float((logits.argmax(axis=1) == labels).mean()), likelihood


def calibrate(
    logits: np.ndarray, labels: np.ndarray, others: dict[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """Return the temperature fitted to validation data, and the calibration error before and after it, there and on `others`."""
    temperature = calibration.fit_temperature(logits, labels)
    errors = {}
    for part, (values, codes) in {"val": (logits, labels), **others}.items():
        known = codes >= 0
        if known.any():
            errors[part] = [
                calibration.expected_calibration_error(calibration.softmax(values[known], t), codes[known])
                for t in (1.0, temperature)
            ]
    return {"temperature": temperature, "calibration_error": errors}


def scores(predicted: np.ndarray, labels: np.ndarray, samples: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """Return accuracy with its interval by source image, and precision, recall, F1 and number of queries of every class.

    Labels of -1 are of no class: such queries are wrong and in no class's row.
    """
    right = predicted == labels
    n_class = len(classes)
    known = labels >= 0
    counts = [np.bincount(codes, minlength=n_class) for codes in (labels[right], predicted, labels[known])]
    found = metrics.class_scores(*counts)
    image, place = np.unique(samples, return_inverse=True)
    interval = intervals.accuracy_interval(
        np.bincount(place, weights=right, minlength=len(image)), np.bincount(place, minlength=len(image))
    )
    columns = zip(classes, found.precision, found.recall, found.f1, found.support, strict=True)
    return {
        "n": len(labels),
        "accuracy": float(right.mean()),
        "low": interval.low,
        "high": interval.high,
        "images": interval.n_images,
        "macro_f1": found.macro_f1,
        "classes": {name: [float(p), float(r), float(f), int(n)] for name, p, r, f, n in columns},
    }


def judge_classifier(network: Network, study: Study, val: Pictures, reader: Reader) -> dict[str, Any]:
    """Return the metrics and the temperature of a trained classifier; `val` are the pictures of the validation rows."""
    from training.network import run

    part, rows, pictures = _judged(study, val, reader)
    labels, val_logits = study.codes[rows], run(network, val)
    logits = run(network, pictures) if part == "test" else val_logits
    report = calibrate(val_logits, study.labels("val"), {"test": (logits, labels)} if part == "test" else {})
    return {"split": part, **report, **scores(logits.argmax(axis=1), labels, study.samples[rows], study.classes)}


def judge_embedding(
    network: Network, before: nn.Module | None, study: Study, val: Pictures, reader: Reader
) -> dict[str, Any]:
    """Return the metrics of a trained embedding model, the training rows being the references; and of `before`, untrained."""
    from training.network import run

    part, rows, queries = _judged(study, val, reader)
    reference_rows, references = reader(study.train, "training")

    def judge(module: nn.Module) -> dict[str, Any]:
        samples = study.samples[rows], study.samples[reference_rows]
        found = nearest(run(module, queries), run(module, references), 1, *samples)[:, 0]
        predicted = np.where(found < 0, -1, study.codes[reference_rows][found])
        return scores(predicted, study.codes[rows], samples[0], study.classes)

    report = {"split": part, **judge(network)}
    if before is not None:
        report["before"] = {name: value for name, value in judge(before).items() if name != "classes"}
    return report


def _judged(study: Study, val: Pictures, reader: Reader) -> tuple[str, np.ndarray, Pictures]:
    """Return what a model is judged on: the test split, or the validation split where nothing of it can be read."""
    if len(study.test):
        rows, pictures = reader(study.test, "test")
        if len(rows):
            return "test", rows, pictures
    return "val", study.val, val


def describe(about: dict[str, Any]) -> str:
    """Return what train.py prints of a finished model, from the `metrics` in its model.json."""
    found, lines = about["metrics"], []
    name = "Accuracy" if about["objective"] == "classifier" else "Recall@1"
    where = {"test": "test split", "val": "validation split, by which the model was chosen"}[found["split"]]
    lines.append(
        f"{name} {found['accuracy']:.4f}, 95 % interval {found['low']:.4f} to {found['high']:.4f}, "
        f"Macro-F1 {found['macro_f1']:.4f} "
        f"({count(found['n'], 'image')} of {count(found['images'], 'source image')}, {where})"
    )
    if (before := found.get("before")) is not None:
        gain = found["accuracy"] - before["accuracy"]
        lines.append(
            f"{name} of the model before training {before['accuracy']:.4f}; training changed it by {100 * gain:+.1f} points"
        )
    for part, (raw, scaled) in found.get("calibration_error", {}).items():
        lines.append(
            f"Expected calibration error, {part} {raw:.4f}, with temperature {about['temperature']:.3f} {scaled:.4f}"
        )
    rows = [(label, f"{p:.3f}", f"{r:.3f}", f"{f:.3f}", n) for label, (p, r, f, n) in found["classes"].items() if n]
    rows.sort(key=lambda row: (row[3], row[0]))
    lines += ["", table(["label, worst first", "precision", "recall", "F1", "images"], rows[:SHOWN])]
    if len(rows) > SHOWN:
        lines.append(f"… and {len(rows) - SHOWN:,} classes with higher F1; model.json has them all")
    return "\n".join(lines)
