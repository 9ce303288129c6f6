"""Plans of index types against sums by hand; parameters and their bounds."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from common.messages import UsageError
from indexes import index_types


def test_a_plan_says_what_each_index_needs():
    plans = {plan.index_type: plan for plan in index_types.plans(100_000_000, 256)}
    flat, lists, quantised, graph = (plans[name] for name in ("FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW"))
    assert [name for name, plan in plans.items() if plan.suggested] == ["IVF_SQ8"]
    n, texts = 100_000_000, index_types.TEXT
    assert flat.memory == n * (1024 + texts)
    assert flat.disk == pytest.approx(n * (1024 + texts / 3))
    # 4 sqrt(n) = 40,000 lists, a sixteenth of them searched; 8 bytes a row for its number, and the lists' centres.
    assert (lists.index_params, lists.search_params) == ({"nlist": 40_000}, {"nprobe": 2500})
    assert lists.memory == pytest.approx(n * (1024 + 8 + texts) + 40_000 * 1024)
    assert quantised.memory == pytest.approx(n * (256 + 8 + texts) + 40_000 * 1024)
    assert quantised.disk == pytest.approx(n * (256 + 8 + 1024 + texts / 3) + 40_000 * 1024)
    # 2 M = 32 links of 4 bytes a row, and 16 more for one row in 15.
    assert graph.memory == pytest.approx(n * (1024 + 4 * (32 + 16 / 15) + texts))
    assert graph.search_params == {"ef": 128}
    assert flat.nodes == 3  # 118.7 GiB in nodes of 64 GiB, four fifths full


def test_few_rows_are_read_one_by_one_and_some_millions_as_a_graph():
    assert [
        plan.index_type for n in (1, 200_000, 200_001, 20_000_000) for plan in index_types.plans(n, 8) if plan.suggested
    ] == [*("FLAT", "FLAT", "HNSW", "HNSW")]
    assert index_types.plans(3, 8)[1].index_params == {"nlist": 6}


def test_the_table_of_plans():
    text = index_types.plan_table([1000, 2_000_000], 128)
    head, _, *lines = text.splitlines()
    assert head.startswith("128 dimensions")
    assert head.endswith("nodes of 64 GiB")
    suggested = [line.split()[:2] for line in lines if line.rstrip().endswith("suggested")]
    assert suggested == [["1,000", "FLAT"], ["2,000,000", "HNSW"]]
    assert [line.split()[2] for line in lines if "FLAT" in line.split()] == ["-", "-"]


def test_sizes_in_words():
    sizes = [index_types.index_size(n) for n in (0, 1023, 1024, 1.5 * 2**30, 2**40, 5000 * 2**40)]
    assert sizes == ["0 B", "1023 B", "1 KiB", "1.5 GiB", "1.0 TiB", "5,000.0 TiB"]


def test_numbers_of_rows():
    assert [index_types._rows(text) for text in ("1", "250k", "1M", "1.5B", "2G", "1e3")] == [
        *(1, 250_000, 10**6, 1_500_000_000, 2 * 10**9, 1000)
    ]
    for text in ("", "x", "0", "-1M", "nan", "infM", "k"):
        with pytest.raises(ArgumentTypeError, match="no number of rows"):
            index_types._rows(text)


def test_parameters_have_names_and_bounds():
    limits = index_types.INDEX_TYPES["HNSW"].params
    assert index_types.parse_params("--index_params", ["M=2", "efConstruction=32768"], limits) == {
        "M": 2,
        "efConstruction": 32_768,
    }
    for word, told in (
        ("M=1", "M is from 2 to 2048"),
        ("nlist=4", "M or efConstruction"),
        ("M=x", "NAME=NUMBER"),
        ("M", "NAME"),
    ):
        with pytest.raises(UsageError, match=told):
            index_types.parse_params("--index_params", [word], limits)
    with pytest.raises(UsageError, match="no parameter at all"):
        index_types.parse_params("--index_params", ["M=4"], {})
