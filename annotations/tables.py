"""CSV files of boxes: Open Images, and the one of TensorFlow's object detection that Roboflow exports too."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from annotations import fields, via
from annotations.options import Options
from annotations.photos import Photo, Shape, objects
from annotations.records import Object, Skipped
from common.messages import Unusable, UserError

Rows = Iterator[tuple[int, dict[str, str]]]
_OPEN_IMAGES = {"ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"}
_TENSORFLOW = {"filename", "class", "xmin", "ymin", "xmax", "ymax"}


def form(text: str) -> str | None:
    """Return which of the known tables this is, by its header: open_images, tensorflow, via, or None."""
    first = io.StringIO(text, newline="")
    try:
        header = {name.strip() for name in next(csv.reader(first, delimiter=_delimiter(text)), [])}
    except csv.Error:
        return None
    if header >= _OPEN_IMAGES:
        return "open_images"
    if header >= _TENSORFLOW:
        return "tensorflow"
    return "via" if header >= via.CSV_COLUMNS else None


def _delimiter(text: str) -> str:
    return max(",;\t", key=text.partition("\n")[0].count)


def read(text: str, source: str, options: Options, *, name: str | None = None) -> Iterator[Object | Skipped]:
    """Yield every row as an object or with the reason why not, and its line."""
    name = name or form(text)
    readers = {"open_images": _read_open_images, "tensorflow": _read_tensorflow, "via": via.read_csv}
    if name is None or form(text) != name:
        raise UserError(f"{source} is a CSV file, but its header is not that of Open Images, TensorFlow or VIA")
    broken: list[Skipped] = []
    yield from readers[name](_table(text, source, broken), source, options)
    yield from broken


def _table(text: str, source: str, broken: list[Skipped]) -> Rows:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    header = [name.strip() for name in next(reader)]
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            broken.append(Skipped("", "", f"bad row: {error}", source, str(reader.line_num)))
            continue
        if len(row) == len(header):
            yield reader.line_num, dict(zip(header, row, strict=True))
        elif row:
            reason = f"bad row: {len(row)} fields, not {len(header)}"
            broken.append(Skipped("", "", reason, source, str(reader.line_num)))


def _read_open_images(table: Rows, source: str, options: Options) -> Iterator[Object | Skipped]:
    names = _class_names(Path(source).parent)

    def shape(row: dict[str, str]) -> Shape:
        group = row.get("IsGroupOf", "").strip()
        if fields.flag("" if group == "-1" else group, "IsGroupOf"):  # -1: nobody has looked
            raise Unusable("crowd region")
        values = [fields.number(row[key], key) for key in ("XMin", "YMin", "XMax", "YMax")]
        label = fields.text(row["LabelName"], "LabelName")
        return Shape((names.get(label, label),), fields.box(values, "xyxy"), options.box_units or "fraction")

    yield from _by_row(table, "ImageID", source, options, shape)


def _read_tensorflow(table: Rows, source: str, options: Options) -> Iterator[Object | Skipped]:
    def shape(row: dict[str, str]) -> Shape:
        values = [fields.number(row[key], key) for key in ("xmin", "ymin", "xmax", "ymax")]
        return Shape((fields.text(row["class"], "class"),), fields.box(values, "xyxy"), options.box_units or "pixels")

    yield from _by_row(table, "filename", source, options, shape)


def _by_row(table: Rows, key: str, source: str, options: Options, shape) -> Iterator[Object | Skipped]:  # type: ignore[no-untyped-def]
    counts: dict[str, int] = {}
    for line, row in table:
        name = row[key]
        if not name.strip():
            yield Skipped("", "", f"no {key}", source, str(line))
            continue
        counts[name] = counts.get(name, 0) + 1
        declared = fields.size(row.get("width"), row.get("height"))
        photo = Photo(name, options.split_of(name, source, row.get("Subset") or row.get("split")), declared, source)
        yield from objects(photo, [(line, row)], shape, options, counts[name])


def _class_names(folder: Path) -> dict[str, str]:
    """Return the names behind the machine ids of Open Images, from class-descriptions*.csv in the folder."""
    names: dict[str, str] = {}
    for path in sorted(folder.glob("*class-descriptions*.csv")):
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            try:
                names.update({row[0]: row[1] for row in csv.reader(file) if len(row) == 2 and row[1].strip()})
            except csv.Error as error:
                raise UserError(f"{path} is no sound table: {error}; download it again") from None
    return names
