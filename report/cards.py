"""The most telling flips with their pictures: what was near a crop before, and what is near it now."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from combinations import flips
from common import files
from common.embeddings import EmbeddingSet
from evaluation import per_query
from evaluation.codes import CodedSets
from evaluation.evaluator import Evaluator
from evaluation.records import Combination, Decisions, Rule
from imaging import images

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


def cards(
    evaluator: Evaluator,
    decided: Mapping[Combination, Decisions],
    before: Combination,
    now: Combination,
    change: flips.Flips,
) -> list[Card]:
    """Return up to CARDS crops that `now` rescues and breaks against `before`, half of each where there are enough.

    First come the crops whose similarities moved most (see `swing`), one of every class before a second of any. `decided` holds
    the decisions of both, and of every ID alone.
    """
    coded = evaluator.coded
    crops = {kind: change.crop[change.flip == code] for kind, code in _KINDS.items()}
    moved = {kind: swing(evaluator, decided, before, now, crop) for kind, crop in crops.items()}
    ordered = {kind: _spread(moved[kind], coded.crop_label[crop], crop) for kind, crop in crops.items()}
    n_rescued = max(CARDS // 2, CARDS - len(ordered["broken"]))
    chosen = {"rescued": ordered["rescued"][:n_rescued]}
    chosen["broken"] = ordered["broken"][: CARDS - len(chosen["rescued"])]
    alone = {
        name: flips.crop_scores(coded, decided[pair]) if (pair := Combination((name,), (name,))) in decided else None
        for name in _shown_sets(coded, before, now)
    }
    sides = [(combination, decided[combination]) for combination in (before, now)]
    album = Album()
    return [
        _card(coded, evaluator.rule, album, kind, crop, alone, sides)
        for kind, crops_of_kind in chosen.items()
        for crop in crops_of_kind
    ]


def swing(
    evaluator: Evaluator,
    decided: Mapping[Combination, Decisions],
    before: Combination,
    now: Combination,
    crops: np.ndarray,
) -> np.ndarray:
    """Return (n_crop,) float64: how far the margin of these crops moved, without sign; 0 where it is not defined.

    The margin is that of `per_query.margins`; several decisions of a crop are averaged.
    """
    margin_before, margin_now = (
        _crop_margins(evaluator, combination, decided[combination], crops) for combination in (before, now)
    )
    return np.abs(np.nan_to_num(margin_now - margin_before))


def _crop_margins(
    evaluator: Evaluator, combination: Combination, decisions: Decisions, crops: np.ndarray
) -> np.ndarray:
    place = np.full(len(evaluator.coded.crops), -1)
    place[crops] = np.arange(len(crops))
    chosen = np.flatnonzero(place[decisions.crop] >= 0)
    row = place[decisions.crop[chosen]]
    margin = per_query.margins(evaluator, combination, chosen)
    with np.errstate(invalid="ignore"):
        return np.bincount(row, margin, minlength=len(crops)) / np.bincount(row, minlength=len(crops))


def _spread(moved: np.ndarray, label: np.ndarray, crop: np.ndarray) -> list[int]:
    """Return the crops by falling swing, but every class once before any comes twice."""
    order = np.argsort(-moved, kind="stable")
    seen: dict[int, int] = {}
    turns = []
    for at in order:
        seen[label[at]] = seen.get(label[at], 0) + 1
        turns.append(seen[label[at]])
    return [int(crop[order[at]]) for at in np.argsort(turns, kind="stable")]


def _shown_sets(coded: CodedSets, *combinations: Combination) -> list[str]:
    used = {name for combination in combinations for name in combination.query_ids}
    kept = sorted(coded.queries, key=lambda name: name not in used)[:VIEWS]
    return [name for name in coded.queries if name in kept]


def _card(
    coded: CodedSets,
    rule: Rule,
    album: Album,
    kind: str,
    crop: int,
    alone: Mapping[str, np.ndarray | None],
    sides: Sequence[tuple[Combination, Decisions]],
) -> Card:
    label = str(coded.classes[coded.crop_label[crop]])
    views = []
    for name, scores in alone.items():
        row = int(np.flatnonzero(coded.query_codes[name].crop == crop)[0])
        right = None if scores is None or np.isnan(scores[crop]) else bool(scores[crop] > 0.5)
        views.append(Picture(*album.show(_file(coded.queries[name], row)), name, label, right))
    before, now = (list(_rows(coded, rule, album, crop, *side)) for side in sides)
    hidden = sum(max(0, len(rows) - DECISIONS) for rows in (before, now))
    crop_name = str(coded.crops[crop]).split("/", 2)[-1]
    return Card(kind, label, crop_name, views, before[:DECISIONS], now[:DECISIONS], hidden)


def _rows(
    coded: CodedSets, rule: Rule, album: Album, crop: int, combination: Combination, decisions: Decisions
) -> Iterator[Row]:
    merged_reference = "+".join(combination.reference_ids) if rule.fusion in ("mean", "concat") else None
    queries = list(coded.queries)
    for at in np.flatnonzero(decisions.crop == crop):
        nearest = zip(decisions.neighbours[at, :NEIGHBOURS], decisions.similarities[at, :NEIGHBOURS], strict=True)
        yield Row(
            query_id=queries[decisions.view[at]] if rule.fusion == "stack" else "+".join(combination.query_ids),
            label=_label(coded, decisions.voted[at]),
            right=bool(decisions.right[at]),
            neighbours=[
                _reference(coded, album, row, decisions.label[at], float(similarity), merged_reference)
                for row, similarity in nearest
                if row >= 0
            ],
        )


def _label(coded: CodedSets, code: int) -> str:
    return str(coded.classes[code]) if code >= 0 else "no label"


def _reference(
    coded: CodedSets, album: Album, row: int, query_label: int, similarity: float, merged_id: str | None
) -> Picture:
    """Return the reference in `row`, counted over all reference sets; where it is merged, its ID is `merged_id`."""
    owner = int(np.searchsorted(list(coded.starts.values()), row, side="right")) - 1
    name, references = list(coded.references.items())[owner]
    row -= coded.starts[name]
    label = coded.reference_codes[name].label[row]
    shown = album.show(_file(references, row))
    return Picture(*shown, merged_id or name, _label(coded, label), bool(label == query_label), similarity)


def _file(embedding_set: EmbeddingSet, row: int) -> str:
    """Return the picture's file, '' where it is not known."""
    return files.below(str(embedding_set.meta.get("data_root") or ""), str(embedding_set.paths[row]))
