"""Labels of images by their vectors: by a classifier over references, UNKNOWN where a threshold says so."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.choice import choose
from classifiers.confidence import calibrated, vote
from classifiers.recipes import Recipe, Rows, candidates
from common import knn
from common.embedding_sets import read_sets
from common.embeddings import EmbeddingSet
from common.messages import UserError, note, warn
from evaluation.codes import code, photo_names
from unknowns import threshold_file
from unknowns.scores import closeness
from unknowns.threshold import Threshold, set_threshold

UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, eq=False)
class Products:
    """The references' rows, and the class names that their codes stand for."""

    rows: Rows
    classes: np.ndarray
    fingerprint: str

    @property
    def record(self) -> dict[str, object]:
        """What a threshold file keeps of the references that it was set for."""
        digest = 0
        labels = self.rows.label.astype(np.int64)
        for part in (self.rows.vectors.tobytes(), labels.tobytes(), "\n".join(self.classes).encode()):
            digest = zlib.crc32(part, digest)
        return {"model": self.fingerprint, "rows": len(self.rows.label), "classes": len(self.classes), "crc32": digest}


class Answer:
    """Called with vectors (n, dim): labels and confidences, the most confident first, after UNKNOWN where refused."""

    def __init__(
        self,
        references: Sequence[EmbeddingSet],
        classifier: str | None,
        k: int,
        reject: float | None,
        file: Path | None,
        unknown: Sequence[EmbeddingSet],
    ) -> None:
        """classifier None: the votes of k neighbours. reject, file, unknown: see unknown_images()."""
        self._known = products(references)
        self._tried = candidates(classifier) if classifier else [Recipe("knn", k=k)]
        self._rejection = None if reject is None and file is None else (reject, file, unknown)

    def __call__(self, vectors: np.ndarray) -> list[list[tuple[str, float]]]:
        shares = confidences(self._known, vectors, self._tried)
        order = np.argsort(-shares, axis=1, kind="stable")
        names = self._known.classes
        labelled = [
            [(str(names[c]), float(row[c])) for c in columns] for row, columns in zip(shares, order, strict=True)
        ]
        if self._rejection:
            for row in np.flatnonzero(unknown_images(self._known, vectors, *self._rejection)):
                labelled[row].insert(0, (UNKNOWN, 0.0))
        return labelled


class CalibratedVotes:
    """Called with vectors (n, dim): labels by the votes of k neighbours, with confidences learnt from validation crops."""

    def __init__(self, references: Sequence[EmbeddingSet], validation: Sequence[EmbeddingSet], k: int) -> None:
        """Raises UserError for validation crops of another model, or k above the number of references."""
        self._known, self._k = products(references), k
        others = products(validation)
        if (
            others.rows.vectors.shape[1] != self._known.rows.vectors.shape[1]
            or others.fingerprint != self._known.fingerprint
        ):
            raise UserError(
                f"{validation[0].source} was made with another model than the references; extract it with theirs"
            )
        if k > len(self._known.rows.label):
            raise UserError(
                f"--k {k} is larger than the {len(self._known.rows.label)} references; choose a smaller --k"
            )
        code_of = {name: at for at, name in enumerate(self._known.classes.tolist())}
        self._truth = np.array([code_of.get(name, -1) for name in others.classes.tolist()])[others.rows.label]
        self._validation = others.rows.vectors

    def __call__(self, vectors: np.ndarray) -> list[list[tuple[str, float]]]:
        known, n_class = self._known.rows, len(self._known.classes)
        votes, tried = (vote(each, known, self._k, n_class) for each in (vectors, self._validation))
        found = calibrated(votes, tried, self._truth)
        right = int((tried.label == self._truth).sum())
        told = f"{right} of {len(self._truth)} validation crops are right"
        if found is None:
            warn(f"{told}: too few right or wrong ones to calibrate on; confidences are shares of votes")
        else:
            note(f"confidences calibrated: {told}")
        confidence = votes.shares if found is None else found
        order = np.argsort(-confidence, axis=1, kind="stable")
        names = self._known.classes
        return [
            [(str(names[c]), float(row[c])) for c in columns if row[c] > 0]
            for row, columns in zip(confidence, order, strict=True)
        ]


def labelled_sets(files: Sequence[str], reading: Mapping[str, Any]) -> list[EmbeddingSet]:
    """Return the labelled rows of the sets; raises UserError where there are none."""
    sets = [embedding_set.take(embedding_set.label() != "") for embedding_set in read_sets(files, **reading)]
    sets = [embedding_set for embedding_set in sets if len(embedding_set)]
    if not sets:
        raise UserError(f"{files[0]} has no labels: there is nothing to learn from; name labelled sets")
    return sets


def products(references: Sequence[EmbeddingSet]) -> Products:
    """Return the labelled sets, all of one model, as rows."""
    classes, label = np.unique(np.concatenate([one.label() for one in references]), return_inverse=True)
    photo = np.concatenate(code(photo_names(references, "reference"))[1])
    vectors = np.concatenate([np.asarray(one.vectors) for one in references])
    return Products(Rows(vectors, label, photo), classes, references[0].fingerprint)


def confidences(known: Products, vectors: np.ndarray, tried: Sequence[Recipe]) -> np.ndarray:
    """Return (n, n_class) confidences, which add up to 1, by the best of the recipes, chosen by cross-validation over photos.

    knn: shares of the votes. Cosines: softmax of cosine / 0.07. lda and linear: softmax of their scores. None is calibrated.
    """
    n_class = len(known.classes)
    recipe = tried[0] if len(tried) == 1 else choose(tried, known.rows, n_class).recipe
    fitted = recipe.fit(known.rows.vectors, known.rows.label, n_class)
    note(f"classifier {recipe}: {fitted.rows} rows kept of {len(known.rows.label)}")
    scores = fitted.scores(vectors).astype(np.float64)
    if recipe.kind == "knn":
        return scores
    temperature = knn.VOTE_TEMPERATURE if recipe.kind in ("nearest", "prototype") else 1
    weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    return weights / weights.sum(axis=1, keepdims=True)


def refused(files: Sequence[str], reading: Mapping[str, Any], vectors: np.ndarray, threshold: Path) -> np.ndarray:
    """Return (n,) bool: which vectors the threshold in a file, set for these reference files, answers UNKNOWN."""
    return unknown_images(products(labelled_sets(files, reading)), vectors, None, threshold, [])


def unknown_images(
    known: Products, vectors: np.ndarray, reject: float | None, file: Path | None, unknown: Sequence[EmbeddingSet]
) -> np.ndarray:
    """Return (n,) bool: which images are answered UNKNOWN. With `reject` the threshold is set, and written to `file`; else read."""
    if reject is None and file is not None:
        found = threshold_file.read(file, known.record)
    else:
        assert reject is not None
        found = _set(known, reject, unknown)
        if file is not None:
            threshold_file.write(file, found, known.record)
            note(f"wrote {file}")
    (note if found.supported else warn)(threshold_file.describe(found))
    return closeness(vectors, known.rows, len(known.classes)).score(found.score) <= found.threshold


def _set(known: Products, reject: float, unknown: Sequence[EmbeddingSet]) -> Threshold:
    strangers = None
    if unknown:
        strangers = products(unknown)
        if strangers.rows.vectors.shape[1] != known.rows.vectors.shape[1] or strangers.fingerprint != known.fingerprint:
            raise UserError(
                f"{unknown[0].source} was made with another model than the references; extract it with theirs"
            )
        shared = np.intersect1d(strangers.classes, known.classes)
        if len(shared) and shared[0]:
            raise UserError(
                f"{unknown[0].source} shows {shared[0]}, which references show too: it is no unknown product"
            )
    return set_threshold(known.rows, len(known.classes), reject, unknown=strangers.rows if strangers else None)
