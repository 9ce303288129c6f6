"""Maps of embeddings in two or three dimensions: PCA, t-SNE, UMAP.

All three work on rows scaled to unit length, so that a map shows the geometry that is scored (cosine). A seed gives the same map again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

METHODS = ("pca", "tsne", "umap")
N_NEIGHBORS = 15  # of each point in UMAP's graph, itself among them, as umap-learn has it
_CHUNK = 1 << 24  # numbers taken into memory at a time
_TSNE_INPUT = (
    50  # principal components given to t-SNE (van der Maaten & Hinton, JMLR 2008, section 4.2: 30; scikit-learn: 50)
)


def project(
    vectors: np.ndarray,
    method: str = "pca",
    dimensions: int = 2,
    *,
    seed: int = 0,
    neighbors: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Return (n, dimensions) float32 coordinates of the rows of `vectors`, (n, dim) float, perhaps a memory map.

    `neighbors`: (similarities, indices), each (n, k), of every row's nearest rows by cosine, as `knn.search(vectors, vectors, k)`
    returns them with k >= 15; it saves UMAP the search, the other methods ignore it. PCA reads `vectors` in chunks; the others
    need O(n * 50) memory (t-SNE) or O(n * dim) (UMAP). Too few rows for t-SNE (under 4) or UMAP (under 5) are shown by PCA;
    coordinates that the data cannot fill are 0. Raises ValueError when a value is not finite.
    """
    if method not in METHODS:
        raise ValueError(f"{method!r} is none of {', '.join(METHODS)}")
    if method == "umap" and len(vectors) > max(4, dimensions + 1):
        return _umap(vectors, dimensions, seed, neighbors)
    if method == "tsne" and len(vectors) > 3:
        return _tsne(vectors, dimensions, seed)
    return pca(vectors, dimensions)


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
    if dim <= n or dim <= 4096:
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

    n = len(vectors)
    start = pca(vectors, max(_TSNE_INPUT, dimensions))
    spread = float(start[:, 0].std())
    if spread == 0:  # all rows are equal: there is nothing to lay out
        return np.zeros((n, dimensions), np.float32)
    layout = TSNE(
        dimensions,
        perplexity=min(30, (n - 1) / 3),
        init=start[:, :dimensions] / spread * 1e-4,
        random_state=seed,
    )
    return layout.fit_transform(start).astype(np.float32)


def _umap(
    vectors: np.ndarray, dimensions: int, seed: int, neighbors: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    """UMAP of our exact cosine neighbours; it searches none itself, and the layout is the part that takes the time."""
    import warnings

    from umap import UMAP

    from common import knn

    n = len(vectors)
    k = min(N_NEIGHBORS, n - 1)
    if neighbors is None or neighbors[0].shape[1] < k:
        neighbors = knn.search(vectors, vectors, k)
    similarities, indices = (_self_first(part, neighbors[1])[:, :k] for part in neighbors)
    distances = np.clip(1 - similarities, 0, 2).astype(np.float32)
    rows = np.concatenate([rows for _, rows in _unit_rows(vectors)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread, and that new points cannot be placed
        layout = UMAP(
            n_neighbors=k,
            n_components=dimensions,
            metric="cosine",
            init="pca" if n < 4 * N_NEIGHBORS else "spectral",  # spectral needs far more points than dimensions
            random_state=seed,
            precomputed_knn=(indices.astype(np.int32), distances),
        )
        result = layout.fit_transform(rows)
    return np.nan_to_num(result).astype(np.float32)


def _self_first(values: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Move each row's own entry to the front, where UMAP takes it to be; among equal rows it may stand elsewhere."""
    own = indices == np.arange(len(indices))[:, None]
    own[~own.any(axis=1), -1] = True  # crowded out by equal rows: any of them stands for it
    order = np.argsort(~own, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1)


def _unit_rows(vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice, (m, dim) float32 rows of unit length) in chunks of bounded size; a zero row stays zero."""
    n, dim = vectors.shape
    step = max(1, _CHUNK // max(1, dim))
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        rows = np.array(vectors[part], dtype=np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
        if not np.isfinite(lengths).all():
            raise ValueError(
                f"row {start + int(np.flatnonzero(~np.isfinite(lengths))[0])} has a value that is not finite"
            )
        rows /= np.where(lengths == 0, 1, lengths).astype(np.float32)
        yield part, rows
