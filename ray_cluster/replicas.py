"""Copies of one model on the nodes of a Ray cluster, which embed as one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from common import cli
from common.messages import UserError, count, note
from embedding.extraction import Batch, Pace, filled_size
from ray_cluster.connection import ATTEMPTS, Cluster, cause, why


@dataclass(frozen=True)
class _Model:
    """What a replica has loaded; the fields are attributes of the Embedder."""

    spec: str
    options: dict[str, Any]
    fingerprint: str
    base_fingerprint: str
    preprocess: Any
    dim: int
    device: str
    settled: bool
    precision: str


class _Replica:
    """An actor: one copy of the model."""

    def load(self, spec: str, options: dict[str, Any], folder: str) -> _Model:
        """Load the model as embedder.load does and return what the driver must know of it."""
        from embedding import embedder

        os.chdir(folder)  # where the driver was started: a factory may be a module there
        self.embedder = embedder.load(spec, **options)
        values = {field.name: getattr(self.embedder, field.name) for field in fields(_Model)}
        return _Model(**{**values, "device": str(self.embedder.device)})

    def settle(self, pixels: np.ndarray, known: str | None) -> str:
        """Choose the precision and return it."""
        self.embedder.settle(lambda: pixels, known)
        return self.embedder.precision

    def compile(self, precision: str, pixels: np.ndarray) -> float | None:
        """Compute in `precision` from now on, compiled for batches like `pixels`; None where that cannot be done."""
        self.embedder.use(precision)
        return self.embedder.compile(pixels)

    def embed(self, paths: list[Path], precision: str, compile_for: np.ndarray | None, options: dict[str, Any]) -> Any:
        """Return the batches of these images and the seconds that decoding and the model took for each."""
        if self.embedder.precision != precision or self.embedder.compiled != (compile_for is not None):
            self.embedder.use(precision)
            if compile_for is not None and self.embedder.compile(compile_for) is None:
                raise UserError("the model is compiled on one node and cannot be on another; add --compile off")
        pace = Pace()
        return list(self.embedder.embed(paths, **options, pace=pace)), pace


class Replicas:
    """Copies of one model on the cluster, which together take the place of an Embedder in extract_embedding.py.

    One stands on each node, with all its CPUs, or `num_gpus` GPUs are given to each. Attributes as the Embedder's; `device` is a
    text.
    """

    def __init__(self, cluster: Cluster, spec: str, num_gpus: float | None = None, **options: Any) -> None:
        """Start the replicas and wait for the first. Raises what embedder.load raises, and UserError when none can be started."""
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
        given = f"{gpus:g} GPUs" if gpus else count(cpus, "CPU")
        note(f"{count(self.n, 'replica')} of the model with {given} each")
        self.cluster, self._actors = cluster, _Actors(cluster, _absolute(spec), options, cpus=cpus, gpus=gpus, n=self.n)
        model = self._actors.wait_for_model()
        self.spec, self.options, self.fingerprint = model.spec, model.options, model.fingerprint
        self.base_fingerprint = model.base_fingerprint
        self.preprocess, self.dim, self.device = model.preprocess, model.dim, model.device
        self.settled, self.precision, self.compiled = model.settled, model.precision, False
        self.engine, self.exportable = "torch", False
        self._compiled_for: np.ndarray | None = None

    def settle(self, sample: Callable[[], np.ndarray], known: str | None = None) -> None:
        """Choose the precision as Embedder.settle does, on one replica, for all."""
        if not self.settled:
            self.settled, self.precision = True, self._actors.ask("settle", sample(), known)

    def use(self, precision: str) -> None:
        """Compute in this precision from now on, not compiled."""
        self.precision, self.compiled, self._compiled_for = precision, False, None

    def program(self) -> Any:
        """Replicas compute by torch only; see `exportable`."""
        raise NotImplementedError

    def use_engine(self, engine: str, run: Any) -> None:
        """See `program`."""
        raise NotImplementedError

    def compile(self, pixels: np.ndarray) -> float | None:
        """Compile as Embedder.compile does on one replica; the others follow with their next batch."""
        seconds = self._actors.ask("compile", self.precision, pixels)
        self.compiled, self._compiled_for = seconds is not None, None if seconds is None else pixels
        return seconds

    def embed(
        self,
        paths: Sequence[Path],
        *,
        batch_size: int,
        workers: int,
        first_batch: int = 0,
        filled_to: int | None = None,
        max_pixels: int = cli.MAX_PIXELS,
        background: str = "white",
        pace: Pace | None = None,
        boxes: np.ndarray | None = None,
    ) -> Iterator[Batch]:
        """Yield the same batches as Embedder.embed, in the same order."""
        import ray

        n = -(-len(paths) // batch_size)
        together = max(1, min(8, (n - first_batch) // (4 * self.n)))  # batches of a part, so that a GPU need not wait
        starts = range(first_batch, n, together)
        sample = None if self._compiled_for is None else ray.put(self._compiled_for)
        filled_to = filled_to or filled_size(len(paths), batch_size)
        options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "filled_to": filled_to}
        options |= {"max_pixels": max_pixels, "background": background}

        def submit(start: int) -> Any:
            rows = slice(start * batch_size, (start + together) * batch_size)
            part, own = [path.absolute() for path in paths[rows]], None if boxes is None else boxes[rows]
            return self._actors.submit(part, self.precision, sample, {**options, "boxes": own})

        started = time.perf_counter()
        stream = self.cluster.stream(starts, submit, self.n, self._actors.settled, self._actors.starting)
        for start, (batches, part_pace) in stream:
            if pace is not None:
                pace.decode += part_pace.decode
                pace.model += part_pace.model
                pace.wall, pace.lanes = time.perf_counter() - started, self.n
            for batch in batches:
                yield batch.moved(start * batch_size)
        self.cluster.report()


class _Actors:
    """The actors of the replicas and what each is doing; one that is lost is replaced where there is room."""

    def __init__(self, cluster: Cluster, spec: str, options: dict[str, Any], *, cpus: int, gpus: float, n: int) -> None:
        self._cluster, self._spec, self._load_options = cluster, spec, options
        self._resources = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._loading: dict[Any, Any] = {}  # reference of load() -> actor
        self._under_way: dict[Any, list[Any]] = {}  # actor -> references of its batches
        self._failures = 0
        self._waiting = False
        self._model: _Model | None = None  # of the first that has loaded; the others must be the same
        for _ in range(n):
            self._start()

    def wait_for_model(self) -> _Model:
        """Wait for the first replica and return what it has loaded."""
        while self._model is None:
            self._welcome(1.0)
        return self._model

    def _start(self) -> None:
        import ray

        make: Any = ray.remote(_Replica)
        actor = make.options(**self._resources).remote()
        self._loading[actor.load.remote(self._spec, self._load_options, os.getcwd())] = actor

    def _welcome(self, timeout: float) -> None:
        """Register replicas that finished loading."""
        import ray

        ready = ray.wait(list(self._loading), num_returns=1, timeout=timeout)[0] if self._loading else []
        for ref in ready:
            actor = self._loading.pop(ref)
            try:
                model = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise cause(error) from None
            except ray.exceptions.RayError as error:
                self._retry(error)
                continue
            self._model = self._model or model
            if model.fingerprint != self._model.fingerprint:
                raise UserError(
                    f"{self._spec} is another model on one of the nodes; give all of them the same files and packages"
                )
            self._failures = 0
            self._under_way[actor] = []

    def _retry(self, error: Exception) -> None:
        """Start another replica in place of one that was lost while it loaded; raises UserError when all attempts are used up."""
        self._failures += 1
        if self._failures < ATTEMPTS:
            self._start()
        elif not self._under_way and not self._loading:
            raise UserError(
                f"no replica of {self._spec} could be started: {why(error)}, {ATTEMPTS} times; give the nodes more memory, "
                "or use a smaller model"
            ) from None

    def ask(self, method: str, *values: Any) -> Any:
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
                self._cluster.losses[reason] += 1
                self._replace(actor)
        raise UserError(f"{self._spec} ended its worker {ATTEMPTS} times ({reason}); give the nodes more memory")

    def _replace(self, actor: Any) -> None:
        import ray

        del self._under_way[actor]
        ray.kill(actor)  # where it can no longer be reached, but works on
        self._start()

    def submit(self, *values: Any) -> Any:
        """Let the least busy replica embed; return the reference of the result, None when all are busy."""
        if not self._under_way and not self._waiting:
            self._waiting = True
            note("no replica of the model is left; waiting for a node that has room for one")
        free = [actor for actor, refs in self._under_way.items() if len(refs) < 2]
        if not free:
            return None
        actor = min(free, key=lambda candidate: len(self._under_way[candidate]))
        ref = actor.embed.remote(*values)
        self._under_way[actor].append(ref)
        return ref

    def starting(self) -> list[Any]:
        """Register those that have loaded; return the references of those that are loading."""
        self._welcome(0)
        return list(self._loading)

    def settled(self, ref: Any, lost: bool) -> None:
        """Take note that a result has come, or that its replica is lost."""
        actor = next((actor for actor, refs in self._under_way.items() if ref in refs), None)
        if actor is not None and lost:
            self._replace(actor)
        elif actor is not None:
            self._under_way[actor].remove(ref)


def _absolute(spec: str | Path) -> str:
    return str(Path(spec).resolve()) if os.sep in str(spec) and Path(spec).exists() else str(spec)
