"""Readers of unknown files: whatever the bytes, a result or one sentence; no traceback, hang, or memory out of proportion."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from builders import make, pickled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotations import formats as annotations
from common import embeddings, npz
from common.messages import UserError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@contextlib.contextmanager
def bounded(n_bytes: int):
    """Fail when the block keeps more than ten times the file's size plus 64 MiB, or takes over ten seconds of processor time."""
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 10 * n_bytes + (64 << 20)
    assert time.process_time() - start < 10


def seeds(folder) -> list[bytes]:
    embeddings.save(folder / "schema.npz", make(20))
    np.savez_compressed(folder / "foreign.npz", vectors=make(9).vectors, labels=np.array(list("abcabcabc")))
    old = {"embeddings": make(6).vectors, "class_names": list("aabbcc"), "ids": np.array(list("123456"), dtype=object)}
    pickled(folder / "legacy.npz", old)
    return [(folder / f"{name}.npz").read_bytes() for name in ("schema", "foreign", "legacy")]


edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "zero", "copy"]), st.floats(0, 1), st.binary(min_size=1, max_size=9)
    ),
    min_size=1,
    max_size=6,
)


def edited(data: bytes, changes) -> bytes:
    out = bytearray(data)
    for kind, where, content in changes:
        at = int(where * max(0, len(out) - 1))
        if kind == "flip" and out:
            out[at] ^= content[0] or 1
        elif kind == "cut":
            del out[at : at + 7 * content[0]]
        elif kind == "insert":
            out[at:at] = content
        elif kind == "zero":
            out[at : at + len(content)] = bytes(len(content))
        else:
            out[at:at] = out[: 16 * len(content)]
    return bytes(out)


def read(path) -> None:
    with bounded(path.stat().st_size), contextlib.suppress(UserError), np.errstate(all="ignore"):
        one = embeddings.load(path)
        assert len(one.label()) == len(one) == len(one.crop_ids)
        assert np.isfinite(np.asarray(one.vectors)).all()


class Workplace:
    """A folder and the sound files that are damaged; hypothesis prints it briefly."""

    def __init__(self, folder) -> None:
        self.folder, self.originals = folder, seeds(folder)

    def __repr__(self) -> str:
        return "workplace"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("fuzz"))


@FUZZ
@given(number=st.integers(0, 2), changes=edits)
def test_damaged_npz(workplace, number, changes):
    folder, originals = workplace.folder, workplace.originals
    path = folder / "damaged_test.npz"
    path.write_bytes(edited(originals[number], changes))
    read(path)


@FUZZ
@given(changes=edits, number=st.integers(0, 2))
def test_damaged_content_with_a_sound_checksum(workplace, changes, number):
    """The zip is made anew around damaged entries, so that headers, texts and pickles are reached."""
    folder, originals = workplace.folder, workplace.originals
    path = folder / "inside_test.npz"
    with zipfile.ZipFile(io.BytesIO(originals[number])) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, edited(old.read(name), changes))
    read(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
points = st.dictionaries(st.sampled_from(["top_left", "bottom_right", "x"]), values, max_size=3)
sku = st.dictionaries(
    st.text(max_size=4),
    st.dictionaries(
        st.text(max_size=4),
        st.dictionaries(st.sampled_from(["points", "sku_id", "split_id", "classes"]), values | points),
        max_size=3,
    )
    | values,
    max_size=3,
)
coco = st.fixed_dictionaries(
    {},
    optional={
        "images": st.lists(st.dictionaries(st.sampled_from(["id", "file_name", "width", "height"]), values)) | values,
        "annotations": st.lists(st.dictionaries(st.sampled_from(["id", "image_id", "category_id", "bbox"]), values))
        | values,
        "categories": st.lists(st.dictionaries(st.sampled_from(["id", "name", "supercategory", "classes"]), values))
        | values,
    },
)


@FUZZ
@given(content=sku | coco | values)
def test_any_json_is_records_and_skips_or_one_sentence(workplace, content):
    path = workplace.folder / "any.json"
    path.write_text(json.dumps(content))
    with bounded(path.stat().st_size), contextlib.suppress(UserError):
        annotations.parse(path.read_bytes(), path)


@FUZZ
@given(changes=edits)
def test_damaged_json(workplace, changes):
    good = {"a": {"1": {"points": {"top_left": [1, 2], "bottom_right": [30, 40]}, "sku_id": "x", "split_id": "train"}}}
    path = workplace.folder / "damaged.json"
    path.write_bytes(edited(json.dumps(good).encode(), changes))
    with bounded(path.stat().st_size), contextlib.suppress(UserError):
        annotations.parse(path.read_bytes(), path)


def test_json_nested_beyond_reason(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(UserError, match=r"deep\.json"):
        annotations.parse(path.read_bytes(), path)


def test_threads_read_headers_at_once():
    """CPython 3.11 mixed up the depths of two threads' syntax trees when garbage was collected in between: SystemError."""
    import gc
    import threading
    import time

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (3, 4)})
    problems, end = [], time.monotonic() + 2

    def read():
        while time.monotonic() < end and not problems:
            try:
                npz._read_header(io.BytesIO(buffer.getvalue()))
            except ValueError as error:
                problems.append(error)

    def yielding(*event):
        time.sleep(0)

    before, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(yielding)
    gc.set_threshold(50)
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(yielding)
        gc.set_threshold(*before)
        sys.setswitchinterval(interval)
    assert not problems
