"""Confidences of neighbours' votes: shares by a loop, and calibrated on validation crops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from builders import study
from sklearn.linear_model import LogisticRegression

import classify
from classifiers.confidence import calibrated, vote
from classifiers.recipes import Rows
from common import embeddings
from common.messages import UserError
from training.calibration import expected_calibration_error
from uncertainty.scores import calibrated_error
from unknowns.products import CalibratedVotes

N_CLASS, DIM = 8, 12


def draw(n, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, N_CLASS, n)
    centres = np.random.default_rng(9).standard_normal((N_CLASS, DIM))
    vectors = (centres[label] + 1.3 * rng.standard_normal((n, DIM))).astype(np.float32)
    return Rows(vectors, label, np.arange(n))


def test_votes_are_those_of_a_loop():
    references, queries = draw(80, 0), draw(15, 1)
    found = vote(queries.vectors, references, 5, N_CLASS)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries.vectors, references.vectors)]
    cosines = unit[0] @ unit[1].T
    for row in range(15):
        near = np.argsort(-cosines[row], kind="stable")[:5]
        shares = np.zeros(N_CLASS)
        np.add.at(shares, references.label[near], np.exp(cosines[row][near] / 0.07))
        shares /= shares.sum()
        assert found.shares[row] == pytest.approx(shares, abs=1e-5)
        assert found.label[row] == shares.argmax()
        own = references.label == found.label[row]
        margin = cosines[row][own].max() - cosines[row][~own].max()
        assert found.evidence[row] == pytest.approx([shares.max(), margin], abs=1e-5)


@pytest.mark.parametrize("k", [1, 5])
def test_calibrated_confidences_are_as_good_as_chance_allows(k):
    references, validation, queries = draw(160, 0), draw(300, 2), draw(400, 3)
    votes, tried = (vote(one.vectors, references, k, N_CLASS) for one in (queries, validation))
    found = calibrated(votes, tried, validation.label)
    accuracy = (votes.label == queries.label).mean()
    assert 0.4 < accuracy < 0.9
    assert (found.argmax(axis=1) == votes.label).all()
    assert ((found >= 0) & (found <= 1)).all()
    assert found.sum(axis=1).max() <= 1 + 1e-9
    before, after = (expected_calibration_error(each, queries.label) for each in (votes.shares, found))
    assert after < calibrated_error(found.max(axis=1))[1] + 0.03
    assert after < before
    if k == 1:
        assert votes.shares.max(axis=1).tolist() == [1.0] * 400
        assert before == pytest.approx(1 - accuracy)
    scaled = (tried.evidence - tried.evidence.mean(axis=0)) / np.maximum(tried.evidence.std(axis=0), 1e-12)
    model = LogisticRegression().fit(scaled, tried.label == validation.label)
    shifted = (votes.evidence - tried.evidence.mean(axis=0)) / np.maximum(tried.evidence.std(axis=0), 1e-12)
    assert found.max(axis=1) == pytest.approx(model.predict_proba(shifted)[:, 1], abs=1e-4)


def test_too_few_right_or_wrong_ones_calibrate_nothing():
    references, validation = draw(160, 0), draw(30, 2)
    tried = vote(validation.vectors, references, 1, N_CLASS)
    assert calibrated(tried, tried, tried.label) is None
    truth = tried.label.copy()
    truth[:10] = (truth[:10] + 1) % N_CLASS
    assert calibrated(tried, tried, truth) is not None


def test_validation_sets_calibrate_what_classify_answers(capsys):
    references, validation = study(1, split="train")[:1], study(5, split="val", n_images=40)[:1]
    queries = study(2)[0]
    answers = CalibratedVotes(references, validation, 1)(queries.vectors)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries.vectors, references[0].vectors)]
    nearest = references[0].label()[(unit[0] @ unit[1].T).argmax(axis=1)]
    assert [ranked[0][0] for ranked in answers] == nearest.tolist()
    assert len({round(ranked[0][1], 6) for ranked in answers}) > 40
    assert "of 160 validation crops are right" in capsys.readouterr().err
    strange = [validation[0].renamed(fingerprint="another")]
    with pytest.raises(UserError, match="made with another model"):
        CalibratedVotes(references, strange, 1)
    with pytest.raises(UserError, match="--k 57 is larger than the 56 references"):
        CalibratedVotes(references, validation, 57)


def test_options_that_do_not_go_together(tmp_path, capsys):
    npz, image = tmp_path / "r_0_train.npz", tmp_path / "a.png"
    embeddings.save(npz, study(1, split="train")[0])
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    given = ["--image", str(image), "--reference_npz", str(npz), "--val_npz", str(npz)]
    assert classify.main([*given, "--classifier", "lda"]) == 2
    assert "--val_npz calibrates the votes of neighbours" in capsys.readouterr().err
    assert classify.main(["--image", str(image), "--val_npz", str(npz)]) == 2
    assert "work over references: add --reference_npz" in capsys.readouterr().err
