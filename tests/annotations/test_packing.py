"""Annotations packed in archives, in other JSON, and photos packed in annotations."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile

import cv2
import numpy as np
import pytest

import crop
from annotations import formats
from annotations.contents import Unrecognised
from common.messages import UserError


def coco(photo: str = "shelf.png") -> dict:
    return {
        "images": [{"id": 4, "file_name": photo, "width": 60, "height": 50}],
        "annotations": [{"id": 9, "image_id": 4, "category_id": 2, "bbox": [5, 10, 20, 30]}],
        "categories": [{"id": 2, "name": "rice"}],
    }


PLAIN = json.dumps(coco()).encode()


def boxes(data: bytes, name: str = "x.json") -> list[tuple]:
    return [(item.image, item.classes, item.box.left, item.box.bottom) for item in formats.parse(data, name)]


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: lzma.compress(data, lzma.FORMAT_ALONE)]
)
def test_a_compressed_file_is_read_as_what_it_holds(pack):
    assert boxes(pack(PLAIN)) == [("shelf.png", ("rice",), 5, 40)]
    assert boxes(pack(PLAIN[:60]) + pack(PLAIN[60:])) == boxes(PLAIN)  # of several members
    with pytest.raises(UserError, match=r"x\.json is a damaged .*; export it again"):
        boxes(pack(PLAIN)[:-20])


@pytest.mark.parametrize(
    ("mode", "command"), [("w", "tar xf"), ("w:gz", "tar xf"), ("w:bz2", "tar xf"), ("w:xz", "tar xf")]
)
def test_a_tar_archive_names_the_command_that_unpacks_it(mode, command):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        info = tarfile.TarInfo("train.json")
        info.size = len(PLAIN)
        archive.addfile(info, io.BytesIO(PLAIN))
    with pytest.raises(UserError, match=f"a tar archive; unpack it \\(`{command} 'my file.tar'`\\)"):
        boxes(packed.getvalue(), "my file.tar")


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it \\(`7z x a.b`\\)"),
        (b"Rar!\x1a\x07", "a RAR archive; unpack it \\(`unrar x a.b`\\)"),
        (b"\x28\xb5\x2f\xfd", "a zstd file; unpack it \\(`zstd -d a.b`\\)"),
        (b"\x04\x22\x4d\x18", "an lz4 file; unpack it \\(`lz4 -d a.b`\\)"),
    ],
)
def test_other_archives_are_named_with_their_command(start, told):
    with pytest.raises(UserError, match=told):
        boxes(start + bytes(100), "a.b")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([coco()], "the COCO content in its list is read"),
        ({"coco": coco()}, "under its key 'coco'"),
        ({"status": "done", "version": 3, "data": coco()}, "under its key 'data'"),
        ({"result": [coco()]}, "in its list"),
        (json.dumps(coco()), ""),
    ],
)
def test_coco_content_inside_other_json_is_read_and_told(content, told, capsys):
    assert boxes(json.dumps(content).encode()) == boxes(PLAIN)
    assert told in capsys.readouterr().err


def test_several_coco_contents_are_an_error_whose_line_parts_them(tmp_path, monkeypatch):
    (tmp_path / "all.json").write_text(json.dumps({"train": coco(), "info": {}, "val": coco("other.png")}))
    with pytest.raises(UserError, match="holds 2 COCO contents \\(train, val\\)") as error:
        formats.parse((tmp_path / "all.json").read_bytes(), tmp_path / "all.json")
    line = str(error.value).partition(": python ")[2]
    subprocess.run(f"{sys.executable} {line}", shell=True, check=True)
    assert boxes((tmp_path / "all_val.json").read_bytes()) == [("other.png", ("rice",), 5, 40)]
    assert boxes((tmp_path / "all_train.json").read_bytes()) == boxes(PLAIN)


@pytest.mark.parametrize("data", [b"file_name,label\na.jpg,rice\n", b'{"file_name": "a.jpg", "text": "two shelves"}\n'])
def test_a_list_of_photos_and_labels_points_to_whole_photos(data):
    with pytest.raises(
        Unrecognised, match=r"photos without boxes .*extract_embedding.py --data_root d/train, .*metadata.csv"
    ):
        formats.parse(data, "d/train/metadata.x")


def test_objects_of_a_table_are_read_as_those_of_json_lines():
    objects = json.dumps({"bbox": [[5, 10, 20, 30], [1, 2, 3, 4]], "categories": ["rice", "oats"]}).replace('"', '""')
    table = f'file_name,objects,width\nshelf.png,"{objects}",60\nb.png,{{,60\n'
    first, second, broken = formats.parse(table.encode(), "metadata.csv")
    assert (first.image, first.classes, first.box.bottom, second.classes) == ("shelf.png", ("rice",), 40, ("oats",))
    assert (broken.reason, broken.line) == ('objects are no JSON: "{"', "3")


def test_a_photo_inside_a_labelme_file_is_cut_where_there_is_no_other(tmp_path, capsys):
    photo = np.zeros((50, 60, 3), np.uint8)
    photo[10:40, 5:25] = (10, 200, 30)  # blue, green, red
    held = base64.b64encode(cv2.imencode(".png", photo)[1].tobytes()).decode()
    shape = {"label": "rice", "shape_type": "rectangle", "points": [[5, 10], [25, 40]]}
    content = {"imagePath": "gone.png", "imageWidth": 60, "imageHeight": 50, "shapes": [shape], "imageData": held}
    (tmp_path / "labels").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "labels" / "gone.json").write_text(json.dumps(content), encoding="utf-8-sig")
    command = [
        "--json_path",
        str(tmp_path / "labels"),
        "--image_folder",
        str(tmp_path / "photos"),
        "--image_format",
        "png",
    ]
    style = ["--post_padding_method", "none"]
    assert crop.main([*command, *style, "--output_root", str(tmp_path / "out")]) == 0
    assert "1 inside their annotation files" in capsys.readouterr().out
    cut = cv2.imread(str(tmp_path / "out" / "all" / "rice" / "gone_1.png"))
    assert cut.shape == (30, 20, 3)
    assert (cut == (10, 200, 30)).all()
    content["imagePath"] = "..\\elsewhere\\gone.png"
    (tmp_path / "labels" / "gone.json").write_text(json.dumps(content))
    assert crop.main([*command, *style, "--output_root", str(tmp_path / "up")]) == 0
    assert (cv2.imread(str(tmp_path / "up" / "all" / "rice" / "labels__gone_1.png")) == (10, 200, 30)).all()
    content["imagePath"] = "gone.png"
    content["imageData"] = "no image"
    (tmp_path / "labels" / "gone.json").write_text(json.dumps(content))
    assert crop.main([*command, *style, "--output_root", str(tmp_path / "out2")]) == 1
    assert "gone,1,not an image," in (tmp_path / "out2" / "skipped.csv").read_text()
