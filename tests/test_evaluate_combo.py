"""evaluate_combo.py as a user runs it: printed accuracies, options, mistakes, the prompt."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import IDS, brute, nearest_by_faiss, study
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

import evaluate_combo
from common import embeddings
from uncertainty import intervals

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
    assert [(r, q) for r, q, _ in LINE.findall(out)] == [(r, q) for r in IDS for q in IDS]
    matrix = out[out.index("ref \\ query") : out.index("Ref [0]")]
    table = [re.findall(r"(\*?)(\d\.\d{4}) ±(\d+\.\d)", line) for line in matrix.splitlines()[1:4]]
    assert [[value for _, value, _ in row] for row in table] == [[expected[r, q] for q in IDS] for r in IDS]
    best = max(expected.values())
    assert {value for row in table for star, value, _ in row if star} == {best}
    for r, row in zip(references, table, strict=True):
        for q, (_, _, half) in zip(queries, row, strict=True):
            right = nearest_by_faiss(q.vectors, r.vectors, 1)[:, 0]
            hit = r.label()[right] == q.label()
            photo = np.unique(q.sample_ids, return_inverse=True)[1]
            interval = intervals.accuracy_interval(np.bincount(photo, hit), np.bincount(photo))
            assert float(half) == pytest.approx(50 * (interval.high - interval.low), abs=0.051)
    assert "Accuracy of 56 crops on 14 photos" in out
    left = "not used, as no option takes their split: 3 sets of val (--verbose names the files)\n"
    assert err == left
    one = [f"{folder}/d_0_val.npz", "--classifier", "prototype"]
    code, out, err = run(capsys, "--train_npz", glob, "--test_npz", glob, "--val_npz", *one)
    assert err == left.replace("3 sets", "2 sets")
    code, out, err = run(capsys, "--train_npz", glob, "--test_npz", glob, "--verbose")
    assert "--train_npz: not of split 'train', left out: d_0_test.npz, d_0_val.npz" in err


def test_folders_of_paddings_are_one_data_set_as_a_loop_without_a_name_makes_them(folder, tmp_path, capsys):
    """What is printed is as with one --company_name; sets of one padding stay apart."""
    for split, seed in (("train", 1), ("test", 2)):
        for one in study(seed, split=split):
            looped = one.renamed(dataset_name=f"crops_{one.id}", padding=one.id)
            embeddings.save(tmp_path / "loop" / f"{one.id}_{split}.npz", looped)
            embeddings.save(tmp_path / "alike" / f"{one.id}_{split}.npz", looped.renamed(padding="7"))
    outs = {}
    for name, where in (("named", folder), ("loop", tmp_path / "loop"), ("alike", tmp_path / "alike")):
        code, outs[name], err = run(capsys, "--train_npz", where, "--test_npz", where, "--company_name", "d")
        assert code == 0, err
        names = ", ".join(f"crops_{identity}" for identity in IDS)
        told = f"the data sets {names} have the same crops at other paddings: scored as one, crops_{IDS[0]}"
        assert (told in err) == (name == "loop")
        assert ("so their crops count as different ones" in err) == (name == "alike")
    assert outs["loop"] == outs["named"]
    table = tmp_path / "predictions.csv"
    ids = ["--reference_ids", "0", "--query_ids", "10", "--predictions", table]
    assert run(capsys, "--train_npz", tmp_path / "loop", "--test_npz", tmp_path / "loop", *ids)[0] == 0
    assert set(pd.read_csv(table)["dataset_name"]) == {"crops_10"}  # as the file of these rows says
    assert "Which padding? Not known" in outs["alike"]


def test_the_paddings_and_the_verdict_stand_below_the_matrix(folder, capsys):
    code, out, err = run(capsys, "--train_npz", folder, "--test_npz", folder)
    assert code == 0, err
    references, queries = study(1, split="train"), study(2, split="test")
    rows = re.findall(r"^ +(0|10|20)  +(\d\.\d{4})  (\d\.\d{4}) to (\d\.\d{4})  +(\S+)  ", out, re.M)
    assert [row[:2] for row in rows] == [
        (r.id, f"{brute([r], [q], 'stack'):.4f}") for r, q in zip(references, queries, strict=True)
    ]
    first = float(rows[0][1])
    assert [float(row[4]) for row in rows[1:]] == pytest.approx(
        [100 * (float(row[1]) - first) for row in rows[1:]], abs=0.06
    )
    verdict = out.splitlines()[-2:]
    assert re.match(r"Which padding\? (Use|\d+/\d+) ", verdict[0])
    assert verdict[1].startswith("Combine sets?  Not tried")


def test_acc_is_the_accuracy_of_the_decision_that_k_and_weights_make(folder, capsys):
    sides = ("--train_npz", folder, "--test_npz", folder, "--k", "5", "--vote_weights", "similarity")
    _, out, _ = run(capsys, *sides)
    references, queries = study(1, split="train"), study(2, split="test")
    expected = {}
    for r in references:
        knn = KNeighborsClassifier(5, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
        knn.fit(r.vectors, r.label())
        for q in queries:
            expected[r.id, q.id] = float((knn.predict(q.vectors) == q.label()).mean())
    shown = {(r, q): float(value) for r, q, value in LINE.findall(out)}
    assert shown == pytest.approx(expected, abs=1e-4)
    _, out, _ = run(capsys, *sides, "--reference_ids", "0", "--query_ids", "10")
    nearest = brute([references[0]], [queries[1]], "stack")
    assert f"Accuracy@1: {expected['0', '10']:.4f}, 95% interval" in out
    assert f"Nearest neighbour alone: {nearest:.4f}, 95% interval" in out
    assert LINE.findall(out)[0][2] == f"{expected['0', '10']:.4f}"


def test_merged_references_score_each_query_set(folder, capsys):
    ids = ("--reference_ids", "0", "10", "--query_ids", "10", "20")
    code, out, err = run(capsys, "--train_npz", folder, "--test_npz", folder, *ids)
    assert code == 0, err
    references, queries = study(1, split="train"), study(2, split="test")
    found = {(r, q): value for r, q, value in LINE.findall(out)}
    expected = {("0, 10", q.id): f"{brute(references[:2], [q], 'stack'):.4f}" for q in queries[1:]}
    assert found == {**expected, ("0, 10", "10+20"): f"{brute(references[:2], queries[1:], 'vote'):.4f}"}
    _, out, _ = run(capsys, "--train_npz", folder, "--test_npz", folder, "--reference_ids", "0", "10")
    assert [query for _, query, _ in LINE.findall(out)] == ["0", "10", "20"]
    _, stacked, _ = run(capsys, "--train_npz", folder, "--test_npz", folder, *ids, "--fusion", "stack")
    assert {(r, q): value for r, q, value in LINE.findall(stacked)} == expected
    assert "fusion average over views (the accuracy of several query sets is the average of theirs" in stacked
    assert "(14 photos, few photos)" in out
    assert "MAP@R" in out


@pytest.mark.parametrize("fusion", ["vote", "mean", "concat"])
def test_fusion_merges_the_queries_too(folder, capsys, fusion):
    ids = ("--reference_ids", "0", "20", "--query_ids", "0", "20")
    code, out, err = run(capsys, "--train_npz", folder, "--test_npz", folder, "--fusion", fusion, *ids)
    assert code == 0, err
    references, queries = study(1, split="train"), study(2, split="test")
    expected = brute([references[0], references[2]], [queries[0], queries[2]], fusion)
    assert LINE.findall(out)[-1] == ("0, 20", "0+20", f"{expected:.4f}")
    assert len(LINE.findall(out)) == (3 if fusion == "vote" else 1)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_predictions_hold_every_query_and_agree_with_the_printed_numbers(folder, capsys, tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    sides = ("--train_npz", folder, "--test_npz", folder, "--reference_ids", "0", "--query_ids", "0", "20")
    code, out, err = run(capsys, *sides, "--predictions", path)
    assert code == 0, err
    frame = pd.read_csv(path, dtype={"id": str}) if suffix == "csv" else pd.read_parquet(path)
    assert frame["id"].value_counts().to_dict() == {"0": 56, "20": 56, "0+20": 56}
    for _, query, value in LINE.findall(out):
        rows = frame[frame["id"] == query]
        assert rows["correct"].mean() == pytest.approx(float(value), abs=1e-4)
        macro = f1_score(rows["label"], rows["predicted"], average="macro")
        assert f"Macro-F1 {macro:.4f}" in out
    alone = frame[frame["id"] != "0+20"]
    assert ((alone["margin"] > 0) == alone["correct"]).all()
    assert (frame["crop_id"] == frame["path"]).all()
    assert (frame["nearest_crop_id"].str.startswith("train")).all()


def at_the_prompt(capsys, monkeypatch, folder, lines, *argv):
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    monkeypatch.chdir(folder.parent)
    code, out, err = run(capsys, "--train_npz", folder, "--test_npz", folder, "--interactive", *argv)
    assert code == 0, err
    return out


def test_the_prompt_survives_typos_and_scores_each_new_id(folder, capsys, monkeypatch):
    lines = "0\n77 nonsense\nlist\n10\nremove 0\nremove 5\nplot\n\nq\n"
    out = at_the_prompt(capsys, monkeypatch, folder, lines)
    references, queries = study(1, split="train"), study(2, split="test")
    first, second = brute(references[:1], queries[:1], "stack"), brute(references[:2], [queries[1]], "stack")
    assert LINE.findall(out) == [("0", "0", f"{first:.4f}"), ("0, 10", "10", f"{second:.4f}")]
    assert "nonsense is no reference set, there are: 0, 10, 20; and no command" in out
    assert "5 is not among the merged: 10" in out
    assert (folder.parent / "evaluation" / "pca_10_10.png").stat().st_size > 10_000
    assert at_the_prompt(capsys, monkeypatch, folder, "0\n").count("acc:") == 1  # the end of input ends it too


def test_the_prompt_asks_any_query_against_any_merged_references(folder, capsys, monkeypatch):
    lines = "query 0\nref 10 20 9\nquery 0\nquery 20 0\nquery 7\nref\nhelp\nremove 20\nquery 0\nplot\n"
    out = at_the_prompt(capsys, monkeypatch, folder, lines)
    references, queries = study(1, split="train"), study(2, split="test")
    both, (zero, _, twenty) = references[1:], queries
    assert LINE.findall(out) == [
        ("10, 20", "0", f"{brute(both, [zero], 'stack'):.4f}"),
        ("10, 20", "20", f"{brute(both, [twenty], 'stack'):.4f}"),
        ("10, 20", "0", f"{brute(both, [zero], 'stack'):.4f}"),
        ("10, 20", "20+0", f"{brute(both, [twenty, zero], 'vote'):.4f}"),
        ("10", "0", f"{brute(both[:1], [zero], 'stack'):.4f}"),
    ]
    for said in ("no references yet", "no reference set 9; there are", "no query set 7; there are", "query ID ..."):
        assert said in out
    assert (folder.parent / "evaluation" / "pca_10_0.png").exists()


def test_results_are_written_where_they_are_asked_for(folder, capsys, tmp_path):
    sides = ("--train_npz", folder, "--test_npz", folder)
    _, out, _ = run(capsys, *sides, "--results", tmp_path / "r.txt")
    text = (tmp_path / "r.txt").read_text()
    values = re.findall(r"^Accuracy@1: (\S+)$", text, re.M)
    assert sorted(values) == sorted(value for _, _, value in LINE.findall(out))
    assert out.splitlines()[-2] in " ".join(text.split())
    assert len(pd.read_csv(tmp_path / "r.csv")) == 9


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


def test_the_page_speaks_of_the_classifier_that_is_asked_for(folder, capsys):
    asked = ["--train_npz", folder, "--test_npz", folder, "--classifier", "prototype", "lda"]
    code, out, err = run(capsys, *asked, "--references_vary")
    assert code == 0, err
    lines = re.findall(r"^Ref \[(\S+)\] Query (\S+) (\S.*) => acc: (\d\.\d{4})$", out, re.M)
    names = list(dict.fromkeys(name for _, _, name, _ in lines))
    assert [name[:3] for name in names] == ["pro", "lda"]
    assert len(lines) == 2 * len(IDS) ** 2
    assert not LINE.findall(out)
    first = {(r, q): value for r, q, name, value in lines if name == names[0]}
    matrix = out[out.index(f"photos (few) by {names[0]}, ±") : out.index("Ref [0]")]
    cells = [re.findall(r"(\d\.\d{4}) ±", line) for line in matrix.splitlines()[4:7]]
    assert cells == [[first[r, q] for q in IDS] for r in IDS]
    table = out[out.index(f"own references by {names[0]}, beside 0") :]
    assert re.findall(r"^ +(0|10|20)  +(\d\.\d{4})", table, re.M) == [(one, first[one, one]) for one in IDS]
    rows = re.findall(r"^(0/0.*?) +\d\.\d{4}  \d\.\d{4} to", out[out.index("95% intervals for the given") :], re.M)
    assert rows == [*(f"0/0 {name}" for name in names), "0/0"]
    code, out, err = run(capsys, *asked, "--reference_ids", "0", "--query_ids", "10")
    assert [name[:3] for _, _, name, _ in re.findall(r"^Ref (.*)(.) Query 10 ?(.*) => (.*)$", out, re.M)] == [
        "pro",
        "lda",
    ]
    assert re.search(r"^nearest +\d\.\d{4}", out, re.M)


def test_one_pair_of_another_tools_tables(tmp_path, capsys):
    for name, seed in (("gallery", 1), ("probe", 2)):
        vectors = np.random.default_rng(seed).normal(size=(30, 5)) + 3 * np.eye(5)[np.arange(30) % 5]
        paths = [f"{name}/{row // 3}.jpg" for row in range(30)]
        table = pd.DataFrame(vectors.round(4)).add_prefix("v").assign(product=np.arange(30) % 5, file=paths)
        table["product"] = "product " + table["product"].astype(str)
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    both = ["--train_npz", tmp_path / "gallery.csv", "--test_npz", tmp_path / "probe.csv"]
    code, out, err = run(capsys, *both)
    assert code == 0, err
    assert out.startswith("1 reference set, 1 query set, 5 labels")  # and no data set that is not known
    assert "Accuracy of 30 crops on 10 photos" in out
    assert "sample_ids" not in err
    (accuracy,) = (value for *_, value in LINE.findall(out))
    assert (
        f"Which pair of sets? Only gallery/probe was given: accuracy {accuracy} over 30 decisions (95% interval " in out
    )
    frame = pd.read_csv(tmp_path / "probe.csv")
    frame.assign(file=[f"probe/{row // 3}_{row}.jpg" for row in range(30)]).to_csv(tmp_path / "probe.csv", index=False)
    code, out, err = run(capsys, *both)
    assert (
        "probe.csv has a path of its own and counts as a photo; where several are crops of one photo, --group_by" in err
    )
    code, grouped, err = run(capsys, *both, "--group_by", r"(\w+/\d+)")
    assert code == 0, err
    assert "Accuracy of 30 crops on 10 groups" in grouped


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


@pytest.mark.parametrize("ids", [[], ["--reference_ids", "0", "--query_ids", "0", "10"]])
def test_json_stands_alone_on_stdout(folder, capsys, ids):
    sides = ["--train_npz", folder, "--test_npz", folder, *ids]
    _, text, _ = run(capsys, *sides)
    code, out, err = run(capsys, *sides, "--format", "json")
    assert code == 0, err
    told = json.loads(out)
    printed = {(r.replace(", ", "+"), q): float(value) for r, q, value in LINE.findall(text)}
    rows = {(row["reference_ids"], row["query_ids"]): row for row in told["combinations"]}
    assert {pair: round(row["accuracy_at_1"], 4) for pair, row in rows.items()} == printed
    assert (told["verdict"] is None) == bool(ids)
    assert "acc: " in err


@pytest.mark.parametrize("option", [["--classifier", "lda"], ["--reject", "0.1"], ["--results", "r.txt"]])
def test_what_the_prompt_cannot_do_is_refused(folder, capsys, option):
    code, out, err = run(capsys, "--train_npz", folder, "--test_npz", folder, "--interactive", *option)
    assert (code, out) == (2, "")
    assert err == f"evaluate_combo.py: error: {option[0]} and --interactive do not go together; leave one away\n"


def talk(folder, *, typed: list[tuple[bytes, bytes]]) -> tuple[str, int]:
    """Return what the script prints on a terminal of its own, and its exit code; each line is typed when the text is there."""
    pid, terminal = pty.fork()
    if pid == 0:
        script = str(Path(evaluate_combo.__file__))
        os.execv(
            sys.executable, [sys.executable, script, *("--train_npz", folder, "--test_npz", folder), "--interactive"]
        )
    shown, seen = b"", 0

    def until(text: bytes) -> None:
        nonlocal shown, seen
        while text not in shown[seen:]:
            assert select.select([terminal], [], [], 60)[0], shown.decode()
            shown += os.read(terminal, 4096)
        seen = shown.index(text, seen) + len(text)

    for line, text in typed:
        until(b"ids> ")
        os.write(terminal, line)
        until(text)
    with contextlib.suppress(OSError):  # the script has closed its end
        while True:
            if not select.select([terminal], [], [], 10)[
                0
            ]:  # a Ctrl-C in the moment before readline waits is seen at the next key
                os.write(terminal, typed[-1][0])
                continue
            if not (data := os.read(terminal, 4096)):
                break
            shown += data
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_prompt_on_a_terminal(folder):
    typed = [
        (b"help\n", b"end\r\n"),
        (b"ref 0\n", b"merged: 0"),
        (b"que\t10\n", b"Query 10 => acc: "),  # completed
        (b"\x1b[A\n", b"Query 10 => acc: "),  # the line before
        (b"plot nosuch\n", b"there is no plot nosuch; there are: pca"),
        (b"query 77\n", b"no query set 77"),
        (b"remove 0\n", b"merged: none"),
    ]
    shown, code = talk(str(folder), typed=[*typed, (b"q\n", b"q")])
    assert code == 0, shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("key", [b"\x03", b"\x04"])
def test_ctrl_c_and_ctrl_d_end_the_prompt(folder, key):
    shown, code = talk(str(folder), typed=[(b"0\n", b"acc: "), (key, b"")])
    assert code == 0, shown
    assert "Traceback" not in shown
