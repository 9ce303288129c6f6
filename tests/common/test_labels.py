"""Labels from typed values and texts, and warnings about labels that do not meet."""

from __future__ import annotations

import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import labels


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (np.array([1, 2, -3]), ["1", "2", "-3"]),
        (np.array([1.0, 2.5, np.nan, -0.0, 1e6]), ["1", "2.5", "", "0", "1000000"]),
        (np.array([1.0, 7.0], np.float32), ["1", "7"]),
        (np.array([True, False]), ["True", "False"]),
        (np.array([b"ale", b" brie "]), ["ale", "brie"]),
        (
            np.array(["001", "1.0", "NA", "None", "nan", " ale\u00a0", ""]),
            ["001", "1.0", "NA", "None", "nan", "ale", ""],
        ),
        (np.array(["e\u0301"]), ["\u00e9"]),
        (
            np.array([None, float("nan"), "", 1, 1.0, True, "1", b"x", pd.NA], object),
            ["", "", "", "1", "1", "True", "1", "x", ""],
        ),
        (np.array([["a", " b"], ["c ", ""]]), [["a", "b"], ["c", ""]]),
    ],
)
def test_only_typed_values_are_converted(values, texts):
    assert labels.texts_of(values).tolist() == texts


def test_what_is_no_label_is_an_error():
    with pytest.raises(ValueError, match="no type of labels"):
        labels.texts_of(np.array([1 + 2j]))
    with pytest.raises(UnicodeDecodeError):
        labels.texts_of(np.array([b"caf\xe9"]))


def test_clean_texts_are_not_copied():
    texts = np.array([["ale", "é"], ["x y", ""]])
    assert labels.clean(texts) is texts


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(st.text(max_size=5), st.none(), st.floats(), st.integers(), st.booleans()), min_size=1, max_size=8
    )
)
def test_any_objects_become_clean_texts(values):
    texts = labels.texts_of(np.array([*values, None], object)[:-1]).tolist()
    for value, text in zip(values, texts, strict=True):
        assert text == unicodedata.normalize("NFC", text.strip().rstrip("\0"))
        if isinstance(value, str):
            assert text == unicodedata.normalize("NFC", value.rstrip("\0").strip()).rstrip("\0")
        if value is None or value != value:
            assert text == ""


@pytest.mark.parametrize(
    ("references", "queries", "words"),
    [
        (["a", "b"], ["c", "d"], "none of the 2 labels of the queries occurs among the 2 of the references"),
        (["a", "b"], ["a", "x", "y"], "only 1 of the 3 labels"),
        (["a", "b"], ["a", "c"], ""),
        (["a"], ["a", ""], ""),
        (["10", "9", "8", "7"], ["1.0"], "(queries: '1.0'; references: '7', '8', '9')"),
    ],
)
def test_labels_that_do_not_meet_are_told(capsys, references, queries, words):
    labels.warn_strangers(references, queries)
    error = capsys.readouterr().err
    assert words in error
    assert bool(error) == bool(words)


def test_labels_that_differ_in_writing_are_named_and_stay_apart(capsys):
    labels.warn_alike(["1", "1.0", "ale", "brie", "a b", "a\u00a0b", "fruit/2", "fruit/2.0", "A", "a"])
    error = capsys.readouterr().err
    for pair in ("'1' and '1.0'", "'a b' and 'a\\xa0b'", "'fruit/2' and 'fruit/2.0'"):
        assert pair in error
    assert "'A'" not in error
    labels.warn_alike(["1", "2", "ale"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("reference", "query", "told"),
    [("red", "Red", True), ("hot dog", "hot_dog", True), ("Hot-Dog", "hot dog", True), ("red", "read", False)],
)
def test_labels_that_both_sides_write_otherwise_are_named(capsys, reference, query, told):
    labels.warn_strangers([reference, "ale", "brie"], [query, "ale", "brie"])
    error = capsys.readouterr().err
    assert (f"{query!r} for {reference!r}" in error) == told
    assert bool(error) == told


def test_classes_of_both_writings_on_both_sides_are_two_classes(capsys):
    labels.warn_strangers(["a", "A"], ["a", "A"])
    labels.warn_strangers(["a", "A"], ["a"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train2017", "train"),
        ("Test_set", "test"),
        ("val-images", "val"),
        ("dev", "dev"),
        ("trains", ""),
        ("test_2_x", ""),
    ],
)
def test_split_of_a_folder(name, split):
    assert labels.split_of_folder(name) == split


@pytest.mark.parametrize(
    ("one", "other"), [("Ace", "\u0410\u0441\u0435"), ("brie", "br\u200bie"), ("ale", "\ufeffale"), ("Pot", "\u03a1ot")]
)
def test_labels_that_look_alike_are_named_on_both_sides_and_within_one(one, other, capsys):
    """Cyrillic and Greek letters in the place of Latin ones, and signs that nobody sees."""
    labels.warn_strangers([one, "x"], [other, "x"])
    told = capsys.readouterr().err
    assert "1 label of the queries is written otherwise among the references" in told
    assert ascii(other)[1:-1] in told
    labels.warn_alike([one, other])
    assert "stay 2 labels" in capsys.readouterr().err
    labels.warn_alike(["\u0434\u043e\u043c", "dom"])  # alike in sound only
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("references", "queries", "told"),
    [
        ("0123", "1234", "plus 1"),
        ("1234", "0123", "minus 1"),
        ("0123", "0123", ""),
        ("0123", "012", ""),
        ("ab", "bc", ""),
        ("0245", "1356", ""),
    ],
)
def test_labels_that_count_from_another_start_are_told(references, queries, told, capsys):
    labels.warn_strangers(references, queries)
    assert (f"are those of the references {told} (such as" in capsys.readouterr().err) == bool(told)
