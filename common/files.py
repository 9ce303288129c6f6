"""Files that appear whole or not at all, and locks: the one place where files are written."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.messages import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# A pipe must not be waited for; on Windows bytes are read as they stand.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
LOCK = ".lock"  # in a folder that a run holds
HEAD = 512  # bytes by which the kind of a file is known
_DRAWN = b"pHYs\0\0\x18\x9b\0\0\x18\x9b\1"  # a PNG of 160 dots per inch, as plots/figures.py draws them, and no camera
_TEMPORARY = re.compile(
    r"\.[0-9a-f]{8}-[0-9a-f]{16}\.tmp|\.\d+-[0-9a-f]{16}\.tmp"
)  # the second as older versions named them
_MAGIC = (
    (b"PK\x03\x04", "an .npz or other zip archive"),
    (b"PAR1", "a Parquet file"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"RIFF", "a WebP picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"BM", "a BMP picture"),
    (b"%PDF", "a PDF document"),
)
_SEAL = re.compile(rb"crc32 of this file: ([0-9a-f]{8})")
SEAL = "crc32 of this file: 00000000"  # stands in a file that seal() completes


def kind_of(head: bytes) -> str:
    """Return what a file is by its first bytes, '' where it is empty; two texts are alike by their form and CSV's first column."""
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "a drawn PNG" if _DRAWN in head else "a PNG picture"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if b"\0" in head:
        return "a binary file"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:HEAD].lower()
    if b"<svg" in text or text.startswith(b"<?xml"):
        return "an SVG picture"
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if text.startswith((b"#!", b"import ", b"from ", b'"""')):
        return "a program"
    if text[:1] in (b"{", b"["):
        return "a JSON file"
    return "a text file" if text else ""


def stand_in(head: bytes) -> str:
    """Return what a file is that only stands for the wanted one, and what to do; "" where its first bytes say nothing such."""
    if head.startswith(b"version https://git-lfs."):
        return "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"
    if kind_of(head[:HEAD]) == "an HTML page":
        return "an HTML page, not the file itself; download it again, without signing in or with a direct link"
    return ""


def _same_kind(path: Path, new: Path) -> None:
    """Raise UserError where the regular file `path` is of another kind than the one that would take its place."""
    with open(path, "rb") as old_file, open(new, "rb") as new_file:
        old, made = old_file.read(HEAD), new_file.read(HEAD)
    kind = kind_of(old)
    if kind and made and kind != kind_of(made):
        raise UserError(f"{path} is {kind}, and this output is not; it stays as it is: name another file, or remove it")
    if path.suffix.lower() == ".csv" and kind == "a text file" and _first_column(old) != _first_column(made):
        raise UserError(
            f"{path} is another table, its first column is {_first_column(old)!r}; name another file, or remove it"
        )


def _first_column(head: bytes) -> str:
    return (
        re.split(rb"[,;\t\r\n]", head.removeprefix(b"\xef\xbb\xbf"), maxsplit=1)[0]
        .decode("utf-8", "replace")
        .strip('"')
    )


def _direct(path: Path) -> str | int | None:
    """Return what is written straight into: the name of a device or a pipe, or a stream that goes to this very file, else None.

    Raises OSError for a folder.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(status, os.fstat(stream)):
                return stream
    return None if stat.S_ISREG(status.st_mode) else str(path)


@contextlib.contextmanager
def whole(path: Path | str, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the place of `path` when the block ends well, else it is removed.

    Links are followed, the mode of an older file is kept, and a device or a pipe is written through. `sync` flushes the content to
    the disk first, so that a power cut leaves the old file or the new one, and clears away what dead runs left of this very file;
    many small files that can be made again go without. Raises UserError where `path` is a file of another kind than the new one,
    and OSError with the final file's name.
    """
    path = Path(path)
    try:
        if (direct := _direct(path)) is not None:
            with _through(direct) as temporary:
                yield temporary
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        with _beside(target, sync) as temporary:
            yield temporary
            if target.exists():
                _same_kind(target, temporary)
                os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
            if sync:
                _flush(temporary)
            os.replace(temporary, target)
            if sync:
                _flush(target.parent)
    except OSError as error:
        if error.filename is None or _TEMPORARY.fullmatch(Path(str(error.filename)).name):
            error.filename, error.filename2 = str(path), None
        raise


@contextlib.contextmanager
def _through(direct: str | int) -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "output")
        yield temporary
        sys.stdout.flush()  # what was printed before comes first
        with open(temporary, "rb") as source, open(direct, "wb", closefd=isinstance(direct, str)) as out:
            shutil.copyfileobj(source, out)


@contextlib.contextmanager
def _beside(target: Path, sync: bool) -> Iterator[Path]:
    """Yield a temporary path in the folder of `target`, locked where `sync`, so that no other run takes it for a dead run's."""
    import hashlib

    mark = hashlib.sha1(os.fsencode(target.name)).hexdigest()[:8]  # the name itself may be as long as names get
    if sync:
        _sweep_dead(target.parent, mark)
    temporary = target.with_name(f".{mark}-{os.urandom(8).hex()}.tmp")
    descriptor = None
    try:
        if sync and fcntl:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if descriptor is not None:
            os.close(descriptor)


def _sweep_dead(folder: Path, mark: str) -> None:
    """Remove the temporary files of `mark` whose runs are dead: the kernel drops a lock with its process.

    Windows has no such locks, and removes no file that another run has open.
    """
    for path in folder.glob(f".{mark}-*.tmp"):
        with contextlib.suppress(OSError):
            if not fcntl:
                path.unlink()
                continue
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)


def _flush(path: Path) -> None:
    if os.name == "nt":  # which opens no folder, and flushes a file only for who has it open to write
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed runs left in and below `folder`, for a caller who holds the folder's lock.

    A folder below that another run holds stays as it is.
    """
    for parent, folders, names in os.walk(folder):
        if parent != str(folder) and LOCK in names:
            folders.clear()
            continue
        for name in names:
            if _TEMPORARY.fullmatch(name):
                Path(parent, name).unlink(missing_ok=True)


def read_regular(path: Path | str, most: int) -> bytes:
    """Return the content of a regular file of up to `most` bytes; raises OSError for a pipe or a device, and for a larger file."""
    descriptor = os.open(path, os.O_RDONLY | _NO_WAIT)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ENOTSUP, "it is no regular file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"its {status.st_size:,} bytes are more than is read", str(path))
        return file.read(min(most, max(status.st_size, 1 << 16)))  # memory is taken for as many


def below(root: Path | str, name: str) -> str:
    """Return the path of `name`, which some file's data gives, below the folder `root`; '' where it is none or leads out of it.

    Where it leads is decided by resolved paths: `..`, absolute names and links count.
    """
    if not name or "\0" in name:
        return ""
    path = os.path.join(root, name)
    stored = str(as_stored(path)) if "\\x" in name else path  # what is opened
    folder, last = os.path.split(stored)
    if last in ("", ".", "..") or os.path.islink(stored):
        folder = os.path.dirname(os.path.realpath(stored))
    return path if _leads_below(root, folder) else ""


def _leads_below(root: Path | str, folder: str) -> bool:
    top, inside = _resolved(os.path.abspath(root)), _resolved(os.path.abspath(folder))
    return inside == top or inside.startswith(top.rstrip("/") + "/")


def each_below(root: Path | str, names: Iterable[str]) -> list[str]:
    """Return `below(root, name)` of each name; every folder is resolved once, and its links are listed once."""
    known: dict[str, tuple[str | None, set[str]]] = {}  # where a folder is, None where it leads out; its links
    found = []
    for name in names:
        folder, slash, last = name.rpartition("/")
        if "\\" in name or "\0" in name or last in ("", ".", ".."):
            found.append(below(root, name))
            continue
        if folder not in known:
            path = os.path.join(root, folder + slash)
            known[folder] = path if _leads_below(root, path) else None, _links(path or ".")
        inside, links = known[folder]
        found.append(below(root, name) if last in links else "" if inside is None else inside + last)
    return found


def _links(folder: str) -> set[str]:
    """Return the names of the links in a folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except OSError:
        return set()


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is a system's own, as `.DS_Store` and Synology's `@eaDir` of thumbnails are."""
    return name.startswith(".") or name in ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder is one, links followed; links that lead round in a circle are none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_regular(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder is a regular file, links followed; links that lead round in a circle are none."""
    try:
        return entry.is_file()
    except OSError:
        return False


@functools.lru_cache(maxsize=1 << 12)
def _resolved(folder: str) -> str:
    return os.path.realpath(folder)


def name_part(text: str) -> str:
    """Return a text that some file's data gives as a part of a file's name, which leads nowhere else."""
    part = text.replace("/", "__").replace("\0", "")
    return part if part not in (".", "..") else part.replace(".", "_")


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_bytes(path: Path | str, data: bytes | memoryview, *, sync: bool = True) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole(path, sync=sync) as temporary:
        temporary.write_bytes(data)


def seal(path: Path) -> None:
    """Write the CRC-32 of the file into its only SEAL, whose zeros count as they stand there."""
    with open(path, "r+b") as file:
        place, total = _read_seal(file)
        if place is not None:
            file.seek(place)
            file.write(f"{total:08x}".encode())


def check_seal(path: Path) -> None:
    """Raise UserError where the file has been changed since seal(); a file without a seal is not looked into."""
    with open(path, "rb") as file:
        place, total = _read_seal(file)
        if place is None:
            return
        file.seek(place)
        if file.read(8) != f"{total:08x}".encode():
            raise UserError(
                f"{path} is damaged or was changed: its content has another checksum than it states; make it anew"
            )


def _read_seal(file: Any) -> tuple[int | None, int]:
    """Return where the digits of the last seal stand, and the CRC-32 of the file with zeros in their place."""
    found, total = None, 0
    size = file.seek(0, os.SEEK_END)
    for start in dict.fromkeys((max(0, size - (1 << 20)), 0)):  # near its end, or its beginning
        file.seek(start)
        for match in _SEAL.finditer(file.read(1 << 20)):
            found = start + match.start(1)
        if found is not None:
            break
    if found is None:
        return None, 0
    part = memoryview(bytearray(1 << 18))  # used again for every part: new memory would cost more than the sum
    for start, stop in ((0, found), (found + 8, size)):
        total = zlib.crc32(b"0" * 8, total) if start else total
        file.seek(start)
        while (left := stop - start) > 0 and (n := file.readinto(part[: min(left, len(part))])):
            total, start = zlib.crc32(part[:n], total), start + n
    return found, total


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` for the block; raises UserError when another process holds it, or waits.

    The kernel drops the lock with its process, so that a killed run hinders nobody. The file goes with the lock: filelock takes no
    lock of a file that was removed meanwhile.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()  # where no file can be made, as below /proc, filelock would wait for ever
    try:
        with FileLock(path, timeout=-1 if wait else 0):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
    except Timeout:
        raise UserError(f"{path.parent}: another run is writing here; wait for it, or name another output") from None


def text_of_name(name: str) -> str:
    """Return a file's name as text that every format holds: bytes that are no UTF-8 become `\\xe9`; see `name_of_text`.

    The one place where names enter is where a folder is listed. A name that holds such an escape itself has its backslash escaped,
    so that no two names become one text.
    """
    if name.isascii() and "\\" not in name:
        return name
    name = re.sub(r"\\(?=x5c|x[89a-f][0-9a-f])", r"\\x5c", name)
    return "".join(f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else char for char in name)


def without_bytes(text: str) -> str:
    """Return a text of the command line or of an older file with each byte that is no UTF-8 as `\\xe9`; all else stays."""
    return re.sub("[\ud800-\udfff]", lambda found: f"\\x{ord(found[0]) - 0xDC00 & 0xFFFF:02x}", text)


def name_of_text(text: str) -> str:
    """Return the file's name that `text_of_name` made the text of."""
    return re.sub(r"\\x(5c|[89a-f][0-9a-f])", lambda found: os.fsdecode(bytes([int(found[1], 16)])), text)


def as_stored(path: Path | str) -> Path:
    """Return the file that a path names, which may hold texts of `text_of_name`."""
    return Path(path) if os.path.lexists(path) else Path(name_of_text(str(path)))
