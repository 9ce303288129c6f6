"""Annotation files to content: unpacked, decoded and parsed, and nothing in them believed yet.

Guards bound memory and depth: what a file would need is estimated before it is parsed. XML entities are never expanded.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import files
from common.messages import UserError, count, note

_ZIPS = {"[Content_Types].xml": "an Office document", "data.pkl": "a file of PyTorch", ".npy": "an .npz of arrays"}
Compact = Callable[[dict[str, Any]], None]
# Texts in double quotes, kept as they are, and what people write into JSON beside them: comments, and a comma before a bracket.
# A text goes on to the end where its closing quote is missing, so that an address in a cut file is no comment.
_QUOTED = r'("[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z))'
_BESIDE_JSON = re.compile(_QUOTED + r"|//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_LAST_COMMA = re.compile(_QUOTED + r"|,(?=\s*[\]}])", re.DOTALL)
_BRACKET_BYTES = 80  # what Python needs for the smallest list or object of a JSON text
_OTHER_KINDS = (
    (b"PAR1", "a Parquet file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"%PDF", "a PDF"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"BZh", "a bzip2 file"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
)

_PACKED = ("a 7z archive", "a RAR archive", "a bzip2 file", "an xz file", "a zstd file")


class Lines(list):
    """The values of JSON lines."""


class Repeated(dict):
    """A JSON object with a key given twice; a plain dict would quietly lose the first value."""

    pairs: list[tuple[str, Any]]


@dataclass(slots=True)
class Element:
    """One element of an XML file."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, tag: str) -> list[Element]:
        return [child for child in self.children if child.tag == tag]

    def first(self, tag: str) -> Element | None:
        return next((child for child in self.children if child.tag == tag), None)

    def value(self, tag: str) -> str | None:
        """Return the text of the first child called so, without blanks around it; None where there is none."""
        child = self.first(tag)
        return None if child is None else child.text.strip()


def memory() -> int:
    """Return how many bytes a file may need when read: half of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def unpacked(data: bytes, path: Path | str) -> bytes:
    """Return the content of a gzip file, or of the one annotation file in a zip, else `data` itself.

    Raises UserError naming what the file is where it is no text.
    """
    if data[:2] == b"\x1f\x8b":
        data = _gunzipped(data, path)
    elif data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        data = _unzipped(data, path)
    if what := files.stand_in(data[: files.HEAD]):
        raise UserError(f"{path} is {what}")
    for magic, name in _OTHER_KINDS:
        if data.startswith(magic):
            remedy = "export the annotations, for example as COCO JSON"
            remedy = "unpack it first" if name in _PACKED else remedy
            raise UserError(f"{path} is {name}, not an annotation file; {remedy}")
    if data[257:262] == b"ustar":
        raise UserError(f"{path} is a tar archive; unpack it and name the annotation file inside")
    return data


def _gunzipped(data: bytes, path: Path | str) -> bytes:
    parts, left = [], memory() // 4
    try:
        while data[:2] == b"\x1f\x8b":  # a gzip file may have several members
            unpacker = zlib.decompressobj(31)
            parts.append(unpacker.decompress(data, left))
            left -= len(parts[-1])
            if unpacker.unconsumed_tail:
                raise UserError(f"{path} unpacks to more than this machine's memory can hold; split it")
            if not unpacker.eof:
                raise UserError(f"{path} is a damaged gzip file (it ends early); export it again")
            data = unpacker.unused_data
    except zlib.error as error:
        raise UserError(f"{path} is a damaged gzip file ({error}); export it again") from None
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


def decoded(data: bytes, path: Path | str) -> str:
    """Return the text of UTF-8, or of UTF-16 or UTF-32 where its first bytes say so."""
    if not data.strip():
        raise UserError(f"{path} is empty; export the annotations again")
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError as error:
        if b"\0" in data[:4096]:
            what = "a TFRecord file" if b"image/" in data[: 1 << 20] else "a binary file of no known kind"
            raise UserError(f"{path} is {what}; export the annotations as JSON, XML or CSV") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8, "
            "for example with `iconv -f latin1 -t utf-8`"
        ) from None
    return text.removeprefix("\ufeff")


def parse_json(text: str, path: Path | str, compact: Callable[[], Compact] | None = None) -> Any:
    """Return the content of JSON, or of JSON lines as a list.

    `compact` makes what may shrink each object as soon as it is parsed; a text that is parsed again begins with a new one.
    """
    needed = len(text) + _BRACKET_BYTES * (text.count("[") + text.count("{"))
    if needed > memory():
        raise UserError(
            f"{path} would need about {needed >> 30} GiB of memory, more than half of this machine's; split it"
        )
    shrink = compact() if compact else None
    decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: _object(pairs, shrink))
    try:
        try:
            return decoder.decode(text)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise
            return Lines(_lines(text, decoder, error))
    except json.JSONDecodeError as error:
        if (plain := _plain_json(text)) != text:
            content = parse_json(plain, path, compact)
            note(f"{path}: read without its comments and the commas before closing brackets, which JSON does not have")
            return content
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON ({_hint(text, error)}); export it again"
        ) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for annotations; export it again") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path} is not valid JSON ({error}); export it again") from None


def _plain_json(text: str) -> str:
    """Return the text without comments and without commas before closing brackets; its lines stay where they are."""
    kept = _BESIDE_JSON.sub(lambda found: found[1] or re.sub(r"[^\n]", " ", found[0]), text)
    return _LAST_COMMA.sub(lambda found: found[1] or " ", kept)


def _hint(text: str, error: json.JSONDecodeError) -> str:
    """Return what is wrong with a text: what Python prints, an end that is missing, else what the parser says."""
    if text[error.pos : error.pos + 1] == "'" or text.startswith(("None", "True", "False"), error.pos):
        return "it is Python's own notation, as print writes it; write it with json.dump"
    ended = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
    return "it ends early" if ended else error.msg


def _lines(text: str, decoder: json.JSONDecoder, extra: json.JSONDecodeError) -> Iterator[Any]:
    """Yield the value of each line; where the lines are no JSON lines, raise the error of the text as a whole."""
    start = 0
    for line in text.splitlines(keepends=True):
        if line.strip():
            try:
                value = decoder.decode(line)
            except json.JSONDecodeError as error:
                if start == 0:
                    raise extra from None
                raise json.JSONDecodeError(error.msg, text, start + error.pos) from None
            if not isinstance(value, dict):
                raise extra
            yield value
        start += len(line)


def _object(pairs: list[tuple[str, Any]], compact: Compact | None) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        repeated = Repeated(content)
        repeated.pairs = pairs
        return repeated
    if compact:
        compact(content)
    return content


def items(content: dict[str, Any]) -> Any:
    """Return the pairs of key and value, those of keys given twice included."""
    return content.pairs if isinstance(content, Repeated) else content.items()


def _xml_in_utf8(data: bytes, path: Path | str) -> bytes:
    """Return XML in UTF-8, whatever the encoding that it declares; raises LookupError for one that is not known."""
    declaration = re.match(rb"\s*<\?xml[^>]*?\sencoding=[\"']([\w.:-]+)[\"']", data[:500])
    encoding = declaration[1].decode() if declaration else "utf-8"
    is_plain = codecs.lookup(encoding).name.startswith(("utf", "ascii"))  # whose first bytes may say more
    text = decoded(data, path) if is_plain else data.decode(encoding)
    return re.sub(r"(<\?xml[^>]*?)\sencoding=[\"'][^\"']*[\"']", r"\1", text, count=1).encode()


def parse_xml(data: bytes, path: Path | str) -> Element:
    """Return the root element; raises UserError with the line where the file is no XML or declares entities."""
    from xml.sax import SAXException
    from xml.sax.handler import ContentHandler

    import defusedxml
    import defusedxml.sax

    root = Element("", {}, 0)
    stack = [root]

    class Builder(ContentHandler):
        _locator: Any

        def startElement(self, name: str, attrs: Any) -> None:
            if len(stack) > 100:
                raise SAXException("nested too deeply")
            element = Element(name, dict(attrs), self._locator.getLineNumber())
            stack[-1].children.append(element)
            stack.append(element)

        def endElement(self, name: str) -> None:
            stack.pop()

        def characters(self, content: str) -> None:
            if content.strip():
                stack[-1].text += content

    if data.count(b"<") * 400 > memory():
        raise UserError(f"{path} would need more than half of this machine's memory; split it")
    try:
        defusedxml.sax.parseString(_xml_in_utf8(data, path), Builder())
    except defusedxml.DefusedXmlException:
        raise UserError(f"{path} declares XML entities, which annotations do not need; remove them") from None
    except (SAXException, ValueError, LookupError) as error:
        line = error.getLineNumber() if hasattr(error, "getLineNumber") else None
        message = error.getMessage() if isinstance(error, SAXException) else str(error)
        if re.search(rb"&(?![#\w]+;)", data):
            message += "; an & in a text is written &amp;"
        where = f", line {line}" if line else ""
        raise UserError(f"{path}{where}: not valid XML ({message}); export it again") from None
    return root.children[0]
