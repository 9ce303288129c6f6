"""knn: every path against brute force in float64, faiss and scikit-learn; ties, shards, bounds, merge and vote by hand."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common import knn, knn_blocks
from common.blocks import Blocks


def cosines(query, reference):
    """The oracle: (n_query, n_ref) cosines in float64."""
    unit = [
        rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        for rows in (query, reference)
    ]
    return unit[0] @ unit[1].T


def check(query, reference, k, found, allowed=None):
    """Assert that `found` is exact: the k largest cosines, of the rows it names, in the order the docstring promises."""
    similarities, indices = found
    assert similarities.dtype == np.float32
    assert indices.dtype == np.int64
    assert similarities.shape == indices.shape == (len(query), k)
    truth = cosines(query, reference)
    if allowed is not None:
        truth = np.where(allowed, truth, -np.inf)
    best = -np.sort(-truth, axis=1)[:, :k]
    there = np.isfinite(best)
    np.testing.assert_array_equal(indices >= 0, there)
    np.testing.assert_array_equal(np.isfinite(similarities), there)
    np.testing.assert_allclose(similarities[there], best[there], atol=1e-6)
    named = np.take_along_axis(truth, indices, axis=1)
    np.testing.assert_allclose(similarities[there], named[there], atol=1e-6)
    for row, kept in zip(indices, there, strict=True):
        assert len(set(row[kept])) == kept.sum()
    with np.errstate(invalid="ignore"):
        step = np.diff(similarities, axis=1)
    assert (step[there[:, 1:]] <= 0).all()
    tied = (similarities[:, 1:] == similarities[:, :-1]) & there[:, 1:]
    assert (np.diff(indices, axis=1)[tied] > 0).all()


NATIVE_PAYS, NATIVE_MULTIPLY = knn_blocks.bfloat16_pays, knn_blocks.multiply


def multiply_rounded(queries, references, out):
    """The product in bfloat16 by way of float32: a product of two bfloat16 numbers is exact there."""
    out.copy_(queries.float() @ references.float().T)


@pytest.fixture(params=["float32", "bfloat16"])
def coarse(request, monkeypatch):
    """Both coarse types, whatever this processor is good at, in blocks small enough for several, each core with its own tiles.

    Where torch multiplies bfloat16 slowly, a hundred times on some processors, it is done by way of float32.
    """
    if request.param == "bfloat16" and not NATIVE_PAYS():
        monkeypatch.setattr(knn_blocks, "multiply", multiply_rounded)
    monkeypatch.setattr(knn_blocks, "LARGE", 0)
    monkeypatch.setattr(knn_blocks, "SMALL", 0)
    monkeypatch.setattr(knn_blocks, "bfloat16_pays", lambda: request.param == "bfloat16")
    monkeypatch.setattr(knn_blocks, "BLOCK_ROWS", 700)
    monkeypatch.setattr(knn_blocks, "TILE", 128)
    monkeypatch.setattr(knn_blocks, "CHUNK_FLOATS", 96 * 150)
    return request.param


def clustered(rng, n_query=300, n_ref=2500, dim=96, spread=0.5):
    """Vectors around 40 centres, of any length, one reference in ten the copy of another."""
    centres = rng.standard_normal((40, dim))
    query, reference = (
        (centres[rng.integers(0, 40, n)] + spread * rng.standard_normal((n, dim))) * rng.uniform(0.1, 9, (n, 1))
        for n in (n_query, n_ref)
    )
    reference[rng.choice(n_ref, n_ref // 10, replace=False)] = reference[rng.choice(n_ref, n_ref // 10)]
    return query.astype(np.float32), reference.astype(np.float32)


def test_a_product_in_bfloat16_is_that_of_float32_rounded():
    import torch

    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((130, 96))).bfloat16()
    native, rounded = (torch.empty(70, 130, dtype=torch.bfloat16) for _ in range(2))
    NATIVE_MULTIPLY(rows[:70], rows, native)
    multiply_rounded(rows[:70], rows, rounded)
    step = 2.0**-7 * rounded.double().abs() + 2.0**-20  # the order of the sum may move a score over an edge
    assert ((native.double() - rounded.double()).abs() <= step).all()


@pytest.mark.parametrize("k", [1, 20, 200, 2500])
@pytest.mark.parametrize("spread", [0.01, 0.5, 3.0])
def test_equals_brute_force(coarse, k, spread):
    query, reference = clustered(np.random.default_rng(k), spread=spread)
    query = query[:70] if k == 2500 else query
    check(query, reference, k, knn.search(query, reference, k))


@pytest.mark.parametrize("k", [1, 20])
def test_equals_faiss_and_scikit_learn(coarse, k):
    faiss = pytest.importorskip("faiss")
    from sklearn.neighbors import NearestNeighbors

    query, reference = clustered(np.random.default_rng(5))
    similarities, indices = knn.search(query, reference, k)
    unit_query, unit_reference = query.copy(), reference.copy()
    faiss.normalize_L2(unit_query)
    faiss.normalize_L2(unit_reference)
    index = faiss.IndexFlatIP(reference.shape[1])
    index.add(unit_reference)
    distances, theirs = NearestNeighbors(metric="cosine", algorithm="brute").fit(reference).kneighbors(query, k)
    for values, rows in (index.search(unit_query, k), (1 - distances, theirs)):
        np.testing.assert_allclose(similarities, values, atol=1e-6)
        other = rows != indices  # only where scores are within 1e-6
        gap = np.abs(cosines(query, reference)[np.nonzero(other)[0], rows[other]] - similarities[other])
        assert (gap < 1e-6).all()


def test_scores_closer_than_bfloat16_can_tell_are_in_order(coarse):
    """Angles that grow by 1e-3 from row to row: cosines 1 - x^2/2, which bfloat16 rounds to a handful of values."""
    angle = 1e-3 * np.arange(1, 1500)
    reference = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(reference))
    query = np.tile(np.float32([[1, 0]]), (100, 1))
    _, indices = knn.search(query, reference[order], 50)
    np.testing.assert_array_equal(order[indices], np.tile(np.arange(50), (100, 1)))


def test_bfloat16_alone_would_misorder_them():
    """The trap of the test above is real: nearest by bfloat16 scores is not nearest."""
    import torch

    angle = 1e-3 * np.arange(1, 1500)
    rows = torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)])).bfloat16()
    scores = torch.tensor([[1.0, 0.0]]).bfloat16() @ rows
    assert (scores == scores.max()).sum() > 50


@pytest.mark.parametrize("k", [1, 5])
def test_nearly_orthogonal_rows_with_close_scores(coarse, k):
    """Cosines of 0.02 that differ by 1e-4, less than what rounding the operands to bfloat16 does."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((70, 64))
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    reference = rng.standard_normal((2000, 64))
    reference -= (reference @ query[:1].T) * query[:1]
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    reference += (0.02 + 1e-4 * rng.uniform(-1, 1, (2000, 1))) * query[:1]
    query, reference = np.tile(query[:1], (70, 1)).astype(np.float32), reference.astype(np.float32)
    check(query, reference, k, knn.search(query, reference, k))


def test_rounding_that_conspires_against_the_nearest(coarse):
    """Every coordinate of the nearest row is rounded down by half a step, of the others up: coarse scores 0 and 0.003.

    The query is 1/8 in 64 coordinates, 0 in one more, which makes the rows' length 1. Steps of bfloat16 near 0.09375
    are 2^-11. The nearest lies 0.49 steps above +-0.09375, cosine 64 / 8 * 0.49 * 2^-11 = 0.0019; the others 0.51 steps
    above in 50 coordinates and 0.49 below in 14, cosine (50 * 0.51 - 14 * 0.49) / 8 * 2^-11 = 0.0011.
    """
    step = 2.0**-11
    signs = np.tile([0.09375, -0.09375], 32)
    nearest = signs + 0.49 * step
    others = np.array([signs + np.roll(np.where(np.arange(64) < 50, 0.51, -0.49), shift) * step for shift in range(40)])
    rows = np.vstack([others, nearest, others])
    rows = np.hstack([rows, np.sqrt(1 - (rows**2).sum(axis=1, keepdims=True))]).astype(np.float32)
    query = np.tile(np.float32([[0.125] * 64 + [0]]), (70, 1))
    similarities, indices = knn.search(query, rows, 1)
    np.testing.assert_array_equal(indices, 40)
    np.testing.assert_allclose(similarities, 64 / 8 * 0.49 * step, atol=1e-6)


@pytest.mark.parametrize("excluding", [False, True])
def test_scores_too_close_for_bfloat16_are_searched_again_in_float32(monkeypatch, excluding):
    monkeypatch.setattr(knn_blocks, "LARGE", 0)
    monkeypatch.setattr(knn_blocks, "bfloat16_pays", lambda: True)
    again = []
    in_float32 = knn_blocks.UnitRows.in_float32
    monkeypatch.setattr(
        knn_blocks.UnitRows, "in_float32", lambda rows: again.append(len(rows.unit)) or in_float32(rows)
    )
    rng = np.random.default_rng(0)
    query, reference = rng.standard_normal((100, 32)), rng.standard_normal((9000, 32))
    reference[:6000] = reference[0] + 1e-3 * reference[:6000]  # so alike that bfloat16 can't tell
    query[:30] = reference[:30]
    query, reference = query.astype(np.float32), reference.astype(np.float32)
    groups = np.full(100, -1), np.full(9000, -1)
    if excluding:
        groups = np.arange(100), np.arange(9000) % 4000
    allowed = (groups[0][:, None] != groups[1]) | (groups[0][:, None] < 0)
    check(query, reference, 3, knn.search_excluding(query, reference, 3, *groups), allowed)
    assert 30 <= again[0] < 100


@settings(max_examples=40, deadline=None)
@given(dim=st.sampled_from([1, 3, 64, 1000]), skew=st.sampled_from([0.0, 3.0, 30.0]), seed=st.integers(0, 10**6))
def test_the_bound_of_the_docstring_holds(dim, skew, seed):
    """|coarse score - cosine| <= e for random, skewed and equal rows, in bfloat16, before the score itself is rounded."""
    import torch

    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((60, dim)) + skew).astype(np.float32)
    rows[-1] = rows[0]
    block = knn_blocks.load_rows(knn_blocks.empty_rows(60, dim, torch.bfloat16, "cpu"), [rows], "row", 0, 60)
    operands = (block.error + (1 + block.error) * block.error.max()).double().numpy()
    error, sums = knn.coarse_error(block, block).double().numpy(), dim * 2.0**-22 + 2.0**-20
    difference = np.abs((block.coarse.double() @ block.coarse.double().T).numpy() - cosines(rows, rows))
    assert (difference <= error[:, None]).all()
    assert (operands + sums <= error).all()
    np.testing.assert_allclose(error, 1.01 * operands + sums, rtol=1e-5)
    assert 0 <= block.error.max() <= 2.0**-8 * 1.01


def test_the_bound_on_cuda_holds_for_operands_rounded_as_tf32_is():
    """To ten bits, half a step is 2^-11 of a number: of both sides 2^-10, and as much again for slack."""
    rows = np.random.default_rng(0).standard_normal((60, 96)).astype(np.float32)
    block = knn_blocks.load_rows(knn_blocks.empty_rows(60, 96, torch.float32, "cpu"), [rows], "row", 0, 60)
    there = block._replace(coarse=SimpleNamespace(device=torch.device("cuda")))
    error = knn.coarse_error(there, block).double()
    rounded = ((block.unit.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).double()
    difference = np.abs((rounded @ rounded.T).numpy() - cosines(rows, rows))
    assert (difference <= error.numpy()[:, None]).all()
    np.testing.assert_allclose(error - knn.coarse_error(block, block).double(), 2.0**-9, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 20, 200])
def test_neighbours_that_all_lie_on_the_other_side(coarse, k):
    """All cosines are below 0: the bounds hold there as well."""
    rng = np.random.default_rng(k)
    query, reference = (rng.uniform(0.1, 1, (n, 64)).astype(np.float32) for n in (100, 1500))
    found = knn.search(-query, reference, k)
    assert found[0].max() < 0
    check(-query, reference, k, found)


@pytest.mark.parametrize(("n", "k"), [(1900, 1), (1900, 20), (800, 200), (710, 709)])
@pytest.mark.parametrize("spread", [0.01, 0.5, 3.0])
def test_the_neighbours_among_the_rows_themselves(coarse, n, k, spread):
    """Up to three blocks and fifteen tiles, the last of each short; copies among the rows; a row is never its own neighbour."""
    rows = clustered(np.random.default_rng(k), n_ref=n, spread=spread)[1]
    found = knn.search_self(rows, k)
    check(rows, rows, k, found, ~np.eye(n, dtype=bool))
    own = np.arange(n)
    again = knn.search_excluding(rows, rows, k, own, own)
    np.testing.assert_array_equal(found[0], again[0])
    np.testing.assert_array_equal(found[1], again[1])
    cut = knn.search_self([rows[:1], rows[1:650], rows[650:]], k)
    np.testing.assert_array_equal(cut[1], found[1])


def test_rows_too_alike_for_bfloat16_have_exact_neighbours_among_themselves(coarse):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1500, 32))
    rows[200:1300] = rows[0] + 1e-3 * rows[200:1300]
    rows[1300:1320] = rows[7]  # equal rows on both sides of a block
    rows = rows.astype(np.float32)
    check(rows, rows, 30, knn.search_self(rows, 30), ~np.eye(1500, dtype=bool))


def test_rows_too_alike_are_searched_again_from_both_sides_of_a_wide_tile(coarse, monkeypatch):
    """In a tile of 1,024 rows there are more candidates for 100 neighbours than bfloat16 may leave: 512 of 464."""
    monkeypatch.setattr(knn_blocks, "TILE", 1024)
    monkeypatch.setattr(knn_blocks, "WORKERS", 0)
    monkeypatch.setattr(knn_blocks, "BLOCK_ROWS", 2048)
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal(32) + 1e-3 * rng.standard_normal((1100, 32))).astype(np.float32)
    check(rows, rows, 100, knn.search_self(rows, 100), ~np.eye(1100, dtype=bool))


@pytest.mark.parametrize(("n", "k"), [(2, 1), (3, 2), (65, 64), (129, 3)])
def test_few_rows_among_themselves(coarse, n, k):
    rows = np.random.default_rng(n).standard_normal((n, 5)).astype(np.float32)
    check(rows, rows, k, knn.search_self(rows, k), ~np.eye(n, dtype=bool))
    with pytest.raises(ValueError, match="other rows"):
        knn.search_self(rows, n)


def test_hundreds_of_equal_rows_tie_by_index_in_every_block(coarse):
    rng = np.random.default_rng(1)
    reference = rng.standard_normal((2100, 33)).astype(np.float32)
    copies = np.sort(rng.choice(2100, 900, replace=False))
    reference[copies] = reference[7]
    query = np.tile(reference[7] * 3, (80, 1))
    similarities, indices = knn.search(query, reference, 300)
    first = np.union1d(copies, [7])[:300]
    np.testing.assert_array_equal(indices, np.tile(first, (80, 1)))
    assert (similarities == similarities[0, 0]).all()


def test_shards_and_memory_maps_are_one_matrix(coarse, tmp_path):
    query, reference = clustered(np.random.default_rng(2))
    whole = knn.search(query, reference, 9)
    np.save(tmp_path / "rows.npy", reference)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    cuts = [mapped[:1], mapped[1:1], mapped[1:713], mapped[713:]]
    for part in (mapped, cuts, tuple(cuts), Blocks(cuts)):
        found = knn.search([query[:100], query[100:]], part, 9)
        np.testing.assert_array_equal(found[0], whole[0])
        np.testing.assert_array_equal(found[1], whole[1])
    halves = [knn.search(query, reference[:1200], 9), knn.search(query, reference[1200:], 9)]
    halves[1] = halves[1][0], halves[1][1] + 1200
    for one, other in zip(knn.merge(halves, 9), whole, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dim=st.integers(1, 5), n_query=st.integers(1, 4), n_ref=st.integers(1, 30))
def test_tiny_inputs_with_many_ties(data, dim, n_query, n_ref):
    values = st.integers(-2, 2).map(float)
    query, reference = (
        data.draw(hnp.arrays(np.float32, (n, dim), elements=values).filter(lambda rows: (rows != 0).any(1).all()))
        for n in (n_query, n_ref)
    )
    k = data.draw(st.integers(1, n_ref))
    check(query, reference, k, knn.search(query, reference, k))


def test_one_dimension_has_the_cosines_1_and_minus_1():
    similarities, indices = knn.search(np.float32([[2], [-3]]), np.float32([[-1], [5], [-7], [1e-3]]), 4)
    np.testing.assert_array_equal(similarities, [[1, 1, -1, -1], [1, 1, -1, -1]])
    np.testing.assert_array_equal(indices, [[1, 3, 0, 2], [0, 2, 1, 3]])


def test_very_long_and_very_short_rows_keep_their_direction():
    reference = np.float32([[1e-38, 0], [3e38, 3e38], [0, 1e-42], [1e20, 1e-20]])
    similarities, indices = knn.search(np.float32([[1, 0.1]]), reference, 4)
    np.testing.assert_array_equal(indices, [[0, 3, 1, 2]])
    np.testing.assert_allclose(similarities, [[0.99503719, 0.99503719, 0.77395785, 0.09950372]], atol=1e-6)


@pytest.mark.parametrize("float_type", [np.float16, np.float64, np.int64])
def test_other_numbers_are_taken_as_float32(float_type):
    rows = np.random.default_rng(0).integers(1, 50, (40, 7)).astype(float_type)
    check(rows, rows, 3, knn.search(rows, rows, 3))


def test_leaves_out_the_own_group(coarse):
    rng = np.random.default_rng(3)
    query, reference = clustered(rng, n_query=200, n_ref=1500)
    query[:50] = reference[:50]
    query_groups, reference_groups = rng.integers(-1, 6, 200), rng.integers(-1, 6, 1500)
    reference_groups[reference_groups == 5] = 4
    reference_groups[-3:] = 5
    allowed = (query_groups[:, None] != reference_groups) | (query_groups[:, None] == -1)
    found = knn.search_excluding(query, reference, 20, query_groups, reference_groups)
    check(query, reference, 20, found, allowed)
    assert allowed[np.arange(200)[:, None], found[1]].all()


def test_rows_with_too_few_references_left_end_in_minus_one():
    reference = np.float32([[1, 0], [0, 1], [1, 1]])
    found = knn.search_excluding(reference, reference, 3, np.array([0, 1, -1]), np.array([0, 1, 0]))
    np.testing.assert_array_equal(found[1], [[1, -1, -1], [2, 0, -1], [2, 0, 1]])
    np.testing.assert_allclose(
        found[0], [[0, -np.inf, -np.inf], [0.5**0.5, 0, -np.inf], [1, 0.5**0.5, 0.5**0.5]], atol=1e-6
    )


@pytest.mark.parametrize(
    ("query", "reference", "k", "words"),
    [
        (np.ones((2, 3)), np.ones((4, 3)), 5, "k is 5; it must be from 1 to the number of references, 4"),
        (np.ones((2, 3)), np.ones((4, 3)), 0, "k is 0"),
        (np.ones((2, 3)), np.ones((4, 2)), 1, "queries of 3 dimensions .* references of 2"),
        (np.ones(3), np.ones((4, 3)), 1, r"query vectors must have the shape \(n, dim\), not \(3,\)"),
        (np.ones((2, 3)), [], 1, "reference vectors must have the shape"),
        (np.ones((2, 3)), [np.ones((4, 3)), np.zeros((1, 3))], 1, "reference row 4 is zero or not finite"),
        (np.array([[1, 1], [1, np.nan]]), np.ones((4, 2)), 1, "query row 1 is zero or not finite"),
        (np.ones((1, 2)), np.array([[1, np.inf]]), 1, "reference row 0 is zero or not finite"),
    ],
)
def test_says_what_is_wrong(query, reference, k, words):
    with pytest.raises(ValueError, match=words):
        knn.search(query, reference, k)


def test_no_query_is_no_row():
    similarities, indices = knn.search(np.empty((0, 3), np.float32), np.ones((4, 3), np.float32), 2)
    assert similarities.shape == indices.shape == (0, 2)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's record of a process's peak memory")
def test_memory_does_not_grow_with_the_references(root):
    """Ten times the references, one block of memory as many shards: the process's peak stays where it was."""
    code = """
import re
import numpy as np
from common import knn
rows = np.random.default_rng(0).standard_normal((16384, 64), dtype=np.float32)
for shards in (2, 4, 40):
    knn.search(rows[:50], [rows] * shards, 3)
    print(re.search("VmHWM: *([0-9]+)", open("/proc/self/status").read().replace("\\t", ""))[1])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=240)
    _, small, large = map(int, done.stdout.split())
    assert large < small + 16 * 1024  # KiB; the references grew by 144 MiB
    assert done.stderr == ""


@pytest.mark.parametrize(("dim", "rows"), [(64, 2**15), (2**20, 32), (2**26, 1)])
def test_a_block_of_long_rows_holds_fewer(dim, rows):
    """At most 2^25 numbers, 128 MiB, but one row at least."""
    assert knn_blocks.Workspace(1, 1, dim, 1, "cpu").block_rows == rows


lists = hnp.arrays(np.float32, (2, 6), elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]))


@settings(max_examples=60, deadline=None)
@given(a=lists, b=lists, c=lists, k=st.integers(1, 6))
def test_merge_is_associative_and_equals_a_sort(a, b, c, k):
    parts = []
    for number, similarities in enumerate((a, b, c)):
        indices = np.tile(np.arange(6) * 3 + number, (2, 1))
        parts.append(knn.merge([(similarities, indices)], 6))
    left = knn.merge([knn.merge(parts[:2], k), parts[2]], k)
    right = knn.merge([parts[0], knn.merge(parts[1:], k)], k)
    pairs = [
        sorted(
            zip(*(np.concatenate([p[i][row] for p in parts]) for i in (0, 1)), strict=True), key=lambda p: (-p[0], p[1])
        )
        for row in (0, 1)
    ]
    for found in (left, right, knn.merge(parts[::-1], k)):
        np.testing.assert_array_equal(found[0], [[s for s, _ in row[:k]] for row in pairs])
        np.testing.assert_array_equal(found[1], [[i for _, i in row[:k]] for row in pairs])


def test_merge_puts_missing_neighbours_last():
    first = np.float32([[0.5, -np.inf]]), np.array([[3, -1]])
    second = np.float32([[-0.5, -np.inf]]), np.array([[1, -1]])
    similarities, indices = knn.merge([first, second], 3)
    np.testing.assert_array_equal(indices, [[3, 1, -1]])
    np.testing.assert_array_equal(similarities, np.float32([[0.5, -0.5, -np.inf]]))


def test_vote_by_hand():
    """Weights of the third row: e^0, e^-1, e^-1, e^-2 (similarities 0.07 apart), so 0: 1, 1: 0.736; uniform 2 against 2."""
    similarities = np.float32(
        [[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6], [0.70, 0.63, 0.63, 0.56], [0.9, 0.8, -np.inf, -np.inf]]
    )
    labels = np.array([[2, 1, 1, 0], [3, 1, 1, 3], [0, 1, 1, 2], [5, 4, -1, -1]])
    np.testing.assert_array_equal(knn.vote(similarities, labels), [1, 3, 1, 5])
    np.testing.assert_array_equal(knn.vote(similarities, labels, "similarity"), [2, 3, 0, 5])


def test_votes_by_hand():
    """Of 0.70, 0.63, 0.56 and 0.56 the second has a weight of e^-1 of the first's, the others of e^-2."""
    similarities = np.float32([[0.70, 0.63, 0.56, 0.56], [0.9, 0.8, -np.inf, -np.inf]])
    labels = np.array([[3, 0, 0, 2], [1, 4, -1, -1]])
    query, label, total = knn.votes(similarities, labels)
    assert (query.tolist(), label.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 3, 2, 1, 4, -1])
    assert total.tolist() == [2, 1, 1, 1, 1, -1]
    query, label, total = knn.votes(similarities, labels, "similarity")
    assert (query.tolist(), label.tolist()) == ([0, 0, 0, 1, 1, 1], [3, 0, 2, 1, 4, -1])
    e = np.exp(-1)
    np.testing.assert_allclose(total[1:3] / total[0], [e + e**2, e**2], rtol=1e-5)
    assert total[-1] == -1


def test_no_neighbour_elects_no_label():
    nobody = np.full((2, 3), -np.inf, np.float32), np.full((2, 3), -1)
    for weights in ("uniform", "similarity"):
        np.testing.assert_array_equal(knn.vote(*nobody, weights), [-1, -1])
        assert knn.vote(np.empty((0, 3), np.float32), np.empty((0, 3), int), weights).shape == (0,)
    with pytest.raises(ValueError, match="weights must be uniform or similarity"):
        knn.vote(*nobody, "distance")


@settings(max_examples=60, deadline=None)
@given(labels=hnp.arrays(np.int64, (3, 7), elements=st.integers(-1, 3)), seed=st.integers(0, 99))
def test_vote_equals_counting(labels, seed):
    similarities = -np.sort(-np.random.default_rng(seed).uniform(-1, 1, (3, 7)).astype(np.float32), axis=1)
    for weights in ("uniform", "similarity"):
        ballots = np.exp(similarities.astype(float) / 0.07) if weights == "similarity" else np.ones((3, 7))
        expected = []
        for row, ballot in zip(labels, ballots, strict=True):
            total = {label: ballot[row == label].sum() for label in row if label >= 0}
            expected.append(max(total, key=total.__getitem__, default=-1))  # the first of equals: it ranks first
        np.testing.assert_array_equal(knn.vote(similarities, labels, weights), expected)


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="no CUDA device")
def test_cuda_gives_the_same_result():
    query, reference = clustered(np.random.default_rng(4))
    for one, other in zip(*(knn.search(query, reference, 20, device=d) for d in ("cpu", "cuda")), strict=True):
        np.testing.assert_array_equal(one, other)


def test_unit_survives_lengths_that_overflow_float32_and_keeps_zero_rows():
    rows = np.array([[3e30, 4e30], [3e-30, 4e-30], [0, 0]], np.float32)
    unit = knn.unit(rows)
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)
    assert unit.dtype == np.float32
    np.testing.assert_array_equal(rows[2], 0)


@pytest.mark.parametrize("dim", [3, 64, 1280])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_one_query_is_searched_as_many_are(dim, k, monkeypatch):
    """Two shards of rows of any length, a third of them twins, in chunks of 50 rows; with and without rows left out."""
    monkeypatch.setattr(knn, "CHUNK", 50)
    rng = np.random.default_rng(dim + k)
    rows = rng.standard_normal((240, dim)).astype(np.float32) * rng.uniform(1e-3, 1e3, (240, 1)).astype(np.float32)
    rows[160:] = rows[:80] * 3
    shards, inverse = [rows[:70], rows[70:]], knn.inverse_norms([rows[:70], rows[70:]])
    for query in (rows[[5]], rng.standard_normal((1, dim)).astype(np.float32), rows[[200]] + 1e-6):
        wanted = knn.search(query, shards, k)
        for part, whole in zip(knn.search_one(query, shards, k, inverse), wanted, strict=True):
            assert np.array_equal(part, whole)
        keep = rng.random(240) < 0.1
        similarities, indices = knn.search_one(query, shards, k, inverse, keep)
        allowed = np.flatnonzero(keep)
        n = min(k, len(allowed))
        wanted = knn.search(query, rows[allowed], n)
        assert np.array_equal(similarities[:, :n], wanted[0])
        assert np.array_equal(indices[:, :n], allowed[wanted[1]])
        assert (indices[:, n:] == -1).all()
        assert np.isneginf(similarities[:, n:]).all()
    nothing = knn.search_one(query, shards, k, inverse, np.zeros(240, bool))
    assert (nothing[1] == -1).all()


def test_a_small_search_uses_one_thread_and_gives_them_back(monkeypatch):
    before, asked = torch.get_num_threads(), []
    give = torch.set_num_threads
    rng = np.random.default_rng(0)
    small, wide = (rng.standard_normal((n, 64), dtype=np.float32) for n in (50, 2000))
    try:
        give(2)
        monkeypatch.setattr(torch, "set_num_threads", lambda n: (asked.append(n), give(n)))
        few = knn.search(small, small, 3)
        assert (asked, torch.get_num_threads()) == ([1, 2], 2)
        first = knn.search(wide[:1], wide, 3)
        asked.clear()
        one = knn.search_one(wide[:1], wide, 3, knn.inverse_norms(wide))
        assert (asked, torch.get_num_threads()) == ([1, 2], 2)
        assert all(map(np.array_equal, one, first))
        knn.search(wide, wide, 3)  # more than 2^27 products: as many threads as there are
        assert asked == [1, 2]
        with pytest.raises(ValueError, match="zero or not finite"):
            knn.search(small * 0, small, 3)
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as pool:  # elsewhere than in the main thread, the number stays
            other = pool.submit(knn.search, small, small, 3).result()
        assert asked == [1, 2, 1, 2]
        assert (other[1] == few[1]).all()
    finally:
        give(before)


@pytest.mark.parametrize("fault", ["a zero row", "no memory"])
@pytest.mark.parametrize("among_itself", [False, True])
def test_an_error_in_a_search_by_threads_gives_all_threads_back(among_itself, fault, monkeypatch):
    import threadpoolctl

    def threads():
        pools = threadpoolctl.threadpool_info()
        return torch.get_num_threads(), sorted((pool["filepath"], pool["num_threads"]) for pool in pools)

    def no_memory(*_):
        raise MemoryError

    vectors = np.random.default_rng(0).standard_normal((8000, 128), np.float32)
    monkeypatch.setattr(knn_blocks, "BLOCK_ROWS", 2048)
    if fault == "a zero row":
        vectors[-1] = 0
    else:
        monkeypatch.setattr(knn, "_candidates", no_memory)
    number = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        before = threads()
        with pytest.raises((ValueError, MemoryError)):
            knn.search_self(vectors, 3) if among_itself else knn.search(vectors[:2000], vectors, 3)
        assert threads() == before
    finally:
        torch.set_num_threads(number)
