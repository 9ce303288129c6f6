"""What the report shows of --check: near twins, likely label errors, classes that cannot be told apart, with pictures."""

from __future__ import annotations

from dataclasses import dataclass

from report.cards import Album, Picture
from soundness.alike_classes import AlikePair
from soundness.check import Soundness

SHOWN = 8  # twins, and likely label errors
NEIGHBOURS = 3  # pictures beside a likely label error


@dataclass(frozen=True)
class DataCheck:
    """twins: (query, its near twin). suspects: (crop, near crops of the label that suits better). alike: names of two classes."""

    found: Soundness
    twins: list[tuple[Picture, Picture]]
    suspects: list[tuple[Picture, list[Picture]]]
    alike: list[tuple[str, str, AlikePair]]


def data_check(found: Soundness) -> DataCheck:
    """Return what the page shows of what was found."""
    album, crops, twins = Album(), found.crops, found.twins

    def picture(row: int, right: bool | None, score: float | None) -> Picture:
        names = found.pair.reference_ids if row < crops.n_reference else found.pair.query_ids
        label = str(found.classes[crops.label[row]])
        return Picture(*album.show(crops.pictures[row]), names[0], label, right, score)

    pairs = list(zip(twins.query, twins.reference, twins.cosine, strict=True))[:SHOWN]
    suspects = []
    for row in found.suspects[:SHOWN]:
        near = zip(*found.near_suggested(row, NEIGHBOURS), strict=True)
        shown = [picture(other, None, float(cosine)) for other, cosine in near]
        suspects.append((picture(row, None, 1.0), shown))
    return DataCheck(
        found,
        [(picture(query, None, 1.0), picture(reference, None, float(cosine))) for query, reference, cosine in pairs],
        suspects,
        [(str(found.classes[pair.one]), str(found.classes[pair.other]), pair) for pair in found.alike],
    )
