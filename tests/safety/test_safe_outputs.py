"""One rule where files are written: nothing that a user has is destroyed by an output."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hostile import call, check, picture, sentence, study

import evaluate_combo
import greedy_combo_eval
import npz_to_parquet
from common import files, run_record, table_files
from common.messages import UserError


def test_outputs_never_destroy_what_is_there(tmp_path: Path) -> None:
    """Inputs as outputs, one name twice, and files of another kind are refused; each stays byte for byte."""
    data = study(tmp_path / "sets")
    npz = data / "shelf_0_test.npz"
    photo = picture(tmp_path / "photo.png")
    (tmp_path / "tool.py").write_text("import sys\n")
    (tmp_path / "data.json").write_text('{"a": 1}')
    pd.DataFrame({"price": [1, 2]}).to_csv(tmp_path / "prices.csv", index=False)
    npz_as_csv = tmp_path / "vectors.csv"
    npz_as_csv.write_bytes(npz.read_bytes())
    link = tmp_path / "link.parquet"
    link.symlink_to(npz)
    sets = ["--train_npz", data, "--test_npz", data]
    greedy = [greedy_combo_eval.main, *sets, "--combination_size", 1]
    results = ["--results", tmp_path / "r.txt"]
    cases = {
        "predictions over an input": [evaluate_combo.main, "--train_npz", npz_as_csv, *sets[2:], "--predictions", npz_as_csv],
        "predictions over vectors by name": [evaluate_combo.main, *sets, "--predictions", npz],
        "predictions over vectors by a link": [evaluate_combo.main, *sets, "--predictions", link],
        "predictions over another table": [evaluate_combo.main, *sets, "--predictions", tmp_path / "prices.csv"],
        "results over a photograph": [*greedy, "--results", photo],
        "results over vectors": [*greedy, "--results", npz],
        "results in a program": [*greedy, "--results", tmp_path / "tool.py"],
        "results and their own csv": [*greedy, "--results", tmp_path / "r.csv"],
        "flips and results in one": [*greedy, *results, "--flips", tmp_path / "r.x"],
        "a report over a JSON file": [*greedy, *results, "--report", tmp_path / "data.json"],
        "flips over another table": [*greedy, *results, "--flips", tmp_path / "prices.x"],
        "a table over vectors": [npz_to_parquet.main, "--root", data, "--out", npz_as_csv],
        "a table over its own input": [npz_to_parquet.main, "--root", npz, "--out", npz],
    }  # fmt: skip
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    def fault(name: str) -> str | None:
        code, _, err = call(*cases[name])
        now = {path: path.read_bytes() if path.exists() else b"" for path in before}
        changed = [path.name for path in before if before[path] != now[path]]
        return sentence(code, err) or ("exit 0" if code == 0 else None) or (f"changed {changed}" if changed else None)

    check("outputs destroy inputs", cases, fault)


def test_devices_pipes_links_and_modes(tmp_path: Path) -> None:
    """A device and a pipe are written through, links are followed, and a private file stays private."""
    target = tmp_path / "deep" / "private.txt"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(0o600)
    link = tmp_path / "link.txt"
    link.symlink_to("deep/private.txt")
    dangling = tmp_path / "dangling.txt"
    dangling.symlink_to("deep/new.txt")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    for path in (Path("/dev/null"), link, dangling, pipe):
        files.write_text(path, "new\n")
    reader.join(10)
    cases = {
        "the device is a device": stat.S_ISCHR(os.stat("/dev/null").st_mode),
        "the link is a link": link.is_symlink() and target.read_text() == "new\n",
        "its mode": stat.S_IMODE(target.stat().st_mode) == 0o600,
        "the link to nothing yet": dangling.is_symlink() and (tmp_path / "deep/new.txt").read_text() == "new\n",
        "the pipe is a pipe": stat.S_ISFIFO(os.stat(pipe).st_mode) and got == [b"new\n"],
        "nothing is left over": not list(tmp_path.rglob("*.tmp")),
    }
    check("devices, pipes, links, modes", cases, lambda name: None if cases[name] else "not so")


def test_a_loop_of_links_and_a_folder_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for path in (tmp_path / "a", tmp_path):
        with pytest.raises(OSError, match=r"."):
            files.write_text(path, "x")
    assert (tmp_path / "a").is_symlink()


def test_stdout_as_a_file_is_written_through(tmp_path: Path, root: Path) -> None:
    """`--predictions /dev/stdout > file` appends where the results go, and does not replace the file under them."""
    data = study(tmp_path / "sets")
    out = tmp_path / "all.csv"
    command = [sys.executable, root / "evaluate_combo.py", "--train_npz", data, "--test_npz", data]
    with open(out, "w") as file:
        subprocess.run([*command, "--predictions", "/dev/stdout"], stdout=file, check=True, timeout=120)
    text = out.read_text()
    assert "Dataset shelf" in text
    assert sum(line.startswith("shelf,") or ",photo" in line for line in text.splitlines()) == 48
    assert text.endswith("48 predictions\n")


def test_leftovers_of_dead_runs_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    code = f"import os,sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
    code += f"from common import files\nwith files.whole({str(path)!r}) as t:\n  t.write_text('half'); os._exit(9)\n"
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    dead = set(tmp_path.glob("*.tmp")) | set(tmp_path.glob(".*.tmp"))
    assert len(dead) == 1
    with files.whole(tmp_path / "other.csv") as other:
        assert dead <= set(tmp_path.iterdir())  # another output's leftovers are not this one's to remove
        with files.whole(path) as living:
            assert not dead & set(tmp_path.iterdir())
            with files.whole(path) as second:
                second.write_text("a,b\n")
            assert living.exists()
            living.write_text("a,c\n")
        other.write_text("x\n")
    assert path.read_text() == "a,c\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.csv", "table.csv"]


def test_a_seal_tells_every_flipped_bit(tmp_path: Path) -> None:
    """JSON records and Parquet files: each flip is refused, or changes nothing that is read."""
    run_record.write_json(tmp_path / "record.json", {"seed": 1, "model": "näme"})
    frame = pd.DataFrame({"query": [f"crop {n}" for n in range(50)], "margin": np.linspace(0, 1, 50)})
    table_files.write(tmp_path / "table.parquet", frame)
    assert pd.read_parquet(tmp_path / "table.parquet").equals(frame)
    files.check_seal(tmp_path / "table.parquet")
    random = np.random.default_rng(0)
    cases = []
    for name in ("record.json", "table.parquet"):
        data = (tmp_path / name).read_bytes()
        places = range(len(data)) if len(data) < 400 else random.choice(len(data), 400, replace=False)
        cases += [(name, int(at), int(random.integers(8))) for at in places]

    def fault(case: tuple[str, int, int]) -> str | None:
        name, at, bit = case
        data = bytearray((tmp_path / name).read_bytes())
        data[at] ^= 1 << bit
        flipped = tmp_path / f"flipped{Path(name).suffix}"
        flipped.write_bytes(data)
        try:
            if name == "record.json":
                same = {k: v for k, v in run_record.read_json(flipped).items() if k in ("seed", "model")}
                return None if same == {"seed": 1, "model": "näme"} else f"read {same}"
            files.check_seal(flipped)
            return None if pd.read_parquet(flipped).equals(frame) else "other content"
        except (UserError, ValueError, OSError):
            return None

    check("flipped bits in sealed files", cases, fault)


def test_a_lock_leaves_no_file_and_holds_others_off(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
    code += f"from pathlib import Path\nfrom common import files\nwith files.locked(Path({str(tmp_path / '.lock')!r})): pass\n"
    with files.locked(tmp_path / ".lock"):
        held = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "another run is writing here" in held.stderr
    free = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert free.returncode == 0, free.stderr
    assert not list(tmp_path.iterdir())


def test_where_no_lock_can_be_made_nobody_waits_for_it() -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    with pytest.raises(OSError, match="/proc/self"), files.locked(Path("/proc/self/.x.lock"), wait=True):
        pass
