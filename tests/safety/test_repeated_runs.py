"""Runs beside and after other runs: each keeps to its own files, and a second one on the same folder waits or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import call, check, picture, sentence, study

import npz_to_tensorboard
import train
from common import files
from training import output_folder

TEMPORARY = ".0123abcd-0123456789abcdef.tmp"


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("is_running", [True, False])
def test_a_training_leaves_runs_in_folders_below_its_own(tmp_path: Path, is_running: bool) -> None:
    """`train.py --output trained/` beside a run in trained/other, killed or going on: that run's files stay."""
    for number in range(8):
        picture(tmp_path / "photos" / "xy"[number % 2] / f"{number}.jpg", number)
    trained = tmp_path / "trained"
    other = trained / "other"
    (other / output_folder.STATE).mkdir(parents=True)
    for name in (output_folder.RECORD, "model.json", "training.csv", f"{output_folder.STATE}/epoch.pt"):
        (other / name).write_text("of the other run")
    if is_running:
        (other / output_folder.LOCK).touch()
        (other / TEMPORARY).write_text("half of the other run's file")
    before = below(other)
    words = ["--data_root", tmp_path / "photos", "--objective", "triplet", "--epochs", 1, "--batch_size", 4]
    words += ["--model", "siamese", "--weights", "random", "--output", trained]
    for more in ([], [], ["--overwrite"]):
        code, _, err = call(train.main, *words, *more)
        assert code == 0, err
        assert below(other) == before
    assert (trained / "model.safetensors").is_file()


def test_a_second_projector_run_on_a_folder_is_refused(tmp_path: Path) -> None:
    sets, logdir = study(tmp_path / "sets"), tmp_path / "tb"
    words = ["--root", sets, "--logdir", logdir, "--thumbnails", 0]
    assert call(npz_to_tensorboard.main, *words)[0] == 0
    before = below(logdir)

    def fault(_: int) -> str | None:
        with files.locked(logdir / files.LOCK):
            code, _, err = call(npz_to_tensorboard.main, *words)
        now = {name: data for name, data in below(logdir).items() if name != files.LOCK}
        good = code == 1 and "another run is writing here" in err and now == before
        return sentence(code, err) or (None if good else f"{code} {err}")

    check("two projector runs on one folder", range(3), fault)
    assert call(npz_to_tensorboard.main, *words)[0] == 0
    assert below(logdir) == before


def test_what_a_training_left_that_was_killed_at_its_very_end_goes(tmp_path: Path) -> None:
    """The last thing that train.py does is to remove the state from which it would go on."""
    record = {"epochs": 1}
    with files.locked(tmp_path / "t" / output_folder.LOCK):
        assert not output_folder.begin(tmp_path / "t", record, overwrite=False)
        (tmp_path / "t" / "model.json").write_text("{}")
        output_folder.write_state(output_folder.state_file(tmp_path / "t"), {"epoch": 1})
        assert output_folder.begin(tmp_path / "t", record, overwrite=False)
    assert not output_folder.state_file(tmp_path / "t").exists()
