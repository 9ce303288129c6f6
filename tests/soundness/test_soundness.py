"""--check: near twins, likely label errors, classes that cannot be told apart, each against hand-made or planted truth."""

from __future__ import annotations

import csv
import itertools

import cv2
import numpy as np
import pytest
from builders import make_evaluator, study

import evaluate_combo
import greedy_combo_eval
from common import embeddings, knn
from common.embeddings import EmbeddingSet
from evaluation.records import Combination
from soundness import alike_classes, pictures
from soundness.check import check
from soundness.crops import Crops
from soundness.twins import near_twins

RNG = np.random.default_rng(0)


def scene(seed: int) -> np.ndarray:
    """A picture of coloured blobs and lines on a smooth ground, BGR uint8 (180, 140, 3)."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.uniform(40, 215, (5, 4, 3)).astype(np.float32), (140, 180), interpolation=cv2.INTER_CUBIC)
    picture = ground.clip(0, 255).astype(np.uint8)
    for _ in range(8):
        color = tuple(map(int, rng.integers(0, 256, 3)))
        cv2.circle(picture, tuple(map(int, rng.integers(0, 140, 2))), int(rng.integers(6, 26)), color, -1)
        cv2.line(picture, *(tuple(map(int, rng.integers(0, 140, 2))) for _ in range(2)), color, 3)
    return picture


def cropped(picture: np.ndarray, rng: np.random.Generator, most: float) -> np.ndarray:
    height, width = picture.shape[:2]
    up, down, left, right = (rng.uniform(0, most, 4) * [height, height, width, width]).round().astype(int)
    return picture[up : height - down, left : width - right]


COPIES = {
    "encoded anew": lambda picture, rng: cv2.imdecode(
        cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1
    ),
    "half as large": lambda picture, rng: cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "slightly cropped": lambda picture, rng: cropped(picture, rng, 0.04),
}


@pytest.fixture(scope="module")
def albums(tmp_path_factory):
    """40 references, and as queries a copy of each of them by each way, and 40 other scenes; embeddings tell nothing."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    references = [scene(seed) for seed in range(40)]
    queries = [make(picture, rng) for make in COPIES.values() for picture in references]
    queries += [scene(seed) for seed in range(100, 140)]
    paths = []
    for row, picture in enumerate([*references, *queries]):
        paths.append(str(folder / f"{row}.png"))
        cv2.imwrite(paths[-1], picture)
    n = len(paths)
    vectors = RNG.standard_normal((n, 16), dtype=np.float32)
    numbers, names = np.arange(n), np.array([f"crop{row}" for row in range(n)])
    return Crops(vectors, numbers % 3, numbers, numbers, names, np.array(paths, object), 40)


def test_copies_are_twins_and_other_scenes_are_not(albums):
    twins = near_twins(albums, pictures.read(albums.pictures.tolist()))
    found = dict(zip(twins.query.tolist(), twins.reference.tolist(), strict=True))
    copies = {40 + row: row % 40 for row in range(120)}
    assert sum(found.get(query) == reference for query, reference in copies.items()) >= 119  # of 120: 0.99
    assert not set(found) - set(copies)
    assert (np.diff(twins.agreement) <= 0).all()


def test_without_pictures_the_embedding_alone_decides(albums):
    vectors = albums.vectors.copy()
    vectors[50] = vectors[7] + 0.05 * vectors[8]
    gone = Crops(vectors, albums.label, albums.crop, albums.photo, albums.names, np.full(len(albums), "", object), 40)
    seen = pictures.read(gone.pictures.tolist())
    assert not seen.known.any()
    twins = near_twins(gone, seen)
    assert (twins.query.tolist(), twins.reference.tolist()) == ([50], [7])
    assert np.isnan(twins.agreement).all()
    expected = vectors[50] @ vectors[7] / np.linalg.norm(vectors[50]) / np.linalg.norm(vectors[7])
    assert twins.cosine[0] == pytest.approx(expected, abs=1e-5)
    groups = np.arange(len(gone))
    groups[50] = 7
    assert not len(near_twins(gone, seen, groups))


def test_agreement_is_one_for_a_picture_itself_and_low_in_another_light():
    one = cv2.resize(scene(3), (pictures.SIDE, pictures.SIDE), interpolation=cv2.INTER_AREA)
    assert pictures.agreement(one, one) == pytest.approx(1, abs=1e-3)
    darker = (one * 0.6).astype(np.uint8)
    seen, over = one.astype(float), darker.astype(float)
    assert pictures.agreement(one, darker) == pytest.approx(
        max(0, 1 - ((seen - over) ** 2).mean() / ((seen - seen.mean(axis=(0, 1))) ** 2).mean()), abs=0.02
    )
    assert pictures.agreement(one, np.zeros_like(one)) == 0
    assert not pictures.descriptor(np.full_like(one, 77)).any()


def test_views_of_one_crop_do_not_vouch_for_each_other():
    vectors = np.repeat(RNG.standard_normal((6, 8)).astype(np.float32), 2, axis=0)
    crop = np.repeat(np.arange(6), 2)
    _, indices = alike_classes.neighbours(vectors, crop)
    assert all(crop[row] not in crop[near[near >= 0]] for row, near in enumerate(indices))


def told_apart_by_loop(similarities, indices, label, a, b):
    recalls = []
    for one, other in ((a, b), (b, a)):
        right = []
        for row in np.flatnonzero(label == one):
            votes = np.zeros(label.max() + 1)
            np.add.at(votes, label[indices[row]], np.exp(similarities[row] / alike_classes.TEMPERATURE))
            right.append(0.5 if votes[one] == votes[other] else float(votes[one] > votes[other]))
        recalls.append(np.mean(right))
    return np.mean(recalls)


def test_classes_that_cannot_be_told_apart_are_named_and_no_others(monkeypatch):
    monkeypatch.setattr(alike_classes, "NEIGHBOURS", 20)
    rng = np.random.default_rng(4)
    label = np.repeat(np.arange(5), [60, 40, 50, 50, 50])
    centres = rng.standard_normal((5, 12))
    centres[1] = centres[0]  # two names of one product
    vectors = (3 * centres[label] + rng.standard_normal((250, 12))).astype(np.float32)
    found = alike_classes.neighbours(vectors, np.arange(250))
    alike, unsure = alike_classes.alike_classes(*found, label, np.arange(250) // 2, 5)
    assert [(pair.one, pair.other, pair.n_crop) for pair in alike] == [(0, 1, 100)]
    assert alike[0].told_apart.low < 0.5 < 0.9 > alike[0].told_apart.high
    assert alike[0].told_apart.accuracy == pytest.approx(told_apart_by_loop(*found, label, 0, 1), abs=1e-6)
    assert unsure == 0
    few = np.flatnonzero((label > 1) | (np.arange(250) < 4) | ((label == 1) & (np.arange(250) < 64)))
    near = alike_classes.neighbours(vectors[few], np.arange(len(few)))
    alike, unsure = alike_classes.alike_classes(*near, label[few], few, 5)
    assert alike == []
    assert unsure >= 1  # four crops of either class say nothing


def test_ties_of_two_classes_are_half_right():
    similarities = np.zeros((4, 2), np.float32)  # every crop sees the two others of another class, or none of its own
    label = np.array([0, 0, 1, 1])
    indices = np.array([[1, 2], [0, 3], [0, 3], [1, 2]])
    for a, b in itertools.combinations(range(2), 2):
        assert told_apart_by_loop(similarities, indices, label, a, b) == 0.5
    _, unsure = alike_classes.alike_classes(similarities, indices, label, np.arange(4), 2)
    assert unsure == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sets with pictures; the first two queries are copies of references, pixel for pixel, and one label is swapped."""
    folder = tmp_path_factory.mktemp("sets")
    made = []
    for split, seed in (("train", 1), ("test", 2)):
        one = study(seed, split=split, noise=0.2)[0]
        vectors, labels = one.vectors.copy(), one.labels.copy()
        for row, path in enumerate(one.paths):
            source = scene(row) if split == "train" or row < 2 else scene(1000 + row)
            cv2.imwrite(str(folder / f"{path}.png"), source)
        if split == "test":
            vectors[:2], labels[:2] = made[0].vectors[:2], made[0].labels[:2]
        else:
            labels[9] = "c0" if labels[9] != "c0" else "c1"
        paths = np.array([f"{path}.png" for path in one.paths])
        meta = {**one.meta, "data_root": str(folder)}
        made.append(EmbeddingSet(vectors, labels, one.crop_ids, one.sample_ids, paths, meta))
        embeddings.save(folder / f"d_0_{split}.npz", made[-1])
    return folder


def test_check_finds_what_was_planted_and_scores_without_the_twins(folder):
    reference, query = (embeddings.load(folder / f"d_0_{split}.npz") for split in ("train", "test"))
    evaluator = make_evaluator([reference], [query])
    found = check(evaluator, Combination(("0",), ("0",)))
    assert (found.twins.query - 56).tolist() == found.twins.reference.tolist() == [0, 1]
    assert (found.n_pictures, found.twin_photos, found.query_photos) == (112, 1, 14)
    assert found.suspects[0] == 9
    unit = [knn.unit(one.vectors) for one in (reference, query)]
    cosine = np.concatenate(unit) @ unit[0][9]
    cosine[found.crops.label != found.chances.suggested[9]] = -1
    rows, cosines = found.near_suggested(9, 3)
    assert rows.tolist() == np.argsort(-cosine)[:3].tolist()
    assert cosines == pytest.approx(cosine[rows], abs=1e-6)
    right = reference.label()[(unit[1] @ unit[0].T).argmax(axis=1)] == query.label()
    assert found.accuracy.accuracy == pytest.approx(right.mean())
    assert found.without_twins.accuracy == pytest.approx(right[2:].mean())
    assert found.without_twins.low < right[2:].mean() < found.without_twins.high


def run(script, capsys, *argv):
    code = script.main([str(word) for word in argv])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_the_terminal_the_list_the_sheets_and_the_report_say_so(folder, capsys, tmp_path):
    sides = ("--train_npz", folder, "--test_npz", folder)
    plain = run(evaluate_combo, capsys, *sides)
    out = run(evaluate_combo, capsys, *sides, "--check", "--output_root", tmp_path)
    assert out.startswith(plain)
    assert "Near twins: 2 of 56 queries, on 1 of 14 photos, have a near twin among the references; accuracy " in out
    assert "cannot be read" not in out
    with open(tmp_path / "soundness_0_0.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["crop_id"], row["other_crop_id"]) for row in rows if row["kind"] == "near twin"] == [
        ("test0_0", "train0_0"),
        ("test0_1", "train0_1"),
    ]
    assert next(row for row in rows if row["kind"] == "label")["crop_id"] == "train2_9"
    for kind in ("twins", "labels"):
        assert (tmp_path / f"soundness_0_0_{kind}.png").stat().st_size > 10_000
    page = tmp_path / "r.html"
    results = tmp_path / "r.txt"
    out = run(greedy_combo_eval, capsys, *sides, "--check", "--report", page, "--results", results)
    assert "Near twins: 2 of 56 queries" in out
    text = page.read_text()
    assert "Is the data sound?" in text
    assert "2 of 56 queries, on 1 of 14 photos, have a near twin" in text
    assert text[text.index('id="sound"') :].count("data:image/jpeg") >= 5
    run(greedy_combo_eval, capsys, *sides, "--report", page, "--results", results)
    assert "Is the data sound?" not in page.read_text()


def test_a_set_whose_pictures_are_gone_says_so(tmp_path, capsys):
    for split, seed in (("train", 1), ("test", 2)):
        made = study(seed, split=split, dim=48)[0]
        made.labels[0] = made.labels[(made.label() != made.label()[0]).argmax()]  # a wrong label to list
        made.labels[1] = "lone" if split == "train" else made.labels[1]
        embeddings.save(tmp_path / f"d_0_{split}.npz", made)
    out = run(
        evaluate_combo, capsys, "--train_npz", tmp_path, "--test_npz", tmp_path, "--check", "--output_root", tmp_path
    )
    assert (
        "112 pictures of 112 cannot be read, or show one colour only: their near twins are found by the embedding"
        in out
    )
    assert "Near twins: none of 56 queries" in out
    assert "another label better; 1 crop cannot be judged: no other crop has the same label" in out
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".npz"] == ["soundness_0_0.csv"]
