"""evaluate_combo.py as a user runs it: printed accuracies, options, mistakes, the prompt."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from builders import IDS, brute, study
from sklearn.metrics import f1_score

import evaluate_combo
from common import embeddings

LINE = re.compile(r"^Ref \[(.*)\] Query (\S+) => acc: (\d\.\d{4})$", re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets")
    for split, seed in (("train", 1), ("val", 5), ("test", 2)):
        for one in study(seed, split=split):
            embeddings.save(path / f"d_{one.id}_{split}.npz", one)
    return path


def run(capsys, *argv):
    code = evaluate_combo.main([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_without_ids_the_whole_matrix_in_the_fixed_form(folder, capsys):
    glob = f"{folder}/*.npz"
    code, out, err = run(capsys, "--train_npz", glob, "--test_npz", glob, "--company_name", "datasetX")
    assert code == 0, err
    assert "Dataset datasetX" in out
    references, queries = study(1, split="train"), study(2, split="test")
    expected = {(r.id, q.id): f"{brute([r], [q], 'stack'):.4f}" for r in references for q in queries}
    assert {(r, q): value for r, q, value in LINE.findall(out)} == expected
    table = [line.split() for line in out.splitlines() if re.match(r"\s+(0|10|20) ", line)]
    assert [row[1:] for row in table] == [[expected[r, q] for q in IDS] for r in IDS]
    assert "left out: d_0_test.npz, d_0_val.npz" in err


def test_merged_references_score_each_query_set(folder, capsys):
    ids = ("--reference_ids", "0", "10", "--query_ids", "10", "20")
    code, out, err = run(capsys, "--train_npz", folder, "--test_npz", folder, *ids)
    assert code == 0, err
    references, queries = study(1, split="train"), study(2, split="test")
    found = {(r, q): value for r, q, value in LINE.findall(out)}
    assert found == {("0, 10", queries[at].id): f"{brute(references[:2], [queries[at]], 'stack'):.4f}" for at in (1, 2)}
    assert "95 % interval" in out
    assert "(14 images, few images)" in out
    assert "MAP@R" in out


@pytest.mark.parametrize("fusion", ["vote", "mean", "concat"])
def test_fusion_merges_the_queries_too(folder, capsys, fusion):
    ids = ("--reference_ids", "0", "20", "--query_ids", "0", "20")
    code, out, err = run(capsys, "--train_npz", folder, "--test_npz", folder, "--fusion", fusion, *ids)
    assert code == 0, err
    references, queries = study(1, split="train"), study(2, split="test")
    expected = brute([references[0], references[2]], [queries[0], queries[2]], fusion)
    assert LINE.findall(out) == [("0, 20", "0+20", f"{expected:.4f}")]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_predictions_hold_every_query_and_agree_with_the_printed_numbers(folder, capsys, tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    sides = ("--train_npz", folder, "--test_npz", folder, "--reference_ids", "0", "--query_ids", "0", "20")
    code, out, err = run(capsys, *sides, "--predictions", path)
    assert code == 0, err
    frame = pd.read_csv(path, dtype={"id": str}) if suffix == "csv" else pd.read_parquet(path)
    assert len(frame) == 2 * 56
    for _, query, value in LINE.findall(out):
        rows = frame[frame["id"] == query]
        assert rows["correct"].mean() == pytest.approx(float(value), abs=1e-4)
        macro = f1_score(rows["label"], rows["predicted"], average="macro")
        assert f"Macro-F1 {macro:.4f}" in out
    assert ((frame["margin"] > 0) == frame["correct"]).all()
    assert (frame["crop_id"] == frame["path"]).all()
    assert (frame["nearest_crop_id"].str.startswith("train")).all()


def test_the_prompt_survives_typos_and_scores_each_new_id(folder, capsys, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("0\n77 nonsense\nlist\n10\nremove 0\nremove 5\nplot\n\nq\n"))
    monkeypatch.chdir(folder.parent)
    code, out, err = run(capsys, "--train_npz", folder, "--test_npz", folder, "--interactive")
    assert code == 0, err
    references, queries = study(1, split="train"), study(2, split="test")
    first, second = brute(references[:1], queries[:1], "stack"), brute(references[:2], [queries[1]], "stack")
    assert LINE.findall(out) == [("0", "0", f"{first:.4f}"), ("0, 10", "10", f"{second:.4f}")]
    assert "no reference set nonsense; there are: 0, 10, 20" in out
    assert "5 is not among the merged: ['10']" in out
    assert (folder.parent / "evaluation" / "pca_10_10.png").stat().st_size > 10_000
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n"))  # the end of input ends it too
    assert run(capsys, "--train_npz", folder, "--test_npz", folder, "--interactive")[0] == 0


def test_similarity_is_printed_and_drawn(folder, capsys, tmp_path):
    sides = ("--train_npz", folder, "--test_npz", folder, "--reference_ids", "0")
    code, out, err = run(capsys, *sides, "--similarity", "--output_root", tmp_path)
    assert code == 0, err
    one = study(1, split="train")[0]
    unit = one.vectors / np.linalg.norm(one.vectors, axis=1, keepdims=True)
    products, same = unit @ unit.T, one.label()[:, None] == one.label()
    np.fill_diagonal(products, np.nan)
    within, between = np.nanmean(products[same]), np.nanmean(products[~same])
    assert f"within classes {within:.4f}, between classes {between:.4f}" in out
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".svg"}


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--k", "57"], 1, "--k 57 is larger than the 56 references"),
        (["--k", "0"], 2, "not 1 or more"),
        (["--reference_ids", "7"], 2, "no such reference set; there are: 0, 10, 20"),
        (["--query_split", "tset"], 1, "no set of split 'tset', only test, train, val"),
        (["--label_level", "3"], 1, "levels 0 to 0, not 3"),
        (["--exclude_self", "--exclude_same_sample"], 2, "not allowed with"),
        (["--plot", "lda"], 2, "invalid choice"),
        (["--fusion", "concat", "--reference_ids", "0", "--query_ids", "10"], 2, "needs the same IDs on both sides"),
    ],
)
def test_mistakes_get_one_sentence(folder, capsys, argv, code, message):
    got, _, err = run(capsys, "--train_npz", folder, "--test_npz", folder, *argv)
    assert got == code
    assert message in err
    assert "Traceback" not in err


def test_broken_files_end_with_their_name(study_data, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = study_data / "broken" / "good.npz"
    for path in sorted((study_data / "broken").glob("*.npz")):
        code, out, err = run(capsys, "--train_npz", f"a={good}", "--test_npz", f"b={path}")
        if path.name == "good.npz":
            assert code == 0
            assert "Ref [a] Query b => acc: 1.0000" in out
        else:
            assert (code, path.name in err, "Traceback" in err) == (1, True, False)
    assert not list(tmp_path.iterdir())


def test_older_files_give_the_older_numbers(study_data, capsys):
    """As scikit-learn's brute-force nearest neighbour gives from the pickled dicts."""
    from sklearn.neighbors import KNeighborsClassifier

    argv = [f"{study_data}/legacy/image_*.npz"] * 2
    code, out, err = run(capsys, "--train_npz", argv[0], "--test_npz", argv[1], "--company_name", "shop")
    assert code == 0, err
    for r, q, value in LINE.findall(out):
        reference = embeddings.load(study_data / "legacy" / f"image_{r}_train.npz")
        query = embeddings.load(study_data / "legacy" / f"image_{q}_test.npz")
        knn = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(reference.vectors, reference.label())
        assert float(value) == pytest.approx((knn.predict(query.vectors) == query.label()).mean(), abs=1e-4)


def test_config_gives_options_and_the_command_line_wins(folder, capsys, tmp_path):
    config = tmp_path / "study.yaml"
    config.write_text(
        f"crop:\n  strict: true\nevaluate_combo:\n  train_npz: [{folder}]\n  test_npz: [{folder}]\n  k: 3\n  exclude_self: true\n"
    )
    code, out, _ = run(capsys, "--config", config)
    assert (code, "k 3" in out) == (0, True)
    code, out, _ = run(capsys, "--config", config, "--k", "5")
    assert (code, "k 5" in out) == (0, True)
    config.write_text("evaluate_combo:\n  kk: 3\n")
    code, _, err = run(capsys, "--config", config, "--train_npz", folder, "--test_npz", folder)
    assert (code, "has no option 'kk'" in err) == (2, True)
    assert run(capsys, "--config", tmp_path / "none.yaml")[0] == 2
