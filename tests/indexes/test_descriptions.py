"""Descriptions of indexes that are damaged, foreign or of another version; what Milvus's errors become."""

from __future__ import annotations

import dataclasses
import json

import pytest

from common.messages import UserError
from indexes.description import IndexDescription, SetEntry
from indexes.milvus_store import _sentence


def described(**fields) -> dict:
    entry = SetEntry("shop", "train", "0", 4, "abc")
    made = IndexDescription(
        metric="COSINE",
        index_type="FLAT",
        index_params={},
        fingerprint="f",
        source_dim=8,
        dim=8,
        pca=None,
        sets=(entry,),
        model={},
    )
    return {**json.loads(made.to_json()), **fields}


def test_a_description_is_read_as_it_was_written():
    read = IndexDescription.from_fields(described(), "x.index", "this file")
    assert (read.dim, read.metric, read.sets[0].rows, read.sets[0].dataset) == (8, "COSINE", 4, "shop")
    assert read.same_options(dataclasses.replace(read, sets=()))
    assert not read.same_options(dataclasses.replace(read, metric="L2"))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (None, "search.py has not made this file; choose another name"),
        ({"rows": 3}, "another version of search.py has made this file"),
        (described(format=99), "another version of search.py"),
        (described(dim="8"), "damaged (a number is none)"),
        (described(dim=0), "damaged (a number is none)"),
        (described(dim=True), "damaged (a number is none)"),
        (described(index_params={"M": -1}), "damaged (a number is none)"),
        (described(index_type="TREE"), "index type TREE or metric COSINE is unknown"),
        (described(metric=3), "metric 3 is unknown"),
        (described(model=[]), "damaged (a text is none)"),
        (described(fingerprint=None), "damaged (a text is none)"),
        (described(sets=[[1]]), "damaged ("),
        (described(sets=7), "damaged ("),
    ],
)
def test_what_is_no_description_is_told(fields, told):
    with pytest.raises(UserError) as caught:
        IndexDescription.from_fields(fields, "x.index", "this file")
    assert str(caught.value).startswith("x.index: ")
    assert told in str(caught.value)


class FutureTimeoutError(Exception):
    """Called as gRPC's."""


@pytest.mark.parametrize(
    ("uri", "error", "told"),
    [
        (
            "http://a:1",
            RuntimeError("write: No space left on device"),
            "free some, restart the server and run the same",
        ),
        ("a.db", OSError("[Errno 28] disk quota exceeded"), "no space is left on its disk; free some and run the same"),
        ("http://a:1", RuntimeError("server unavailable"), "no Milvus server answers there; start it, or check --uri"),
        ("http://a:1", TimeoutError(""), "no Milvus server answers there"),
        ("http://a:1", FutureTimeoutError(""), "no Milvus server answers there"),
        ("a.db", RuntimeError("Open local milvus failed"), "it is damaged or in use: build it anew"),
        (
            "http://a:1",
            RuntimeError("insufficient memory to load"),
            "too little memory for 'goods'; build it with --index_type",
        ),
        ("a.db", RuntimeError("collection not found"), "has no collection 'goods'; check --collection"),
        ("a.db", RuntimeError("nonsense\n  of it"), "Milvus refuses this of 'goods': nonsense of it"),
        ("a.db", KeyError(), "Milvus refuses this of 'goods': KeyError"),
    ],
)
def test_an_error_of_milvus_becomes_a_sentence_with_a_remedy(uri, error, told):
    sentence = _sentence(uri, "goods", error)
    assert sentence.startswith(uri)
    assert told in sentence
    assert "\n" not in sentence
