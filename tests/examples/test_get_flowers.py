"""examples/get_flowers.py on a tiny set in the layout of the real one: setid.mat, imagelabels.mat, jpg/ in a tgz."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Flowers102

sys.path.insert(0, str(ROOT / "examples"))
import get_flowers

from imaging import crops

LABELS = [
    1,
    1,
    1,
    2,
    2,
    102,
    102,
]  # of images 1 to 7; 1 is pink primrose, 2 hard-leaved pocket orchid, 102 blackberry lily
SPLITS = {"trnid": [6, 1, 4], "valid": [2, 5], "tstid": [3, 7]}


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """A folder with the three files; torchvision is told their checksums."""
    folder = tmp_path / "source"
    folder.mkdir()
    savemat(folder / "imagelabels.mat", {"labels": np.array([LABELS], np.uint8)})
    savemat(folder / "setid.mat", {name: np.array([ids], np.uint16) for name, ids in SPLITS.items()})
    with tarfile.open(folder / "102flowers.tgz", "w:gz") as archive:
        for number in range(1, 8):
            data = io.BytesIO()
            Image.new("RGB", (20, 20), (number * 30, 0, 0)).save(data, "JPEG")
            member = tarfile.TarInfo(f"jpg/image_{number:05d}.jpg")
            member.size = len(data.getvalue())
            archive.addfile(member, io.BytesIO(data.getvalue()))
    files = {
        key: (name, hashlib.md5((folder / name).read_bytes()).hexdigest())
        for key, (name, _) in Flowers102._file_dict.items()
    }
    monkeypatch.setattr(Flowers102, "_file_dict", files)
    return folder


def test_class_folders_in_the_official_splits(source, tmp_path, capsys):
    root = tmp_path / "flowers"
    assert get_flowers.main(["--output_root", str(root), "--source", str(source), "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{root / 'train'}: 3 images of 3 flowers",
        f"{root / 'val'}: 2 images of 2 flowers",
        f"{root / 'test'}: 2 images of 2 flowers",
    ]
    manifest = crops.read(root)
    found = {
        (s, str(label[0]), Path(p).name)
        for s, label, p in zip(manifest.splits, manifest.labels, manifest.paths, strict=True)
    }
    primrose, orchid, lily = "pink_primrose", "hard-leaved_pocket_orchid", "blackberry_lily"
    assert found == {
        ("train", lily, "image_00006.jpg"),
        ("train", primrose, "image_00001.jpg"),
        ("train", orchid, "image_00004.jpg"),
        ("val", primrose, "image_00002.jpg"),
        ("val", orchid, "image_00005.jpg"),
        ("test", primrose, "image_00003.jpg"),
        ("test", lily, "image_00007.jpg"),
    }
    red = np.asarray(Image.open(root / "test" / lily / "image_00007.jpg"))[..., 0]
    assert abs(int(red.mean()) - 210) < 5
    assert not (root / ".download").exists()


def test_run_again_it_goes_on_and_then_has_nothing_to_do(source, tmp_path):
    root = tmp_path / "flowers"
    argv = ["--output_root", str(root), "--source", str(source), "--quiet"]
    assert get_flowers.main(argv) == 0
    for path in (root / "val").rglob("*.jpg"):
        path.unlink()
    (root / ".download").mkdir()  # as a killed run leaves it
    assert get_flowers.main(argv) == 0
    assert len(list((root / "val").rglob("*.jpg"))) == 2
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")}
    assert get_flowers.main(["--output_root", str(root), "--source", "http://127.0.0.1:9/", "--quiet"]) == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")} == before


@pytest.mark.parametrize("place", ["http://127.0.0.1:9/", "https://no-such-host.invalid/"])
def test_out_of_reach_is_one_sentence(tmp_path, capsys, place):
    assert get_flowers.main(["--output_root", str(tmp_path / "f"), "--source", place, "--quiet"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{place} is out of reach" in err
    assert "102flowers.tgz, imagelabels.mat, setid.mat" in err


def test_a_missing_or_damaged_file_is_one_sentence(source, tmp_path, capsys):
    argv = ["--output_root", str(tmp_path / "f"), "--source", str(source), "--quiet"]
    (source / "setid.mat").write_bytes(b"damaged")
    for _ in range(2):
        assert get_flowers.main(argv) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "setid.mat is missing or damaged" in err
        (source / "setid.mat").unlink(missing_ok=True)
    assert not (tmp_path / "f" / "train").exists()
