"""What a run says: lines broken at the terminal's width, tables told in parts, parts of a page set apart."""

from __future__ import annotations

import itertools
import random

import pytest

from common import messages

WORDS = [
    "Use",
    "0/0,",
    "the",
    "least",
    "padding:",
    "no",
    "other",
    "pair",
    "scores",
    "higher;",
    "/a/path/" + 60 * "x",
    "(95%",
    "sure).",
]


@pytest.mark.parametrize("width", [30, 47, 80])
@pytest.mark.parametrize("hang", [0, 4])
def test_lines_are_broken_at_blanks_and_no_word_is_lost(monkeypatch, width, hang):
    text = " ".join(random.Random(width).choices(WORDS, k=60))
    monkeypatch.setenv("COLUMNS", str(width))
    lines = messages.wrap(text, hang).split("\n")
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width or line.strip() == WORDS[10] for line in lines)
    assert all(line.startswith(" " * hang) and line[hang] != " " for line in lines[1:])
    for line, after in itertools.pairwise(lines):  # no word of a line would have fitted into the one before
        assert len(line) + 1 + len(after.split()[0]) > width


def test_a_text_without_a_terminal_has_its_own_width_and_keeps_its_lines(monkeypatch):
    monkeypatch.delenv("COLUMNS")
    text = "a\n\n  b  c\n" + "word " * 40
    lines = messages.wrap(text.rstrip(), 2).split("\n")
    assert lines[:3] == ["a", "", "  b  c"]
    assert [len(line) for line in lines[3:]] == [99, 96, 6]
    assert messages.wrap("word " * 40, width=20).count("\n") == 9


def test_a_table_wider_than_the_terminal_is_told_in_parts_with_its_first_column(monkeypatch):
    header = ["id", *(f"column {at}" for at in range(9))]
    rows = [[f"row {at}", *(f"{at * other}" for other in range(9))] for at in range(3)]
    whole = messages.table(header, rows)
    monkeypatch.setenv("COLUMNS", "40")
    parts = messages.table(header, rows).split("\n\n")
    assert len(parts) == 3
    assert max(len(line) for part in parts for line in part.split("\n")) <= 40
    for at, line in enumerate(whole.split("\n")):
        first, rest = line[:5], "".join(part.split("\n")[at].removeprefix(line[:5]) for part in parts)
        assert all(part.split("\n")[at].startswith(first) for part in parts)
        assert rest.split() == line[5:].split()
    assert messages.table(header, rows, fold=False) == whole
    monkeypatch.delenv("COLUMNS")
    assert messages.table(header, rows) == whole


def test_parts_of_a_page_are_set_apart_by_one_empty_line_in_each_run(capsys):
    for _ in range(2):
        messages.set_quiet(False)
        messages.show("first\nsecond line")
        messages.show("third")
        assert capsys.readouterr().out == "first\nsecond line\n\nthird\n"
