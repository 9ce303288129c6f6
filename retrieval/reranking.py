"""Better orders of first results: query expansion, k-reciprocal encoding, geometric verification. Pure functions of one query."""

from __future__ import annotations

import numpy as np

from common import knn

MIN_INLIERS = 15  # matches that a homography must explain; four points determine one, and some more agree by chance
PIXELS, KEYPOINTS = 480, 800  # longest side of the pictures compared, and keypoints in each: both bound the work


def expand_query(query: np.ndarray, neighbours: np.ndarray, *, alpha: float = 3.0) -> np.ndarray:
    """Return the query (dim,) moved towards its nearest rows (n, dim), unit length: alpha-weighted query expansion.

    q + sum of cos(q, x)^alpha x over unit vectors; rows of negative cosine have no say. Radenovic, Tolias, Chum 2018, "Fine-tuning
    CNN Image Retrieval with No Human Annotation", section 3.3.
    """
    query, rows = knn.unit(query[None])[0], knn.unit(neighbours)
    weights = np.maximum(rows @ query, 0) ** alpha
    return knn.unit((query + weights @ rows)[None])[0]


def k_reciprocal(
    query: np.ndarray, candidates: np.ndarray, *, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> np.ndarray:
    """Return a distance (n,) float64 for each of the candidates (n, dim): small where their neighbours are the query's too.

    Zhong et al. 2017, "Re-ranking Person Re-identification with k-reciprocal Encoding", equations 1 to 12, with the query and its
    candidates as the only points: (1 - weight) Jaccard distance of the encodings + weight (1 - cosine), Jaccard after local
    expansion over k2. The distance d is 1 - cosine. Every point keeps its k1 + 1 nearest and an encoding of bounded length, so
    memory grows linearly with the number of candidates.
    """
    from scipy import sparse

    points = np.concatenate([knn.unit(query[None]), knn.unit(candidates)])
    n = len(points)
    nearest = _self_first(knn.search(points, points, min(k1 + 1, n))[1])

    def neighbours(depth: int) -> sparse.csr_array:
        """Row p has ones at the `depth` nearest of point p."""
        rows = np.repeat(np.arange(n), min(depth, nearest.shape[1]))
        return sparse.csr_array((np.ones(len(rows)), (rows, nearest[:, :depth].ravel())), shape=(n, n))

    def reciprocal(depth: int) -> sparse.csr_array:
        near = neighbours(depth)
        return near.multiply(near.T).tocsr()

    first, half = reciprocal(k1 + 1), reciprocal(round(k1 / 2) + 1)
    shared = first.multiply(
        first @ half.T
    ).tocoo()  # for q in p's set: how many members of q's half set are in p's set too
    joins = 3 * shared.data > 2 * half.sum(axis=1)[shared.col]
    joined = sparse.csr_array((np.ones(joins.sum()), (shared.row[joins], shared.col[joins])), shape=(n, n))
    members = (first + joined @ half).tocoo()
    encoding = sparse.csr_array((np.exp(_cosines(points, members.row, members.col) - 1), members.coords), shape=(n, n))
    encoding = encoding.multiply(1 / encoding.sum(axis=1)[:, None]).tocsr()
    if k2 > 1:
        near = neighbours(k2)
        encoding = (near @ encoding).multiply(1 / near.sum(axis=1)[:, None]).tocsr()
    own = encoding[[0]].toarray()[0]
    others = encoding[1:].copy()
    others.data = np.minimum(others.data, own[others.indices])
    overlap = others.sum(axis=1)
    jaccard = 1 - overlap / (2 - overlap)  # encodings sum to 1, so the sum of their maxima is 2 - that of their minima
    return (1 - weight) * jaccard + weight * (1 - points[1:].astype(np.float64) @ points[0])


def _cosines(points: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    parts = [np.empty(0)]
    for at in range(0, len(rows), 4096):
        pairs = points[rows[at : at + 4096]], points[columns[at : at + 4096]]
        parts.append(np.einsum("nd,nd->n", *pairs, dtype=np.float64))
    return np.concatenate(parts)


def _self_first(nearest: np.ndarray) -> np.ndarray:
    """Put each point at the head of its own list, where a twin of a lower number may have come before it."""
    out = nearest.copy()
    for point, row in enumerate(nearest):
        place = np.flatnonzero(row == point)
        at = int(place[0]) if len(place) else len(row) - 1
        out[point, 1 : at + 1] = row[:at]
        out[point, 0] = point
    return out


class Keypoints:
    """The SIFT keypoints of one picture: places (n, 2) float32 in pixels and RootSIFT descriptors (n, 128) float32."""

    def __init__(self, picture: np.ndarray) -> None:
        """picture: RGB uint8 (height, width, 3) of any size; it is made grey and at most PIXELS a side."""
        import cv2

        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        scale = min(1.0, PIXELS / max(grey.shape))
        if scale < 1:
            size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        detector = cv2.SIFT_create(KEYPOINTS)  # type: ignore[attr-defined]
        keypoints, descriptors = detector.detectAndCompute(grey, None)
        self.places = np.array([keypoint.pt for keypoint in keypoints], np.float32).reshape(-1, 2)
        raw = np.zeros((0, 128), np.float32) if descriptors is None else descriptors
        self.descriptors = np.sqrt(raw / np.maximum(raw.sum(1, keepdims=True), 1e-12))  # Arandjelovic & Zisserman 2012


def inliers(query: Keypoints, candidate: Keypoints, *, ratio: float = 0.8) -> int:
    """Return how many matches of points agree with one homography, 0 where fewer than MIN_INLIERS do.

    A match is kept where its second nearest is clearly farther (Lowe 2004, section 7.1); the homography is found by RANSAC, 4
    pixels of tolerance. One that mirrors or collapses the picture is none.
    """
    import cv2

    if min(len(query.places), len(candidate.places)) < MIN_INLIERS:
        return 0
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(query.descriptors, candidate.descriptors, k=2)
    kept = [first for first, second in pairs if first.distance < ratio * second.distance]
    if len(kept) < MIN_INLIERS:
        return 0
    places = (query.places[[match.queryIdx for match in kept]], candidate.places[[match.trainIdx for match in kept]])
    matrix, mask = cv2.findHomography(*places, cv2.RANSAC, 4.0, maxIters=1000)
    if matrix is None or not 1e-2 < np.linalg.det(matrix[:2, :2]) < 1e2:
        return 0
    n = int(mask.sum())
    return n if n >= MIN_INLIERS else 0
