"""How far a classifier's confidence can be trusted, and the temperature that corrects most of the error.

Guo, Pleiss, Sun, Weinberger 2017, "On Calibration of Modern Neural Networks". Arrays are logits (n, classes) and labels (n,), codes
of classes. No function reads a file or prints.
"""

from __future__ import annotations

import numpy as np

BINS = 15


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return softmax(logits / temperature), (n, classes) float64, each row of sum 1."""
    from scipy import special

    return special.softmax(logits.astype(np.float64) / temperature, axis=1)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean of -log softmax(logits / temperature) at the true class."""
    from scipy import special

    logs = special.log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return float(-logs[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature in 0.05..20 of the least negative log-likelihood (section 4.2); it changes no prediction.

    A few rows that are all predicted right would be most likely at boundless confidence. So, as in Platt 1999, "Probabilistic
    Outputs for Support Vector Machines", section 2.2, the true class has the probability (n + 1) / (n + 2), the others share the
    rest: as if there were one more row of each kind.
    """
    from scipy.optimize import minimize_scalar

    doubt = 1 / (len(labels) + 2)
    others = logits.shape[1] - 1

    def cost(log_temperature: float) -> float:
        logs = np.log(np.maximum(softmax(logits, float(np.exp(log_temperature))), 1e-300))
        true = logs[np.arange(len(labels)), labels]
        return float(-((1 - doubt) * true + doubt * (logs.sum(axis=1) - true) / others).mean())

    return float(np.exp(minimize_scalar(cost, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def expected_calibration_error(confidences: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Return the mean of |accuracy - confidence| over `bins` equal bins of confidence, weighted by their rows (section 2), in 0..1.

    confidences: (n, classes). The confidence of a row is its largest one, its prediction that class; bins are open to the left.
    """
    confidence, right = confidences.max(axis=1), confidences.argmax(axis=1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(places, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
