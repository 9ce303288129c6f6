"""The loop's parts by hand: schedule, losses, choice of the best epoch, pictures, recall without self-matches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

import train
from backbones.preprocess import Preprocess
from common.messages import UserError
from training import images, loop, network, objectives, output_folder, scores


def test_the_schedule_rises_over_an_epoch_and_falls_as_a_cosine_to_zero():
    plan = loop.Plan(epochs=11, lr=1.0, steps=10)
    assert plan.rate(0) == pytest.approx(1 / 11)
    assert plan.rate(9) == pytest.approx(10 / 11)
    assert plan.rate(10) == 1
    assert plan.rate(60) == pytest.approx(0.5)
    assert plan.rate(110) == pytest.approx(0, abs=1e-9)


def offered(option: str) -> list[str]:
    return next(action.choices for action in train.build_parser()._actions if option in action.option_strings)


def test_triplet_loss_by_hand():
    """Unit vectors at 0, 90 and 180 degrees: positive pair (0, 1) at distance sqrt 2, negative (0, 2) at 2, (1, 2) at sqrt 2."""
    vectors = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1])
    loss = objectives.metric_loss("triplet", "none", margin=0.8)(vectors, labels)
    first, second = math.sqrt(2) - 2 + 0.8, 0.8
    assert float(loss) == pytest.approx((first + second) / 2, rel=1e-4)
    semihard = objectives.metric_loss("triplet", "semihard", margin=0.8)(vectors, labels)
    assert float(semihard) == pytest.approx(first, rel=1e-4)  # the other negative is no farther than the positive


@pytest.mark.parametrize("loss", offered("--loss"))
@pytest.mark.parametrize("miner", offered("--miner"))
def test_every_loss_pulls_classes_apart_with_every_miner(loss, miner):
    torch.manual_seed(0)
    vectors = torch.nn.Parameter(torch.randn(16, 4))
    labels = torch.arange(4).repeat(4)
    compute = objectives.metric_loss(loss, miner, 0.2)
    optimizer = torch.optim.SGD([vectors], 0.5)

    def gap() -> float:
        unit = torch.nn.functional.normalize(vectors.detach())
        same = labels[:, None] == labels
        cosine = unit @ unit.T
        return float(cosine[same].mean() - cosine[~same].mean())

    before = gap()
    for _ in range(20):
        optimizer.zero_grad()
        compute(vectors, labels).backward()
        optimizer.step()
    assert gap() > before + 0.05


def test_the_best_epoch_is_kept_ties_are_broken_and_patience_ends_it(tmp_path):
    """Scores are told, not measured; the weights that come back must be those of the epoch that scored best."""
    told = [(0.5, 0.1), (0.7, 0.1), (0.7, 0.3), (0.7, 0.2), (0.6, 0.9), (0.7, 0.3)]
    module, seen = torch.nn.Linear(2, 1), []

    def validate(judged: torch.nn.Module) -> tuple[float, float]:
        seen.append(judged.weight.detach().clone())
        return told[len(seen) - 1]

    def batches(epoch: int):
        yield torch.ones(4, 2), torch.ones(4)

    plan = loop.Plan(epochs=50, lr=0.1, steps=1, patience=3)
    rows = loop.fit(
        module, batches, lambda y, x: (y[:, 0] - x).square().mean(), validate, plan, state_file=tmp_path / "s"
    )
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["chosen"] for row in rows] == [0, 0, 1, 0, 0, 0]
    torch.testing.assert_close(module.weight.detach(), seen[2])


def test_scores_within_the_resolution_are_equal():
    """With 25 validation images a step is 0.1: 0.68 and 0.72 are both 7 steps, 0.78 is 8."""
    plan = loop.Plan(epochs=9, lr=1, steps=1, resolution=0.1)
    epochs = [loop.Epoch(n, 0, 0, score, tie, 0) for n, (score, tie) in enumerate([(0.72, 1), (0.68, 2)])]
    assert plan.best(epochs) is epochs[1]
    assert plan.best([*epochs, better := loop.Epoch(3, 0, 0, 0.78, 0, 0)]) is better


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    def batches(epoch: int):
        yield torch.full((4, 2), torch.nan), torch.ones(4)

    plan = loop.Plan(epochs=3, lr=0.1, steps=1)
    with pytest.raises(UserError, match="smaller --lr"):
        loop.fit(
            torch.nn.Linear(2, 1),
            batches,
            lambda y, x: y.mean(),
            lambda m: (0, 0),
            plan,
            state_file=tmp_path / "s",
        )


def test_an_unreadable_state_starts_anew(tmp_path, capsys):
    (tmp_path / "s").write_bytes(b"torn")
    assert output_folder.read_state(tmp_path / "s", torch.device("cpu")) is None
    assert "starts anew" in capsys.readouterr().err


def test_recall_leaves_out_the_query_and_its_own_photo():
    vectors = np.array([[1, 0], [1, 0.01], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    labels, own = np.array([0, 1, 0, 1, 1]), np.arange(5)
    assert scores.retrieval(scores.Embedded(vectors, labels, own))[0] == pytest.approx(
        2 / 5
    )  # rows 3 and 4 find each other, no other does
    photos = np.array([0, 0, 1, 2, 3])  # rows 0 and 1 are one photo: row 0 then finds row 2
    assert scores.retrieval(scores.Embedded(vectors, labels, photos))[0] == pytest.approx(3 / 5)
    query = scores.Embedded(vectors[:1], labels[:1], np.array([9]))
    assert scores.retrieval(query, scores.Embedded(vectors, labels, own)) == (
        1,
        pytest.approx(2 / 5),
    )  # itself, under another name
    with pytest.raises(UserError, match="zero or not finite"):
        scores.retrieval(scores.Embedded(vectors * 0, labels, own))
    assert scores.answerable(labels, own) == 1
    assert scores.answerable(np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 2, 3])) == pytest.approx(2 / 5)


def test_scores_by_hand():
    found = scores.scores(np.array([0, 0, 1, 1]), np.array([0, 1, 1, -1]), np.arange(4), ["a", "b", "c"])
    assert found["accuracy"] == 0.5
    assert found["classes"]["a"] == [0.5, 1.0, pytest.approx(2 / 3), 1]
    assert found["classes"]["b"] == [0.5, 0.5, 0.5, 2]
    assert found["classes"]["c"] == [0, 0, 0, 0]


@pytest.mark.parametrize("n_class", [2, 3])
def test_logistic_regression_is_folded_into_plain_weights(n_class):
    """On columns of very different scale the head's logits still separate the classes, and its row sums give softmax odds."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_class, 400)
    centres = rng.normal(0, 1, (n_class, 5))
    features = ((centres[labels] + 0.3 * rng.normal(0, 1, (400, 5))) * (1, 1e3, 1e-3, 1, 1) + 7).astype(np.float32)
    weight, bias, tried = network.fit_linear(features[:300], labels[:300], features[300:], labels[300:])
    assert weight.shape == (n_class, 5)
    logits = features[300:] @ weight.T + bias
    accuracy = (logits.argmax(axis=1) == labels[300:]).mean()
    best = min(tried, key=lambda row: row[2])
    assert accuracy == pytest.approx(best[1])
    assert accuracy > 0.9


def test_pictures_that_do_not_fit_into_memory_are_the_same(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    paths[3].write_bytes(b"no image")
    options = {"workers": 2, "desc": "reading"}
    kept = images.TrainingImages(paths, Preprocess(16, 24), **options)
    monkeypatch.setattr(images, "MEMORY_SHARE", 0.0)
    read = images.TrainingImages(paths, Preprocess(16, 24), **options)
    assert "do not fit into memory" in capsys.readouterr().err
    assert kept.bad == read.bad == {3: "not an image"}
    places = np.array([4, 0, 2])
    for one in (kept, read):
        some = one.take(places)
        assert len(some) == 3
        assert some[0:2].shape == (2, 16, 24, 3)
        np.testing.assert_array_equal(some[np.array([0, 1, 2])], kept[places])
        np.testing.assert_array_equal(some[0], kept[4])
    paths[0].unlink()
    with pytest.raises(UserError, match="since this run began"):
        read[0]


def test_siamese_takes_images_of_any_size():
    spec, backbone = network.start("siamese", None, None, 0)
    assert (spec, backbone.preprocess.height) == ("siamese", 64)
    for size in (1, 28, 64, 224):
        assert backbone.module.eval()(torch.zeros(2, 3, size, size)).shape == (2, 256)
    again = network.start("siamese", None, 28, 0)[1]
    other = network.start("siamese", None, 28, 1)[1]
    name = "0.weight"
    torch.testing.assert_close(again.module.state_dict()[name], backbone.module.state_dict()[name])
    assert (other.module.state_dict()[name] != backbone.module.state_dict()[name]).any()
