"""Labels, IDs and splits: label paths, split names, groups of photos, natural order, stratified samples."""

from __future__ import annotations

import csv
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.messages import UsageError, UserError, count, warn

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
SPLIT_NAMES = tuple(name for names in SPLITS.values() for name in names)
# Letters of Cyrillic and Greek that look like Latin ones, and those.
_ALIKE = str.maketrans("АВЕКМНОРСТХІЈЅаеорсухіјѕԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧοα", "ABEKMHOPCTXIJSaeopcyxijsqwABEZHIKMNOPTYXoa")
_CHUNK = 1 << 16  # texts looked at at a time


def split_of_folder(name: str) -> str:
    """Return the split that a folder's name says: `train` of `train2017`, `test` of `Test_set`; "" for none."""
    found = re.fullmatch(r"([a-z]+)(?:[ _-]?(?:\d+|data|set|dataset|split|images|labels|crops))?", name.lower())
    return found[1] if found and found[1] in (*SPLIT_NAMES, "dev") else ""


def same_split(first: str, second: str) -> bool:
    """Whether two names are those of one split, such as `val` and `validation`."""
    return first == second or any(first in names and second in names for names in SPLITS.values())


def clean(texts: np.ndarray) -> np.ndarray:
    """Return label texts, an array of str of any shape, without blanks around them and with composed accents (NFC).

    The array itself, which may be a memory map, where it has none of either.
    """
    flat = texts.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK]
        if (np.char.strip(part) != part).any() or not all(map(_is_composed, set(part.tolist()))):
            break
    else:
        return texts
    known = {text: cleaned(text) for text in set(flat.tolist())}
    return np.array([known[text] for text in flat.tolist()], dtype=str).reshape(texts.shape)


def cleaned(text: str) -> str:
    """Return one label without blanks around it and with composed accents (NFC)."""
    return unicodedata.normalize("NFC", text.strip())


def _is_composed(text: str) -> bool:
    return text.isascii() or unicodedata.is_normalized("NFC", text)


def text_of(value: Any) -> str:
    """Return the label that a typed value is: a whole number as an integer, None and NaN as '' (missing), text as it is."""
    if value is None or value is np.ma.masked:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return ""
        return str(int(value)) if float(value).is_integer() else str(value)
    if isinstance(value, (list, tuple, np.ndarray)) and len(value) == 1:
        return text_of(value[0])
    if isinstance(value, (list, tuple, dict, set, np.ndarray)):
        raise ValueError(f"a label is no {type(value).__name__} of several")
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' own missing values
        return ""
    return str(value)


def texts_of(values: np.ndarray) -> np.ndarray:
    """Return an array of any type as label texts of the same shape, see `text_of` and `clean`.

    Raises ValueError for bytes that are not UTF-8 and for types that are no labels.
    """
    if values.dtype.kind == "U":
        return clean(values)
    if values.dtype.kind in "iub":
        return values.astype(str)
    if values.dtype.kind not in "fOS":
        raise ValueError(f"{values.dtype} is no type of labels")
    distinct: dict[Any, str] = {}
    texts = []
    for value in values.ravel().tolist():
        try:
            texts.append(distinct[type(value), value])
        except KeyError:
            texts.append(distinct.setdefault((type(value), value), text_of(value)))
        except TypeError:  # what cannot be hashed, such as a list
            texts.append(text_of(value))
    return clean(np.array(texts, dtype=str).reshape(values.shape))


def warn_strangers(
    references: Iterable[str], queries: Iterable[str], names: tuple[str, str] = ("references", "queries")
) -> None:
    """Warn when no label, or under half of the labels of the queries, occurs among the references; `names`: of both sides.

    Warn of a label, too, that the other side has in other capitals, or with another of blank, hyphen and underscore.
    """
    known, asked = {*references} - {""}, {*queries} - {""}
    shared = asked & known
    others = {loosely(label): label for label in sorted(known - asked)}
    pairs = [(label, others[loosely(label)]) for label in sorted(asked - known) if loosely(label) in others]
    if pairs:
        shown = ", ".join(" for ".join(map(_told, pair)) for pair in pairs[:3]) + ", …" * (len(pairs) > 3)
        warn(
            f"{count(len(pairs), 'label')} of the {names[1]} {'is' if len(pairs) == 1 else 'are'} written otherwise among the "
            f"{names[0]} ({shown}) and counted as others; name both alike if they are the same"
        )
    if step := _numbered_otherwise(known, asked):
        warn(
            f"the labels of the {names[1]} are those of the {names[0]} {step} (such as {sorted(asked, key=natural)[0]!r} and "
            f"{sorted(known, key=natural)[0]!r}); check that both number the classes alike"
        )
    if not asked or 2 * len(shared) >= len(asked):
        return
    few = f"only {len(shared):,}" if shared else "none"
    examples = []
    for name, labels in zip(names, (known - asked, asked - known), strict=True):
        examples.append(f"{name}: {', '.join(map(repr, sorted(sorted(labels), key=natural)[:3])) or 'none'}")
    warn(
        f"{few} of the {len(asked):,} labels of the {names[1]} occurs among the {len(known):,} of the {names[0]} "
        f"({'; '.join(reversed(examples))}); check that both name the classes alike"
    )


def warn_alike(labels: Iterable[str]) -> None:
    """Name labels that differ only in how a number or blanks are written, or look alike; they stay apart."""
    written: dict[str, list[str]] = {}
    for label in sorted(sorted({*labels}), key=natural):
        written.setdefault("/".join(map(_plain, label.split("/"))), []).append(label)
    alike = [names for names in written.values() if len(names) > 1]
    if alike:
        shown = "; ".join(" and ".join(map(_told, names[:3])) for names in alike[:3]) + (" …" if len(alike) > 3 else "")
        warn(f"labels that differ only in how they are written stay {len(alike[0])} labels: {shown}")


def _told(label: str) -> str:
    """Return a label in quotes; where it holds letters that look like others, these as their numbers, too."""
    alike = _seen(label) != unicodedata.normalize("NFKC", label) and repr(label) != ascii(label)
    return f"{label!r} ({ascii(label)[1:-1]})" if alike else repr(label)


def _numbered_otherwise(known: set[str], asked: set[str]) -> str:
    """Return "plus 1" or "minus 1" where all labels are numbers in a row that count from another start on both sides."""
    if len(asked) < 2 or len(asked) != len(known) or not all(re.fullmatch(r"\d{1,9}", name) for name in asked | known):
        return ""
    first, other = (sorted(map(int, names)) for names in (asked, known))
    if any(names[-1] - names[0] != len(names) - 1 for names in (first, other)):
        return ""
    return {1: "plus 1", -1: "minus 1"}.get(first[0] - other[0], "")


def loosely(name: str) -> str:
    """Return a name without what people write in different ways: capitals, and a blank, hyphen or underscore."""
    return " ".join(re.split(r"[\s_-]+", _seen(name).casefold()))


def _seen(name: str) -> str:
    """Return a name as it is seen: without what is invisible, and letters of other alphabets as the Latin ones they look like."""
    shown = "".join(sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign) != "Cf")
    return shown.translate(_ALIKE)


def _plain(name: str) -> str:
    """Return what labels have in common that differ only in how they are written."""
    name = " ".join(_seen(name).split())
    return str(float(name)) if re.fullmatch(r"[+-]?\d+(\.\d*)?", name, re.ASCII) else name


def label_paths(labels: np.ndarray, level: int | None = None, *, source: object = "the data") -> np.ndarray:
    """Return the (n,) str paths class_0/…/class_level of (n, levels) str class names, '' where a level is missing.

    Without a level: the whole paths. Raises UserError, which names `source`, where there is no such level.
    """
    levels = labels.shape[1]
    if level is not None and not 0 <= level < levels:
        raise UserError(f"{source} has label levels 0 to {levels - 1}, not {level}; change --label_level")
    paths = np.full(len(labels), "", dtype="<U1")
    for column in range(levels if level is None else level + 1):
        names = labels[:, column]
        longer = np.char.add(np.char.add(paths, "/"), names) if column else names
        paths = np.where(names == "", paths, longer)
    return paths


def stratified_sample(codes: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Return at most `n` rising row numbers (int64) of `codes` (rows,) int, stratified by code; all rows where there are no more.

    Every class gets its share of `n`, rounded by the largest remainder, and at least one row as long as there are not more classes
    than `n`; then `n` classes, drawn at random, get one each.
    """
    if len(codes) <= n:
        return np.arange(len(codes))
    rng = np.random.default_rng(seed)
    _, classes, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    if len(sizes) > n:
        wanted = np.zeros(len(sizes), np.int64)
        wanted[rng.permutation(len(sizes))[:n]] = 1
    else:
        share = sizes * (n / len(codes))
        wanted = np.maximum(1, np.floor(share).astype(np.int64))
        # Classes that were rounded up to one row may make too many: the largest classes give rows back.
        while (over := int(wanted.sum()) - n) > 0:
            richest = np.argsort(-(wanted - share) * (wanted > 1), kind="stable")[:over]
            wanted[richest[wanted[richest] > 1]] -= 1
        more = np.argsort(-np.where(wanted < sizes, share - wanted, -np.inf), kind="stable")[: n - int(wanted.sum())]
        wanted[more] += 1
    order = rng.permutation(len(codes))
    order = order[np.argsort(classes[order], kind="stable")]  # class by class, in random order within a class
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.repeat(wanted, sizes)])


def natural(text: str) -> list[tuple[float, str]]:
    """Return a sorting key by which -5 comes before 5, 5 before 10, and 10 before 10-vit; numbers come before words."""
    parts = enumerate(re.split(r"((?:^-)?\d+(?:\.\d+)?)", text))  # every second one is a number
    return [(float(part), "") if at % 2 else (math.inf, part) for at, part in parts if part]


def groups(photos: Sequence[str], group_by: str | None) -> list[str]:
    """Return the group of each photo: itself, the first group of an expression, or what a CSV of sample_id,group says."""
    if group_by is None:
        return list(photos)
    if group_by.lower().endswith(".csv"):
        return _listed(photos, _read_groups(Path(group_by)), f"{group_by} has no line for")
    try:
        expression = re.compile(group_by)
    except re.error as error:
        raise UsageError(f"--group_by {group_by}: not a regular expression ({error})") from None
    if not expression.groups:
        raise UsageError(f"--group_by {group_by}: put what photos of one group share in brackets, as in '(shelf\\d+)_'")
    found = {photo: match.group(1) for photo in photos if (match := expression.search(photo)) and match.group(1)}
    return _listed(photos, found, f"--group_by {group_by} matches nothing in")


def _listed(photos: Sequence[str], group_of: Mapping[str, str], complaint: str) -> list[str]:
    lacking = [photo for photo in photos if photo not in group_of]
    if lacking:
        raise UserError(f"{complaint} {count(len(lacking), 'sample id')} of {len(photos):,}, such as {lacking[0]!r}")
    return [group_of[photo] for photo in photos]


def _read_groups(path: Path) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows: Iterable[dict[str, str]] = csv.DictReader(file)
            return {row["sample_id"]: row["group"] for row in rows}
    except (KeyError, csv.Error):
        raise UserError(f"{path}: --group_by needs a CSV with the columns sample_id and group") from None
