"""Files of other tools with what nobody expects in them: arrays of any type, tables, lists of labels, COCO as objects by id."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from hostile import call, check, sentence, shelf

import crop
import evaluate_combo

N = 12
VECTORS = np.random.default_rng(0).standard_normal((N, 8)).astype(np.float32)
ONE_HOT = np.eye(4)[np.arange(N) % 4]


def objects(*values: Any) -> np.ndarray:
    return np.array([*values, None], dtype=object)[:-1]


ARRAYS: dict[str, np.ndarray] = {
    "one-hot": ONE_HOT,
    "one-hot of NaN": np.where(ONE_HOT > 0, np.nan, 0),
    "no 1 in a row": np.zeros((N, 4)),
    "all 1": np.ones((N, 4)),
    "no columns": np.zeros((N, 0)),
    "three dimensions": np.ones((N, 2, 2)),
    "no dimension": np.array(3),
    "flags": ONE_HOT.astype(bool),
    "complex": np.ones(N, complex),
    "dates": np.array(["2020-01-01", "NaT"] * 6, "datetime64[D]"),
    "void": np.zeros(N, "V4"),
    "records": np.zeros(N, [("a", "i4"), ("b", "f4")]),
    "bytes": np.array([b"\xff\xfe"] * N),
    "zero characters": np.array(["a\0b"] * N),
    "long texts": np.array(["x" * 100_000] * N),
    "surrogates": np.array(["\udcff"] * N),
    "large": np.full(N, 1e300),
    "infinite": np.full(N, np.inf),
    "largest whole number": np.full(N, 2**64 - 1, np.uint64),
    "too few": np.arange(3),
    "none": np.zeros(0),
    "mixed objects": objects(1, "a", None, 2.5, True, b"x", float("nan"), "b", 1, 1, 1, 1),
    "lists": objects(*[[1, 2]] * N),
    "lists of unlike length": objects(*([1] * length for length in range(N))),
    "dicts": objects(*[{"a": 1}] * N),
    "matrices": objects(*[np.eye(2)] * N),
    "nothing": objects(*[None] * N),
    "endless numbers": objects(*[10**40] * N),
}
TEXTS = (
    *(b"\xff\xfe", b"\xff\xfea", b"\xff\xfe\x00\xd8", b"", b"\n" * N, b"\0" * N, b"a\r\nb\r" * 6, b'"a\n' * N),
    *(b"label\n" + b"x\n" * N, b"label,label\n" + b"x,y\n" * N, b"label;x\n" + b"a;1\n" * N, b"a,b\n" * 3),
    *(b"x" * 200_000 + b",label\n" + b"1,2\n" * N, b"[]", b"[1", b'["a"]', b"[" * 100_000, b"[{}]", b"[1] x"),
    *(json.dumps([*values, *[1] * (N - 1)]).encode() for values in ([None], [float("nan")], [10**4000], ["\ud800"])),
    *(b"v,label\n" + f'"{text}",a\n'.encode() * N for text in ("[1, ..., 2]", "[]", "[nan inf]", "[[1]]")),
    *(b"f0,f1,f2\n" + row * 3 for row in (b"1,2\n", b"1e999,1,2\n", b",,\n", b"1,x,2\n")),
)


def fault_of(path: Path, *more: object) -> str | None:
    both = ["--train_npz", path, "--test_npz", path, "--reference_split", "all", "--query_split", "all"]
    code, _, err = call(evaluate_combo.main, *both, *more)
    return sentence(code, err)


def test_arrays_of_any_type_in_any_place(tmp_path: Path) -> None:
    path, plain, labels = tmp_path / "x_all.npz", tmp_path / "y_all.npy", tmp_path / "labels.npy"
    np.save(plain, VECTORS)

    def fault(case: tuple[str, str]) -> str | None:
        kind, place = case
        if place == "--labels":
            np.save(labels, ARRAYS[kind])
            return fault_of(plain, "--labels", labels)
        arrays = {"embeddings": VECTORS, "labels": ONE_HOT.argmax(axis=1), place.removeprefix("--"): ARRAYS[kind]}
        np.savez(path, **arrays)
        return fault_of(path, *(["--labels_key", "key"] if place == "--key" else []))

    places = ("embeddings", "labels", "ids", "paths", "sample_ids", "targets", "meta", "--key", "--labels")
    check("arrays of any type", [(kind, place) for kind in ARRAYS for place in places], fault)


def test_texts_and_tables_of_any_form(tmp_path: Path) -> None:
    plain = tmp_path / "y_all.npy"
    np.save(plain, VECTORS)

    def fault(case: tuple[bytes, str, bool]) -> str | None:
        content, ending, is_labels = case
        path = tmp_path / f"t_all.{ending}"
        path.write_bytes(content)
        return fault_of(plain, "--labels", path) if is_labels else fault_of(path)

    endings = ("txt", "csv", "tsv", "json", "npy")
    cases = [(text, ending, is_labels) for text in TEXTS for ending in endings for is_labels in (True, False)]
    check("texts and tables of any form", cases, fault)


ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, float("nan"), float("inf"), 10**30, "", "0", "p0.jpg", "\0", "../p0.jpg", "\ud800"),
    *([], {}, [[]], [1, 2, 3, 4], ["a"] * 4, [None] * 4, [10**400] * 4, {"a": 1}, {"$oid": "x"}, "1,2,3,4"),
    *([[1, 2, 3, 4, 5, 6]], {"size": [48, 64], "counts": "abc"}, {"size": [10**9, 10**9], "counts": [1]}),
)
FIELDS = (
    *("id", "segmentation", "iscrowd", "split", "supercategory", "classes", "name", "category_name", "path"),
    *("coco_url", "image_id", "category_id", "bbox", "width", "file_name"),
)


def edited(content: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Return a COCO file with lists as objects by id, lists that are none, and odd values in some fields."""
    content = copy.deepcopy(content)
    for name in list(content):
        form = draw.random()
        if form < 0.4:
            content[name] = {str(entry["id"]): entry for entry in content[name]}
        elif form < 0.5:
            content[name] = copy.deepcopy(draw.choice(ODD))
    for _ in range(draw.randrange(1, 4)):
        entries = content[draw.choice(list(content))]
        entries = list(entries.values()) if isinstance(entries, dict) else entries
        if isinstance(entries, list) and entries and isinstance(entry := draw.choice(entries), dict):
            entry[draw.choice(FIELDS)] = copy.deepcopy(draw.choice(ODD))
    return content


def test_coco_of_odd_values(tmp_path: Path) -> None:
    words = shelf(tmp_path, 2)
    path, out = tmp_path / "boxes.json", tmp_path / "o"
    content = json.loads(path.read_text())

    def fault(seed: int) -> str | None:
        path.write_text(json.dumps(edited(content, random.Random(seed))))
        more = ["--cutout", "mask"] if seed % 3 == 0 else []
        code, _, err = call(crop.main, *words, "--output_root", out, "--workers", 1, *more)
        shutil.rmtree(out, ignore_errors=True)
        return sentence(code, err)

    check("COCO of odd values", range(300), fault)
