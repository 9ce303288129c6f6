"""Several models in one folder: told apart by name, one row each, compared on the crops that all of them embed."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from builders import brute, study

import evaluate_combo
import greedy_combo_eval
from common import embeddings
from common.embedding_sets import read_sides
from uncertainty import comparisons

MODELS = ("timm/small", "large")


def sets_of(model, split):
    """Views of the same crops by a model of its own dimension and noise."""
    seed, noise, dim = {"timm/small": (1, 1.6, 6), "large": (1, 0.4, 9)}[model]
    sets = study(seed if split == "train" else seed + 1, split=split, n_images=30, noise=noise, dim=dim)
    return [one.renamed(model=model, fingerprint=f"fingerprint of {model}", precision="fp32") for one in sets]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for model in MODELS:
        for split in ("train", "test"):
            for one in sets_of(model, split):
                embeddings.save(root / model.split("/")[-1] / f"d_{one.id}_{split}.npz", one)
    (root / "small" / "models.csv").write_text(
        "model,fingerprint,precision,processor,weights,images,seconds\n"
        "timm/small,fingerprint of timm/small,bf16,P,1,1,1\n"
        "timm/small,fingerprint of timm/small,fp32,P,2500000,300,20\n"
    )
    return root


def test_an_id_of_two_models_takes_the_model_into_its_name(folder):
    references, queries = read_sides([("--train_npz", [folder], "train"), ("--test_npz", [folder], "test")])
    names = [one.id for one in queries]
    assert sorted(names) == sorted(
        f"{padding}@{model}" for padding in ("0", "10", "20") for model in ("small", "large")
    )
    assert names == [one.id for one in references]
    (alone,) = read_sides([("--test_npz", [folder / "large"], "test")])
    assert [one.id for one in alone] == ["0", "10", "20"]


def test_one_row_a_model_the_best_first_paired_and_corrected(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sides = ["--train_npz", str(folder), "--test_npz", str(folder)]
    assert evaluate_combo.main([*sides, "--results", "r.txt"]) == 0
    out = capsys.readouterr().out
    accuracy, right = {}, {}
    for model in MODELS:
        reference, query = sets_of(model, "train")[0], sets_of(model, "test")[0]
        accuracy[model] = brute([reference], [query], "vote")
        unit = [one.vectors / np.linalg.norm(one.vectors, axis=1, keepdims=True) for one in (reference, query)]
        hit = reference.label()[(unit[1] @ unit[0].T).argmax(axis=1)] == query.label()
        photo = np.unique(query.sample_ids, return_inverse=True)[1]
        right[model] = np.bincount(photo, hit)
    assert accuracy["large"] > accuracy["timm/small"]
    rows = re.findall(
        r"^(large|timm/small) +0 +(\d+) +(\S+) +(\S+) +(\d\.\d{4})  \S+ to \S+ +(\S+)  .*?(\S+)$", out, re.M
    )
    assert [row[:2] for row in rows] == [("large", "9"), ("timm/small", "6")]
    assert [row[4] for row in rows] == [f"{accuracy['large']:.4f}", f"{accuracy['timm/small']:.4f}"]
    assert [row[2:4] for row in rows] == [("-", "-"), ("2.5", "15.0")]
    gap = (right["timm/small"] - right["large"])[None]
    p = comparisons.paired_comparison(
        np.vstack([0 * gap, gap]), np.full(30, 4.0), baseline=right["large"], chosen_from=[0, 1]
    ).p[1]
    assert float(rows[1][5]) == pytest.approx(100 * gap.sum() / 120, abs=0.051)
    assert rows[1][6] == ("<0.001" if p < 0.001 else f"{p:.3f}")
    text = (tmp_path / "r.txt").read_text()
    assert "Models, each at its least padding" in text[: text.index("Reference npz files")]
    assert out.count("ref \\ query") == 2  # a matrix for each model
    pairs = re.findall(r"^Ref \[\d+@(\w+)\] Query \d+@(\w+) => acc:", out, re.M)
    assert len(pairs) == 18
    assert all(reference == query for reference, query in pairs)


def test_the_search_combines_models_but_no_references_that_no_query_uses(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sides = ["--train_npz", f"{folder}/*/d_0_train.npz", "--test_npz", f"{folder}/*/d_0_test.npz"]
    assert greedy_combo_eval.main([*sides, "--report", "r.html"]) == 0
    out = capsys.readouterr().out
    frame = pd.read_csv("results.csv")
    assert set(frame["query_ids"]) == {"0@small", "0@large", "0@large+0@small"}
    assert (frame["reference_ids"] == frame["query_ids"]).all()
    both = brute_of_both()
    assert frame.set_index("query_ids").loc["0@large+0@small", "accuracy_at_1"] == pytest.approx(both, abs=1e-6)
    assert "Models, each at its least padding" in out
    assert "Models side by side" in (tmp_path / "r.html").read_text()


def brute_of_both() -> float:
    """Each model's nearest neighbour among its own references; where they differ, the more similar one."""
    votes = []
    for model in ("large", "timm/small"):
        reference, query = sets_of(model, "train")[0], sets_of(model, "test")[0]
        unit = [one.vectors / np.linalg.norm(one.vectors, axis=1, keepdims=True) for one in (reference, query)]
        cosine = unit[1] @ unit[0].T
        votes.append((cosine.max(axis=1), reference.label()[cosine.argmax(axis=1)]))
    (first_cosine, first), (second_cosine, second) = votes
    chosen = np.where((first == second) | (first_cosine >= second_cosine), first, second)
    return float((chosen == sets_of("large", "test")[0].label()).mean())
