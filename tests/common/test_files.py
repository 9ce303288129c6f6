"""Files: kinds by first bytes, names of any bytes, seals in large files, what reaches the disk, and fields of records."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import files, run_record
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


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<html><title>Sign in</title>", "download it again"),
        (b" " * files.HEAD + b"<html>", ""),
        (b"version: 1\n", ""),
        (b"{}", ""),
    ],
)
def test_what_only_stands_for_a_file(head, told):
    assert told in files.stand_in(head)
    assert bool(files.stand_in(head)) == bool(told)


@pytest.mark.parametrize(
    ("name", "old", "new", "replaced"),
    [
        ("a.txt", b"", b"PAR1", True),
        ("a.txt", b"text", b"", True),
        ("a.txt", b"text", b"other", True),
        ("a.txt", b"text", b"PAR1", False),
        ("a.csv", b"name,n\n", b"name;price\n", True),
        ("a.csv", b'\xef\xbb\xbf"name",n\n', b"name\n", True),
        ("a.CSV", b"name,n\n", b"names,n\n", False),
        ("a.txt", b"name,n\n", b"names,n\n", True),
        ("a.csv", b"{}", b"[1]", True),
    ],
)
def test_a_file_gives_way_to_one_of_its_kind(tmp_path, name, old, new, replaced):
    path = tmp_path / name
    path.write_bytes(old)
    if replaced:
        files.write_bytes(path, new)
    else:
        with pytest.raises(UserError, match="name another file, or remove it"):
            files.write_bytes(path, new)
    assert path.read_bytes() == (new if replaced else old)
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with pytest.raises(NotADirectoryError) as gone, files.whole(path) as temporary:
        os.rmdir(temporary)
    assert (gone.value.filename, gone.value.filename2) == (str(path), None)
    with pytest.raises(OSError, match="full") as nameless, files.whole(path):
        raise OSError(28, "full")
    assert nameless.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as other, files.whole(path):
        (tmp_path / "b.txt").read_bytes()
    assert other.value.filename == str(tmp_path / "b.txt")
    with pytest.raises(IsADirectoryError):
        files.write_text(tmp_path, "x")
    assert path.parent.is_dir()
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_file_that_a_stream_goes_to_is_written_into(tmp_path, root, stream):
    """What was printed before comes first, and what is printed later behind it: the file is not replaced under the stream."""
    path = tmp_path / "all.txt"
    code = f"""
import sys
from common import files
print("before", file=sys.{stream})
files.write_text({str(path)!r}, "content\\n")
print("after", file=sys.{stream}, flush=True)
"""
    with open(path, "a") as file:
        subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60, **{stream: file})
    assert path.read_text() == "before\ncontent\nafter\n"


def test_leftovers_below_a_folder_go_but_those_of_a_folder_that_is_held(tmp_path):
    leftover, older = ".0123abcd-0123456789abcdef.tmp", ".77-0123456789abcdef.tmp"
    kept = [".0123abcd-0123456789abcde.tmp", "0123abcd-0123456789abcdef.tmp", "a.tmp", files.LOCK]
    for folder in ("", "sub", "held", "held/sub"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in (leftover, older, *kept[:3], *([files.LOCK] if folder in ("", "held") else [])):
            (tmp_path / folder / name).touch()
    files.sweep(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    expected = {*kept, *(f"sub/{name}" for name in kept[:3]), *(f"held/{name}" for name in (*kept, leftover, older))}
    assert left == expected | {f"held/sub/{name}" for name in (leftover, older, *kept[:3])}


def test_a_lock_that_another_run_holds_is_told_at_once_unless_the_run_is_to_wait(tmp_path, monkeypatch):
    import filelock

    asked, lock = [], filelock.FileLock
    monkeypatch.setattr(filelock, "FileLock", lambda path, timeout: asked.append(timeout) or lock(path, 0))
    with files.locked(tmp_path / "new" / ".lock"):
        for wait in ({}, {"wait": False}, {"wait": True}):
            with (
                pytest.raises(UserError, match="another run is writing here"),
                files.locked(tmp_path / "new" / ".lock", **wait),
            ):
                pass
    assert asked == [0, 0, 0, -1]


def test_a_name_leads_to_no_place_outside_its_folder(tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "a").touch()
    (root / "out").symlink_to(tmp_path / "roots")
    (root / "file").symlink_to(tmp_path / "roots" / "a")
    (root / "sub" / "within").symlink_to(root / "b")
    (root / os.fsdecode(b"\xe9")).symlink_to(tmp_path / "roots" / "a")
    (root / os.fsdecode(b"\xe8")).symlink_to(tmp_path / "roots")
    (root / os.fsdecode(b"\xe7")).mkdir()
    inside = ["\\xe7/a", "a", "sub/a", "sub/../a", "./a", "sub/within", "..a", "sub/", "new/folder/a", str(root / "a")]
    outside = ["", ".", "..", "../a", "../roots/a", "sub/../../a", "sub/../..", "/etc/passwd", "out/a", "file", "a\0b"]
    outside += ["\\xe9", "\\xe8/a"]
    assert [name for name in inside if not files.below(root, name)] == []
    assert [name for name in outside if files.below(root, name)] == []
    assert files.below(root, "sub/a") == str(root / "sub" / "a")
    assert files.below("/", "etc/a") == "/etc/a"
    monkeypatch.chdir(root)
    for top in (root, f"{root}/", "", ".", "/", str(tmp_path / "no such folder")):
        names = [*inside, *outside, "sub//a", "//a", str(root / "file"), "etc/passwd"]
        assert files.each_below(top, names) == [files.below(top, name) for name in names]


def test_names_of_parts_and_of_a_system():
    assert [files.name_part(text) for text in ("a/b", ".", "..", "a\0b", "...", "a.b")] == [
        "a__b",
        "_",
        "__",
        "ab",
        "...",
        "a.b",
    ]
    hidden = [".DS_Store", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information"]
    assert [name for name in [*hidden, "a", "a.b", "eaDir"] if files.is_hidden(name)] == hidden
    assert files.without_bytes(os.fsdecode(b"a\xe9\x80/\xff")) + "\\x5c" == "a\\xe9\\x80/\\xff\\x5c"


def test_a_path_that_holds_a_text_of_a_name_is_that_file(tmp_path):
    odd = tmp_path / os.fsdecode(b"a\xe9.txt")
    odd.write_text("x")
    assert files.as_stored(tmp_path / "a\\xe9.txt") == odd
    (tmp_path / "b\\xe9").touch()
    assert files.as_stored(str(tmp_path / "b\\xe9")) == tmp_path / "b\\xe9"  # there is a file of that very name


def test_entries_of_a_folder_follow_links_but_no_circles(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for link, target in (
        ("to_folder", "folder"),
        ("to_file", "file"),
        ("one", "other"),
        ("other", "one"),
        ("gone", "nowhere"),
    ):
        (tmp_path / link).symlink_to(target)
    with os.scandir(tmp_path) as entries:
        found = {entry.name: (files.is_folder(entry), files.is_regular(entry)) for entry in entries}
    assert {name for name, (folder, _) in found.items() if folder} == {"folder", "to_folder"}
    assert {name for name, (_, regular) in found.items() if regular} == {"file", "to_file"}


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


def test_a_text_is_flushed_unless_it_is_said_otherwise(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", done.append)
    files.write_text(tmp_path / "a.txt", "x")
    with files.whole(tmp_path / "b.txt") as temporary:
        temporary.write_text("x")
    assert len(done) == 4


def test_a_regular_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * 100_000)
    assert files.read_regular(path, 100_000) == b"x" * 100_000
    with pytest.raises(OSError, match="its 100,000 bytes are more than is read"):
        files.read_regular(path, 99_999)
    if Path("/proc/self/status").is_file():  # its size is 0, and it has content
        assert files.read_regular("/proc/self/status", 1 << 20).startswith(b"Name:")
        assert files.read_regular("/proc/self/status", 3) == b"Nam"
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


def test_a_field_of_fields_that_one_record_lacks_is_told_whole():
    told = run_record.differences({"preprocess": {"height": 1}}, {})
    assert told == 'preprocess {"height": 1} -> not given'
