"""Labels of whole images from metadata.csv and metadata.jsonl."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from imaging import crops


def photos(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / name)


def labels(root) -> dict[str, list[str]]:
    manifest = crops.read(root)
    return dict(zip(manifest.paths, manifest.labels.tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", b"file_name,label\na.png,007\nb.png, rice \n"),
        ("metadata.csv", "file_name;label\r\na.png;007\r\nb.png;rice\r\n".encode("utf-16")),
        ("metadata.csv", "\ufefflabel\tfile_name\n007\ta.png\nrice\tb.png\n".encode()),
        (
            "metadata.jsonl",
            b'{"file_name": "a.png", "label": "007"}\n\n{"file_name": "./b.png", "class": 3, "label": "rice"}\n',
        ),
    ],
)
def test_a_list_gives_labels_where_folders_do_not(tmp_path, capsys, name, content):
    photos(tmp_path, "train/a.png", "train/b.png")
    (tmp_path / "train" / name).write_bytes(content)
    assert labels(tmp_path) == {"train/a.png": ["007"], "train/b.png": ["rice"]}
    assert f"{tmp_path / 'train' / name}: labels are taken from its column 'label', 2 labels" in capsys.readouterr().err


def test_a_list_above_a_single_folder_of_images(tmp_path, capsys):
    """`images` is no class there; an image that is not listed has no label and is counted."""
    photos(tmp_path, "images/a.png", "images/cafe\u0301.png", "images/c.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\nimages\\a.png,x\nimages/caf\u00e9.png,y\n")
    assert labels(tmp_path) == {"images/a.png": ["x"], "images/c.png": [""], "images/cafe\u0301.png": ["y"]}
    assert "1 image of 3 without a label in its lists" in capsys.readouterr().err


def test_class_folders_stay_the_labels(tmp_path, capsys):
    photos(tmp_path, "train/x/a.png", "train/y/b.png")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,label\nx/a.png,1\ny/b.png,2\n")
    assert labels(tmp_path) == {"train/x/a.png": ["x"], "train/y/b.png": ["y"]}
    assert "metadata.csv is left out: the folders of the images are their labels" in capsys.readouterr().err


def test_texts_are_labels_where_they_repeat_and_captions_where_they_do_not(tmp_path, capsys):
    names = [f"{number}.png" for number in range(4)]
    photos(tmp_path, *names)
    lines = [json.dumps({"file_name": name, "text": "red" if at % 2 else "blue"}) for at, name in enumerate(names)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert labels(tmp_path)["1.png"] == ["red"]
    lines = [json.dumps({"file_name": name, "text": f"a shelf with {name}"}) for name in names]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert labels(tmp_path)["1.png"] == []
    assert "has no column of labels (file_name, text); call one label" in capsys.readouterr().err


def test_images_in_no_class_folder_take_the_labels_of_a_list(tmp_path):
    photos(tmp_path, "train/x/a.png", "train/y/b.png", "test/c.png")
    (tmp_path / "test" / "metadata.csv").write_text("filename,label\nc.png,y\n")
    assert labels(tmp_path) == {"test/c.png": ["y"], "train/x/a.png": ["x"], "train/y/b.png": ["y"]}


def test_bare_names_are_the_only_files_called_so(tmp_path, capsys):
    photos(tmp_path, "images/a.png", "images/b.png", "images/c.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,x\nb.png,y\n")
    assert labels(tmp_path) == {"images/a.png": ["x"], "images/b.png": ["y"], "images/c.png": [""]}
    (tmp_path / "metadata.csv").write_text("file_name,label\nother.png,x\n")
    assert labels(tmp_path) == {f"images/{name}.png": ["images"] for name in "abc"}
    assert "3 images of 3 without a label" in capsys.readouterr().err


def test_two_labels_of_one_image_are_none(tmp_path, capsys):
    photos(tmp_path, "a.png", "b.png", "c.png")
    lines = [("a.png", "x"), ("a.png", "y"), ("b.png", ["z"]), ("c.png", ["x", "y"])]
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": name, "label": label}) for name, label in lines)
    )
    assert labels(tmp_path) == {"a.png": [""], "b.png": ["z"], "c.png": [""]}
    assert "2 rows without one label for one image" in capsys.readouterr().err


def test_a_list_that_is_none_is_told(tmp_path, capsys):
    photos(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text("{bad")
    assert labels(tmp_path) == {"a.png": []}
    assert "metadata.jsonl cannot be read" in capsys.readouterr().err


def test_roboflows_table_of_classes(tmp_path, capsys):
    photos(tmp_path, "train/a.png", "train/b.png", "train/c.png")
    (tmp_path / "train" / "_classes.csv").write_text("filename, ale, brie\na.png, 0, 1\nb.png, 1, 0\nc.png, 1, 1\n")
    assert labels(tmp_path) == {"train/a.png": ["brie"], "train/b.png": ["ale"], "train/c.png": [""]}
    assert "1 image of 3 without a label" in capsys.readouterr().err
