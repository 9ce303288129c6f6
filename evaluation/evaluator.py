"""Scoring combinations of embedding sets exactly: each pair of sets is searched once, combinations merge top-k lists.

So the cost grows with the pairs, not with the combinations. What a combination scores is kept as totals per image and per class
(`Tally`), which add up over the query sets that are stacked. No function reads a file or prints.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common import knn
from common.embeddings import EmbeddingSet
from common.messages import UsageError, UserError
from evaluation import fusion, metrics
from evaluation.codes import check, code, crop_names, image_names, label_names, look_up, without_samples
from evaluation.records import Combination, Cost, Decisions, Tally

EXCLUDE = ("none", "self", "sample")


@dataclass(frozen=True)
class Task:
    """One search: query (n, dim), references as blocks, the int codes of labels, of the groups left out, of source images."""

    query: np.ndarray
    reference: list[np.ndarray]
    query_label: np.ndarray
    reference_label: np.ndarray
    query_group: np.ndarray
    reference_group: np.ndarray
    query_image: np.ndarray


class Evaluator:
    """Scores combinations of `references` and `queries`, each a list of labelled sets with distinct IDs."""

    def __init__(
        self,
        references: Sequence[EmbeddingSet],
        queries: Sequence[EmbeddingSet],
        *,
        mode: str = "stack",
        k: int = 1,
        vote_weights: str = "uniform",
        label_level: int | None = None,
        exclude: str = "none",
        search: Callable[..., knn.Neighbours] = knn.search_excluding,
    ) -> None:
        """Check that the sets can be compared and code their labels, crops and images.

        `search` finds the neighbours; it takes what knn.search_excluding takes and gives the same, as Cluster.search does.

        Raises UserError for sets of different dimension or model and for k larger than a reference set.
        """
        self.references = {one.id: one for one in references}
        self.queries = {one.id: one for one in queries}
        self._search = search
        self.mode, self.k, self.vote_weights, self.exclude = mode, k, vote_weights, exclude
        self.depth = max(k, *metrics.RECALL_AT)
        check(references, queries, mode, k)
        everything = [*references, *queries]
        self.classes, labels = code(label_names(everything, label_level))
        # A reference's crop and image matter where a query has the same; the rest of their names need not be kept.
        self.crops, crops = code(crop_names(queries, "query"))
        self.images, images = code(image_names(queries, "query"))
        reference_crops = look_up(self.crops, crop_names(references, "reference"))
        reference_images = look_up(self.images, image_names(references, "reference"))
        self.without_samples = without_samples(everything)
        n = len(references)
        self.reference_label = dict(zip(self.references, labels[:n], strict=True))
        self.query_label = dict(zip(self.queries, labels[n:], strict=True))
        self.reference_crop = dict(zip(self.references, reference_crops, strict=True))
        self.query_crop = dict(zip(self.queries, crops, strict=True))
        self.reference_image = dict(zip(self.references, reference_images, strict=True))
        self.query_image = dict(zip(self.queries, images, strict=True))
        self._offset = dict(zip(self.references, np.cumsum([0, *map(len, references)]), strict=False))
        self._neighbour_label = np.concatenate([*self.reference_label.values(), [-1]])  # row -1 stands for no neighbour
        rows_of = np.bincount(np.concatenate(crops), minlength=len(self.crops))
        sets_of = np.bincount(np.concatenate([np.unique(one) for one in crops]), minlength=len(self.crops))
        self.matched = (rows_of == len(queries)) & (sets_of == len(queries))  # once in every query set
        self.crop_image, self.crop_label = np.zeros((2, len(self.crops)), np.int64)
        for q in self.queries:
            self.crop_image[self.query_crop[q]] = self.query_image[q]
            self.crop_label[self.query_crop[q]] = self.query_label[q]
        self._pairs: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
        self._fused: dict[tuple[str, ...], tuple[EmbeddingSet, np.ndarray]] = {}

    @property
    def shared_images(self) -> int:
        """Number of source images with crops on both sides: leakage, unless the same sample is left out."""
        reference, query = (np.concatenate(list(side.values())) for side in (self.reference_image, self.query_image))
        return len(np.intersect1d(reference[reference >= 0], query))

    def matched_sizes(self) -> np.ndarray:
        """Return (n_image,) float64: per image, the crops that every query set holds."""
        return np.bincount(self.crop_image[self.matched], minlength=len(self.images)).astype(float)

    def valid(self, combination: Combination) -> bool:
        """Whether the combination can be scored: under `vote` each view needs references of its own model."""
        if self.mode == "concat":
            return combination.matched
        return self.mode != "vote" or all(self._own(combination.reference_ids, q) for q in combination.query_ids)

    def _own(self, reference_ids: Iterable[str], query_id: str) -> list[str]:
        model = self.queries[query_id].fingerprint
        return [r for r in reference_ids if not model or self.references[r].fingerprint in ("", model)]

    def cost(self, combination: Combination) -> Cost:
        """Return what one decision of the combination costs."""
        refs = [self.references[r] for r in combination.reference_ids]
        if self.mode in ("mean", "concat"):
            rows = self._gallery(combination.reference_ids)[0].vectors.shape
            return Cost(len(combination.query_ids), rows[0], rows[0] * rows[1])
        gallery = sum(len(one) for one in refs)
        if self.mode == "stack":
            return Cost(1, gallery, sum(len(one) * one.dim for one in refs))
        own = [self.references[r] for q in combination.query_ids for r in self._own(combination.reference_ids, q)]
        return Cost(len(combination.query_ids), gallery, sum(len(one) * one.dim for one in own))

    def _pair(self, reference_id: str, query_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the top neighbours of one pair of sets, their rows counted over all reference sets."""
        key = (reference_id, query_id)
        if key not in self._pairs:
            similarities, rows = self.search(self._stacked([reference_id], query_id), self.depth)
            self._pairs[key] = similarities, np.where(rows < 0, -1, rows + self._offset[reference_id])
        return self._pairs[key]

    def search(self, task: Task, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (similarities, rows) of up to `depth` neighbours, without those that are to be left out."""
        depth = min(depth, len(task.reference_label))
        groups = (None, None) if self.exclude == "none" else (task.query_group, task.reference_group)
        return self._search(task.query, task.reference, depth, *groups)

    def _groups(self, side: str) -> dict[str, np.ndarray]:
        return getattr(self, f"{side}_image" if self.exclude == "sample" else f"{side}_crop")

    def _stacked(self, reference_ids: Sequence[str], query_id: str) -> Task:
        return Task(
            self.queries[query_id].vectors,
            [block for r in reference_ids for block in self.references[r].blocks],
            self.query_label[query_id],
            np.concatenate([self.reference_label[r] for r in reference_ids]),
            self._groups("query")[query_id],
            np.concatenate([self._groups("reference")[r] for r in reference_ids]),
            self.query_image[query_id],
        )

    def _merged(self, combination: Combination) -> Task:
        (gallery, gallery_rows), (query, query_rows) = (
            self._gallery(combination.reference_ids),
            self._fuse("query", combination.query_ids),
        )
        r, q = combination.reference_ids[0], combination.query_ids[0]
        return Task(
            query.vectors,
            gallery.blocks,
            self.query_label[q][query_rows],
            self.reference_label[r][gallery_rows],
            self._groups("query")[q][query_rows],
            self._groups("reference")[r][gallery_rows],
            self.query_image[q][query_rows],
        )

    def tasks(self, combination: Combination) -> list[Task]:
        """Return the searches that the combination stands for: one a query set, or one for fused vectors."""
        refs, ids = combination.reference_ids, combination.query_ids
        if self.mode in ("mean", "concat"):
            return [self._merged(combination)]
        return [self._stacked(self._own(refs, q) if self.mode == "vote" else refs, q) for q in ids]

    def _gallery(self, reference_ids: tuple[str, ...]) -> tuple[EmbeddingSet, np.ndarray]:
        """Return the fused references and the row of each in the first set of `reference_ids`."""
        return self._fuse("reference", reference_ids)

    def _fuse(self, side: str, ids: tuple[str, ...]) -> tuple[EmbeddingSet, np.ndarray]:
        key = (side, *ids)
        if key not in self._fused:
            sets = [(self.references if side == "reference" else self.queries)[one] for one in ids]
            merged = (fusion.mean if self.mode == "mean" else fusion.concat)(sets)
            if not len(merged):
                raise UserError(f"the {side} sets {', '.join(ids)} have no crop in common; use --fusion stack")
            order = np.argsort(sets[0].crop_ids, kind="stable")
            rows = order[np.searchsorted(sets[0].crop_ids[order], merged.crop_ids)]
            if len(self._fused) >= 64:  # every set of queries is used with every set of references: keep many, not all
                self._fused.pop(next(iter(self._fused)))
            self._fused[key] = merged, rows
        return self._fused[key]

    def _ballots(self, reference_ids: Sequence[str], query_id: str) -> Decisions:
        """Return the decision of every view of one query set against the stacked references."""
        parts = [self._pair(r, query_id) for r in reference_ids]
        similarities, rows = parts[0] if len(parts) == 1 else knn.merge(parts, self.depth)
        view = list(self.queries).index(query_id)
        n = len(self.queries[query_id])
        return self._decide(query_id, np.full(n, view), np.arange(n), similarities, rows)

    def _decide(
        self, query_id: str, view: np.ndarray, row: np.ndarray, similarities: np.ndarray, rows: np.ndarray
    ) -> Decisions:
        labels = self._neighbour_label[rows]
        voted = (
            labels[:, 0] if self.k == 1 else knn.vote(similarities[:, : self.k], labels[:, : self.k], self.vote_weights)
        )
        crop, image, label = (codes[query_id][row] for codes in (self.query_crop, self.query_image, self.query_label))
        return Decisions(view, row, crop, image, label, labels[:, 0], voted, similarities, rows)

    def decide(self, combination: Combination) -> Decisions:
        """Return every decision of the combination. Raises UsageError where its mode cannot score it."""
        refs, ids = combination.reference_ids, combination.query_ids
        if not self.valid(combination):
            raise UsageError(f"--fusion {self.mode} cannot score {combination}: " + _REASON[self.mode])
        if self.mode == "stack":
            parts = [self._ballots(refs, q) for q in ids]
            width = min(part.similarities.shape[1] for part in parts)
            return (
                parts[0]
                if len(parts) == 1
                else Decisions(*(_joined(parts, name, width) for name in Decisions.__dataclass_fields__))
            )
        if self.mode == "vote":
            return self._pool([self._ballots(self._own(refs, q), q) for q in ids], ids)
        similarities, rows = self.search(self._merged(combination), self.depth)
        gallery_rows, query_rows = self._gallery(refs)[1], self._fuse("query", ids)[1]
        rows = np.where(rows < 0, -1, gallery_rows[rows] + self._offset[refs[0]])
        view = np.full(len(query_rows), list(self.queries).index(ids[0]))
        return self._decide(ids[0], view, query_rows, similarities, rows)

    def _pool(self, ballots: list[Decisions], ids: tuple[str, ...]) -> Decisions:
        """Return one decision per crop that all views hold: the majority of their ballots."""
        rows = fusion.common_crops([self.queries[q] for q in ids])
        if not rows.shape[1]:
            raise UserError(f"the query sets {', '.join(ids)} have no crop in common; use --fusion stack")
        similarity = np.stack([one.similarities[row, 0] for one, row in zip(ballots, rows, strict=True)])
        pooled = [
            fusion.majority(
                np.stack([getattr(one, name)[row] for one, row in zip(ballots, rows, strict=True)]), similarity
            )
            for name in ("nearest", "voted")
        ]
        first = ballots[0]
        kept = [getattr(first, name)[rows[0]] for name in ("view", "row", "crop", "image", "label")]
        # A label is among the first k of a pooled crop when one of its views has it there: interleave the views' lists by rank.
        width = min(one.neighbours.shape[1] for one in ballots)
        lists = [
            np.stack([getattr(one, name)[row, :width] for one, row in zip(ballots, rows, strict=True)], axis=2).reshape(
                rows.shape[1], -1
            )[:, :width]
            for name in ("similarities", "neighbours")
        ]
        return Decisions(*kept, *pooled, *lists)

    def tally(self, decisions: Decisions, reference_ids: Iterable[str]) -> Tally:
        """Return the totals of the decisions."""
        n_class, n_image = len(self.classes), len(self.images)
        known = np.zeros(n_class, bool)
        for r in reference_ids:
            known[self.reference_label[r]] = True
        right = np.stack([decisions.nearest == decisions.label, decisions.voted == decisions.label])
        hit = self._neighbour_label[decisions.neighbours[:, : max(metrics.RECALL_AT)]] == decisions.label[:, None]
        recalled = np.array([right[0].sum() if k == 1 else hit[:, :k].any(axis=1).sum() for k in metrics.RECALL_AT])
        image_right = np.stack([np.bincount(decisions.image, one, minlength=n_image) for one in right])
        return Tally(
            n=len(decisions),
            n_unknown=int((~known[decisions.label]).sum()),
            right=right.sum(axis=1),
            recalled=recalled,
            image_right=image_right,
            image_size=np.bincount(decisions.image, minlength=n_image).astype(float),
            matched_right=np.bincount(decisions.image, right[1] & self.matched[decisions.crop], minlength=n_image),
            class_right=np.bincount(decisions.label[right[1]], minlength=n_class),
            class_predicted=np.bincount(decisions.voted[decisions.voted >= 0], minlength=n_class),
            class_size=np.bincount(decisions.label, minlength=n_class),
        )

    def tallies(self, combinations: Sequence[Combination]) -> Iterator[tuple[int, Tally]]:
        """Yield (index, totals) of every combination, those with the same references one after the other."""
        order = sorted(range(len(combinations)), key=lambda at: combinations[at].reference_ids)
        for refs, group in itertools.groupby(order, key=lambda at: combinations[at].reference_ids):
            single: dict[str, Tally] = {}
            for at in group:
                if self.mode != "stack":
                    yield at, self.tally(self.decide(combinations[at]), refs)
                    continue
                for q in combinations[at].query_ids:
                    if q not in single:
                        single[q] = self.tally(self._ballots(refs, q), refs)
                first, *rest = (single[q] for q in combinations[at].query_ids)
                yield at, sum(rest, start=first)


_REASON = {
    "concat": "it needs the same IDs on both sides; use --pairing matched",
    "vote": "a query set has no references of its own model",
}


def _joined(parts: list[Decisions], name: str, width: int) -> np.ndarray:
    arrays = [getattr(part, name) for part in parts]
    return np.concatenate([array[:, :width] for array in arrays] if arrays[0].ndim == 2 else arrays)


def remarks(evaluator: Evaluator) -> list[str]:
    """Return one sentence for each thing about the sets that bears on how far the numbers can be trusted."""
    found = []
    foreign = [
        one.source for one in (*evaluator.references.values(), *evaluator.queries.values()) if not one.fingerprint
    ]
    if foreign:
        found.append(
            f"{len(foreign)} files do not say which model made them ({foreign[0]} …); they are compared unchecked"
        )
    if evaluator.without_samples:
        found.append("no sample_ids: every crop counts as an image of its own, intervals may be too narrow")
    if evaluator.exclude == "none" and evaluator.shared_images:
        found.append(
            f"{evaluator.shared_images:,} source images have crops among references and queries: leakage; "
            "add --exclude_same_sample, or split by image"
        )
    return found
