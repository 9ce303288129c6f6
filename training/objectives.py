"""The two objectives, triplet and classifier: which rows make a batch, the loss, and the score by which an epoch is chosen.

Labels are int codes (n,), rows int64 indices. Losses and miners are those of pytorch-metric-learning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.messages import note
from training import scores
from training.images import cut_mix

if TYPE_CHECKING:
    import torch

    from training.data import TrainingData

LABEL_SMOOTHING = 0.1  # Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7

Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class Settings:
    """What decides the weights and their test; the fields are named like the options of train.py."""

    train_split: str | None
    val_split: str | None
    test_split: str | None
    objective: str
    model: str
    weights: str | None
    image_size: int | None
    embedding_dim: int
    freeze_backbone: bool
    epochs: int
    batch_size: int
    lr: float
    loss: str
    miner: str
    margin: float
    per_class: int
    patience: int
    label_level: int | None
    precision: str
    seed: int


class Triplet:
    """Learn an embedding: images of a class lie near each other. The score of an epoch is Recall@1 of the validation images.

    needs_references: few validation images have another of their class beside them, so that the training split is searched.
    """

    def __init__(self, data: TrainingData, settings: Settings) -> None:
        self._data, self._settings = data, settings
        self.loss = metric_loss(settings.loss, settings.miner, settings.margin)
        self._validation_samples = data.samples[data.val]
        self.needs_references = scores.answerable(data.labels("val"), self._validation_samples) < 0.5
        if self.needs_references:
            note("most validation images have no other of their class: their references are the training split")

    def batches(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the rows of each batch, which index the training images."""
        rng = np.random.default_rng([self._settings.seed, epoch])
        labels = self._data.labels("train")
        return balanced_batches(labels, self._settings.batch_size, self._settings.per_class, rng)

    def targets(self, epoch: int, number: int, inputs: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs of batch `number` and what the loss compares their outputs with."""
        return inputs, self._data.labels("train")[rows]

    def validate(self, outputs: np.ndarray, references: np.ndarray | None) -> tuple[float, float]:
        """Return score and tie-breaker from the outputs for the validation images, and for the training images if needed."""
        data = self._data
        query = scores.Embedded(outputs, data.labels("val"), self._validation_samples)
        if references is None:
            return scores.retrieval(query)
        return scores.retrieval(query, scores.Embedded(references, data.labels("train"), data.samples[data.train]))


class Classifier:
    """Learn the classes themselves. The score of an epoch is the accuracy on the validation images."""

    needs_references = False

    def __init__(self, data: TrainingData, settings: Settings) -> None:
        self._data, self._settings = data, settings
        self.loss: Loss = classifier_loss

    def batches(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the rows of each batch, which index the training images."""
        rng = np.random.default_rng([self._settings.seed, epoch])
        return shuffled_batches(len(self._data.train), self._settings.batch_size, rng)

    def targets(self, epoch: int, number: int, inputs: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs of batch `number`, mixed, and what the loss compares their outputs with."""
        rng = np.random.default_rng([self._settings.seed, epoch, number])
        return cut_mix(inputs, self._data.labels("train")[rows], len(self._data.classes), rng)

    def validate(self, outputs: np.ndarray, references: np.ndarray | None) -> tuple[float, float]:
        """Return score and tie-breaker from the outputs for the validation images."""
        return scores.classification(outputs, self._data.labels("val"))


def make(data: TrainingData, settings: Settings) -> Triplet | Classifier:
    """Return the objective that the settings name."""
    return Triplet(data, settings) if settings.objective == "triplet" else Classifier(data, settings)


def balanced_batches(
    labels: np.ndarray, batch_size: int, per_class: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield the batches of one epoch: `per_class` rows of each of batch_size // per_class classes (of all, where there are fewer).

    Classes come round in random order, each as often as the others; the rows of a class all come before one comes again. A class
    of fewer rows is repeated within the batch. There are as many batches as shuffled ones of the same size.
    """
    # MPerClassSampler of pytorch-metric-learning draws from one generator for the whole process. After a kill, the epochs that
    # follow would see other batches, and the run would end with other weights.
    classes = np.unique(labels)
    members = {code: np.flatnonzero(labels == code) for code in classes}
    n_classes = min(max(2, batch_size // per_class), len(classes))
    order = _endless(classes, rng)
    rows = {code: _endless(members[code], rng) for code in classes}
    for _ in range(n_batches(len(labels), n_classes * per_class)):
        chosen: dict[int, None] = {}
        while len(chosen) < n_classes:  # across the seam of two rounds a class could come twice
            chosen.setdefault(int(next(order)))
        yield np.array([next(rows[code]) for code in chosen for _ in range(per_class)])


def shuffled_batches(n: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the rows 0..n-1 in random order in batches of nearly equal size, at most `batch_size`."""
    yield from np.array_split(rng.permutation(n), n_batches(n, batch_size))


def n_batches(n: int, batch_size: int) -> int:
    return -(-n // batch_size)


def _endless(values: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(values)


def metric_loss(loss: str, miner: str, margin: float) -> Loss:
    """Return loss(embeddings (n, dim), labels (n,)) -> scalar; embeddings are scaled to length 1, distances Euclidean.

    triplet: distance to a positive + margin <= distance to a negative (Schroff et al. 2015, "FaceNet"). multi_similarity: Wang et
    al. 2019. supcon: Khosla et al. 2020. The miner picks pairs or triplets of the batch: "hard" the farthest positive and the
    nearest negative of each row, "semihard" the negatives farther than the positive but within the margin, "multi_similarity" the
    pairs that are out of order by the margin, "none" all. (With strong views of few images, "hard" triplets collapsed: every
    distance became the same, and the loss the margin.)
    """
    from pytorch_metric_learning import losses, miners

    criterion = {
        "triplet": lambda: losses.TripletMarginLoss(margin),
        "multi_similarity": lambda: losses.MultiSimilarityLoss(),
        "supcon": lambda: losses.SupConLoss(0.1),
    }[loss]()
    choose = {
        "none": lambda: None,
        "semihard": lambda: miners.TripletMarginMiner(margin, type_of_triplets="semihard"),
        "hard": lambda: miners.BatchHardMiner(),
        "multi_similarity": lambda: miners.MultiSimilarityMiner(margin),
    }[miner]()

    def compute(embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return criterion(embeddings, labels, choose(embeddings, labels) if choose else None)

    return compute


def classifier_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of (n, classes) logits against smoothed targets: (n,) labels or (n, classes) shares."""
    import torch

    return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)
