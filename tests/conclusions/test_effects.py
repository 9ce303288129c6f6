"""Variants of one model in one run, and what a padding does: context and resolution apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import brute, make_evaluator, study

import evaluate_combo
import greedy_combo_eval
from common import embeddings
from common.embedding_sets import read_sides
from common.messages import UserError
from conclusions.effects import effects
from evaluation.records import Combination
from uncertainty import comparisons

VARIANTS = {"0": ("0", None, 0.5), "20": ("20", None, 1.6), "20@314": ("20", 314, 0.8), "20-gem": ("20", None, 0.7)}


def sets_of(split: str):
    """Views of the same crops: at padding 0 and 20 at 224 px, at 20 with the object's pixels kept, and another pooling."""
    views = []
    for identity, (padding, size, noise) in VARIANTS.items():
        view = study(1 + (split == "test"), split=split, n_images=30, noise=noise)[1 if padding == "20" else 0]
        meta = {
            "id": identity,
            "padding": padding,
            "preprocess": {"height": size or 224},
            "model": "m",
            "precision": "fp32",
        }
        meta |= {"fingerprint": f"of {size} {'gem' in identity}", "source": f"d_{identity}_{split}.npz"}
        if identity == "0":
            meta["fingerprint"] = "of None False"
        variant = {"image_size": size} if size else {"pooling": "gem"} if "gem" in identity else {}
        views.append(view.renamed(**meta, **variant, **({"base_fingerprint": "of None False"} if variant else {})))
    return views


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("variants")
    for split in ("train", "test"):
        for one in sets_of(split):
            embeddings.save(root / f"d_{one.id}_{split}.npz", one)
    (root / "models.csv").write_text(
        "model,fingerprint,precision,processor,weights,images,seconds,id\n"
        "m,of 314 False,fp32,P,1,300,20,20@314\n"
        "m,of None False,fp32,P,1,300,10,20\n"
        "m,of None False,fp32,P,1,300,5,0\n"
    )
    return root


@pytest.mark.parametrize("mode", ["vote", "stack", "mean"])
def test_context_and_resolution_by_brute_force(folder, mode):
    references, queries = read_sides([("--train_npz", [folder], "train"), ("--test_npz", [folder], "test")])
    evaluator = make_evaluator(references, queries, fusion=mode)
    found = {row.kind: row for row in effects(evaluator)}
    assert [(row.padding, str(row.of), str(row.against)) for row in found.values()] == [
        ("20", "20@314/20@314", "0/0"),
        ("20", "20/20", "20@314/20@314"),
        ("20", "20/20", "0/0"),
    ]
    by_id = {one.id: brute([r], [one], "stack") for one in queries for r in references if r.id == one.id}
    assert found["context"].difference == pytest.approx(by_id["20@314"] - by_id["0"])
    assert found["resolution"].difference == pytest.approx(by_id["20"] - by_id["20@314"])
    assert found["both"].difference == pytest.approx(found["context"].difference + found["resolution"].difference)
    right = {}
    for one in queries:
        pair = Combination((one.id,), (one.id,))
        decisions = evaluator.decide(pair)
        right[one.id] = np.bincount(decisions.image, decisions.right, 30)
    asked = [("20@314", "0"), ("20", "20@314"), ("20", "0")]
    against = np.stack([right[other] for _, other in asked])
    gaps = np.stack([right[of] for of, _ in asked]) - against
    paired = comparisons.paired_comparison(gaps, np.full(30, 4.0), baseline=against)
    assert [row.p for row in found.values()] == pytest.approx(paired.p.tolist())
    assert [row.low for row in found.values()] == pytest.approx(paired.low.tolist())
    assert [row.high for row in found.values()] == pytest.approx(paired.high.tolist())
    assert found["context"].speeds == (15, 60)
    assert found["both"].speeds == (30, 60)  # one model at two paddings
    assert found["context"].difference != 0 != found["resolution"].difference


@pytest.mark.parametrize("mode", ["vote", "stack", "mean"])
def test_a_pair_is_of_one_variant(folder, mode):
    references, queries = read_sides([("--train_npz", [folder], "train"), ("--test_npz", [folder], "test")])
    evaluator = make_evaluator(references, queries, fusion=mode)
    assert evaluator.valid(Combination(("20@314",), ("20@314",)))
    assert evaluator.valid(Combination(("0", "20"), ("0", "20")))
    assert not evaluator.valid(Combination(("20",), ("20@314",)))
    assert not evaluator.valid(Combination(("0", "20-gem"), ("0",)))


def test_another_model_is_still_refused(folder):
    references, queries = read_sides([("--train_npz", [folder], "train"), ("--test_npz", [folder], "test")])
    other = [references[0].renamed(id="x", fingerprint="of another", base_fingerprint="of another")]
    with pytest.raises(UserError, match="come from different models"):
        make_evaluator([*references, *other], queries, fusion="stack")


def test_the_terminal_and_the_report_tell_both(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sides = ["--train_npz", str(folder), "--test_npz", str(folder)]
    assert evaluate_combo.main(sides) == 0
    out = capsys.readouterr().out
    assert "Models, each at" not in out  # variants are of one model
    assert "Ref [20@314] Query 20@314 => acc: " in out
    assert "Ref [20] Query 20@314" not in out
    lines = [line.split() for line in out.splitlines() if " against " in line]
    assert [line[:5] for line in lines[-3:]] == [
        ["20", "context", "20@314", "against", "0"],
        ["20", "resolution", "20", "against", "20@314"],
        ["20", "both", "20", "against", "0"],
    ]
    assert lines[-3][-2:] == ["15.0", "60.0"]
    assert greedy_combo_eval.main([*sides, "--combination_size", "1", "--report", "r.html"]) == 0
    assert "context and resolution apart" in (tmp_path / "r.html").read_text()
    written = (tmp_path / "results.txt").read_text()
    assert "Reference IDs: 20@314" in written
    assert written.index("What padding does, on the same crops.") < written.index("Reference npz files")
    assert [line.split() for line in written.splitlines() if " against 20@314" in line] == [lines[-2]]
    capsys.readouterr()
    assert evaluate_combo.main([*sides, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)["effects"]
    assert (told[0]["kind"], told[0]["of"], told[0]["against"]) == ("context", "20@314/20@314", "0/0")
    assert (told[0]["images_s"], told[0]["images_s_against"]) == (15.0, 60.0)


def test_without_sizes_nothing_is_added(folder, capsys):
    sides = [str(folder / f"d_{name}_{split}.npz") for name in ("0", "20") for split in ("train", "test")]
    assert evaluate_combo.main(["--train_npz", *sides, "--test_npz", *sides]) == 0
    assert "context" not in capsys.readouterr().out


def test_one_id_of_two_variants_tells_them_apart(folder):
    sets = [one.renamed(id="20") for one in sets_of("test") if one.id.startswith("20")]
    for at, one in enumerate(sets):
        embeddings.save(folder.parent / "same" / f"{at}.npz", one)
    (queries,) = read_sides([("--test_npz", [folder.parent / "same"], "test")])
    assert {one.id for one in queries} == {"20@m", "20@m@314", "20@m-gem"}


def test_crops_at_their_own_sizes_keep_the_pixels_that_they_were_cut_with(folder):
    """Under --image_size crop the object has the pixels of --object_px; of crops cut without it, nothing is known."""
    references, queries = read_sides([("--train_npz", [folder], "train"), ("--test_npz", [folder], "test")])

    def at_own_size(sets, **meta):
        renamed = {"id": "20@crop", "image_size": "crop", "preprocess": {"height": 224}, **meta}
        return [one.renamed(**renamed) if one.id == "20@314" else one for one in sets]

    known = make_evaluator(*(at_own_size(side, object_px=224) for side in (references, queries)))
    assert [str(row.of) for row in effects(known)] == ["20@crop/20@crop", "20/20", "20/20"]
    other = make_evaluator(*(at_own_size(side, object_px=160) for side in (references, queries)))
    unknown = make_evaluator(*(at_own_size(side) for side in (references, queries)))
    assert effects(other) == effects(unknown) == []
