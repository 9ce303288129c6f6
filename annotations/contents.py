"""Annotation files to content: decoded and parsed, and nothing in them believed yet; what is of no known format is named.

Guards bound memory and depth: what a file would need is estimated before it is parsed. XML entities are never expanded.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotations import fields
from annotations.options import FORMATS
from common.messages import UserError, note

Compact = Callable[[dict[str, Any]], None]
# Texts in double quotes, kept as they are, and what people write into JSON beside them: comments, and a comma before a bracket.
# A text goes on to the end where its closing quote is missing, so that an address in a cut file is no comment.
_QUOTED = r'("[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z))'
_BESIDE_JSON = re.compile(_QUOTED + r"|//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_LAST_COMMA = re.compile(_QUOTED + r"|,(?=\s*[\]}])", re.DOTALL)
_BRACKET_BYTES = 80  # what Python needs for the smallest list or object of a JSON text


# JSON of tools that is not read here: the keys of the whole, or of its first entry, and what it is.
_OTHER_JSON = (
    ({"frames"}, "BDD100K or Scalabel JSON"),
    ({"name", "labels"}, "BDD100K or Scalabel JSON"),
    ({"size", "objects"}, "Supervisely JSON"),
    ({"data_row", "projects"}, "Labelbox JSON"),
    ({"External ID", "Label"}, "Labelbox JSON"),
    ({"item", "annotations"}, "V7 Darwin JSON"),
    ({"metadata", "instances"}, "SuperAnnotate JSON"),
    ({"images", "label_classes"}, "Hasty JSON"),
    ({"task_id", "response"}, "Scale AI JSON"),
    ({"itemId", "annotations"}, "Dataloop JSON"),
    ({"assets"}, "VoTT JSON"),
    ({"asset", "regions"}, "VoTT JSON"),
    ({"source-ref"}, "a manifest of SageMaker Ground Truth"),
    (
        {"image_id", "category_id", "score"},
        "a list of detections in COCO's form for results, without photos and names of classes",
    ),
    ({"image_id", "category_id"}, "a list of COCO annotations, without photos and names of classes"),
    ({"image_id", "objects"}, "Visual Genome JSON"),
    ({"image_id", "regions"}, "Visual Genome JSON"),
    ({"ID", "gtboxes"}, "CrowdHuman's odgt"),
    ({"info", "objects"}, "ISAT JSON"),
    ({"imgHeight", "objects"}, "Cityscapes JSON"),
    ({"samples"}, "FiftyOne's own JSON"),
    ({"classes", "labels"}, "FiftyOne's own JSON"),
    ({"image", "spans"}, "Prodigy JSON"),
    ({"filename", "ann"}, "a list of dicts as MMDetection uses them"),
    ({"data_list"}, "MMDetection's JSON"),
    ({"categories", "annotations"}, "COCO JSON without its photos"),
)
# What names a photo, its label, and a part of a box, in small letters without blanks, _ and -.
_PHOTOS = {"filename", "image", "imageid", "imagename", "imagepath", "path", "filepath", "img", "id"}
_LABELS = {"label", "labels", "class", "classname", "category", "target", "species", "text", "caption"}
_SIDE = re.compile(r"[xywh]\d?|.*(min|max|left|top|right|bottom)\d?|.*(box|point|polygon|segment|coord).*")
_OTHER_LINES = (
    (r"[A-Za-z_]+( -?[\d.]+){14,15}", "KITTI"),
    (r"imagesource:.*|(-?[\d.]+ ){8}\S+ \d", "DOTA"),
    (r"\d+,-?\d+(,-?[\d.]+){5,8}", "MOT Challenge"),
    (r".*\.(jpe?g|png|bmp)( -?\d+,-?\d+,-?\d+,-?\d+,\d+)+", "a list of photos and boxes as YOLO for Keras uses it"),
    (r"\d+--.*\.jpg", "WIDER FACE"),
    (r"[A-Za-z].*( -?\d+(\.\d+)?){4}", "class and corners, as OIDv4 writes them"),
    (r".*\bimage\b.*\blabel\b.*\blead_time\b.*", "Label Studio's CSV"),
    (r"(?i).*\b(EncodedPixels|rle|rle_mask)\b.*", "a table of run lengths of masks, as Kaggle's"),
    (r"filename(, [^,]+)+", "Roboflow's table of the classes of whole photos"),
    (r"(TRAIN|TEST|VALIDATE|VALIDATION|UNASSIGNED),gs://.*", "AutoML's CSV"),
)


class Lines(list):
    """The values of JSON lines."""


class Unrecognised(UserError):
    """A file of no known format."""


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


def other_tool(content: Any) -> str:
    """Return which tool's JSON this is, "" where that is not known."""
    first = content[0] if isinstance(content, list) and content else content
    keys = first.keys() if isinstance(first, dict) else set()
    return next((what for given, what in _OTHER_JSON if given <= keys), "")


def unrecognised(source: str, content: Any, forced: str | None) -> Unrecognised:
    """Return the error for a file of no known format; `content` is its JSON, or its text."""
    if forced:
        return Unrecognised(
            f"{source} is no {FORMATS[forced]}; leave --annotation_format out to recognise it by content"
        )
    first_line = content[:10_000].strip().partition("\n")[0].strip() if isinstance(content, str) else ""
    other = other_tool(content) or next((what for row, what in _OTHER_LINES if re.fullmatch(row, first_line)), "")
    if other:
        return Unrecognised(
            f"{source} looks like {other}, which is not read here; export it as COCO JSON, or convert it to COCO, YOLO or VOC"
        )
    first = content[0] if isinstance(content, list) and content else content
    if names := _labels_only(first, first_line):
        return Unrecognised(
            f"{source} looks like a list of photos without boxes (it has {', '.join(names[:8])}); crops need boxes. "
            f"Whole photos go to extract_embedding.py --data_root {Path(source).parent}, which takes their labels from "
            "metadata.csv there, with the columns file_name and label"
        )
    columns = {re.sub(r"[\s_-]", "", name).lower() for name in re.split(r"[,;\t]", first_line)}
    if columns & _PHOTOS and (fields.names_of_sides(columns) or columns & {"bbox", "boundingbox"}):
        return Unrecognised(
            f"{source} has photos and boxes but no column of labels ({fields.shown(first_line)}); add one called class"
        )
    holds = f"its first line is {fields.shown(first_line)}"
    if isinstance(content, dict):
        holds = f"its keys are {', '.join(map(str, list(content)[:6])) or 'none'}"
    elif isinstance(content, list):
        holds = f"JSON lines, {len(content):,} of them" if isinstance(content, Lines) else f"a list of {len(content):,}"
        holds += f" with the keys {', '.join(map(str, list(first)[:6]))}" if isinstance(first, dict) else ""
    return Unrecognised(
        f"{source} is of no known annotation format ({holds}): neither SKU JSON, COCO JSON nor one of "
        "docs/inputs.md; export it as COCO JSON"
    )


def _labels_only(first: Any, first_line: str) -> list[str]:
    """Return the names of what is said of each photo, where that is its file and a label or a text; [] where there is more."""
    names = list(map(str, first)) if isinstance(first, dict) else re.split(r"[,;\t]", first_line)
    names = [name.strip().strip('"') for name in names]
    plain = {re.sub(r"[\s_-]", "", name).lower() for name in names}
    is_flat = not isinstance(first, dict) or not any(isinstance(value, (list, dict)) for value in first.values())
    return names if is_flat and plain & _PHOTOS and plain & _LABELS and not any(map(_SIDE.fullmatch, plain)) else []
