"""Scripts where the operating system lacks what Windows lacks; tried here by taking it away, as no other system is at hand."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
from builders import study

from common import embeddings, run_record

# filelock comes first: on Windows it has locks of its own.
WITHOUT = """
import filelock, os, runpy, signal, sys
sys.modules["fcntl"] = None
for module, names in (
    (os, "O_CLOEXEC O_NOFOLLOW sched_getaffinity"),
    (signal, "SIGHUP SIGALRM setitimer ITIMER_REAL SIGKILL"),
):
    for name in names.split():
        delattr(module, name)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(root, script, *options):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, root / script, *map(str, options)], capture_output=True, text=True
    )


def test_crops_and_results_are_made_without_what_windows_lacks(root, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((40, 60, 3), 90, np.uint8))
    run_record.write_json(
        tmp_path / "boxes.json",
        {
            "images": [{"id": 1, "file_name": "photo.png"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 30, 20]}],
            "categories": [{"id": 1, "name": "cup"}],
        },
    )
    for said in ("1 crops written", "1 crops there already"):
        done = run(root, "crop.py", "--json_path", tmp_path / "boxes.json", "--output_root", tmp_path / "crops")
        assert done.returncode == 0, done.stderr
        assert said.split()[-1] in done.stdout + done.stderr
    assert len(list((tmp_path / "crops").rglob("*.jpg"))) == 1
    for split in ("train", "test"):
        for one in study(1, split=split, n_images=6):
            embeddings.save(tmp_path / f"shelf_{one.id}_{split}.npz", one)
    sides = "--train_npz", tmp_path, "--test_npz", tmp_path, "--results", tmp_path / "results.txt"
    done = run(root, "evaluate_combo.py", *sides)
    assert done.returncode == 0, done.stderr
    assert "End of run" in (tmp_path / "results.txt").read_text()
    assert not list(tmp_path.glob(".*"))
