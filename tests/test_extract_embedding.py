"""extract_embedding.py: the vectors of real photographs, kills and resumes, bad images, changed options, shards."""

from __future__ import annotations

import csv
import fcntl
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import extract_embedding
from common import embedding_sets, embeddings
from embedding import extraction, output_set
from embedding.output_set import RowFile
from imaging import images

TINY = textwrap.dedent(
    """
    import os, time
    import torch

    shapes = []

    class Slow(torch.nn.Module):
        def forward(self, x):
            shapes.append(len(x))
            time.sleep(float(os.environ.get("SLOW", 0)))
            return x

    def make():
        torch.manual_seed(5)
        model = torch.nn.Sequential(
            Slow(), torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
        )
        model.preprocess = {"height": 32, "width": 32, "interpolation": "bilinear"}
        return model

    def blind():  # gives nothing for dark pictures
        class Blind(torch.nn.Module):
            def forward(self, x):
                return (x.mean((2, 3)) > 0) * x.mean((2, 3))
        return Blind()
    """
)


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A working folder with a tiny encoder and 23 pictures in two splits of two classes."""
    (tmp_path / "tiny_encoder.py").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny_encoder", raising=False)
    pixels = np.random.default_rng(0)
    for number in range(23):
        folder = tmp_path / "crops" / ("train" if number < 15 else "test") / ("a", "b")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels.integers(0, 256, (40, 50, 3), np.uint8))
        picture.save(folder / f"{number:02d}.png")
    return tmp_path


def run(*argv: object) -> int:
    return extract_embedding.main(["--model", "tiny_encoder:make", "--batch_size", "4", "--quiet", *map(str, argv)])


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def same(one: Path, other: Path) -> None:
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_real_photographs_with_the_default_model(study_data, tmp_path, capsys):
    """Every row is the image's own vector: an independent loop with timm and Pillow gives the same."""
    import timm
    import torch

    from backbones import weights

    status = extract_embedding.main(
        [
            "--data_root",
            str(study_data / "grocery"),
            "--splits",
            "val",
            "--folders",
            "Fruit",
            "--output_root",
            str(tmp_path),
        ]
    )
    assert status == 0
    out = capsys.readouterr()
    path = tmp_path / "grocery_0_val.npz"
    assert out.out.splitlines() == [str(path)]
    assert "images/s" in out.err
    assert "holds it back" not in out.err  # where the time went is said with --verbose
    one = embeddings.load(path)
    files = sorted((study_data / "grocery" / "val" / "Fruit").rglob("*.jpg"))
    assert sorted(one.paths) == sorted(file.relative_to(study_data / "grocery").as_posix() for file in files)
    module = timm.create_model("tf_efficientnet_lite2").eval()
    module.load_state_dict(weights.embedded(module))
    for row in range(0, len(one), 5):
        picture = Image.open(study_data / "grocery" / one.paths[row]).convert("RGB").resize((260, 260), Image.BICUBIC)
        pixels = torch.from_numpy(np.asarray(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            cells = module.forward_features(pixels)[0].double().numpy()
        expected = (np.maximum(cells, 1e-6) ** 3).mean((1, 2)) ** (1 / 3)  # gem
        vector = one.vectors[row].astype(np.float64)
        assert vector @ expected / np.linalg.norm(vector) / np.linalg.norm(expected) > 0.9995
        parts = Path(one.paths[row]).parts
        assert parts[1:-1] == tuple(name for name in one.labels[row] if name)
    assert one.labels.shape[1] == 3  # class_0 to class_2
    assert one.meta["precision"] in ("fp32", "bf16", "mixed")
    assert (one.meta["model"], one.id) == ("tf_efficientnet_lite2", "0")
    assert not {"pooling", "base_fingerprint"} & {*one.meta}  # it is the model's own


def test_without_a_model_a_folder_of_another_model_is_asked_about(work, capsys):
    """Sets of an earlier version's default are never mixed with those of another one in silence."""
    sets = work / "embeddings"
    lite0, default = (
        [*argv, "--quiet", "--batch_size", "4", "--precision", "fp32"] for argv in (["--model", "lite0"], [])
    )
    splits = ["--data_root", "crops", "--splits"]
    assert extract_embedding.main([*splits, "test", *lite0]) == 0
    before = (sets / "crops_0_test.npz").read_bytes()
    for more in (["test"], ["train"], ["train", "--id", "10"]):
        assert extract_embedding.main([*splits, *more, *default]) == 2
        error = capsys.readouterr().err.strip()
        assert error.count("\n") == 0
        assert (
            "crops_0_test.npz was made with tf_efficientnet_lite0, and the default is lite2: add --model lite0" in error
        )
    assert [path.name for path in sets.glob("*.npz")] == ["crops_0_test.npz"]
    assert (sets / "crops_0_test.npz").read_bytes() == before
    capsys.readouterr()
    assert (
        extract_embedding.main([*splits, "test", "--model", "tf_efficientnet_lite0", *default]) == 0
    )  # goes on: complete
    assert extract_embedding.main([*splits, "train", "--model", "lite2", *default]) == 0  # named, and so both
    assert extract_embedding.main([*splits, "train", *default]) == 0  # the default is there already
    assert extract_embedding.main([*splits, "test", *default, "--overwrite"]) == 0
    assert embeddings.load(sets / "crops_0_test.npz").meta["model"] == "tf_efficientnet_lite2"
    assert extract_embedding.main([*splits, "test", *default, "--company_name", "other"]) == 0


def test_names_ids_and_meta(work, capsys):
    assert run("--data_root", "crops", "--company_name", "shop", "--id", "{padding}-{model}", "--normalize") == 0
    found = sorted(path.name for path in (work / "embeddings").glob("*.npz"))
    assert found == ["shop_0-tiny_encoder:make_test.npz", "shop_0-tiny_encoder:make_train.npz"]
    one = embeddings.load(work / "embeddings" / found[1])
    np.testing.assert_allclose(np.linalg.norm(one.vectors, axis=1), 1, rtol=1e-6)
    assert len(one) == 15
    assert one.labels[:, 0].tolist() == [Path(path).parts[1] for path in one.paths]
    assert (one.dataset, one.id, one.split) == ("shop", "0-tiny_encoder:make", "train")
    assert one.meta["normalized"] is True
    assert one.meta["data_root"] == str(work / "crops")
    from embedding.embedder import load as load_model

    assert load_model(one.meta["model"], **one.meta["model_options"]).fingerprint == one.fingerprint


def test_flat_folder_without_labels(work):
    (work / "flat").mkdir()
    for path in (work / "crops" / "test").rglob("*.png"):
        shutil.copy(path, work / "flat")
    assert run("--data_root", "flat") == 0
    one = embeddings.load(work / "embeddings" / "flat_0_all.npz")
    assert one.labels.shape == (8, 0)
    assert one.crop_ids.tolist() == [str(number) for number in range(15, 23)]


def test_batches_do_not_decide_the_result(work):
    """A row is the same whatever its place, its neighbours and the number of threads."""
    for number, options in enumerate((["--workers", "1"], ["--workers", "7"], ["--folders", "a"])):
        assert run("--data_root", "crops", "--output_root", f"out{number}", "--precision", "fp32", *options) == 0
    same(work / "out0" / "crops_0_train.npz", work / "out1" / "crops_0_train.npz")
    whole, part = (embeddings.load(work / name / "crops_0_train.npz") for name in ("out0", "out2"))
    rows = [whole.crop_ids.tolist().index(crop) for crop in part.crop_ids]
    np.testing.assert_allclose(part.vectors, whole.vectors[rows], rtol=1e-6)


def test_bad_images_cost_their_own_row(work, study_data, capsys):
    assert run("--data_root", "crops", "--output_root", "before") == 0
    for name in ("bomb.png", "empty.jpg", "text.jpg", "truncated.jpg", "good.jpg"):
        shutil.copyfile(study_data / "broken" / "images" / name, work / "crops" / "train" / "a" / name)
    assert run("--data_root", "crops", "--splits", "train") == 0
    before = embeddings.load(work / "before" / "crops_0_train.npz")
    after = embeddings.load(work / "embeddings" / "crops_0_train.npz")
    assert len(after) == 16
    kept = [after.crop_ids.tolist().index(crop) for crop in before.crop_ids]
    np.testing.assert_allclose(after.vectors[kept], before.vectors, rtol=1e-6)
    with open(work / "embeddings" / "crops_0_train_skipped.csv", newline="") as file:
        reasons = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == {"bomb.png", "empty.jpg", "text.jpg", "truncated.jpg"}
    assert reasons["empty.jpg"] == "image file is empty"
    assert after.meta["skipped"] == 4
    capsys.readouterr()
    assert run("--data_root", "crops", "--splits", "train", "--strict", "--overwrite") == 1
    assert "images were skipped, and --strict is given" in capsys.readouterr().err
    assert run("--data_root", "crops", "--splits", "train", "--strict") == 1, (
        "a finished set with skips is no success either"
    )


def test_a_list_of_skipped_images_goes_when_they_are_repaired(work):
    (work / "crops" / "train" / "a" / "bad.png").write_bytes(b"x")
    assert run("--data_root", "crops", "--splits", "train") == 0
    (work / "crops" / "train" / "a" / "bad.png").unlink()
    assert run("--data_root", "crops", "--splits", "train", "--overwrite") == 0
    assert not (work / "embeddings" / "crops_0_train_skipped.csv").exists()


def test_images_without_a_usable_vector_are_skipped(work, capsys):
    (work / "dark").mkdir()
    Image.new("RGB", (30, 30)).save(work / "dark" / "black.png")
    Image.new("RGB", (30, 30), "white").save(work / "dark" / "white.png")
    assert run("--data_root", "dark", "--model", "tiny_encoder:blind") == 0
    one = embeddings.load(work / "embeddings" / "dark_0_all.npz")
    assert one.paths.tolist() == ["white.png"]
    assert "gives no finite vector" in (work / "embeddings" / "dark_0_all_skipped.csv").read_text()
    (work / "dark" / "white.png").unlink()
    assert run("--data_root", "dark", "--model", "tiny_encoder:blind", "--id", "x") == 1
    assert "no image of split all gave a vector (1 the model gives no finite vector)" in capsys.readouterr().err


def test_a_finished_set_is_not_made_again(work, capsys):
    assert run("--data_root", "crops") == 0
    first = capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (work / "embeddings").glob("*.npz")}
    assert run("--data_root", "crops", "--precision", "fp32") in (0, 1)  # 1 where auto took another precision
    capsys.readouterr()
    assert run("--data_root", "crops") == 0
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in (work / "embeddings").glob("*.npz")} == before
    assert not list((work / "embeddings").glob(".*.partial"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--normalize"], "--normalize false -> true)"),
        (["--batch_size", "5"], "--batch_size 4 -> 5)"),
        (
            ["--resize_mode", "letterbox"],
            '--resize_mode "squash" -> "letterbox")',
        ),
        (["--layer", "1"], '--layer not given -> "1")'),
        (
            ["--model", "tiny_encoder:blind"],
            '--model "tiny_encoder:make" -> "tiny_encoder:blind")',
        ),
        ("touch", "input: images or labels were added, removed or changed)"),
        ("add", "input: images or labels were added, removed or changed)"),
    ],
)
def test_changed_options_or_input_are_noticed(work, capsys, change, named):
    assert run("--data_root", "crops", "--splits", "test") == 0
    path = work / "embeddings" / "crops_0_test.npz"
    before = path.read_bytes()
    if change == "touch":
        os.utime(next((work / "crops" / "test").rglob("*.png")), (1, 1))
    elif change == "add":
        Image.new("RGB", (9, 9)).save(work / "crops" / "test" / "a" / "new.png")
    options = change if isinstance(change, list) else []
    assert run("--data_root", "crops", "--splits", "test", *options) == 1
    assert f"was made with other options or input ({named}" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert run("--data_root", "crops", "--splits", "test", *options, "--overwrite") == 0
    assert path.read_bytes() != before


def test_shards(work, monkeypatch, capsys):
    assert run("--data_root", "crops", "--output_root", "whole") == 0
    monkeypatch.setattr(output_set, "SHARD_ROWS", 4)
    assert run("--data_root", "crops", "--output_root", "parts") == 0
    names = sorted(path.name for path in (work / "parts").glob("*_train*.npz"))
    assert names == [f"crops_0_train_{at:05d}-of-00004.npz" for at in range(4)]
    (one,) = [each for each in embedding_sets.read_sets([work / "parts"]) if each.split == "train"]
    whole = embeddings.load(work / "whole" / "crops_0_train.npz")
    np.testing.assert_array_equal(np.concatenate(one.blocks), whole.vectors)
    assert one.crop_ids.tolist() == whole.crop_ids.tolist()
    capsys.readouterr()
    assert run("--data_root", "crops", "--output_root", "parts") == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    (work / "parts" / names[2]).unlink()  # a missing shard is made again
    assert run("--data_root", "crops", "--output_root", "parts") == 0
    assert sorted(path.name for path in (work / "parts").glob("*_train*.npz")) == names
    monkeypatch.setattr(output_set, "SHARD_ROWS", 100)
    assert run("--data_root", "crops", "--output_root", "parts", "--overwrite") == 0
    assert [path.name for path in (work / "parts").glob("*_train*.npz")] == ["crops_0_train.npz"]


def start(work: Path, *argv: object, slow: float = 0.0) -> subprocess.Popen:
    script = Path(extract_embedding.__file__)
    command = [sys.executable, str(script), "--data_root", "crops", "--model", "tiny_encoder:make", "--batch_size", "1"]
    return subprocess.Popen(
        [*command, *map(str, argv)], cwd=work, env={**os.environ, "SLOW": str(slow)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_rows(work: Path, n: int, process: subprocess.Popen) -> None:
    """Wait until an unfinished run has logged n batches."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        logs = list((work / "embeddings").glob(".*.partial/batches.jsonl"))
        if sum(log.read_bytes().count(b"\n") for log in logs) >= n:
            return
        time.sleep(0.02)


def kill_and_compare(work: Path, kills: int) -> None:
    assert run("--data_root", "crops", "--batch_size", "1", "--output_root", "reference") == 0
    chance = random.Random(0)
    for number in range(kills):
        process = start(work, slow=0.05)
        wait_for_rows(work, 1 + number, process)
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start(work)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "going on after" in error or (kills > 5 and "complete already" in error), error
    for split in ("train", "test"):
        same(work / "reference" / f"crops_0_{split}.npz", work / "embeddings" / f"crops_0_{split}.npz")
    left = [path.name for path in (work / "embeddings").iterdir() if not path.name.endswith((".npz", ".lock"))]
    assert left == ["models.csv"]  # how fast the runs were


def test_killed_five_times_the_result_is_the_same(work):
    kill_and_compare(work, 5)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_fifty_times_the_result_is_the_same(work):
    kill_and_compare(work, 50)


def test_rows_survive_any_cut(tmp_path):
    """Whatever a kill or a power cut leaves of the two files, the rows read back are a prefix of those written."""
    whole = RowFile(tmp_path / "whole", 3)
    vectors = np.arange(30, dtype=np.float32).reshape(10, 3)
    for at in range(0, 10, 2):
        whole.append(vectors[at : at + 2], [(at, "bad")] if at == 4 else [])
    chance = random.Random(1)
    data, log = ((tmp_path / "whole" / name).read_bytes() for name in ("rows.f32", "batches.jsonl"))
    for number in range(60):
        folder = tmp_path / str(number)
        folder.mkdir()
        cut = data[: chance.randrange(len(data) + 1)]
        if number % 3 == 0 and cut:  # pages that never reached the disk read as zeros
            cut = cut[: len(cut) // 2] + bytes(len(cut) - len(cut) // 2)
        (folder / "rows.f32").write_bytes(cut)
        (folder / "batches.jsonl").write_bytes(log[: chance.randrange(len(log) + 1)])
        rows = RowFile(folder, 3)
        assert rows.rows == 2 * rows.batches
        np.testing.assert_array_equal(rows.vectors, vectors[: rows.rows])
        assert rows.skipped == ([(4, "bad")] if rows.batches > 2 else [])
        for at in range(rows.rows, 10, 2):
            rows.append(vectors[at : at + 2], [(at, "bad")] if at == 4 else [])
        assert (folder / "rows.f32").read_bytes() == data
        assert (folder / "batches.jsonl").read_bytes() == log


def test_an_unfinished_run_keeps_its_precision(work, monkeypatch):
    """auto must not choose anew in the middle of a set."""
    process = start(work, "--precision", "bf16", slow=0.05)
    wait_for_rows(work, 3, process)
    process.kill()
    process.wait()
    assert run("--data_root", "crops", "--batch_size", "1") == 0
    assert embeddings.load(work / "embeddings" / "crops_0_train.npz").meta["precision"] == "bf16"


def test_a_set_is_computed_as_those_of_its_model_beside_it_those_of_its_own_data_set_first(work):
    """Under another name too, as a loop over folders names its sets; of another folder, the choice is made anew."""
    for name in ("crops_5", "crops_10"):
        shutil.copytree(work / "crops", work / name)
    assert run("--data_root", "crops", "--precision", "bf16") == 0
    assert run("--data_root", "crops_5") == 0
    assert run("--data_root", "crops_10", "--splits", "train", "--precision", "fp32") == 0
    assert run("--data_root", "crops_10") == 0
    made = {path.stem: embeddings.load(path).meta["precision"] for path in sorted((work / "embeddings").glob("*.npz"))}
    of = {name: {made[f"{name}_0_train"], made[f"{name}_0_test"]} for name in ("crops", "crops_5", "crops_10")}
    assert of == {"crops": {"bf16"}, "crops_5": {"bf16"}, "crops_10": {"fp32"}}


def test_an_unfinished_run_with_other_options_is_not_continued(work, capsys):
    process = start(work, slow=0.05)
    wait_for_rows(work, 2, process)
    process.kill()
    process.wait()
    assert run("--data_root", "crops", "--batch_size", "1", "--normalize") == 1
    assert "was begun with other options or input (--normalize false -> true)" in capsys.readouterr().err
    assert run("--data_root", "crops", "--batch_size", "1", "--normalize", "--overwrite") == 0
    one = embeddings.load(work / "embeddings" / "crops_0_train.npz")
    np.testing.assert_allclose(np.linalg.norm(one.vectors, axis=1), 1, rtol=1e-6)


def test_interrupt_stops_within_two_seconds_with_a_summary(work):
    process = start(work, slow=1)
    wait_for_rows(work, 2, process)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - began < 10  # two seconds, where nothing else runs; the set takes 15
    assert process.returncode == 130
    assert "of 15 images done" in error or "of 8 images done" in error
    assert "interrupted; run the same command again to go on" in error
    assert "Traceback" not in error


def test_two_runs(work, capsys):
    """A second run on the same set says so and stops; another ID beside it is welcome."""
    (work / "embeddings").mkdir()
    with open(work / "embeddings" / ".crops_0_train.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run("--data_root", "crops", "--splits", "train") == 1
        assert "another run is writing" in capsys.readouterr().err
        assert run("--data_root", "crops", "--splits", "train", "--id", "other") == 0
    assert run("--data_root", "crops", "--splits", "train") == 0


def test_full_disk(work):
    """One sentence, nothing among the results, and the run can go on later."""
    limit = "import resource,sys,runpy; resource.setrlimit(resource.RLIMIT_FSIZE,(900,900)); sys.argv=sys.argv[1:];"
    limit += "sys.path.insert(0, __import__('os').path.dirname(sys.argv[0]));"
    limit += (
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script = extract_embedding.__file__
    argv = ["--data_root", "crops", "--model", "tiny_encoder:make", "--batch_size", "4", "--splits", "train"]
    done = subprocess.run(
        [sys.executable, "-c", limit, script, *argv], cwd=work, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith("extract_embedding.py: error: embeddings/.crops_0_train.partial/")
    )
    assert not list((work / "embeddings").glob("*.npz"))
    assert run(*argv[:2], *argv[6:]) == 0
    assert run(*argv[:2], *argv[6:], "--output_root", "reference") == 0
    same(work / "reference" / "crops_0_train.npz", work / "embeddings" / "crops_0_train.npz")


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["--data_root", "absent"], 1, "absent: no such folder"),
        (["--data_root", "crops", "--splits", "val"], 1, "has no split 'val'; it has: test, train"),
        (["--data_root", "crops", "--folders", "c"], 1, "has no folder 'c'"),
        (["--data_root", "crops", "--batch_size", "0"], 2, "0 is not from 1 to 65536"),
        (["--data_root", "crops", "--model", "nothing_like_it"], 2, "timm has no such model"),
        (["--data_root", "crops", "--device", "tpu"], 2, "--device tpu is not usable here"),
        (["--data_root", "crops", "--output_root", "crops/train/a/00.png/x"], 1, "is a file, not a folder"),
        ([], 2, "name the crops with --data_root"),
        (["--folders", "crops", "a"], 2, "name the crops with --data_root; a is no folder"),
        (
            ["--data_root", "crops", "--split_by_photo", "70/20"],
            2,
            "'70/20' is not two or three shares that add up to 100",
        ),
        (["--data_root", "crops", "--split_by_photo", "70/15/15", "--splits", "all"], 2, "draws train, val, test"),
    ],
)
def test_mistakes_get_one_sentence(work, capsys, argv, status, message):
    assert run(*argv) == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_further_folders_extend_a_set(work, capsys):
    """One class, then the other, then all: the same set as at once, and no step needs --overwrite."""
    argv = ("--data_root", "crops", "--splits", "train", "--output_root")
    assert run(*argv, "once") == 0
    assert run(*argv, "parts", "--folders", "a") == 0
    path = work / "parts" / "crops_0_train.npz"
    assert json.loads(str(arrays(path)["meta"]))["folders"] == ["a"]
    assert run(*argv, "parts", "--folders", "b") == 0
    both = arrays(path)
    once = arrays(work / "once" / "crops_0_train.npz")
    for name in ("embeddings", "paths", "labels"):
        np.testing.assert_array_equal(both[name], once[name])
    stamp = path.stat().st_mtime_ns
    for options in (["--folders", "a"], ["--folders", "b", "a"], []):
        assert run(*argv, "parts", *options) == 0
        assert path.stat().st_mtime_ns == stamp, options  # complete already
    assert run(*argv, "once", "--folders", "b") == 0  # a part of a set that is there
    assert len(arrays(work / "once" / "crops_0_train.npz")["paths"]) == 15
    capsys.readouterr()
    os.utime(next((work / "crops" / "train" / "a").iterdir()), (1, 1))
    assert run(*argv, "parts", "--folders", "a") == 1  # an image has changed: nothing is replaced unasked
    assert "images or labels were added, removed or changed" in capsys.readouterr().err


def test_a_set_of_some_folders_is_extended_by_the_full_run(work, capsys):
    argv = ("--data_root", "crops", "--output_root", "e")
    assert run(*argv, "--folders", "a") == 0
    assert run(*argv) == 0
    meta = json.loads(str(arrays(work / "e" / "crops_0_train.npz")["meta"]))
    assert "folders" not in meta
    assert len(arrays(work / "e" / "crops_0_train.npz")["paths"]) == 15


def test_folders_alone_are_data_roots(work):
    assert run("--folders", "crops/", "--output_root", "old") == 0
    assert run("--data_root", "crops", "--output_root", "new") == 0
    for name in ("crops_0_train.npz", "crops_0_test.npz"):
        old, new = arrays(work / "old" / name), arrays(work / "new" / name)
        np.testing.assert_array_equal(old["embeddings"], new["embeddings"])
        np.testing.assert_array_equal(old["paths"], new["paths"])


def test_splits_drawn_by_photo(work, capsys):
    """Without folders of splits: every image is a photo of its own."""
    for number, path in enumerate(sorted((work / "crops").rglob("*.png"))):
        target = work / "flat" / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / f"s{number // 3}_{number}.png")
    assert run("--data_root", "flat", "--split_by_photo", "60/20/20", "--group_by", r"/(s\d+)_") == 0
    sets = {split: arrays(work / "embeddings" / f"flat_0_{split}.npz") for split in ("train", "val", "test")}
    groups = {
        split: {path.split("/")[1].split("_")[0] for path in part["paths"].tolist()} for split, part in sets.items()
    }
    assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == 8
    assert sum(len(part["paths"]) for part in sets.values()) == 23


def test_several_data_roots_make_the_sets_that_each_alone_makes(work, capsys):
    """crops.csv gives each folder its padding; one model serves both."""
    for padding in ("0", "10"):
        shutil.copytree(work / "crops", work / f"pad_{padding}")
        with open(work / f"pad_{padding}" / "crops.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "split", "sample_id", "crop_id", "class_0", "padding"])
            for path in sorted((work / "crops").rglob("*.png")):
                split, label, _ = path.relative_to(work / "crops").parts
                rows.writerow([path.relative_to(work / "crops"), split, path.stem, path.stem, label, padding])
    assert run("--data_root", "pad_0", "pad_10", "--company_name", "d") == 0
    names = [Path(line).name for line in capsys.readouterr().out.split()]
    assert sorted(names) == ["d_0_test.npz", "d_0_train.npz", "d_10_test.npz", "d_10_train.npz"]
    assert run("--data_root", "pad_0", "pad_10", "--splits", "test", "--output_root", "unnamed") == 0
    said = capsys.readouterr().err
    assert (
        said.count("the folders' names make 2 data sets (pad_0, pad_10); if they are paddings of the same crops") == 1
    )
    for padding, other in (("0", None), ("10", "pad_0"), ("0", "pad_10")):  # as a loop over paddings in a shell
        assert run("--data_root", f"pad_{padding}", "--splits", "test", "--output_root", "loop") == 0
        err = capsys.readouterr().err
        told = f"loop has these crops at another padding as data set {other}, here it is pad_{padding}: "
        assert err.count(told) == err.count("at another padding") == (other is not None)
    numbered = (work / "pad_10" / "crops.csv").read_text().replace(",10\n", "/of another data set,10\n")
    shutil.copytree(work / "pad_10", work / "shop")
    (work / "shop" / "crops.csv").write_text(numbered)  # photos that are numbered alike, of other objects
    assert run("--data_root", "shop", "--splits", "test", "--output_root", "loop") == 0
    assert "at another padding" not in capsys.readouterr().err
    for padding in ("0", "10"):
        argv = ("--company_name", "d", "--output_root", "alone")
        assert run("--data_root", f"pad_{padding}", *argv) == 0
        for split in ("train", "test"):
            same(work / "embeddings" / f"d_{padding}_{split}.npz", work / "alone" / f"d_{padding}_{split}.npz")


def test_two_data_roots_of_one_set_are_refused_before_any_work(work, capsys):
    shutil.copytree(work / "crops", work / "more")
    assert run("--data_root", "crops", "more", "--company_name", "d") == 2
    assert "both make the set d_0_" in capsys.readouterr().err
    assert not (work / "embeddings").exists()


def test_a_damaged_finished_file_is_named(work, capsys):
    assert run("--data_root", "crops", "--splits", "test") == 0
    path = work / "embeddings" / "crops_0_test.npz"
    path.write_bytes(path.read_bytes()[:200])
    assert run("--data_root", "crops", "--splits", "test") == 1
    assert "crops_0_test.npz" in capsys.readouterr().err
    assert run("--data_root", "crops", "--splits", "test", "--overwrite") == 0
    assert len(embeddings.load(path)) == 8


@pytest.mark.parametrize(
    ("n_images", "batch_size", "size"),
    [(1, 64, 1), (3, 64, 4), (8, 64, 8), (9, 64, 16), (40, 64, 64), (65, 64, 64), (9, 12, 12)],
)
def test_small_sets_are_filled_up_to_the_next_power_of_two(n_images, batch_size, size):
    assert extraction.filled_size(n_images, batch_size) == size


def test_the_batch_shape_depends_on_the_size_of_the_whole_set_only(work):
    """8 and 15 pictures: one batch of 8 and one of 16; batches of 8 where more are not allowed, the last one too."""
    for batch_size, expected in ((64, [8, 16]), (8, [8, 8, 8])):
        assert run("--data_root", "crops", "--batch_size", batch_size, "--output_root", f"b{batch_size}") == 0
        shapes = sys.modules["tiny_encoder"].shapes
        assert shapes[-len(expected) :] == expected
        assert set(shapes[: -len(expected)]) <= {2}  # what the model is tried with
        shapes.clear()


def test_help_needs_no_torch(script):
    done = script("extract_embedding.py", "--help")
    assert done.returncode == 0
    assert "--resize_mode" in done.stdout
    check = "import sys; sys.argv=['x','--help']; import extract_embedding\n"
    check += "assert not {'torch', 'cv2', 'pandas', 'timm'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(extract_embedding.__file__).parent)


def test_the_sample_is_spread_and_readable(work):
    assert importlib.util.find_spec("torch")
    from embedding.embedder import load as load_model

    embedder = load_model("tiny_encoder:make")
    paths = sorted((work / "crops").rglob("*.png"))
    sample = extraction.sample(lambda row: images.decode(paths[row]), len(paths), embedder.preprocess, n=5)
    assert sample.shape == (5, 32, 32, 3)
    mixed = [*paths[:2], work / "absent.png"]
    assert len(extraction.sample(lambda row: images.decode(mixed[row]), 3, embedder.preprocess)) == 2
    assert extraction.sample(lambda row: images.decode(mixed[2]), 1, embedder.preprocess).shape == (0, 32, 32, 3)
    assert json.dumps(embedder.preprocess.as_dict())


def test_sets_beside_each_other_are_computed_alike(work):
    """A loop over paddings starts the script for each: auto goes by the sets of the same model that are there."""
    (work / "embeddings").mkdir()
    (work / "embeddings" / "another_tool.npz").write_bytes(b"no archive")
    assert run("--data_root", "crops", "--precision", "fp32") == 0
    assert run("--data_root", "crops", "--id", "10") == 0
    assert embeddings.load(work / "embeddings" / "crops_10_train.npz").meta["precision"] == "fp32"
