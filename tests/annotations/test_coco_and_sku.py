"""Both JSON forms to records: nothing lost, nothing believed that is not there."""

from __future__ import annotations

import json
import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotations.formats import parse
from annotations.records import Box, Object, Skipped
from common.messages import UserError


def sku(**objects) -> dict:
    return {"photo": objects}


def item(points=None, **keys) -> dict:
    return {
        "points": points or {"top_left": [1, 2], "bottom_right": [11, 22]},
        "sku_id": "A",
        "split_id": "test",
        **keys,
    }


def coco(annotations, images=None, categories=None) -> dict:
    images = images or [{"id": 7, "file_name": "shelf/photo.JPG", "width": 640, "height": 480}]
    return {"images": images, "annotations": annotations, "categories": categories or [{"id": 1, "name": "A"}]}


def read(content, name="annotations.json", **options) -> list:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse(data, name, **options)


def reason(content) -> str:
    (only,) = read(content)
    assert isinstance(only, Skipped)
    return only.reason


def test_sku_object():
    (only,) = read(sku(k=item({"top_left": [1.5, 2], "bottom_right": ["11", "22.25"]})))
    assert only == Object(
        "photo", "photo", "k", "test", ("A",), Box(1.5, 2, 11, 22.25, 9.5, 20.25), None, "annotations.json"
    )
    assert only.crop_id == "photo_k"


def test_sku_points_as_json_text_and_numbers_as_ids():
    (only,) = read(sku(k=item('{"top_left": [1, 2], "bottom_right": [3, 4]}', sku_id=17, split_id=1.0)))
    assert only.box == Box(1, 2, 3, 4, 2, 2)
    assert (only.classes, only.split) == (("17",), "1")


def test_coco_object_and_labels():
    categories = [
        {"id": 1, "name": "vanilla", "supercategory": "brand"},
        {"id": 2, "name": "same", "supercategory": "same"},
        {"id": "3", "name": "x", "supercategory": "y", "classes": ["a", "b", "c"]},
        {"id": 4, "name": "alone", "supercategory": ""},
    ]
    rows = [{"id": i, "image_id": 7, "category_id": i, "bbox": [1, 2, 10.5, 20]} for i in range(1, 5)]
    found = read(coco(rows, categories=categories), "instances_val2017.json")
    assert [row.classes for row in found] == [("brand", "vanilla"), ("same",), ("a", "b", "c"), ("alone",)]
    first = found[0]
    assert first.box == Box(1, 2, 11.5, 22, 10.5, 20)
    assert (first.image, first.sample_id, first.crop_id) == ("shelf/photo.JPG", "shelf/photo", "shelf/photo_1")
    assert (first.split, first.declared) == ("val", (640, 480))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.json", "train"),
        ("VALID.json", "valid"),
        ("my-validation_2.json", "validation"),
        ("latest.json", "all"),
        ("instances_train2017.json", "train"),
        ("dev_boxes.json", "dev"),
        ("testing.json", "testing"),
        ("a/test/boxes.json", "test"),
        ("val2017/annotations/boxes.json", "val"),
        ("latest/contest/boxes.json", "all"),
    ],
)
def test_split_from_the_file_name(name, split):
    row = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]}
    assert read(coco([row]), name)[0].split == split
    assert read(coco([row]), name, split="mine")[0].split == "mine"


def test_split_names_rename_what_the_annotations_say():
    found = read(sku(a=item(split_id=1), b=item(split_id="2"), c=item(split_id=None)), split_names={"1": "train"})
    assert [row.split for row in found] == ["train", "2", "all"]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (item(points="{not json"), "bad points"),
        (item(points='{"top_left": [1, 2], "top_left": [1, 3], "bottom_right": [5, 5]}'), "bad points"),
        (item(points=[1, 2, 3, 4]), "bad points"),
        (item({"top_left": [1, 2, 3], "bottom_right": [4, 5]}), "bad points"),
        (item({"top_left": [True, False], "bottom_right": [4, 5]}), "bad points"),
        (item({"top_left": [1, 2]}), "bad points"),
        (item({"top_left": [10**400, 2], "bottom_right": [4, 5]}), "bad points"),
        ({"sku_id": "A"}, "no points"),
        (item({"top_left": ["nan", 0], "bottom_right": [4, 5]}), "box not finite"),
        (item({"top_left": [-1e308, 0], "bottom_right": [1e308, 5]}), "box not finite"),
        (item({"top_left": [9, 9], "bottom_right": [1, 1]}), "inverted box"),
        (item({"top_left": [1, 1], "bottom_right": [1, 9]}), "empty box"),
        (item(sku_id=None), "no sku_id"),
        (item(sku_id=" "), "empty sku_id"),
        (item(sku_id=[]), "bad sku_id"),
        (item(classes=[]), "bad classes"),
        (item(classes=["a", None]), "no classes"),
        ([1, 2], "annotation is not an object"),
    ],
)
def test_a_bad_object_is_skipped_with_its_reason_and_the_good_one_stays(wrong, why):
    bad, good = read(sku(bad=wrong, good=item()))
    assert (bad.sample_id, bad.object_id, bad.file) == ("photo", "bad", "annotations.json")
    assert re.match(rf"{why}(: |$)", bad.reason)
    assert isinstance(good, Object)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"image_id": 99}, "unknown image_id: 99"),
        ({"image_id": None}, "no image_id"),
        ({"category_id": 42}, "unknown category_id"),
        ({"bbox": "1,2,x,4"}, 'bad bbox: ["1", "2", "x", "4"]'),
        ({"bbox": [1, 2, -3, 4]}, "inverted box"),
        ({"bbox": [1, 2, 0, 4]}, "empty box"),
        ({"bbox": None}, "no bbox"),
        ({"iscrowd": 1}, "crowd region"),
        ({"id": [1]}, "bad id: [1]"),
    ],
)
def test_a_bad_coco_annotation_is_skipped_with_its_reason(change, why):
    assert reason(coco([{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], **change}])).startswith(why)


def test_two_images_of_one_id_are_ambiguous_unless_they_agree():
    row = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}
    image = {"id": 7, "file_name": "a.jpg", "width": 9, "height": 9}
    assert reason(coco([row], images=[image, {**image, "file_name": "b.jpg"}])).startswith("ambiguous image_id: 7")
    assert isinstance(read(coco([row], images=[image, {**image, "license": 3}]))[0], Object)


def test_keys_given_twice_lose_nothing_quietly():
    text = '{"p": {"1": %s, "1": %s}, "p": {"2": %s, "1": %s}}' % ((json.dumps(item()),) * 4)
    found = read(text.encode())
    assert [(row.object_id, isinstance(row, Object)) for row in found] == [
        ("1", True),
        ("1", False),
        ("2", True),
        ("1", False),
    ]
    assert found[1].reason == "object id given twice: p_1"
    twice = '{"p": {"1": {"sku_id": "A", "sku_id": "B", "points": {"top_left": [0, 0], "bottom_right": [1, 1]}}}}'
    assert reason(twice.encode()) == "sku_id given twice"
    with pytest.raises(UserError, match="'annotations' twice"):
        read(b'{"images": [], "categories": [], "annotations": [], "annotations": []}')


def test_an_image_entry_that_is_no_object_is_a_row():
    assert read({"list": [item()], "null": None, **sku(k=item())})[:2] == [
        Skipped("list", "", "image entry is not an object"),
        Skipped("null", "", "image entry is not an object"),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        ('{\n"p": "Käse"}'.encode("latin1"), "line 2: byte 0xe4 is not UTF-8"),
        (b'{"p":\n {"1": ', "line 2, column 8: not valid JSON"),
        (b"[1, 2, 3]", "a list of 3.*neither SKU JSON"),
        (b'{"version": "5.0", "flags": {}}', "its keys are version, flags.*neither SKU JSON"),
        (b'{"annotations": []}', "no list 'images'"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 50_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "annotations.json"),
        (b"[" + b"[]," * 1_000_000 + b"1]", "a list of 1,000,001"),
    ],
)
def test_a_file_of_neither_form_is_one_sentence(data, message):
    with pytest.raises(UserError, match="(?s)" + message) as caught:
        read(data)
    assert str(caught.value).startswith("annotations.json")
    assert "\n" not in str(caught.value)


def test_byte_order_mark_and_utf_16_are_read():
    text = json.dumps(sku(k=item(sku_id="Käse")), ensure_ascii=False)
    for encoding in ("utf-8-sig", "utf-16"):
        assert read(text.encode(encoding))[0].classes == ("Käse",)


def test_broken_files(study_data):
    counts = {}
    for path in sorted((study_data / "broken").glob("*.json")):
        try:
            found = parse(path.read_bytes(), path)
        except UserError as error:
            counts[path.stem] = path.name in str(error)
        else:
            counts[path.stem] = (len(found), sum(isinstance(row, Object) for row in found))
    assert counts.pop("annotations_sku") == (38, 29)
    assert counts.pop("coco") == (9, 2)
    assert counts.pop("nan_box") == (1, 0)
    assert counts == dict.fromkeys(("empty", "latin1", "not_a_dict", "truncated"), True)


def test_sku_and_coco_say_the_same(study_data):
    for name in ("cards", "bccd"):
        folder = study_data / name
        by_sku = {row.crop_id: row for row in parse((folder / "annotations_sku.json").read_bytes(), "x.json")}
        for split in ("train", "val", "test"):
            for row in parse((folder / f"{split}.json").read_bytes(), f"{split}.json"):
                twin = by_sku.pop(row.crop_id)
                assert (twin.box, twin.split, twin.classes[-1]) == (row.box, row.split, row.classes[-1])
        assert not by_sku


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["points", "top_left", "bottom_right", "sku_id", "split_id", "classes", "id", "bbox", "a", ""]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(values, values, values)
def test_any_json_gives_records_or_one_sentence(one, two, three):
    rows = [{"id": one, "image_id": 7, "category_id": 1, "bbox": two}, three]
    for content in (one, {"p": {"1": one, "2": item()}, "q": two}, coco(rows), coco(one, two, three)):
        try:
            found = read(json.dumps(content).encode())
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert all(isinstance(row, (Object, Skipped)) for row in found)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_bytes_give_records_or_one_sentence(data):
    text = bytearray(json.dumps(sku(a=item(), b=item('{"top_left": [1, 2], "bottom_right": [3, 4]}'))).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(text))
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert all(isinstance(row, (Object, Skipped)) for row in found)


def test_coco_as_tools_write_it():
    """Ids of MongoDB, texts for numbers and flags, a box as text and as object, no box, no id, repeated categories."""
    images = [
        {"id": {"$oid": "f1"}, "file_name": "a.jpg", "width": "9", "height": "9"},
        {"id": 0, "file_name": "a.jpg", "width": 9, "height": 9},  # the same photo under a second id
    ]
    categories = [{"id": 0, "name": "x"}, {"id": 0, "name": "x", "supercategory": "y"}, {"id": "0.5", "name": "z"}]
    shapes = [
        {"image_id": "f1", "bbox": "1, 2 3;4", "iscrowd": "False"},
        {"image_id": {"$oid": "f1"}, "bbox": {"x1": 1, "y1": 2, "x2": "4", "y2": 6}, "iscrowd": ""},
        {"image_id": 0.0, "bbox": {"x": 1, "y": 2, "width": 3, "height": 4}, "iscrowd": "0.0"},
        {"image_id": 0, "bbox": [0, 0, 0, 0], "segmentation": [[1, 2, 4, 2, 4, 6, 1, 6]]},
        {"image_id": 0, "segmentation": [[1, 2], [4, 2], [4, 6]], "iscrowd": None},
    ]
    found = read(coco([{**shape, "category_id": 0} for shape in shapes], images, categories))
    assert [row.box for row in found] == [Box(1, 2, 4, 6, 3, 4)] * 5
    assert [row.crop_id for row in found] == [f"a_row{number}" for number in range(1, 6)]
    assert {row.classes for row in found} == {("y", "x")}
    assert {row.declared for row in found} == {(9, 9)}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"iscrowd": "perhaps"}, 'bad iscrowd: "perhaps"'),
        ({"iscrowd": "TRUE"}, "crowd region"),
        ({"bbox": [1, 2, "3,5", 4]}, 'bad bbox: [1, 2, "3,5", 4]'),
        ({"bbox": {"x": 1, "y": 2}}, 'bad bbox: {"x": 1, "y": 2}'),
        ({"bbox": {"x": 1, "y": 2, "w": None, "h": 1}}, "no bbox.w"),
        ({"bbox": None, "segmentation": [[1, 2, 3]]}, "bad segmentation: a polygon of 3 numbers"),
        ({"bbox": None, "segmentation": {"counts": 5, "size": [1, 1]}}, "bad segmentation.counts: 5"),
        ({"bbox": None, "segmentation": []}, "no bbox, empty segmentation"),
        ({"category_id": "1_0"}, "unknown category_id: 1_0"),
    ],
)
def test_a_reason_names_the_field_and_its_value(change, why):
    assert reason(coco([{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], **change}])) == why


def test_memory_is_bounded_by_what_a_file_would_need(monkeypatch):
    from annotations import contents

    data = b'{"a": [' + b"[]," * 1000 + b"1]}"
    monkeypatch.setattr(contents, "memory", lambda: 50_000)
    with pytest.raises(UserError, match="would need about 0 GiB of memory"):
        read(data)
    monkeypatch.setattr(contents, "memory", lambda: 200_000)
    with pytest.raises(UserError, match="its keys are a"):
        read(data)


def test_blanks_around_a_file_name_are_no_part_of_the_sample():
    (only,) = read(
        coco([{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}], [{"id": 7, "file_name": " a b.jpg "}])
    )
    assert (only.image, only.sample_id) == (" a b.jpg ", "a b")


BOX = {"bbox": [1, 2, 10, 20]}


@pytest.mark.parametrize(
    ("annotation", "classes"),
    [
        ({"id": 1, "image_id": "shelf/photo.JPG", "category_id": 1}, ("A",)),
        ({"id": 1, "image_id": "shelf/photo", "category_id": "1"}, ("A",)),
        ({"id": 1, "image_id": 7, "category_id": "A"}, ("A",)),
    ],
)
def test_names_may_stand_in_the_place_of_ids(annotation, classes):
    (only,) = read(coco([annotation | BOX]))
    assert (only.image, only.classes) == ("shelf/photo.JPG", classes)


def test_a_name_of_two_entries_or_of_digits_is_no_id():
    digits = [{"id": 1, "name": "5"}, {"id": 2, "name": "twin", "supercategory": "x"}, {"id": 3, "name": "twin"}]
    found = read(
        coco([{"id": n, "image_id": 7, "category_id": i} | BOX for n, i in enumerate(("5", "twin"))], categories=digits)
    )
    assert [item.reason for item in found] == ["unknown category_id: 5", "unknown category_id: twin"]


def test_lists_given_as_objects_by_id():
    content = coco([])
    content["images"] = {"7": {"file_name": "a.jpg"}, "8": {"id": 9, "file_name": "b.jpg"}}
    content["categories"] = {"1": "A", "2": {"name": "B"}}
    content["annotations"] = {
        "k": {"image_id": 7, "category_id": 1} | BOX,
        "l": {"id": 5, "image_id": 9, "category_id": 2} | BOX,
    }
    assert [(item.image, item.object_id, item.classes) for item in read(content)] == [
        ("a.jpg", "k", ("A",)),
        ("b.jpg", "5", ("B",)),
    ]


@pytest.mark.parametrize("categories", [None, []])
def test_without_categories_names_or_numbers_are_the_labels(categories, capsys):
    content = coco([{"id": n, "image_id": 7, "category_id": 4} | BOX for n in (1, 2)])
    content["annotations"][1]["category_name"] = "ale"
    content["categories"] = categories
    assert [item.classes for item in read(content)] == [("4",), ("ale",)]
    assert "has no categories" in capsys.readouterr().err


@pytest.mark.parametrize(("first", "change"), [(0, "one less"), (2, "one more")])
def test_categories_numbered_otherwise_than_the_annotations_are_an_error(first, change):
    categories = [{"id": n, "name": f"c{n}"} for n in range(first, first + 3)]
    annotations = [{"id": n, "image_id": 7, "category_id": n} | BOX for n in (1, 2, 3)]
    with pytest.raises(
        UserError, match=f"from 1 to 3, its list of categories from {first} to {first + 2}; .* {change}$"
    ):
        read(coco(annotations, categories=categories))
    unknown = read(
        coco(annotations[1:], categories=[{"id": 0, "name": "none"}, *categories[1:2]])
    )  # a category was deleted
    assert [type(item) for item in unknown].count(Skipped) >= 1


def test_categories_without_ids_are_one_sentence():
    with pytest.raises(UserError, match=r'its categories have no ids \("ale"\)'):
        read(coco([{"id": 1, "image_id": 7, "category_id": 0} | BOX], categories=["ale", "brie"]))


@pytest.mark.parametrize("key", ["filename", "path", "coco_url"])
def test_a_photo_named_under_another_key(key):
    (only,) = read(coco([{"id": 1, "image_id": 7, "category_id": 1} | BOX], images=[{"id": 7, key: "/data/a.jpg"}]))
    assert only.image == "/data/a.jpg"


@pytest.mark.parametrize(
    "bbox",
    [
        {"XMin": 1, "YMin": 2, "XMax": 11, "YMax": 22},
        {"Left": 1, "Top": 2, "Width": 10, "Height": 20},
        {"topX": 1, "topY": 2, "bottomX": 11, "bottomY": 22},
        {"x_min": 1, "y_min": 2, "x_max": 11, "y_max": 22},
    ],
)
def test_the_sides_of_a_box_by_their_names_in_any_writing(bbox):
    (only,) = read(coco([{"id": 1, "image_id": 7, "category_id": 1, "bbox": bbox}]))
    assert only.box == Box(1, 2, 11, 22, 10, 20)


def test_labels_are_trimmed_and_composed():
    categories = [
        {"id": 1, "name": " cafe\u0301\n", "supercategory": "food "},
        {"id": 2, "name": "ale ", "supercategory": "ale"},
    ]
    found = read(coco([{"id": n, "image_id": 7, "category_id": n} | BOX for n in (1, 2)], categories=categories))
    assert [item.classes for item in found] == [("food", "café"), ("ale",)]


def test_splits_of_records_in_any_capitals():
    images = [
        {"id": n, "file_name": f"{n}.jpg", "split": split} for n, split in enumerate(("Train ", "TEST", "Fold 1 "))
    ]
    content = coco([{"id": n, "image_id": n, "category_id": 1} | BOX for n in range(3)], images=images)
    assert [item.split for item in read(content)] == ["train", "test", "Fold 1"]
    assert [item.split for item in read(content, split_names={"TEST": "query"})] == ["train", "query", "Fold 1"]


def test_an_empty_part_of_a_segmentation_costs_no_outline():
    shape = {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [[], [1, 2, 11, 2, 11, 22], []]}
    (only,) = read(coco([shape]), outlines=True)
    assert only.box == Box(1, 2, 11, 22, 10, 20)
    assert [list(part) for part in only.outline.polygons] == [[1, 2, 11, 2, 11, 22]]
    assert reason(coco([shape | {"segmentation": [[], []]}])) == "no bbox, empty segmentation"


def square(**changes) -> dict:
    return {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], **changes}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("}]", "},]").replace("]}", "],\n}"),
        lambda text: "// written by hand, see http://x//y\n" + text.replace("[", "[ /* first, ] */", 1),
        lambda text: text.replace('"categories"', '// the "names"\n"categories"'),
    ],
)
def test_comments_and_last_commas_are_read_and_told(change, capsys):
    """What people write into JSON by hand; a text that holds such signs stays as it is."""
    names = [{"id": 1, "name": "a, ] // b /* c */"}]
    (row,) = read(change(json.dumps(coco([square()], categories=names))).encode())
    assert (row.box, row.classes) == (Box(1, 2, 4, 6, 3, 4), ("a, ] // b /* c */",))
    assert capsys.readouterr().err.count("read without its comments and the commas") == 1


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (repr(coco([square()])), "Python's own notation"),
        (json.dumps(coco([square(iscrowd=None)])).replace("null", "None"), "Python's own notation"),
        (json.dumps(coco([square()]))[:-9], "it ends early"),
        ("{" + "/*" * 50_000, "not valid JSON"),
    ],
)
def test_what_is_no_json_is_told_as_what_it_is(text, hint):
    with pytest.raises(UserError, match=hint):
        read(text.encode())


def test_annotations_inside_their_photos_and_segments_of_panoptic_ones():
    photo = {"id": 7, "file_name": "a.jpg"}
    inside = {"images": [{**photo, "annotations": [{"bbox": [1, 2, 3, 4], "category_id": 1}, 5]}]}
    rows = read({**inside, "categories": [{"id": 1, "name": "A"}]})
    assert isinstance(rows[0], Object)
    assert (rows[0].image, rows[0].crop_id, rows[0].box) == ("a.jpg", "a_row1", Box(1, 2, 4, 6, 3, 4))
    assert rows[1].reason == "annotation is not an object"
    parts = [{"id": 30, "category_id": 1, "bbox": [1, 2, 3, 4]}, {"id": 31, "category_id": 1, "iscrowd": 1}]
    rows = read(coco([{"image_id": 7, "file_name": "a.png", "segments_info": parts}]))
    assert (rows[0].object_id, rows[0].box) == ("30", Box(1, 2, 4, 6, 3, 4))
    assert rows[1].reason == "crowd region"


def test_captions_and_masks_of_another_size_are_named():
    assert reason(coco([{"id": 1, "image_id": 7, "caption": "a shelf"}])) == "a caption has no box"
    mask = {"size": [240, 320], "counts": [240 * 100 + 20, 30, 240 * 320 - 240 * 100 - 50]}
    told = "segmentation of a mask of 320 x 240, in a photo declared as 640 x 480"
    assert reason(coco([square(bbox=None, segmentation=mask)])) == told
    photo = {"id": 7, "file_name": "a.jpg", "width": 320, "height": 240}
    (row,) = read(coco([square(bbox=None, segmentation=mask)], [photo]))
    assert row.box == Box(100, 20, 101, 50, 1, 30)


@pytest.mark.parametrize(
    "names",
    [{"supercategory": "A"}, {"name": "", "supercategory": "A"}, {"name": None, "label": "A"}, {"class_name": "A"}],
)
def test_a_category_is_called_by_the_name_that_it_has(names):
    (row,) = read(coco([square()], categories=[{"id": 1, **names}]))
    assert row.classes == ("A",)


def test_ids_as_a_table_writes_them():
    rows = read(coco([square(category_id="1.0", image_id=" 7"), square(id=2, category_id="1.5")]))
    assert isinstance(rows[0], Object)
    assert rows[1].reason == "unknown category_id: 1.5"


@pytest.mark.parametrize(
    "bbox",
    [
        [[1, 2], [4, 6]],
        [[1, 2], [4, 2], [4, 6], [1, 6]],
        [1, 2, 4, 2, 4, 6, 1, 6],
        [[1, 2, 3, 4]],
        "[[1, 2], [4, 6]]",
        "[1 2 3 4]",
        " [ 1.0  2. 3. 4.]",
    ],
)
def test_a_box_by_its_corners_or_as_it_is_printed(bbox):
    (row,) = read(coco([square(bbox=bbox)]))
    assert row.box == Box(1, 2, 4, 6, 3, 4)


@pytest.mark.parametrize("bbox", ["1,5 2,5 3,5 4,5", [1, 2, 3, 4, 5, 6, 7], "[1 2 3]", "[[1 2] [4 6]]"])
def test_numbers_that_are_no_four_are_no_box(bbox):
    """Decimal commas make eight numbers of four; they are no corners."""
    assert reason(coco([square(bbox=bbox)])).startswith("bad bbox: ")


@pytest.mark.parametrize("bbox", [[1, 2, 3, 4, 0.9], [5, 1, 2, 4, 6], "1 2 3 4 30", [1, 2, 3, 4, 0.9, 5]])
def test_a_fifth_number_of_a_box_is_named(bbox):
    """A score, a class or an angle: which one it is decides what the four others mean, so that none is guessed."""
    n = 6 if len(bbox) == 6 else 5
    assert reason(coco([square(bbox=bbox)])).startswith(
        f"bbox of {n} numbers, not 4 (take the angle, score or class out): "
    )


def test_a_file_cut_inside_a_long_text_is_told_in_little_memory(capsys):
    """An address in the text is no comment, and a photo that LabelMe writes into its file may have millions of letters."""
    photo = {"id": 7, "file_name": "a.jpg", "imageData": "http://x/" + "A" * 1_000_000}
    text = json.dumps(coco([square()], [photo]))
    text = text[: text.rindex("A" * 9)]
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="it ends early"):
            read(text.encode())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(text)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="it ends early"):  # a comment, and cut: nothing is said to have been read
        read(b"// mine\n" + json.dumps(coco([square()]))[:-9].encode())
    assert capsys.readouterr().err == ""


def test_boxes_of_a_file_with_a_last_comma_are_held_against_their_outlines():
    """The file is parsed twice, and more boxes are in it than are looked at: none of them leaves its photo."""
    corners = [[x, 10, x + 25, 40] for x in range(1, 9)]
    items = [
        square(bbox=[x, y, right, bottom], segmentation=[[x, y, right, y, right, bottom, x, bottom]])
        for x, y, right, bottom in corners * 70
    ]
    with pytest.raises(UserError, match=r"100% of the first 500 boxes do not fit .* --box_format xyxy reads them so"):
        read((json.dumps(coco(items))[:-1] + ",}").encode())


@pytest.mark.parametrize(
    ("stated", "numbers"),
    [
        ({"bbox_mode": 0}, [10, 20, 40, 80]),
        ({"bbox_mode": "BoxMode.XYXY_ABS"}, [10, 20, 40, 80]),
        ({"bbox_mode": 1}, [10, 20, 30, 60]),
        ({"bbox_mode": 3}, [10 / 640, 20 / 480, 30 / 640, 60 / 480]),
        ({"bbox_format": "pascal_voc"}, [10, 20, 40, 80]),
        ({"box_format": "CXCYWH"}, [25, 50, 30, 60]),
    ],
)
def test_a_record_says_what_its_four_numbers_mean(stated, numbers):
    rows = [{"image_id": 7, "category_id": 1, "bbox": numbers, **stated}]
    (found,) = read(coco(rows))
    scale = (640, 480) if found.units == "fraction" else (1, 1)
    sides = (found.box.left, found.box.top, found.box.width, found.box.height)
    assert [side * scale[at % 2] for at, side in enumerate(sides)] == pytest.approx([10, 20, 30, 60])


def test_boxes_that_say_what_they_are_need_no_evidence_of_their_outlines():
    """As corners they fit their polygons; read as x, y, width, height the file would be refused."""
    rows = [
        {
            "image_id": 7,
            "category_id": 1,
            "bbox": [x, 20, x + 30, 80],
            "segmentation": [[x, 20, x + 30, 20, x + 30, 80, x, 80]],
        }
        for x in (10, 60, 110, 160)
    ]
    with pytest.raises(UserError, match="--box_format xyxy reads them so"):
        read(coco(rows))
    for stated in ({"bbox_mode": 0}, {"bbox_format": "xyxy"}):
        assert [row.box.width for row in read(coco([row | stated for row in rows]))] == [30] * 4


def test_a_meaning_that_nobody_knows_is_a_skip_and_an_option_decides():
    rows = coco([{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 5], "bbox_mode": "tight"}])
    assert reason(rows) == 'unknown bbox_mode (--box_format says what the numbers are): "tight"'
    assert reason(coco([{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 5], "bbox_mode": 4}])).startswith("unknown")


def test_photos_in_a_list_hold_their_annotations_as_detectron2_has_them():
    photos = [
        {
            "file_name": f"{name}.jpg",
            "image_id": 3,  # the same twice: the place in the list counts
            "annotations": [{"bbox": [1, 2, 4, 6], "bbox_mode": 0, "category_id": number}],
        }
        for number, name in enumerate("ab")
    ]
    found = read(photos)
    assert [(row.image, row.classes) for row in found] == [("a.jpg", ("0",)), ("b.jpg", ("1",))]
    assert found[0].box == Box(1, 2, 4, 6, 3, 4)


def test_ids_with_zeros_before_them_are_numbers():
    images = [
        {"id": "000007", "file_name": "a.jpg"},
        {"id": "08", "file_name": "b.jpg"},
        {"id": "8", "file_name": "c.jpg"},
    ]
    rows = [{"image_id": image_id, "category_id": "01", "bbox": [1, 2, 3, 4]} for image_id in (7, "08", 8, "008")]
    found = read(coco(rows, images=images))
    assert [row.image for row in found[:3]] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [row.image for row in found[3:]] == ["c.jpg"]
