"""The sides of an evaluation, read and coded: references with test queries, and with validation queries where there are some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common import files
from common.embedding_sets import expand, read_sides
from common.embeddings import EmbeddingSet, load
from common.labels import label_paths
from common.messages import UserError, note, warn
from evaluation.codes import CodedSets, Units, code_sets, remarks
from evaluation.records import Rule


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
    evaluation.codes.Units. `data_root`: where the crops have moved; it may hold {id}.
    """
    read = _of_one_data_set(read_sides(sides, label_level=label_level, **reading))
    references, *queries = (_moved(side, data_root) for side in read)
    return [code_sets(references, side, label_level, Units(group_by)) for side in queries]


def by_dataset(
    given: Sequence[tuple[str, Sequence[str], str]], **reading: Any
) -> dict[str, list[tuple[str, Sequence[str], str]]]:
    """Return the sides of each data set, by the name that its files give, in the order of the files.

    `reading`: keyword arguments of embeddings.load. Raises UserError where all files are of one data set, or one names none.
    """
    files_of: dict[str, list[list[str]]] = {}
    for place, (_, specs, _) in enumerate(given):
        for name, path in expand(specs):
            dataset = load(path, **reading).dataset
            if not dataset:
                raise UserError(f"{path} names no data set; extract it with --company_name, one name a data set")
            sides = files_of.setdefault(dataset, [[] for _ in given])
            sides[place].append(f"{name}={path}" if name else str(path))
    if len(files_of) < 2:
        raise UserError(f"--across_datasets needs two data sets or more; all files are of {', '.join(files_of)}")
    for dataset, sides in files_of.items():
        if missing := [option for (option, _, _), own in zip(given, sides, strict=True) if not own]:
            raise UserError(f"the data set {dataset} has no files in {missing[0]}; add them, or leave it away")
    return {
        dataset: [(option, own, split) for (option, _, split), own in zip(given, sides, strict=True)]
        for dataset, sides in files_of.items()
    }


def _of_one_data_set(sides: list[list[EmbeddingSet]]) -> list[list[EmbeddingSet]]:
    """Return the sets with one name for data sets that have the same crops at other paddings, which is told.

    A loop over folders such as crops_0 and crops_20 names each data set by its folder. Kept apart, their crops and photos would
    count as different ones.
    """
    names: dict[str, str] = {}
    for side in sides:
        firsts: dict[str, EmbeddingSet] = {}
        for one in side:
            if one.dataset in firsts or one.dataset in names:
                continue
            first = next((other for other in firsts.values() if _same_crops(other, one)), None)
            if first is None:
                firsts[one.dataset] = one
            else:
                names[one.dataset] = names.get(first.dataset, first.dataset)
    for first_name in dict.fromkeys(names.values()):
        alike = [first_name, *(name for name, other in names.items() if other == first_name)]
        some = ", ".join(alike[:3]) + " …" * (len(alike) > 3)
        note(f"the data sets {some} have the same crops at other paddings: scored as one, {first_name}")
    return [[_named(one, names.get(one.dataset)) for one in side] for side in sides]


def _named(one: EmbeddingSet, name: str | None) -> EmbeddingSet:
    return one if name is None else one.renamed(dataset_name=name, own_dataset_name=one.dataset)


def _same_crops(first: EmbeddingSet, second: EmbeddingSet) -> bool:
    """Return whether two sets, each of a padding of its own, share most crops: photos of different data sets are often numbered
    alike, so that ID, label and split have to be the same."""
    paddings = {str(one.meta.get("padding") or "") for one in (first, second)}
    if len(paddings) < 2 or "" in paddings or first.split != second.split:
        return False
    crops, others = (
        {*zip(one.crop_ids.tolist(), label_paths(one.labels).tolist(), strict=True)} for one in (first, second)
    )
    return 2 * len(crops & others) > min(len(crops), len(others))


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
