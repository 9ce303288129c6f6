"""What benchmarks/audit.py compares with: plain methods that ignore photos, and this project's former ones."""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit


def wilson(correct: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crops as independent."""
    n = size.sum(axis=1)
    p, z = correct.sum(axis=1) / n, ndtri(0.975)
    centre, half = (p + z**2 / 2 / n) / (1 + z**2 / n), z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    return centre - half, centre + half


def clustered_t(total: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's t on the linearised variance by photo: of an accuracy, or of a difference."""
    n, crops = size.shape[1], size.sum(axis=1)
    ratio = total.sum(axis=1) / crops
    error = np.sqrt(n / (n - 1) * ((total - ratio[:, None] * size) ** 2).sum(axis=1)) / crops
    half = stdtrit(n - 1, 0.975) * error
    return ratio - half, ratio + half


def former_accuracy(correct: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Korn-Graubard without CR2, the prior a correlation of 0.3 with the weight of half a photo."""
    n, crops = size.shape[1], size.sum(axis=1)
    p = correct.sum(axis=1) / crops
    squares = ((correct - p[:, None] * size) ** 2).sum(axis=1)
    spread = n / (n - 1) * (crops - 1) / crops**2 * squares
    prior = 1 + 0.3 * ((size**2).sum(axis=1) / crops - 1)
    design_effect = (n * spread + 0.5 * prior) / (n * p * (1 - p) + 0.5)
    ratio = stdtrit(crops - 1, 0.025) / stdtrit(n - 1, 0.025)
    effective = np.minimum(crops / design_effect * ratio**2, crops)
    right, wrong = p * effective, (1 - p) * effective
    low = np.where(right > 0, betaincinv(np.maximum(right, 1e-12), wrong + 1, 0.025), 0)
    return low, np.where(wrong > 0, betaincinv(right + 1, np.maximum(wrong, 1e-12), 0.975), 1)


def untrended(
    correct: np.ndarray, size: np.ndarray, *, leverage: int = 1, freedom: str = "photos"
) -> tuple[np.ndarray, np.ndarray]:
    """This project's interval blind to a trend of accuracy with size, and the textbook's remedies for unequal photos.

    `leverage` 1: residuals over the root of 1 - share (CR2); 2: over 1 - share (CR3, a delete-one jackknife). `freedom`: photos;
    Kish's effective number of them; or Satterthwaite's for the squared residuals seen.
    """
    n, crops, tail = size.shape[1], size.sum(axis=1), 0.025
    p = correct.sum(axis=1) / crops
    squared = (correct - p[:, None] * size) ** 2
    biased = (size**2).sum(axis=1) / crops
    seen_freedom = squared.sum(axis=1) ** 2 / np.maximum((squared**2).sum(axis=1), 1e-12)
    photos = {"photos": n, "Kish": crops / biased, "Satterthwaite": np.clip(seen_freedom + 1, 2, n)}[freedom]
    variance = (squared / (1 - size / crops[:, None]) ** leverage).sum(axis=1) / crops**2
    spread = p * (1 - p)
    observed = np.where(spread > 0, (crops - 1) * variance / np.where(spread > 0, spread, 1), 0)
    evidence = n * spread
    for _ in range(3):
        used = evidence
        design_effect = (used * observed + 1.5 * (1 + 0.45 * (biased - 1))) / (used + 1.5)
        evidence = np.maximum(used, crops * spread / np.maximum(design_effect, 1))
    t = stdtrit(np.minimum((photos - 1) * (1 + 1.5 / np.maximum(used, 1e-12)), crops - 1), tail)
    effective = np.minimum(crops / design_effect * (stdtrit(crops - 1, tail) / t) ** 2, crops)
    right, wrong = p * effective, (1 - p) * effective
    low = np.where(right > 0, betaincinv(np.maximum(right, 1e-12), wrong + 1, tail), 0)
    return low, np.where(wrong > 0, betaincinv(right + 1, np.maximum(wrong, 1e-12), 1 - tail), 1)


def bootstrap_t(correct: np.ndarray, size: np.ndarray, resamples: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Studentised bootstrap by photo of the ratio, equal tails; all studies are drawn alike."""
    n, crops = size.shape[1], size.sum(axis=1)
    ratio = correct.sum(axis=1) / crops
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples).T.astype(float)
    drawn_crops = size @ weights
    drawn = correct @ weights / drawn_crops
    squares = correct**2 @ weights - 2 * drawn * ((correct * size) @ weights) + drawn**2 * (size**2 @ weights)
    error = np.sqrt(np.maximum(squares, 1e-9)) / drawn_crops
    low, high = np.quantile((drawn - ratio[:, None]) / error, [0.025, 0.975], axis=1)
    own = np.sqrt(((correct - ratio[:, None] * size) ** 2).sum(axis=1)) / crops
    return np.clip(ratio - high * own, 0, 1), np.clip(ratio - low * own, 0, 1)


def former_difference(total: np.ndarray, size: np.ndarray, resamples: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Studentised bootstrap by photo, symmetric, two pseudo crops in the variance; all studies share their sizes."""
    n = size.shape[1]
    ratio = total.sum(axis=1) / size[0].sum()
    residual = total - ratio[:, None] * size
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)
    drawn = residual @ weights.T
    variance = np.maximum(residual**2 @ weights.T - drawn**2 / n, 0) + 2
    quantile = np.quantile(np.abs(drawn) / np.sqrt(n / (n - 1) * variance), 0.95, axis=1)
    error = np.sqrt(n / (n - 1) * ((residual**2).sum(axis=1) + 2))
    half = np.maximum(quantile, stdtrit(n - 1, 0.975)) * error / size[0].sum()
    return ratio - half, ratio + half


def single_step_p(difference: np.ndarray, signs: np.ndarray, rivals: np.ndarray | None = None) -> np.ndarray:
    """Single-step max-t, two-sided: the former correction. `rivals`: rows of `difference` among which the baseline was chosen."""
    norm = np.sqrt((difference**2).sum(axis=1))
    scale = np.where(norm > 0, 1 / np.maximum(norm, 1e-9), 0)
    sums = signs @ difference.T
    largest = (np.abs(sums) * scale).max(axis=1)
    observed = np.abs(difference.sum(axis=1)) * scale
    worse = largest
    for row in rivals if rivals is not None else []:
        gap = np.sqrt(((difference - difference[row]) ** 2).sum(axis=1))
        worse = np.maximum(
            worse, (np.abs(sums - sums[:, [row]]) * np.where(gap > 0, 1 / np.maximum(gap, 1e-9), 0)).max(axis=1)
        )
    limit = np.where(difference.sum(axis=1) > 0, 0, 1)
    reached = np.stack([(one[:, None] >= observed - 1e-9).sum(axis=0) for one in (largest, worse)])
    return (1 + reached[limit, np.arange(len(difference))]) / (1 + len(signs))
