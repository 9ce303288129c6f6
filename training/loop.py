"""The training loop, one for both objectives: epochs, schedule, averaged weights, early stopping, and going on after a kill.

Everything random in epoch e is drawn from (seed, e), so that an epoch's end is all that has to be kept: a run that was killed and
went on ends with the same weights as one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.messages import UserError, note, progress
from training.output_folder import read_state, write_state

if TYPE_CHECKING:
    import torch

    from training.data import TrainingData
    from training.images import ImageReader, TrainingImages
    from training.network import Network
    from training.objectives import Loss, Settings

Batches = Callable[[int], "Iterator[tuple[torch.Tensor, torch.Tensor]]"]  # epoch -> inputs and labels
Validate = Callable[["torch.nn.Module"], tuple[float, float]]  # network -> score and tie-breaker
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Plan:
    """How long, how strongly, and how the best epoch is chosen.

    steps: batches in an epoch. warmup: epochs of rising rate before the cosine. patience: epochs without a better one that end the
    training. resolution: what two validation scores must differ by to be told apart.
    """

    epochs: int
    lr: float
    steps: int
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

    def is_over(self, history: list[Epoch]) -> bool:
        """Return whether these epochs are all, or the last ones were no better for too long."""
        return bool(history) and (
            len(history) >= self.epochs or len(history) - self.best(history).epoch >= self.patience
        )

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
    network: torch.nn.Module, batches: Batches, loss: Loss, validate: Validate, plan: Plan, *, state_file: Path
) -> list[dict[str, float]]:
    """Train `network` in place and leave in it the averaged weights of the best epoch; return the rows of training.csv.

    validate(network) -> (score, tie). After every epoch all that is needed to go on is in `state_file`, from which a killed run
    starts. Raises UserError when the loss is not finite or memory is too small.
    """
    import torch

    training = _Training(network, plan)
    training.restore(state_file)
    history = training.history
    try:
        with progress(total=plan.epochs * plan.steps, desc="training", unit="batch") as bar:
            bar.update(len(history) * plan.steps)
            while not plan.is_over(history):
                training.run_epoch(batches, loss, validate, bar.update)
                if bar.disable:  # no terminal: a log
                    note(f"epoch {history[-1]}, of {plan.epochs}")
                bar.set_postfix(loss=f"{history[-1].loss:.3f}", score=f"{history[-1].score:.4f}")
                training.save(state_file)
    except KeyboardInterrupt:
        best_so_far = f", the best so far epoch {plan.best(history)}" if history else ""
        note(f"{len(history)} of {plan.epochs} epochs done{best_so_far}")
        raise
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
            raise UserError("not enough memory; choose a smaller --batch_size or --image_size") from None
        raise
    network.load_state_dict(training.best_weights)
    network.eval()
    best = plan.best(history)
    return [dataclasses.asdict(epoch) | {"chosen": int(epoch is best)} for epoch in history]


class _Training:
    """What changes from epoch to epoch: the network, its average, the optimizer, the epochs so far and the best weights."""

    def __init__(self, network: torch.nn.Module, plan: Plan) -> None:
        import torch
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        self.network, self.plan = network, plan
        self.device = next(network.parameters()).device
        self.optimizer = torch.optim.AdamW(_groups(network, plan), lr=plan.lr)
        decay = min(0.999, math.exp(-1 / plan.steps))  # averaged over about one epoch
        self.averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.history: list[Epoch] = []
        self.best_weights: dict[str, torch.Tensor] = {}

    def restore(self, state_file: Path) -> None:
        """Take over the state of a run that was killed, if there is one."""
        state = read_state(state_file, self.device)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_weights = state["best"]
        self.history += [Epoch(**row) for row in state["history"]]
        note(f"going on after epoch {len(self.history)} of {self.plan.epochs}")

    def save(self, state_file: Path) -> None:
        """Write what restore() reads."""
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best_weights,
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
        }
        write_state(state_file, state)

    def run_epoch(self, batches: Batches, loss: Loss, validate: Validate, advance: Callable[[], Any]) -> None:
        """Train for one epoch, score it, and keep its averaged weights if it is the best so far."""
        started, plan, number = time.perf_counter(), self.plan, len(self.history)
        total = self._learn(batches(number), loss, advance)
        if not math.isfinite(total):
            raise UserError("the training loss is not finite any more; choose a smaller --lr")
        score, tie = validate(self.averaged.module)
        rate = plan.lr * plan.rate(number * plan.steps + plan.steps - 1)
        seconds = time.perf_counter() - started
        self.history.append(Epoch(number + 1, rate, total / plan.steps, score, tie, seconds))
        if plan.best(self.history) is self.history[-1]:
            state = self.averaged.module.state_dict()
            self.best_weights = {name: value.detach().clone() for name, value in state.items()}

    def _learn(
        self, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], loss: Loss, advance: Callable[[], Any]
    ) -> float:
        """Go through the batches of the next epoch; return the sum of their losses."""
        import torch

        plan, number, total = self.plan, len(self.history), 0.0
        torch.manual_seed(plan.seed * 100_003 + number)
        self.network.train()
        dtype = getattr(torch, DTYPES[plan.precision])
        for step, (inputs, labels) in enumerate(batches, number * plan.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = plan.lr * plan.rate(step)
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                outputs = self.network(inputs.to(self.device))
            value = loss(outputs.float(), labels.to(self.device))
            self.optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self.optimizer.step()
            self.averaged.update_parameters(self.network)
            total += float(value.detach())
            advance()
        return total


def _groups(network: torch.nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """Return the parameters by decay: biases and the scales of normalisations are not pulled to zero."""
    parameters = list(network.parameters())
    matrices, others = ([p for p in parameters if (p.ndim > 1) is wanted] for wanted in (True, False))
    return [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}]


def learn(
    network: Network,
    data: TrainingData,
    train_images: TrainingImages,
    val_images: TrainingImages,
    reader: ImageReader,
    settings: Settings,
    state_file: Path,
) -> list[dict[str, float]]:
    """Train the network, or its top layer alone on features computed once, and return the rows of training.csv."""
    import torch

    from training import objectives
    from training.images import Views
    from training.network import predict

    frozen = settings.freeze_backbone
    if frozen:
        train_features, val_features = (predict(network.features, images) for images in (train_images, val_images))
        if settings.objective == "classifier":
            return network.regress(train_features, data.labels("train"), val_features, data.labels("val"))
    objective = objectives.make(data, settings)
    references = None
    if objective.needs_references:
        references = train_features if frozen else reader(data.train, "reference")[1]
    plan = Plan(
        epochs=settings.epochs,
        lr=settings.lr,
        steps=sum(1 for _ in objective.batches(0)),
        patience=settings.patience,
        seed=settings.seed,
        precision=settings.precision,
        resolution=0.5 / len(data.val) ** 0.5,  # the score's standard error, at most: smaller differences tell nothing
    )

    def validate(module: torch.nn.Module) -> tuple[float, float]:
        outputs = predict(module, val_features if frozen else val_images)
        return objective.validate(outputs, None if references is None else predict(module, references))

    with ThreadPoolExecutor(reader.workers, "view") as pool:
        views = Views(train_images, network.preprocess, seed=settings.seed, pool=pool)

        def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for number, rows in enumerate(objective.batches(epoch)):
                inputs = train_features[rows] if frozen else views(epoch, number, rows)
                inputs, targets = objective.targets(epoch, number, inputs, rows)
                yield torch.from_numpy(inputs), torch.from_numpy(targets)

        return fit(network.top if frozen else network, batches, objective.loss, validate, plan, state_file=state_file)
