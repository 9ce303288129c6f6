"""The same work on a Ray cluster of several nodes: equal results, and nothing lost when nodes, workers or the driver are."""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
import http.server
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from builders import make

import crop
import evaluate_combo
import extract_embedding
from common import blocks, embeddings, knn

DEADLINE = 120  # seconds for a run, or for what is waited for


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Photographs with boxes, one of them cut off, crops with a damaged one, embedding sets, and what local runs make of them."""
    folder = tmp_path_factory.mktemp("work")
    rng, boxes = np.random.default_rng(0), {}
    (folder / "images").mkdir()
    for i in range(48):
        path = folder / "images" / f"{i}.jpg"
        if i < 4:
            coarse = rng.integers(0, 256, (150, 200, 3), np.uint8)
            cv2.imwrite(str(path), cv2.resize(coarse, (4000, 3000), interpolation=cv2.INTER_CUBIC))
        else:
            path.hardlink_to(folder / "images" / f"{i % 4}.jpg")
        boxes[str(i)] = {
            str(j): {"points": {"top_left": [x, y], "bottom_right": [x + 300, y + 200]}, "sku_id": "ab"[j % 2]}
            for j, (x, y) in enumerate(np.random.default_rng(i).integers(0, 2500, (4, 2)).tolist())
        }
    content = (folder / "images" / "0.jpg").read_bytes()
    (folder / "images" / "47.jpg").unlink()
    (folder / "images" / "47.jpg").write_bytes(content[:5000])
    (folder / "train.json").write_text(json.dumps(boxes))
    assert crop.main([*cropping(folder), "--output_root", str(folder / "local_{padding}"), "--quiet"]) == 0
    damaged = folder / "local_10" / "train" / "b" / "3_1.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    assert extract_embedding.main([*embedding(folder), "--output_root", str(folder / "local"), "--quiet"]) == 0
    for split, seed, n in (("train", 1, 70_000), ("test", 2, 3_000)):
        for identity in ("0", "10"):
            labels = (np.arange(n) % 2000).astype(str)[:, None]
            one = dataclasses.replace(make(n, dim=64, seed=seed, id=identity, split=split), labels=labels)
            embeddings.save(folder / "sets" / f"d_{identity}_{split}.npz", one)
    return folder


def cropping(folder):
    argv = ["--json_path", str(folder / "train.json"), "--image_folder", str(folder / "images")]
    return [*argv, "--padding_percent", "0", "10"]


def embedding(folder):
    return ["--data_root", str(folder / "local_10"), "--company_name", "d", "--batch_size", "4", "--model", "lite0"]


def scoring(folder):
    argv = ["--train_npz", str(folder / "sets"), "--test_npz", str(folder / "sets"), "--exclude_same_sample"]
    return [*argv, "--reference_ids", "0", "10", "--k", "3"]


@pytest.fixture
def cluster(monkeypatch):
    """Start nodes of one CPU each and a small object store; cluster(2) -> a head and two more, with their `address`."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # other tests run beside this one
    from ray.cluster_utils import Cluster

    started = []

    def start(n: int, **options) -> Cluster:
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        one = Cluster(initialize_head=True, head_node_args={**node, **options, "include_dashboard": False})
        started.append(one)
        one.others = [one.add_node(**node) for _ in range(n)]
        return one

    yield start
    for one in started:
        one.shutdown()


def begin(root, script, *argv):
    """Start a script as from a shell; its stderr goes with its stdout."""
    command = [sys.executable, str(root / script), *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process):
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    return out, err


def busy(node, title, process):
    """Wait until a worker of the node runs the function of this name, stop it there, and return it.

    Stopped, it cannot be done with its work before the test takes it away, however few tasks are left.
    """
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        for child in raylet.children(recursive=True):
            try:
                if title in "".join(child.cmdline()[:1]):
                    child.suspend()
                    if title in "".join(child.cmdline()[:1]):
                        return child
                    child.resume()
            except psutil.Error:
                continue
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"no worker came to run {title}: {process.communicate()}")


def lose(nodes, node, worker):
    """Take a node away, and its worker, which is stopped and would not see that."""
    nodes.remove_node(node, allow_graceful=False)
    with contextlib.suppress(psutil.Error):
        worker.kill()


def same_files(a: Path, b: Path) -> list[str]:
    """Return the files below `a`, all of which must be below `b` with the same bytes, and no others."""
    found = [sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()) for top in (a, b)]
    found = [[name for name in names if Path(name).name not in ("crop.json", ".lock")] for names in found]
    assert found[0] == found[1]
    assert filecmp.cmpfiles(a, b, found[0], shallow=False)[0] == found[0]
    return found[0]


def same_sets(a: Path, b: Path):
    paths = sorted(a.glob("*.npz"))
    assert [path.name for path in paths] == [path.name for path in sorted(b.glob("*.npz"))] == ["d_10_train.npz"]
    for path in paths:
        one, other = embeddings.load(path), embeddings.load(b / path.name)
        assert np.abs(one.vectors - other.vectors).max() <= 1e-3
        for name in ("labels", "crop_ids", "sample_ids", "paths"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        assert one.meta["skipped"] == other.meta["skipped"] == 1
    assert (a / "d_10_train_skipped.csv").read_text() == (b / "d_10_train_skipped.csv").read_text()


@pytest.mark.cluster
def test_every_stage_equals_the_local_run(work, tmp_path, cluster, root, capsys):
    address = cluster(2).address
    done = end(begin(root, "crop.py", *cropping(work), "--output_root", tmp_path / "c_{padding}", "--cluster", address))
    assert "3 nodes, 3 CPUs" in done[1]
    assert "188 crops written, 4 skipped" in done[0]
    assert len(same_files(work / "local_0", tmp_path / "c_0")) == 190
    out, err = end(
        begin(root, "extract_embedding.py", *embedding(work), "--output_root", tmp_path, "--cluster", address)
    )
    assert "187 rows of 1280 numbers, 1 skipped" in err
    assert "3 replicas" in err
    same_sets(work / "local", tmp_path)
    out, _ = end(begin(root, "evaluate_combo.py", *scoring(work), "--cluster", address))
    assert evaluate_combo.main(scoring(work)) == 0
    assert out == capsys.readouterr().out


@pytest.mark.cluster
def test_a_node_is_killed_while_it_cuts(work, tmp_path, cluster, root):
    nodes = cluster(2)
    process = begin(
        root, "crop.py", *cropping(work), "--output_root", tmp_path / "c_{padding}", "--cluster", nodes.address
    )
    lose(nodes, nodes.others[0], busy(nodes.others[0], "_cut", process))
    _, err = end(process)
    assert "done again elsewhere" in err
    same_files(work / "local_0", tmp_path / "c_0")


@pytest.mark.cluster
def test_a_node_is_killed_while_it_embeds(work, tmp_path, cluster, root):
    nodes = cluster(2)
    process = begin(
        root, "extract_embedding.py", *embedding(work), "--output_root", tmp_path, "--cluster", nodes.address
    )
    lose(nodes, nodes.others[0], busy(nodes.others[0], "embed", process))
    _, err = end(process)
    assert "done again elsewhere" in err
    same_sets(work / "local", tmp_path)


@pytest.mark.cluster
def test_a_node_is_killed_while_it_searches(work, cluster, root, capsys):
    nodes = cluster(2)
    process = begin(root, "evaluate_combo.py", *scoring(work), "--cluster", nodes.address)
    lose(nodes, nodes.others[0], busy(nodes.others[0], "_search", process))
    out, err = end(process)
    assert "done again elsewhere" in err
    assert evaluate_combo.main(scoring(work)) == 0
    assert out == capsys.readouterr().out


@pytest.mark.cluster
def test_a_worker_is_killed_for_want_of_memory(work, tmp_path, cluster, root):
    memory, group = psutil.virtual_memory(), Path("/sys/fs/cgroup/memory.max")
    if memory.available < 8 * 2**30 or (group.exists() and group.read_text().strip() != "max"):
        pytest.skip("needs 8 GiB of free memory that no control group limits")
    limit = (memory.total - memory.available + 4 * 2**30) / memory.total
    nodes = cluster(1, _system_config={"memory_usage_threshold": limit, "memory_monitor_refresh_ms": 50})
    process = begin(
        root, "extract_embedding.py", *embedding(work), "--output_root", tmp_path, "--cluster", nodes.address
    )
    hog = [np.ones(3 * 2**26)]  # while the models load, so that less is left to take afterwards
    worker = busy(nodes.others[0], "embed", process)
    deadline = time.monotonic() + 30
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        if psutil.virtual_memory().available > memory.total * (1 - limit) - 2**29:
            hog.append(np.ones(2**26))
        time.sleep(0.02)
    hog.clear()
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    _, err = end(process)
    assert "out of memory" in err
    same_sets(work / "local", tmp_path)


@pytest.mark.cluster
def test_the_driver_is_killed_and_started_again(work, tmp_path, cluster, root):
    address = cluster(1).address
    argv = [*embedding(work), "--output_root", tmp_path, "--cluster", address]
    process = begin(root, "extract_embedding.py", *argv)
    log, deadline = tmp_path / ".d_10_train.partial" / "batches.jsonl", time.monotonic() + DEADLINE
    while not log.exists() or log.read_text().count("\n") < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("*.npz"))
    _, err = end(begin(root, "extract_embedding.py", *argv))
    assert "going on after" in err
    same_sets(work / "local", tmp_path)


@pytest.mark.parametrize(
    ("address", "message"),
    [("nowhere", "is no address"), ("127.0.0.1:1", "no Ray cluster answers"), ("auto", "no Ray cluster to join")],
)
def test_without_a_cluster_one_sentence_says_so(work, tmp_path, root, address, message):
    process = begin(root, "crop.py", *cropping(work), "--output_root", tmp_path / "c_{padding}", "--cluster", address)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    *notes, error = err.splitlines()
    assert message in error
    assert [note for note in notes if "(by the file's name)" not in note] == []


def test_what_is_not_ray_is_named(work, root):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        process = begin(root, "evaluate_combo.py", *scoring(work), "--cluster", f"127.0.0.1:{server.server_port}")
        _, err = process.communicate(timeout=DEADLINE)
        server.shutdown()
    assert process.returncode == 1
    assert "what answers is not Ray" in err
    assert "Traceback" not in err


def test_rows_of_a_file_are_found_again(tmp_path):
    embeddings.save(tmp_path / "a.npz", make(5000, dim=7))
    vectors = embeddings.load(tmp_path / "a.npz").vectors
    for rows in (vectors, vectors[10:], vectors[1000:3000][5:]):
        assert np.array_equal(blocks.locate(rows).open(), rows)
    assert blocks.locate(vectors[::2]) is None
    assert blocks.locate(np.asarray(vectors) + 0) is None


def test_pieces_give_the_neighbours_of_the_whole(monkeypatch):
    """Exclusion, fewer neighbours than k, and arrays that are in no file, on a cluster of this machine alone."""
    from ray_cluster import connection, tasks

    monkeypatch.setattr(tasks, "REFERENCE_ROWS", (40, 60))
    monkeypatch.setattr(tasks, "QUERY_ROWS", 50)
    rng = np.random.default_rng(0)
    query, reference = rng.standard_normal((120, 16), np.float32), rng.standard_normal((170, 16), np.float32)
    groups = rng.integers(-1, 3, 120), rng.integers(0, 3, 170)
    with connection.connected("local") as ray:
        found = tasks.search(ray, query, [reference[:90], reference[90:]], 150, *groups)
        with pytest.raises(ValueError, match="k is 171"):
            tasks.search(ray, query, reference, 171)
    wanted = knn.search_excluding(query, reference, 150, *groups)
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-6)
    assert np.array_equal(found[1], wanted[1])
    assert (found[1] < 0).any()
