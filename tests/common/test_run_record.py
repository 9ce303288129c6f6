"""What a refusal says of two records: what differs in words, without what follows from it."""

from __future__ import annotations

import pytest

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
