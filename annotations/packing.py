"""Annotations that are packed: in gzip, bzip2, xz and zip, and COCO content in a list, under a key or in a text.

Anything else that is no text is named for what it is.
"""

from __future__ import annotations

import importlib
import io
import json
import shlex
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from annotations import coco
from annotations.contents import Lines, Repeated, memory
from common import files
from common.messages import UserError, count, note

# Compressed files by their first bytes: what they are, and what unpacks one.
_COMPRESSED: tuple[tuple[bytes, str, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", "gzip", lambda: zlib.decompressobj(31)),
    (b"BZh", "bzip2", lambda: importlib.import_module("bz2").BZ2Decompressor()),
    (b"\xfd7zXZ", "xz", lambda: importlib.import_module("lzma").LZMADecompressor(memlimit=memory() // 4)),
    (b"\x5d\0\0", "lzma", lambda: importlib.import_module("lzma").LZMADecompressor(memlimit=memory() // 4)),
)
# Archives that are not opened here, and the command that opens them.
_ARCHIVES = (
    (0, b"7z\xbc\xaf", "a 7z archive", "7z x"),
    (0, b"Rar!", "a RAR archive", "unrar x"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", "zstd -d"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file", "lz4 -d"),
    (0, b"\x1f\x9d", "a file of compress", "uncompress -k"),
    (257, b"ustar", "a tar archive", "tar xf"),
)
_ZIPS = {"[Content_Types].xml": "an Office document", "data.pkl": "a file of PyTorch", ".npy": "an .npz of arrays"}
_OTHER_KINDS = (
    (b"PAR1", "a Parquet file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"%PDF", "a PDF"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
)


def unpacked(data: bytes, path: Path | str) -> bytes:
    """Return the content of a compressed file, or of the one annotation file in a zip, else `data` itself.

    Raises UserError naming what the file is where it is no text.
    """
    known = next(((magic, what, make) for magic, what, make in _COMPRESSED if data.startswith(magic)), None)
    if known:
        data = _decompressed(data, path, *known)
    elif data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        data = _unzipped(data, path)
    if what := files.stand_in(data[: files.HEAD]):
        raise UserError(f"{path} is {what}")
    for place, magic, name, command in _ARCHIVES:
        if data[place : place + len(magic)] == magic:
            line = f"{command} {shlex.quote(str(path))}"
            raise UserError(f"{path} is {name}; unpack it (`{line}`) and name the annotation file inside")
    for magic, name in _OTHER_KINDS:
        if data.startswith(magic):
            raise UserError(
                f"{path} is {name}, not an annotation file; export the annotations, for example as COCO JSON"
            )
    return data


def _decompressed(data: bytes, path: Path | str, magic: bytes, what: str, make: Callable[[], Any]) -> bytes:
    """Return the content of all members of a compressed file."""
    parts, left = [], memory() // 4
    try:
        while data.startswith(magic):
            unpacker = make()
            parts.append(unpacker.decompress(data, max(1, left)))
            left -= len(parts[-1])
            if left <= 0:
                raise UserError(f"{path} unpacks to more than this machine's memory can hold; split it")
            if not unpacker.eof:
                raise UserError(f"{path} is a damaged {what} file (it ends early); export it again")
            data = unpacker.unused_data
    except UserError:
        raise
    except ImportError:
        raise UserError(f"{path} is a {what} file, and this Python was built without it; unpack it first") from None
    except Exception as error:  # of three libraries on damaged files
        raise UserError(f"{path} is a damaged {what} file ({error}); export it again") from None
    return b"".join(parts)


def _unzipped(data: bytes, path: Path | str) -> bytes:
    endings = (".json", ".jsonl", ".ndjson", ".xml", ".csv")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [info for info in archive.infolist() if not info.is_dir() and "__MACOSX/" not in info.filename]
            inside = [info for info in names if info.filename.lower().endswith(endings)]
            if kind := next((kind for end, kind in _ZIPS.items() if any(i.filename.endswith(end) for i in names)), ""):
                raise UserError(f"{path} is {kind}, not an annotation file; export the annotations as JSON, XML or CSV")
            if not inside:
                shown = ", ".join(info.filename for info in names[:3])
                raise UserError(
                    f"{path} is a zip without a JSON, XML or CSV file ({shown}); unpack it and name its folder"
                )
            if len(inside) != 1:
                listed = ", ".join(info.filename for info in inside[:5])
                raise UserError(
                    f"{path} is a zip of {len(inside)} annotation files ({listed}{', …' * (len(inside) > 5)}); "
                    "unpack it and name its folder with --json_path"
                )
            if photos := sum(info.filename.lower().endswith((".jpg", ".jpeg", ".png")) for info in names):
                note(f"{path} holds {count(photos, 'photo')}, too; photos are not looked for inside a zip: unpack it")
            if inside[0].file_size > memory() // 4:
                raise UserError(f"{path} unpacks to more than this machine's memory can hold; split it")
            with archive.open(inside[0]) as member:
                return member.read(inside[0].file_size + 1)
    except UserError:
        raise
    except Exception as error:  # zipfile raises many kinds on damaged or encrypted files
        raise UserError(f"{path} is a zip that cannot be read ({error}); unpack it and name the file inside") from None


def unwrapped(content: Any, source: str) -> Any:
    """Return the COCO content that stands alone in a list or under keys, else `content` itself.

    Raises UserError where there are several, as one for each split.
    """
    found = coco.of_photos(content)
    for _ in range(3):
        if isinstance(found, (Lines, Repeated)) or coco.recognise(found):
            break
        named = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
        inner = {str(key): part for key, part in named if coco.recognise(part) and coco.is_whole(part)}
        if len(inner) > 1:
            keys = f" ({', '.join([*inner][:5])})" if isinstance(found, dict) else ""
            raise UserError(
                f"{source} holds {len(inner):,} COCO contents{keys}; write each into a file of its own: "
                f"{_in_parts(source, isinstance(found, dict))}"
            )
        if inner:
            where = f"under its key {next(iter(inner))!r}" if isinstance(found, dict) else "in its list"
            (found,) = inner.values()
            note(f"{source}: the COCO content {where} is read")
        elif isinstance(found, dict) and len(found) == 1:
            (found,) = found.values()
    return found if coco.recognise(found) else content


def _in_parts(source: str, by_key: bool) -> str:
    """Return the command that writes every COCO content of a file into one of its own."""
    parts = "json.load(open(p)).items()" if by_key else "enumerate(json.load(open(p)))"
    new = "f'{p[:-5]}_{k}.json'"
    line = f"import json, sys; p = sys.argv[1]; [json.dump(c, open({new}, 'w')) for k, c in {parts} if 'images' in c]"
    return f'python -c "{line}" {shlex.quote(source)}'


def without_quotes(text: str) -> str:
    """Return the JSON that stands in a JSON text, as json.dump(json.dumps(…)) writes it; else the text itself."""
    if text[:4096].lstrip()[:2] not in ('"{', '"['):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text
