"""Several runs of crop.py into one crops folder: each adds its crops, none loses or doubles what is there."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import paced
from hostile import call, picture
from PIL import Image

import crop
from imaging import crops

SPLITS = ("train", "valid", "test")


def content(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_split(folder: Path, prefix: str, n: int = 2, labels=("tea", "rice"), supercategory: str = "") -> Path:
    """Write n photos with two boxes each, and one annotation of a photo that is missing, as Roboflow exports a split."""
    for number in range(n):
        picture(folder / f"{prefix}{number}.jpg", number)
    names = [f"{prefix}{number}.jpg" for number in range(n)] + [f"{prefix}_absent.jpg"]
    boxes = [(number, place) for number in range(n) for place in (0, 1)] + [(n, 0)]
    category = {"supercategory": supercategory} if supercategory else {}
    record = {
        "images": [{"id": number, "file_name": name, "width": 64, "height": 48} for number, name in enumerate(names)],
        "categories": [{"id": number, "name": name, **category} for number, name in enumerate(labels)],
        "annotations": [
            {"id": at, "image_id": number, "category_id": place, "bbox": [5 + 20 * place, 8, 18, 20]}
            for at, (number, place) in enumerate(boxes)
        ],
    }
    path = folder / "_annotations.coco.json"
    path.write_text(json.dumps(record))
    return path


@pytest.fixture
def export(tmp_path: Path) -> Path:
    for split in SPLITS:
        write_split(tmp_path / "data" / split, split[:2])
    return tmp_path / "data"


def cut(root: Path, *paths: Path, **options: object) -> tuple[int | str, str, str]:
    words = [word for name, value in options.items() for word in (f"--{name}", value) if word != ""]
    return call(crop.main, "--json_path", *paths, "--output_root", root, "--target_w", 32, "--target_h", 32, *words)


def annotations(export: Path, *splits: str) -> list[Path]:
    return [export / split / "_annotations.coco.json" for split in splits]


def test_three_runs_make_the_folder_of_one(export: Path, tmp_path: Path) -> None:
    at_once, in_turn = tmp_path / "at_once", tmp_path / "in_turn"
    assert cut(at_once, *annotations(export, *SPLITS), image_folder=export)[0] == 0
    for number, split in enumerate(SPLITS):
        code, out, err = cut(in_turn, *annotations(export, split), image_folder=export)
        assert (code, out.splitlines()[-1].split(" (")[0]) == (0, "4 crops written, 1 skipped"), err
        assert (f"adds to the {4 * number} crops of earlier annotations" in err) == bool(number)
    one, two = content(at_once), content(in_turn)
    for name in ("crop.json", "skipped.csv"):
        del one[name], two[name]
    assert one == two  # crops.csv and twelve crops, byte for byte
    skipped = table(in_turn / "skipped.csv")
    assert [row["run"] for row in skipped] == ["0", "1", "2"]
    assert [{**row, "run": None} for row in skipped] == [{**row, "run": None} for row in table(at_once / "skipped.csv")]
    assert crops.changes(in_turn) == []
    before = content(in_turn)
    for split in SPLITS:
        code, out, err = cut(in_turn, *annotations(export, split), image_folder=export)
        assert (code, out.splitlines()[-1].split(" (1 image")[0]) == (
            0,
            "nothing to do (4 there already), 1 skipped",
        ), err
    assert cut(in_turn, *annotations(export, "test"), image_folder=export, verify="")[0] == 0
    assert content(in_turn) == before
    assert crops.read(in_turn).splits == ["train"] * 4 + ["valid"] * 4 + ["test"] * 4


def test_an_adding_run_that_is_killed_goes_on(export: Path, tmp_path: Path, root: Path) -> None:
    write_split(export / "test", "te", n=60)
    target = tmp_path / "crops"
    assert cut(target, *annotations(export, "train"))[0] == 0
    first = content(target)
    assert cut(target, *annotations(export, "test"))[0] == 0
    uninterrupted = content(target)
    target.rename(tmp_path / "whole")
    assert cut(target, *annotations(export, "train"))[0] == 0
    words = ["--json_path", *annotations(export, "test"), "--output_root", target, "--target_w", 32, "--target_h", 32]
    command = [sys.executable, str(root / "crop.py"), *map(str, words)]
    held = paced(tmp_path / "pace", most=20)
    process = subprocess.Popen(command, env=held, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((target / "test").rglob("te*.jpg"))) < 20:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = {path: path.stat().st_mtime_ns for path in (target / "test").rglob("te*.jpg")}
    assert len(there) == 20
    assert (target / "crops.csv").read_bytes() == first["crops.csv"]  # readers see the first run, whole
    assert crops.changes(target) == [f"{target}: a run of crop.py that adds crops has not finished here; run it again"]

    code, out, err = cut(
        target, *annotations(export, "train")
    )  # the first command again: complete, and the other is told
    assert (code, out.split(",")[0]) == (0, "nothing to do (4 there already)")
    assert "that adds crops has not finished here" in err
    code, out, _ = cut(target, *annotations(export, "test"))
    assert (code, f" ({len(there)} there already), 1 skipped" in out) == (0, True)
    assert content(target) == uninterrupted
    assert all(path.stat().st_mtime_ns == mark for path, mark in there.items())


def test_a_run_that_ends_at_any_write_goes_on(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is stopped at each of its renames in turn, those of both tables and of the record among them."""
    start, whole = tmp_path / "start", tmp_path / "whole"
    for target in (start, whole):
        assert cut(target, *annotations(export, "train"))[0] == 0
    assert cut(whole, *annotations(export, "test"))[0] == 0
    expected, replace = content(whole), os.replace
    calls = -1
    for stop in range(1, 30):
        target = tmp_path / f"stopped{stop}"
        assert cut(target, *annotations(export, "train"))[0] == 0
        calls = 0

        def stopping(source: str, destination: str, stop: int = stop) -> None:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            replace(source, destination)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stopping)
            code = cut(target, *annotations(export, "test"), workers=1)[0]
        if calls < stop:
            assert code == 0
            break
        assert code == 130, stop
        code, _, err = cut(target, *annotations(export, "test"))
        assert (code, "was changed" in err) == (0, False)
        assert content(target) == expected, stop
    assert calls >= 4 + 4  # four crops; two records, the plan, two tables


def test_what_stands_in_the_way_is_refused_and_nothing_is_lost(export: Path, tmp_path: Path) -> None:
    target = tmp_path / "crops"
    assert cut(target, *annotations(export, "train"))[0] == 0
    before = content(target)
    write_split(export / "again", "tr", labels=("tea", "milk"))  # other photos and labels under the same names

    code, _, err = cut(target, *annotations(export, "again"))
    assert (code, err.count("\n")) == (1, 2)
    assert (
        "has crops under all of these 4 names already, such as tr0_0.jpg, from a run over other annotation files or photos; "
        in err
    )
    code, _, err = cut(target, *annotations(export, "train", "valid"))  # some of them are there
    assert code == 1
    assert "under 4 of these 8 names" in err
    assert "--overwrite" not in err
    code, _, err = cut(target, *annotations(export, "valid"), padding_percent=5)
    assert code == 1
    assert 'padding "0" -> "5"' in err
    assert content(target) == before

    stray = target / "valid" / "tea" / "va1_2.jpg"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"mine")
    code, _, err = cut(target, *annotations(export, "valid"))
    assert (code, "holds valid/tea/va1_2.jpg, which crop.py has not made; move it" in err) == (1, True)
    assert stray.read_bytes() == b"mine"
    stray.unlink()
    assert cut(target, *annotations(export, "valid"))[0] == 0
    assert len(table(target / "crops.csv")) == 8

    path = annotations(export, "valid")[0]
    path.write_text(path.read_text().replace('"rice"', '"corn"'))
    code, _, err = cut(target, path)
    assert (code, "annotations: boxes, labels or splits were changed" in err) == (1, True)
    assert cut(target, path, overwrite="")[0] == 0
    assert {row["class_0"] for row in table(target / "crops.csv")} == {"tea", "corn"}
    assert set(content(target)) == {row["path"] for row in table(target / "crops.csv")} | {
        "crops.csv",
        "skipped.csv",
        "crop.json",
    }


@pytest.mark.parametrize("order", [("train",), ("train", "valid")])
def test_one_object_does_not_come_in_twice_under_two_names(tmp_path: Path, order: tuple[str, ...]) -> None:
    """Photos of one name in two folders are called by their paths, but only where both are in the same command."""
    for number, split in enumerate(("train", "valid")):
        path = write_split(tmp_path / "data" / split, "p")
        path.write_text(path.read_text().replace("[25, 8", f"[2{number}, 8"))
    both = annotations(tmp_path / "data", "train", "valid")
    first = annotations(tmp_path / "data", *order)
    other = both if len(order) == 1 else both[:1]
    target = tmp_path / "crops"
    assert cut(target, *first, image_folder=tmp_path / "data")[0] == 0
    before = content(target)
    code, _, err = cut(target, *other, image_folder=tmp_path / "data")
    assert code == 1
    assert "of image 'train/p0' already, under 'p0'" in err or "of image 'p0' already, under 'train/p0'" in err
    assert content(target) == before


def test_another_run_takes_the_place_of_one_that_was_killed(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, whole = tmp_path / "crops", tmp_path / "whole"
    for folder in (target, whole):
        assert cut(folder, *annotations(export, "train"))[0] == 0
    replace, made = os.replace, []

    def stopping(source: str, destination: Path) -> None:
        replace(source, destination)
        made.append(Path(destination).name)
        if sum(name.endswith(".jpg") for name in made) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopping)
        assert cut(target, *annotations(export, "valid"), workers=1)[0] == 130
    code, _, err = cut(target, *annotations(export, "test"))
    assert (code, "3 crops of a run that did not finish removed" in err) == (0, True)
    assert cut(whole, *annotations(export, "test"))[0] == 0
    assert content(target) == content(whole)


def test_lost_crops_of_any_run_are_cut_again_in_their_place(export: Path, tmp_path: Path) -> None:
    target = tmp_path / "crops"
    for split in SPLITS:
        assert cut(target, *annotations(export, split))[0] == 0
    before = content(target)
    for number, split in enumerate(SPLITS):
        lost = target / split / "tea" / f"{split[:2]}0_0.jpg"
        lost.unlink()
        code, out, _ = cut(target, *annotations(export, SPLITS[number]))
        assert (code, out.split(",")[0]) == (0, "1 crop written (3 there already)")
        assert content(target) == before


def test_levels_columns_and_rows_of_the_user_stay(export: Path, tmp_path: Path) -> None:
    target = tmp_path / "crops"
    assert cut(target, *annotations(export, "train"))[0] == 0
    lines = (target / "crops.csv").read_text().splitlines()
    (target / "crops.csv").write_text("\n".join([f"{lines[0]},shelf", *(f"{line},7" for line in lines[1:4])]) + "\n")
    write_split(export / "valid", "va", supercategory="food")
    code, _, err = cut(target, *annotations(export, "valid"))
    assert (code, "4 rows then, 3 now; its lines stay" in err) == (0, True)
    rows = table(target / "crops.csv")
    assert [(row["class_0"], row["class_1"], row["shelf"]) for row in rows] == [
        *(("tea", "", "7"), ("rice", "", "7"), ("tea", "", "7")),
        *(("food", "tea", ""), ("food", "rice", "")) * 2,
    ]
    assert [row["clipped"] for row in rows] == ["0"] * 7


def test_a_run_that_added_no_crop_leaves_nothing_once_another_adds_some(export: Path, tmp_path: Path) -> None:
    target, empty = tmp_path / "crops", tmp_path / "empty"
    empty.mkdir()
    assert cut(target, *annotations(export, "train"))[0] == 0
    code, out, _ = cut(target, *annotations(export, "valid"), image_folder=empty)
    assert (code, out.startswith("0 crops written, 5 skipped (5 image missing)")) == (1, True)
    assert [row["run"] for row in table(target / "skipped.csv")] == ["0"] + ["1"] * 5
    assert cut(target, *annotations(export, "valid"))[0] == 0
    assert [row["run"] for row in table(target / "skipped.csv")] == ["0", "2"]
    assert len(table(target / "crops.csv")) == 8


def make_older(root: Path) -> None:
    """Give the folder the record of an older version, which hashed other words and noted nothing under `written`."""
    record = json.loads((root / "crop.json").read_text())
    del record["written"], record["checksum"]
    (root / "crop.json").write_text(json.dumps(record | {"annotations": "f" * 64}))
    lines = (root / "skipped.csv").read_text().splitlines()
    (root / "skipped.csv").write_text("".join(",".join(line.split(",")[:3]) + "\n" for line in lines))
    rows = table(root / "crops.csv")
    with open(root / "crops.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, [name for name in rows[0] if not name.startswith("object_")], extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(rows)


def test_a_folder_of_an_older_version_is_complete_where_its_crops_are_those_of_today(
    export: Path, tmp_path: Path
) -> None:
    target, path = tmp_path / "crops", annotations(export, "train")[0]
    assert cut(target, path)[0] == 0
    make_older(target)
    rows = table(target / "crops.csv")
    code, out, err = cut(target, path)
    assert (code, out) == (
        0,
        f"nothing to do (4 there already), 1 skipped (1 image missing), see {target}/skipped.csv\n",
    )
    assert "are written otherwise than when its crops were cut, and give the same crops" in err
    assert "written otherwise" not in cut(target, path)[2]  # said once: the record is today's now
    assert cut(target, *annotations(export, "valid"))[0] == 0
    assert [{name: row[name] for name in rows[0]} for row in table(target / "crops.csv")[:4]] == rows
    assert crops.read(target).boxes is None  # of the older crops none are known

    for change in (
        ('"rice"', '"corn"'),
        ("[25, 8", "[26, 8"),
        ('{"id": 3, "image_id": 1, "category_id": 1', '{"id": 4, "image_id": 9, "category_id": 1'),
    ):
        other = tmp_path / "other"
        assert cut(other, path, overwrite="")[0] == 0
        make_older(other)
        original = path.read_text()
        assert change[0] in original
        path.write_text(original.replace(*change))
        code, _, err = cut(other, path)
        assert (code, "annotations: boxes, labels or splits were changed" in err or "image" in err) == (1, True), err
        path.write_text(original)


def test_an_older_folder_of_turned_photos_is_not_taken_for_todays(export: Path, tmp_path: Path) -> None:
    """The rule that says in which frame a box stands has changed: the same lines may be other pixels."""
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: of the same size
    photo = export / "train" / "tr0.jpg"
    Image.open(photo).save(photo, exif=exif)
    target = tmp_path / "crops"
    assert cut(target, *annotations(export, "train"))[0] == 0
    make_older(target)
    code, _, err = cut(target, *annotations(export, "train"))
    assert (code, "was made with other input (annotations: boxes, labels or splits were changed)" in err) == (1, True)


def test_photos_that_are_missing_now_are_named_with_what_to_do(export: Path, tmp_path: Path) -> None:
    target = tmp_path / "crops"
    assert cut(target, *annotations(export, "train"))[0] == 0
    before = content(target)
    (export / "train" / "tr1.jpg").rename(tmp_path / "tr1.jpg")
    code, _, err = cut(target, *annotations(export, "train"))
    assert code == 1
    assert err.splitlines()[-1] == (
        f"crop.py: error: {target} has 2 crops of photos that are missing now, such as tr1.jpg; put them back or name their "
        "folder with --image_folder, or name another --output_root"
    )
    assert content(target) == before
    (tmp_path / "tr1.jpg").rename(export / "train" / "tr1.jpg")
    assert cut(target, *annotations(export, "train"))[1].startswith("nothing to do (4 there already)")
