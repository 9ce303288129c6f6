"""The cache folder of the user as others leave it: damaged, swapped, unreadable. A program is exported anew, nothing else runs."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from common.messages import UserError
from engines import precision, program

SIZE = (4, 6)
DEEP = "[" * 100_000


class Exported:
    """In the place of torch's exporter: a file that holds the model's name, as an exported one holds its weights."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def save(self, path: str, external_data: bool) -> None:
        assert not external_data
        Path(path).write_bytes(b"\x08\x0a\0" + self.text * 50)


class Named(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


@pytest.fixture(autouse=True)
def exports(tmp_path, monkeypatch):
    """The names of the models that were exported, in turn."""
    names: list[str] = []

    def export(module, *_, **__):
        names.append(module.name)
        return Exported(module.name.encode())

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.onnx, "export", export)
    return names


def of(name: str) -> program.Program:
    return program.Program(Named(name), SIZE, name)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def replaced(path: Path, make) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(path)


DAMAGE = {
    "truncated": lambda one: one.path.write_bytes(one.path.read_bytes()[:40]),
    "empty": lambda one: one.path.write_bytes(b""),
    "a text": lambda one: one.path.write_text("not ONNX"),
    "a flipped bit": lambda one: flip(one.path, 77),
    "a flipped bit of the seal": lambda one: flip(one.folder / "sha256", 5),
    "a seal that is no text": lambda one: (one.folder / "sha256").write_bytes(b"\xff\xfe\x80"),
    "no seal": lambda one: (one.folder / "sha256").unlink(),
    "a seal as long as a disk": lambda one: os.truncate(one.folder / "sha256", 1 << 40),
    "a program as long as a disk": lambda one: os.truncate(one.path, 1 << 40),
    "a pipe": lambda one: replaced(one.path, os.mkfifo),
    "a pipe for a seal": lambda one: replaced(one.folder / "sha256", os.mkfifo),
    "a link to a device": lambda one: replaced(one.path, lambda path: path.symlink_to("/dev/zero")),
    "a link to nothing": lambda one: replaced(one.path, lambda path: path.symlink_to("gone")),
    "a link round in a circle": lambda one: replaced(one.path, lambda path: path.symlink_to(path)),
    "a folder": lambda one: replaced(one.path, Path.mkdir),
    "a file for the folder": lambda one: replaced(one.folder, lambda path: path.write_text("x")),
    "a pipe for the folder": lambda one: replaced(one.folder, os.mkfifo),
    "a link to nothing for the folder": lambda one: replaced(one.folder, lambda path: path.symlink_to("gone")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_exported_anew(exports, damage):
    first = of("one").export().read_bytes()
    DAMAGE[damage](of("one"))
    assert of("one").export().read_bytes() == first
    assert exports == ["one", "one"]
    assert of("one").export().read_bytes() == first
    assert exports == ["one", "one"]


def test_the_program_of_another_model_is_never_taken(exports):
    """Its seal is whole, but it names the other model: by its vectors alone it would be noticed only where they differ much."""
    one, other = of("one"), of("other")
    mine = one.export().read_bytes()
    other.export()
    shutil.rmtree(one.folder)
    shutil.copytree(other.folder, one.folder)
    assert one.export().read_bytes() == mine
    assert exports == ["one", "other", "one"]


def test_a_link_in_the_place_of_the_folder_is_removed_and_what_it_names_stays(tmp_path, exports):
    one, elsewhere = of("one"), tmp_path / "photos"
    one.export()
    elsewhere.mkdir()
    (elsewhere / "model.onnx").write_bytes(b"mine")
    shutil.rmtree(one.folder)
    one.folder.symlink_to(elsewhere)
    one.export()
    assert not one.folder.is_symlink()
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == {"model.onnx": b"mine"}


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written: .*; use --engine torch"):
        of("one").export()


def test_two_runs_at_once_export_once(exports, monkeypatch):
    """The second one waits for the first, and takes what that has written."""
    slow, begun, end = program.Program._export, threading.Event(), threading.Event()

    def export(one):
        begun.set()
        assert end.wait(60)
        slow(one)

    monkeypatch.setattr(program.Program, "_export", export)
    runs = [threading.Thread(target=of("one").export) for _ in range(2)]
    runs[0].start()
    assert begun.wait(60)
    runs[1].start()
    end.set()
    for run in runs:
        run.join(60)
    assert exports == ["one"]


@pytest.mark.parametrize("content", ["", "[]", "3", "null", "{", '{"a"', DEEP, '{"x": NaN}', b"\xff\xfe", "0" * 5000])
def test_damaged_answers_are_measured_again(content):
    one = of("one")
    one.folder.mkdir(parents=True)
    answers = one.folder / "fastest.json"
    answers.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert one.remembered(6) is None
    pixels = torch.zeros((2, *SIZE, 3), dtype=torch.uint8)
    assert one.fastest(lambda batch: batch.float().mean((1, 2)), pixels) in program.installed()
    assert one.remembered(2) in program.installed()


@pytest.mark.parametrize("name", [None, 1, [], {}, ["torch"], "../x", "tensorrt"])
def test_an_answer_that_names_no_engine_is_none(name):
    one = of("one")
    one.folder.mkdir(parents=True)
    (one.folder / "fastest.json").write_text(json.dumps({one._where(6): name}))
    assert one.remembered(6) is None


def test_a_pipe_for_the_answers_is_no_wait():
    one = of("one")
    one.folder.mkdir(parents=True)
    os.mkfifo(one.folder / "fastest.json")
    assert one.remembered(6) is None
    measured = precision.Measured("model", torch.device("cpu"))
    os.mkfifo(measured._path)
    assert not precision.Measured("model", torch.device("cpu")).was_close("bf16")
