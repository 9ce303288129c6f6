"""Deciding combinations of embedding sets exactly: each pair of sets is searched once, combinations merge top-k lists.

So the cost grows with the pairs, not with the combinations. What a combination scores is kept as totals per image and per class
(`Tally`), which add up over the query sets that are stacked. No function reads a file or prints.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from classifiers.recipes import NEAREST, Classifier, Recipe, decisions_of
from common import knn
from common.embeddings import EmbeddingSet
from common.messages import UsageError, UserError
from evaluation import fusion, metrics
from evaluation.codes import CodedSets, Codes, check
from evaluation.records import Combination, Cost, Decisions, Rule, Tally
from uncertainty.scores import close_calls

KEPT = 64  # fused sets and rows in common in memory: every set of queries is used with every set of references
FITTED = 4  # fitted classifiers in memory, each of which may hold all its references
IMPOSSIBLE = {
    "concat": "it needs the same IDs on both sides; use --pairing matched",
    "stack": "its sets are of several input sizes or poolings",
    "mean": "its sets are of several input sizes or poolings",
    "vote": "a query set has no references of its own model, no query set uses some references, or no crop is in all",
}


@dataclass(frozen=True, eq=False)
class Task:
    """One search: query (n, dim), references as blocks, and the codes of their rows.

    query_group and reference_group: codes of what must not be a query's neighbour, its crop or its image.
    """

    query: np.ndarray
    reference: list[np.ndarray]
    query_label: np.ndarray
    reference_label: np.ndarray
    query_group: np.ndarray
    reference_group: np.ndarray
    query_image: np.ndarray


@dataclass(frozen=True, eq=False)
class Fused:
    """The merged vectors of several sets, and the row of each merged crop in the first of them."""

    merged: EmbeddingSet
    rows: np.ndarray


class Evaluator:
    """Decides combinations of coded sets by one rule, and remembers what it has searched."""

    def __init__(
        self, coded: CodedSets, rule: Rule, search: Callable[..., knn.Neighbours] = knn.search_excluding
    ) -> None:
        """`search` takes what knn.search_excluding takes and gives the same, as ray_cluster.tasks.search does.

        Raises UserError for sets of different dimension or model and for k larger than a reference set.
        """
        check(coded, rule)
        self.coded, self.rule, self.depth = coded, rule, max(rule.k, *metrics.RECALL_AT)
        self._search = search
        self._pairs: dict[tuple[str, str], knn.Neighbours] = {}
        self._fused: dict[tuple[str, ...], Fused] = {}
        self._common: dict[tuple[str, ...], np.ndarray] = {}
        self._fitted: dict[tuple[Recipe, tuple[str, ...]], Classifier] = {}
        self.kept_rows: dict[tuple[Recipe, tuple[str, ...]], int] = {}
        self.given: dict[tuple[Recipe, tuple[str, ...], tuple[str, ...]], np.ndarray] = {}

    def valid(self, combination: Combination) -> bool:
        """Whether the combination can be decided.

        Under `vote` each view needs references of its own model, each reference set a view that uses it, and the views a crop.
        Another input size or pooling is another model here: under `stack` and `mean` all sets must be alike.
        """
        if self.rule.fusion == "concat":
            return combination.matched
        if self.rule.fusion != "vote":
            sets = [self.coded.references[r] for r in combination.reference_ids]
            sets += [self.coded.queries[q] for q in combination.query_ids]
            return len({one.fingerprint for one in sets} - {""}) <= 1
        searched = [self.references_of(combination, q) for q in combination.query_ids]
        used = set(itertools.chain(*searched))
        return (
            all(searched)
            and len(used) == len(combination.reference_ids)
            and bool(self.common_rows(combination.query_ids).size)
        )

    def common_rows(self, query_ids: tuple[str, ...]) -> np.ndarray:
        """Return (n_set, n_crop) int64 rows of the crops that all these query sets hold, in the order of the first.

        Raises UserError where one of several sets holds a crop twice.
        """
        if query_ids not in self._common:
            codes = {q: self.coded.query_codes[q].crop for q in query_ids}
            for q, crop in codes.items() if len(query_ids) > 1 else ():
                if (twice := np.bincount(crop) > 1).any():
                    name = self.coded.crops[twice.argmax()]
                    source = self.coded.queries[q].source
                    raise UserError(f"{source} holds the crop {str(name)!r} twice; use --fusion stack, or extract anew")
            _forget_first(self._common, KEPT)
            self._common[query_ids] = _rows_of_common(list(codes.values()), len(self.coded.crops))
        return self._common[query_ids]

    def references_of(self, combination: Combination, query_id: str) -> tuple[str, ...]:
        """Return the combination's references that a query set is searched in: under `vote` those of its own model."""
        model = self.coded.queries[query_id].fingerprint
        if self.rule.fusion != "vote" or not model:
            return combination.reference_ids
        return tuple(r for r in combination.reference_ids if self.coded.references[r].fingerprint in ("", model))

    def search(self, task: Task, depth: int) -> knn.Neighbours:
        """Return (similarities, rows) of up to `depth` neighbours, without those that are to be left out."""
        groups = (None, None) if self.rule.exclude == "none" else (task.query_group, task.reference_group)
        return self._search(task.query, task.reference, min(depth, len(task.reference_label)), *groups)

    def tasks(self, combination: Combination) -> list[Task]:
        """Return the searches that the combination stands for: one a query set, or one for fused vectors."""
        if self.rule.fusion in ("mean", "concat"):
            return [_fused_task(self, combination)]
        return [_task(self, self.references_of(combination, q), q) for q in combination.query_ids]

    def fused(self, side: str, ids: tuple[str, ...]) -> Fused:
        """Return the sets of one side, `reference` or `query`, merged into one row per crop that all of them hold."""
        key = (side, *ids)
        if key not in self._fused:
            by_id = self.coded.references if side == "reference" else self.coded.queries
            sets = [by_id[name] for name in ids]
            merged = (fusion.mean if self.rule.fusion == "mean" else fusion.concat)(sets)
            if not len(merged):
                raise UserError(f"the {side} sets {', '.join(ids)} have no crop in common; use --fusion stack")
            order = np.argsort(sets[0].crop_ids, kind="stable")
            rows = order[np.searchsorted(sets[0].crop_ids[order], merged.crop_ids)]
            _forget_first(self._fused, KEPT)
            self._fused[key] = Fused(merged, rows)
        return self._fused[key]

    def neighbours(self, reference_ids: Sequence[str], query_id: str) -> knn.Neighbours:
        """Return the top neighbours of one query set among reference sets, their rows counted over all references."""
        for r in reference_ids:
            if (r, query_id) not in self._pairs:
                similarities, rows = self.search(_task(self, [r], query_id), self.depth)
                self._pairs[r, query_id] = similarities, np.where(rows < 0, -1, rows + self.coded.starts[r])
        parts = [self._pairs[r, query_id] for r in reference_ids]
        return parts[0] if len(parts) == 1 else knn.merge(parts, self.depth)

    def fitted(self, recipe: Recipe, reference_ids: tuple[str, ...]) -> Classifier:
        """Return the classifier of these references, merged as the rule says."""
        key = recipe, reference_ids
        if key not in self._fitted:
            _forget_first(self._fitted, FITTED)
            self._fitted[key] = recipe.fit(*_reference_rows(self, reference_ids), len(self.coded.classes))
            self.kept_rows[key] = self._fitted[key].rows
        return self._fitted[key]

    def decide(self, combination: Combination) -> Decisions:
        """Return every decision of the combination. Raises UsageError where its fusion mode cannot score it."""
        if not self.valid(combination):
            mode = self.rule.fusion
            raise UsageError(f"--fusion {mode} cannot score {combination}: {IMPOSSIBLE[mode]}")
        classifier = combination.classifier
        if self.rule.fusion in ("mean", "concat"):
            return _classified(
                self,
                _decide_fused(self, combination),
                classifier,
                combination.reference_ids,
                combination.query_ids,
            )
        views = [decide_view(self, self.references_of(combination, q), q, classifier) for q in combination.query_ids]
        if len(views) == 1:
            return views[0]
        return (
            _pool_views(views, self.common_rows(combination.query_ids))
            if self.rule.fusion == "vote"
            else _stack_views(views)
        )

    def tallies(self, combinations: Sequence[Combination]) -> Iterator[tuple[int, Tally]]:
        """Yield (index, totals) of every combination, those with the same references one after the other."""

        def decided_by(index: int) -> tuple[tuple[str, ...], str]:
            return combinations[index].reference_ids, str(combinations[index].classifier)

        for (reference_ids, _), group in itertools.groupby(
            sorted(range(len(combinations)), key=decided_by), decided_by
        ):
            if self.rule.fusion != "stack":
                for index in group:
                    yield index, tally(self.coded, self.decide(combinations[index]), reference_ids)
                continue
            by_query: dict[str, Tally] = {}
            for index in group:
                query_ids, classifier = combinations[index].query_ids, combinations[index].classifier
                for q in query_ids:
                    if q not in by_query:
                        by_query[q] = tally(self.coded, decide_view(self, reference_ids, q, classifier), reference_ids)
                yield index, sum((by_query[q] for q in query_ids[1:]), start=by_query[query_ids[0]])


def cost(evaluator: Evaluator, combination: Combination) -> Cost:
    """Return what one decision of the combination costs."""
    if not combination.is_plain:
        return _cost_of_classifier(evaluator, combination)
    if evaluator.rule.fusion in ("mean", "concat"):
        n_rows, dim = evaluator.fused("reference", combination.reference_ids).merged.vectors.shape
        return Cost(len(combination.query_ids), n_rows, n_rows * dim)
    references = evaluator.coded.references
    operations = {r: len(references[r]) * references[r].dim for r in combination.reference_ids}
    n_rows = sum(len(references[r]) for r in combination.reference_ids)
    if evaluator.rule.fusion == "stack":
        return Cost(1, n_rows, sum(operations.values()))
    searched = [r for q in combination.query_ids for r in evaluator.references_of(combination, q)]
    return Cost(len(combination.query_ids), n_rows, sum(operations[r] for r in searched))


def _cost_of_classifier(evaluator: Evaluator, combination: Combination) -> Cost:
    """Return the cost where a classifier decides: the rows that it keeps, for each model once, with which views are compared."""
    if evaluator.rule.fusion in ("mean", "concat"):
        of_views = [combination.reference_ids]
        dims = [evaluator.fused("reference", combination.reference_ids).merged.dim]
    else:
        queries = combination.query_ids if evaluator.rule.fusion == "vote" else combination.query_ids[:1]
        of_views = [evaluator.references_of(combination, q) for q in queries]
        dims = [evaluator.coded.queries[q].dim for q in queries]
    kept = {ids: _kept_rows(evaluator, combination.classifier, ids) for ids in of_views}
    passes = 1 if evaluator.rule.fusion == "stack" else len(combination.query_ids)
    operations = sum(kept[ids] * dim for ids, dim in zip(of_views, dims, strict=True))
    return Cost(passes, sum(kept.values()), operations)


def _kept_rows(evaluator: Evaluator, recipe: Recipe, reference_ids: tuple[str, ...]) -> int:
    """Return how many rows the classifier of these references keeps, also where it is no longer in memory."""
    known = evaluator.kept_rows.get((recipe, reference_ids))
    return evaluator.fitted(recipe, reference_ids).rows if known is None else known


def _given(
    evaluator: Evaluator, recipe: Recipe, reference_ids: tuple[str, ...], query_ids: tuple[str, ...]
) -> np.ndarray:
    """Return (n,) the labels that the classifier of these references gives to one query set, or to merged ones."""
    key = recipe, reference_ids, query_ids
    if key not in evaluator.given:
        fused = evaluator.rule.fusion in ("mean", "concat")
        queries = evaluator.fused("query", query_ids).merged if fused else evaluator.coded.queries[query_ids[0]]
        _forget_first(evaluator.given, KEPT)
        evaluator.given[key] = decisions_of(evaluator.fitted(recipe, reference_ids), queries.vectors)
    return evaluator.given[key]


def _forget_first(kept: dict, limit: int) -> None:
    """Make room for one more."""
    if len(kept) >= limit:
        kept.pop(next(iter(kept)))


def _reference_rows(evaluator: Evaluator, ids: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (n, dim) and label codes (n,) of references, merged as the rule says."""
    codes = evaluator.coded.reference_codes
    if evaluator.rule.fusion in ("mean", "concat"):
        fused = evaluator.fused("reference", ids)
        return fused.merged.vectors, codes[ids[0]].label[fused.rows]
    blocks = [np.asarray(block) for r in ids for block in evaluator.coded.references[r].blocks]
    return np.concatenate(blocks), np.concatenate([codes[r].label for r in ids])


def _group(rule: Rule, codes: Codes) -> np.ndarray:
    return codes.photo if rule.exclude == "sample" else codes.crop


def _task(evaluator: Evaluator, reference_ids: Sequence[str], query_id: str) -> Task:
    references = [evaluator.coded.references[r] for r in reference_ids]
    reference_codes = [evaluator.coded.reference_codes[r] for r in reference_ids]
    query_codes = evaluator.coded.query_codes[query_id]
    return Task(
        query=evaluator.coded.queries[query_id].vectors,
        reference=[block for reference in references for block in reference.blocks],
        query_label=query_codes.label,
        reference_label=np.concatenate([codes.label for codes in reference_codes]),
        query_group=_group(evaluator.rule, query_codes),
        reference_group=np.concatenate([_group(evaluator.rule, codes) for codes in reference_codes]),
        query_image=query_codes.image,
    )


def _fused_task(evaluator: Evaluator, combination: Combination) -> Task:
    reference = evaluator.fused("reference", combination.reference_ids)
    query = evaluator.fused("query", combination.query_ids)
    reference_codes = evaluator.coded.reference_codes[combination.reference_ids[0]]
    query_codes = evaluator.coded.query_codes[combination.query_ids[0]]
    return Task(
        query=query.merged.vectors,
        reference=reference.merged.blocks,
        query_label=query_codes.label[query.rows],
        reference_label=reference_codes.label[reference.rows],
        query_group=_group(evaluator.rule, query_codes)[query.rows],
        reference_group=_group(evaluator.rule, reference_codes)[reference.rows],
        query_image=query_codes.image[query.rows],
    )


def decide_view(
    evaluator: Evaluator, reference_ids: tuple[str, ...], query_id: str, classifier: Recipe = NEAREST
) -> Decisions:
    """Return the decision of every row of one query set against the merged references."""
    rows = np.arange(len(evaluator.coded.queries[query_id]))
    decisions = _decide(evaluator, query_id, rows, *evaluator.neighbours(reference_ids, query_id))
    return _classified(evaluator, decisions, classifier, reference_ids, (query_id,))


def _classified(
    evaluator: Evaluator,
    decisions: Decisions,
    classifier: Recipe,
    reference_ids: tuple[str, ...],
    query_ids: tuple[str, ...],
) -> Decisions:
    """Return the decisions with the labels that the classifier gives, where it is not the neighbours that decide."""
    if classifier.kind == "nearest":
        return decisions
    if evaluator.rule.exclude != "none":
        raise UsageError(
            "--classifier learns from all references and leaves none out: go without --exclude_self, --exclude_same_sample"
        )
    voted = _given(evaluator, classifier, reference_ids, query_ids)
    return replace(decisions, voted=voted, close=np.zeros(len(decisions), bool))


def _decide(
    evaluator: Evaluator, query_id: str, query_rows: np.ndarray, similarities: np.ndarray, neighbours: np.ndarray
) -> Decisions:
    coded, k = evaluator.coded, evaluator.rule.k
    labels = coded.neighbour_label[neighbours]
    nearest = labels[:, 0]
    voted = nearest if k == 1 else knn.vote(similarities[:, :k], labels[:, :k], evaluator.rule.vote_weights)
    view = np.full(len(query_rows), list(coded.queries).index(query_id))
    codes = coded.query_codes[query_id]
    query_codes = codes.crop[query_rows], codes.image[query_rows], codes.label[query_rows]
    close = close_calls(similarities, labels)
    return Decisions(view, query_rows, *query_codes, nearest, voted, similarities, neighbours, close)


def _decide_fused(evaluator: Evaluator, combination: Combination) -> Decisions:
    similarities, rows = evaluator.search(evaluator.tasks(combination)[0], evaluator.depth)
    first_reference, first_query = combination.reference_ids[0], combination.query_ids[0]
    reference_rows = evaluator.fused("reference", combination.reference_ids).rows
    query_rows = evaluator.fused("query", combination.query_ids).rows
    neighbours = np.where(rows < 0, -1, reference_rows[rows] + evaluator.coded.starts[first_reference])
    return _decide(evaluator, first_query, query_rows, similarities, neighbours)


def _stack_views(views: Sequence[Decisions]) -> Decisions:
    """Return the decisions of all views one after the other, which have the same references and so as many neighbours."""
    return Decisions(
        **{one.name: np.concatenate([getattr(view, one.name) for view in views]) for one in fields(Decisions)}
    )


def _rows_of_common(codes: Sequence[np.ndarray], n_crop: int) -> np.ndarray:
    """Return (n_set, n_common) int64 rows of the codes that all sets hold, in the order of the first."""
    row_of = np.full((len(codes), n_crop), -1)
    for place, crop in zip(row_of, codes, strict=True):
        place[crop] = np.arange(len(crop))
    return row_of[:, codes[0][(row_of[:, codes[0]] >= 0).all(axis=0)]]


def _pool_views(views: Sequence[Decisions], rows: np.ndarray) -> Decisions:
    """Return one decision per crop, the majority of its views; `rows` (n_set, n_crop) are its rows in each set's decisions."""
    width = min(view.neighbours.shape[1] for view in views)
    similarities = np.stack([view.similarities[row, :width] for view, row in zip(views, rows, strict=True)], axis=2)
    neighbours = np.stack([view.neighbours[row, :width] for view, row in zip(views, rows, strict=True)], axis=2)
    nearest, voted = (
        fusion.majority(
            np.stack([getattr(view, name)[row] for view, row in zip(views, rows, strict=True)]), similarities[:, 0].T
        )
        for name in ("nearest", "voted")
    )
    # A label is among the first k of a pooled crop when one of its views has it there: interleave the views' lists by rank.
    similarities, neighbours = (lists.reshape(rows.shape[1], -1)[:, :width] for lists in (similarities, neighbours))
    first, row = views[0], rows[0]
    codes = first.crop[row], first.image[row], first.label[row]
    close = np.any([view.close[row] for view, row in zip(views, rows, strict=True)], axis=0)
    return Decisions(first.view[row], first.row[row], *codes, nearest, voted, similarities, neighbours, close)


def tally(coded: CodedSets, decisions: Decisions, reference_ids: Iterable[str]) -> Tally:
    """Return the totals of the decisions, which were made against these references."""
    n_class, n_image = len(coded.classes), len(coded.images)
    known = np.zeros(n_class, bool)
    for r in reference_ids:
        known[coded.reference_codes[r].label] = True
    right = np.stack([decisions.nearest == decisions.label, decisions.right])
    hits = coded.neighbour_label[decisions.neighbours[:, : max(metrics.RECALL_AT)]] == decisions.label[:, None]
    recalled = np.stack([right[0] if k == 1 else hits[:, :k].any(axis=1) for k in metrics.RECALL_AT])
    return Tally(
        n=len(decisions),
        n_unknown=int((~known[decisions.label]).sum()),
        right=right.sum(axis=1),
        n_close=int(decisions.close.sum()),
        recalled=recalled.sum(axis=1),
        image_recalled=np.stack([np.bincount(decisions.image, row, minlength=n_image) for row in recalled]),
        image_right=np.stack([np.bincount(decisions.image, row, minlength=n_image) for row in right]),
        image_size=np.bincount(decisions.image, minlength=n_image).astype(float),
        matched_right=np.bincount(decisions.image, right[1] & coded.matched[decisions.crop], minlength=n_image),
        class_right=np.bincount(decisions.label[right[1]], minlength=n_class),
        class_predicted=np.bincount(decisions.voted[decisions.voted >= 0], minlength=n_class),
        class_size=np.bincount(decisions.label, minlength=n_class),
    )
