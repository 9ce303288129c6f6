"""A checksum of a Parquet file's footer, kept in the footer itself: with those of its pages, no changed bit goes unseen.

A Parquet file ends with its footer, the footer's length in 4 bytes, and PAR1. Among the footer's texts stands KEY and after it
where the footer starts (16 hexadecimal digits) and a digest (32) of the footer in which these 48 are zeros. A file that another
program has written anew with our texts starts its footer elsewhere, and counts as one without a checksum.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from common.messages import UserError

KEY = "footer_checksum"
EMPTY = "0" * 48
MAGIC = b"PAR1"


def seal(path: Path | str) -> None:
    """Put the checksum into a finished file whose footer has the text KEY: EMPTY."""
    with open(path, "r+b") as file:
        start, footer = _footer(file)
        place = _place(footer)
        if place is None:
            raise ValueError(f"{path} has no place for a checksum")
        file.seek(start + place)
        file.write(_value(start, footer, place))
        file.flush()
        os.fsync(file.fileno())


def check(path: Path | str) -> None:
    """Raise UserError where a file's footer is not as it was written; a file without a checksum passes."""
    with open(path, "rb") as file:
        try:
            start, footer = _footer(file)
        except ValueError:
            return  # no Parquet file: its reader says so
    place = _place(footer)
    if place is None or footer[place : place + 16] != b"%016x" % start:
        return
    if footer[place : place + 48] != _value(start, footer, place):
        raise UserError(f"{path} is damaged (its checksum differs); make it anew, or take it from a backup")


def _footer(file: BinaryIO) -> tuple[int, bytes]:
    """Return (where the footer starts, the footer). Raises ValueError where there is none."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    start = size - 8 - int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or start < len(MAGIC):
        raise ValueError("no Parquet footer")
    file.seek(start)
    return start, file.read(size - 8 - start)


def _place(footer: bytes) -> int | None:
    """Return where the value of KEY stands: after the name come a byte for its type and one for its length, 48."""
    at = footer.find(KEY.encode() + b"\x18\x30")
    return None if at < 0 else at + len(KEY) + 2


def _value(start: int, footer: bytes, place: int) -> bytes:
    blank = footer[:place] + EMPTY.encode() + footer[place + len(EMPTY) :]
    return f"{start:016x}{hashlib.blake2b(blank, digest_size=16).hexdigest()}".encode()
