"""CSV files of boxes: Open Images, and the one of TensorFlow's object detection, with the names that others give its columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from annotations import fields, imagefolder, via
from annotations.options import Options
from annotations.photos import Photo, Shape, objects
from annotations.records import Object, Skipped
from common.messages import Unusable, UserError, note
from common.table_files import SEPARATOR

Rows = Iterator[tuple[int, dict[str, str]]]
_OPEN_IMAGES = {"ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"}
# What the columns of a table of boxes are called, in small letters without blanks, _ and -; the first that is there is taken.
_PHOTO = ("filename", "imagename", "imagepath", "imagefilename", "image", "img", "imgpath", "imageid", "file", "path")
_CLASS = ("classname", "labelname", "categoryname", "class", "label", "category", "name", "object")
_BOX = ("bbox", "bboxes", "boundingbox", "box")
# Tables without a header, by their first row, and the columns that they have.
_HEADERLESS = (
    (r"[^,]+\.\w+(,-?\d+(\.\d+)?){4},[^,]+", "filename,xmin,ymin,xmax,ymax,class"),  # of keras-retinanet
    (
        r"[^,]+\.\w+(,-?\d+(\.\d+)?){4},[^,]+,\d+,\d+",
        "filename,xmin,ymin,xmax,ymax,class,imagewidth,imageheight",
    ),  # of SKU-110K
    (
        r"[^,]+(,-?\d+(\.\d+)?){4},[^,]+\.\w+,\d+,\d+",
        "class,x,y,w,h,filename,imagewidth,imageheight",
    ),  # of makesense.ai
)


def form(text: str) -> str | None:
    """Return which of the known tables this is, by its header: open_images, tensorflow, bbox_csv, via, imagefolder, or None."""
    first = io.StringIO(_with_header(text), newline="")
    try:
        header = {name.strip() for name in _header(csv.reader(first, delimiter=_delimiter(text)))}
    except csv.Error:
        return None
    if header >= _OPEN_IMAGES:
        return "open_images"
    if header >= via.CSV_COLUMNS:
        return "via"
    if header >= imagefolder.COLUMNS:
        return "imagefolder"
    plain = {*_plain_names([*header])}
    if not plain & {*_PHOTO} or not plain & {*_CLASS}:
        return None
    return "tensorflow" if fields.names_of_sides(plain) else "bbox_csv" if plain & {*_BOX} else None


def _tell_columns(text: str, source: str) -> None:
    """Say which columns are taken, unless a header calls them as TensorFlow does."""
    if columns := _missing_header(text):
        note(f"{source} has no header; its columns are taken as {columns.replace(',', ', ')}")
        return
    header = _plain_names([*next(_table(text, source, []), (0, {}))[1]])
    photo, label = (
        (next(name for name in names if name in header) for names in (_PHOTO, _CLASS)) if header else ("", "")
    )
    sides = (fields.names_of_sides(header) or (tuple(name for name in _BOX if name in header)[:1], ""))[0]
    if header and (photo, label, *sides) != ("filename", "class", "xmin", "ymin", "xmax", "ymax"):
        note(f"{source}: photos are taken from the column {photo}, labels from {label}, boxes from {', '.join(sides)}")


def _missing_header(text: str) -> str:
    """Return the names of a table's columns, where it is one of the known ones that have none; else ""."""
    first = re.match(r"(?:[^,\n]+,{5}\s*\n)*([^\n]*)", text)  # after rows of photos without an object
    return next((header for row, header in _HEADERLESS if first and re.fullmatch(row, first[1][:10_000].strip())), "")


def _with_header(text: str) -> str:
    header = _missing_header(text)
    return f"{header}\n{text}" if header else SEPARATOR.sub("\n", text, count=1) if SEPARATOR.match(text) else text


def _header(reader: Iterator[list[str]]) -> list[str]:
    """Return the first row that is not empty."""
    return next((row for row in reader if row), [])


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


def _plain_names(header: Sequence[str]) -> list[str]:
    """Return the names of columns in small letters without blanks, _ and -, those of a box without `bbox` before them.

    `width` and `height` beside `bbox_width` and `bbox_height` are those of the photo.
    """
    names = list(map(_plain, header))
    of_box = {name: found[1] for name in names if (found := re.fullmatch(r"(?:bbox|boundingbox|box)(.+)", name))}
    of_box = {name: side for name, side in of_box.items() if side in fields.SIDES}
    taken = {*of_box.values()} & {"width", "height"}
    return [of_box.get(name, f"image{name}" if name in taken else name) for name in names]


def _delimiter(text: str) -> str:
    separator = SEPARATOR.match(text)
    return separator[1] if separator else max(",;\t", key=text.partition("\n")[0].count)


def read(text: str, source: str, options: Options, *, name: str | None = None) -> Iterator[Object | Skipped]:
    """Yield every row as an object or with the reason why not, and its line."""
    name = name or form(text)
    readers: dict[str, Callable[[Rows, str, Options], Iterator[Object | Skipped]]] = {
        "open_images": _read_open_images,
        "tensorflow": _read_tensorflow,
        "bbox_csv": _read_tensorflow,
        "via": via.read_csv,
        "imagefolder": imagefolder.read_lines,
    }
    if name is None or form(text) != name:
        raise UserError(
            f"{source} is a CSV file, but its header is not that of Open Images, TensorFlow, VIA or Hugging Face"
        )
    if name in ("tensorflow", "bbox_csv"):
        _tell_columns(text, source)
    broken: list[Skipped] = []
    yield from readers[name](_table(text, source, broken), source, options)
    yield from broken


def _table(text: str, source: str, broken: list[Skipped]) -> Rows:
    named = _with_header(text)
    added = len(named) > len(text)  # a line that is not in the file
    reader = csv.reader(io.StringIO(named, newline=""), delimiter=_delimiter(text))
    header = [name.strip() for name in _header(reader)]
    decimal = {
        at for at, column in enumerate(_plain_names(header)) if _delimiter(text) == ";" and column in fields.SIDES
    }
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            broken.append(Skipped("", "", f"bad row: {error}", source, str(reader.line_num - added)))
            continue
        if not any(cell.strip() for cell in row):
            continue
        if len(row) == len(header):
            row = [_with_point(cell) if at in decimal else cell for at, cell in enumerate(row)]
            yield reader.line_num - added, dict(zip(header, row, strict=True))
        else:
            reason = f"bad row: {len(row)} fields, not {len(header)}"
            broken.append(Skipped("", "", reason, source, str(reader.line_num - added)))


def _with_point(cell: str) -> str:
    """Return a number with a decimal comma with a point, any other text as it is."""
    return cell.replace(",", ".") if re.fullmatch(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*", cell) else cell


def _read_open_images(table: Rows, source: str, options: Options) -> Iterator[Object | Skipped]:
    names = _class_names(Path(source).parent)
    if not names:
        note(
            f"{source}: no class-descriptions*.csv with the classes' names beside it; the texts of LabelName are the labels"
        )

    def shape(row: dict[str, str]) -> Shape:
        group = row.get("IsGroupOf", "").strip()
        if fields.flag("" if group == "-1" else group, "IsGroupOf"):  # -1: nobody has looked
            raise Unusable("crowd region")
        values = [fields.number(row[key], key) for key in ("XMin", "YMin", "XMax", "YMax")]
        label = fields.text(row["LabelName"], "LabelName")
        return Shape((names.get(label, label),), fields.box(values, "xyxy"), options.box_units or "fraction")

    yield from _by_row(table, ("ImageID",), source, options, shape)


def _read_tensorflow(table: Rows, source: str, options: Options) -> Iterator[Object | Skipped]:
    def shape(row: dict[str, str]) -> Shape:
        label = next(name for name in _CLASS if name in row)
        names, box_format = fields.names_of_sides(row) or (tuple(name for name in _BOX if name in row)[:1], "")
        if not any(row[name].strip() for name in names):
            raise Unusable("no box")
        if box_format:
            box = fields.box([fields.number(row[name], name) for name in names], box_format)
        else:
            box = fields.any_box(row[names[0]], options.box_format or "xywh", names[0])
        return Shape((fields.text(row[label], label),), box, options.box_units or "pixels")

    yield from _by_row(
        ((line, dict(zip(_plain_names([*row]), row.values(), strict=True))) for line, row in table),
        _PHOTO,
        source,
        options,
        shape,
    )


def _by_row(
    table: Rows, keys: Sequence[str], source: str, options: Options, shape: Callable[[dict[str, str]], Shape]
) -> Iterator[Object | Skipped]:
    counts: dict[str, int] = {}
    for line, row in table:
        key = next(key for key in keys if key in row)
        name = row[key]
        if not name.strip():
            yield Skipped("", "", f"no {key}", source, str(line))
            continue
        counts[name] = counts.get(name, 0) + 1
        of_box = "width" in (fields.names_of_sides(row) or ((), ""))[0]
        of_photo = ("imagewidth", "imageheight") if of_box or "imagewidth" in row else ("width", "height")
        declared = fields.size(*map(row.get, of_photo))
        named = row.get("Subset") or row.get("subset") or row.get("split")
        photo = Photo(name, options.split_of(name, source, named), declared, source)
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
