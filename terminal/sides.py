"""The sides of an evaluation, read and coded: references with test queries, and with validation queries where there are some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common import files
from common.embedding_sets import read_sides
from common.embeddings import EmbeddingSet
from common.messages import note, warn
from evaluation.codes import CodedSets, code_sets, remarks
from evaluation.records import Rule
from evaluation.units import Units


def read_coded(
    sides: Sequence[tuple[str, Sequence[str], str]],
    *,
    label_level: int | None,
    group_by: str | None,
    data_root: str | None = None,
    **reading: Any,
) -> list[CodedSets]:
    """Return the references coded with the queries of each further side.

    `sides`: (option, files, split), references first; see embedding_sets.read_sides, which takes `reading`. `group_by`: see
    evaluation.units. `data_root`: where the crops have moved; it may hold {id}.
    """
    references, *queries = (_moved(side, data_root) for side in read_sides(sides, label_level=label_level, **reading))
    return [code_sets(references, side, label_level, Units(group_by)) for side in queries]


def _moved(sets: list[EmbeddingSet], data_root: str | None) -> list[EmbeddingSet]:
    if not data_root:
        return sets
    return [one.renamed(data_root=data_root.replace("{id}", files.name_part(one.id))) for one in sets]


def warn_of(coded_sides: Sequence[CodedSets], rule: Rule) -> None:
    """Tell what is remarkable of the sets, once each, and what comparisons on the last side leave out."""
    for remark in dict.fromkeys(remark for coded in coded_sides for remark in remarks(coded, rule)):
        warn(remark)
    if len(coded_sides[-1].queries) > 1 and (lost := coded_sides[-1].unmatched_views):
        note(f"{lost:,} views are of crops that not every query set holds; comparisons leave them out")
