"""What a refusal says of two records: what differs in words, without what follows from it."""

from __future__ import annotations

import json
import re

import pytest

from common import files, run_record
from common.messages import UserError
from common.run_record import differences

PIXELS = {"height": 224, "width": 224, "mean": [0.5], "std": [0.5], "interpolation": "bicubic"}
OLD = {
    "model": "a",
    "model_options": {"layer": None},
    "preprocess": PIXELS,
    "fingerprint": "1",
    "seed": 0,
    "crop": {"border": "clip"},
}


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ({"model": "b", "fingerprint": "2", "preprocess": {**PIXELS, "height": 260}}, '--model "a" -> "b"'),
        ({"fingerprint": "2"}, "fingerprint: another model by its weights or preprocessing"),
        ({"fingerprint": "2", "model_options": {"layer": "x"}}, '--layer not given -> "x"'),
        (
            {"fingerprint": "2", "preprocess": {**PIXELS, "height": 260, "width": 240, "mean": [0.4], "std": [0.2]}},
            "input size 224 x 224 -> 240 x 260 pixels, other means or deviations of the pixels",
        ),
        ({"preprocess": {**PIXELS, "interpolation": "bilinear"}}, 'interpolation "bicubic" -> "bilinear"'),
        ({"seed": 1, "crop": {"border": "reflect"}}, 'crop.border "clip" -> "reflect", --seed 0 -> 1'),
    ],
)  # fmt: skip
def test_what_differs_is_named_without_what_follows_from_it(new, said):
    assert differences(OLD, {**OLD, **new}) == said
    assert differences(OLD, OLD) == ""


def test_options_that_an_older_version_did_not_note_explain_nothing():
    old = {key: value for key, value in OLD.items() if key != "model_options"}
    new = {**old, "model_options": {}, "fingerprint": "2"}
    assert differences(old, new) == "fingerprint: another model by its weights or preprocessing"


RECORD = {"seed": 1, "ids": ("0", "10")}  # a tuple comes back as a list
OTHER = {"seed": 2, "ids": ["0", "10"]}


def claimed(path, old, **asked):
    """What claim() says, how often it cleared, what record stands there then, and what it refused."""
    if old is not None:
        path.write_text(old) if isinstance(old, str) else run_record.write_json(path, old)
    before, cleared = path.read_bytes() if path.exists() else None, []

    def clear():
        cleared.append(run_record.read_json(path))

    asked = {"overwrite": False, "finished": False, "begun": True, **asked}
    finished, begun = asked.pop("finished"), asked.pop("begun")
    try:
        said = run_record.claim(path, RECORD, finished=lambda: finished, begun=lambda: begun, clear=clear, **asked)
    except UserError as error:
        assert path.read_bytes() == before
        assert not cleared
        return str(error)
    return said, cleared, run_record.read_json(path)


MINE = {"seed": 1, "ids": ["0", "10"]}
REMOVED = {"state": "being removed"}
ANEW = (False, [REMOVED], MINE)  # what earlier runs wrote is cleared away, while the record says so


@pytest.mark.parametrize(
    ("old", "asked", "said"),
    [
        (None, {}, (False, [], MINE)),
        (None, {"overwrite": True}, ANEW),
        (MINE, {}, (False, [], MINE)),
        (MINE, {"finished": True}, (True, [], MINE)),
        (MINE, {"overwrite": True}, (False, [], MINE)),
        (MINE, {"overwrite": True, "finished": True}, ANEW),
        ({**MINE, "written": {"rows": 3}}, {"finished": True}, (True, [], {**MINE, "written": {"rows": 3}})),
        (OTHER, {"begun": False}, ANEW),
        (OTHER, {"overwrite": True}, ANEW),
        (REMOVED, {}, ANEW),
        ("{", {"overwrite": True}, ANEW),
        ("{", {}, "is damaged; add --overwrite to start anew, or name another output"),
        (OTHER, {}, "was made with other options or input (--seed 2 -> 1); name another output, or add --overwrite"),
        (OTHER, {"finished": True, "advice": "wait"}, "(--seed 2 -> 1); wait, or add --overwrite, which removes it"),
    ],
)
def test_an_output_is_of_one_record(tmp_path, old, asked, said):
    found = claimed(tmp_path / "record.json", old, **asked)
    assert said in found if isinstance(said, str) else found == said


def test_what_is_written_of_an_output_is_added_to_its_record(tmp_path):
    path = tmp_path / "record.json"
    assert claimed(path, None, noted=lambda: {"rows": 1, "a": 2})[2] == {**MINE, "written": {"rows": 1, "a": 2}}
    run_record.finish(path, {"rows": 3})
    assert run_record.read_json(path) == {**MINE, "written": {"rows": 3, "a": 2}}
    path.unlink()
    claimed(path, None)
    run_record.finish(path, {"rows": 3})
    assert run_record.read_json(path) == {**MINE, "written": {"rows": 3}}
    assert files.SEAL not in path.read_text()


def test_a_record_is_a_sealed_object_of_readable_lines(tmp_path):
    path = tmp_path / "record.json"
    run_record.write_json(path, {"name": "näme", "a": 1})
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "checksum" not in line] == ["{", ' "a": 1,', ' "name": "näme"', "}"]
    assert re.fullmatch(r' "checksum": "crc32 of this file: [0-9a-f]{8}",', lines[2])
    for text in ("[1]", "{", "9" * 5000, "[" * 100_000):
        path.write_text(text)
        with pytest.raises(UserError, match="holds no JSON object; make it anew"):
            run_record.read_json(path)
    path.write_text('{"a": 1}')  # of another tool, without a seal
    assert run_record.read_json(path) == {"a": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        run_record.write_json(path, {"a": float("nan")})
    assert path.read_text() == '{"a": 1}'


def test_the_checksum_of_a_file_of_several_parts(tmp_path):
    import zlib

    data = bytes(range(256)) * 20_000  # more than 4 MiB
    (tmp_path / "a").write_bytes(data)
    assert run_record.checksum(tmp_path / "a") == f"{zlib.crc32(data):08x}"
    (tmp_path / "a").write_bytes(b"")
    assert run_record.checksum(tmp_path / "a") == "00000000"


FIELDS = {"name": run_record.TEXT, "n": run_record.optional(run_record.WHOLE), "kind": run_record.one_of("a", "b")}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, ""),
        ({"name": "x", "n": 0, "kind": "b", "format_version": 2, "later": []}, ""),
        ({"n": None, "format_version": 1}, ""),
        ([], "it is no JSON object; the file is damaged, make it anew"),
        ({"format_version": 3}, "it has format 3, this version reads up to 2; update the scripts"),
        ({"format_version": 0}, "it: format_version is 0, not a whole number from 1 on; make the file anew"),
        ({"format_version": True}, "it: format_version is true, not a whole number from 1 on; make the file anew"),
        ({"format_version": "2"}, 'it: format_version is "2", not a whole number from 1 on; make the file anew'),
        ({"name": 1}, "it: name is 1, not a text; make the file anew"),
        ({"n": -1}, "it: n is -1, not a whole number from 0 on or null; make the file anew"),
        ({"kind": "c"}, 'it: kind is "c", not a or b; make the file anew'),
        ({"kind": None}, "it: kind is null, not a or b; make the file anew"),
    ],
)
def test_fields_are_checked_one_by_one(content, told):
    if not told:
        run_record.check_fields(content, FIELDS, "it", version=2)
        return
    with pytest.raises(UserError) as error:
        run_record.check_fields(content, FIELDS, "it", version=2)
    assert str(error.value) == told


def test_fields_that_are_needed_and_versions_that_are_not_said():
    run_record.check_fields({"name": "x", "format_version": 1}, FIELDS, "it", needed=["name"])
    with pytest.raises(UserError, match="it has no field name; make the file anew"):
        run_record.check_fields({"n": 1}, FIELDS, "it", needed=["name"])
    with pytest.raises(UserError, match="it has format 2, this version reads up to 1"):
        run_record.check_fields({"format_version": 2}, FIELDS, "it")
    deep = json.loads("[" * 500 + "]" * 500)
    for _ in range(100_000):
        deep = [deep]
    assert run_record.shown(deep) == "nested too deeply"
    while deep:  # a list of that depth ends Python where it is let go at once
        deep = deep[0]
