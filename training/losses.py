"""What training pulls at: losses and miners of pytorch-metric-learning, and the classifier's cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LOSSES = ("triplet", "multi_similarity", "supcon")
MINERS = ("none", "semihard", "hard", "multi_similarity")
LABEL_SMOOTHING = 0.1  # Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7

Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


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
