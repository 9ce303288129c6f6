"""The most telling flips with their pictures: what was near a crop before, and what is near it now."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from combinations import flips
from common import files, images
from common.embeddings import EmbeddingSet
from evaluation.evaluator import Evaluator
from evaluation.records import Combination, Decisions

CARDS = 12
VIEWS, NEIGHBOURS = 6, 3  # pictures in a row
DECISIONS = 3  # rows of neighbours on a card, before and now
PIXELS, QUALITY = 112, 80
BUDGET = 2_000_000  # characters of pictures on one page
_KINDS = {"rescued": flips.FLIPS.index("rescued"), "broken": flips.FLIPS.index("broken")}


@dataclass(frozen=True)
class Picture:
    """A view of a crop or a reference; `uri` is empty where there is no picture of `file`, for the `reason`.

    `right`: whether the view is right alone, or the reference has the crop's label; None where that is not known.
    """

    file: str
    uri: str
    reason: str
    set_id: str
    label: str
    right: bool | None
    similarity: float | None = None


@dataclass(frozen=True)
class Row:
    """One decision: the query set it comes from, the label it gives, and the nearest references."""

    query_id: str
    label: str
    right: bool
    neighbours: list[Picture]


@dataclass(frozen=True)
class Card:
    """A crop that flips: its picture at each ID, the decisions before and now, and how many of these are not shown."""

    kind: str
    label: str
    crop: str
    views: list[Picture]
    before: list[Row]
    now: list[Row]
    hidden: int


class Album:
    """Reads small pictures as data URIs, each file once, until the page is full."""

    def __init__(self) -> None:
        self._read: dict[str, bytes | str] = {}
        self._left = BUDGET

    def show(self, file: str) -> tuple[str, str, str]:
        """Return (file, uri, reason); either of the last two is empty."""
        if file not in self._read:
            self._read[file] = next(images.jpegs([file], PIXELS, QUALITY))
        content = self._read[file]
        if isinstance(content, str):
            return file, "", content
        uri = "data:image/jpeg;base64," + base64.b64encode(content).decode()
        if len(uri) > self._left:
            return file, "", "left out, the page is full"
        self._left -= len(uri)
        return file, uri, ""


def cards(evaluator: Evaluator, before: Combination, now: Combination, change: flips.Flips) -> list[Card]:
    """Return up to CARDS crops that `now` rescues and breaks against `before`, half of each where there are enough.

    First come the crops whose similarities moved most (see `swing`), one of every class before a second of any.
    """
    decided = evaluator.decide(before), evaluator.decide(now)
    crops = {kind: change.crop[change.flip == code] for kind, code in _KINDS.items()}
    moved = swing(evaluator, *decided)
    ordered = {kind: _spread(moved[crop], evaluator.crop_label[crop], crop) for kind, crop in crops.items()}
    half = CARDS // 2
    n_rescued = max(half, CARDS - len(ordered["broken"]))
    chosen = {"rescued": ordered["rescued"][:n_rescued]}
    chosen["broken"] = ordered["broken"][: CARDS - len(chosen["rescued"])]
    alone = {one: _alone(evaluator, one) for one in _shown_sets(evaluator, before, now)}
    album = Album()
    return [
        _card(evaluator, album, kind, crop, decided, alone, (before, now))
        for kind, crops_of in chosen.items()
        for crop in crops_of
    ]


def swing(evaluator: Evaluator, before: Decisions, now: Decisions) -> np.ndarray:
    """Return (n_crop,) float64 over all crop codes: how far the margin moved, without sign; 0 where a crop is not decided.

    The margin is the similarity of the nearest reference with the crop's label minus that of the nearest with another; where one
    of these is not among the neighbours found, the least similar neighbour stands in. Several decisions of a crop are averaged.
    """
    return np.abs(np.nan_to_num(_margins(evaluator, now) - _margins(evaluator, before)))


def _margins(evaluator: Evaluator, decisions: Decisions) -> np.ndarray:
    label_of = np.concatenate([*evaluator.reference_label.values(), [-1]])
    there = decisions.neighbours >= 0
    right = label_of[decisions.neighbours] == decisions.label[:, None]
    lowest = np.where(there, decisions.similarities, np.inf).min(axis=1, initial=np.inf)
    ours, others = (
        np.maximum(np.where(there & which, decisions.similarities, -np.inf).max(axis=1, initial=-np.inf), lowest)
        for which in (right, ~right)
    )
    n = len(evaluator.crops)
    with np.errstate(invalid="ignore"):
        return np.bincount(decisions.crop, ours - others, minlength=n) / np.bincount(decisions.crop, minlength=n)


def _spread(moved: np.ndarray, label: np.ndarray, crop: np.ndarray) -> list[int]:
    """Return the crops by falling swing, but every class once before any comes twice."""
    order = np.argsort(-moved, kind="stable")
    seen: dict[int, int] = {}
    turns = []
    for at in order:
        seen[label[at]] = seen.get(label[at], 0) + 1
        turns.append(seen[label[at]])
    return [int(crop[order[at]]) for at in np.argsort(turns, kind="stable")]


def _shown_sets(evaluator: Evaluator, *combinations: Combination) -> list[str]:
    used = {one for combination in combinations for one in combination.query_ids}
    kept = sorted(evaluator.queries, key=lambda one: one not in used)[:VIEWS]
    return [one for one in evaluator.queries if one in kept]


def _alone(evaluator: Evaluator, one: str) -> np.ndarray | None:
    """Return (n_crop,) the share of right decisions with the ID's own references, or None where these are missing."""
    pair = Combination((one,), (one,))
    if one not in evaluator.references or not evaluator.valid(pair):
        return None
    return flips.crop_scores(evaluator, evaluator.decide(pair))


def _card(
    evaluator: Evaluator,
    album: Album,
    kind: str,
    crop: int,
    decided: tuple[Decisions, Decisions],
    alone: dict[str, np.ndarray | None],
    combinations: tuple[Combination, Combination],
) -> Card:
    label = str(evaluator.classes[evaluator.crop_label[crop]])
    views = []
    for one, scores in alone.items():
        row = int(np.flatnonzero(evaluator.query_crop[one] == crop)[0])
        right = None if scores is None or np.isnan(scores[crop]) else bool(scores[crop] > 0.5)
        views.append(Picture(*album.show(_file(evaluator.queries[one], row)), one, label, right))
    rows = [
        list(_rows(evaluator, album, decisions, crop, combination))
        for decisions, combination in zip(decided, combinations, strict=True)
    ]
    hidden = sum(max(0, len(one) - DECISIONS) for one in rows)
    name = str(evaluator.crops[crop]).split("/", 2)[-1]
    return Card(kind, label, name, views, rows[0][:DECISIONS], rows[1][:DECISIONS], hidden)


def _rows(
    evaluator: Evaluator, album: Album, decisions: Decisions, crop: int, combination: Combination
) -> Iterator[Row]:
    queries = list(evaluator.queries)
    pooled = evaluator.mode != "stack"
    for at in np.flatnonzero(decisions.crop == crop):
        label = decisions.label[at]
        found = zip(decisions.neighbours[at, :NEIGHBOURS], decisions.similarities[at, :NEIGHBOURS], strict=True)
        yield Row(
            query_id="+".join(combination.query_ids) if pooled else queries[decisions.view[at]],
            label=_name(evaluator, decisions.voted[at]),
            right=bool(decisions.voted[at] == label),
            neighbours=[
                _reference(evaluator, album, row, label, similarity, combination)
                for row, similarity in found
                if row >= 0
            ],
        )


def _name(evaluator: Evaluator, label: int) -> str:
    return str(evaluator.classes[label]) if label >= 0 else "no label"


def _reference(
    evaluator: Evaluator, album: Album, row: int, label: int, similarity: float, combination: Combination
) -> Picture:
    """Return the reference in `row`, counted over all reference sets in their order."""
    starts = np.cumsum([0, *map(len, evaluator.references.values())])
    at = int(np.searchsorted(starts, row, side="right")) - 1
    one, references = list(evaluator.references.items())[at]
    row -= starts[at]
    found = evaluator.reference_label[one][row]
    set_id = "+".join(combination.reference_ids) if evaluator.mode in ("mean", "concat") else one
    shown = album.show(_file(references, row))
    return Picture(*shown, set_id, _name(evaluator, found), bool(found == label), float(similarity))


def _file(one: EmbeddingSet, row: int) -> str:
    """Return the picture's file, '' where it is not known."""
    return files.below(str(one.meta.get("data_root") or ""), str(one.paths[row]))
