"""The folder of source images, searched by the names that annotations give them."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, unquote_plus

from common import files
from common.messages import UsageError, UserError
from imaging.crops import RECORD
from imaging.headers import EXTENSIONS
from imaging.images import ImageError

RULES = (
    "by their paths",
    "beside their annotation file",
    "by the end of their paths",
    "by their names",
    "by their names with another ending",
    "by their names in another case",
    "by their names without the prefix of an upload to Label Studio",
    "by the names of their annotation files",
    "inside their annotation files",
)
_EXACT, _BESIDE, _END, _NAME, _STEM, _CASE, _UPLOAD, OWN_NAME, EMBEDDED = RULES
MISSING = "image missing: no "  # how such a reason begins; then comes the name that was looked for
_SEARCHES = 200  # missing images whose nearest name is looked for; each takes milliseconds


@dataclass(frozen=True)
class Found:
    """An image file, relative to the folder, and the one of RULES that found it."""

    file: str
    rule: str


class ImageFolder:
    """Finds image files: by the path as given, decoded, shortened from the left, then by the name alone if it is unique."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._listed: dict[str, tuple[set[str], dict[str, list[str]]]] = {}
        self._found: dict[tuple[str, str, str], Found | ImageError] = {}
        self._tree: list[dict[str, list[str]]] | None = None
        self._searches = 0

    def find(self, image_id: str, *, beside: str = "", split: str = "") -> Found:
        """Return the file of an image id: a name with or without the ending of an image.

        `beside` is the annotation file's folder relative to this one, and `split` chooses among files of one name the one in
        a folder called so. Raises ImageError when there is none or several; a file outside the folder is never found.
        """
        key = (image_id, beside, split)
        if key not in self._found:
            try:
                self._found[key] = self._find(*key)
            except ImageError as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, ImageError):
            raise ImageError(*found.args)
        return found

    def _find(self, image_id: str, beside: str, split: str) -> Found:
        _check(image_id)
        if is_plain(image_id.replace("\\", "/")):
            for name in dict.fromkeys((image_id, image_id.replace("\\", "/"), image_id.replace("\\", "/").strip())):
                if files := self._files(name):
                    return Found(_only(files), _EXACT)
                if beside and (files := self._files(f"{beside}/{name}")):
                    return Found(_only(files), _BESIDE)
        paths = list(_addresses(image_id))
        for path in paths:
            parts = path.split("/")
            for start in range(len(parts) - 1):
                ending = "/".join(parts[start:])
                if files := self._files(ending) or (self._files(f"{beside}/{ending}") if beside else []):
                    return Found(_only(files), _END)
        by_name, by_stem, by_case = self._trees()
        for table, rule, key in (
            (by_name, _NAME, _plain),
            (by_stem, _STEM, lambda name: _plain(_stem(name))),
            (by_case, _CASE, _folded),
            (by_case, _CASE, lambda name: _folded(_stem(name))),
            (by_name, _UPLOAD, lambda name: _plain(re.sub("^[0-9a-f]{8}-", "", name))),
        ):
            for path in paths:
                name = path.rpartition("/")[2]
                if files := table.get(key(name), []):
                    return Found(
                        _only(_narrowed(files, path, beside, split)),
                        _NAME if rule == _STEM and not _is_image(name) else rule,
                    )
        raise ImageError(f"{MISSING}{image_id}{self._nearest(paths[-1] if paths else image_id)}")

    def _files(self, image_id: str) -> list[str]:
        below, _, name = image_id.rpartition("/")
        names, by_key = self._listed.get(below) or self._list(below)
        if not _is_image(name):
            found = by_key.get(_plain(name)) or [name] * (name in names)
        else:
            found = [name] if name in names else by_key.get(_key(name)) or by_key.get(_plain(name)) or []
        return [f"{below}/{file}" if below else file for file in found]

    def _list(self, below: str) -> tuple[set[str], dict[str, list[str]]]:
        names: set[str] = set()
        by_key: dict[str, list[str]] = {}
        if os.path.isdir(self.folder / below):  # False for what is no path at all
            names = {entry.name for entry in os.scandir(self.folder / below) if files.is_regular(entry)}
        for name in sorted(names):
            if _is_image(name):
                for key in (_key(name), _plain(_stem(name))):
                    by_key.setdefault(key, []).append(name)
        self._listed[below] = names, by_key
        return names, by_key

    def _trees(self) -> list[dict[str, list[str]]]:
        """Return every file below the folder by its name, and every image by its name without ending, and in lower case."""
        if self._tree is None:
            by_name, by_stem, by_case = self._tree = [{}, {}, {}]
            for path in sorted(self._walk("", frozenset())):
                name = path.rpartition("/")[2]
                by_name.setdefault(_plain(name), []).append(path)
                if _is_image(name):
                    by_stem.setdefault(_plain(_stem(name)), []).append(path)
                    for key in (name, _stem(name)):
                        by_case.setdefault(_folded(key), []).append(path)
        return self._tree

    def _walk(self, below: str, above: frozenset[str]) -> Iterator[str]:
        real = os.path.realpath(self.folder / below)
        if real in above:  # a link that leads back up
            return
        with os.scandir(self.folder / below) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        if below and any(entry.name == RECORD for entry in listed):  # crops, not photos
            return
        for entry in listed:
            if files.is_hidden(entry.name):
                continue
            if files.is_folder(entry):
                yield from self._walk(f"{below}{entry.name}/", above | {real})
            elif files.is_regular(entry):
                yield below + entry.name

    def _nearest(self, path: str) -> str:
        """Return the most similar name of an image in the folder, as the end of a reason; "" where none is similar."""
        self._searches += 1
        name = path.rpartition("/")[2]
        if self._searches > _SEARCHES or not name:
            return ""
        stem, names = _folded(_stem(name)), [key for key in self._trees()[0] if _is_image(key)]
        folded = {key.lower(): key for key in [key for key in names if abs(len(key) - len(name)) <= 8][:20_000]}
        nearest = [folded[key] for key in difflib.get_close_matches(_plain(name).lower(), folded, n=1)]
        if not nearest and len(stem) > 2:  # one is the other with something before or behind it
            nearest = [key for key in names if stem in _folded(key) or _folded(_stem(key)) in stem]
        return f"; the nearest name is {self._trees()[0][nearest[0]][0]}" if nearest else ""


def _check(image_id: str) -> None:
    """Raise ImageError for a name that can be no file's."""
    if not image_id.strip():
        raise ImageError("empty image id")
    if image_id.startswith("data:"):
        kind = image_id.partition(",")[0][:80]
        raise ImageError(f"image inside the annotation file ({kind}), which is not read here; save it as a file")
    if "\0" in image_id:
        raise ImageError(f"unsafe image id: {image_id!r}")


def same_folder_other_name(first: str, second: str) -> bool:
    """Whether two image files lie in one folder and differ in more than their endings."""
    return os.path.dirname(first) == os.path.dirname(second) and _stem(first) != _stem(second)


def is_plain(image_id: str) -> bool:
    """Return whether an id is a path below a folder as it stands: no address, no absolute path, nothing that leads up."""
    return not (image_id.startswith("/") or ".." in image_id.split("/") or re.match(r"[A-Za-z][\w+.-]*:/", image_id))


def _addresses(image_id: str) -> Iterator[str]:
    """Yield the relative paths that an id may mean: as it stands, decoded, as a URL, as what a URL's query names."""
    decoded = (image_id, unquote(image_id), unquote(unquote(image_id)), unquote_plus(image_id))
    for text in dict.fromkeys((*decoded, *(text.strip() for text in decoded))):
        path, mark, query = text.replace("\\", "/").partition("?")
        values = [value for _, value in parse_qsl(query) if _is_image(value) or "/" in value]
        for address in (*values, path, f"{path}?{query}" * bool(mark), path.partition("#")[0]):
            parts: list[str] = []
            for part in re.sub(r"^[A-Za-z][\w+.-]*:(//[^/]*(?=/))?", "", address.replace("\\", "/")).split("/"):
                if part == ".." and parts:
                    parts.pop()
                elif part not in ("", ".", ".."):
                    parts.append(part)
            if parts and "\0" not in address:
                yield "/".join(parts)


def _narrowed(files: list[str], path: str, beside: str, split: str) -> list[str]:
    """Return those of several files that share the most folders with `path`, then those in the split's folder or beside."""
    folders = path.split("/")[:-1]
    for start in range(len(folders)):
        ending = "/" + "/".join(folders[start:])
        if ended := [file for file in files if f"/{file.rpartition('/')[0]}".endswith(ending)]:
            files = ended
            break
    if len(files) > 1:
        of_split = re.compile(re.escape(split.lower()) + r"[\W_]?\d*") if split else re.compile("(?!)")
        near = [file for file in files if any(map(of_split.fullmatch, file.lower().split("/")[:-1]))]
        files = near or [file for file in files if beside and file.startswith(f"{beside}/")] or files
    return files


def _only(files: list[str]) -> str:
    if len(files) > 1:
        raise ImageError(
            f"image ambiguous: {' and '.join(files[:2])}" + f" and {len(files) - 2} more" * (len(files) > 2)
        )
    return files[0]


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _stem(name: str) -> str:
    return os.path.splitext(name)[0] if _is_image(name) else name


def _key(name: str) -> str:
    stem, extension = os.path.splitext(name)
    return _plain(stem) + extension.lower()


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # macOS stores names decomposed


def _folded(name: str) -> str:
    return _plain(name).casefold()


def choose(folder: Path | None, annotations: Sequence[Path]) -> Path:
    """Return the folder of images: the one that is named, else the one that holds all annotation files."""
    if folder is None:
        folders = [path if path.is_dir() else path.parent for path in annotations]
        folder = folders[0] if len({*folders}) == 1 else Path(os.path.commonpath([path.absolute() for path in folders]))
        if len({*folders}) > 1 and folder == Path(folder.anchor):
            raise UsageError("the annotations share no folder; name that of the images with --image_folder")
        for above in (
            folder,
            folder.parent,
        ):  # the images lie beside annotations/ or labels/, or beside labels/ of labels/train/
            if above.name.lower() in ("annotations", "labels"):
                folder = above.parent
                break
    if folder.is_file():
        raise UserError(
            f"{folder} is a file, not a folder; unpack it, or name the folder of images with --image_folder"
        )
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the folder of images with --image_folder")
    return folder
