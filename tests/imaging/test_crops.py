"""Crops folders, trees of class folders and flat folders are read alike, and what cannot be read says why."""

from __future__ import annotations

import io
import os
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common import files
from common.messages import UserError
from imaging import crops, images


def tree(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"not opened here")
    return root


def labels(manifest) -> list[str]:
    return ["/".join(row) for row in manifest.labels.tolist()]


def test_grocery_has_splits_and_two_or_three_levels(study_data):
    manifest = crops.read(study_data / "grocery")
    assert len(manifest) == 744
    assert set(manifest.splits) == {"train", "val", "test"}
    assert manifest.labels.shape == (744, 3)
    row = manifest.paths.index("test/Fruit/Avocado/Avocado_003.jpg")
    assert manifest.labels[row].tolist() == ["Fruit", "Avocado", ""]
    assert manifest.crop_ids[row] == manifest.sample_ids[row] == "test/Fruit/Avocado/Avocado_003"
    assert {tuple(label) for label in manifest.labels if label[2]} >= {("Packages", "Juice", "Bravo-Apple-Juice")}
    assert manifest.paths == sorted(manifest.paths)


def test_class_folders_without_splits_are_one_split(tmp_path):
    tree(tmp_path, "Fruit/Apple/x.jpg", "Fruit/Pear/y.PNG", "Fruit/z.jpeg", "notes.txt", ".cache/a.jpg", "Fruit/.b.jpg")
    manifest = crops.read(tmp_path)
    assert manifest.paths == ["Fruit/Apple/x.jpg", "Fruit/Pear/y.PNG", "Fruit/z.jpeg"]
    assert manifest.splits == ["all"] * 3
    assert manifest.labels.tolist() == [["Fruit", "Apple"], ["Fruit", "Pear"], ["Fruit", ""]]


def test_a_flat_folder_has_no_labels(tmp_path):
    manifest = crops.read(tree(tmp_path, "a.jpg", "b.c.jpg"))
    assert manifest.labels.shape == (2, 0)
    assert manifest.crop_ids == ["a", "b.c"]
    assert manifest.splits == ["all", "all"]


@pytest.mark.parametrize(
    ("paths", "splits", "expected"),
    [
        (["Train/A/x.jpg", "TEST/A/x.jpg"], None, {"train": "A", "test": "A"}),
        (["train/x.jpg"], None, {"train": ""}),
        (["train2017/A/x.jpg", "Test_Set/A/x.jpg"], None, {"train": "A", "test": "A"}),
        (["train2017/A/x.jpg", "val/A/x.jpg"], ["train2017"], {"train2017": "A"}),
        (["ref/A/x.jpg", "query/A/y.jpg"], ["ref", "query"], {"ref": "A", "query": "A"}),
        (["ref/A/x.jpg", "query/A/y.jpg"], None, {"all": "A"}),
        (["train/A/x.jpg", "extra/A/y.jpg"], ["train", "extra"], {"train": "A", "extra": "A"}),
    ],
)
def test_what_counts_as_a_split(tmp_path, paths, splits, expected):
    manifest = crops.read(tree(tmp_path, *paths), splits=splits)
    assert set(manifest.splits) == set(expected)
    if "all" not in expected:
        assert dict(zip(manifest.splits, labels(manifest), strict=True)) == expected


def test_a_split_name_beside_other_folders_is_a_class_and_that_is_said(tmp_path, capsys):
    manifest = crops.read(tree(tmp_path, "train/x.jpg", "plane/x.jpg"))
    assert labels(manifest) == ["plane", "train"]
    assert "--splits train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folders", "n"),
    [
        (["Fruit"], 4),
        (["Fruit/Apple"], 2),
        (["train/Fruit/Apple", "test/Packages/"], 2),
        (["train"], 3),
        (["Fruit/Apple", "Fruit"], 4),
    ],
)
def test_folders_are_taken_at_any_level(tmp_path, folders, n):
    tree(tmp_path, *(f"{split}/{name}/x.jpg" for split in ("train", "test") for name in ("Fruit/Apple", "Packages")))
    tree(tmp_path, "train/Fruit/Pear/x.jpg", "test/Fruit/Pear/x.jpg")
    assert len(crops.read(tmp_path, folders=folders)) == n


def test_a_folder_given_as_a_path_into_the_data_is_taken_too(tmp_path, monkeypatch):
    tree(tmp_path / "data", "A/x.jpg", "B/y.jpg")
    assert crops.read(tmp_path / "data", folders=[str(tmp_path / "data" / "B")]).paths == ["B/y.jpg"]
    monkeypatch.chdir(tmp_path)
    assert crops.read("data", folders=["data/A/"]).paths == ["A/x.jpg"]
    with pytest.raises(UserError, match="data has no folder without a name"):  # an empty variable of a shell
        crops.read("data", folders=["A", ""])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folders": ["Fruits"]}, r"no folder 'Fruits'; it has: Fruit/Apple"),
        ({"folders": ["Fruit", "Apple"]}, r"no folder 'Apple'"),
        ({"splits": ["val"]}, r"no split 'val'; it has: test, train"),
    ],
)
def test_a_name_that_matches_nothing_is_an_error(tmp_path, options, message):
    tree(tmp_path, "train/Fruit/Apple/x.jpg", "test/Fruit/Apple/x.jpg")
    with pytest.raises(UserError, match=message):
        crops.read(tmp_path, **options)


def test_links_are_followed_but_not_in_circles(tmp_path):
    tree(tmp_path, "data/A/x.jpg", "elsewhere/y.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "B")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "C")
    os.symlink(tmp_path / "data", tmp_path / "data" / "A" / "back")
    assert crops.read(tmp_path / "data").paths == ["A/x.jpg", "B/y.jpg", "C/y.jpg"]


def test_two_files_of_one_stem_are_two_samples(tmp_path):
    manifest = crops.read(tree(tmp_path, "A/x.jpg", "A/x.png", "A/x.jpg.png", "A/y.png"))
    ids = dict(zip(manifest.paths, manifest.sample_ids, strict=True))
    assert ids == {"A/x.jpg": "A/x.jpg", "A/x.png": "A/x.png", "A/x.jpg.png": "A/x.jpg.png", "A/y.png": "A/y"}
    assert manifest.crop_ids == manifest.sample_ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,split\n", "no column sample_id, crop_id"),
        ("", "no column path, split, sample_id, crop_id"),
        ("path,split,sample_id,crop_id,class_0\na,b,c\n", "line 2: 3 fields, not 5"),
        ('path,split,sample_id,crop_id,class_0\n"a"b,b,c,d,e\n', "line 2"),
        ("path,split,sample_id,crop_id,class_0\n", "no images"),
    ],
)
def test_a_damaged_manifest_is_one_sentence(tmp_path, text, message):
    (tmp_path / "crops.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        crops.read(tmp_path)


def test_a_manifest_saved_by_a_spreadsheet_is_read(tmp_path):
    text = "\ufeffpath,split,sample_id,crop_id,class_0,class_1,padding\r\nx/1.jpg,train,s,s_1,A,,10\r\n"
    (tmp_path / "crops.csv").write_bytes(text.encode())
    manifest = crops.read(tmp_path)
    assert (manifest.paths, manifest.padding) == (["x/1.jpg"], "10")
    assert manifest.labels.tolist() == [["A", ""]]


def test_missing_empty_and_unfinished_folders(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        crops.read(tmp_path / "none")
    with pytest.raises(UserError, match="no images"):
        crops.read(tmp_path)
    tree(tmp_path, "train/A/x_1.jpg", "crop.json")
    with pytest.raises(UserError, match="not finished here; run it again"):
        crops.read(tmp_path)


def test_a_folder_of_crops_folders_asks_for_one(tmp_path):
    with pytest.raises(UserError, match=r"name one of them: .*pad_0, .*pad_10"):
        crops.read(tree(tmp_path, "pad_0/crops.csv", "pad_10/crops.csv", "pad_10/train/A/x.jpg"))


# --- which files are images, and names that are not UTF-8


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def test_an_image_is_one_by_its_content_and_nothing_is_passed_over_uncounted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(crops, "reads_heic", lambda: False)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    contents = {"a.jpe": b"", "b.jfif": b"", "c": jpeg(), "d.jpg_large": jpeg(), "e.JPG": b"damaged", "f.heic": jpeg()}
    contents |= {"g.heic": heic, "h.HEIF": heic, "i": heic, "notes.txt": b"notes", "empty": b"", "data.csv": b"path\na"}
    (tmp_path / "K").mkdir()
    for name, content in contents.items():
        (tmp_path / "K" / name).write_bytes(content)
    assert crops.image_files(tmp_path) == [
        f"K/{name}" for name in ("a.jpe", "b.jfif", "c", "d.jpg_large", "e.JPG", "f.heic")
    ]
    error = capsys.readouterr().err
    assert "3 files left out, HEIC image; pip install pillow-heif: K/g.heic, K/h.HEIF, K/i" in error
    assert "3 files left out, not an image: K/data.csv, K/empty, K/notes.txt" in error
    monkeypatch.setattr(crops, "reads_heic", lambda: True)
    assert len(crops.image_files(tmp_path)) == 9


def test_what_is_no_regular_file_is_named(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(b"x")
    assert crops.image_files(tmp_path) == ["a.png"]
    assert "2 files left out, no regular file: gone, pipe" in capsys.readouterr().err


def test_names_that_are_not_utf8_become_text_that_leads_back(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for name in (b"gr\xfcn.jpg", "grün.jpg".encode(), b"back\\slash.jpg", b"\\xfc.jpg"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(jpeg())
    manifest = crops.read(tmp_path)
    names = [path.removeprefix("caf\\xe9/") for path in manifest.paths]
    assert sorted(names) == sorted(["gr\\xfcn.jpg", "grün.jpg", "back\\slash.jpg", "\\x5cxfc.jpg"])
    for text in (*manifest.paths, *manifest.sample_ids, *manifest.labels.ravel().tolist()):
        text.encode("utf-8")
    for path in manifest.paths:
        assert images.decode(tmp_path / path).shape == (8, 8, 3)


@given(st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name and b"/" not in name))
def test_any_name_is_text_and_comes_back(name):
    stored = os.fsdecode(name)
    text = files.text_of_name(stored)
    text.encode("utf-8")
    assert os.fsencode(files.name_of_text(text)) == name


@given(*[st.text("\\x5c8e9é\udce9\udcc3a", max_size=8)] * 2)
def test_two_names_are_never_one_text(first, second):
    assert (files.text_of_name(first) == files.text_of_name(second)) == (first == second)


def test_labels_of_folders_are_composed_and_trimmed(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Jalapeño")
    manifest = crops.read(tree(tmp_path, f"{decomposed}/x.jpg", "001/y.jpg", "NA/z.jpg"))
    assert sorted(manifest.labels.ravel().tolist()) == ["001", "Jalapeño", "NA"]
    assert any(decomposed in path for path in manifest.paths)


@given(st.binary(max_size=12))
def test_names_of_the_command_line_lose_their_bytes_only(text):
    shown = files.without_bytes(os.fsdecode(text))
    assert shown == text.decode("utf-8", "backslashreplace")


def test_a_folder_around_the_splits_is_told(tmp_path, capsys):
    manifest = crops.read(tree(tmp_path, "set/train/A/x.jpg", "set/test/A/y.jpg"))
    assert set(manifest.splits) == {"all"}
    assert (
        f"{tmp_path / 'set'} holds test, train, taken as classes; name it with --data_root" in capsys.readouterr().err
    )
    crops.read(tree(tmp_path / "b", "set/x/A/x.jpg", "set/test/A/y.jpg"))
    assert capsys.readouterr().err == ""


def test_folders_of_systems_are_no_classes(tmp_path):
    thumbnails = ("A/@eaDir/x.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/A/x.jpg", "A/.ipynb_checkpoints/x.jpg")
    assert crops.read(tree(tmp_path, "A/x.jpg", *thumbnails)).paths == ["A/x.jpg"]


def test_splits_inside_the_class_folders(tmp_path, capsys):
    tree(tmp_path, "ace/train/a.jpg", "ace/Test_set/b.jpg", "king/train/hearts/c.jpg")
    manifest = crops.read(tmp_path)
    assert manifest.splits == ["test", "train", "train"]
    assert manifest.labels.tolist() == [["ace", ""], ["ace", ""], ["king", "hearts"]]
    assert "splits are taken from the folders in the class folders" in capsys.readouterr().err
    tree(tmp_path, "king/other/d.jpg")
    assert set(crops.read(tmp_path).splits) == {"all"}


def test_folds_are_told_as_classes(tmp_path, capsys):
    tree(tmp_path, "fold_0/ace/a.jpg", "fold_1/ace/b.jpg")
    assert set(crops.read(tmp_path).splits) == {"all"}
    assert "fold_0 fold_1 taken as classes; --splits fold_0 fold_1 takes them as splits" in capsys.readouterr().err
    assert crops.read(tmp_path, splits=["fold_0", "fold_1"]).splits == ["fold_0", "fold_1"]
    assert "taken as classes" not in capsys.readouterr().err


def test_links_to_class_folders_are_read_and_told_where_one_is_there_twice(tmp_path, capsys):
    tree(tmp_path / "elsewhere", "king/a.jpg")
    tree(tmp_path / "data", "train/ace/b.jpg", "test/ace/c.jpg")
    (tmp_path / "data" / "train" / "king").symlink_to(tmp_path / "elsewhere" / "king")
    (tmp_path / "data" / "train" / "back").symlink_to(tmp_path / "data")
    assert labels(crops.read(tmp_path / "data")) == ["ace", "ace", "king"]
    told = capsys.readouterr().err
    assert "1 file left out, no regular file: train/back" in told
    assert "by a link" not in told
    (tmp_path / "data" / "test" / "king").symlink_to(tmp_path / "data" / "train" / "king")
    assert len(crops.read(tmp_path / "data")) == 4
    assert "are one folder by a link; its images are taken twice" in capsys.readouterr().err
    (tmp_path / "data" / "val").symlink_to(tmp_path / "data" / "train")  # told once, not for every class in it
    capsys.readouterr()
    assert len(crops.read(tmp_path / "data")) == 6
    told = [line for line in capsys.readouterr().err.splitlines() if "are one folder by a link" in line]
    assert len(told) == 2
    assert any("val/ and train/" in line or "train/ and val/" in line for line in told)


def test_images_of_a_kind_that_is_not_read_are_a_warning(tmp_path, capsys):
    tree(tmp_path, "ace/a.jpg")
    (tmp_path / "ace" / "b.PSD").write_bytes(b"8BPS")
    crops.read(tmp_path)
    assert "warning: " in (told := capsys.readouterr().err)
    assert "1 file left out, of a kind of image that is not read; save it as PNG: ace/b.PSD" in told
