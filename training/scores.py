"""Validation score with a tie-breaker while a model is trained, and the final test report, class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common import knn
from common.messages import UserError, count, table, wrap
from evaluation import metrics
from training import calibration
from training.data import Reader, TrainingData
from training.images import Inputs
from uncertainty import intervals
from uncertainty.scores import calibrated_error

if TYPE_CHECKING:
    from torch import nn

    from training.network import Network

NEIGHBOURS = 5
SHOWN = 30  # classes


class Embedded(NamedTuple):
    """Vectors (n, dim) with their labels (n,) and photos (n,), both int codes."""

    vectors: np.ndarray
    labels: np.ndarray
    samples: np.ndarray


def retrieval(query: Embedded, reference: Embedded | None = None) -> tuple[float, float]:
    """Return Recall@1 and the precision among the nearest 5, each in 0..1, by exact cosine.

    Without references the queries are each other's. A query's own photo is never among its neighbours.
    """
    reference = reference or query
    indices = nearest(query, reference, min(NEIGHBOURS, len(reference.vectors)))
    right = (reference.labels[indices] == query.labels[:, None]) & (indices >= 0)
    return float(right[:, 0].mean()), float(right.mean())


def answerable(labels: np.ndarray, samples: np.ndarray) -> float:
    """Return the share of the rows (n,) whose label another photo has too."""
    pairs = np.unique(np.column_stack([labels, samples]), axis=0)
    return float((np.bincount(pairs[:, 0])[labels] > 1).mean())


def nearest(query: Embedded, reference: Embedded, k: int) -> np.ndarray:
    """Return the (n_query, k) k nearest references, -1 for none, without those of the query's own photo.

    Raises UserError where a vector has no direction.
    """
    try:
        return knn.search_excluding(query.vectors, reference.vectors, k, query.samples, reference.samples)[1]
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
    """Return the temperature fitted to validation data, and the calibration error before and after it, there and on `others`.

    Beside it what perfect calibration shows at these confidences and its 95% limit, see uncertainty.scores.calibrated_error.

    It is fitted for the likelihood. Where it makes the validation data's calibration error larger, it is 1: nothing is changed.
    """
    temperature = calibration.fit_temperature(logits, labels)
    before, after = (_calibration_error(logits, labels, each) for each in (1.0, temperature))
    temperature = temperature if after < before else 1.0
    parts = {
        part: (part_logits[codes >= 0], codes[codes >= 0])
        for part, (part_logits, codes) in {"val": (logits, labels), **others}.items()
        if (codes >= 0).any()
    }
    errors = {part: [_calibration_error(*both, each) for each in (1.0, temperature)] for part, both in parts.items()}
    by_chance = {
        part: list(calibrated_error(calibration.softmax(part_logits, temperature).max(axis=1), bins=calibration.BINS))
        for part, (part_logits, _) in parts.items()
    }
    return {"temperature": temperature, "calibration_error": errors, "calibration_by_chance": by_chance}


def _calibration_error(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return calibration.expected_calibration_error(calibration.softmax(logits, temperature), labels)


def scores(predicted: np.ndarray, labels: np.ndarray, samples: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """Return accuracy with its interval by photo, and precision, recall, F1 and number of queries of every class.

    Labels of -1 are of no class: such queries are wrong and in no class's row.
    """
    right = predicted == labels
    n_class = len(classes)
    known = labels >= 0
    counts = [np.bincount(codes, minlength=n_class) for codes in (labels[right], predicted, labels[known])]
    by_class = metrics.class_scores(*counts)
    image, place = np.unique(samples, return_inverse=True)
    interval = intervals.accuracy_interval(
        np.bincount(place, weights=right, minlength=len(image)), np.bincount(place, minlength=len(image))
    )
    columns = zip(classes, by_class.precision, by_class.recall, by_class.f1, by_class.support, strict=True)
    return {
        "n": len(labels),
        "accuracy": float(right.mean()),
        "low": interval.low,
        "high": interval.high,
        "images": interval.n_images,
        "macro_f1": by_class.macro_f1,
        "classes": {name: [float(p), float(r), float(f), int(n)] for name, p, r, f, n in columns},
    }


def judge_classifier(network: Network, data: TrainingData, val: Inputs, reader: Reader) -> dict[str, Any]:
    """Return the metrics and the temperature of a trained classifier; `val` are the images of the validation rows."""
    from training.network import predict

    part, rows, images = _judged_on(data, val, reader)
    labels, val_logits = data.codes[rows], predict(network, val)
    logits = predict(network, images) if part == "test" else val_logits
    report = calibrate(val_logits, data.labels("val"), {"test": (logits, labels)} if part == "test" else {})
    return {"split": part, **report, **scores(logits.argmax(axis=1), labels, data.samples[rows], data.classes)}


def judge_embedding(
    network: Network, before: nn.Module | None, data: TrainingData, val: Inputs, reader: Reader
) -> dict[str, Any]:
    """Return the metrics of a trained embedding model, the training rows being the references; and of `before`, untrained."""
    from training.network import predict

    part, rows, queries = _judged_on(data, val, reader)
    reference_rows, references = reader(data.train, "training")

    def judge(module: nn.Module) -> tuple[dict[str, Any], np.ndarray]:
        query, reference = (
            Embedded(predict(module, images), data.codes[those], data.samples[those])
            for images, those in ((queries, rows), (references, reference_rows))
        )
        neighbours = nearest(query, reference, 1)[:, 0]
        predicted = np.where(neighbours < 0, -1, reference.labels[neighbours])
        return scores(predicted, query.labels, query.samples, data.classes), predicted == query.labels

    result, right = judge(network)
    report = {"split": part, **result}
    if before is not None:
        was, right_before = judge(before)
        gain = paired_limits(right, right_before, data.samples[rows])
        report["before"] = {**{name: value for name, value in was.items() if name != "classes"}, "gain": gain}
    return report


def paired_limits(right: np.ndarray, right_before: np.ndarray, samples: np.ndarray) -> list[float]:
    """Return the 95% limits, in -1..1, of the change in accuracy on the same queries (n,), by photo."""
    _, place = np.unique(samples, return_inverse=True)
    gap = np.bincount(place, weights=right.astype(float) - right_before)
    low, high = intervals.difference_intervals(gap[None], np.bincount(place))
    return [float(low[0]), float(high[0])]


def _judged_on(data: TrainingData, val: Inputs, reader: Reader) -> tuple[str, np.ndarray, Inputs]:
    """Return what a model is judged on: the test split, or the validation split where nothing of it can be read."""
    if len(data.test):
        rows, images = reader(data.test, "test")
        if len(rows):
            return "test", rows, images
    return "val", data.val, val


def describe(about: dict[str, Any]) -> str:
    """Return what train.py prints of a finished model, from the `metrics` in its model.json."""
    result, lines = about["metrics"], []
    name = "Accuracy" if about["objective"] == "classifier" else "Recall@1"
    where = {"test": "test split", "val": "validation split, by which the model was chosen"}[result["split"]]
    lines.append(
        f"{name} {result['accuracy']:.4f}, 95% interval {result['low']:.4f} to {result['high']:.4f}, "
        f"Macro-F1 {result['macro_f1']:.4f} "
        f"({count(result['n'], 'image')} of {count(result['images'], 'photo')}, {where})"
    )
    if (before := result.get("before")) is not None:
        gain = 100 * (result["accuracy"] - before["accuracy"])
        accuracy = f"{name} of the model before training {before['accuracy']:.4f}"
        low, high = (100 * limit for limit in before.get("gain", (float("nan"),) * 2))
        interval = "" if low != low else f", 95% interval {low:+.1f} to {high:+.1f} by photo; one seed"
        lines.append(f"{accuracy}; training changed it by {gain:+.1f} points{interval}")
    for part, (raw, scaled) in sorted(result.get("calibration_error", {}).items(), reverse=True):  # val, then test
        with_temperature = f"with temperature {about['temperature']:.3f} {scaled:.4f}"
        without = "no temperature is used, as none makes the error on val smaller"
        chance = ""
        if part in result.get("calibration_by_chance", {}):  # models of older versions have none
            mean, limit = result["calibration_by_chance"][part]
            chance = f"; perfect calibration shows {mean:.4f}, up to {limit:.4f}"
        told = without if about["temperature"] == 1 else with_temperature
        lines.append(f"Expected calibration error, {part} {raw:.4f}, {told}{chance}")
    rows = [(label, f"{p:.3f}", f"{r:.3f}", f"{f:.3f}", n) for label, (p, r, f, n) in result["classes"].items() if n]
    rows.sort(key=lambda row: (row[3], row[0]))
    lines = [wrap(line, 2) for line in lines]
    lines += ["", table(["label, worst first", "precision", "recall", "F1", "images"], rows[:SHOWN])]
    if len(rows) > SHOWN:
        lines.append(f"… and {len(rows) - SHOWN:,} classes with higher F1; model.json has them all")
    return "\n".join(lines)
