"""Indexes: the same tests on a Milvus Lite file and on a Milvus server, against brute force."""

from __future__ import annotations

import fcntl
import itertools
import json
import sqlite3
import subprocess
import sys

import milvus_server  # beside this file
import numpy as np
import pytest

import search
from common import embeddings
from common.embedding_sets import read_sets, read_shards
from common.messages import UsageError, UserError
from indexes import milvus_build, milvus_store
from indexes.description import key_of
from indexes.milvus_index import MilvusIndex
from indexes.milvus_store import MilvusCollection, MilvusStore, expression
from retrieval.exact import ExactSearch

DIM, N = 16, 600


@pytest.fixture(scope="module")
def server():
    try:
        with milvus_server.running() as one:
            yield one
    except milvus_server.Unavailable as why:
        pytest.skip(f"no Milvus server: {why}")


@pytest.fixture(params=["lite", pytest.param("server", marks=pytest.mark.server)])
def uri(request, tmp_path):
    if request.param == "lite":
        return str(tmp_path / "index.db")
    return request.getfixturevalue("server").uri


@pytest.fixture
def name(request):
    """A collection of the test's own: the server is shared."""
    return "".join(c if c.isalnum() else "_" for c in request.node.name)


def clustered(n=N, seed=0):
    """Return (n, DIM) float32 rows of any length around 12 centres, and the number of each row's centre."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((12, DIM))
    codes = rng.integers(0, 12, n)
    rows = (centres[codes] + 0.4 * rng.standard_normal((n, DIM))) * rng.uniform(0.5, 3, (n, 1))
    return rows.astype(np.float32), codes


def write(path, vectors, labels, *, split="train", fingerprint="f00", first=0, variant="0"):
    """Write an embedding set whose crops are numbered from `first`."""
    names = np.array([f"crop_{first + row}" for row in range(len(vectors))])
    samples = np.array([f"photo_{(first + row) // 3}" for row in range(len(vectors))])
    meta = {
        "format_version": 1,
        "dataset_name": "set",
        "id": variant,
        "split": split,
        "model": "none",
        "data_root": "/photos",
    }
    parts = np.array([label.split("/") for label in labels])
    files = np.char.add(names, ".jpg")
    embeddings.save(
        path, embeddings.EmbeddingSet(vectors, parts, names, samples, files, {**meta, "fingerprint": fingerprint})
    )
    return path


@pytest.fixture
def npz(tmp_path):
    vectors, codes = clustered()
    return write(tmp_path / "set_0_train.npz", vectors, [f"fruit/kind {code}" for code in codes])


def build(uri, name, *paths, **options):
    with MilvusStore(uri, create=True) as store:
        return milvus_build.build(store, name, read_shards(paths), **options)


def brute(queries, rows, k):
    """Return the rows of the k largest cosines, computed in float64."""
    q, r = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (queries, rows))
    return np.argsort(-(q @ r.T), axis=1, kind="stable")[:, :k]


def crops(results):
    return [[hit.item.crop_id for hit in hits] for hits in results]


@pytest.mark.parametrize("index_type", ["FLAT", "IVF_SQ8", "HNSW"])
def test_an_index_finds_what_brute_force_finds(uri, name, npz, index_type):
    build(uri, name, npz, index_type=index_type)
    queries = clustered(40, seed=1)[0]
    with MilvusStore(uri) as store:
        index = MilvusIndex(store, name)
        found = index.search(queries, 10, vectors=True)
    rows = clustered()[0]
    true = brute(queries, rows, 10)
    shared = [len({f"crop_{row}" for row in mine} & set(hits)) for mine, hits in zip(true, crops(found), strict=True)]
    assert np.mean(shared) / 10 >= {"FLAT": 1.0, "IVF_SQ8": 0.85}.get(index_type, 0.9)
    hit = found[0][0]
    row = int(hit.item.crop_id.split("_")[1])
    unit = rows[row] / np.linalg.norm(rows[row])
    assert hit.vector == pytest.approx(unit, abs=0.02 if index_type == "IVF_SQ8" else 1e-5)
    assert hit.score == pytest.approx(unit @ queries[0] / np.linalg.norm(queries[0]), abs=0.02)
    assert hit.item.path == f"/photos/crop_{row}.jpg"
    assert hit.item.label == f"fruit/kind {clustered()[1][row]}"
    assert hit.item.sample_id == f"photo_{row // 3}"


def test_index_parameters_reach_the_index(uri, name, npz):
    build(uri, name, npz, index_type="IVF_FLAT", index_params={"nlist": 12})
    queries, rows = clustered(40, seed=1)[0], clustered()[0]
    with MilvusStore(uri) as store:
        found = MilvusIndex(store, name, params={"nprobe": 12}).search(queries, 10)  # all lists: nothing can be missed
        assert crops(found) == [[f"crop_{row}" for row in mine] for mine in brute(queries, rows, 10)]
        kept = store.client.describe_index(name, index_name="vector")
    inner = kept.get("params", kept)  # Lite keeps them together
    assert int((json.loads(inner) if isinstance(inner, str) else inner)["nlist"]) == 12


def test_building_twice_changes_nothing_and_changed_files_replace_their_rows(uri, name, npz, tmp_path):
    vectors, codes = clustered()
    labels = [f"fruit/kind {code}" for code in codes]
    first = build(uri, name, npz)
    assert (first.rows, first.total) == (N, N)
    again = build(uri, name, npz)
    assert (again.rows, again.skipped, again.total) == (0, 1, N)
    more = write(tmp_path / "set_0_val.npz", vectors[:50], labels[:50], split="val")
    added = build(uri, name, npz, more)
    assert (added.rows, added.skipped, added.total) == (50, 1, N + 50)
    write(npz, -vectors[:400], labels[:400])  # a new extraction, of fewer crops
    changed = build(uri, name, npz)
    assert (changed.rows, changed.total) == (400, 450)
    with MilvusStore(uri) as store:
        found = MilvusIndex(store, name).search(-vectors[[7]], 1, {"split": ["train"]})
        assert store.description(name).growing is None
    assert found[0][0].item.crop_id == "crop_7"
    assert found[0][0].score == pytest.approx(1, abs=1e-5)


def test_a_killed_build_leaves_nothing_under_the_name_and_goes_on(uri, name, npz, monkeypatch):
    monkeypatch.setattr(milvus_build, "FLUSH", 200)
    put = MilvusCollection.upsert
    sent = []

    def killed(self, *args, **kwargs):
        if len(sent) == 5:
            raise KeyboardInterrupt
        sent.append(len(args[0]))
        put(self, *args, **kwargs)

    monkeypatch.setattr(MilvusCollection, "upsert", killed)
    with pytest.raises(KeyboardInterrupt):
        build(uri, name, npz, batch_size=100)
    with MilvusStore(uri) as store:
        assert name not in store.names()
        with pytest.raises(UserError, match="not complete; run the same"):
            MilvusIndex(store, name)
    monkeypatch.setattr(MilvusCollection, "upsert", put)
    rest = build(uri, name, npz, batch_size=100)
    assert (rest.rows, rest.total) == (200, N)  # 400 were on the disk, the fifth batch was not
    with MilvusStore(uri) as store:
        assert crops(MilvusIndex(store, name).search(clustered()[0][:50], 1)) == [[f"crop_{row}"] for row in range(50)]
        assert f"{name}__building" not in store.names()


def test_what_was_put_in_is_found_at_once_though_only_the_first_search_waits(uri, name, npz, monkeypatch):
    build(uri, name, npz)
    rows = clustered()[0]
    with MilvusStore(uri) as store:
        index, levels, plain = MilvusIndex(store, name), [], store.client.search
        note = lambda *args, **kwargs: levels.append(kwargs["consistency_level"]) or plain(*args, **kwargs)  # noqa: E731
        monkeypatch.setattr(store.client, "search", note)
        for _ in range(2):
            assert crops(index.search(rows[[3]], 1)) == [["crop_3"]]
        item = index.search(rows[[3]], 1)[0][0].item
        for turn in range(5):
            far = np.eye(1, DIM, turn, dtype=np.float32) - 5 * rows[[3]] / np.linalg.norm(rows[3])
            far /= np.linalg.norm(far)
            new = item._replace(crop_id=f"new_{turn}")
            index._collection.upsert([key_of(new)], far, [new])
            assert crops(index.search(far, 1)) == [[f"new_{turn}"]]
    assert levels == ["Strong", "Bounded", "Bounded", *["Strong"] * 5]


def stop_at(monkeypatch, number):
    """Let the given call of upsert be the one at which the process ends; returns what undoes it."""
    put, calls = MilvusCollection.upsert, itertools.count(1)

    def killed(self, *args, **kwargs):
        if next(calls) == number:
            raise KeyboardInterrupt
        put(self, *args, **kwargs)

    monkeypatch.setattr(MilvusCollection, "upsert", killed)
    return lambda: monkeypatch.setattr(MilvusCollection, "upsert", put)


def test_a_killed_update_keeps_what_was_there_and_goes_on(uri, name, npz, tmp_path, monkeypatch):
    vectors, codes = clustered()
    labels = [f"fruit/kind {code}" for code in codes]
    build(uri, name, npz)
    more = write(tmp_path / "set_0_val.npz", vectors[:300] + 1, labels[:300], split="val")
    monkeypatch.setattr(milvus_build, "FLUSH", 100)
    resume = stop_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        build(uri, name, npz, more, batch_size=100)
    resume()
    with MilvusStore(uri) as store:
        assert any("an update was interrupted" in line for line in milvus_build.describe(store, name))
        found = MilvusIndex(store, name).search(vectors[:50], 1, {"split": ["train"]})
        assert crops(found) == [[f"crop_{row}"] for row in range(50)]
    rest = build(uri, name, npz, more, batch_size=100)
    assert (rest.rows, rest.skipped, rest.total) == (100, 1, N + 300)
    with MilvusStore(uri) as store:
        found = MilvusIndex(store, name).search(vectors[:300] + 1, 1, {"split": ["val"]})
        assert crops(found) == [[f"crop_{row}"] for row in range(300)]
        assert not any("interrupted" in line for line in milvus_build.describe(store, name))


@pytest.mark.parametrize("stage", ["rows", "rename"])
def test_a_killed_overwrite_is_the_old_index_or_goes_on(uri, name, npz, monkeypatch, stage):
    vectors = clustered()[0]
    build(uri, name, npz)
    if stage == "rows":
        resume = stop_at(monkeypatch, 3)
    else:  # the old index is dropped, the new one has not its name yet
        plain = MilvusStore.rename
        monkeypatch.setattr(MilvusStore, "rename", lambda self, old, new: self.drop(new) or stop_here())
        resume = lambda: monkeypatch.setattr(MilvusStore, "rename", plain)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        build(uri, name, npz, metric="L2", overwrite=True, batch_size=100)
    resume()
    with MilvusStore(uri) as store:
        if stage == "rows":
            index = MilvusIndex(store, name)
            assert index.metric == "COSINE"
            assert crops(index.search(vectors[:50], 1)) == [[f"crop_{row}"] for row in range(50)]
        else:
            with pytest.raises(UserError, match="not complete; run the same"):
                MilvusIndex(store, name)
    assert build(uri, name, npz, metric="L2", overwrite=True, batch_size=100).total == N
    with MilvusStore(uri) as store:
        index = MilvusIndex(store, name)
        assert index.metric == "L2"
        assert crops(index.search(vectors[:50], 1)) == [[f"crop_{row}"] for row in range(50)]
        assert f"{name}__building" not in store.names()


def stop_here():
    raise KeyboardInterrupt


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import itertools, search
from indexes import milvus_build, milvus_store
kind, method, number = sys.argv[2], sys.argv[3], int(sys.argv[4])
milvus_build.FLUSH = 200
owner = milvus_store.MilvusStore if kind == "store" else milvus_store.MilvusCollection
plain, calls = getattr(owner, method), itertools.count(1)
def killed(self, *args, **kwargs):
    if next(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, *args, **kwargs)
setattr(owner, method, killed)
sys.exit(search.main(sys.argv[5:]))
"""


@pytest.mark.parametrize(
    ("kind", "method", "number"),
    [
        ("rows", "upsert", 4),
        ("rows", "flush", 2),
        ("store", "set_description", 2),
        ("store", "finish", 1),
        ("store", "rename", 1),
    ],
)
def test_a_build_that_is_killed_in_its_process_is_finished_by_its_repetition(
    root, npz, tmp_path, capsys, kind, method, number
):
    """SIGKILL, as a machine that goes down sends none: nothing under the name, and all rows after the same command again."""
    uri = str(tmp_path / "index.db")
    argv = ["build", "--npz", str(npz), "--uri", uri, "--collection", "one", "--batch_size", "100", "--quiet"]
    command = [sys.executable, "-c", KILLED, str(root), kind, method, str(number), *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    with MilvusStore(uri) as store:
        assert "one" not in store.names()
    assert search.main(argv) == 0
    assert "600 rows in all" in capsys.readouterr().out
    with MilvusStore(uri) as store:
        index = MilvusIndex(store, "one")
        assert len(index) == N
        assert crops(index.search(clustered()[0], 1)) == [[f"crop_{row}"] for row in range(N)]
        assert store.names() == ["one"]


@pytest.mark.server
def test_a_server_killed_in_the_middle_is_one_sentence_and_nothing_is_lost(
    server, name, npz, tmp_path, monkeypatch, capsys
):
    vectors, codes = clustered()
    more = write(
        tmp_path / "set_0_val.npz", vectors[:300] + 1, [f"fruit/kind {code}" for code in codes[:300]], split="val"
    )
    build(server.uri, name, npz)
    put, calls = MilvusCollection.upsert, itertools.count(1)

    def losing(self, *args, **kwargs):
        if next(calls) == 2:
            server.kill()
        put(self, *args, **kwargs)

    monkeypatch.setattr(MilvusCollection, "upsert", losing)
    monkeypatch.setattr(milvus_store, "SECONDS", 10)
    argv = ["build", "--npz", str(npz), str(more), "--collection", name, "--batch_size", "100", "--quiet"]
    try:
        assert search.main([*argv, "--uri", server.uri]) == 1
        err = capsys.readouterr().err
        assert "no Milvus server answers there; start it" in err
        assert len(err.strip().splitlines()) == 1
    finally:
        server.start()
    monkeypatch.undo()
    with MilvusStore(server.uri) as store:
        found = MilvusIndex(store, name).search(vectors[:50], 1, {"split": ["train"]})
        assert crops(found) == [[f"crop_{row}"] for row in range(50)]
    assert search.main([*argv, "--uri", server.uri]) == 0
    assert f"{N + 300:,} rows in all" in capsys.readouterr().out
    with MilvusStore(server.uri) as store:
        found = MilvusIndex(store, name).search(vectors[:300] + 1, 1, {"split": ["val"]})
        assert crops(found) == [[f"crop_{row}"] for row in range(300)]


def test_another_model_or_option_is_refused_and_overwrite_replaces(uri, name, npz, tmp_path):
    build(uri, name, npz)
    other = write(tmp_path / "other.npz", clustered(30, seed=5)[0], ["a/b"] * 30, fingerprint="bad")
    with pytest.raises(UserError, match="another model; add --overwrite"):
        build(uri, name, other)
    with pytest.raises(UserError, match="metric COSINE"):
        build(uri, name, npz, metric="L2")
    assert build(uri, name, other, metric="L2", overwrite=True).total == 30
    with MilvusStore(uri) as store:
        hit = MilvusIndex(store, name).search(clustered(30, seed=5)[0][[3]] + 0.01, 1)[0][0]
    assert hit.item.crop_id == "crop_3"
    assert hit.score < 0.1  # a distance


def test_filters_hold_with_any_characters_and_lose_no_row(uri, name, tmp_path):
    vectors, _ = clustered()
    odd = ['6" pipe', "back\\slash", "50%_off", "naïve 果", "plain"]
    labels = [f"shelf/{odd[row % 4] if row < 8 else odd[4]}" for row in range(N)]
    build(uri, name, write(tmp_path / "odd_0_train.npz", vectors, labels), index_type="HNSW")
    with MilvusStore(uri) as store:
        index = MilvusIndex(store, name)
        for at, label in enumerate(odd[:4]):  # 2 rows of 600: a graph search that skips the others finds none by itself
            found = index.search(vectors[[300]], 5, {"label": [f"shelf/{label}"]})
            assert sorted(crops(found)[0]) == [f"crop_{at}", f"crop_{at + 4}"], label
        assert len(index.search(vectors[[0]], 20, {"label": ["shelf"], "split": ["train"]})[0]) == 20
        assert index.search(vectors[[0]], 5, {"split": ["val"]}) == [[]]
        assert index.label_counts(["shelf/plain", "shelf", "other"]) == {"shelf/plain": N - 8}


def test_pca_is_kept_applied_and_priced(uri, name, npz):
    built = build(uri, name, npz, pca=6)
    rows = clustered()[0]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    axes = np.linalg.svd(unit.astype(np.float64), full_matrices=False)[2][:6]  # the oracle: the best rank-6 fit
    queries = clustered(20, seed=3)[0]
    true = brute(queries @ axes.T, unit @ axes.T, 10)
    with MilvusStore(uri) as store:
        index = MilvusIndex(store, name)
        assert crops(index.search(queries, 10)) == [[f"crop_{row}" for row in mine] for mine in true]
        assert index.prepared(queries).shape == (20, 6)
        assert milvus_build.delete(store, name) == N
        assert not [one for one in store.names() if one.startswith(name)]
    kept = brute(rows[::3], rows, 11)[:, 1:], brute(rows[::3] @ axes.T, unit @ axes.T, 11)[:, 1:]
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*kept, strict=True)])
    assert built.pca_recall == pytest.approx(expected, abs=0.005)
    assert 0.4 < built.pca_recall < 1


def test_the_script_on_an_index(uri, name, npz, tmp_path, capsys):
    vectors, codes = clustered(60, seed=2)
    queries = write(tmp_path / "set_0_test.npz", vectors, [f"fruit/kind {c}" for c in codes], split="test")
    here = ["--uri", uri, "--collection", name]
    assert (
        search.main(["build", "--npz", str(npz), *here, "--index_type", "HNSW", "--index_params", "M=8", "--quiet"])
        == 0
    )
    assert f"{name}: 600 rows put in" in capsys.readouterr().out
    assert search.main(["info", *here]) == 0
    assert "600 rows of 16 numbers, HNSW M=8 efConstruction=200 COSINE" in capsys.readouterr().out
    assert search.main(["evaluate", "--query_npz", str(queries), *here, "--npz", str(npz), "--quiet"]) == 0
    out = capsys.readouterr().out
    right = codes == clustered()[1][brute(vectors, clustered()[0], 1)[:, 0]]
    row = next(line.split() for line in out.splitlines() if line.startswith("none"))
    assert float(row[1]) == pytest.approx(right.mean(), abs=0.02)
    assert float(out.split("exact search over --npz: ")[1].split()[0]) > 0.9
    assert search.main(["delete", *here]) == 0
    assert "deleted, 600 rows" in capsys.readouterr().out
    assert search.main(["delete", *here]) == 1
    assert f"has no index {name!r}" in capsys.readouterr().err


def test_foreign_collections_and_wrong_names_are_refused(uri, name):
    with MilvusStore(uri, create=True) as store:
        store.client.create_collection(name, dimension=4)
        with pytest.raises(UserError, match="has not made the collection"):
            MilvusIndex(store, name)
        with pytest.raises(UsageError, match="letters, digits"):
            store.description("no spaces")
        store.drop(name)


def test_a_server_that_is_gone_is_one_sentence(capsys):
    assert search.main(["info", "--uri", "http://127.0.0.1:1"]) == 1
    assert "no Milvus server answers there" in capsys.readouterr().err


def test_a_first_connection_already_keeps_milvus_from_printing_tracebacks(root, tmp_path):
    code = (
        "import logging, sys; from indexes.milvus_store import MilvusStore\n"
        "with MilvusStore(sys.argv[1], create=True):\n"
        "    names = [name for name in logging.root.manager.loggerDict if name.startswith('pymilvus')]\n"
        "    assert 'pymilvus.decorators' in names\n"
        "    print(*[n for n in names if 'bulk' not in n and logging.getLogger(n).isEnabledFor(logging.ERROR)])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "index.db")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.server
@pytest.mark.timeout(600)
def test_a_full_disk_under_a_server_is_one_sentence_and_leaves_no_index(server, tmp_path, small_disk, root):
    vectors = np.random.default_rng(0).standard_normal((150_000, 256)).astype(np.float32)
    npz = write(tmp_path / "set_0_train.npz", vectors, ["a/b"] * len(vectors))
    argv = [sys.executable, str(root / "search.py"), "build", "--npz", str(npz), "--collection", "one", "--quiet"]
    server.stop()  # one at a time can run
    try:
        data = small_disk(400)
        with milvus_server.running(data) as full:
            done = subprocess.run([*argv, "--uri", full.uri], capture_output=True, text=True, timeout=120)
            assert done.returncode == 1
            assert "no space is left on its disk; free some, restart the server and run the same" in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
        small_disk(3000)
        with milvus_server.running(data) as roomy:  # the first may have ended of itself, for want of space
            with MilvusStore(roomy.uri) as store:
                assert "one" not in store.names()
            done = subprocess.run([*argv, "--uri", roomy.uri], capture_output=True, text=True, timeout=240)
            assert "150,000 rows in all" in done.stdout, done.stderr
    finally:
        server.start()


def test_files_that_are_no_index_are_refused(tmp_path, capsys):
    old = tmp_path / "old.db"
    with sqlite3.connect(old) as connection:
        connection.execute("create table a (b)")
    (tmp_path / "text.db").write_text("not a database")
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "folder.db" / "photo.jpg").touch()
    for file, words in (
        ("old.db", "older Milvus Lite"),
        ("text.db", "no Milvus Lite database"),
        ("folder.db", "folder of other files"),
        ("absent.db", "no such index"),
    ):
        assert search.main(["info", "--uri", str(tmp_path / file)]) == 1
        assert words in capsys.readouterr().err
    assert search.main(["info", "--uri", str(tmp_path / "index")]) == 2
    assert (tmp_path / "text.db").read_text() == "not a database"


def test_a_file_in_use_says_so(npz, tmp_path):
    path = str(tmp_path / "index.db")
    build(path, "one", npz)
    with open(f"{path}/LOCK") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="in use by another process"):
            MilvusStore(path)
    MilvusStore(path).__exit__()


def test_a_full_disk_is_one_sentence_and_leaves_no_index(npz, tmp_path, monkeypatch):
    import milvus_lite.engine.collection as engine

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    path = str(tmp_path / "index.db")
    with monkeypatch.context() as patched:
        patched.setattr(engine, "execute_flush", full)
        with pytest.raises(UserError, match="no space is left on its disk"):
            build(path, "one", npz)
    with MilvusStore(path) as store:
        assert "one" not in store.names()
    assert build(path, "one", npz).total == N


def test_a_small_disk_that_fills_is_one_sentence_and_the_build_goes_on_later(tmp_path, small_disk, capsys):
    uri = str(small_disk(2) / "index.db")
    vectors, codes = clustered(20_000)
    npz = write(tmp_path / "set_0_train.npz", vectors, [f"fruit/kind {code}" for code in codes])
    argv = ["build", "--npz", str(npz), "--uri", uri, "--collection", "one", "--quiet"]
    assert search.main(argv) == 1
    err = capsys.readouterr().err
    assert "no space is left on its disk; free some and run the same command again" in err
    assert len(err.strip().splitlines()) == 1
    small_disk(200)
    with MilvusStore(uri) as store:
        assert "one" not in store.names()
    assert search.main(argv) == 0
    assert "20,000 rows in all" in capsys.readouterr().out


def test_keys_are_stable_and_of_128_bits(npz):
    references = ExactSearch(read_sets([npz]))
    keys = [key_of(references.item(row)) for row in range(N)]
    assert len(set(keys)) == N
    assert all(len(key) == 32 for key in keys)
    assert keys[0] == "ba0b2338b5352fee2e7b8c918a6fa660"
    twin = references.item(0)._replace(dataset="set", split="", crop_id="traincrop_0")
    assert key_of(twin) != keys[0]


def test_expressions_quote_what_users_write():
    assert expression({"split": ['a"b']}) == '(split == "a\\"b")'
    assert expression({"label": ["x"], "dataset": ["a", "b"]}) == (
        '(label == "x" or label like "x/%") and (dataset == "a" or dataset == "b")'
    )
