"""Copies of one model on the nodes of a Ray cluster, which embed as one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.messages import UserError, count, note
from ray_cluster.connection import ATTEMPTS, Cluster, cause, why


class _Replica:
    """An actor: one copy of the model."""

    def load(self, spec: str, options: dict[str, Any], folder: str) -> dict[str, Any]:
        """Load the model as models.load does and return what the driver must know of it."""
        from embedding import embedder

        os.chdir(folder)  # where the driver was started: a factory may be a module there
        self.embedder = embedder.load(spec, **options)
        names = ("spec", "options", "fingerprint", "preprocess", "dim", "settled", "precision", "compiled")
        return {"device": str(self.embedder.device), **{name: getattr(self.embedder, name) for name in names}}

    def settle(self, pixels: np.ndarray, known: str | None) -> str:
        self.embedder.settle(pixels, known)
        return self.embedder.precision

    def compile(self, precision: str, pixels: np.ndarray) -> float | None:
        """Compute in `precision` from now on, compiled for batches like `pixels`; None where that cannot be done."""
        self.embedder.use(precision)
        return self.embedder.compile(pixels)

    def embed(self, paths: list[Path], precision: str, compile_for: np.ndarray | None, options: dict[str, Any]) -> Any:
        """Return the batches of these images and the seconds that decoding and the model took for each."""
        from embedding import extraction

        if self.embedder.precision != precision or self.embedder.compiled != (compile_for is not None):
            self.embedder.use(precision)
            if compile_for is not None and self.embedder.compile(compile_for) is None:
                raise UserError("the model is compiled on one node and cannot be on another; add --compile off")
        pace = extraction.Pace()
        return list(extraction.embed(paths, self.embedder, **options, pace=pace)), pace


class Replicas:
    """Copies of one model on the cluster, which together take the place of an Embedder in extract_embedding.py.

    One stands on each node, with all its CPUs, or `num_gpus` GPUs are given to each. One that is lost is replaced where there is
    room; meanwhile the others do its work. Attributes as the Embedder's; `device` is a text.
    """

    spec: str
    options: dict[str, Any]
    fingerprint: str
    preprocess: Any
    dim: int
    settled: bool
    precision: str
    compiled: bool
    device: str

    def __init__(self, cluster: Cluster, spec: str, num_gpus: float | None = None, **options: Any) -> None:
        """Start the replicas and wait for the first. Raises what models.load raises, and UserError when none can be started."""
        self.cluster, self._spec, self._load_options = cluster, _absolute(spec), options
        if options.get("weights"):
            options["weights"] = _absolute(options["weights"])
        wants_gpu = options.get("device", "auto") == "auto" or options["device"].startswith("cuda")
        gpus = 1.0 if num_gpus is None and wants_gpu and any(node.gpus for node in cluster.nodes) else num_gpus or 0.0
        fit = [node for node in cluster.nodes if not gpus or node.gpus >= gpus]
        if not fit:
            raise UserError(
                f"--num_gpus {gpus:g}: no node of the cluster has that many; leave it away, or give a smaller number"
            )
        cpus = min(max(1, int(node.cpus / (node.gpus // gpus))) if gpus else node.cpus for node in fit)
        self.n = int(sum(node.gpus // gpus if gpus else node.cpus // cpus for node in fit))
        self._resources = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._starting: dict[Any, Any] = {}  # reference of load() -> actor
        self._under_way: dict[Any, list[Any]] = {}  # actor -> references of its batches
        self._failures = 0
        self._waiting = False
        self._sample: np.ndarray | None = None
        given = f"{gpus:g} GPUs" if gpus else count(cpus, "CPU")
        note(f"{count(self.n, 'replica')} of the model with {given} each")
        for _ in range(self.n):
            self._start()
        while not self._under_way:
            self._welcome(1.0)

    def _start(self) -> None:
        import ray

        make: Any = ray.remote(_Replica)
        actor = make.options(**self._resources).remote()
        self._starting[actor.load.remote(self._spec, self._load_options, os.getcwd())] = actor

    def _welcome(self, timeout: float) -> None:
        """Take in the replicas that have loaded their model."""
        import ray

        ready = ray.wait(list(self._starting), num_returns=1, timeout=timeout)[0] if self._starting else []
        for ref in ready:
            actor = self._starting.pop(ref)
            try:
                about = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise cause(error) from None
            except ray.exceptions.RayError as error:
                self._failures += 1
                if self._failures < ATTEMPTS:
                    self._start()
                elif not self._under_way and not self._starting:
                    raise UserError(
                        f"no replica of {self._spec} could be started: {why(error)}, {ATTEMPTS} times; give the nodes more memory, "
                        "or use a smaller model"
                    ) from None
                continue
            if not hasattr(self, "fingerprint"):
                vars(self).update(about)
            if about["fingerprint"] != self.fingerprint:
                raise UserError(
                    f"{self._spec} is another model on one of the nodes; give all of them the same files and packages"
                )
            self._failures = 0
            self._under_way[actor] = []

    def settle(self, pixels: np.ndarray, known: str | None = None) -> None:
        """Choose the precision as Embedder.settle does, on one replica, for all."""
        if not self.settled:
            self.settled, self.precision = True, self._ask("settle", pixels, known)

    def use(self, precision: str) -> None:
        self.precision, self.compiled, self._sample = precision, False, None

    def compile(self, pixels: np.ndarray) -> float | None:
        """Compile as Embedder.compile does on one replica; the others follow with their next batch."""
        seconds = self._ask("compile", self.precision, pixels)
        self.compiled, self._sample = seconds is not None, None if seconds is None else pixels
        return seconds

    def _ask(self, method: str, *values: Any) -> Any:
        """Return what a replica answers; one that is lost is replaced, and another asked. Raises UserError when all are."""
        import ray

        reason = ""
        for _ in range(ATTEMPTS):
            while not self._under_way:
                self._welcome(1.0)
            actor = next(iter(self._under_way))
            try:
                return ray.get(getattr(actor, method).remote(*values))
            except ray.exceptions.RayTaskError as error:
                raise cause(error) from None
            except ray.exceptions.RayError as error:
                reason = why(error)
                self.cluster.losses[reason] += 1
                self._replace(actor)
        raise UserError(f"{self._spec} ended its worker {ATTEMPTS} times ({reason}); give the nodes more memory")

    def _replace(self, actor: Any) -> None:
        import ray

        del self._under_way[actor]
        ray.kill(actor)  # where it can no longer be reached, but works on
        self._start()

    def embed(
        self, paths: Sequence[Path], *, batch_size: int, first_batch: int = 0, pace: Any = None, **options: Any
    ) -> Iterator[Any]:
        """Yield the same batches as extraction.embed, in the same order."""
        import ray

        n = -(-len(paths) // batch_size)
        together = max(1, min(8, (n - first_batch) // (4 * self.n)))  # batches of a part, so that a GPU need not wait
        starts = range(first_batch, n, together)
        sample = None if self._sample is None else ray.put(self._sample)
        options["batch_size"] = batch_size

        def submit(start: int) -> Any:
            if not self._under_way and not self._waiting:
                self._waiting = True
                note("no replica of the model is left; waiting for a node that has room for one")
            free = [actor for actor, under_way in self._under_way.items() if len(under_way) < 2]
            if not free:
                return None
            actor = min(free, key=lambda one: len(self._under_way[one]))
            part = [path.absolute() for path in paths[start * batch_size : (start + together) * batch_size]]
            ref = actor.embed.remote(part, self.precision, sample, options)
            self._under_way[actor].append(ref)
            return ref

        def starting() -> list[Any]:
            self._welcome(0)
            return list(self._starting)

        def settled(ref: Any, lost: bool) -> None:
            actor = next((one for one, under_way in self._under_way.items() if ref in under_way), None)
            if actor is not None and lost:
                self._replace(actor)
            elif actor is not None:
                self._under_way[actor].remove(ref)

        started = time.perf_counter()
        for start, (batches, own) in self.cluster.stream(starts, submit, self.n, settled, starting):
            if pace is not None:
                pace.decode += own.decode
                pace.model += own.model
                pace.wall, pace.lanes = time.perf_counter() - started, self.n
            for batch in batches:
                yield batch.moved(start * batch_size)
        self.cluster.report()


def _absolute(spec: str | Path) -> str:
    return str(Path(spec).resolve()) if os.sep in str(spec) and Path(spec).exists() else str(spec)
