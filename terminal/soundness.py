"""What --check prints, draws and writes of one pair of sets: near twins, likely label errors, classes that cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from common import files, messages, table_files
from common.messages import count, table, wrap
from evaluation.evaluator import Evaluator
from evaluation.records import Combination
from plots import picture_sheets
from soundness.check import Soundness, check
from uncertainty.intervals import AccuracyInterval

SHOWN = 10  # rows of a table on the terminal
MANY = 0.1  # share of crops that suit another label better, above which most of them are hard, not mislabelled
DRAWN = 12  # rows of each sheet of pictures
COLUMNS = (
    *("kind", "crop_id", "picture", "side", "label", "other_crop_id", "other_label"),
    *("agreement", "cosine", "own_chance", "other_chance"),
)


def show(evaluator: Evaluator, combination: Combination, output_root: Path, *, safe: bool = False) -> Soundness:
    """Print what was found, draw sheets of pictures, and write the whole list as soundness.csv; return what was found."""
    found = check(evaluator, combination)
    messages.show(text(found))
    name = f"soundness_{found.pair.reference_ids[0]}_{found.pair.query_ids[0]}"
    if rows := listed(found):
        path = output_root / files.name_part(f"{name}.csv")
        files.write_text(path, table_files.csv_text(COLUMNS, rows, spreadsheet_safe=safe))
        messages.show(f"wrote {path}: {count(len(rows), 'row')}")
    for kind, first, title, score, sheet in _sheets(found):
        if sheet:
            path = output_root / files.name_part(f"{name}_{kind}.png")
            picture_sheets.results(path, sheet, title=title, score=score, judged=False, first=first)
            print(f"wrote {path} and .svg")
    return found


def report(evaluator: Evaluator, combination: Combination) -> Soundness:
    """Print what was found, and return it for the report."""
    found = check(evaluator, combination)
    messages.show(text(found))
    return found


def text(found: Soundness) -> str:
    """Return what was found in words and tables."""
    pair, crops = found.pair, found.crops
    heading = (
        f"Is the data sound? References {pair.reference_ids[0]} and queries {pair.query_ids[0]}: "
        f"{count(crops.n_reference, 'crop')} and {count(found.n_query, 'crop')}"
    )
    parts = [wrap(heading), *map(wrap, _about_pictures(found)), _twins(found), _suspects(found), _alike(found)]
    return "\n\n".join(parts)


def _about_pictures(found: Soundness) -> list[str]:
    missing = len(found.crops) - found.n_pictures
    if not missing:
        return []
    return [
        f"{count(missing, 'picture')} of {len(found.crops):,} cannot be read, or show one colour only: their near twins are found "
        "by the embedding alone, which misses some copies and takes some photos of one product for copies"
    ]


def _twins(found: Soundness) -> str:
    twins = found.twins
    if not len(twins):
        return wrap(f"Near twins: none of {count(found.n_query, 'query', 'queries')} has one among the references")
    have = "has a near twin" if len(twins) == 1 else "have a near twin"
    without = _interval(found.without_twins) if found.without_twins else "nothing is left"
    where = f"on {found.twin_photos} of {count(found.query_photos, 'photo')}"
    said = (
        f"Near twins: {len(twins):,} of {found.n_query:,} queries, {where}, {have} among the references; "
        f"accuracy {found.accuracy.accuracy:.4f}, without them {without}"
    )
    rows = [
        (found.crops.names[q], found.crops.names[r], "-" if math.isnan(agree) else f"{agree:.3f}", f"{cosine:.3f}")
        for q, r, agree, cosine in zip(twins.query, twins.reference, twins.agreement, twins.cosine, strict=True)
    ]
    return f"{wrap(said)}\n{_first(['query', 'reference', 'pictures agree', 'cosine'], rows)}"


def _interval(interval: AccuracyInterval) -> str:
    return f"{interval.accuracy:.4f}, 95% interval {interval.low:.4f} to {interval.high:.4f}"


def _suspects(found: Soundness) -> str:
    unjudged = found.chances.n_unjudged
    more = f"; {count(unjudged, 'crop')} cannot be judged: no other crop has the same label" if unjudged else ""
    if not len(found.suspects):
        return wrap(f"Labels: none of {count(len(found.crops), 'crop')} suits another label better{more}")
    said = (
        f"Likely label errors, the likeliest first: {len(found.suspects):,} of {count(len(found.crops), 'crop')} "
        f"{'suits' if len(found.suspects) == 1 else 'suit'} another label better{more}"
    )
    if len(found.suspects) > MANY * len(found.crops):
        said += "; with so many, most are crops that the model finds hard, and few are wrong labels"
    rows = [
        (
            found.crops.names[row],
            found.classes[found.crops.label[row]],
            f"{found.chances.own[row]:.3f}",
            found.classes[found.chances.suggested[row]],
            f"{found.chances.other[row]:.3f}",
        )
        for row in found.suspects
    ]
    return f"{wrap(said)}\n{_first(['crop', 'label', 'chance', 'suggested', 'chance'], rows)}"


def _alike(found: Soundness) -> str:
    unsure = f"; {count(found.n_unsure, 'pair')} of classes with too few photos to say" if found.n_unsure else ""
    if not found.alike:
        return wrap(f"Classes: none that the nearest neighbours cannot tell apart{unsure}")
    said = f"Classes that the nearest neighbours cannot tell apart (0.5 is chance): {count(len(found.alike), 'pair')}{unsure}"
    rows = [
        (
            found.classes[pair.one],
            found.classes[pair.other],
            f"{pair.told_apart.accuracy:.3f}",
            f"{pair.told_apart.low:.3f} to {pair.told_apart.high:.3f}",
            pair.n_crop,
            pair.told_apart.n_images,
        )
        for pair in found.alike
    ]
    return f"{wrap(said)}\n{_first(['class', 'and', 'told apart', '95% interval', 'crops', 'photos'], rows)}"


def _first(header: list[str], rows: list[tuple]) -> str:
    more = f"\n… and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
    return table(header, rows[:SHOWN]) + more


def listed(found: Soundness) -> list[tuple]:
    """Return the near twins, then the likely label errors, one row each under COLUMNS."""
    crops, twins, chances = found.crops, found.twins, found.chances
    labels = found.classes[crops.label]

    def of(row: int) -> tuple:
        side = "reference" if row < crops.n_reference else "query"
        return crops.names[row], crops.pictures[row], side, labels[row]

    pairs = zip(twins.query, twins.reference, twins.agreement, twins.cosine, strict=True)
    rows = [
        (
            "near twin",
            *of(q),
            crops.names[r],
            labels[r],
            "" if math.isnan(agree) else f"{agree:.4f}",
            f"{cosine:.4f}",
            "",
            "",
        )
        for q, r, agree, cosine in pairs
    ]
    for row in found.suspects:
        numbers = f"{chances.own[row]:.4f}", f"{chances.other[row]:.4f}"
        rows.append(("label", *of(row), "", found.classes[chances.suggested[row]], "", "", *numbers))
    return rows


def _sheets(found: Soundness) -> Iterator[tuple[str, str, str, str, list]]:
    """Yield of each sheet of pictures: kind, what stands first in a row, title, name of its numbers, rows (picture_sheets)."""
    crops, twins, labels = found.crops, found.twins, found.classes[found.crops.label]

    def result(row: int, score: float) -> tuple[str, str, float]:
        return crops.pictures[row], labels[row], score

    pairs = zip(twins.query, twins.reference, twins.agreement, twins.cosine, strict=True)
    of_twins = [(crops.pictures[q], labels[q], [result(r, agree)]) for q, r, agree, _ in pairs if not math.isnan(agree)]
    yield "twins", "query", "Queries and their near twins", "agreement", of_twins[:DRAWN]
    of_labels = []
    for row in found.suspects[found.known[found.suspects]][:DRAWN]:
        near = zip(*found.near_suggested(row, 3), strict=True)
        of_labels.append((crops.pictures[row], labels[row], [result(other, cosine) for other, cosine in near]))
    yield "labels", "crop", "Likely label errors, and near crops of a label that suits better", "cosine", of_labels
