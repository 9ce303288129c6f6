"""index.faiss: the same results as brute force, filters that lose no row, the old file or the new one after every kill."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import faiss
import numpy as np
import pytest

import search
from common import embeddings
from common import npz as npz_module
from common.embedding_sets import read_sets, read_shards
from common.embeddings import EmbeddingSet
from common.messages import UserError
from indexes import faiss_build
from indexes.faiss_build import MAKERS
from indexes.faiss_index import FaissIndex
from indexes.index_types import INDEX_TYPES
from retrieval.exact import ExactSearch
from retrieval.items import Queries
from retrieval.retrieve import retrieve

N, DIM = 600, 16


def rows(n: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, DIM) float32 of any length around 12 centres, and the centre of each."""
    rng = np.random.default_rng(seed)
    centres, codes = np.random.default_rng(99).standard_normal((12, DIM)), rng.integers(0, 12, n)
    vectors = (centres[codes] + 0.4 * rng.standard_normal((n, DIM))) * rng.uniform(0.5, 3, (n, 1))
    return vectors.astype(np.float32), codes


def write(path: Path, vectors: np.ndarray, labels: list[str], *, split: str = "train", fingerprint: str = "f") -> Path:
    names = np.array([f"crop_{row}" for row in range(len(vectors))])
    samples = np.array([f"photo_{row // 3}" for row in range(len(vectors))])
    meta = {"dataset_name": "set", "id": "0", "split": split, "model": "none", "data_root": "/photos"}
    columns = np.array([label.split("/") for label in labels]), names, samples, np.char.add(names, ".jpg")
    embeddings.save(path, EmbeddingSet(vectors, *columns, {**meta, "fingerprint": fingerprint}))
    return path


@pytest.fixture
def npz(tmp_path) -> Path:
    vectors, codes = rows()
    return write(tmp_path / "set_0_train.npz", vectors, [f"fruit/kind {code}" for code in codes])


def build(path: Path, *files: Path, **options):
    return faiss_build.build(path, read_shards(files), **options)


def crops(results):
    return [[hit.item.crop_id for hit in hits] for hits in results]


def test_every_index_type_can_be_made():
    assert set(MAKERS) == set(INDEX_TYPES)


@pytest.mark.parametrize("metric", ["COSINE", "IP", "L2"])
@pytest.mark.parametrize("index_type", INDEX_TYPES)
def test_an_index_finds_what_brute_force_finds(npz, tmp_path, index_type, metric):
    built = build(tmp_path / "i.faiss", npz, index_type=index_type, metric=metric)
    assert (built.rows, built.total) == (N, N)
    vectors, queries = rows()[0].astype(np.float64), rows(40, seed=1)[0].astype(np.float64)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, vectors)]
    distances = {
        "COSINE": -unit[0] @ unit[1].T,
        "IP": -queries @ vectors.T,
        "L2": ((queries[:, None] - vectors) ** 2).sum(axis=2),
    }[metric]
    order = np.argsort(distances, axis=1, kind="stable")[:, :10]
    index = FaissIndex(tmp_path / "i.faiss")
    results = index.search(queries.astype(np.float32), 10, vectors=True)
    shared = [
        len({f"crop_{row}" for row in true} & set(names)) for true, names in zip(order, crops(results), strict=True)
    ]
    assert np.mean(shared) / 10 >= {"FLAT": 1.0, "IVF_SQ8": 0.85}.get(index_type, 0.9)
    hit, coarse = results[0][0], index_type == "IVF_SQ8"
    row = int(hit.item.crop_id.split("_")[1])
    assert hit.score == pytest.approx(abs(distances[0, row]), rel=0.05 if coarse else 1e-4)
    assert hit.vector == pytest.approx((unit[1] if metric == "COSINE" else vectors)[row], abs=0.1 if coarse else 1e-4)
    assert hit.item.path == f"/photos/crop_{row}.jpg"
    assert hit.item.label == f"fruit/kind {rows()[1][row]}"
    assert (hit.item.dataset, hit.item.split, hit.item.id, hit.item.sample_id) == (
        "set",
        "train",
        "0",
        f"photo_{row // 3}",
    )


@pytest.mark.parametrize("index_type", INDEX_TYPES)
@pytest.mark.parametrize("few", [0, 20_000])  # with 0 every filter goes through faiss's own selection
def test_filters_lose_no_row(tmp_path, index_type, few, monkeypatch):
    monkeypatch.setattr("indexes.faiss_index.FEW", few)
    vectors, _ = rows()
    odd = ['6" pipe', "back\\slash", "50%_off", "naïve 果", "plain"]
    labels = [f"shelf/{odd[row % 4] if row < 8 else odd[4]}" for row in range(N)]
    train, val = tmp_path / "set_0_train.npz", tmp_path / "set_0_val.npz"
    write(train, vectors[:500], labels[:500])
    write(val, vectors[500:], labels[500:], split="val")
    build(tmp_path / "i.faiss", train, val, index_type=index_type)
    index = FaissIndex(tmp_path / "i.faiss")
    exact = ExactSearch(read_sets([train, val]))
    for number, label in enumerate(odd[:4]):  # 2 rows of 600
        found = index.search(vectors[[300]], 5, {"label": [f"shelf/{label}"]})
        assert sorted(crops(found)[0]) == [f"crop_{number}", f"crop_{number + 4}"], label
    for where in ({"split": ["val"]}, {"label": ["shelf/plain"], "split": ["train"]}, {"dataset": ["other"]}):
        found, true = (one.search(vectors[:20], 10, where) for one in (index, exact))
        assert [len(hits) for hits in found] == [len(hits) for hits in true]
        if index_type == "FLAT" or few:
            assert crops(found) == crops(true) or index_type == "IVF_SQ8"
    assert index.label_counts(["shelf/plain", "shelf", "no"]) == exact.label_counts(["shelf/plain", "shelf", "no"])


def test_a_query_is_left_out_and_own_rows_are_counted_as_by_exact_search(npz, tmp_path):
    build(tmp_path / "i.faiss", npz)
    exact, index = ExactSearch(read_sets([npz])), FaissIndex(tmp_path / "i.faiss")
    items = [exact.item(row) for row in range(30)]
    queries = Queries(rows()[0][:30], [""] * 30, items)
    for same_sample in (False, True):
        results = [crops(retrieve(one, queries, 10, same_sample=same_sample)) for one in (index, exact)]
        assert results[0] == results[1]
        counts = [one.own_counts(items, same_sample=same_sample).tolist() for one in (index, exact)]
        assert counts[0] == counts[1]


def test_building_again_other_options_and_sets_that_are_not_named(npz, tmp_path):
    path = tmp_path / "i.faiss"
    build(path, npz, index_type="IVF_FLAT", index_params={"nlist": 12})
    assert FaissIndex(path)._index.nlist == 12
    again = build(path, npz, index_type="IVF_FLAT")
    assert (again.rows, again.skipped, again.total) == (0, 1, N)
    with pytest.raises(UserError, match="index_type IVF_FLAT; add --overwrite"):
        build(path, npz)
    vectors, _ = rows(30, seed=5)
    other = write(tmp_path / "other_0_val.npz", vectors, ["a/b"] * 30, split="val")
    with pytest.raises(UserError, match="holds also set train 0; name their files too"):
        build(path, other, index_type="IVF_FLAT")
    assert build(path, npz, other, index_type="IVF_FLAT").total == N + 30
    write(npz, -rows()[0][:400], ["fruit/kind 1"] * 400)  # a new extraction, of fewer crops
    assert build(path, npz, other, index_type="IVF_FLAT").total == 430
    assert crops(FaissIndex(path).search(-rows()[0][[7]], 1, {"split": ["train"]})) == [["crop_7"]]
    model = write(tmp_path / "model.npz", vectors, ["a/b"] * 30, fingerprint="bad")
    with pytest.raises(UserError, match="another model; add --overwrite"):
        build(path, model, index_type="IVF_FLAT")
    assert build(path, model, metric="L2", overwrite=True).total == 30


def test_of_rows_of_one_name_the_last_stays(tmp_path):
    vectors, _ = rows(20)
    first = write(tmp_path / "a.npz", vectors, ["a/b"] * 20)
    second = write(tmp_path / "b.npz", -vectors[:5], ["a/c"] * 5)
    assert build(tmp_path / "i.faiss", first, second).total == 20
    found = FaissIndex(tmp_path / "i.faiss").search(-vectors[[3]], 1)[0][0]
    assert (found.item.crop_id, found.item.label) == ("crop_3", "a/c")


def test_pca_is_kept_applied_and_priced(npz, tmp_path):
    built = build(tmp_path / "i.faiss", npz, pca=6)
    vectors, queries = rows()[0].astype(np.float64), rows(20, seed=3)[0]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    axes = np.linalg.svd(unit, full_matrices=False)[2][:6]
    short = [x @ axes.T for x in (queries, unit)]
    short = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in short]
    order = np.argsort(-short[0] @ short[1].T, axis=1)[:, :10]
    index = FaissIndex(tmp_path / "i.faiss")
    assert crops(index.search(queries, 10)) == [[f"crop_{row}" for row in mine] for mine in order]
    assert index.prepared(queries).shape == (20, 6)
    assert 0.4 < built.pca_recall < 1


def test_the_script_on_an_index_file(npz, tmp_path, capsys):
    vectors, codes = rows(60, seed=2)
    queries = write(tmp_path / "set_0_test.npz", vectors, [f"fruit/kind {code}" for code in codes], split="test")
    uri = str(tmp_path / "index.faiss")
    assert search.main(["build", "--npz", str(npz), "--uri", uri, "--index_type", "HNSW", "--quiet"]) == 0
    assert capsys.readouterr().out == f"{uri}: 600 rows put in, 0 sets there already, 600 rows in all\n"
    assert search.main(["info", "--uri", uri]) == 0
    assert f"{uri}: 600 rows of 16 numbers, HNSW M=16 efConstruction=200 COSINE" in capsys.readouterr().out
    assert search.main(["evaluate", "--query_npz", str(queries), "--uri", uri, "--npz", str(npz), "--quiet"]) == 0
    assert float(capsys.readouterr().out.split("exact search over --npz: ")[1].split()[0]) > 0.95
    assert search.main(["info", "--uri", uri, "--collection", "a"]) == 2
    assert "leave --collection away" in capsys.readouterr().err
    assert search.main(["delete", "--uri", uri]) == 0
    assert "deleted, 600 rows" in capsys.readouterr().out
    assert not Path(uri).exists()
    assert search.main(["delete", "--uri", uri]) == 1
    assert "no such index" in capsys.readouterr().err


def test_files_that_are_no_index_are_refused_and_never_written_over(npz, tmp_path, capsys):
    text, other = tmp_path / "text.faiss", tmp_path / "set.faiss"
    text.write_text("not an index")
    other.write_bytes(npz.read_bytes())
    for path in (text, other):
        before = path.read_bytes()
        for argv in (["info"], ["delete"], ["build", "--npz", str(npz)]):
            assert search.main([*argv, "--uri", str(path), "--quiet"]) == 1
            err = capsys.readouterr().err
            assert str(path) in err
            assert "Traceback" not in err
        assert path.read_bytes() == before


def test_every_flipped_bit_is_refused_by_name_or_changes_nothing(npz, tmp_path):
    path, flipped, rng = tmp_path / "i.faiss", tmp_path / "flipped.faiss", random.Random(2)
    build(path, npz, index_type="HNSW")
    whole, queries = path.read_bytes(), rows(5, seed=1)[0]

    def answers(path: Path) -> str:
        index = FaissIndex(path)
        items = [index.item(row) for row in range(N)]
        return repr([items, index.description, [[hit.score for hit in hits] for hits in index.search(queries, 10)]])

    good, same, refusals = answers(path), 0, []
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        flipped.write_bytes(damaged)
        try:
            assert answers(flipped) == good
            same += 1
        except UserError as error:
            refusals.append(str(error))
    print(f"200 flipped bits: {len(refusals)} refused by name, {same} change nothing, 0 silent")
    assert all(str(flipped) in text for text in refusals)
    assert len(refusals) > 150


def _build_in_child(path: Path, npz: Path, end: str = "") -> None:
    """Build; `end` is where the process kills itself."""
    faiss.omp_set_num_threads(1)  # a forked child has none of its parent's threads

    write_whole = npz_module.write

    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(file, arrays) -> None:
        whole = io.BytesIO()
        write_whole(whole, arrays)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        killed()

    with pytest.MonkeyPatch.context() as patched:
        if end == "half the file is written":
            patched.setattr(faiss_build.npz, "write", half)
        elif end == "the file has not its name yet":
            patched.setattr(os, "replace", killed)
        build(path, npz, index_type="HNSW", metric="L2", overwrite=True)


@pytest.mark.parametrize(
    "end",
    ["half the file is written", "the file has not its name yet", *(f"{part} of the time" for part in range(1, 10))],
)
def test_a_killed_build_leaves_the_old_file_and_its_repetition_the_new_one(npz, tmp_path, end):
    path = tmp_path / "i.faiss"
    build(path, npz)
    old = path.read_bytes()
    started = time.perf_counter()
    _build_in_child(tmp_path / "timed.faiss", npz)
    seconds = time.perf_counter() - started
    child = multiprocessing.get_context("fork").Process(target=_build_in_child, args=(path, npz, end))
    child.start()
    if end.endswith("time"):
        time.sleep(int(end[0]) / 10 * seconds)
        os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL or end.endswith("time")
    assert path.read_bytes() == old or FaissIndex(path).metric == "L2"
    _build_in_child(path, npz)
    assert FaissIndex(path).metric == "L2"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []
