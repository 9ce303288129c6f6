"""Maps of embeddings in two or three dimensions: PCA, t-SNE, UMAP.

All three work on rows scaled to unit length, so that a map shows the geometry that is scored (cosine). A seed gives the same
map again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from common import knn
from plots.methods import METHODS

N_NEIGHBORS = 15  # of each point in UMAP's graph, itself among them, as umap-learn has it
WIDE = 4096  # numbers a row; above it, and above the number of rows, no covariance matrix is made
_CHUNK = 1 << 24  # numbers taken into memory at a time
# Principal components given to t-SNE (van der Maaten & Hinton, JMLR 2008, section 4.2: 30; scikit-learn: 50).
_TSNE_INPUT = 50


def project(
    vectors: np.ndarray,
    method: str = "pca",
    dimensions: int = 2,
    *,
    seed: int = 0,
    neighbors: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Return (n, dimensions) float32 coordinates of the rows of `vectors`.

    vectors: (n, dim) float, an array, a memory map or `embeddings.Blocks`. neighbors: what `nearest(vectors, k)` gave, k >= 14;
    it saves UMAP its search, the other methods ignore it. PCA reads `vectors` in chunks, and so does UMAP that need not search;
    t-SNE needs O(n * 50) memory. Too few rows for t-SNE (under 4) or UMAP (under 5) are shown by PCA; coordinates that the data
    cannot fill are 0. Raises ValueError when a value is not finite.
    """
    if method not in METHODS:
        raise ValueError(f"{method!r} is none of {', '.join(METHODS)}")
    if method == "umap" and len(vectors) > 4:
        return _umap(vectors, dimensions, seed, neighbors)
    if method == "tsne" and len(vectors) > 3:
        return _tsne(vectors, dimensions, seed)
    return pca(vectors, dimensions)


def nearest(blocks: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (row numbers int64, cosine distances float64), each (n, k), of every row's nearest other rows.

    `blocks` are the rows in order, (n_i, dim) each; row numbers count through all of them. k < n.
    """
    similarities, indices = knn.search_self(list(blocks), k)
    return indices, np.clip(1 - similarities.astype(np.float64), 0, 2)


def pca(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """Return the first principal components of the unit rows of `vectors`, (n, dimensions) float32.

    From the eigenvectors of the covariance, in three passes over the rows: exact, and as large as the data only in the result. The
    sign of a component makes its largest loading positive, so that it does not depend on the library.
    """
    n, dim = vectors.shape
    result = np.zeros((n, dimensions), np.float32)
    if n < 2 or dim == 0:
        return result
    mean = np.sum([rows.sum(axis=0, dtype=np.float64) for _, rows in _unit_rows(vectors)], axis=0) / n
    components = _components(vectors, mean.astype(np.float32), min(dimensions, dim, n - 1))
    for part, rows in _unit_rows(vectors):
        result[part, : components.shape[1]] = (rows - mean.astype(np.float32)) @ components
    return result


def _components(vectors: np.ndarray, mean: np.ndarray, count: int) -> np.ndarray:
    """Return (dim, count) float32 loadings of the largest variance."""
    n, dim = vectors.shape
    if dim <= max(n, WIDE):
        covariance = np.zeros((dim, dim))
        for _, rows in _unit_rows(vectors):
            rows -= mean
            covariance += rows.T @ rows
        loadings = np.linalg.eigh(covariance)[1][:, ::-1][:, :count]
    else:  # fewer rows than numbers in a row: the right singular vectors, without a (dim, dim) matrix
        rows = np.concatenate([rows for _, rows in _unit_rows(vectors)]) - mean
        loadings = np.linalg.svd(rows, full_matrices=False)[2][:count].T
    largest = np.take_along_axis(loadings, np.abs(loadings).argmax(axis=0)[None], axis=0)
    return (loadings * np.where(largest < 0, -1, 1)).astype(np.float32)


def _tsne(vectors: np.ndarray, dimensions: int, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    n = len(vectors)
    start = pca(vectors, max(_TSNE_INPUT, dimensions))
    spread = float(start[:, 0].std())
    if spread == 0:  # all rows are equal: there is nothing to lay out
        return np.zeros((n, dimensions), np.float32)
    # n / 48 is scikit-learn's own "auto" (Belkina et al. 2019) without its floor of 50: with it, a few dozen rows in three
    # dimensions fly apart in the early exaggeration, and rounding alone decides where they land.
    layout = TSNE(
        dimensions,
        perplexity=min(30, (n - 1) / 3),
        init=start[:, :dimensions] / spread * 1e-4,
        learning_rate=max(n / 48, min(10, n / 6)),
        random_state=seed,
    )
    with threadpool_limits(1 if n < 2000 else None):  # a thousand short steps: threads would mostly wait for each other
        return layout.fit_transform(start).astype(np.float32)


def _umap(
    vectors: np.ndarray, dimensions: int, seed: int, neighbors: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    """UMAP from PCA (Kobak & Linderman, 2021): umap-learn's graph of exact cosine neighbours, laid out by `lay_out`."""
    from umap.umap_ import find_ab_params

    from plots.layout import lay_out

    n = len(vectors)
    start = pca(vectors, dimensions)
    widest = float(np.ptp(start, axis=0).max())
    if widest == 0:  # all rows are equal: there is nothing to lay out
        return start
    k = min(N_NEIGHBORS, n - 1)
    if neighbors is None or neighbors[0].shape[1] < k - 1:
        neighbors = nearest([vectors], k - 1)
    epochs = 500 if n <= 10_000 else 200  # as umap-learn, like the curve and the width of the start
    indices, distances = (values[:, : k - 1] for values in neighbors)
    graph = _graph(indices, distances, epochs)
    start = start * (10 / widest) + np.random.default_rng(seed).normal(0, 1e-3, start.shape)  # noise parts equal rows
    return lay_out(start, graph, find_ab_params(spread=1.0, min_dist=0.1), epochs, seed=seed)


def _graph(indices: np.ndarray, distances: np.ndarray, epochs: int) -> Any:
    """Return UMAP's graph of neighbours, sparse (n, n), without the edges too weak to pull in any epoch."""
    from umap.umap_ import fuzzy_simplicial_set

    n, k = indices.shape
    graph, _, _ = fuzzy_simplicial_set(
        np.empty((n, 0)),  # the rows, which it needs only to search neighbours
        k + 1,
        random_state=None,
        metric="cosine",
        # UMAP counts a row as its own first neighbour.
        knn_indices=np.hstack([np.arange(n)[:, None], indices]).astype(np.int32),
        knn_dists=np.hstack([np.zeros((n, 1)), distances]).astype(np.float32),
    )
    graph.data[graph.data < graph.data.max() / epochs] = 0
    graph.eliminate_zeros()
    return graph


def _unit_rows(vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice, (m, dim) float32 rows of unit length) in chunks of bounded size; a zero row stays zero."""
    n, dim = vectors.shape
    step = max(1, _CHUNK // max(1, dim))
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        rows = np.asarray(vectors[part], dtype=np.float32)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise ValueError(f"row {start + int(finite.argmin())} has a value that is not finite")
        yield part, knn.unit(rows)
