"""Kernel ridge regression of labels, each crop scored by the fit without it, in closed form. No disk, no printing.

The fit to labels as 0 and 1 is linear in them, F = H Y. So a fit without the rows g scores these rows, with no refit, exactly as
Y_g - (I - H_gg)^-1 (Y_g - F_g) (PRESS: Allen 1974, Technometrics 16; several rows: Cook & Weisberg 1982, Residuals and Influence in
Regression). One eigendecomposition serves every penalty (Golub, Heath & Wahba 1979, Technometrics 21).

The kernel is exp(-(1 - cosine) / width), Gaussian on unit rows; its width is the median of 1 - cosine (Garreau, Jitkrittum &
Kanagawa 2017, arXiv 1707.07269). More than LANDMARKS rows have it from as many drawn rows (Nystrom's approximation: Williams &
Seeger 2001, NIPS 13). Leaving out is exact there too, up to float32's rounding, and the time grows with the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common import knn

LANDMARKS = 1024
JITTER = 1e-6  # added to the kernel's diagonal of 1: equal rows would leave it singular
BLOCK = 1 << 22  # numbers held at a time


@dataclass(frozen=True, eq=False)
class Order:
    """Rows in an order drawn by crop: rows (n,), those of a crop one after another, and bounds (n_crop + 1,) of the crops in it."""

    rows: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, crop: np.ndarray) -> Order:
        """Return the order of `crop`, (n,) int codes: always the same for the same codes."""
        _, group, size = np.unique(crop, return_inverse=True, return_counts=True)
        drawn = np.random.default_rng(0).permutation(len(size))
        rows = np.argsort(np.argsort(drawn)[group], kind="stable")
        return cls(rows, np.concatenate([[0], np.cumsum(size[drawn])]))

    def blocks(self, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows and the sizes of their crops: whole crops, together at most `most` rows unless one crop has more."""
        start, n_crop = 0, len(self.bounds) - 1
        while start < n_crop:
            fits = int(np.searchsorted(self.bounds, self.bounds[start] + most, side="right")) - 1
            stop = max(start + 1, fits)
            yield self.rows[self.bounds[start] : self.bounds[stop]], np.diff(self.bounds[start : stop + 1])
            start = stop


@dataclass(frozen=True, eq=False)
class Regression:
    """Fits to one set of rows, for every penalty.

    Coordinates of a row are the kernel's values at the landmarks, unit rows (m, dim), less `centre` (m,), times `axes` (m, m). Over
    all n rows their mean is 0, their products are `spectrum` (m,) on the diagonal and 0 beside it, and those with the labels
    are `targets` (m, n_class). share (n_class,): of each label among the rows.
    All are float64 where the landmarks are all rows, else float32.
    """

    landmarks: np.ndarray
    width: float
    centre: np.ndarray
    axes: np.ndarray
    spectrum: np.ndarray
    targets: np.ndarray
    share: np.ndarray
    n: int

    @property
    def level(self) -> float:
        """The mean squared length of the coordinates of a row, with which a penalty is compared."""
        return max(float(self.spectrum.sum()) / self.n, JITTER)

    def coordinates(self, vectors: np.ndarray) -> np.ndarray:
        """Return the coordinates (n, m) of vectors (n, dim)."""
        return (_kernel(vectors, self.landmarks, self.width, self.axes.dtype) - self.centre) @ self.axes

    def scores(self, at: np.ndarray, sizes: np.ndarray, label: np.ndarray, penalty: float) -> np.ndarray:
        """Return the scores (n, n_class) of rows of the fit, about 1 for the right label and 0 for others, without their own crop.

        at: coordinates (n, m); rows of a crop stand together, and `sizes` are those of the crops. label: (n,) int codes.
        """
        given = np.arange(len(label)), label
        damped = at / (self.spectrum + at.dtype.type(penalty))
        residual = -(self.share + damped @ self.targets)
        residual[given] += 1
        first = np.cumsum(sizes) - sizes
        for size in np.unique(sizes):
            rows = first[sizes == size, None] + np.arange(size)
            hat = damped[rows] @ at[rows].transpose(0, 2, 1) + 1 / self.n
            residual[rows] = np.linalg.solve(np.eye(size) - hat, residual[rows])
        residual *= -1
        residual[given] += 1
        return residual


def fit(vectors: np.ndarray, label: np.ndarray, n_class: int, order: Order) -> Regression:
    """Return the regression of the labels, (n,) int codes, on the directions of vectors (n, dim)."""
    from scipy.linalg import solve_triangular
    from scipy.sparse import csr_array
    from threadpoolctl import threadpool_limits

    n = len(vectors)
    landmarks = knn.unit(vectors[order.rows[:LANDMARKS]]).astype(np.float64)
    m = len(landmarks)
    distance = 1 - landmarks @ landmarks.T
    width = max(float(np.median(distance[np.triu_indices(m, 1)])), JITTER)
    dtype = np.dtype(np.float64 if m == n else np.float32)
    landmarks = landmarks.astype(dtype)
    products, sums = np.zeros((m, m)), np.zeros((n_class, m))
    for rows, _ in order.blocks(max(1, BLOCK // m)):
        values = _kernel(vectors[rows], landmarks, width, dtype)
        products += values.T @ values
        one_hot = csr_array((np.ones(len(rows), dtype), (label[rows], np.arange(len(rows)))), (n_class, len(rows)))
        sums += one_hot @ values
    centre, share = sums.sum(axis=0) / n, np.bincount(label, minlength=n_class) / n
    products -= n * np.outer(centre, centre)
    with threadpool_limits(1):  # thousands of short steps: threads would mostly wait for each other
        root = np.linalg.cholesky(np.exp(-distance / width) + JITTER * np.eye(m))
        whitened = solve_triangular(root, solve_triangular(root, products, lower=True).T, lower=True)
        spectrum, directions = np.linalg.eigh((whitened + whitened.T) / 2)
        axes = solve_triangular(root, directions, lower=True, trans="T")
    targets = axes.T @ (sums - n * np.outer(share, centre)).T
    centre, axes, spectrum, targets, share = (
        array.astype(dtype, copy=False) for array in (centre, axes, spectrum.clip(0), targets, share)
    )
    return Regression(landmarks, width, centre, axes, spectrum, targets, share, n)


def _kernel(vectors: np.ndarray, landmarks: np.ndarray, width: float, dtype: np.dtype) -> np.ndarray:
    values = knn.unit(vectors).astype(dtype, copy=False) @ landmarks.T
    values -= 1
    values /= width
    return np.exp(values, out=values)
