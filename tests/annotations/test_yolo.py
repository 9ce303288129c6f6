"""YOLO's rows, label files, settings and lists, and what makes a file one of COCO's, each by hand."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from annotations import coco, yolo
from annotations.contents import Lines, Repeated
from annotations.options import Options
from annotations.records import Object, Outline
from common.messages import Unusable, UserError

NAMES = {0: "tea", 1: "rice", 3: "7up"}


def rows(text: str, key_points: int = 0, names=NAMES, path: str = "labels/a.txt", **options) -> list:
    dataset = yolo.Dataset(names, key_points)
    return list(yolo.read(text.encode(), Path("root", path), Path("root"), dataset, Options(**options)))


@pytest.mark.parametrize(
    ("row", "key_points", "said"),
    [
        ("0 .5 .5 .2 .4", 0, ("tea", 0.4, 0.3, 0.6, 0.7)),
        ("1.0 .5 .5 .2 .4", 0, ("rice", 0.4, 0.3, 0.6, 0.7)),
        ("rice .5 .5 .2 .4", 0, ("rice", 0.4, 0.3, 0.6, 0.7)),
        ("0 .5 .5 .2 .4 .9", 0, ("tea", 0.4, 0.3, 0.6, 0.7)),  # and its confidence
        ("0 .5 .5 .2 .4 .1 .2 2", 3, ("tea", 0.4, 0.3, 0.6, 0.7)),
        ("0 .5 .5 .2 .4 .1 .2 2 .9", 3, ("tea", 0.4, 0.3, 0.6, 0.7)),
        ("0 .5 .5 .2 .4", 3, ("tea", 0.4, 0.3, 0.6, 0.7)),
        ("0 .1 .2 .5 .2 .5 .8", 0, ("tea", 0.1, 0.2, 0.5, 0.8)),  # a polygon
        ("0 .1 .2 .5 .2 .5 .8 .9", 0, ("tea", 0.1, 0.2, 0.5, 0.8)),
        ("0 .1 .2 .5 .2 .5 .8 .1 .8", 9, ("tea", 0.1, 0.2, 0.5, 0.8)),
        ("0 .5 .5 .2", 0, "bad row: 4 values"),
        ("0", 0, "bad row: 1 values"),
        ("2 .5 .5 .2 .4", 0, "unknown class: 2 has no name"),
        ("-1 .5 .5 .2 .4", 0, 'bad class: "-1"'),
        ("0.5 .5 .5 .2 .4", 0, 'bad class: "0.5"'),
        ("milk .5 .5 .2 .4", 0, 'bad class: "milk"'),
        ("7up .5 .5 .2 .4", 0, 'bad class: "7up"'),
        ("0 .5 .5 .2 x", 0, 'bad row: "x"'),
        ("0 .5 .5 0 .4", 0, "empty box"),
    ],
)
def test_rows(row, key_points, said):
    (found,) = rows(row, key_points)
    if isinstance(said, str):
        assert found.reason == said
        return
    box = found.box
    assert (*found.classes, box.left, box.top, box.right, box.bottom) == pytest.approx(said)
    assert (found.units, found.image, found.object_id) == ("fraction", "images/a", "1")


def test_rows_as_the_user_says_and_without_names():
    found = rows(
        "5 1 2 3 4\n\n 5 1 2 5 2 5 8 \nx 1 2 3 4\n", names={}, box_format="xywh", box_units="pixels", outlines=True
    )
    assert [(one.classes, one.units) for one in found[:2]] == [(("5",), "pixels")] * 2
    assert [one.outline for one in found[:2]] == [None, Outline((array("d", [1, 2, 5, 2, 5, 8]),))]
    assert [one.object_id for one in found] == ["1", "2", "3"]
    assert (found[2].line, found[2].reason) == ("4", 'bad class: "x"')
    assert (found[0].box.right, found[0].box.bottom) == (4, 6)
    assert rows(" \n") == []


@pytest.mark.parametrize(
    ("path", "image"),
    [
        ("labels/a.txt", "images/a"),
        ("train/labels/a.txt", "train/images/a"),
        ("labels/Labels/b/a.txt", "labels/images/b/a"),
        ("a.txt", "a"),
        ("some/a.b.txt", "some/a.b"),
        ("labels/a.txt.txt", "images/a"),
    ],
)
def test_the_photo_of_a_label_file_is_among_the_images(path, image):
    (found,) = rows("0 .5 .5 .2 .4", path=path)
    assert found.image == image


def test_what_is_a_label_file(tmp_path):
    row, prose = "0 .5 .5 .2 .4\n", "Read me first: 1 2 3 4 5\n"
    files = {
        "a.txt": (row, True),
        "b.txt": (prose, False),
        "c.csv": (row, False),
        "d.TXT": (row, True),
        "classes.txt": (row, False),
        "README.txt": (row, False),
        "labels/e.txt": (prose, True),
        "Labels/x/y/f.txt": (prose, True),
        "labels/x/y/z/g.txt": (prose, False),
        "labels/classes.txt": (row, False),
    }
    for name, (text, _) in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [name for name, (_, is_one) in files.items() if yolo.is_label_file(tmp_path / name) != is_one] == []
    sound, others = ["\n" + row, "0 1e-3 5E2 -1 .5"], ["0 .5 .5 .2\n", "0 .5 .5 .2 4x", ""]
    assert [yolo.recognise(text) for text in (*sound, *others)] == [True, True, False, False, False]


SETTINGS = "names: {0: tea, 1: rice}\ntrain: ../train/images\nval: [a/images, ./b/images/]\ntest: lists/test.txt\n"


def test_settings_give_names_key_points_folders_and_lists(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "test.txt").write_text("images/c.d.jpg\n\nsub\\e.png\n")
    (tmp_path / "train.txt").write_text("f.jpg\ne.png\n")
    (tmp_path / "val.txt").write_text("0 .5 .5 .2 .4\n")  # the labels of a photo that is called val
    (tmp_path / "data.yaml").write_text(f"{SETTINGS}kpt_shape: [17, 3]\n")
    found = yolo.open_dataset(tmp_path)
    assert (found.names, found.key_points) == ({0: "tea", 1: "rice"}, 51)
    assert found.folders == {"train": "train", "a": "val", "b": "val"}
    assert {stem: split for stem, split in found.lists.items() if stem} == {"f": "train", "e": "train", "c.d": "test"}
    for shape in ("[17]", "[0, 3]", "[17, 10000]", "17", "[17, 3.0]", "[17, x]"):
        (tmp_path / "data.yaml").write_text(f"{SETTINGS}kpt_shape: {shape}\n")
        assert yolo.open_dataset(tmp_path).key_points == 0
    (tmp_path / "data.yaml").write_text("names: [tea, rice]\nkpt_shape: [9999, 1]")
    assert (yolo.open_dataset(tmp_path).names, yolo.open_dataset(tmp_path).key_points) == ({0: "tea", 1: "rice"}, 9999)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("names: tea", "has no list `names` of classes; add it"),
        ("- tea", "has no list `names` of classes; add it"),
        ("names: {a: tea}", "class 'a' of `names` has no usable name; repair it"),
        ("names: [tea, '']", "class 1 of `names` has no usable name; repair it"),
        ("names: [tea", "is not valid YAML (expected ',' or ']', but got '<stream end>'); repair it"),
    ],
)
def test_settings_that_are_none(tmp_path, text, told):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        yolo.open_dataset(tmp_path)
    assert told in str(error.value)


def test_settings_are_looked_for_in_the_two_folders_above(tmp_path):
    labels = tmp_path / "one" / "two" / "labels"
    labels.mkdir(parents=True)
    (tmp_path / "one" / "data.yaml").write_text("names: [tea]")
    assert yolo.open_dataset(labels).names == {0: "tea"}
    (tmp_path / "one" / "two" / "classes.txt").write_text("rice\n\nmilk\n\n")
    assert yolo.open_dataset(labels).names == {0: "rice", 1: "", 2: "milk"}
    (tmp_path / "one" / "data.yaml").unlink()
    (tmp_path / "one" / "two" / "classes.txt").unlink()
    (tmp_path / "data.yaml").write_text("names: [far]")
    assert yolo.open_dataset(labels).names == {}


def test_the_split_of_a_label_file_is_that_of_its_folder_or_list():
    dataset = yolo.Dataset(NAMES, folders={"shop": "val"}, lists={"a": "test"})

    def split(path: str) -> str:
        (found,) = yolo.read(b"0 .5 .5 .2 .4", Path("r", path), Path("r"), dataset, Options())
        assert isinstance(found, Object)
        return found.split

    assert [split(one) for one in ("shop/labels/a.txt", "labels/a.txt", "labels/b.txt", "labels/train/b.txt")] == [
        "val",
        "test",
        "all",
        "train",
    ]
    assert dataset.used == {0}


@pytest.mark.parametrize(
    ("content", "is_one", "is_whole"),
    [
        ({"images": [], "annotations": []}, True, True),
        ({"images": [], "annotations": None}, True, True),
        ({"images": {}, "annotations": {}}, True, True),
        ({"images": []}, True, False),
        ({"annotations": []}, True, False),
        ({"images": [{"annotations": []}]}, True, True),
        ({"images": {}}, False, False),
        ({"images": "x", "annotations": {}}, False, True),
        ({}, False, False),
    ],
)
def test_what_is_coco(content, is_one, is_whole):
    assert coco.recognise(content) == is_one
    assert coco.is_whole(content) == is_whole
    assert not coco.recognise([content])


def test_a_box_is_enough_where_its_four_numbers_have_sides():
    sound = [[0, 0, 1, 1], [1, 2, 3.5, -4]]
    others = [[0, 0, 0, 0], [1, 2, 0, 4], [1, 2, 3, 0], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4"], (1, 2, 3, 4), None]
    assert [coco._has_box(bbox) for bbox in (*sound, *others)] == [True] * 2 + [False] * 8


def test_categories_of_one_id_agree_where_one_names_the_parent_too():
    assert coco._same_name(("food", "tea"), ("tea",))
    assert coco._same_name(("tea",), ("food", "tea"))
    assert not coco._same_name(("food", "tea"), ("food",))
    assert not coco._same_name(("tea",), Unusable("no name"))
    assert not coco._same_name(Unusable("no name"), ("tea",))
    content = {"images": [{"id": 1, "file_name": "a.jpg"}],
               "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]}  # fmt: skip
    for given in ([{}, {"supercategory": "food"}], [{"supercategory": "food"}, {}]):
        categories = [{"id": 1, "name": "tea", **more} for more in given]
        (found,) = coco.read({**content, "categories": categories}, "a.json", Options())
        assert found.classes == ("food", "tea")


def test_an_entry_given_twice_is_told():
    twice = Repeated({"bbox": [1], "id": 2})
    twice.pairs = [("id", 1), ("bbox", [1]), ("id", 2)]
    with pytest.raises(Unusable, match="id given twice"):
        coco.check_plain(twice)
    with pytest.raises(Unusable, match="annotation is not an object"):
        coco.check_plain(Lines())
