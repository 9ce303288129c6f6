"""greedy_combo_eval.py as a user runs it: blocks, results.csv, honest choosing, flips, mistakes."""

from __future__ import annotations

import dataclasses
import re
import subprocess

import numpy as np
import pandas as pd
import pytest
from builders import IDS, brute, make, make_evaluator, study, totals

import greedy_combo_eval
from classifiers.recipes import Recipe
from combinations.search import enumerate_combinations
from common import embeddings
from evaluation.records import Combination

BLOCK = re.compile(r"^Reference npz files: \((.*)\)\nQuery npz files: \((.*)\)\nAccuracy@1: (\d\.\d{4})\n", re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets")
    for split, seed in (("train", 1), ("val", 5), ("test", 2)):
        for one in study(seed, split=split, n_images=24):
            embeddings.save(path / f"d_{one.id}_{split}.npz", one)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, folder, *argv):
    words = ["--train_npz", folder, "--test_npz", folder, *argv]
    code = greedy_combo_eval.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def sets_of(split, seed):
    return {one.id: one for one in study(seed, split=split, n_images=24)}


@pytest.mark.parametrize(
    ("fusion", "pairing", "size", "n"),
    [
        ("stack", "crossed", "1-3", 49),
        ("vote", "crossed", "2", 18),
        (None, "crossed", "1-2", 36),
        ("mean", "matched", "1-2", 6),
        ("concat", "matched", "1-3", 7),
    ],
)
def test_every_block_equals_brute_force(folder, here, capsys, fusion, pairing, size, n):
    mode = ["--fusion", fusion] if fusion else []
    code, out, err = run(capsys, folder, "--combination_size", size, *mode, "--pairing", pairing, "--blocks")
    assert code == 0, err
    references, queries = sets_of("train", 1), sets_of("test", 2)
    blocks = BLOCK.findall(out)
    assert len(blocks) == n
    for refs, ques, value in blocks:
        chosen = [
            [sets[name.split("_")[1]] for name in names.split(", ")]
            for sets, names in ((references, refs), (queries, ques))
        ]
        assert float(value) == pytest.approx(brute(*chosen, fusion or "vote"), abs=1e-4)
    assert BLOCK.findall((here / "results.txt").read_text()) == blocks
    frame = pd.read_csv(here / "results.csv", dtype={"reference_ids": str, "query_ids": str})
    assert list(frame.columns[:4]) == ["reference_ids", "query_ids", "accuracy_at_1", "n_queries"]
    assert len(frame) == n
    assert frame["accuracy_at_1"].is_monotonic_decreasing
    assert ((frame["low"] <= frame["score"]) & (frame["score"] <= frame["high"])).all()


def test_photos_on_both_sides_are_told_in_the_verdict_and_in_the_files(folder, here, capsys):
    sides = "--test_npz", str(folder / "*train.npz"), "--query_split", "train"
    _, out, err = run(capsys, folder, *sides)
    sentence = next(line for line in err.splitlines() if "leakage" in line).partition("warning: ")[2]
    assert out.splitlines()[-1].split(maxsplit=2)[2] == f"No: {sentence}."
    written = " ".join((here / "results.txt").read_text().split())
    assert f"No: {sentence}." in written
    assert f" Remarks: {sentence} " in written
    _, out, _ = run(capsys, folder, *sides, "--exclude_same_sample")
    assert "Trust it?" not in out


def test_labels_without_references_are_told_in_the_verdict(here, capsys):
    for split, word, seed in (("train", "cat", 1), ("test", "dog", 2)):
        (one,) = study(seed, split=split)[:1]
        labels = np.char.add(f"{word} ", one.labels.astype(str))
        embeddings.save(here / f"d_0_{split}.npz", dataclasses.replace(one, labels=labels))
    _, out, _ = run(capsys, here)
    n = len(one)
    assert f"Trust it?      No: {n} of {n} crops have a label that no reference has, and count as wrong; check " in out


def runs(path):
    """Of results.txt, for each run: its ID, the text between its header and its end, the ID that its end tells."""
    return re.findall(r"^Run: (\S+)\n(.*?)^End of run: (\S+)\n\n", path.read_text(), re.M | re.S)


def test_runs_are_appended_to_both_files_each_with_its_header_and_its_verdict(folder, here, capsys):
    _, out, _ = run(capsys, folder)
    first = (here / "results.txt").read_text()
    _, second_out, _ = run(capsys, folder, "--combination_size", "1", "--company_name", "it's shelf")
    assert (here / "results.txt").read_text().startswith(first)
    frame = pd.read_csv(here / "results.csv")
    assert [name for name, _, _ in runs(here / "results.txt")] == frame["run"].unique().tolist()
    assert frame["run"].value_counts(sort=False).tolist() == [18, 9]
    for (name, text, end), printed, n in zip(runs(here / "results.txt"), (out, second_out), (18, 9), strict=True):
        assert name == end
        verdict = printed.splitlines()[:2]
        assert printed.splitlines()[-2:] == verdict
        header, _, rest = text.partition("\n\n")
        for part in (header, rest):  # lines are broken in the file
            assert part.split()[-len(" ".join(verdict).split()) :] == " ".join(verdict).split()
        assert len(BLOCK.findall(text)) == n
        for line in (
            "Version: ",
            "Command: python greedy_combo_eval.py --train_npz",
            "Models: ",
            "Sets: 3 reference sets, 3 query sets",
        ):
            assert f"\n{line}" in "\n" + header
    assert "'it'\"'\"'s shelf'" in (here / "results.txt").read_text()
    assert "Data set: it's shelf" in (here / "results.txt").read_text()
    assert {path.name for path in here.iterdir()} == {"results.csv", "results.txt"}
    run(capsys, folder, "--results_mode", "replace")
    assert len(runs(here / "results.txt")) == 1
    assert len(pd.read_csv(here / "results.csv")) == 18


def test_the_command_in_results_can_be_given_to_a_shell(folder, here, capsys):
    files = sorted(map(str, folder.glob("*.npz")))
    title = 'it\'s a shelf; with $blanks and "quotes" ' * 4
    words = ["--train_npz", *files, "--test_npz", *files, "--company_name", title, "--combination_size", "1"]
    assert greedy_combo_eval.main(words) == 0
    text = (here / "results.txt").read_text()
    command = re.search(r"^Command: python (greedy_combo_eval\.py .*?)^Data set: ", text, re.M | re.S)[1]
    lines = command.splitlines()
    assert len(lines) > 5
    assert all(line.endswith(" \\") and line.startswith("    ") for line in lines[1:-1])
    assert max(len(line) for line in lines if "shelf" not in line) <= 100
    said = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True)
    assert said.stdout.split("\0")[:-1] == ["greedy_combo_eval.py", *words]


def test_no_line_of_a_page_but_tables_is_wider_than_the_terminal(folder, here, capsys, monkeypatch):
    _, whole, _ = run(capsys, folder, "--combination_size", "1-2")
    monkeypatch.setenv("COLUMNS", "60")
    code, narrow, err = run(capsys, folder, "--combination_size", "1-2")
    assert code == 0, err
    assert max(map(len, whole.splitlines())) > 100
    assert max(map(len, narrow.splitlines())) <= 60
    assert not re.search(r"\n\n\n", narrow)
    numbers = re.findall(r"\d\.\d{4}", whole)
    assert sorted(re.findall(r"\d\.\d{4}", narrow)) == sorted(numbers)  # nothing is lost
    monkeypatch.delenv("COLUMNS")  # in a pipe: sentences of up to 100 columns, tables as they are
    piped = run(capsys, folder, "--combination_size", "1-2")[1]
    assert max(map(len, piped.splitlines())) <= 100
    assert " ".join(piped.split()) == " ".join(whole.split())


def test_what_a_killed_run_left_is_replaced_and_nothing_else(folder, here, capsys):
    run(capsys, folder, "--combination_size", "1")
    run(capsys, folder)
    text, table = (here / "results.txt").read_text(), pd.read_csv(here / "results.csv")
    names = [name for name, _, _ in runs(here / "results.txt")]
    # killed between the two files: the rows are there, the text is not
    (here / "results.txt").write_text(text[: text.index(f"Run: {names[1]}")])
    run(capsys, folder)
    again = [name for name, _, _ in runs(here / "results.txt")]
    assert again[0] == names[0]
    assert again[1] != names[1]
    frame = pd.read_csv(here / "results.csv")
    assert frame["run"].unique().tolist() == again
    assert len(frame) == len(table)
    # a text that ends in the middle, and another command: that run is not its to replace
    cut = (here / "results.txt").read_text()
    (here / "results.txt").write_text(cut[: cut.rindex("End of run")])
    run(capsys, folder, "--seed", "1")
    assert f"Run: {again[1]}" in (here / "results.txt").read_text()
    assert again[1] in pd.read_csv(here / "results.csv")["run"].tolist()
    run(capsys, folder)
    assert f"Run: {again[1]}" not in (here / "results.txt").read_text()
    assert again[1] not in pd.read_csv(here / "results.csv")["run"].tolist()
    assert len(runs(here / "results.txt")) == 3


def test_rows_of_an_older_version_stay(folder, here, capsys):
    (here / "results.csv").write_text("reference_ids,query_ids,accuracy_at_1,n_queries,score\n0,0,0.5,10,0.5\n")
    run(capsys, folder)
    frame = pd.read_csv(here / "results.csv", dtype={"reference_ids": str})
    assert len(frame) == 19
    assert frame.loc[0, ["reference_ids", "accuracy_at_1"]].tolist() == ["0", 0.5]
    assert frame["run"].isna().tolist() == [True] + [False] * 18


def test_matched_marks_and_size_two_is_the_default(folder, here, capsys):
    _, out, _ = run(capsys, folder, "--blocks")
    assert len(BLOCK.findall(out)) == 18
    assert out.count("Matched: yes") == 6
    _, out, _ = run(capsys, folder, "--pairing", "matched", "--blocks")
    assert out.count("Matched: yes") == len(BLOCK.findall(out)) == 6


def test_single_pairs_are_ranked_with_the_rest_and_the_baseline_is_one_of_them(folder, here, capsys):
    _, out, _ = run(capsys, folder, "--top", "100")
    ranked = re.findall(r"^ +\d+  (\S+) +(\S+) +(\d\.\d{4})  \S+ to \S+ +(\S+)", out, re.M)
    assert len(ranked) == 18
    pairs = [float(value) for r, q, value, _ in ranked if "+" not in r + q]
    assert len(pairs) == 9
    [baseline] = re.findall(r"difference from the best single pair (\d+)/(\d+), p corrected over the 17 others", out)
    zero = [(r, q, float(value)) for r, q, value, gap in ranked if (r, q) == baseline]
    assert zero == [(*baseline, max(pairs))]
    values = [float(value) for _, _, value, _ in ranked]
    assert values == sorted(values, reverse=True)
    assert "9 single pairs and 9 combinations" in out


def test_what_is_printed_is_a_table_and_the_verdict_around_it(folder, here, capsys):
    _, out, _ = run(capsys, folder, "--combination_size", "1-3")
    lines = out.splitlines()
    assert len(lines) < 30
    assert not BLOCK.findall(out)
    assert lines[0].startswith("Which padding? ")
    assert lines[1].startswith("Combine sets? ")
    assert lines[-2:] == lines[:2]


@pytest.mark.parametrize("size", [[], ["--combination_size", "2"], ["--combination_size", "2-3"]])
def test_one_set_is_scored_and_told_what_combinations_need(folder, here, capsys, size):
    """Whatever the size: the older scripts' users type --combination_size 2 before they have a second set."""
    one = ["--train_npz", f"{folder}/d_0_train.npz", "--test_npz", f"{folder}/d_0_test.npz"]
    assert greedy_combo_eval.main(one + size) == 0
    out, err = capsys.readouterr()
    assert "combinations need at least two sets on both sides; only single pairs are scored" in err
    assert out.startswith("Which padding? Only 0/0 was given: accuracy ")
    assert "\n1 single pair\n" in out
    assert "chosen on the queries" not in out


def test_chosen_on_validation_the_winner_is_scored_once_on_test(folder, here, capsys):
    code, out, err = run(
        capsys, folder, "--val_npz", folder, "--combination_size", "1-2", "--blocks", "--fusion", "stack"
    )
    assert code == 0, err
    references, val, test = sets_of("train", 1), sets_of("val", 5), sets_of("test", 2)
    everything = enumerate_combinations(IDS, IDS, 1, 2, "crossed")
    scores = {
        one: brute([references[r] for r in one.reference_ids], [val[q] for q in one.query_ids], "stack")
        for one in everything
    }
    best = max(scores.values())
    pair = max((value, str(one)) for one, value in scores.items() if one.is_pair)
    blocks = BLOCK.findall(out)
    chosen = [
        (refs.replace("d_", "").replace("_train.npz", ""), ques.replace("d_", "").replace("_test.npz", ""))
        for refs, ques, _ in blocks
    ]
    assert len(blocks) in (1, 2, 3, 4)
    names = {(", ".join(one.reference_ids), ", ".join(one.query_ids)): one for one in everything}
    assert max(scores[names[one]] for one in chosen) == best
    assert any(scores[names[one]] == pair[0] for one in chosen)
    for one, (_, _, value) in zip(chosen, blocks, strict=True):
        combination = names[one]
        expected = brute(
            [references[r] for r in combination.reference_ids], [test[q] for q in combination.query_ids], "stack"
        )
        assert float(value) == pytest.approx(expected, abs=1e-4)
    assert "chosen on val" in out
    assert "optimistic" not in out
    frame = pd.read_csv(here / "results.csv")
    assert set(frame["scored_on"]) == {"val", "test"}


def test_greedy_prints_its_steps(folder, here, capsys):
    code, out, err = run(capsys, folder, "--search", "greedy", "--max_size", "2")
    assert code == 0, err
    steps = re.findall(r"^step (\d): (\S+) (\d\.\d{4}).* best of (\d+)(; not enough, so the search ends)?$", out, re.M)
    values = [float(value) for _, _, value, _, end in steps if not end]
    assert values == sorted(set(values))
    assert "+" not in steps[0][1]
    blocks = BLOCK.findall((here / "results.txt").read_text())
    assert max(float(value) for _, _, value in blocks) == values[-1]
    assert len(blocks) == sum(int(tried) for *_, tried, _ in steps)  # what was tried in vain counts, in p too
    assert "Combine sets?  Not tried" not in out


def test_a_greedy_step_that_gains_too_little_does_not_win(folder, here, capsys):
    _, out, _ = run(capsys, folder, "--search", "greedy", "--min_gain", "0.5")
    (step, _), (_, second) = re.findall(r"^step \d: \S+ (\d\.\d{4})(.*)$", out, re.M)
    assert "not enough, so the search ends" in second
    assert pd.read_csv("results.csv")["score"].max() == pytest.approx(float(step), abs=1e-4)


def test_flips_table_agrees_with_the_combinations(folder, here, capsys):
    code, out, err = run(
        capsys, folder, "--combination_size", "1-2", "--fusion", "stack", "--flips", "flips.parquet", "--if_independent"
    )
    assert code == 0, err
    frame, text = pd.read_parquet("flips.parquet"), pd.read_csv("flips.csv")
    assert len(frame) == len(text) == 96
    references, queries = sets_of("train", 1), sets_of("test", 2)
    for identity in IDS:
        accuracy = brute([references[identity]], [queries[identity]], "stack")
        assert (frame[f"alone {identity}"] == "right").mean() == pytest.approx(accuracy)
    line = re.search(
        r"^(\S+) against (\S+): (\d+) rescued, (\d+) broken, (\d+) split, net ([+-]\d+), p (\S+)", out, re.M
    )
    now, before = line[1], line[2]
    rescued = ((frame[before] == "wrong") & (frame[now] == "right")).sum()
    broken = ((frame[before] == "right") & (frame[now] == "wrong")).sum()
    split = ((frame[before] == "split") | (frame[now] == "split")).sum()
    assert [int(line[at]) for at in (3, 4, 5, 6)] == [rescued, broken, split, rescued - broken]
    assert frame["flip"].value_counts().to_dict().get("rescued", 0) == rescued
    assert "McNemar" in out


def test_crops_missing_in_some_views_are_counted(folder, here, capsys, tmp_path):
    one = study(2, split="test", n_images=24, missing=[("10", 0), ("10", 1), ("20", 1)])
    for each in one:
        embeddings.save(tmp_path / "q" / f"d_{each.id}_test.npz", each)
    argv = ["--train_npz", folder, "--test_npz", tmp_path / "q", "--combination_size", "2", "--blocks"]
    assert greedy_combo_eval.main([str(word) for word in argv]) == 0
    out, err = capsys.readouterr()
    # crops 0 and 1 are not in all three sets: of 96 + 94 + 95 views, 2 + 0 + 1 are left out of comparisons
    assert "3 views are of crops that not every query set holds" in err
    assert "Decisions: 94 (crops)" in out
    assert "Decisions: 95 (crops)" in out
    assert "over 94 common crops" in out


def test_without_sample_ids_every_crop_is_an_image(here, capsys):
    for split, seed in (("train", 1), ("test", 2)):
        for one in study(seed, split=split):
            one.sample_ids[:] = ""
            embeddings.save(here / "e" / f"d_{one.id}_{split}.npz", one)
    code, out, err = run(capsys, here / "e", "--blocks")
    assert code == 0, err
    assert "no sample_ids" in err
    assert "(56 photos)" in out


@pytest.mark.parametrize("labels", ["right", "wrong", "one class", "one image"])
def test_degenerate_studies_end_well(here, capsys, labels):
    for split in ("train", "test"):
        for identity in ("0", "10"):
            one = make(8, id=identity, split=split)
            if labels == "wrong" and split == "test":
                one.labels[:, 0] = np.roll(["brand0", "brand1"], 1)[np.arange(8) % 2]
            if labels == "one class":
                one.labels[:] = "same"
            if labels == "one image":
                one.sample_ids[:] = "photo0"
            embeddings.save(here / "e" / f"d_{identity}_{split}.npz", one)
    code, out, err = run(capsys, here / "e", "--combination_size", "1-2", "--flips", "f.csv", "--blocks")
    assert code == 0, err
    assert "Traceback" not in err
    values = {value for _, _, value in BLOCK.findall(out)}
    assert values == ({"0.0000"} if labels == "wrong" else {"1.0000"})
    assert "few photos" in out
    if labels == "one image":
        assert "95% interval: 0.0000 to 1.0000 (1 photo, few photos)" in out


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--combination_size", "4"], 2, "needs at least 4 sets on both sides"),
        (["--combination_size", "0"], 2, "neither a size"),
        (["--combination_size", "3-1"], 2, "neither a size"),
        (["--combination_size", "1-3", "--max_combinations", "48"], 2, "gives 49 combinations"),
        (["--fusion", "concat"], 2, "add --pairing matched"),
        (["--baseline", "0-10"], 2, "write R/Q"),
        (["--baseline", "0/7"], 2, "no such query set"),
        (["--query_split", "tset"], 1, "only test, train, val; change --query_split"),
    ],
)
def test_mistakes_get_one_sentence_and_leave_nothing(folder, here, capsys, argv, code, message):
    got, _, err = run(capsys, folder, *argv)
    assert (got, message in err, "Traceback" in err) == (code, True, False), err
    assert not list(here.glob("results*"))


def test_ids_on_one_side_only_are_named(folder, here, capsys):
    code = greedy_combo_eval.main(
        [
            "--train_npz",
            str(folder),
            "--test_npz",
            f"{folder}/d_0_test.npz",
            f"{folder}/d_10_test.npz",
            "--pairing",
            "matched",
        ]
    )
    out, err = capsys.readouterr()
    assert code == 0
    assert "only one side has the ID: 20" in err
    assert "2 single pairs and 1 combination;" in out


def test_a_second_run_of_the_same_seed_prints_the_same(folder, here, capsys):
    assert run(capsys, folder)[1] == run(capsys, folder)[1]
    first, second = (text.partition("\nSets: ")[2] for _, text, _ in runs(here / "results.txt"))
    assert first == second


def test_classifiers_are_ranked_with_the_rest_chosen_on_validation_and_scored_once(folder, here, capsys):
    options = ["--val_npz", folder, "--classifier", "auto", "lda", "--combination_size", "2", "--report", "r.html"]
    code, out, _ = run(capsys, folder, *options)
    assert code == 0
    assert "--classifier auto: " in out
    assert "chosen on validation queries of 0/0: " in out
    rows = pd.read_csv("results.csv")
    searched = rows[rows.scored_on == "val"]
    assert set(searched.classifier) >= {"nearest", "lda"}
    assert searched.groupby("classifier").size().nunique() == 1  # every combination once for each
    references, queries = study(1, split="train", n_images=24), study(2, split="test", n_images=24)
    evaluator = make_evaluator(references, queries)
    for _, row in rows[(rows.scored_on == "test") & rows.classifier.isin(["nearest", "lda"])].iterrows():
        ids = tuple(row.reference_ids.split("+")), tuple(row.query_ids.split("+"))
        assert row.accuracy_at_1 == pytest.approx(totals(evaluator, Combination(*ids, Recipe(row.classifier))).accuracy)
    page = (here / "r.html").read_text()
    table = page[page.index('id="classifiers"') : page.index('id="ranking"')]
    pair = Combination(("0",), ("0",), Recipe("lda"))
    assert f"{100 * totals(evaluator, pair).accuracy:.1f}%" in table
    assert "Another classifier?" in page[: page.index('id="pairs"')]
    best = rows[(rows.scored_on == "val") & (rows["rank"] == 1)].iloc[0].classifier
    if best != "nearest":
        assert f"by the classifier <b>{best}</b>" in page[: page.index('id="pairs"')]


def test_the_greedy_search_keeps_the_classifier_of_the_best_pair(folder, here, capsys):
    code, out, _ = run(capsys, folder, "--search", "greedy", "--classifier", "lda")
    assert code == 0
    steps = re.findall(r"^step \d+: (\S+)( lda)? ", out, re.M)
    assert len({classifier for _, classifier in steps}) == 1
    assert "best of 18\n" in out.split("step 2")[0]
