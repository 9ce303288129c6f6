"""The folder of source images, searched by image id."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from common.images import EXTENSIONS, ImageError
from common.messages import UserError


class ImageFolder:
    """Finds the file of an image id: `<id>` with any image extension in any case, or the id as the file's own name."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._listed: dict[str, tuple[set[str], dict[str, list[str]]]] = {}

    def find(self, image_id: str) -> str:
        """Return the file's path relative to the folder.

        Raises ImageError when there is none or the id leads out of the folder, UserError naming both when there are two.
        """
        slashes = image_id.replace("\\", "/")  # annotations made on Windows
        if not image_id.strip():
            raise ImageError("empty image id")
        if "\0" in image_id or image_id.startswith("/") or ".." in slashes.split("/"):
            raise ImageError("image id leads out of the folder")
        found = self._files(image_id) or self._files(slashes)
        if not found:
            raise ImageError("image missing")
        if len(found) > 1:
            both = " and ".join(str(self.folder / file) for file in found[:2])
            raise UserError(f"{both} are both image {image_id!r}; rename or remove one of them")
        return found[0]

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
            names = {entry.name for entry in os.scandir(self.folder / below) if entry.is_file()}
        for name in sorted(names):
            if _is_image(name):
                for key in (_key(name), _plain(os.path.splitext(name)[0])):
                    by_key.setdefault(key, []).append(name)
        self._listed[below] = names, by_key
        return names, by_key


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _key(name: str) -> str:
    stem, extension = os.path.splitext(name)
    return _plain(stem) + extension.lower()


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # macOS stores names decomposed
