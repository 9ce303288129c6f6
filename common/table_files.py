"""Tables in files: every CSV or TSV cell that this suite writes, and the rows of a CSV read back, each checked for its form.

A spreadsheet takes a text that begins with = + - or @ for a formula, and a formula can run a program or send a cell to the network.
With `spreadsheet_safe` an apostrophe stands before such a text; numbers stay as they are.
"""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import SEAL, check_seal, seal, whole
from common.messages import UserError, count, one_line

if TYPE_CHECKING:
    import pandas as pd

CHECK = "row_crc32"  # the last column of a table that another script reads back
_FORMULA = re.compile(r"[\s\"]*[=+\-@＝＋－＠]|[\t\r\n]")  # a quote or a blank before it may fall away on import
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ENDS = "\x1f"  # between the cells of a row, for its checksum


# A first line that Excel writes for itself.
SEPARATOR = re.compile(r"\ufeff?sep=([,;\t])[ \t]*(\r\n|\r|\n)", re.IGNORECASE)


def decoded(data: bytes) -> str:
    """Return the text of UTF-8, or of UTF-16 with its mark, as Excel's "Unicode text" has it; raises UnicodeDecodeError."""
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def split(text: str) -> tuple[str, list[list[str]]]:
    """Return the separator and the rows of a table with any line ends, without empty rows; raises csv.Error.

    The separator is the one that Excel's `sep=` names, else the most frequent of comma, semicolon and tab in the first line; blanks
    where the first line is numbers with blanks between them, or a word and numbers. A last column without a name and without
    content is left out.
    """
    found = SEPARATOR.match(text)
    text = text[found.end() :] if found else text
    lines = text.lstrip().splitlines()
    first = lines[0] if lines else ""
    separator = found[1] if found else max(",;\t", key=first.count)
    parts = first.split()
    if not found and len(parts) > 2 and all(map(_NUMBER.fullmatch, parts[1:])):  # no text with blanks
        return " ", [line.split() for line in lines if line.strip()]
    rows = list(csv.reader(io.StringIO(text, newline=None), delimiter=separator))
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    width = len(rows[0]) if rows else 0
    while width > 1 and not any(len(row) >= width and row[width - 1].strip() for row in rows):
        rows = [row[: width - 1] if len(row) == width else row for row in rows]
        width -= 1
    return separator, rows


def safe(text: str) -> str:
    """Return a cell's text as a spreadsheet shows it and never runs it: with an apostrophe before what would be a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def plain(text: str) -> str:
    """Return the text that `safe` made this of."""
    return text[1:] if text[:1] == "'" and safe(text[1:]) == text else text


def csv_text(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, spreadsheet_safe: bool = False, checked: bool = False
) -> str:
    """Return a CSV of a header and rows; `checked` adds the column CHECK, by which `read` sees what was changed since."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for number, row in enumerate([header, *rows]):
        cells = ["" if value is None else str(value) for value in row]
        cells = list(map(safe, cells)) if spreadsheet_safe else cells
        writer.writerow([*cells, _checksum(cells) if number else CHECK] if checked else cells)
    return text.getvalue()


def _checksum(cells: Sequence[str]) -> str:
    return f"crc32 {zlib.crc32(_ENDS.join(cells).encode('utf-8', 'backslashreplace')):08x}"


def tsv_line(values: Iterable[object], *, spreadsheet_safe: bool = False) -> str:
    """Return a line of a TSV, its tabs, line ends and backslashes escaped."""
    cells = (safe(str(value)) if spreadsheet_safe else value for value in values)
    return "\t".join(map(one_line, cells))


def frame_text(frame: pd.DataFrame, *, spreadsheet_safe: bool = False, checked: bool = False) -> str:
    """Return the CSV of `frame` without its index, see `csv_text`."""
    header, *rows = csv.reader(io.StringIO(frame.to_csv(index=False), newline=""))
    return csv_text(header, rows, spreadsheet_safe=spreadsheet_safe, checked=checked)


def write(path: Path | str, frame: pd.DataFrame, *, spreadsheet_safe: bool = False, checked: bool = False) -> None:
    """Write `frame` without its index, whole or not at all: as Parquet if its name ends in .parquet, else as CSV, see csv_text."""
    path = Path(path)
    with whole(path) as temporary:
        if path.suffix.lower() != ".parquet":
            text = frame_text(frame, spreadsheet_safe=spreadsheet_safe, checked=checked)
            temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
            return
        import pyarrow as pa
        import pyarrow.parquet

        table = pa.Table.from_pandas(frame, preserve_index=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), "checksum": SEAL})
        pyarrow.parquet.write_table(table, temporary, write_page_checksum=True)
        seal(temporary)


def read_csv(path: Path | str, remedy: str = "repair it or make it anew") -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a CSV in UTF-8, every row as long as the header.

    Raises UserError with the line and the remedy where that is not so.
    """
    text = io.StringIO(Path(path).read_bytes().decode("utf-8-sig", "backslashreplace"), newline="")
    reader = csv.reader(text, strict=True)
    rows = []
    try:
        header = next(reader, [])
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(f"{path}, line {reader.line_num}: {len(row)} fields, not {len(header)}; {remedy}")
            if row:
                rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; {remedy}") from None
    return header, rows


def read(path: Path) -> tuple[pd.DataFrame, str]:
    """Return a table that `write` wrote, of texts where it is a CSV, and a sentence where rows were changed since ('' else).

    Raises UserError for a damaged Parquet file and for a CSV of ragged rows.
    """
    import pandas as pd

    if path.suffix.lower() == ".parquet":
        check_seal(path)
        return pd.read_parquet(path), ""
    header, rows = read_csv(path)
    if not header:
        raise UserError(f"{path} cannot be read: it is empty; make it anew")
    if twice := [name for at, name in enumerate(header) if name in header[:at]]:
        raise UserError(f"{path} has two columns {twice[0]!r}; repair it or make it anew")
    changed = []
    if header[-1:] == [CHECK]:
        changed = [number for number, row in enumerate(rows, 1) if row[-1] != _checksum(row[:-1])]
    told = f"{path}: {len(changed):,} of its {count(len(rows), 'row')} changed since it was written, the first is row "
    frame = pd.DataFrame([list(map(plain, row)) for row in rows], columns=list(map(plain, header)), dtype=str)
    return frame, f"{told}{changed[0]}" if changed else ""
