"""search.py over .npz files: exact search, filters, measures by hand, the printed results, users' mistakes."""

from __future__ import annotations

import functools
import json
import shutil

import numpy as np
import pytest

import classify
import evaluate_combo
import extract_embedding
import search
from common import embeddings, knn
from common.embedding_sets import read_sets
from embedding import embedder
from indexes import index_types
from retrieval import tables
from retrieval.exact import ExactSearch
from retrieval.items import Hit, Item, Queries
from retrieval.pca import principal
from retrieval.retrieve import retrieve, score_name
from retrieval.scores import agreement, gain, relevant, score


@pytest.fixture(autouse=True, scope="module")
def _one_model():
    """The model is loaded once: what is tested here is what is done with it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(embedder, "load", functools.cache(embedder.load))
        yield


def save(path, vectors, labels, *, split="train", variant="0", crops=None, samples=None, **meta):
    n = len(vectors)
    names = np.array(crops or [f"c{row}" for row in range(n)])
    meta = {"format_version": 1, "dataset_name": "set", "id": variant, "split": split, "fingerprint": "f", **meta}
    parts = np.array([label.split("/") for label in labels])
    files = np.char.add(names, ".jpg")
    sample_ids = np.array(samples or [f"s{row}" for row in range(n)])
    embeddings.save(
        path, embeddings.EmbeddingSet(np.asarray(vectors, np.float32), parts, names, sample_ids, files, meta)
    )
    return path


def brute(queries, rows, k):
    q, r = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (queries, rows))
    return np.argsort(-np.round(q @ r.T, 9), axis=1, kind="stable")[:, :k]  # equal rows must tie, wherever they stand


@pytest.fixture
def references(tmp_path):
    """900 rows of 24 dimensions in three sets (two splits), the last 50 of them copies of earlier ones."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((900, 24)).astype(np.float32) * rng.uniform(0.1, 9, (900, 1)).astype(np.float32)
    rows[850:] = rows[100:150] * 2
    labels = [f"a/{row % 7}" if row % 2 else f"b/{row % 5}" for row in range(900)]
    for at, split in ((0, "train"), (300, "val"), (600, "train")):
        part = slice(at, at + 300)
        save(tmp_path / f"set_{at}_{split}.npz", rows[part], labels[part], split=split, variant=str(at))
    files = [tmp_path / name for name in ("set_0_train.npz", "set_300_val.npz", "set_600_train.npz")]
    return ExactSearch(read_sets(files)), rows, np.array(labels)


def numbers(results):
    return [[int(hit.item.id) + int(hit.item.crop_id[1:]) for hit in hits] for hits in results]


@pytest.mark.parametrize("n_query", [1, 5, 40])  # few queries go another way than many
def test_exact_search_is_brute_force_ties_by_row(references, n_query):
    one, rows, _ = references
    queries = np.random.default_rng(1).standard_normal((n_query, 24)).astype(np.float32)
    queries[0] = rows[120]  # rows 120 and 870 are equally near
    assert numbers(one.search(queries, 10)) == brute(queries, rows, 10).tolist()
    for k in (1, 100, 900):
        found = one.search(queries, k)
        assert numbers(found) == knn.search(queries, rows, k)[1].tolist()
    assert numbers(one.search(queries[:1], 2)) == [[120, 870]]
    assert found[0][0].score == pytest.approx(1, abs=1e-6)
    assert len(one.search(queries, 2_000)[0]) == 900


@pytest.mark.parametrize("n_query", [3, 40])
def test_filters_select_rows_before_the_search(references, n_query):
    one, rows, labels = references
    queries = np.random.default_rng(2).standard_normal((n_query, 24)).astype(np.float32)
    split = np.repeat(["train", "val", "train"], 300)
    for where, mask in (
        ({"label": ["a"]}, np.char.startswith(labels, "a/")),
        ({"label": ["a/1", "b/0"]}, np.isin(labels, ["a/1", "b/0"])),
        ({"split": ["val"], "label": ["b"]}, (split == "val") & np.char.startswith(labels, "b/")),
        ({"dataset": ["other"]}, np.zeros(900, bool)),
        ({"label": ["a/"]}, np.zeros(900, bool)),
    ):
        allowed = np.flatnonzero(mask)
        expected = allowed[brute(queries, rows[allowed], 10)].tolist() if len(allowed) else [[]] * n_query
        assert numbers(one.search(queries, 10, where)) == expected, where


def test_vectors_come_with_hits_where_asked_for(references):
    one, rows, _ = references
    found = one.search(rows[[5]], 3, vectors=True)[0]
    for number, hit in zip(numbers([found])[0], found, strict=True):
        assert np.array_equal(hit.vector, rows[number])


def test_a_query_is_never_among_its_own_results(tmp_path):
    """Three views of every crop: none of the three may come back, though they are the nearest."""
    rng = np.random.default_rng(0)
    crops = rng.standard_normal((30, 8))
    for variant in "012":
        save(
            tmp_path / f"set_{variant}_all.npz",
            crops + 0.01 * rng.standard_normal((30, 8)),
            ["x"] * 30,
            split="all",
            variant=variant,
        )
    one = ExactSearch(read_sets([tmp_path]))
    items = [one.item(row) for row in range(30)]
    queries = Queries(crops.astype(np.float32), [""] * 30, items)
    for results, item in zip(retrieve(one, queries, 10), items, strict=True):
        assert len(results) == 10
        assert item.crop not in {hit.item.crop for hit in results}
    everything = retrieve(one, queries, 200)
    assert [len(hits) for hits in everything] == [87] * 30


def test_a_source_image_can_be_left_out_whole(tmp_path):
    rows = np.eye(6) + 0.1
    save(tmp_path / "a.npz", rows, ["x"] * 6, samples=["p", "p", "p", "p", "q", "q"])
    one = ExactSearch(read_sets([tmp_path / "a.npz"]))
    items = [one.item(row) for row in range(6)]
    queries = Queries(rows.astype(np.float32), [""] * 6, items)
    found = retrieve(one, queries, 2, same_sample=True)
    assert [{hit.item.sample_id for hit in hits} for hits in found] == [{"q"}] * 4 + [{"p"}] * 2
    assert relevant(one, items, same_sample=True).tolist() == [2, 2, 2, 2, 4, 4]
    assert relevant(one, items).tolist() == [5] * 6


def hits(labels):
    return [Hit(1.0, Item("", "", "0", str(at), "", "", label)) for at, label in enumerate(labels)]


def test_recall_and_f1_by_hand():
    """A at ranks 2 and 4 of 10, 6 relevant: 2 * 2 / 16; 3 shown, all right, of 3: 1; a label that no row has: 0; at rank 7."""
    results = [hits("BABABBBBBB"), hits("AAA"), hits("BB"), hits("BBBBBBABBBA")]
    scores = score(["A", "A", "C", "A"], results, np.array([6, 3, 0, 1]))
    assert scores.f1.tolist() == pytest.approx([4 / 16, 1, 0, 2 / 11])
    assert scores.recalled.tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 1]]
    precision, recall = 2 / 10, 2 / 6
    assert scores.f1[0] == pytest.approx(2 * precision * recall / (precision + recall))


def test_agreement_by_hand():
    exact, found = [hits("AB"), hits("ABCD")], [hits("AB")[:1], hits("ABCD")[::2]]
    assert agreement(found, exact) == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_gains_are_of_whole_images():
    items = [Item("", "", "0", str(at), f"photo {at // 5}", "", "") for at in range(100)]
    better = np.repeat([1.0, 0.0], 50)
    gained = gain(better, np.zeros(100), items)
    assert gained.difference == pytest.approx(0.5)
    assert gained.low < 0.3
    assert gained.high > 0.7


@pytest.mark.parametrize("lead", [0, 2, 4, 5, 6, 8, 12, 20])
def test_the_p_of_a_gain_is_small_where_its_interval_does_not_hold_0(lead):
    """60 photos of one query: `lead` of them gain, two lose."""
    items = [Item("", "", "0", str(at), f"photo {at}", "", "") for at in range(60)]
    new = np.array([1.0] * lead + [-1.0] * 2 + [0.0] * (58 - lead))
    gained = gain(new, np.zeros(60), items)
    assert (gained.p < 0.05) == (gained.low > 0 or gained.high < 0)
    assert gained.p <= 1


def test_a_column_of_scores_that_does_not_sort_as_ranked_is_not_called_so():
    results = [hits("AB")]
    assert tables.results_as_tsv(["q"], results).splitlines()[0] == "query\trank\tscore\tpath\tlabel"
    assert score_name("none", "COSINE") == score_name("query_expansion", "COSINE") == "score"
    for method in ("k_reciprocal", "geometric"):
        assert score_name(method, "COSINE") == "cosine"
    assert "cosine" in json.loads(tables.results_as_json(["q"], results, "cosine"))[0]["results"][0]


@pytest.fixture(scope="module")
def grocery(study_data, tmp_path_factory):
    """Embeddings of six kinds of grocery photographs by lite0: (folder of the photos, train npz, test npz)."""
    folder = tmp_path_factory.mktemp("grocery")
    kinds = ["Fruit/Banana", "Fruit/Lemon", "Fruit/Kiwi", "Fruit/Pineapple"]
    for split, n in (("train", 6), ("test", 3)):
        for kind in kinds:
            (folder / "photos" / split / kind).mkdir(parents=True)
            for file in sorted((study_data / "grocery" / split / kind).glob("*.jpg"))[:n]:
                shutil.copy(file, folder / "photos" / split / kind)
    argv = ["--data_root", str(folder / "photos"), "--output_root", str(folder), "--quiet", "--precision", "fp32"]
    argv += ["--model", "lite0"]
    assert extract_embedding.main(argv) == 0
    return folder / "photos", folder / "photos_0_train.npz", folder / "photos_0_test.npz"


def test_query_prints_and_draws_the_nearest(grocery, tmp_path, capsys):
    photos, train, _ = grocery
    own = sorted((photos / "train" / "Fruit" / "Kiwi").iterdir())[2]
    plot = tmp_path / "sheet.png"
    argv = [
        "query",
        "-q",
        str(own),
        str(photos / "test" / "Fruit" / "Lemon"),
        "--npz",
        str(train),
        "-k",
        "4",
        "--plot",
        str(plot),
    ]
    assert search.main([*argv, "--quiet"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["query", "rank", "score", "path", "label"]
    assert lines[1] == [str(own), "1", "1.0000", str(own), "Fruit/Kiwi"]
    assert [line[1] for line in lines[1:]] == ["1", "2", "3", "4"] * 4
    labels = [line[4] for line in lines[1:] if "Lemon" in line[0]]
    assert labels.count("Fruit/Lemon") >= 8  # of 12
    drawn = plot.with_suffix(".svg").read_text()
    right, wrong = drawn.count("✓ right"), drawn.count("✗ wrong")
    kiwis = sum(line[4] == "Fruit/Kiwi" for line in lines[1:5])
    assert (right, wrong) == (kiwis + labels.count("Fruit/Lemon"), 16 - kiwis - labels.count("Fruit/Lemon"))


def test_query_as_json_with_filters(grocery, capsys):
    photos, train, _ = grocery
    own = sorted((photos / "train" / "Fruit" / "Kiwi").iterdir())[0]
    argv = [
        "query",
        "-q",
        str(own),
        "--npz",
        str(train),
        "--label",
        "Fruit/Lemon",
        "--format",
        "json",
        "-k",
        "9",
        "--quiet",
    ]
    assert search.main(argv) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["query"] for one in answer] == [str(own)]
    assert [row["rank"] for row in answer[0]["results"]] == [1, 2, 3, 4, 5, 6]
    assert {row["label"] for row in answer[0]["results"]} == {"Fruit/Lemon"}
    scores = [row["score"] for row in answer[0]["results"]]
    assert scores == sorted(scores, reverse=True)


def test_a_threshold_file_of_evaluate_answers_unknown_here_and_in_classify(grocery, tmp_path, capsys):
    photos, train, test = grocery
    threshold = tmp_path / "unknown.json"
    pair = ["--reference_ids", "0", "--query_ids", "0", "--reject", "0.2", "--threshold", str(threshold)]
    assert evaluate_combo.main(["--train_npz", str(train), "--test_npz", str(test), *pair, "--quiet"]) == 0
    assert f"wrote {threshold}" in capsys.readouterr().out
    asked = [str(photos / "test" / "Fruit" / kind) for kind in ("Lemon", "Banana")]
    read = ["--threshold", str(threshold), "--quiet"]
    assert search.main(["query", "-q", *asked, "--npz", str(train), "-k", "2", *read]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:]]
    refused = {row[0] for row in rows if row[4] == "UNKNOWN"}
    assert 0 < len(refused) < 6
    assert all(row[1] == "1" for row in rows if row[4] == "UNKNOWN")
    assert len(rows) == 6 * 2 + len(refused)
    assert classify.main(["--image", *asked, "--reference_npz", str(train), *read]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:]]
    assert {row[0] for row in rows if row[2] == "UNKNOWN"} == refused
    assert search.main(["query", "-q", *asked, "--npz", str(test), *read]) == 1
    assert "was set for other references" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["query_expansion", "k_reciprocal", "geometric"])
def test_rerankings_put_the_same_results_into_another_order(grocery, capsys, method):
    photos, train, _ = grocery
    own = sorted((photos / "train" / "Fruit" / "Pineapple").iterdir())[1]
    argv = ["query", "-q", str(own), "--npz", str(train), "-k", "24", "--quiet", "--rerank"]
    found = []
    for name in ("none", method):
        assert search.main([*argv, name]) == 0
        found.append([line.split("\t")[3] for line in capsys.readouterr().out.splitlines()[1:]])
    assert sorted(found[0]) == sorted(found[1])
    assert (found[0] != found[1]) == (method != "geometric")  # no two of these photographs show one thing
    assert found[1][0] == str(own)


def test_evaluate_agrees_with_brute_force(grocery, capsys):
    _, train, test = grocery
    assert (
        search.main(["evaluate", "--query_npz", str(test), "--npz", str(train), "--rerank", "k_reciprocal", "--quiet"])
        == 0
    )
    out = capsys.readouterr().out
    references, queries = (read_sets([path])[0] for path in (train, test))
    order = brute(np.asarray(queries.vectors), np.asarray(references.vectors), 10)
    relevant = references.label()[order] == queries.label()[:, None]
    f1 = (2 * relevant.sum(axis=1) / (10 + 6)).mean()
    row = next(line.split() for line in out.splitlines() if line.startswith("none"))
    assert row[1] == f"{relevant[:, 0].mean():.4f}"
    assert row[5] == f"{f1:.4f}"
    assert row[9] == f"{relevant[:, :5].any(axis=1).mean():.4f}"
    assert len([line for line in out.splitlines() if line.startswith("k_reciprocal")]) == 3


def test_the_json_of_evaluate_says_what_the_table_says(grocery, capsys):
    _, train, test = grocery
    argv = ["evaluate", "--query_npz", str(test), "--npz", str(train), "--quiet"]
    assert search.main(argv) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("none"))
    assert search.main([*argv, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (plain,) = told["rerankings"]
    recall = plain["Recall@1"]
    assert [f"{recall[name]:.4f}" for name in ("value", "low", "high")] == [row[1], row[2], row[4]]
    assert [f"{plain[name]:.4f}" for name in ("Recall@5", "Recall@10")] == row[9:11]
    assert (plain["reranking"], told["queries"]) == ("none", len(read_sets([test])[0].sample_ids))


def test_a_set_can_be_its_own_queries(grocery, capsys):
    _, train, _ = grocery
    assert search.main(["evaluate", "--query_npz", str(train), "--npz", str(train), "--quiet"]) == 0
    one = read_sets([train])[0]
    order = brute(np.asarray(one.vectors), np.asarray(one.vectors), 2)[:, 1]
    right = (one.label()[order] == one.label()).mean()
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("none"))
    assert row[1] == f"{right:.4f}"


def test_a_query_of_another_model_is_refused(grocery, tmp_path, capsys):
    photos, train, test = grocery
    one = read_sets([train])[0]
    other = tmp_path / "other_0_train.npz"
    embeddings.save(other, one.renamed(fingerprint="0" * 64))
    picture = str(next((photos / "test").rglob("*.jpg")))
    assert search.main(["query", "-q", picture, "--npz", str(other)]) == 1
    assert "of fingerprint 000000000000" in capsys.readouterr().err
    assert search.main(["evaluate", "--query_npz", str(test), "--npz", str(other)]) == 1
    assert "different models" in capsys.readouterr().err
    assert search.main(["query", "-q", picture, "--npz", str(train), str(other)]) == 1
    assert "search sets of one model" in capsys.readouterr().err


def test_unlabelled_rows_are_welcome(tmp_path, capsys):
    rows = np.random.default_rng(0).standard_normal((20, 4))
    bare = tmp_path / "bare_0_all.npz"
    np.savez(bare, embeddings=rows.astype(np.float32))
    one = ExactSearch(read_sets([bare]))
    hit = one.search(rows[[3]].astype(np.float32), 1)[0][0]
    assert (hit.item.label, hit.item.path, hit.item.crop_id) == ("", "", "row 3")
    assert search.main(["evaluate", "--query_npz", str(bare), "--npz", str(bare)]) == 1
    assert "has no labels" in capsys.readouterr().err


ASKED = ["query", "-q", "a.npz", "--uri", "x.db", "--collection", "c"]
ODD = [
    ("HNSW", "M=1"),
    ("HNSW", "efConstruction=1"),
    ("HNSW", "M=4096"),
    ("IVF_FLAT", "nlist=0"),
]  # the first ends Milvus Lite


def build_with(kind, value):
    argv = ["build", "--npz", "a.npz", "--uri", "x.db", "--collection", "c"]
    return [*argv, "--index_type", kind, "--index_params", value]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["query", "-q", "absent.jpg", "--npz", "a.npz"], 1, "absent.jpg: no such image"),
        (["query", "-q", "a.npz"], 2, "give --npz FILES"),
        (["query", "-q", "a.npz", "--uri", "x.db"], 2, "--uri needs --collection"),
        (["query", "-q", "a.npz", "--uri", "x.db", "--threshold", "t.json"], 2, "name them with --npz"),
        (["query", "-q", "a.npz", "--npz", "a.npz"], 1, "does not say which model made it"),
        (["info"], 2, "give --uri"),
        (["info", "--plan", "many"], 2, "no number of rows"),
        (["build", "--npz", "a.npz", "--uri", "x.db", "--collection", "1 2"], 2, "letters, digits"),
        (
            ["build", "--npz", "a.npz", "--uri", "x.db", "--collection", "c", "--index_params", "M=4"],
            2,
            "no parameter at all",
        ),
        *((build_with(kind, value), 2, f"{value.partition('=')[0]} is from") for kind, value in ODD),
        ([*ASKED, "--search_params", "ef=99999999999"], 2, "ef is from"),
        (
            ["build", "--npz", "a.npz", "--uri", "x.db", "--collection", "c", "--pca", "9"],
            1,
            "--pca 9 is not from 1 to 4",
        ),
        (["build", "--npz", "b.npz", "--uri", "x.db", "--collection", "c"], 1, "b.npz: no such file"),
        ([], 2, "COMMAND"),
    ],
)
def test_mistakes_are_one_sentence(argv, code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save("a.npz", np.eye(5, 4) + 1, ["x"] * 5, fingerprint="")
    assert search.main(argv) == code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".db" and (path / "collections" / "c").exists()]


def test_a_broken_image_costs_only_itself(grocery, tmp_path, capsys):
    photos, train, _ = grocery
    folder = tmp_path / "queries"
    folder.mkdir()
    (folder / "broken.jpg").write_bytes(b"no image")
    shutil.copy(next((photos / "test").rglob("*.jpg")), folder / "fine.jpg")
    assert search.main(["query", "-q", str(folder), "--npz", str(train), "-k", "1"]) == 0
    streams = capsys.readouterr()
    assert len(streams.out.splitlines()) == 2
    assert "broken.jpg: not an image; left out" in streams.err
    assert search.main(["query", "-q", str(folder / "broken.jpg"), "--npz", str(train)]) == 1


def test_principal_directions_are_the_best_there_are():
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((500, 12)) * np.linspace(3, 0.1, 12)).astype(np.float32)
    none = np.full(500, "")
    one = embeddings.EmbeddingSet(rows, none[:, None], none, none, none, {})
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = np.linalg.svd(unit.astype(np.float64), full_matrices=False)[2][:4]
    ours = principal([one], 4)
    assert np.abs(np.sum(ours * expected, axis=1)) == pytest.approx(np.ones(4), abs=1e-5)


def test_plans_by_hand():
    """Rows of 128 dimensions: 512 bytes of vector, 250 of text; SQ8 128 bytes, 8 of numbering, 4,000 centres of 512 bytes."""
    plans = {plan.index_type: plan for plan in index_types.plans(10**6, 128)}
    assert plans["FLAT"].memory == 10**6 * (512 + 250)
    assert plans["IVF_SQ8"].index_params == {"nlist": 4000}
    assert plans["IVF_SQ8"].memory == pytest.approx(10**6 * (128 + 8 + 250) + 4000 * 512)
    assert plans["HNSW"].memory == pytest.approx(10**6 * (512 + 4 * 32 + 4 * 16 / 15 + 250))
    assert [plan.index_type for plan in plans.values() if plan.suggested] == ["HNSW"]
    big = {plan.index_type: plan for plan in index_types.plans(10**9, 128)}
    assert big["IVF_SQ8"].suggested
    assert big["IVF_SQ8"].index_params == {"nlist": 65_536}
    assert big["FLAT"].nodes == -(-762 * 10**9 // int(0.8 * 64 * 2**30))
