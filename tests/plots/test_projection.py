"""Projections: PCA equals scikit-learn's, maps keep neighbours together, a seed repeats them, and few rows do no harm."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from common.blocks import Blocks
from plots import layout, projection
from plots.methods import METHODS


def clusters(n: int = 120, dim: int = 40, n_class: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_class
    rows = rng.normal(size=(n_class, dim))[labels] * 3 + rng.normal(size=(n, dim))
    return (rows * rng.uniform(0.1, 10, (n, 1))).astype(np.float32), labels  # lengths differ: only directions count


def purity(points: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose nearest other row on the map has their label."""
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return float((labels[distance.argmin(axis=1)] == labels).mean())


@pytest.mark.parametrize(("n", "dim"), [(120, 40), (30, 200)])
def test_pca_equals_scikit_learn_on_unit_rows(n, dim):
    from sklearn.decomposition import PCA

    vectors, _ = clusters(n, dim)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    model = PCA(3, svd_solver="full").fit(unit)
    loadings = (
        model.components_ * np.sign(model.components_[np.arange(3), np.abs(model.components_).argmax(axis=1)])[:, None]
    )
    expected = (unit - unit.mean(axis=0)) @ loadings.T
    np.testing.assert_allclose(projection.pca(vectors, 3), expected, atol=1e-5)


def test_pca_of_very_wide_rows_is_the_same(monkeypatch):
    vectors, _ = clusters(30, 200)
    expected = projection.pca(vectors, 3)
    monkeypatch.setattr(projection, "WIDE", 100)
    np.testing.assert_allclose(projection.pca(vectors, 3), expected, atol=1e-5)


def test_pca_reads_rows_in_chunks_from_anywhere(tmp_path, monkeypatch):
    vectors, _ = clusters()
    expected = projection.pca(vectors, 2)
    mapped = np.memmap(tmp_path / "rows", np.float32, "w+", shape=vectors.shape)
    mapped[:] = vectors
    monkeypatch.setattr(projection, "_CHUNK", 7 * vectors.shape[1])
    np.testing.assert_allclose(projection.pca(mapped, 2), expected, atol=1e-5)
    blocks = Blocks([vectors[:50], vectors[50:51], vectors[51:]])
    np.testing.assert_allclose(projection.pca(blocks, 2), expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_maps_keep_classes_together_and_a_seed_repeats_them(method, dimensions):
    vectors, labels = clusters(60)
    points = projection.project(vectors, method, dimensions, seed=3)
    assert points.shape == (60, dimensions)
    assert points.dtype == np.float32
    assert purity(points, labels) > 0.95
    np.testing.assert_array_equal(points, projection.project(vectors, method, dimensions, seed=3))


@pytest.mark.parametrize(
    ("method", "n"), [("tsne", 12), ("tsne", 30), *((method, n) for method in METHODS for n in (60, 240))]
)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_maps_keep_neighbours_whatever_the_processor(method, dimensions, n):
    """Neighbours on the map are neighbours in truth; a map thrown about by too large steps has 0.4 to 0.85 here."""
    from sklearn.manifold import trustworthiness

    vectors, _ = clusters(n)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    points = projection.project(vectors, method, dimensions, seed=3)
    kept = trustworthiness(unit, points, metric="cosine", n_neighbors=min(10, n // 2 - 1))
    assert kept > (0.75 if n < 20 else 0.9)


def test_another_seed_gives_another_map():
    vectors, _ = clusters(60)
    one, other = (projection.project(vectors, "umap", 2, seed=seed) for seed in (0, 1))
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_few_rows(method, n):
    points = projection.project(clusters(n)[0], method, 3, seed=0)
    assert points.shape == (n, 3)
    assert np.isfinite(points).all()
    assert len(np.unique(points, axis=0)) == n


@pytest.mark.parametrize("method", METHODS)
def test_equal_rows_and_narrow_rows(method):
    same = projection.project(np.ones((20, 8), np.float32), method, 2)
    np.testing.assert_allclose(same, 0, atol=1e-6)
    narrow = projection.project(clusters(30, 1)[0], method, 3)
    assert np.isfinite(narrow).all()
    duplicated = projection.project(np.repeat(clusters(10)[0], 5, axis=0), method, 2)
    assert np.isfinite(duplicated).all()


def test_no_rows_and_a_zero_row():
    assert projection.project(np.empty((0, 4), np.float32), "pca", 2).shape == (0, 2)
    vectors, _ = clusters(10)
    vectors[3] = 0
    assert np.isfinite(projection.project(vectors, "pca", 2)).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_value_that_is_not_finite_is_named_by_its_row(method):
    vectors, _ = clusters(40)
    vectors[17, 2] = np.nan
    with pytest.raises(ValueError, match="row 17"):
        projection.project(vectors, method, 2)


def test_nearest_over_blocks_equals_brute_force():
    vectors, _ = clusters(60)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, np.inf)
    indices, distances = projection.nearest([vectors[:25], vectors[25:]], 6)
    np.testing.assert_array_equal(indices, np.argsort(distance, axis=1)[:, :6])
    np.testing.assert_allclose(distances, np.sort(distance, axis=1)[:, :6], atol=2e-6)


def test_umap_takes_the_neighbours_it_is_given(monkeypatch):
    vectors, labels = clusters(60)
    near = projection.nearest([vectors], 20)

    def no_search(*args):
        raise AssertionError("searched again")

    monkeypatch.setattr(projection, "nearest", no_search)
    assert purity(projection.project(vectors, "umap", 2, neighbors=near), labels) > 0.95


def test_the_graph_is_that_of_umap_learn():
    from umap import UMAP

    vectors, _ = clusters(60)
    indices, distances = projection.nearest([vectors], 14)
    with_itself = np.hstack([np.arange(60)[:, None], indices]), np.hstack([np.zeros((60, 1)), distances])
    peer = UMAP(
        n_neighbors=15, metric="cosine", precomputed_knn=with_itself, n_epochs=500, force_approximation_algorithm=True
    )
    expected = peer.fit(vectors).graph_.toarray()
    expected[expected < expected.max() / 500] = 0
    graph = projection._graph(indices, distances, 500).toarray()
    np.testing.assert_allclose(graph, expected, atol=1e-6)
    np.testing.assert_allclose(graph, graph.T, atol=1e-6)


def test_umap_reads_rows_from_several_arrays_as_from_one():
    vectors, _ = clusters(60)
    expected = projection.project(vectors, "umap", 2)
    np.testing.assert_array_equal(projection.project(Blocks([vectors[:25], vectors[25:]]), "umap", 2), expected)


def test_the_map_does_not_depend_on_the_number_of_threads(monkeypatch):
    vectors, _ = clusters(300)
    monkeypatch.setattr(layout, "FEW", 0)
    maps = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(layout, "cores", lambda threads=threads: threads)
        maps.append(projection.project(vectors, "umap", 2, seed=5))
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


@pytest.mark.filterwarnings("ignore:overflow")  # numbers that mix bits in 64
def test_a_point_is_pulled_down_the_slope_of_umaps_loss(monkeypatch):
    """Two points, one edge: the pull on both is minus the slope of -log(1 / (1 + a d^2b)), here by differences."""
    a, b = 1.577, 0.895
    points = np.array([[0, 0, 0], [0.6, -0.8, 1.1]])
    slope = np.zeros(3)
    for axis in range(3):
        ends = []
        for shift in (1e-5, -1e-5):
            point = points[0].copy()
            point[axis] += shift
            ends.append(np.log1p(a * np.sum((point - points[1]) ** 2) ** b))
        slope[axis] = (ends[0] - ends[1]) / 2e-5
    monkeypatch.setattr(layout, "NEGATIVES", 0)
    monkeypatch.setattr(layout, "_move", layout._move.py_func)
    graph = scipy.sparse.csr_matrix(np.array([[0, 1.0], [0, 0]]))
    moved = layout.lay_out(points, graph, (a, b), 2, seed=0)  # one epoch, with half of the full step
    np.testing.assert_allclose(moved[0], -0.5 * slope, rtol=4e-3)  # a force is read from a table
    np.testing.assert_allclose(moved[1] - points[1], 0.5 * slope, rtol=4e-3)


def test_forces_of_the_table_are_those_of_the_formula():
    """Over all squared distances that a map can have; from infinitely far nothing comes."""
    a, b = 1.577, 0.895
    square = np.float32(10.0) ** np.random.default_rng(0).uniform(-30, 30, 3000).astype(np.float32)
    exact = square.astype(np.float64)
    pull = 2 * a * b * exact ** (b - 1) / (1 + a * exact**b)
    push = 2 * b / ((1e-3 + exact) * (1 + a * exact**b))
    for forces, formula in zip(layout._forces(a, b), (pull, push), strict=True):
        np.testing.assert_allclose([layout._at(forces, x) for x in square], formula, rtol=8e-3, atol=1e-37)
        assert layout._at(forces, np.float32(np.inf)) == 0


@pytest.mark.filterwarnings("ignore:overflow")
def test_an_edge_of_a_third_of_the_weight_pulls_in_every_third_epoch(monkeypatch):
    pulls = []
    monkeypatch.setattr(layout, "_move", layout._move.py_func)
    monkeypatch.setattr(layout, "_clip", lambda force: pulls.append(force) or np.float32(0))
    monkeypatch.setattr(layout, "NEGATIVES", 0)
    graph = scipy.sparse.csr_matrix(np.array([[0, 1.0, 0], [1.0, 0, 1 / 3], [0, 1 / 3, 0]]))
    layout.lay_out(np.eye(3), graph, (1.577, 0.895), 31, seed=0)  # 30 epochs: 2 x (30 + 10) pulls of three axes
    assert len(pulls) == 3 * 2 * (30 + 10)


@pytest.mark.parametrize("threads", [2, 3, 8, 40])
def test_what_moves_side_by_side_has_no_point_in_common(threads):
    rng = np.random.default_rng(0)
    heads, tails = rng.integers(0, 90, (2, 900))
    order, rounds = layout._tournament(heads, tails, threads)
    alone, whole = layout._tournament(heads, tails, 1)
    np.testing.assert_array_equal(order, alone)
    assert whole == [[(0, 900)]]
    assert sorted(order) == list(range(900))
    assert [edge for parts in rounds for first, end in parts for edge in range(first, end)] == list(range(900))
    assert len(rounds) == layout.GROUPS
    for parts in rounds:
        assert 2 <= len(parts) <= threads
        touched = [set(heads[order[first:end]]) | set(tails[order[first:end]]) for first, end in parts]
        assert sum(map(len, touched)) == len(set.union(*touched))


def test_numbers_drawn_for_pushing_are_spread_evenly():
    drawn = [layout._below(10, np.uint64(state * 0x9E3779B97F4A7C15 % 2**64)) for state in range(20_000)]
    counts = np.bincount(drawn, minlength=10)
    assert len(counts) == 10
    assert abs(counts - 2000).max() < 5 * np.sqrt(2000)


def test_umap_of_our_neighbours_is_as_trustworthy_as_its_own():
    from sklearn.manifold import trustworthiness
    from umap import UMAP

    vectors, _ = clusters(400, n_class=8)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ours = trustworthiness(unit, projection.project(vectors, "umap", 2, seed=0), metric="cosine", n_neighbors=15)
    theirs = trustworthiness(
        unit, UMAP(metric="cosine", random_state=0).fit_transform(vectors), metric="cosine", n_neighbors=15
    )
    assert ours > theirs - 0.01
