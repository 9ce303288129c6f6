"""Threshold files of strangers, and references that no threshold can be set on: one sentence, never a decision by chance."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
from builders import study

from classifiers.recipes import Rows
from common.messages import UserError
from unknowns import products, threshold_file
from unknowns.threshold import Threshold, conformal_threshold, set_threshold

REFERENCES = {"model": "x", "rows": 3, "classes": 2, "crc32": 5}
GOOD = Threshold("margin", 0.25, 0.1, True, 20, 21, 0.875, "unknown crops")
BIG = 10**400  # a whole number that no float holds
ODD = [None, True, -1, 1.5, math.nan, math.inf, -math.inf, BIG, "", "0.5", "cosine", "\0", [], [1], {}, {"a": 1}]
SOUND = {  # of ODD
    "score": ["cosine"],
    "threshold": [None, -1, 1.5],
    "supported": [True],
    "how": ["", "0.5", "cosine"],
}


@pytest.fixture
def file(tmp_path):
    threshold_file.write(tmp_path / "t.json", GOOD, REFERENCES)
    return tmp_path / "t.json"


def test_what_was_written_is_read(file):
    assert threshold_file.read(file, REFERENCES) == GOOD
    never = Threshold("cosine", math.inf, 0.1, False, 3, 2, 0.5, "references")
    threshold_file.write(file, never, REFERENCES)
    assert threshold_file.read(file, REFERENCES) == never


def odd_files(content: dict) -> Iterator[tuple[str, object, dict]]:
    for name in [*threshold_file.FIELDS, "format_version"]:
        for value in ODD:
            yield name, value, {**content, name: value}
    for name in threshold_file.FIELDS:
        yield name, "missing", {key: value for key, value in content.items() if key != name}
    yield "format_version", 2, {**content, "format_version": 2}


def test_a_field_of_another_form_is_one_sentence_and_never_a_threshold(file):
    """Every number counts: a threshold that is no number would accept all that is asked."""
    content = {key: value for key, value in json.loads(file.read_text()).items() if key != "checksum"}
    n = 0
    for name, value, odd in odd_files(content):
        file.write_text(json.dumps(odd))
        if any(value is sound or value == sound for sound in SOUND.get(name, [])) and value is not False:
            assert threshold_file.describe(threshold_file.read(file, REFERENCES))
            continue
        with pytest.raises(UserError) as told:
            threshold_file.read(file, REFERENCES)
        assert str(file) in str(told.value), (name, value)
        assert len(str(told.value)) < 600, (name, value)
        assert "\n" not in str(told.value), (name, value)
        n += 1
    assert n == 9 * len(ODD) - sum(map(len, SOUND.values())) + 8 + 1


def test_a_flipped_bit_is_told_or_changes_nothing(file):
    data, told = file.read_bytes(), 0
    for place in range(0, 8 * len(data), 3):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        try:
            assert threshold_file.read(file, REFERENCES) == GOOD, place
        except UserError:
            told += 1
    assert told > 2 * len(data)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"3", b"\xff", b'{"a": 1}', b"[" * 100_000])
def test_another_file_is_one_sentence(file, content):
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"holds no (threshold|JSON object)"):
        threshold_file.read(file, REFERENCES)


def test_a_threshold_is_of_the_labels_that_its_references_had(tmp_path):
    """Who mends a label among the references, all else alike, sets the threshold anew."""
    [references] = study(0, n_images=40, n_class=4)[:1]
    labels = references.labels.copy()
    first = np.flatnonzero(labels[:, 0] != labels[0, 0])[0]
    labels[[0, first]] = labels[[first, 0]]  # the same labels, two of them at another crop
    mended = type(references)(
        references.vectors, labels, references.crop_ids, references.sample_ids, references.paths, references.meta
    )
    before, after = (products.products([one]).record for one in (references, mended))
    assert {**before, "crc32": 0} == {**after, "crc32": 0}
    threshold_file.write(tmp_path / "t.json", GOOD, before)
    with pytest.raises(UserError, match=r"was set for other references; set it anew with --reject 0\.1"):
        threshold_file.read(tmp_path / "t.json", after)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_references_of_one_class_set_no_threshold(tmp_path, share):
    """Without their own class nothing is left that they could be compared with: all scores were -inf, and all was accepted."""
    references = study(0, n_images=40, n_class=4)[0]
    one = references.take(references.label() == references.label()[0])
    with pytest.raises(UserError, match="two classes in different photos, or crops of unknown products: --unknown_npz"):
        products.Answer([one], "nearest", 1, share, tmp_path / "t.json", [])(references.vectors)
    assert not (tmp_path / "t.json").exists()
    others = references.take(references.label() != references.label()[0])
    answer = products.Answer([one], "nearest", 1, share, tmp_path / "t.json", [others])(references.vectors)
    refused = np.array([row[0][0] == products.UNKNOWN for row in answer])
    strange = references.label() != references.label()[0]
    assert refused[strange].mean() >= 1 - share
    assert refused[~strange].mean() < refused[strange].mean()


def test_references_of_one_photo_set_no_threshold():
    rng = np.random.default_rng(0)
    rows = Rows(rng.standard_normal((8, 4)).astype(np.float32), np.repeat([0, 1], 4), np.zeros(8, np.int64))
    with pytest.raises(UserError, match="two classes in different photos"):
        set_threshold(rows, 2, 0.5)


def test_validation_queries_of_no_known_class_are_told():
    known = products.products([study(0, n_images=40, n_class=4)[0]]).rows
    none = known.take(np.zeros(len(known.label), bool))
    with pytest.raises(UserError, match="no validation query shows a class of the references"):
        set_threshold(known, 4, 0.25, validation=none)


def test_the_threshold_leaves_at_most_the_share_above_it():
    """By hand: groups a (0.9, 0.1), b (0.5), c (0.3); weights 1/4 each, the fourth may score anything."""
    scores, groups = np.array([0.9, 0.1, 0.5, 0.3]), np.array([0, 0, 1, 2])
    assert conformal_threshold(scores, groups, 0.24) == math.inf  # the fourth weighs more
    assert conformal_threshold(scores, groups, 0.25) == 0.9  # nothing of the three may be above
    assert conformal_threshold(scores, groups, 0.37) == 0.9
    assert conformal_threshold(scores, groups, 0.375) == 0.5  # half of a: 1/8
    assert conformal_threshold(scores, groups, 0.63) == 0.3  # and all of b: 3/8
    assert conformal_threshold(scores, groups, 0.88) == 0.1  # and c: 5/8
    assert conformal_threshold(scores, groups, 0.9999) == 0.1
