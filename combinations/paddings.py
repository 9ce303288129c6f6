"""Every ID with its own references against the least padding: does padding cost accuracy, and by how much?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from classifiers.recipes import NEAREST, Recipe
from combinations.search import enumerate_combinations, named_combination, same_id_pairs
from common.embeddings import EmbeddingSet
from common.messages import UsageError
from evaluation.codes import CodedSets
from evaluation.evaluator import Evaluator, cost
from evaluation.learning import with_classifiers
from evaluation.records import Combination, Tally
from uncertainty import comparisons, intervals
from uncertainty.datasets import Pooled, pooled_difference

NORMAL = 1.96  # standard errors in half of a 95% interval


@dataclass(frozen=True)
class PairedRow:
    """One ID, references and queries alike, or one classifier; shares in 0..1. Accuracy with its 95% interval, over all decisions.

    `difference` from the first row, with its 95% interval, is over the crops that every query set holds; `p` is two-sided and
    corrected over all rows. The first row, and rows without common crops, have NaN. kept_rows: rows that a query is compared with.
    """

    combination: Combination
    kept_rows: int
    accuracy: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    p: float

    @property
    def id(self) -> str:
        return self.combination.query_ids[0]

    @property
    def score(self) -> float:
        """What a Result calls so: what is drawn."""
        return self.accuracy


def least_padding(coded: CodedSets, pairs: Sequence[Combination]) -> Combination:
    """Return the pair that the others are asked to beat: the same ID on both sides, the lowest number, else the first given."""

    def distance(pair: Combination) -> tuple[bool, float, float]:
        return (
            not pair.matched,
            _padding(coded.queries[pair.query_ids[0]]),
            _padding(coded.references[pair.reference_ids[0]]),
        )

    return min(pairs, key=distance)


def are_paddings(coded: CodedSets) -> bool:
    """Whether the IDs of all query sets are paddings: numbers, or numbers followed by an input size or a pooling."""
    return all(_is_padding(q) for q in coded.queries.values())


def _is_padding(embedding_set: EmbeddingSet) -> bool:
    padding = str(embedding_set.meta.get("padding") or "")
    variant = embedding_set.is_variant and embedding_set.id.startswith((f"{padding}@", f"{padding}-"))
    return math.isfinite(_number(padding if variant else embedding_set.id))


def _padding(embedding_set: EmbeddingSet) -> float:
    """Return the padding of a set: its ID where that is a number, else what its file says."""
    number = _number(embedding_set.id)
    return number if math.isfinite(number) else _number(str(embedding_set.meta.get("padding") or ""))


def starting_pair(evaluator: Evaluator, baseline: str | None) -> Combination:
    """Return the pair that classifiers are chosen on: the named baseline, where that is one, or the pair of least padding."""
    coded = evaluator.coded
    named = named_combination(coded, baseline) if baseline else None
    if named and named.is_pair:
        return named
    pairs = enumerate_combinations(list(coded.references), list(coded.queries), 1, 1, "crossed")
    if not (valid := [pair for pair in pairs if evaluator.valid(pair)]):
        raise UsageError("no query set has references of its own model; add files, or see --reference_split")
    return least_padding(coded, valid)


def padding_rows(evaluator: Evaluator, recipe: Recipe = NEAREST, *, seed: int = 0) -> list[PairedRow]:
    """Return one row an ID that has references and queries, the least padding first: numbers rising, else in the order given."""
    pairs = same_id_pairs(evaluator, recipe)
    return paired_rows(evaluator, [pairs[one] for one in sorted(pairs, key=_number)], seed=seed)


def classifier_rows(
    evaluator: Evaluator, combination: Combination, recipes: Sequence[Recipe], *, seed: int = 0
) -> list[PairedRow]:
    """Return one row a classifier, all deciding the same combination; none where there is a single one."""
    combinations = with_classifiers([combination], recipes)
    return paired_rows(evaluator, combinations, seed=seed) if len(combinations) > 1 else []


def paired_rows(evaluator: Evaluator, combinations: Sequence[Combination], *, seed: int = 0) -> list[PairedRow]:
    """Return one row a combination, each compared with the first."""
    if not combinations:
        return []
    tallied = _tallies(evaluator, combinations)
    right, sizes = (np.stack(found) for found in zip(*((t.image_right[1], t.image_size) for t in tallied), strict=True))
    low, high = intervals.accuracy_intervals(right, sizes)
    gaps = np.full((len(combinations), 4), np.nan)
    size = evaluator.coded.matched_sizes
    if size.any() and len(combinations) > 1:
        matched = np.stack([tally.matched_right for tally in tallied])
        paired = comparisons.paired_comparison(matched[1:] - matched[0], size, baseline=matched[0], seed=seed)
        gaps[1:] = np.stack([paired.difference, paired.low, paired.high, paired.p], axis=1)
    kept = [cost(evaluator, combination).gallery_rows for combination in combinations]
    return [
        PairedRow(one, kept[at], tallied[at].accuracy, float(low[at]), float(high[at]), *gaps[at].tolist())
        for at, one in enumerate(combinations)
    ]


def _tallies(evaluator: Evaluator, combinations: Sequence[Combination]) -> list[Tally]:
    found = dict(evaluator.tallies(combinations))
    return [found[at] for at in range(len(combinations))]


def _number(text: str) -> float:
    """Return the number that an ID is; IDs that are none come last, in the order given."""
    try:
        value = float(text)
    except ValueError:
        return math.inf
    return value if math.isfinite(value) else math.inf


def paddings_across(evaluators: Mapping[str, Evaluator], *, seed: int = 0) -> dict[str, Pooled]:
    """Return, for each ID that all data sets (models, seeds) share, its difference from the least shared padding, pooled.

    `evaluators`: one a data set, by name. Random effects over data sets; see uncertainty.datasets.pooled_difference. The variance
    of a data set's difference is that of its interval, so that a set in which no crop flips does not pass for certain.
    """
    tables = [{row.id: row for row in padding_rows(one, seed=seed)} for one in evaluators.values()]
    shared = [identity for identity in tables[0] if all(identity in table for table in tables)] if tables else []
    pooled = pooled_gaps(evaluators, [Combination((identity,), (identity,)) for identity in shared])
    return {pair.query_ids[0]: gap for pair, gap in pooled.items()}


def pooled_gaps(evaluators: Mapping[str, Evaluator], combinations: Sequence[Combination]) -> dict[Combination, Pooled]:
    """Return for each combination but the first its difference from that, pooled over data sets as in `paddings_across`.

    Data sets whose query sets have no crop in common are left out; combinations are missing where that leaves none.
    """
    found: dict[Combination, list[tuple[float, float]]] = {combination: [] for combination in combinations[1:]}
    for one in evaluators.values():
        size = one.coded.matched_sizes
        if not size.any() or len(combinations) < 2:
            continue
        views = [len(each.query_ids) if one.rule.fusion == "stack" else 1 for each in combinations]
        tallied = zip(_tallies(one, combinations), views, strict=True)
        totals = np.stack([tally.matched_right / n for tally, n in tallied])
        gap = totals[1:] - totals[0]
        low, high = intervals.difference_intervals(gap, size)
        variance = ((high - low) / (2 * NORMAL)) ** 2
        for combination, mean, spread in zip(combinations[1:], gap.sum(axis=1) / size.sum(), variance, strict=True):
            found[combination].append((float(mean), float(spread)))
    return {combination: pooled_difference(*zip(*rows, strict=True)) for combination, rows in found.items() if rows}
