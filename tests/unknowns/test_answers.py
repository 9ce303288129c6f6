"""--classifier and --reject of evaluate_combo.py and classify.py, as a user runs them."""

from __future__ import annotations

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from builders import study, unit

import evaluate_combo
from classifiers.recipes import Recipe
from common.embeddings import save
from common.messages import UserError
from unknowns import products, threshold_file


@pytest.fixture
def sets(tmp_path):
    files = {}
    for seed, (split, n) in enumerate((("train", 40), ("val", 20), ("test", 24))):
        files[split] = []
        for one in study(seed, n_images=n, n_class=4, split=split)[:2]:
            files[split].append(str(tmp_path / f"d_{one.id}_{split}.npz"))
            save(files[split][-1], one)
    return files


def run(capsys, sets, *options):
    argv = ["--train_npz", *sets["train"], "--test_npz", *sets["test"], *map(str, options)]
    code = evaluate_combo.main(argv)
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def test_nearest_adds_nothing(sets, capsys):
    code, plain, _ = run(capsys, sets)
    assert code == 0
    assert run(capsys, sets, "--classifier", "nearest")[1] == plain
    assert "nearest" not in plain


def test_auto_says_what_it_chose_and_gained(sets, capsys):
    ids = ["--reference_ids", "0", "--query_ids", "0", "--classifier", "auto"]
    _, out, _ = run(capsys, sets, *ids)
    assert "chosen by 5-fold cross-validation over 40 reference photos of 0/0: " in out
    _, out, _ = run(capsys, sets, *ids, "--val_npz", *sets["val"])
    chosen, gain = re.search(
        r"^--classifier auto: (.+), chosen on validation queries of 0/0: .*; gain (.+?) points", out, re.M
    ).groups()
    assert float(gain) >= 0
    assert f"Ref [0] Query 0 {chosen} => acc: " in out
    assert "rows kept" in out


def test_the_matrix_asks_whether_a_classifier_helps(sets, capsys, tmp_path):
    results = tmp_path / "r.txt"
    _, plain, _ = run(capsys, sets)
    _, out, _ = run(capsys, sets, "--classifier", "lda", "prototype", "--results", results)
    assert "Another classifier? " in out
    assert "Another" not in plain
    asked = [line for line in out.splitlines() if "=> acc" in line]
    assert len(asked) == 2 * plain.count("=> acc") == 8  # of those asked for; nearest is a row of the table
    assert all(re.search("lda|prototype", line) for line in asked)
    assert "Classifiers of 0/0, beside nearest on the same crops" in out
    with open(tmp_path / "r.csv") as file:
        rows = list(csv.DictReader(file))
    printed = dict(re.findall(r"Ref \[0\] Query (0[^=]*) => acc: (.*)", out))
    for row in rows:
        if row["reference_ids"] == row["query_ids"] == "0":
            accuracy = f"{float(row['accuracy_at_1']):.4f}"
            if row["classifier"] == "nearest":
                assert f"Ref [0] Query 0 => acc: {accuracy}" in plain
                assert re.search(rf"^nearest +{accuracy} ", out, re.M)
            else:
                assert accuracy == printed[f"0 {row['classifier']}"]
    assert len(rows) == 12
    kept = {row["classifier"]: int(row["gallery_rows"]) for row in rows if row["reference_ids"] == "0"}
    assert (kept["nearest"], kept["lda"]) == (160, 4)
    assert results.read_text().count("\nClassifier: lda\n") == 4


def test_rejection_says_what_the_data_cannot_support(sets, capsys):
    ids = ["--reference_ids", "0", "--query_ids", "0"]
    _, out, _ = run(capsys, sets, *ids, "--reject", 0.05)
    assert "to accept at most 0.05 of unknown products takes 19 photos and 19 classes; here are 40 photos and 4" in out
    assert (
        "so that holds in new photos of these products, not for other products; they suffice for --reject 0.2\n" in out
    )
    _, out, _ = run(capsys, sets, *ids, "--reject", 0.2)
    assert "at most 0.2 of unknown products accepted, set on 40 photos and 4 classes" in out
    _, out, _ = run(capsys, sets, *ids, "--reject", 0.25, "--unknown_npz", sets["val"][0])
    assert "cannot support" not in out
    assert "unknown are --unknown_npz" in out
    assert "AUROC" in out


def test_options_that_exclude_each_other(sets, capsys):
    for options in (
        ["--reject", 0.1, "--query_ids", "0", "10"],
        ["--classifier", "lda", "--exclude_self"],
        ["--val_npz", "x.npz"],
        ["--threshold", "t.json"],
        ["--reject", 0.1, "--threshold", "t.json"],
        ["--reject", 0.1, "--exclude_same_sample"],
    ):
        code, out, err = run(capsys, sets, *options)
        assert code == 2, err
        assert "acc" not in out  # said before anything is computed


def test_a_threshold_file_serves_its_own_references_only(tmp_path):
    references, other = study(0, n_images=40, n_class=4)[:1], study(1, n_images=40, n_class=4)[:1]
    file = tmp_path / "t.json"
    vectors = study(2)[0].vectors
    set_now = products.Answer(references, "prototype", 1, 0.25, file, [])(vectors)
    assert products.Answer(references, "prototype", 1, None, file, [])(vectors) == set_now
    refused = [row[0] == ("UNKNOWN", 0.0) for row in set_now]
    assert 0 < sum(refused) < len(refused)
    found = threshold_file.read(file, products.products(references).record)
    assert found.false_accept == 0.25
    with pytest.raises(UserError, match="was set for other references"):
        products.Answer(other, "prototype", 1, None, file, [])(vectors)
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "threshold": -1}))
    with pytest.raises(UserError):
        threshold_file.read(file, products.products(references).record)


def test_confidences_add_up_and_lead_to_the_classifiers_decision():
    references, queries = study(0)[0], study(1)[0]
    known = products.products([references])
    for kind in ("nearest", "knn", "prototype", "lda", "linear"):
        shares = products.confidences(known, queries.vectors, [Recipe(kind)])
        np.testing.assert_allclose(shares.sum(1), 1)
        scores = Recipe(kind).fit(references.vectors, known.rows.label, len(known.classes)).scores(queries.vectors)
        assert (shares.argmax(1) == scores.argmax(1)).all()
    cosines = unit(queries.vectors) @ unit(references.vectors).T
    best = np.array([cosines[:, known.rows.label == c].max(1) for c in range(len(known.classes))]).T
    expected = np.exp(best / 0.07) / np.exp(best / 0.07).sum(1, keepdims=True)
    np.testing.assert_allclose(products.confidences(known, queries.vectors, [Recipe()]), expected, rtol=1e-3, atol=1e-6)


def test_unknown_products_and_validation_of_other_references_are_refused(tmp_path, sets):
    """Of another model, of another dimension, of a product that the references show, and more neighbours than there are rows."""
    references, others = study(0, n_images=40, n_class=4)[:1], study(1, n_images=20, n_class=4)[:1]
    vectors = study(2)[0].vectors
    of_another_model = [others[0].renamed(fingerprint="another")]
    longer = study(1, n_images=20, n_class=4, dim=7)[:1]
    for strangers in (of_another_model, longer):
        with pytest.raises(UserError, match="was made with another model than the references"):
            products.Answer(references, "prototype", 1, 0.25, None, strangers)(vectors)
        with pytest.raises(UserError, match="was made with another model than the references"):
            products.CalibratedVotes(references, strangers, 1)
    with pytest.raises(UserError, match="shows c0, which references show too: it is no unknown product"):
        products.Answer(references, "prototype", 1, 0.25, None, others)(vectors)
    with pytest.raises(UserError, match="--k 161 is larger than the 160 references"):
        products.CalibratedVotes(references, others, 161)
    new = [dataclasses.replace(others[0], labels=np.char.add("new ", others[0].labels))]
    refused = [row[0][0] == "UNKNOWN" for row in products.Answer(references, "prototype", 1, 0.25, None, new)(vectors)]
    assert 0 < sum(refused) < len(refused)


def test_votes_that_are_all_right_are_not_calibrated(capsys):
    """Where no validation crop is decided wrongly nothing can be learnt of the confidences: said, and the votes stand."""
    references = study(0, n_images=40, n_class=4, noise=0.01)[:1]
    labelled = products.CalibratedVotes(references, references, 1)(references[0].vectors)
    assert (
        "160 of 160 validation crops are right: too few right or wrong ones to calibrate on" in capsys.readouterr().err
    )
    assert all(row[0][1] == 1 for row in labelled)


def test_reject_needs_the_validation_set_of_its_id_and_unknown_vectors_as_long(sets, capsys, tmp_path):
    ids = ["--reference_ids", "0", "--query_ids", "0"]
    other = next(path for path in sets["val"] if "_0_" not in path)
    code, _, err = run(capsys, sets, *ids, "--reject", 0.25, "--val_npz", other)
    assert code == 1
    assert "--val_npz has no set of ID 0; extract the validation split of it, or name one: 0=path" in err
    code, out, err = run(capsys, sets, *ids, "--reject", 0.25, "--val_npz", sets["val"][0])
    assert code == 0, err
    assert "set on" in out
    save(tmp_path / "longer.npz", study(9, dim=9)[0])
    code, _, err = run(capsys, sets, *ids, "--reject", 0.25, "--unknown_npz", tmp_path / "longer.npz")
    assert code == 1
    assert "longer.npz has 9 dimensions; name a set of the references' model" in err


def test_queries_without_references_are_the_unknown_ones(sets, capsys, tmp_path):
    one = study(2, n_images=24, n_class=4, split="test")[0]
    labels = np.where(one.labels == "c3", "new", one.labels)
    save(tmp_path / "new.npz", dataclasses.replace(one, labels=labels))
    argv = ["--train_npz", sets["train"][0], "--test_npz", str(tmp_path / "new.npz"), "--reject", "0.25"]
    assert evaluate_combo.main(argv) == 0
    out = capsys.readouterr().out
    assert "unknown are queries of labels without references" in out.replace("\n    ", " ")
