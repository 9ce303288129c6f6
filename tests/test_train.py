"""train.py on a few real photographs: what it learns, what it never sees, kills and resumes, checkpoints, mistakes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import extract_embedding
import train
from backbones import checkpoint, models
from common import embeddings, messages
from embedding import embedder
from embedding.classifier import load_classifier
from imaging import images
from training import calibration, loop

CLASSES = ("Fruit/Banana", "Fruit/Lime", "Fruit/Melon/Watermelon", "Packages/Juice/Bravo-Apple-Juice")
SIAMESE = ("--objective", "triplet", "--model", "siamese", "--image_size", "28", "--epochs", "3", "--batch_size", "8")
LINEAR = ("--objective", "classifier", "--freeze_backbone", "--image_size", "64")


@pytest.fixture(scope="session")
def photographs(study_data, tmp_path_factory) -> Path:
    """Four classes of `grocery`: 8 images of each for training, 4 to validate, 4 to test."""
    root = tmp_path_factory.mktemp("photographs")
    for split, n in (("train", 8), ("val", 4), ("test", 4)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for path in sorted((study_data / "grocery" / split / name).iterdir())[:n]:
                shutil.copy(path, root / split / name)
    return root


@pytest.fixture
def copied(photographs, tmp_path) -> Path:
    return Path(shutil.copytree(photographs, tmp_path / "photographs"))


def run(data_root: Path, output: Path, *options: object) -> int:
    argv = ["--data_root", data_root, "--output", output, "--quiet", "--model", "lite0", *options]
    return train.main([str(word) for word in argv])


def mistake(capsys, status: int, expected: int = 1) -> str:
    assert status == expected
    err = capsys.readouterr().err
    last = err.rstrip("\n").splitlines()[-1]
    assert last.startswith("train.py: error: ")
    assert "Traceback" not in err
    return last


@pytest.fixture(scope="session")
def linear(photographs, tmp_path_factory) -> Path:
    """A linear classifier on the features of lite0."""
    output = tmp_path_factory.mktemp("trained") / "linear"
    assert run(photographs, output, *LINEAR) == 0
    return output


@pytest.fixture(scope="session")
def siamese(photographs, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "siamese"
    assert run(photographs, output, *SIAMESE) == 0
    return output


def test_a_linear_classifier_learns_real_photographs(linear, photographs, capsys):
    about = checkpoint.describe(linear)
    assert about["classes"] == list(CLASSES)
    assert about["objective"] == "classifier"
    assert about["metrics"]["split"] == "test"
    assert about["metrics"]["n"] == 16
    assert about["metrics"]["accuracy"] >= 0.5  # a quarter would be chance
    assert run(photographs, linear, *LINEAR) == 0  # nothing to do: the result is told again
    out = capsys.readouterr().out
    assert f"Accuracy {about['metrics']['accuracy']:.4f}, 95% interval" in out
    assert "Expected calibration error, val" in out
    assert "Expected calibration error, test" in out
    for name in CLASSES:
        assert name in out
    tried = pd.read_csv(linear / "training.csv")
    assert list(tried.columns) == ["strength", "loss", "score", "chosen"]
    assert (linear / "training.png").stat().st_size > 5_000


def test_the_metrics_are_those_of_the_checkpoint_on_the_test_split(linear, photographs):
    """Accuracy, recall and calibration error, worked out again from the files."""
    classifier = load_classifier(linear)
    paths = sorted((photographs / "test").rglob("*.jpg"))
    actual = np.array([CLASSES.index(path.parent.relative_to(photographs / "test").as_posix()) for path in paths])
    batch = np.stack([classifier.preprocess(images.decode(path)) for path in paths])
    predicted = classifier(batch).argmax(axis=1)
    metrics = json.loads((linear / "model.json").read_text())["metrics"]
    assert metrics["accuracy"] == pytest.approx((predicted == actual).mean())
    for code, name in enumerate(CLASSES):
        precision, recall, _, n = metrics["classes"][name]
        assert n == 4
        assert recall == pytest.approx((predicted[actual == code] == code).mean())
        assert precision == pytest.approx(
            (actual[predicted == code] == code).mean() if (predicted == code).any() else 0
        )
    confidence = calibration.softmax(classifier(batch), classifier.temperature)
    np.testing.assert_allclose(confidence.sum(axis=1), 1)
    logits = classifier(batch).astype(float) / classifier.temperature
    np.testing.assert_allclose(
        np.log(confidence[:, :1] / confidence[:, 1:2]), logits[:, :1] - logits[:, 1:2], rtol=1e-6
    )


def test_frozen_means_frozen_and_the_logits_are_the_heads(linear, photographs, tmp_path):
    """extract_embedding.py gives what goes into the head of a classifier; the backbone is the embedded model's."""
    state = safetensors.torch.load_file(linear / "model.safetensors")
    original = models.build("lite0").module.state_dict()
    for name, value in original.items():
        np.testing.assert_array_equal(state[f"backbone.{name}"].numpy(), value.numpy())
    argv = [
        "--data_root",
        str(photographs),
        "--model",
        str(linear),
        "--output_root",
        str(tmp_path),
        "--precision",
        "fp32",
    ]
    assert extract_embedding.main([*argv, "--quiet", "--splits", "test"]) == 0
    one = embeddings.load(tmp_path / f"{photographs.name}_0_test.npz")
    assert one.dim == 1280
    assert one.fingerprint == checkpoint.describe(linear)["fingerprint"]
    classifier = load_classifier(linear, precision="fp32")
    batch = np.stack([classifier.preprocess(images.decode(photographs / path)) for path in one.paths])
    expected = one.vectors @ state["head.weight"].numpy().T + state["head.bias"].numpy()
    np.testing.assert_allclose(classifier(batch), expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="session")
def sets(photographs, tmp_path_factory) -> Path:
    """The photographs as embeddings of lite0."""
    output = tmp_path_factory.mktemp("sets")
    argv = ["--data_root", photographs, "--output_root", output, "--precision", "fp32", "--quiet", "--model", "lite0"]
    assert extract_embedding.main([str(word) for word in argv]) == 0
    return output


def learn_from(sets: Path, output: Path, *options: object) -> int:
    files = sorted(sets.glob("*.npz"))
    argv = ["--npz", *files, "--freeze_backbone", "--output", output, "--quiet", *options]
    return train.main([str(word) for word in argv])


def test_embeddings_that_are_there_train_the_head_that_images_give(sets, photographs, tmp_path, monkeypatch, capsys):
    """No image is read, no backbone runs; the checkpoint labels images as the embeddings were labelled."""
    monkeypatch.setattr(images, "decode", None)
    output = tmp_path / "head"
    assert learn_from(sets, output, "--objective", "classifier") == 0
    monkeypatch.undo()
    about = checkpoint.describe(output)
    assert about["classes"] == list(CLASSES)
    test = embeddings.load(sets / f"{photographs.name}_0_test.npz")
    classifier = load_classifier(output, precision="fp32")
    logits = classifier(np.stack([classifier.preprocess(images.decode(photographs / path)) for path in test.paths]))
    state = safetensors.torch.load_file(output / "model.safetensors")
    expected = test.vectors @ state["head.weight"].numpy().T + state["head.bias"].numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
    right = [CLASSES[code] == label for code, label in zip(expected.argmax(axis=1), test.label(), strict=True)]
    assert about["metrics"]["accuracy"] == pytest.approx(np.mean(right))
    assert run(photographs, tmp_path / "images", "--objective", "classifier", "--freeze_backbone") == 0
    assert checkpoint.describe(tmp_path / "images")["metrics"]["accuracy"] == about["metrics"]["accuracy"]


def test_a_projection_of_embeddings_that_are_there(sets, tmp_path, capsys):
    assert learn_from(sets, tmp_path / "out", "--objective", "triplet", "--epochs", "2", "--batch_size", "8") == 0
    assert "Recall@1 of the model before training" in capsys.readouterr().out
    assert models.build(str(tmp_path / "out")).module is not None


def test_what_embeddings_must_be_to_train_on_is_one_sentence(sets, photographs, tmp_path, capsys):
    files, output = sorted(sets.glob("*.npz")), tmp_path / "out"
    both = ["--npz", str(files[0]), "--output", str(output), "--objective", "classifier"]
    assert "one of the two" in mistake(capsys, train.main([*both, "--data_root", str(photographs)]), 2)
    assert "--npz goes with --freeze_backbone" in mistake(capsys, train.main(both), 2)
    unit = embeddings.load(files[0])
    embeddings.save(tmp_path / "unit.npz", unit.renamed(normalized=True))
    argv = ["--npz", str(tmp_path / "unit.npz"), "--output", str(output), "--objective", "classifier"]
    assert "extract without --normalize" in mistake(capsys, train.main([*argv, "--freeze_backbone"]))
    embeddings.save(tmp_path / "other.npz", unit.renamed(fingerprint="0" * 64))
    argv[1] = str(tmp_path / "other.npz")
    assert "of other weights or preprocessing" in mistake(capsys, train.main([*argv, "--freeze_backbone"]))
    embeddings.save(tmp_path / "unknown.npz", unit.renamed(fingerprint="", model=""))
    argv[1] = str(tmp_path / "unknown.npz")
    assert "does not say which model made it" in mistake(capsys, train.main([*argv, "--freeze_backbone"]))


def test_a_triplet_checkpoint_embeds_with_its_projection(siamese, photographs, tmp_path, capsys):
    argv = ["--data_root", str(photographs), "--model", str(siamese), "--output_root", str(tmp_path), "--quiet"]
    assert extract_embedding.main([*argv, "--precision", "fp32"]) == 0  # as training computes, on any processor
    sets = {
        split: embeddings.load(tmp_path / f"{photographs.name}_0_{split}.npz") for split in ("train", "val", "test")
    }
    assert {one.dim for one in sets.values()} == {128}
    assert sets["test"].fingerprint == checkpoint.describe(siamese)["fingerprint"]
    unit = {split: one.vectors / np.linalg.norm(one.vectors, axis=1, keepdims=True) for split, one in sets.items()}
    label = {split: one.label() for split, one in sets.items()}
    nearest = (unit["test"] @ unit["train"].T).argmax(axis=1)
    metrics = checkpoint.describe(siamese)["metrics"]
    assert metrics["accuracy"] == pytest.approx((label["train"][nearest] == label["test"]).mean())
    own = unit["val"] @ unit["val"].T - 4 * np.eye(len(unit["val"]))  # never its own neighbour
    recall = (label["val"][own.argmax(axis=1)] == label["val"]).mean()
    rows = pd.read_csv(siamese / "training.csv")
    assert rows.score[rows.chosen == 1].tolist() == [pytest.approx(recall)]
    with pytest.raises(messages.UserError, match="embedding model, not a classifier"):
        load_classifier(siamese)


def test_fine_tuning_starts_at_the_embedded_model_and_moves_it(photographs, tmp_path):
    options = ("--objective", "classifier", "--image_size", "64", "--epochs", "1", "--batch_size", "16")
    assert run(photographs, tmp_path / "c", *options) == 0
    state = safetensors.torch.load_file(tmp_path / "c" / "model.safetensors")
    original = models.build("lite0").module.state_dict()
    stem = "conv_stem.weight"
    moved = (state[f"backbone.{stem}"] - original[stem]).abs()
    assert 0 < moved.max() < 0.05 * original[stem].abs().max()
    for name, value in original.items():  # the statistics of normalisations are kept
        if "running" in name:
            np.testing.assert_array_equal(state[f"backbone.{name}"].numpy(), value.numpy())


def test_training_goes_on_from_a_checkpoint(linear, photographs, tmp_path):
    assert run(photographs, tmp_path / "t", *LINEAR, "--model", linear, "--label_level", "0") == 0
    about = checkpoint.describe(tmp_path / "t")
    assert about["spec"] == "tf_efficientnet_lite0"  # whatever name it was asked for by
    assert about["fingerprint"] == checkpoint.describe(linear)["fingerprint"]  # the same frozen features
    assert embedder.load(tmp_path / "t").fingerprint == about["fingerprint"]


def test_a_projection_is_trained_on_frozen_features(photographs, tmp_path, capsys):
    options = (
        "--objective",
        "triplet",
        "--freeze_backbone",
        "--image_size",
        "64",
        "--epochs",
        "4",
        "--embedding_dim",
        "16",
    )
    assert run(photographs, tmp_path / "t", *options) == 0
    assert embedder.load(tmp_path / "t").dim == 16
    assert "before training" in capsys.readouterr().out
    assert "before" in checkpoint.describe(tmp_path / "t")["metrics"]


def test_no_test_image_is_opened_before_the_model_is_trained(photographs, tmp_path, monkeypatch):
    opened, fit = [], loop.fit
    decode = images.decode

    def watched(path: Path, **options: object) -> np.ndarray:
        opened.append(Path(path).relative_to(photographs).parts[0])
        return decode(path, **options)

    def fitted(*args: object, **options: object) -> object:
        result = fit(*args, **options)
        assert set(opened) == {"train", "val"}
        opened.append("trained")
        return result

    monkeypatch.setattr(images, "decode", watched)
    monkeypatch.setattr(loop, "fit", fitted)
    assert run(photographs, tmp_path / "t", *SIAMESE, "--epochs", "1") == 0
    assert opened.index("trained") < opened.index("test")


def test_the_weights_do_not_depend_on_the_test_split(siamese, copied, tmp_path, capsys):
    shutil.rmtree(copied / "test")
    assert run(copied, tmp_path / "t", *SIAMESE) == 0
    assert (tmp_path / "t" / "model.safetensors").read_bytes() == (siamese / "model.safetensors").read_bytes()
    assert "validation split" in capsys.readouterr().out


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    import train
    from training import loop
    write, written = loop.write_state, []

    def write_and_die(*args):
        write(*args)
        written.append(1)
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.write_state = write_and_die
    train.main(sys.argv[1:])
    """
)


def test_a_killed_run_goes_on_to_the_same_weights(siamese, photographs, tmp_path, root, capsys):
    argv = ["--data_root", str(photographs), "--output", str(tmp_path / "t"), *SIAMESE]
    # Sums depend on the number of threads: the killed process has as many as this one, whatever ran here before.
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED, *argv]
    done = subprocess.run(command, cwd=root, env=threads, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "t" / "model.json").exists()
    assert train.main(argv) == 0
    assert "going on after epoch 2 of 3" in capsys.readouterr().err
    assert (tmp_path / "t" / "model.safetensors").read_bytes() == (siamese / "model.safetensors").read_bytes()
    kept = ["epoch", "lr", "loss", "score", "tie", "chosen"]
    both = [pd.read_csv(folder / "training.csv")[kept] for folder in (tmp_path / "t", siamese)]
    pd.testing.assert_frame_equal(*both)
    assert not (tmp_path / "t" / ".training").exists()


def test_ctrl_c_ends_within_two_seconds_and_says_how_far(photographs, tmp_path, root):
    argv = [
        sys.executable,
        str(root / "train.py"),
        "--data_root",
        str(photographs),
        "--output",
        str(tmp_path / "t"),
        *SIAMESE,
    ]
    process = subprocess.Popen([*argv, "--epochs", "1000", "--patience", "1000"], stderr=subprocess.PIPE, text=True)
    waited = time.monotonic() + 100
    while not (tmp_path / "t" / ".training" / "epoch.pt").exists() and time.monotonic() < waited:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - started < 10  # two seconds, where nothing else runs
    assert "of 1000 epochs done, the best so far epoch" in err
    assert "Traceback" not in err


def test_an_overwriting_run_that_was_killed_goes_on_too(photographs, tmp_path, monkeypatch, capsys):
    class Killed(BaseException):
        pass

    write = loop.write_state

    def write_and_die(*args: object) -> None:
        write(*args)
        raise Killed

    options = (*SIAMESE, "--epochs", "2", "--overwrite")
    monkeypatch.setattr(loop, "write_state", write_and_die)
    with pytest.raises(Killed):
        run(photographs, tmp_path / "t", *options)
    monkeypatch.undo()
    argv = ["--data_root", str(photographs), "--output", str(tmp_path / "t"), *options]
    assert train.main(argv) == 0
    assert "going on after epoch 1 of 2" in capsys.readouterr().err
    assert train.main(argv) == 0
    assert "going on" not in capsys.readouterr().err  # finished: trained anew, as asked


def test_another_runs_folder_is_noticed(siamese, photographs, tmp_path, capsys):
    folder = Path(shutil.copytree(siamese, tmp_path / "t"))
    assert "lr 0.001 -> 0.5" in mistake(capsys, run(photographs, folder, *SIAMESE, "--lr", "0.5"))
    before = (folder / "model.safetensors").read_bytes()
    assert run(photographs, folder, *SIAMESE, "--lr", "0.01", "--epochs", "1", "--overwrite") == 0
    assert (folder / "model.safetensors").read_bytes() != before
    assert len(pd.read_csv(folder / "training.csv")) == 1
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "model.safetensors").write_bytes(b"of somebody else")
    assert "which train.py has not made" in mistake(capsys, run(photographs, foreign, *SIAMESE))
    assert (foreign / "model.safetensors").read_bytes() == b"of somebody else"


def test_a_bad_image_costs_its_own_row(copied, tmp_path, capsys):
    bad = [sorted((copied / split / CLASSES[0]).iterdir())[0] for split in ("train", "test")]
    for path in bad:
        path.write_bytes(path.read_bytes()[:500])
    assert run(copied, tmp_path / "t", *LINEAR) == 0
    err = capsys.readouterr().err
    assert "1 image left out" in err
    rows = pd.read_csv(tmp_path / "t" / "skipped.csv")
    assert rows.path.tolist() == [path.relative_to(copied).as_posix() for path in bad]
    assert checkpoint.describe(tmp_path / "t")["metrics"]["n"] == 15


def test_without_a_validation_split_whole_photos_are_held_out(photographs, tmp_path, capsys):
    argv = ["--data_root", str(photographs / "train"), "--output", str(tmp_path / "t"), "--model", "lite0", *LINEAR]
    assert train.main(argv) == 0
    out, err = capsys.readouterr()
    assert "no validation split: 8 images of the training split held out, by photo" in err
    assert "validation split, by which the model was chosen" in out


def test_single_validation_images_are_compared_with_the_training_split(copied, tmp_path, capsys):
    for name in CLASSES:
        for path in sorted((copied / "val" / name).iterdir())[1:]:
            path.unlink()
    options = ("--objective", "triplet", "--freeze_backbone", "--image_size", "64", "--epochs", "2")
    argv = ["--data_root", str(copied), "--output", str(tmp_path / "t"), "--model", "lite0", *options]
    assert train.main(argv) == 0
    assert "their references are the training split" in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "t" / "training.csv").score.max() >= 0.5


def test_unknown_and_missing_labels(copied, tmp_path, capsys):
    shutil.rmtree(copied / "train" / CLASSES[1])
    assert run(copied, tmp_path / "t", *LINEAR) == 0
    err = capsys.readouterr().err
    assert "test: 4 images of classes that are not trained, counted as wrong: Fruit/Lime" in err
    assert checkpoint.describe(tmp_path / "t")["metrics"]["accuracy"] <= 0.75


def test_label_level(photographs, tmp_path):
    assert run(photographs, tmp_path / "t", *LINEAR, "--label_level", "0") == 0
    assert checkpoint.describe(tmp_path / "t")["classes"] == [
        "Fruit",
        "Packages",
    ]  # two classes: a head of one weight row


def test_mistakes_are_one_sentence(photographs, tmp_path, capsys):
    out = tmp_path / "t"
    (tmp_path / "empty").mkdir()
    assert "no images" in mistake(capsys, run(tmp_path / "empty", out, *LINEAR))
    assert "no such folder" in mistake(capsys, run(tmp_path / "nowhere", out, *LINEAR))
    one = photographs / "train" / "Packages"
    assert "only the class Juice/Bravo-Apple-Juice" in mistake(capsys, run(one, out, *LINEAR))
    flat = photographs / "train" / CLASSES[0]
    assert "no labels" in mistake(capsys, run(flat, out, *LINEAR))
    assert "no split 'valid'" in mistake(capsys, run(photographs, out, *LINEAR, "--val_split", "valid"))
    assert "cannot be both" in mistake(capsys, run(photographs, out, *LINEAR, "--val_split", "train"))
    assert "no such model" in mistake(capsys, run(photographs, out, *LINEAR, "--model", "efficientnot"), 2)
    assert "--label_level" in mistake(capsys, run(photographs, out, *LINEAR, "--label_level", "7"))
    assert not (out / "model.json").exists()


def test_the_validation_split_cannot_be_read(copied, tmp_path, capsys):
    for path in (copied / "val").rglob("*.jpg"):
        path.write_bytes(b"")
    assert "no image of the validation split can be read" in mistake(capsys, run(copied, tmp_path / "t", *LINEAR))


def test_out_of_memory_is_one_sentence(photographs, tmp_path, capsys, monkeypatch):
    def no_room(*args: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("training.network.Network.forward", no_room)
    assert "smaller --batch_size" in mistake(capsys, run(photographs, tmp_path / "t", *SIAMESE))


def test_a_full_disk_is_one_sentence(photographs, tmp_path, root):
    """No file may grow beyond 200 KB, which stands for a full disk."""
    limited = (
        "import resource, sys, train; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000,) * 2); sys.exit(train.main())"
    )
    argv = ["--data_root", str(photographs), "--output", str(tmp_path / "t"), *SIAMESE]
    done = subprocess.run([sys.executable, "-c", limited, *argv], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "error: " in last
    assert "File too large" in last
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "t").rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["xception", "vgg16"])
def test_models_of_the_older_systems(photographs, tmp_path, model):
    """They train where their weights are given; here untrained ones, at the least size they take."""
    options = ("--objective", "triplet", "--freeze_backbone", "--epochs", "1", "--image_size", "32")
    assert run(photographs, tmp_path / "t", *options, "--model", model, "--weights", "random") == 0
    assert embedder.load(tmp_path / "t").dim == 128
