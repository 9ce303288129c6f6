"""The threshold below which a query is answered UNKNOWN, such that at most a share A of unknown products is accepted.

Crops of one photo, or of one product, are alike, so they do not count as so many proofs. The threshold is conformal for groups
(Lee, Barber & Willett 2023, "Distribution-free inference with hierarchical data"): each of K groups has the weight 1 / (K + 1),
shared by its crops, and a further group that nobody has seen has the same weight and may score anything. The threshold is the least
score that leaves at most A of the weight above it. A crop of a new group, exchangeable with these, is then accepted with a
probability of at most A. It takes K >= 1 / A - 1 groups: 19 for A = 0.05. Groups are photos, and classes; the stricter
threshold holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from classifiers.recipes import Rows
from common.messages import UserError
from unknowns.open_set import auroc
from unknowns.scores import SCORES, closeness


@dataclass(frozen=True)
class Threshold:
    """A decision is accepted where its score of the kind `score` is above `threshold`.

    n_photo and n_class: the groups of unknown crops it was set on. supported:
    whether they suffice for `false_accept`; where they do not, the threshold is that of the groups that suffice, or infinite.
    auroc: of the score on the data it was set on. how: what these data are.
    """

    score: str
    threshold: float
    false_accept: float
    supported: bool
    n_photo: int
    n_class: int
    auroc: float
    how: str

    @property
    def needed(self) -> int:
        """The groups that `false_accept` needs."""
        return groups_needed(self.false_accept)


def groups_needed(false_accept: float) -> int:
    """Return the least number of photos, or classes, that can support a share of false accepts."""
    return math.ceil(1 / false_accept - 1 - 1e-9)


def conformal_threshold(scores: np.ndarray, groups: np.ndarray, false_accept: float) -> float:
    """Return the threshold for unknown crops' scores (n,) in groups (n,): infinite where there are too few groups."""
    _, at, size = np.unique(groups, return_inverse=True, return_counts=True)
    n_group = len(size)
    allowed = false_accept * (n_group + 1) - 1 + 1e-9  # the further group may score anything
    if allowed < 0:
        return math.inf
    order = np.argsort(-scores, kind="stable")
    above = np.cumsum(1 / size[at[order]])  # weight of the scores from the largest to this one
    return float(scores[order[np.argmax(above > allowed)]])  # all of the weight is more than that


def set_threshold(
    references: Rows,
    n_class: int,
    false_accept: float,
    *,
    unknown: Rows | None = None,
    validation: Rows | None = None,
    kinds: tuple[str, ...] = SCORES,
) -> Threshold:
    """Return the threshold on the score that tells known from unknown best (AUROC, the first of equals).

    unknown: crops of products that no reference shows, the labels of which are codes of their own. Without them each crop of the
    references, without those of its photo, is scored as if its class had none; and each of `validation` too, where that is given.
    The known crops are those of `validation`, whose photos are other ones whatever their codes, else the references.
    Raises UserError where no crop can be scored as unknown, and where `validation` has no row.
    """
    if validation is not None and not len(validation.label):
        raise UserError("no validation query shows a class of the references; name validation sets of these products")
    own = closeness(references.vectors, references, n_class, references.photo)
    known = own if validation is None else closeness(validation.vectors, references, n_class)
    if unknown is not None:
        rows, strange, how = [unknown], [closeness(unknown.vectors, references, n_class)], "unknown crops"
    else:
        rows, strange = [references], [own.without_own_class(references.label)]
        how = "references, each as if its class had none"
    if unknown is None and validation is not None:
        rows, strange = [references, validation], [*strange, known.without_own_class(validation.label)]
        how = "references and validation queries, each as if its class had no references"
    separation = {}
    for (
        kind
    ) in kinds:  # by the last rows: of the validation queries where there are any, for references flatter themselves
        separation[kind] = auroc(known.score(kind), strange[-1].score(kind))
    kind = max(kinds, key=lambda name: separation[name])
    scores = np.concatenate([part.score(kind) for part in strange])
    if np.isneginf(scores).all():
        raise UserError(
            "--reject needs references of two classes in different photos, or crops of unknown products: --unknown_npz"
        )
    label = np.concatenate([part.label for part in rows])
    apart = [part.photo + place * (1 + int(rows[0].photo.max())) for place, part in enumerate(rows)]
    photo = np.concatenate(apart)
    found = [conformal_threshold(scores, groups, false_accept) for groups in (photo, label)]
    finite = [threshold for threshold in found if threshold < math.inf]
    return Threshold(
        score=kind,
        threshold=max(finite, default=math.inf),
        false_accept=false_accept,
        supported=len(finite) == 2,
        n_photo=len(np.unique(photo)),
        n_class=len(np.unique(label)),
        auroc=separation[kind],
        how=how,
    )
