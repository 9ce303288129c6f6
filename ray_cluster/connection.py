"""A Ray cluster whose nodes share a file system, and the stream of work through it. Nothing outside this room knows Ray.

Results come back in the order of the work and a bounded number at a time. What was under way on a worker or node that is lost is
done again elsewhere; `Cluster.losses` counts it. tasks.py cuts crops and searches neighbours, replicas.py embeds.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.cli import cores
from common.messages import UserError, count, note

ATTEMPTS = 5  # times that a part of the work may end its worker before it is taken to be the cause
AHEAD = 3  # parts under way or waiting to be taken, for each that can run at once
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
        options |= {
            "address": "local",
            "num_cpus": cores(),
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
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


_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # an empty HTTP/2 SETTINGS frame, which gRPC servers send first


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
