"""Files: kinds by first bytes, names of any bytes, seals in large files, what reaches the disk, and fields of records."""

from __future__ import annotations

import itertools
import os

import pandas as pd
import pytest

from common import files, run_record, table_files
from common.messages import UserError


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 30, "a PNG picture"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 20 + b"pHYs\0\0\x18\x9b\0\0\x18\x9b\1", "a drawn PNG"),
        (b"PK\x03\x04\0\0", "an .npz or other zip archive"),
        (b"PAR1\0", "a Parquet file"),
        (b"\xff\xd8\xff\xe0", "a JPEG picture"),
        (b"II*\0", "a TIFF picture"),
        (b"MM\0*", "a TIFF picture"),
        (b"a\0b", "a binary file"),
        (b"<?xml version='1.0'?>", "an SVG picture"),
        (b" <!-- x --><svg>", "an SVG picture"),
        (b"\xef\xbb\xbf\n <!DOCTYPE HTML>", "an HTML page"),
        (b"#!/bin/sh\n", "a program"),
        (b'"""Doc."""\n', "a program"),
        (b" {}", "a JSON file"),
        (b"[1]", "a JSON file"),
        (b"a,b\n", "a text file"),
        (b"", ""),
        (b" \n", ""),
    ],
)
def test_kinds_by_first_bytes(head, kind):
    assert files.kind_of(head) == kind


def test_names_of_any_bytes_are_texts_and_come_back():
    """No two names become one text: all names of up to three parts, of parts that look like escapes and of bytes that are none."""
    parts = [b"a", b"\\", b"x", b"5c", b"e9", b"\xe9", "é".encode(), b"\\xe9", b"\\x5c"]
    names = {b"".join(chosen) for n in (1, 2, 3) for chosen in itertools.product(parts, repeat=n)}
    texts = {files.text_of_name(os.fsdecode(name)) for name in names}
    assert len(texts) == len(names)
    for name in names:
        text = files.text_of_name(os.fsdecode(name))
        text.encode()  # UTF-8 holds it
        assert os.fsencode(files.name_of_text(text)) == name
    assert files.text_of_name("a\\xe9") == "a\\x5cxe9"
    assert files.text_of_name(os.fsdecode(b"a\xe9")) == "a\\xe9"
    assert files.text_of_name("a\\b é") == "a\\b é"


@pytest.mark.parametrize("before", [0, 1 << 20, 3 << 20])
@pytest.mark.parametrize("after", [0, 1 << 19, 3 << 20])
def test_a_seal_anywhere_near_the_ends_of_a_file_tells_a_change(tmp_path, before, after):
    path = tmp_path / "a.txt"
    path.write_bytes(b"b" * before + f"<{files.SEAL}>".encode() + b"a" * after)
    files.seal(path)
    data = path.read_bytes()
    is_sealed = files.SEAL.encode() not in data
    assert is_sealed == (before < 1 << 20 or after < 1 << 20)
    files.check_seal(path)
    for place in (0, len(data) - 1) if is_sealed else ():
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(UserError, match="is damaged or was changed"):
            files.check_seal(path)


@pytest.mark.parametrize("sync", [True, False])
def test_what_is_to_outlast_a_power_cut_reaches_the_disk_before_its_name(tmp_path, monkeypatch, sync):
    done, fsync, replace = [], os.fsync, os.replace

    def flushed(descriptor):
        done.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def renamed(old, new):
        done.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    files.write_bytes(tmp_path / "a.txt", b"x", sync=sync)
    assert (tmp_path / "a.txt").read_bytes() == b"x"
    file, folder = (os.stat(path).st_ino for path in (tmp_path / "a.txt", tmp_path))
    assert done == ([file, "renamed", folder] if sync else ["renamed"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_regular_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * 100_000)
    assert files.read_regular(path, 100_000) == b"x" * 100_000
    with pytest.raises(OSError, match="its 100,000 bytes are more than is read"):
        files.read_regular(path, 99_999)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="it is no regular file"):
            files.read_regular(other, 10)


SOUND = {
    "TEXT": ["", "a"],
    "NAME": ["", "a", 0, -1, 1.5, 1e308, 3],
    "OBJECT": [{}, {"a": 1}],
    "FLAG": [True, False],
    "NUMBER": [0, -1, 1.5, 1e308, 10**300],
    "POSITIVE": [1, 0.1, 1e308],
    "WHOLE": [0, 1, (1 << 63) - 1],
    "UNIQUE_TEXTS": [[], ["a", "b"]],
}
ODD = {
    "TEXT": [None, 1, "a\0", [], {}],
    "NAME": [None, True, float("nan"), float("inf"), 10**400, [], {}],
    "OBJECT": [None, [], "{}"],
    "FLAG": [None, 0, 1, "true"],
    "NUMBER": [None, True, "1", float("nan"), float("inf"), -float("inf"), 10**400, -(10**400), []],
    "POSITIVE": [None, True, 0, -1, float("nan"), float("inf"), 10**400, "1"],
    "WHOLE": [None, True, -1, 1.0, 1 << 63, "1"],
    "UNIQUE_TEXTS": [None, ["a", "a"], ["a", 1], [["a"]], "ab"],
}


@pytest.mark.parametrize("name", SOUND)
def test_fields_of_records(name):
    check = getattr(run_record, name)
    for values, sound in ((SOUND[name], True), (ODD[name], False)):
        for value in values:
            assert check[1](value) is sound, value
            assert run_record.optional(check)[1](value) is (sound or value is None), value
    assert run_record.optional(check)[0] == f"{check[0]} or null"


def test_what_differs_between_two_records_is_told_by_option_and_value():
    old = {"seed": 0, "model": "a", "normalized": True, "input": "1", "preprocess": {"height": 1, "width": 2}}
    new = {**old, "seed": 1, "normalized": False, "input": "2", "preprocess": {"height": 3, "width": 2}}
    assert run_record.differences(old, old) == ""
    told = (
        "input: images or labels were added, removed or changed, --normalize true -> false, "
        "input size 2 x 1 -> 2 x 3 pixels, "
    )
    assert run_record.differences(old, new) == told + "--seed 0 -> 1"
    assert run_record.differences(old, new, ["seed"]) == "--seed 0 -> 1"
    assert run_record.differences({}, {"seed": "x" * 61}) == f'--seed not given -> "{"x" * 28}…{"x" * 29}"'
    assert run_record.differences({}, {"seed": "x" * 58}) == f'--seed not given -> "{"x" * 58}"'


@pytest.mark.parametrize(("safe", "cell"), [(False, "=1+1"), (True, "'=1+1")])
def test_a_table_is_its_rows_without_their_numbers(tmp_path, safe, cell):
    frame = pd.DataFrame({"name": ["=1+1", 'a, "b"'], "n": [1, 2]}, index=[7, 8])
    table_files.write(tmp_path / "a.csv", frame, spreadsheet_safe=safe)
    assert (tmp_path / "a.csv").read_text() == f'name,n\n{cell},1\n"a, ""b""",2\n'
    assert table_files.read_csv(tmp_path / "a.csv") == (["name", "n"], [[cell, "1"], ['a, "b"', "2"]])
    found, told = table_files.read(tmp_path / "a.csv")
    assert found.to_dict("list") == {"name": ["=1+1", 'a, "b"'], "n": ["1", "2"]}
    assert told == ""
    table_files.write(tmp_path / "a.parquet", frame)
    assert table_files.read(tmp_path / "a.parquet")[0].to_dict("list") == frame.to_dict("list")


def test_a_field_of_fields_that_one_record_lacks_is_told_whole():
    told = run_record.differences({"preprocess": {"height": 1}}, {})
    assert told == 'preprocess {"height": 1} -> not given'
