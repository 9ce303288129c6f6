"""Files that appear whole or not at all, folder locks, and the record of options a folder was made with."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.messages import UserError

if TYPE_CHECKING:
    import pandas as pd

_held: set[int] = (
    set()
)  # descriptors of locks, to be closed in a forked child so that a lock never outlives its process


def _close_in_child() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def whole(path: Path | str, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the place of `path` when the block ends well, else it is removed.

    `sync` flushes the content to the disk first, so that a power cut leaves the old file or the new one; many small files that
    can be made again go without. Raises OSError with the final file's name.
    """
    path = Path(path)
    temporary = path.with_name(
        f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
    )  # the final name may be as long as names get
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary), temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed runs left below `folder`, for a caller who holds the folder's lock."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if re.fullmatch(r"\.\d+-[0-9a-f]{16}\.tmp", name):
                Path(parent, name).unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_bytes(path: Path | str, data: bytes | memoryview, *, sync: bool = True) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole(path, sync=sync) as temporary:
        temporary.write_bytes(data)


def write_table(path: Path | str, frame: pd.DataFrame) -> None:
    """Write `frame` without its index, whole or not at all: as Parquet where the name ends in .parquet, else as CSV."""
    path = Path(path)
    with whole(path) as temporary:
        frame.to_parquet(temporary, index=False) if path.suffix == ".parquet" else frame.to_csv(temporary, index=False)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` for the block; raises UserError when another process holds it, or waits.

    The kernel drops a `flock` with its process, so that a killed run leaves nothing to clear away. The file itself stays: removing
    it would let a third run lock a new file of the same name beside the second's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(
                f"{path.parent}: another run is writing here; wait for it, or name another output"
            ) from None
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def claim(path: Path, record: dict[str, Any], *, overwrite: bool) -> bool:
    """Return True when `path` holds the same record (go on with that output), False after writing it anew.

    `record` is JSON-serialisable: the options, model and input that decide the output. Raises UserError naming what differs, unless
    `overwrite`; the caller then removes the old output itself.
    """
    record = json.loads(json.dumps(record))
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        old = None
    except (ValueError, UnicodeDecodeError):
        old = {}
    if old == record:
        return True
    if old is not None and not overwrite:
        changed = (
            sorted(key for key in {*old, *record} if old.get(key) != record.get(key))
            if isinstance(old, dict)
            else ["record"]
        )
        shown = (
            ", ".join(f"{key} {_short(old.get(key))} -> {_short(record.get(key))}" for key in changed)
            if isinstance(old, dict)
            else ""
        )
        raise UserError(
            f"{path.parent} was made with other options or input ({shown}); add --overwrite, or name another output"
        )
    write_text(path, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return False


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:18] + "…" + text[-18:]


def text_of_name(name: str) -> str:
    """Return a file's name as text that every format holds: bytes that are no UTF-8 become `\\xe9`; see `name_of_text`.

    The one place where names enter is where a folder is listed. A name that holds such an escape itself has its backslash escaped,
    so that no two names become one text.
    """
    if name.isascii() and "\\" not in name:
        return name
    name = re.sub(r"\\(?=x5c|x[89a-f][0-9a-f])", r"\\x5c", name)
    return "".join(f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else char for char in name)


def name_of_text(text: str) -> str:
    """Return the file's name that `text_of_name` made the text of."""
    return re.sub(r"\\x(5c|[89a-f][0-9a-f])", lambda found: os.fsdecode(bytes([int(found[1], 16)])), text)
