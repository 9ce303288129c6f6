"""The image lookup: what tools write as a file's name is found, never outside the folder, never by a guess between two."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging.image_folder import RULES, Found, ImageFolder
from imaging.images import ImageError

EXACT, BESIDE, END, NAME, STEM, CASE, UPLOAD, *_ = RULES
FILES = (
    "cafe 1.jpg",
    "Ångström.png",
    "set1/shelf.jpg",
    "set2/shelf.jpg",
    "deep/images/train/0001.jpg",
    "deep/images/val/0001.jpg",
    "only/here.webp",
    "a%20b.jpg",
    "a b.jpg",
    "twice/x.jpg",
    "twice/x.png",
)


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "zzzzzzzzzz.jpg").write_bytes(b"x")
    return ImageFolder(tmp_path / "photos")


@pytest.mark.parametrize(
    ("image_id", "file", "rule"),
    [
        ("cafe 1.jpg", "cafe 1.jpg", EXACT),
        ("set1/shelf", "set1/shelf.jpg", EXACT),
        ("set1\\shelf.jpg", "set1/shelf.jpg", EXACT),
        ("a%20b.jpg", "a%20b.jpg", EXACT),
        ("cafe%201.jpg", "cafe 1.jpg", NAME),
        ("cafe%25201.jpg", "cafe 1.jpg", NAME),
        ("https://host.example/up/set2/shelf.jpg?sig=a/b", "set2/shelf.jpg", END),
        ("https://host.example/files?path=set2/shelf.jpg&x=1", "set2/shelf.jpg", END),
        ("/data/local-files/?d=set1%2Fshelf.jpg", "set1/shelf.jpg", END),
        ("gs://bucket/photos/set1/shelf.jpg", "set1/shelf.jpg", END),
        ("file:///home/kim/set1/shelf.jpg#t=1", "set1/shelf.jpg", END),
        ("D:\\kim\\photos\\set2\\shelf.jpg", "set2/shelf.jpg", END),
        ("../../photos/set1/shelf.jpg", "set1/shelf.jpg", END),
        ("./set1/../set2/shelf.jpg", "set2/shelf.jpg", END),
        ("train/0001.jpg", "deep/images/train/0001.jpg", NAME),
        ("x/y/val/0001.jpg", "deep/images/val/0001.jpg", NAME),
        ("A\u030angstro\u0308m.png", "Ångström.png", EXACT),
        ("here.webp", "only/here.webp", NAME),
        ("here", "only/here.webp", NAME),
        ("here.jpg", "only/here.webp", STEM),
        ("HERE.WEBP", "only/here.webp", CASE),
        ("https://host.example/data/upload/3/9f8e7d6c-here.webp", "only/here.webp", UPLOAD),
        ("photos/HERE", "only/here.webp", CASE),
        ("D:\\photos\\HERE.JPEG", "only/here.webp", CASE),
        ("https://host.example/up/cafe+1.jpg", "cafe 1.jpg", NAME),
        (" cafe 1.jpg ", "cafe 1.jpg", EXACT),
        ("./set1/shelf.jpg%20", "set1/shelf.jpg", END),
        ("http://h/here.jpeg", "only/here.webp", STEM),
        ("twice/x.png", "twice/x.png", EXACT),
    ],
)
def test_found(folder, image_id, file, rule):
    assert folder.find(image_id) == Found(file, rule)


@pytest.mark.parametrize(
    ("image_id", "reason"),
    [
        ("shelf.jpg", "image ambiguous: set1/shelf.jpg and set2/shelf.jpg"),
        ("other/shelf.jpg", "image ambiguous: set1/shelf.jpg and set2/shelf.jpg"),
        ("twice/x", "image ambiguous: twice/x.jpg and twice/x.png"),
        ("../zzzzzzzzzz.jpg", "image missing: no ../zzzzzzzzzz.jpg"),
        ("../../../etc/passwd", "image missing: no ../../../etc/passwd"),
        ("/etc/passwd", "image missing: no /etc/passwd"),
        ("cafe 2.jpg", "image missing: no cafe 2.jpg; the nearest name is cafe 1.jpg"),
        (
            "shelf_jpg.rf.0123456789abcdef.jpg",
            "image missing: no shelf_jpg.rf.0123456789abcdef.jpg; the nearest name is set1/shelf.jpg",
        ),
        ("10001.jpg", "image missing: no 10001.jpg; the nearest name is deep/images/train/0001.jpg"),
        ("..", "image missing: no .."),
        (" ", "empty image id"),
        ("a\0b", "unsafe image id: 'a\\x00b'"),
    ],
)
def test_not_found(folder, image_id, reason):
    with pytest.raises(ImageError) as caught:
        folder.find(image_id)
    assert str(caught.value) == reason


def test_the_split_and_the_annotation_file_choose_among_equal_names(folder):
    assert folder.find("0001.jpg", split="val") == Found("deep/images/val/0001.jpg", NAME)
    assert folder.find("shelf.jpg", beside="set2") == Found("set2/shelf.jpg", BESIDE)
    assert folder.find("http://h/shelf.jpg", beside="set2") == Found("set2/shelf.jpg", NAME)
    with pytest.raises(ImageError, match="ambiguous"):
        folder.find("0001.jpg", split="test")


def test_crops_of_an_earlier_run_are_no_photos(folder, tmp_path):
    (tmp_path / "photos" / "crops" / "all").mkdir(parents=True)
    (tmp_path / "photos" / "crops" / "crop.json").write_text("{}")
    (tmp_path / "photos" / "crops" / "all" / "lonely_1.jpg").write_bytes(b"x")
    with pytest.raises(ImageError, match="missing"):
        folder.find("lonely_1.png")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text(alphabet="ab./\\%2eC:?=&#d\u0308\0 ", max_size=24))
def test_any_name_is_found_inside_or_not_at_all(tmp_path_factory, image_id):
    root = tmp_path_factory.getbasetemp() / "any"
    (root / "in" / "a").mkdir(parents=True, exist_ok=True)
    for name in ("in/a/b", "in/b.jpg", "in/a.png", "a.jpg", "b"):
        (root / name).write_bytes(b"x")
    try:
        found = ImageFolder(root / "in").find(image_id, beside="a")
    except ImageError:
        return
    assert (root / "in" / found.file).is_file()
    assert ".." not in found.file.split("/")
    assert not found.file.startswith("/")
