"""Re-ranking: query expansion by hand, k-reciprocal encoding against the published formula, geometry on real photographs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from imaging import images
from retrieval import reranking


def test_query_expansion_by_hand():
    """q = (1, 0), neighbours at cosines 0.8 and -0.6: the second has no say; q + 0.8^3 (0.8, 0.6), scaled."""
    moved = reranking.expand_query(np.array([2.0, 0.0]), np.array([[8.0, 6.0], [-0.6, 0.8]]))
    expected = np.array([1 + 0.512 * 0.8, 0.512 * 0.6])
    assert moved == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)


def zhong(query, candidates, k1, k2, weight):
    """Zhong et al. 2017 step by step with full matrices and loops, as the authors' published code goes, distance 1 - cosine."""
    points = np.concatenate([query[None], candidates]).astype(np.float64)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    n = len(points)
    distance = 1 - points @ points.T
    np.fill_diagonal(distance, -1)  # each is its own nearest
    rank = np.argsort(distance, axis=1, kind="stable")
    np.fill_diagonal(distance, 0)

    def reciprocal(i, k):
        forward = rank[i, : k + 1]
        backward = rank[forward, : k + 1]
        return forward[np.where(backward == i)[0]]

    encoding = np.zeros((n, n))
    for i in range(n):
        own = reciprocal(i, k1)
        grown = own
        for candidate in own:
            more = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(np.intersect1d(more, own)) > 2 / 3 * len(more):
                grown = np.append(grown, more)
        grown = np.unique(grown)
        strength = np.exp(-distance[i, grown])
        encoding[i, grown] = strength / strength.sum()
    if k2 > 1:
        encoding = np.stack([encoding[rank[i, :k2]].mean(axis=0) for i in range(n)])
    jaccard = [
        1 - np.minimum(encoding[0], encoding[j]).sum() / np.maximum(encoding[0], encoding[j]).sum() for j in range(1, n)
    ]
    return (1 - weight) * np.array(jaccard) + weight * distance[0, 1:]


@pytest.mark.parametrize(("n", "k1", "k2"), [(60, 20, 6), (60, 9, 3), (40, 5, 1), (12, 20, 6), (1, 20, 6)])
def test_k_reciprocal_is_the_published_formula(n, k1, k2):
    rng = np.random.default_rng(n + k1)
    centres = rng.standard_normal((6, 8))
    rows = centres[rng.integers(0, 6, n + 1)] + 0.5 * rng.standard_normal((n + 1, 8))
    rows = rows.astype(np.float32)
    ours = reranking.k_reciprocal(rows[0], rows[1:], k1=k1, k2=k2, weight=0.3)
    assert ours == pytest.approx(zhong(rows[0], rows[1:], k1, k2, 0.3), abs=1e-5)


def test_a_neighbour_that_has_nearer_ones_of_its_own_goes_behind():
    """On a circle, in degrees: the query's nearest is at 0, and has three of its own cluster nearer than the query."""
    degrees = np.array([6.0, 0, -1, -2, -3, -4, 13, 14.5, 16])
    points = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1).astype(np.float32)
    distance = reranking.k_reciprocal(points[0], points[1:], k1=3, k2=1, weight=0.0)
    assert int(np.argmax(points[1:] @ points[0])) == 0
    assert distance[0] == pytest.approx(1)  # nothing shared
    assert (distance[5:] < 0.9).all()


def test_k_reciprocal_memory_is_linear_in_candidates():
    rng = np.random.default_rng(0)
    peaks = []
    reranking.k_reciprocal(rng.standard_normal(8).astype(np.float32), rng.standard_normal((50, 8)).astype(np.float32))
    for n in (2_000, 8_000):
        rows = rng.standard_normal((n, 8)).astype(np.float32)
        tracemalloc.start()
        reranking.k_reciprocal(rows[0], rows)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 6 * peaks[0]  # 16 times if any matrix were candidates x candidates


def test_twins_of_the_query_are_at_no_distance():
    rows = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    rows[5] = rows[0]
    distance = reranking.k_reciprocal(rows[0], rows[1:], k1=5, k2=1, weight=1.0)
    assert int(np.argmin(distance)) == 4
    assert distance[4] == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def packages(study_data):
    """Twelve photographs of packages and one of them warped: turned, tilted, darker, a third smaller."""
    import cv2

    files = sorted((study_data / "grocery" / "train" / "Packages").rglob("*.jpg"))[::10][:12]
    pictures = [images.decode(file) for file in files]
    high, wide = pictures[4].shape[:2]
    corners = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32)
    onto = np.array([[0.15, 0.1], [0.8, 0.02], [0.9, 0.75], [0.05, 0.85]], np.float32) * [wide, high]
    matrix = cv2.getPerspectiveTransform(corners, onto.astype(np.float32))
    warped = (0.8 * cv2.warpPerspective(pictures[4], matrix, (wide, high))).astype(np.uint8)
    return pictures, warped


def test_a_warped_photograph_is_found_among_others(packages):
    pictures, warped = packages
    query = reranking.Keypoints(warped)
    found = [reranking.inliers(query, reranking.Keypoints(picture)) for picture in pictures]
    assert int(np.argmax(found)) == 4
    assert found[4] > 50
    assert sorted(found)[-2] < found[4] / 3


def test_pictures_without_points_match_nothing(packages):
    empty = reranking.Keypoints(np.full((100, 100, 3), 128, np.uint8))
    tiny = reranking.Keypoints(np.zeros((1, 1, 3), np.uint8))
    some = reranking.Keypoints(packages[0][0])
    assert reranking.inliers(empty, some) == reranking.inliers(some, tiny) == reranking.inliers(empty, empty) == 0


def test_a_mirrored_photograph_is_another_thing(packages):
    picture = packages[0][4]
    query = reranking.Keypoints(picture)
    assert reranking.inliers(query, reranking.Keypoints(picture)) > 100
    assert reranking.inliers(query, reranking.Keypoints(np.ascontiguousarray(picture[:, ::-1]))) < 20
