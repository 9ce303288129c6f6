"""A linear classifier on fixed features: logistic regression whose strength is chosen on validation data."""

from __future__ import annotations

import warnings

import numpy as np

from common import calibration

STRENGTHS = tuple(10.0**power for power in np.arange(-5, 1.5, 0.5))  # scikit-learn's C: the inverse of the penalty


def fit(
    features: np.ndarray, labels: np.ndarray, val_features: np.ndarray, val_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[tuple[float, float, float]]]:
    """Return weight (classes, dim), bias (classes,) and (C, validation accuracy, negative log-likelihood) of each strength tried.

    features: (n, dim) float32; labels: (n,) codes 0..classes-1, all of which occur. The columns are standardised by the training
    features, which is folded into weight and bias. The strength of the least validation negative log-likelihood is taken.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    scaled = (features - mean) / scale
    tried, best = [], (np.inf, np.empty(0), np.empty(0))
    model = LogisticRegression(max_iter=300, warm_start=True)
    for strength in STRENGTHS:
        model.C = strength
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest penalties are tried, seldom taken
            model.fit(scaled, labels)
        weight, bias = model.coef_, model.intercept_
        if len(weight) == 1:  # two classes have one row: half of it for either gives the same difference
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight = weight / scale
        bias = bias - weight @ mean
        logits = val_features @ weight.T + bias
        accuracy = float((logits.argmax(axis=1) == val_labels).mean())
        cost = calibration.negative_log_likelihood(logits, val_labels)
        tried.append((strength, accuracy, cost))
        if cost < best[0]:
            best = cost, weight.astype(np.float32), bias.astype(np.float32)
    return best[1], best[2], tried
