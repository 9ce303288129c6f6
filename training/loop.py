"""One loop for every objective: epochs, schedule, averaged weights, early stopping, and going on after a kill.

Everything random in epoch e is drawn from (seed, e), so that an epoch's end is all that has to be kept: a run that was killed and
went on ends with the same weights as one that was not.
"""

from __future__ import annotations

import dataclasses
import io
import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import files
from common.messages import UserError, note, progress

if TYPE_CHECKING:
    import torch

    from training.losses import Loss

Batches = Callable[[int], "Iterator[tuple[torch.Tensor, torch.Tensor]]"]  # epoch -> inputs and labels
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Plan:
    """How long, how strongly, and how the best epoch is chosen.

    warmup: epochs of rising rate before the cosine. patience: epochs without a better one that end the training. resolution: what
    two validation scores must differ by to be told apart.
    """

    epochs: int
    lr: float
    steps: int  # in an epoch
    weight_decay: float = 0.05
    warmup: float = 1.0
    patience: int = 30
    seed: int = 0
    precision: str = "fp32"
    resolution: float = 1e-9

    def rank(self, epoch: Epoch) -> tuple[int, float]:
        """Return what epochs are compared by: the score in steps of `resolution`, then the tie."""
        return round(epoch.score / self.resolution), epoch.tie

    def best(self, history: list[Epoch]) -> Epoch:
        """Return the best epoch, the first of equal ones."""
        return max(history, key=self.rank)

    def rate(self, step: int) -> float:
        """Return the share of the learning rate at `step`, counted over all epochs: linear warm-up, then a cosine to 0."""
        rising = min(self.warmup, self.epochs / 4) * self.steps
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, self.epochs * self.steps - rising)))


@dataclass(frozen=True)
class Epoch:
    """One row of training.csv. `score` is what the model is chosen by, `tie` decides between equal ones; larger is better."""

    epoch: int
    lr: float
    loss: float
    score: float
    tie: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.epoch}: loss {self.loss:.4f}, validation score {self.score:.4f}, {self.seconds:.1f} s"


def fit(
    network: torch.nn.Module,
    batches: Batches,
    loss: Loss,
    validate: Callable[[torch.nn.Module], tuple[float, float]],
    plan: Plan,
    *,
    state_file: Path,
) -> list[dict[str, float]]:
    """Train `network` in place and leave in it the averaged weights of the best epoch; return the rows of training.csv.

    validate(network) -> (score, tie). After every epoch all that is needed to go on is in `state_file`, from which a killed run
    starts. Raises UserError when the loss is not finite or memory is too small.
    """
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(_groups(network, plan), lr=plan.lr)
    decay = min(0.999, math.exp(-1 / plan.steps))  # averaged over about one epoch
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    history: list[Epoch] = []
    best: dict[str, torch.Tensor] = {}
    if (state := _read(state_file, device)) is not None:
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        best, history = state["best"], [Epoch(**row) for row in state["history"]]
        note(f"going on after epoch {len(history)} of {plan.epochs}")
    try:
        with progress(total=plan.epochs * plan.steps, desc="training", unit="batch") as bar:
            bar.update(len(history) * plan.steps)
            while not _finished(history, plan):
                started, total = time.perf_counter(), 0.0
                torch.manual_seed(plan.seed * 100_003 + len(history))
                network.train()
                for step, (inputs, labels) in enumerate(batches(len(history)), len(history) * plan.steps):
                    for group in optimizer.param_groups:
                        group["lr"] = plan.lr * plan.rate(step)
                    dtype = getattr(torch, DTYPES[plan.precision])
                    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                        outputs = network(inputs.to(device))
                    value = loss(outputs.float(), labels.to(device))
                    optimizer.zero_grad(set_to_none=True)
                    value.backward()
                    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
                    optimizer.step()
                    averaged.update_parameters(network)
                    total += float(value.detach())
                    bar.update()
                if not math.isfinite(total):
                    raise UserError("the training loss is not finite any more; choose a smaller --lr")
                score, tie = validate(averaged.module)
                rate = plan.lr * plan.rate(len(history) * plan.steps + plan.steps - 1)
                seconds = time.perf_counter() - started
                history.append(Epoch(len(history) + 1, rate, total / plan.steps, score, tie, seconds))
                if plan.best(history) is history[-1]:
                    best = {name: value.detach().clone() for name, value in averaged.module.state_dict().items()}
                if bar.disable:  # no terminal: a log
                    note(f"epoch {history[-1]}, of {plan.epochs}")
                bar.set_postfix(loss=f"{history[-1].loss:.3f}", score=f"{score:.4f}")
                _write(state_file, network, averaged, optimizer, best, history)
    except KeyboardInterrupt:
        best_so_far = f", the best so far epoch {plan.best(history)}" if history else ""
        note(f"{len(history)} of {plan.epochs} epochs done{best_so_far}")
        raise
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
            raise UserError("not enough memory; choose a smaller --batch_size or --image_size") from None
        raise
    network.load_state_dict(best)
    network.eval()
    return [dataclasses.asdict(epoch) | {"chosen": int(epoch is plan.best(history))} for epoch in history]


def _groups(network: torch.nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """Return the parameters by decay: biases and the scales of normalisations are not pulled to zero."""
    parameters = list(network.parameters())
    matrices, others = ([p for p in parameters if (p.ndim > 1) is wanted] for wanted in (True, False))
    return [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}]


def _finished(history: list[Epoch], plan: Plan) -> bool:
    return bool(history) and (len(history) >= plan.epochs or len(history) - plan.best(history).epoch >= plan.patience)


def _write(path: Path, network: Any, averaged: Any, optimizer: Any, best: dict, history: list[Epoch]) -> None:
    import torch

    state = {
        "network": network.state_dict(),
        "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": best,
        "history": [dataclasses.asdict(epoch) for epoch in history],
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files.write_bytes(path, buffer.getbuffer())  # whose error on a full disk is Python's own


def _read(path: Path, device: torch.device) -> dict[str, Any] | None:
    import torch

    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except (RuntimeError, EOFError, LookupError, ValueError, AttributeError, TypeError, pickle.UnpicklingError):
        note(f"{path} cannot be read: training starts anew")
        return None
