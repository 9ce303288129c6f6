"""The same work on a Ray cluster whose nodes share a file system; nothing but this module and replicas.py knows Ray.

Crops are cut by tasks of a few images, vectors come from model replicas (replicas.py), neighbours are searched piece by piece of
the references. Results come back in the order of the work and a bounded number at a time. What was under way on a
worker or node that is lost is done again elsewhere; `Cluster.losses` counts it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common import cli, files, knn
from common.blocks import Mapped, locate
from common.messages import UserError, count, note

ATTEMPTS = 5  # times that a part of the work may end its worker before it is taken to be the cause
AHEAD = 3  # parts under way or waiting to be taken, for each that can run at once
QUERY_ROWS, REFERENCE_ROWS = 2**15, (2**14, 2**18)  # rows of a k-NN task, of references at least and at most
ROOT = Path(__file__).resolve().parent.parent


class Node(NamedTuple):
    cpus: int
    gpus: float


@dataclass
class _Part:
    """One job of a stream: under way while `ref` is set, then `done` with its result."""

    job: Any
    ref: Any = None
    done: bool = False
    result: Any = None
    attempts: int = 0


@contextlib.contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Yield the cluster at `address`: auto (the one that this machine is part of), host:port, or local (this machine alone).

    Raises UserError when there is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")  # else Ray reports lost nodes among the results on stdout
    import ray

    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {"env_vars": {"PYTHONPATH": paths}},
    }
    if address == "local":
        # Ray would run its workers at a lower priority than this script.
        os.environ.setdefault("RAY_worker_niceness", "0")
        cores = cli.cores()
        options |= {"address": "local", "num_cpus": cores, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        options |= {"object_store_memory": 2**29}
    else:
        _check_reachable(address)
        options["address"] = address
    try:
        with _no_stderr():
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"--cluster {address}: no Ray cluster to join ({reason}); start one with `ray start --head`, "
            "and run this on one of its nodes"
        ) from None
    try:
        yield Cluster(address)
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Keep off the terminal what Ray's core, which is C++, says while it starts; its errors are raised all the same."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # the frame with which both sides of HTTP/2, and so of Ray, begin


def _check_reachable(address: str) -> None:
    """Raise UserError where nothing answers at host:port, or something else than Ray: Ray itself would wait for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--cluster {address} is no address; give auto, local, or host:port as `ray start` prints it")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS)
            answer = connection.recv(len(_SETTINGS))
        if answer[3:4] != _SETTINGS[3:4]:
            raise OSError("what answers is not Ray")
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--cluster {address}: no Ray cluster answers there ({error}); `ray start` has printed the address"
        ) from None


class Cluster:
    """A Ray cluster, connected. losses: how often parts of the work were lost, by reason, since the last report()."""

    def __init__(self, address: str) -> None:
        import ray

        self.losses: Counter[str] = Counter()
        self.nodes = [
            Node(int(node["Resources"].get("CPU", 0)), node["Resources"].get("GPU", 0.0))
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        ]
        if not self.nodes:
            raise UserError(f"--cluster {address}: no node of it has a CPU to work with; start one with `ray start`")
        self.cpus, gpus = sum(node.cpus for node in self.nodes), sum(node.gpus for node in self.nodes)
        with_gpus = f", {gpus:g} GPUs" if gpus else ""
        note(f"cluster {address}: {count(len(self.nodes), 'node')}, {count(self.cpus, 'CPU')}{with_gpus}")

    def stream(
        self,
        jobs: Iterable[Any],
        submit: Callable[[Any], Any],
        width: int,
        settled: Callable[[Any, bool], None] = lambda ref, lost: None,
        starting: Callable[[], list[Any]] = list,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (job, result) in the order of the jobs, with at most AHEAD * width of them under way or waiting.

        `submit` starts a job and returns its reference, or None when nothing is free for it; `settled` hears of each reference
        that ended; `starting` gives what else is worth waking up for. Raises what a job raised, and UserError for one that ended
        its worker ATTEMPTS times.
        """
        import ray

        waiting, window = iter(jobs), deque[_Part]()
        while True:
            while len(window) < AHEAD * width and (job := next(waiting, None)) is not None:
                window.append(_Part(job))
            if not window:
                return
            for part in window:
                if part.ref is None and not part.done and (ref := submit(part.job)) is not None:
                    part.ref, part.attempts = ref, part.attempts + 1
            under_way = {part.ref: part for part in window if part.ref is not None}
            refs = [*under_way, *starting()]
            ready = ray.wait(refs, timeout=1)[0] if refs else []
            for ref in ready:
                if ref in under_way:
                    self._take(under_way[ref], settled)
            while window and window[0].done:
                part = window.popleft()
                yield part.job, part.result

    def _take(self, part: _Part, settled: Callable[[Any, bool], None]) -> None:
        """Fetch the result of a part that has ended, or make it ready to be done again."""
        import ray

        ref, part.ref = part.ref, None
        try:
            part.result, part.done = ray.get(ref), True
        except ray.exceptions.RayTaskError as error:
            settled(ref, False)
            raise cause(error) from None
        except ray.exceptions.RayError as error:
            reason = why(error)
            self.losses[reason] += 1
            settled(ref, True)
            if part.attempts >= ATTEMPTS and reason != "node lost":
                raise UserError(
                    f"a part of the work ended its worker {ATTEMPTS} times ({reason}); what was done is kept: give the nodes more "
                    "memory, or run the same command without --cluster"
                ) from None
        else:
            settled(ref, False)

    def report(self) -> None:
        """Say on stderr what was done again since the last report."""
        if self.losses:
            reasons = ", ".join(f"{times} {reason}" for reason, times in self.losses.most_common())
            note(f"done again elsewhere: {sum(self.losses.values())} parts of the work ({reasons}); nothing is missing")
        self.losses.clear()

    def cut_all(
        self, planned: Sequence[Any], folder: Path, roots: Mapping[Path, Any], style: Any
    ) -> Generator[tuple[Any, Any, Counter[Path]], None, None]:
        """Like cutting.cut_all, by tasks of a few images on one CPU each."""
        import ray

        from cropping import cutter

        batches = list(cutter.by_image(planned).items())
        size = max(1, min(4, len(batches) // (4 * self.cpus)))
        jobs = [batches[at : at + size] for at in range(0, len(batches), size)]
        there = {root.resolve(): root for root in roots}  # the nodes may stand in another folder
        paddings = {absolute: roots[root] for absolute, root in there.items()}
        cut = ray.remote(num_cpus=1, max_retries=0)(_cut)
        for _, outcomes in self.stream(jobs, lambda job: cut.remote(job, folder.resolve(), paddings, style), self.cpus):
            for image, outcome, written in outcomes:
                yield image, outcome, Counter({there[root]: n for root, n in written.items()})
        if self.losses:
            for root in roots:  # what was being written when its worker was lost
                files.sweep(root)
        self.report()

    def search(
        self,
        query: knn.Vectors,
        reference: knn.Vectors,
        k: int,
        query_groups: np.ndarray | None = None,
        reference_groups: np.ndarray | None = None,
    ) -> knn.Neighbours:
        """Like knn.search_excluding: pieces of the references, one task on a node at a time, each result merged as it comes.

        A piece that is mapped from a file is named, not sent: the node that searches it maps it from the shared file system.
        """
        import ray

        queries, references = _blocks(query), _blocks(reference)
        n_query, n_ref = sum(map(len, queries)), sum(map(len, references))
        if not 1 <= k <= n_ref:
            raise ValueError(f"k is {k}; it must be from 1 to the number of references, {n_ref}")
        low, high = REFERENCE_ROWS
        size = max(low, min(high, -(-n_ref // len(self.nodes))))
        pieces = list(_pieces(references, size, reference_groups))
        jobs = ((q, r) for q in _pieces(queries, QUERY_ROWS, query_groups) for r in pieces)
        cpus = min(node.cpus for node in self.nodes)
        search = ray.remote(num_cpus=cpus, max_retries=0)(_search)
        width = sum(node.cpus // cpus for node in self.nodes)
        similarities, indices = np.full((n_query, k), -np.inf, np.float32), np.full((n_query, k), -1, np.int64)
        for (q, r), found in self.stream(
            jobs, lambda job: search.remote(job[0].rows, job[1].rows, k, job[0].groups, job[1].groups), width
        ):
            to = slice(q.start, q.start + q.n)
            best = np.where(found[1] >= 0, found[1] + r.start, -1)
            similarities[to], indices[to] = knn.merge([(similarities[to], indices[to]), (found[0], best)], k)
        return similarities, indices


_SIGNS = {  # of what Ray says
    "out of memory": ("outofmemory", "out of memory", "low on memory", "(oom)"),
    "node lost": ("nodedied", "node died", "node has died", "node is dead", "node failure", "its node", "raylet died"),
}


def why(error: BaseException) -> str:
    """Return in two words why a worker was lost."""
    text = f"{type(error).__name__} {error}".lower()
    return next((reason for reason, signs in _SIGNS.items() if any(sign in text for sign in signs)), "worker lost")


def cause(error: Any) -> Exception:
    """Return what was raised inside a task or actor."""
    return error.cause if isinstance(error.cause, Exception) else error


def _blocks(vectors: knn.Vectors) -> list[np.ndarray]:
    """Return the shards that knn.search would read, those of one set as they stand."""
    parts: Any = getattr(vectors, "blocks", vectors)
    return [parts] if hasattr(parts, "shape") else list(parts)


class _Piece(NamedTuple):
    """`n` rows from `start` on; rows: where they are mapped from, or in the object store; groups: their (n,) codes, if any."""

    start: int
    n: int
    rows: Any
    groups: Any


def _pieces(blocks: Sequence[np.ndarray], size: int, groups: np.ndarray | None) -> Iterator[_Piece]:
    import ray

    start = 0
    for block in blocks:
        for at in range(0, len(block), size):
            rows = block[at : at + size]
            own = None if groups is None else groups[start : start + len(rows)]
            yield _Piece(start, len(rows), locate(rows) or ray.put(np.asarray(rows)), own)
            start += len(rows)


def _search(query: Any, reference: Any, k: int, query_groups: Any, reference_groups: Any) -> knn.Neighbours:
    """A task: the neighbours of a piece of the queries in a piece of the references."""
    query, reference = (rows.open() if isinstance(rows, Mapped) else rows for rows in (query, reference))
    return knn.search_excluding(query, reference, min(k, len(reference)), query_groups, reference_groups)


def _cut(
    batches: Sequence[tuple[Any, Sequence[Any]]], folder: Path, roots: Mapping[Path, Any], style: Any
) -> list[Any]:
    """A task: cut these images' crops."""
    import threading

    import cv2

    from cropping import cutter

    cv2.setNumThreads(1)
    return [
        (image, *cutter.outcome(folder / image[0], crops, roots, style, threading.Event())) for image, crops in batches
    ]
