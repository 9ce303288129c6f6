"""Combinations on real photographs: cards and blood cells at paddings 0 10 20 30, each number against a plain computation.

A part of the photographs is enough for that and keeps the tests short; docs/results.md has the whole sets.
"""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from builders import brute

import crop
import extract_embedding
import greedy_combo_eval
from combinations.search import enumerate_combinations
from common import embeddings
from evaluation.records import Combination

pytestmark = pytest.mark.study

IDS = ("0", "10", "20", "30")
PHOTOS = {"cards": {"train": 40, "val": 16, "test": 24}, "bccd": {"train": 5, "val": 2, "test": 4}}


@pytest.fixture(scope="module", params=PHOTOS)
def folder(request, study_data, tmp_path_factory):
    """Embeddings of the first photographs of each split, by crop.py and extract_embedding.py."""
    root = tmp_path_factory.mktemp(request.param)
    source = study_data / request.param
    for split, n in PHOTOS[request.param].items():
        content = json.loads((source / f"{split}.json").read_text())
        content["images"] = sorted(content["images"], key=lambda image: image["file_name"])[:n]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [box for box in content["annotations"] if box["image_id"] in kept]
        (root / f"{split}.json").write_text(json.dumps(content))
    run(
        crop.main,
        *("--json_path", *root.glob("*.json"), "--image_folder", source / "images"),
        *("--output_root", root / "pad_{padding}", "--padding_percent", *IDS),
    )
    for identity in IDS:
        run(
            extract_embedding.main,
            *("--data_root", root / f"pad_{identity}", "--company_name", request.param),
            *("--output_root", root / "embeddings", "--batch_size", "16", "--model", "lite0"),
        )
    return root / "embeddings"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(main, *words) -> None:
    assert main([str(word) for word in words]) == 0


def search(folder, *words) -> pd.DataFrame:
    """Run greedy_combo_eval.py on the folder and return its results.csv, indexed by reference and query ids."""
    run(greedy_combo_eval.main, "--train_npz", folder, "--test_npz", folder, "--results_mode", "replace", *words)
    frame = pd.read_csv("results.csv", dtype={"reference_ids": str, "query_ids": str})
    return frame.set_index(["reference_ids", "query_ids"], drop=False).sort_index()


def sets(folder, split):
    return {identity: embeddings.load(next(folder.glob(f"*_{identity}_{split}.npz"))) for identity in IDS}


def plain(folder, one: Combination, split: str, fusion: str = "vote") -> float:
    references, queries = sets(folder, "train"), sets(folder, split)
    return brute([references[r] for r in one.reference_ids], [queries[q] for q in one.query_ids], fusion)


@pytest.mark.parametrize(
    ("fusion", "pairing", "size", "n"),
    [
        ("stack", "crossed", "1-2", 100),
        ("vote", "crossed", "3", 32),
        ("mean", "crossed", "2", 52),
        ("concat", "matched", "1-4", 15),
    ],
)
def test_every_combination_equals_a_search_of_its_merged_sets(folder, here, fusion, pairing, size, n):
    frame = search(folder, "--fusion", fusion, "--pairing", pairing, "--combination_size", size)
    assert len(frame) == n
    references, queries = sets(folder, "train"), sets(folder, "test")
    for (refs, ques), row in frame.iterrows():
        chosen = [references[i] for i in refs.split("+")], [queries[i] for i in ques.split("+")]
        assert row["accuracy_at_1"] == pytest.approx(brute(*chosen, fusion), abs=1e-6), (refs, ques)
    assert ((frame["low"] <= frame["score"]) & (frame["score"] <= frame["high"])).all()


def test_each_greedy_step_is_the_best_addition_and_the_last_gains_nothing(folder, here, capsys):
    capsys.readouterr()
    search(folder, "--search", "greedy")
    steps = re.findall(r"^step \d+: (\S+)/(\S+) (\d\.\d{4}).*?(; not enough.*)?$", capsys.readouterr().out, re.M)
    every = search(folder, "--combination_size", "1-4")["accuracy_at_1"].round(9)
    pairs = [every[r, q] for r in IDS for q in IDS]
    at = tuple(steps[0][:2])
    assert every[at] == max(pairs)
    for *now, value, end in steps[1:]:
        sides = [side.split("+") for side in at]
        additions = {
            tuple("+".join(sorted([*own, more], key=IDS.index) if side is own else side) for side in sides): None
            for own in sides
            for more in IDS
            if more not in own
        }
        best = max(every[pair] for pair in additions)
        assert tuple(now) in additions
        assert every[tuple(now)] == best
        assert float(value) == pytest.approx(best, abs=1e-4)
        assert (best <= every[at]) == bool(end)
        at = tuple(now)
    assert steps[-1][-1]  # the search ended because nothing gained


def test_what_validation_photographs_choose_is_scored_once_on_the_test_photographs(folder, here):
    frame = search(folder, "--val_npz", folder, "--combination_size", "1-2")
    scores = {
        ("+".join(one.reference_ids), "+".join(one.query_ids)): plain(folder, one, "val")
        for one in enumerate_combinations(IDS, IDS, 1, 2, "crossed")
    }
    on_val, on_test = frame[frame["scored_on"] == "val"], frame[frame["scored_on"] == "test"]
    assert len(on_val) == 100
    for key, row in on_val.iterrows():
        assert row["accuracy_at_1"] == pytest.approx(scores[key], abs=1e-6)
    assert max(scores[key] for key in on_test.index) == max(scores.values())
    pairs = {key: value for key, value in scores.items() if "+" not in "".join(key)}
    assert any(pairs.get(key) == max(pairs.values()) for key in on_test.index)
    assert len(on_test) <= 4
    for (refs, ques), row in on_test.iterrows():
        one = Combination(tuple(refs.split("+")), tuple(ques.split("+")))
        assert row["accuracy_at_1"] == pytest.approx(plain(folder, one, "test"), abs=1e-6)


def test_flips_and_report_tell_the_same_crops(folder, here, capsys):
    capsys.readouterr()
    frame = search(
        folder,
        *("--combination_size", "1-2", "--flips", "flips.parquet", "--report", "report.html"),
    )
    flips = pd.read_parquet("flips.parquet").set_index("crop_id")
    queries = sets(folder, "test")
    assert sorted(flips.index) == sorted(queries["0"].crop_ids)
    for identity in IDS:
        alone = (flips[f"alone {identity}"] == "right").mean()
        assert alone == pytest.approx(frame.loc[(identity, identity), "accuracy_at_1"], abs=1e-6)
    counts = re.findall(r"^(\S+/\S+) against (\S+/\S+): (\d+) rescued, (\d+) broken", capsys.readouterr().out, re.M)
    assert counts
    for now, before, rescued, broken in counts:
        assert int(rescued) == ((flips[before] == "wrong") & (flips[now] == "right")).sum()
        assert int(broken) == ((flips[before] == "right") & (flips[now] == "wrong")).sum()
    page = (here / "report.html").read_text()
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    assert ("data:image/" in page) == any(int(rescued) + int(broken) for _, _, rescued, broken in counts)
    assert len(page) < 8e6
