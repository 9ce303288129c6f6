"""Tables in files: cells as they are or as no spreadsheet runs them, rows that were changed, and tables that are none."""

from __future__ import annotations

import pandas as pd
import pytest

from common import table_files
from common.messages import UserError


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


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (lambda text: text, ""),
        (lambda text: text.replace("a,1", "a,2"), "1 of its 3 rows changed since it was written, the first is row 2"),
        (
            lambda text: text.replace("=1", "=2").replace("c,3", "c,4"),
            "2 of its 3 rows changed since it was written, the first is row 1",
        ),
        (lambda text: text.replace(table_files.CHECK, "other"), ""),
    ],
)
def test_rows_that_were_changed_are_counted_from_the_first(tmp_path, changed, told):
    text = table_files.csv_text(["name", "n"], [["=1", 1], ["a", 1], ["c", 3]], checked=True)
    (tmp_path / "a.csv").write_text(changed(text))
    found, said = table_files.read(tmp_path / "a.csv")
    assert said.removeprefix(f"{tmp_path / 'a.csv'}: ") == told
    assert list(found)[:2] == ["name", "n"]
    assert len(found) == 3


def test_cells_of_a_table():
    """None is an empty cell, a spreadsheet's formula is marked, a number and what is marked already are not."""
    header, rows = ["=name", "n"], [["=1", None], ["-5", 2.5], ["'x", "-x"], ["+1e5", True]]
    assert table_files.csv_text(header, rows) == "=name,n\n=1,\n-5,2.5\n'x,-x\n+1e5,True\n"
    assert table_files.csv_text(header, rows, spreadsheet_safe=True) == "'=name,n\n'=1,\n-5,2.5\n'x,'-x\n+1e5,True\n"
    assert table_files.tsv_line(["=1", "a\tb", 3]) == "=1\ta\\tb\t3"
    assert table_files.tsv_line(["=1", "a\tb", 3], spreadsheet_safe=True) == "'=1\ta\\tb\t3"
    assert [table_files.plain(cell) for cell in ("'=1", "'x", "'5", "'", "=1")] == ["=1", "'x", "'5", "'", "=1"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n\n3\n", "line 4: 1 fields, not 2; repair it or make it anew"),
        ('a,b\n1,"2\n', "line 2: unexpected end of data; repair it or make it anew"),
        ("", "cannot be read: it is empty"),
        ("a,b,a\n", "has two columns 'a'"),
    ],
)
def test_tables_that_are_none(tmp_path, text, told):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=told):
        table_files.read(tmp_path / "a.csv")
