"""Every annotation format against COCO: the same photos, boxes and labels, written by a peer or by the published schema."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import zipfile
from dataclasses import astuple
from pathlib import Path

import cv2
import numpy as np
import pytest

import crop
from annotations import formats
from annotations.options import FORMATS, Options
from annotations.photos import sample_of
from annotations.records import Object, Skipped
from common.messages import ImageError, UserError
from imaging.image_folder import ImageFolder

SAMPLES = 6  # photos of each data set


@pytest.fixture(scope="module")
def subset(study_data, tmp_path_factory) -> Path:
    """A folder with images/ and train.json: a few photos of cards and of bccd, in COCO JSON."""
    folder = tmp_path_factory.mktemp("subset")
    (folder / "images").mkdir()
    coco: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    for name in ("cards", "bccd"):
        content = json.loads((study_data / name / "train.json").read_text())
        offset = 1000 * len(coco["categories"])
        chosen = content["images"][:SAMPLES]
        for image in chosen:
            shutil.copy(study_data / name / "images" / image["file_name"], folder / "images")
            coco["images"].append({**image, "id": image["id"] + offset})
        for item in content["annotations"]:
            if item["image_id"] in {image["id"] for image in chosen}:
                ids = {key: item[key] + offset for key in ("id", "image_id", "category_id")}
                coco["annotations"].append({**item, **ids})
        coco["categories"] += [{"id": c["id"] + offset, "name": c["name"]} for c in content["categories"]]
    (folder / "train.json").write_text(json.dumps(coco))
    return folder


class Photos:
    """The subset as plain values: photos with their size and their (label, x, y, w, h)."""

    def __init__(self, folder: Path) -> None:
        content = json.loads((folder / "train.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        self.labels = sorted(set(names.values()))
        self.photos = [
            (
                image["file_name"],
                image["width"],
                image["height"],
                [
                    (names[item["category_id"]], *item["bbox"])
                    for item in content["annotations"]
                    if item["image_id"] == image["id"]
                ],
            )
            for image in content["images"]
        ]

    def __iter__(self):
        return iter(self.photos)


def by_globox(method: str, name: str, **options):
    def write(subset: Path, out: Path) -> Path:
        globox = pytest.importorskip("globox")
        found = globox.AnnotationSet.from_coco(subset / "train.json")
        if method.startswith("save_yolo"):
            labels = Photos(subset).labels
            options["label_to_id"] = {label: number for number, label in enumerate(labels)}
            (out / "data.yaml").write_text(json.dumps({"names": labels, "train": "images/train"}))
        if method == "save_via_json":
            options["image_folder"] = subset / "images"
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        getattr(found, method)(out / name, **options)
        return out if method.startswith("save_yolo") else out / name

    return write


def createml(subset, out):
    photos = [
        {
            "image": name,
            "annotations": [
                {"label": label, "coordinates": {"x": x + w / 2, "y": y + h / 2, "width": w, "height": h}}
                for label, x, y, w, h in boxes
            ],
        }
        for name, _, _, boxes in Photos(subset)
    ]
    (out / "_annotations.createml.json").write_text(json.dumps(photos))
    return out / "_annotations.createml.json"


def datumaro(subset, out):
    photos = Photos(subset)
    labels = [{"name": label, "parent": "", "attributes": []} for label in photos.labels]
    items = [
        {
            "id": Path(name).stem,
            "annotations": [
                {"id": i, "type": "bbox", "label_id": photos.labels.index(label), "bbox": box, "group": 0, "z_order": 0}
                for i, (label, *box) in enumerate(boxes)
            ],
            "image": {"path": name, "size": [height, width]},
        }
        for name, width, height, boxes in photos
    ]
    content = {"info": {}, "categories": {"label": {"labels": labels, "attributes": []}}, "items": items}
    (out / "train.json").write_text(json.dumps(content))
    return out / "train.json"


def imagefolder(subset, out, *, records=False):
    """`objects` as columns, or as a list of records."""
    lines = []
    for name, _, _, boxes in Photos(subset):
        objects = [{"id": i, "bbox": box, "categories": label} for i, (label, *box) in enumerate(boxes)]
        columns = {key: [item[key] for item in objects] for key in ("id", "bbox", "categories")}
        lines.append(json.dumps({"file_name": name, "objects": objects if records else columns}))
    (out / "metadata.jsonl").write_text("\n".join(lines))
    return out / "metadata.jsonl"


def imagefolder_records(subset, out):
    return imagefolder(subset, out, records=True)


def region(box, width, height, **more):
    label, x, y, w, h = box
    value = {"x": x / width * 100, "y": y / height * 100, "width": w / width * 100, "height": h / height * 100}
    value |= {"rotation": 0, "rectanglelabels": [label]}
    return value, {"original_width": width, "original_height": height, "image_rotation": 0, **more}


def label_studio(subset, out):
    tasks = []
    for number, (name, width, height, boxes) in enumerate(Photos(subset)):
        results = []
        for i, box in enumerate(boxes):
            value, about = region(box, width, height, id=f"r{i}", type="rectanglelabels", from_name="a", to_name="b")
            results.append({**about, "value": value})
        result = {"id": number, "was_cancelled": False, "ground_truth": False, "result": results}
        tasks.append({"id": number, "annotations": [result], "data": {"image": f"/data/upload/1/{name}"}})
    (out / "project-1.json").write_text(json.dumps(tasks))
    return out / "project-1.json"


def label_studio_min(subset, out):
    tasks = []
    for number, (name, width, height, boxes) in enumerate(Photos(subset)):
        regions = [{**value, **about} for value, about in (region(box, width, height) for box in boxes)]
        tasks.append({"image": f"/data/local-files/?d=photos/{name}", "id": number, "label": regions, "annotator": 1})
    (out / "min.json").write_text(json.dumps(tasks))
    return out / "min.json"


def via_csv(subset, out):
    columns = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    with open(out / "via.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split(","))
        for name, _, _, boxes in Photos(subset):
            for i, (label, x, y, w, h) in enumerate(boxes):
                shape = json.dumps({"name": "rect", "x": x, "y": y, "width": w, "height": h})
                writer.writerow([name, 1, "{}", len(boxes), i, shape, json.dumps({"kind": label})])
    return out / "via.csv"


def via3(subset, out):
    photos = Photos(subset)
    options = {str(number): label for number, label in enumerate(photos.labels)}
    file, view, metadata = {}, {}, {}
    for number, (name, _, _, boxes) in enumerate(photos, 1):
        file[str(number)] = {"fid": str(number), "fname": name, "type": 2, "loc": 1, "src": ""}
        view[str(number)] = {"fid_list": [str(number)]}
        for i, (label, *box) in enumerate(boxes):
            chosen = {"1": str(photos.labels.index(label)), "2": ""}
            metadata[f"{number}_{i}"] = {"vid": str(number), "flg": 0, "z": [], "xy": [2, *box], "av": chosen}
    kinds = {"1": ("kind", 4, options), "2": ("note", 1, {})}
    attribute = {
        key: {
            "aname": name,
            "anchor_id": "FILE1_Z0_XY1",
            "type": kind,
            "desc": "",
            "options": choices,
            "default_option_id": "",
        }
        for key, (name, kind, choices) in kinds.items()
    }
    about = {"pid": "__VIA_PROJECT_ID__", "pname": "x", "data_format_version": "3.1.1", "vid_list": list(view)}
    content = {"project": about, "config": {}, "attribute": attribute, "file": file, "metadata": metadata, "view": view}
    (out / "via3.json").write_text(json.dumps(content))
    return out / "via3.json"


def voc_with_lists(subset, out):
    by_globox("save_pascal_voc", "Annotations")(subset, out)
    (out / "ImageSets" / "Main").mkdir(parents=True)
    stems = [Path(name).stem for name, *_ in Photos(subset)]
    (out / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(stems) + "\n")
    return out


def tensorflow_csv(subset, out):
    with open(out / "_annotations.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"])
        for name, width, height, boxes in Photos(subset):
            writer.writerows([name, width, height, label, x, y, x + w, y + h] for label, x, y, w, h in boxes)
    return out / "_annotations.csv"


def bbox_csv(subset, out, *, spaces=False):
    """Boxes as the text of a list, or as numbers with blanks between them."""
    with open(out / "train.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "width", "height", "class_name", "bbox"])
        for name, width, height, boxes in Photos(subset):
            for label, *box in boxes:
                written = " ".join(map(str, box)) if spaces else str(box)
                writer.writerow([Path(name).stem, width, height, label, written])
    return out / "train.csv"


def bbox_csv_spaces(subset, out):
    return bbox_csv(subset, out, spaces=True)


def sku(subset, out):
    content = {}
    for name, _, _, boxes in Photos(subset):
        objects = {}
        for i, (label, x, y, w, h) in enumerate(boxes):
            objects[str(i)] = {"points": {"top_left": [x, y], "bottom_right": [x + w, y + h]}, "sku_id": label}
        content[Path(name).stem] = objects
    (out / "sku.json").write_text(json.dumps(content))
    return out / "sku.json"


def yolo_polygons(subset, out):
    photos = Photos(subset)
    (out / "labels").mkdir()
    (out / "classes.txt").write_text("\n".join(photos.labels) + "\n")
    for name, width, height, boxes in photos:
        lines = []
        for label, x, y, w, h in boxes:
            corners = ((x, y), (x + w, y), (x + w, y + h), (x, y + h), (x + w / 2, y + h))
            numbers = " ".join(f"{cx / width!r} {cy / height!r}" for cx, cy in corners)
            lines.append(f"{photos.labels.index(label)} {numbers}")
        (out / "labels" / f"{Path(name).stem}.txt").write_text("\n".join(lines))
    return out


WRITERS = {
    "yolo": by_globox("save_yolo_v5", "labels/train"),
    "yolo, polygons": yolo_polygons,
    "voc": by_globox("save_pascal_voc", "Annotations"),
    "voc, lists": voc_with_lists,
    "labelme": by_globox("save_labelme", "labelme"),
    "cvat": by_globox("save_cvat", "annotations.xml"),
    "via": by_globox("save_via_json", "via.json"),
    "via, csv": via_csv,
    "via, 3": via3,
    "open_images": by_globox("save_openimage", "boxes.csv"),
    "tensorflow": tensorflow_csv,
    "bbox_csv": bbox_csv,
    "bbox_csv, blanks": bbox_csv_spaces,
    "label_studio": label_studio,
    "label_studio, min": label_studio_min,
    "createml": createml,
    "datumaro": datumaro,
    "imagefolder": imagefolder,
    "imagefolder, records": imagefolder_records,
    "sku": sku,
}


def crops(folder: Path) -> dict[tuple, np.ndarray]:
    with open(folder / "crops.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for row in rows:
        place = tuple(int(row[f"crop_{key}"]) for key in "xywh")
        found[row["sample_id"].rpartition("/")[2], row["class_0"], place] = cv2.imread(str(folder / row["path"]))
    return found


@pytest.fixture(scope="module")
def expected(subset) -> dict[tuple, np.ndarray]:
    assert run(subset, subset / "train.json", subset / "by_coco") == 0
    return crops(subset / "by_coco")


def run(subset: Path, annotations: Path, out: Path, *options: str) -> int:
    argv = [
        "--json_path",
        annotations,
        "--image_folder",
        subset / "images",
        "--output_root",
        out,
        "--padding_percent",
        0,
    ]
    argv += ["--image_format", "png", "--target_w", 32, "--target_h", 32, *options]
    return crop.main(list(map(str, argv)))


@pytest.mark.parametrize("name", WRITERS)
def test_a_format_gives_the_crops_of_coco(subset, expected, tmp_path, name, capsys):
    written = WRITERS[name](subset, tmp_path)
    assert run(subset, written, tmp_path / "crops") == 0
    assert f"{FORMATS[name.split(',')[0]]}, " in capsys.readouterr().err or name == "sku"
    found = crops(tmp_path / "crops")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    with open(tmp_path / "crops" / "skipped.csv") as file:
        assert len(file.readlines()) == 1


def test_every_format_has_a_conversion():
    assert {name.split(",")[0] for name in WRITERS} | {"coco"} == FORMATS.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_a_forced_format_is_that_reader_and_no_other(subset, tmp_path, name, capsys):
    written = WRITERS[name](subset, tmp_path)
    own = name.split(",")[0]
    assert run(subset, written, tmp_path / "crops", "--annotation_format", own) == 0
    other = "cvat" if own != "cvat" else "voc"
    assert run(subset, written, tmp_path / "other", "--annotation_format", other) == 1
    assert not (tmp_path / "other").exists()
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("crop.py: error: ")


def peers(name: str) -> set[str]:
    """What the test_a_format_gives_the_crops_of_coco takes a format's files from."""
    writers = [write for key, write in WRITERS.items() if key.split(",")[0] == name]
    globox = ("by_globox", "voc_with_lists")
    return {"globox" if write.__qualname__.startswith(globox) else "the published schema" for write in writers}


def test_every_row_of_the_formats_table_has_a_conversion_against_its_peer(root):
    """Of the table in docs/inputs.md: a format that is added there, or a peer that is named there, needs a test here."""
    text = (root / "docs" / "inputs.md").read_text(encoding="utf-8")
    header, _, *lines = text.partition("## Formats")[2].partition("The readers are")[0].strip().splitlines()
    assert [cell.strip() for cell in header.strip("| ").split("|")][::4] == ["name", "tested against"]
    rows = {line.split("`")[1]: line.strip().removesuffix("|").rpartition("|")[2].strip() for line in lines}
    assert rows.keys() == FORMATS.keys()
    against_itself = {"coco": "the other formats, pycocotools' RLE", "sku": "COCO"}
    for name, told in rows.items():
        if name in against_itself:
            assert told == against_itself[name]
        else:
            assert {peer.strip() for peer in told.split(",")} == peers(name), name
            assert f"`{name}` — " in text, "an example"
    readme = (root / "README.md").read_text(encoding="utf-8").partition("**Boxes in photographs**: ")[2]
    named = readme.partition(", recognised by")[0].replace(" or ", ", ").replace("\n", " ").split(", ")
    assert len(named) == len(FORMATS)
    assert all(any(name.startswith(tool.strip()) for name in FORMATS.values()) for tool in named), named


def test_packed_files_and_json_lines(subset, tmp_path):
    data = (subset / "train.json").read_bytes()
    plain = formats.parse(data, tmp_path / "train.json")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("__MACOSX/._train.json", b"\0")
        archive.writestr("export/train.json", data)
        archive.writestr("export/a.jpg", b"\xff\xd8")
    assert formats.parse(gzip.compress(data), tmp_path / "train.json") == plain
    assert formats.parse(packed.getvalue(), tmp_path / "train.json") == plain
    tasks = json.loads(label_studio(subset, tmp_path).read_text())
    lines = "\n".join(json.dumps(task) for task in tasks)
    by_line = formats.parse(lines.encode(), tmp_path / "tasks.jsonl")
    assert by_line == [
        row if isinstance(row, Skipped) else type(row)(**{**fields_of(row), "source": str(tmp_path / "tasks.jsonl")})
        for row in formats.parse((tmp_path / "project-1.json").read_bytes(), tmp_path / "project-1.json")
    ]


def zipped(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, "<x/>")
    return data.getvalue()


def test_tables_with_other_separators():
    rows = ["filename,width,height,class,xmin,ymin,xmax,ymax", "a.jpg,9,9,x,1,2,5,6", "b.jpg,9,9,x,1,2,five,6"]
    expected = formats.parse("\n".join(rows).encode(), "t.csv")
    assert [type(row) for row in expected] == [Object, Skipped]
    for separator in ";\t":
        text = "\ufeff" + "\r\n".join(rows).replace(",", separator)
        assert formats.parse(text.encode(), "t.csv") == expected


def fields_of(row: Object) -> dict:
    return {name: getattr(row, name) for name in Object.__slots__}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04rubbish", "is a zip that cannot be read"),
        (b"\x1f\x8b\x08rubbish", "is a damaged gzip file"),
        (gzip.compress(b"{}", mtime=0)[:-3], "ends early"),
        (b"PAR1....", "is a Parquet file"),
        (b"\x93NUMPY\x01", "is a NumPy array"),
        (b"\x80\x04\x95", "is a Python pickle"),
        (b"\xff\xd8\xff\xe0", "is a JPEG image"),
        (b'{"a": 1}\n{"b": \n', "line 3, column 1: not valid JSON"),
        (b'{"image": "a.jpg", "label": [{"x": 1}]}\n' * 3, r"\(JSON lines, 3 of them with the keys image, label\)"),
        (
            b'{"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 1}\n' * 2,
            "looks like a list of COCO annotations, without photos and names of classes",
        ),
        (b'[{"image": "a.jpg", "label": [{"x": 1, "y": 2}]}]', "a list of 1 with the keys image, label"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS, not the file itself"),
        (
            b"<!DOCTYPE html>\n<html><body>Sign in</body></html>",
            "is an HTML page, not the file itself; download it again",
        ),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "is an Office document, not an annotation file"),
        (zipped("model/data.pkl", "model/data/0"), "is a file of PyTorch, not an annotation file"),
        (zipped("embeddings.npy"), "is an .npz of arrays, not an annotation file"),
        (zipped("a.jpg", "b.jpg"), r"is a zip without a JSON, XML or CSV file \(a.jpg, b.jpg\); unpack it"),
        (b"\x8a\x01\0\0\0\0\0\0\xfe" * 9, "is a binary file of no known kind"),
        (b"image,x1,y1\na.jpg,1,2\n", 'its first line is "image,x1,y1"'),
        (b"<svg></svg>", "XML with the root <svg>"),
        (b"<annotation>", "line 1: not valid XML"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "declares XML entities"),
        (b"<annotations><track id='0'/></annotations>", "tracks of a video"),
        (b"a,b,c\n1,2,3\n", "of no known annotation format"),
    ],
)
def test_a_file_of_another_kind_is_named(data, message):
    with pytest.raises(UserError, match=message) as caught:
        formats.parse(data, "export/annotations.json")
    assert str(caught.value).startswith("export/annotations.json")


def read_text(text: str, name: str, folder: Path = Path("."), **options) -> list:
    return formats.read_file(text.encode(), folder / name, folder, Options(**options), None)[1]


@pytest.mark.parametrize(
    ("name", "text", "line", "reason"),
    [
        ("a.txt", "0 .5 .5 .2 .2\n0 .5 .5 .2\n", "2", "bad row: 4 values"),
        ("a.txt", "0 .5 .5 .2 .2\n\n1.5 .5 .5 .2 .2\n", "3", 'bad class: "1.5"'),
        ("a.txt", "0 .5 .5 .2 .2\n0 .5 nan .2 .2\n", "2", "box not finite"),
        ("a.txt", "0 .5 .5 .2 .2\n0 .5 x .2 .2\n", "2", 'bad row: "x"'),
        ("a.txt", "0 .5 .5 .2 .2\n0 .5 .5 0 .2\n", "2", "empty box"),
        ("a.xml", "<annotation><filename>a.jpg</filename>\n<object><name>x</name></object></annotation>", "2", "no bndbox"),
        (
            "a.xml",
            "<annotation><object>\n<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>",
            "1",
            "no name",
        ),
        ("a.xml", "<annotations><image name='a.jpg'>\n<points label='x' points='1,1'/></image></annotations>", "2", "a points has no box"),  # noqa: E501
        ("a.xml", "<annotations>\n<image id='1'/></annotations>", "2", "no name of the image"),
        ("a.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,9,9,x,1,1,5,five\n", "2", 'bad ymax: "five"'),
        ("a.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,9,9,x,1\n", "2", "bad row: 5 fields, not 8"),
        ("a.csv", "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\na,x,0,1,0,1,1\n", "2", "crowd region"),
        ("a.json", '{"shapes": [{"label": "x", "points": [[1, 2]], "shape_type": "point"}]}', "", "a point has no box"),
        ("a.json", '[{"image": "a.jpg", "annotations": [{"label": "x", "coordinates": {"x": 1}}]}]', "", "no coordinates.y"),
        ("a.json", '{"a": {"filename": "a.jpg", "regions": [{"shape_attributes": {"name": "rect"}, "region_attributes": {}}]}}', "", "no label among region_attributes: {}"),  # noqa: E501
        ("a.json", '[{"data": {"image": "a.jpg"}, "annotations": [{"result": [{"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["a", "b"]}}]}]}]', "", 'several labels: ["a", "b"]'),  # noqa: E501
    ],
)  # fmt: skip
def test_a_malformed_record_is_named_with_file_and_line(name, text, line, reason):
    last = read_text(text, name)[-1]
    assert isinstance(last, Skipped)
    assert (last.reason, last.file, last.line) == (reason, name, line)


def boxes(rows) -> list[tuple]:
    assert all(isinstance(row, Object) for row in rows), rows
    return [(row.box.left, row.box.top, row.box.right, row.box.bottom) for row in rows]


def test_turned_boxes_give_their_enclosing_box():
    """A box of 40 x 20 turned by 90 degrees around its centre (50, 50) covers 20 x 40; around its corner, it lies left of it."""
    cvat = "<annotations><image name='a.jpg' width='100' height='100'><box label='x' xtl='30' ytl='40' xbr='70' ybr='60' rotation='90'/></image></annotations>"  # noqa: E501
    np.testing.assert_allclose(boxes(read_text(cvat, "a.xml")), [(40, 30, 60, 70)])
    turned = {"x": 50, "y": 50, "width": 40, "height": 20, "rotation": 90, "rectanglelabels": ["x"]}
    task = {"image": "a.jpg", "label": [{**turned, "original_width": 200, "original_height": 100}]}
    np.testing.assert_allclose(boxes(read_text(json.dumps([task]), "a.json")), [(80, 50, 100, 130)], atol=1e-9)
    quad = "0 .5 .3 .6 .5 .5 .7 .4 .5"
    np.testing.assert_allclose(boxes(read_text(quad, "a.txt")), [(0.4, 0.3, 0.6, 0.7)])
    ellipse = "<annotations><image name='a.jpg'><ellipse label='x' cx='50' cy='40' rx='30' ry='10' rotation='90'/></image></annotations>"  # noqa: E501
    np.testing.assert_allclose(boxes(read_text(ellipse, "a.xml")), [(40, 10, 60, 70)])
    circle = {"shapes": [{"label": "x", "points": [[50, 50], [53, 54]], "shape_type": "circle"}]}
    np.testing.assert_allclose(boxes(read_text(json.dumps(circle), "a.json")), [(45, 45, 55, 55)])


def test_yolo_layouts_splits_and_classes(tmp_path):
    for split, folder in (("train", "train/labels"), ("val", "valid/labels")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{split}_1.rf.0a.txt").write_text("1 .5 .5 .2 .4 .9\n7 .5 .5 .1 .1\n")
    (tmp_path / "README.dataset.txt").write_text("made by hand\n")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: {0: ace, 1: king}\n")
    for argument in (tmp_path, tmp_path / "data.yaml"):
        ((source,), passed) = formats.read(argument, Options())
        good, bad = source.items[:2]
        assert (good.image, good.split, good.classes) == ("train/images/train_1.rf.0a", "train", ("king",))
        assert bad.reason == "unknown class: 7 has no name"
        assert source.items[2].split == "val"
        assert passed == []
    ((source,), _) = formats.read(tmp_path / "valid/labels", Options())
    assert (source.items[0].image, source.items[0].split, source.items[0].classes) == (
        "val_1.rf.0a",
        "valid",
        ("king",),
    )
    (tmp_path / "data.yaml").write_text("names: [ace, king]\nkpt_shape: [2, 3]\n")
    (tmp_path / "train/labels/train_1.rf.0a.txt").write_text("0 .5 .5 .2 .4 .1 .1 2 .2 .2 2\n")
    ((source,), _) = formats.read(tmp_path, Options())
    np.testing.assert_allclose(boxes(source.items[:1]), [(0.4, 0.3, 0.6, 0.7)])


def test_a_folder_of_two_formats_asks_which(subset, tmp_path, capsys):
    createml(subset, tmp_path)
    tensorflow_csv(subset, tmp_path)
    (tmp_path / "package.json").write_text('{"name": "x"}')
    assert run(subset, tmp_path, tmp_path / "out") == 1
    assert "several formats: CreateML (createml, 1 file), CSV of boxes (tensorflow, 1 file)" in capsys.readouterr().err
    assert run(subset, tmp_path, tmp_path / "out", "--annotation_format", "createml") == 0
    assert "2 files not of the format createml passed over" in capsys.readouterr().err


def test_a_file_named_twice_is_an_error(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}))
    with pytest.raises(UserError, match=r"a\.json is named twice; name it once"):
        formats.read_all([file, tmp_path / "b" / ".." / "a.json"], Options(), None)


def test_image_sets_give_the_splits_of_pascal_voc(tmp_path, capsys):
    box = "<object><name>x</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    for year, stems in (("VOC2007", "abcdef"), ("VOC2012", "a")):
        root = tmp_path / "VOCdevkit" / year
        (root / "Annotations").mkdir(parents=True)
        (root / "ImageSets" / "Main").mkdir(parents=True)
        for stem in stems:
            text = f"<annotation><filename>{stem}.jpg</filename>{box}</annotation>"
            (root / "Annotations" / f"{stem}.xml").write_text(text)
    lists = tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c  \nb\n")
    (lists / "test.txt").write_text("JPEGImages/d.jpg\r\n\n")
    (lists / "trainval.txt").write_text("a\nb\nc\ne\n")
    (lists / "x_train.txt").write_text("f 1\n")  # photos with and without the class x
    (tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    ((source,), _) = formats.read(tmp_path / "VOCdevkit", Options())
    splits = {(item.source.split("/")[-3], item.sample_id[-1]): item.split for item in source.items}
    by_list = dict(zip("abcdef", ("train", "train", "val", "test", "train", "all"), strict=True))
    assert splits == {**{("VOC2007", stem): split for stem, split in by_list.items()}, ("VOC2012", "a"): "test"}
    assert {item.sample_id for item in source.items} == {*(f"VOC2007/{stem}" for stem in "abcdef"), "VOC2012/a"}
    said = capsys.readouterr().err
    assert "lists 1 photo in two splits, such as b, which is taken as train; repair the lists" in said
    one = tmp_path / "VOCdevkit" / "VOC2007" / "Annotations" / "d.xml"
    assert formats.read(one, Options())[0][0].items[0].split == "test"
    assert formats.read(one, Options(split="mine"))[0][0].items[0].split == "test"  # a record's own comes first


VIA3 = {
    "attribute": {"1": {"aname": "kind", "options": {"0": "cat", "1": "dog"}}, "2": {"aname": "note", "options": {}}},
    "file": {"1": {"fid": "1", "fname": "a.jpg", "type": 2}, "2": {"fid": "2", "fname": "b.mp4", "type": 4}},
    "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}, "3": {"fid_list": ["1", "2"]}},
}


def test_regions_of_via_3():
    """Each shape by its number: of [3, 20, 20, 5] the box is 15..25, of an ellipse centre -+ radii, of points their hull's."""
    regions = {
        "a": ("1", [2, 10, 20, 30, 40], {"1": "0"}),
        "b": ("1", [3, 20, 20, 5], {"1": "1"}),
        "c": ("1", [4, 20, 30, 5, 10], {"1": "1"}),
        "d": ("1", [7, 1, 2, 9, 2, 9, 8], {"1": "0", "2": ""}),
        "e": ("1", [8, 5, 1, 9, 5, 5, 9, 1, 5], {"2": "free text"}),
        "f": ("1", [1, 5, 5], {"1": "0"}),
        "g": ("1", [2, 10, 20, 30, 40], {"1": "0,1"}),
        "h": ("1", [], {"1": "0"}),
        "i": ("2", [2, 1, 2, 3, 4], {"1": "0"}),
        "j": ("3", [2, 1, 2, 3, 4], {"1": "0"}),
        "k": ("9", [2, 1, 2, 3, 4], {"1": "0"}),
        "l": ("1", [2, 1, 2, 3, 4], {"1": "0", "2": "x"}),
    }
    metadata = {key: {"vid": vid, "z": [], "xy": xy, "av": av} for key, (vid, xy, av) in regions.items()}
    found = formats.parse(json.dumps({**VIA3, "metadata": metadata}).encode(), "via.json", outlines=True)
    assert boxes(found[:5]) == [(10, 20, 40, 60), (15, 15, 25, 25), (15, 20, 25, 40), (1, 2, 9, 8), (1, 1, 9, 9)]
    assert [item.classes[0] for item in found[:5]] == ["cat", "dog", "dog", "cat", "free text"]
    assert found[3].outline.polygons[0].tolist() == [1, 2, 9, 2, 9, 8]
    assert [item.reason for item in found[5:]] == [
        "a point of 2 numbers has no box",
        'several labels: {"cat": true, "dog": true}',
        "no region",
        "file 2 is no image",
        "view 3 is not one file",
        "view 9 is not one file",
        'no label among av: {"kind": "cat", "note": "x"}',
    ]


def test_open_images_flags_that_nobody_has_set_are_not_set():
    text = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\na,x,0,1,0,1,-1\na,x,0,1,0,1,1\n"
    found = read_text(text, "a.csv")
    assert [type(item) for item in found] == [Object, Skipped]
    assert found[1].reason == "crowd region"


def test_a_rectangle_of_labelme_has_two_or_four_corners():
    shapes = [[[50, 50], [10, 20]], [[10, 20], [50, 20], [50, 50], [10, 50]], [[1, 2], [3, 4], [5, 6]]]
    content = {"shapes": [{"label": "x", "shape_type": "rectangle", "points": points} for points in shapes]}
    found = read_text(json.dumps(content), "a.json")
    assert boxes(found[:2]) == [(10, 20, 50, 50)] * 2
    assert found[2].reason == "bad points: [[1, 2], [3, 4], [5, 6]]"


def test_yolo_without_names_says_so(tmp_path, capsys):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("3 .5 .5 .2 .2\n")
    assert formats.read(tmp_path, Options())[0][0].items[0].classes == ("3",)
    assert (
        "no data.yaml and no classes.txt with the classes' names; their numbers are the labels"
        in capsys.readouterr().err
    )


def test_a_photo_that_was_renamed_with_its_xml_is_found(subset, expected, tmp_path, capsys):
    """`filename` is what the photo was called when it was annotated; LabelImg leaves it so."""
    written = by_globox("save_pascal_voc", "Annotations")(subset, tmp_path)
    changed = sorted(written.glob("*.xml"))[0]
    changed.write_text(changed.read_text().replace(f"<filename>{changed.stem}", "<filename>before"))
    assert run(subset, written, tmp_path / "crops") == 0
    assert "1 by the names of their annotation files" in capsys.readouterr().out
    assert len(crops(tmp_path / "crops")) == len(expected)


@pytest.mark.parametrize(
    ("objects", "reasons"),
    [
        ({"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]], "category": [0, 1]}, []),
        ({"bboxes": [[1, 2, 3, 4]], "labels": ["a"], "area": []}, []),
        ([{"bbox": [1, 2, 3, 4], "label": "a"}, {"bbox": [1, 2, 3], "label": "a"}], ["bad bbox: [1, 2, 3]"]),
        ({"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]], "category": [0]}, ['objects of unlike length: {"bbox": 2, "category": 1}']),
        ({"bbox": [[1, 2, 3, 4]], "category": "a"}, ['objects of unlike length: {"bbox": 1}']),
        ({"bbox": [[1, 2, 3, 4]]}, ["no categories"]),
        ({"mask": []}, ['bad objects: {"mask": []}']),
        (None, ["no objects"]),
        ({"bbox": [], "category": []}, []),
    ],
)  # fmt: skip
def test_objects_of_an_imagefolder(objects, reasons):
    """Each entry becomes a record or a reason with its line; columns of unlike length tell not whose label is whose."""
    lines = [
        {"file_name": "train/a.jpg", "objects": objects},
        {"file_name": "b.jpg", "objects": {"bbox": [], "category": []}},
    ]
    found = formats.parse("\n".join(map(json.dumps, lines)).encode(), "metadata.jsonl")
    skipped = [item for item in found if isinstance(item, Skipped)]
    assert [item.reason for item in skipped] == reasons
    assert {(item.sample_id, item.line) for item in skipped} <= {("train/a", "1")}
    assert {item.split for item in found if isinstance(item, Object)} <= {"train"}


BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
MADE = {"type": "bbox", "label_id": 0, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("name", "content", "reasons"),
    [
        (
            "tasks.json",
            [{"id": 1, "data": {"image": "a.jpg"}, "annotations": [], "predictions": [{"result": [{"value": {}}]}]}],
            ["only predictions of a model, no annotation"],
        ),
        ("tasks.json", [{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": []}], "predictions": []}], []),
        (
            "a.xml",
            f"<annotation><object><name>x</name>{BOX}{BOX}</object></annotation>",
            ["several bndbox in one object"],
        ),
        (
            "a.json",
            {
                "categories": {"label": {"labels": [{"name": "x"}]}},
                "items": [
                    {
                        "id": "a",
                        "annotations": [{**MADE, "attributes": {"is_crowd": flag}} for flag in (True, "1", False)],
                    }
                ],
            },
            ["crowd region", "crowd region"],
        ),
    ],
)
def test_what_is_no_object_is_counted(name, content, reasons):
    data = content if isinstance(content, str) else json.dumps(content)
    found = formats.parse(data.encode(), name)
    assert [item.reason for item in found if isinstance(item, Skipped)] == reasons


@pytest.mark.parametrize("key", ["file_name", "coco_url"])
def test_an_address_with_a_query_is_called_as_its_file(tmp_path, key):
    """LVIS names its photos by coco_url only; a signed address is too long for the name of a crop."""
    cv2.imwrite(str(tmp_path / "a b.png"), np.zeros((40, 40, 3), np.uint8))
    address = "https://store.example/train2017/a%20b.png?" + "&".join(f"key{i}=0123456789abcdef" for i in range(20))
    item = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20]}
    coco = {"images": [{"id": 1, key: address}], "annotations": [item], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "a.json").write_text(json.dumps(coco))
    assert run(tmp_path, tmp_path / "a.json", tmp_path / "out", "--image_folder", str(tmp_path)) == 0
    assert (tmp_path / "out" / "train" / "x" / "a b_7.png").is_file()


@pytest.mark.parametrize(("turned", "read"), [(0, True), (360, True), (None, True), (90, False), ("-90", False)])
def test_regions_of_a_photo_that_was_turned_in_label_studio_are_skipped(turned, read):
    value, about = region(("king", 10, 20, 30, 40), 100, 100, image_rotation=turned, type="rectanglelabels")
    tasks = [{"data": {"image": "a.jpg"}, "annotations": [{"result": [{**about, "value": value}]}]}]
    (only,) = formats.parse(json.dumps(tasks).encode(), "a.json")
    assert isinstance(only, Object) == read
    assert read or only.reason.startswith(f"image_rotation {int(turned) % 360}: drawn on the turned photo")


def test_a_folder_without_annotations_names_what_it_holds(tmp_path):
    for name, content in (("samples.json", '{"samplings": []}'), ("metadata.json", '{"name": "x"}')):
        (tmp_path / name).write_text(content)
    with pytest.raises(
        UserError,
        match=rf"holds no annotation file of a known format \({tmp_path}/metadata.json, {tmp_path}/samples.json\)",
    ):
        formats.read(tmp_path, Options())
    (tmp_path / "metadata.json").unlink()
    with pytest.raises(UserError, match=r"samples.json is of no known annotation format .its keys are samplings"):
        formats.read(tmp_path, Options())
    (tmp_path / "a.yaml").write_text("images: []")
    with pytest.raises(UserError, match=r"a.yaml is YAML, as YOLO's settings are, but no label file"):
        formats.read(tmp_path / "a.yaml", Options())


@pytest.mark.parametrize(
    ("name", "content", "tool"),
    [
        ("a.json", [{"name": "a.jpg", "labels": [{"category": "x", "box2d": {"x1": 1}}]}], "BDD100K or Scalabel JSON"),
        ("a.json", {"size": {"width": 9, "height": 9}, "objects": []}, "Supervisely JSON"),
        ("a.ndjson", {"data_row": {"id": "x"}, "projects": {}}, "Labelbox JSON"),
        ("a.json", {"version": "2.0", "item": {"name": "a.jpg"}, "annotations": [{"name": "x"}]}, "V7 Darwin JSON"),
        ("a.json", {"metadata": {"name": "a.jpg"}, "instances": []}, "SuperAnnotate JSON"),
        ("a.json", {"images": [{"image_name": "a.jpg", "labels": []}], "label_classes": []}, "Hasty JSON"),
        ("a.json", [{"image_id": 1, "objects": [{"x": 1, "names": ["a"]}]}], "Visual Genome JSON"),
        ("a.json", [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "a list of detections"),
        ("a.txt", "Pedestrian 0.00 0 -0.20 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 8.41 0.01", "KITTI"),
        ("a.txt", "imagesource:GoogleEarth\ngsd:0.1\n1 2 3 2 3 4 1 4 plane 0", "DOTA"),
        ("a.txt", "1,2,100,50,80,60,1,1,0.9", "MOT Challenge"),
        ("a.txt", "shop/a.jpg 100,50,180,110,0 1,2,3,4,1", "YOLO for Keras"),
        ("a.txt", "Apple 12.5 33 55 66.25", "OIDv4"),
        ("a.csv", "TRAIN,gs://b/a.jpg,x,0.1,0.1,,,0.2,0.2,,", "AutoML"),
    ],
)
def test_a_format_of_another_tool_is_named(tmp_path, name, content, tool):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=rf"{name} looks like .*{tool}.*export it as COCO JSON"):
        formats.read(path, Options())
    (tmp_path / "other.json").write_text("{}")
    if path.suffix not in (".txt", ".ndjson"):
        with pytest.raises(UserError, match=tool):
            formats.read(tmp_path, Options())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image,xmin,ymin,xmax,ymax,label\na.jpg,1,2,4,6,x\n", "from the column image, labels from label"),
        ("Image_ID;class_name;class_id;X_Min;Y_Min;X_Max;Y_Max\na.jpg;x;1;1;2;4;6\n", "labels from classname"),
        ("path\tcategory\tleft\ttop\tright\tbottom\twidth\theight\na.jpg\tx\t1\t2\t4\t6\t640\t480\n", "left, top, right, bottom"),
        ("filename,x,y,w,h,width,height,class\na.jpg,1,2,3,4,640,480,x\n", "boxes from x, y, w, h"),
        ("filename,x,y,width,height,image_width,image_height,class\na.jpg,1,2,3,4,640,480,x\n", "boxes from x, y, width, height"),
        ("filename,x_center,y_center,width,height,class\na.jpg,2.5,4,3,4,x\n", "xcenter"),
        ("filename,class,xmin,ymin,xmax,ymax\na.jpg,x,1,2,4,6\n", ""),
        ("a.jpg,1,2,4,6,x\n", "no header; its columns are taken as filename, xmin, ymin, xmax, ymax, class"),
        ("x,1,2,3,4,a.jpg,640,480\n", "no header; its columns are taken as class, x, y, w, h, filename"),
    ],
)  # fmt: skip
def test_tables_of_boxes_with_other_columns(text, told, capsys):
    """Width and height are the box's only where its place is called x and y, or left and top, and no corner is there."""
    (row,) = read_text(text, "boxes.csv")
    assert isinstance(row, Object)
    assert (row.image, row.classes, boxes([row])) == ("a.jpg", ("x",), [(1, 2, 4, 6)])
    assert row.declared == ((640, 480) if "640" in text else None)
    err = capsys.readouterr().err
    assert told in err if told else err == ""


def test_rows_of_a_table_without_header_count_from_its_first_line():
    rows = read_text("a.jpg,1,2,4,6,x\nb.jpg,1,2,4,x\nb.jpg,1,2,four,6,x\n", "boxes.csv")
    assert [(row.line, row.reason) for row in rows if isinstance(row, Skipped)] == [
        ("3", 'bad xmax: "four"'),
        ("2", "bad row: 5 fields, not 6"),
    ]


def test_a_table_without_header_may_begin_with_photos_without_objects(capsys):
    rows = read_text("a.jpg,,,,,\nb.jpg,,,,,\nb.jpg,1,2,4,6,x\n", "boxes.csv")
    assert [(row.line, row.reason) for row in rows[:2]] == [("1", "no box"), ("2", "no box")]
    assert boxes(rows[2:]) == [(1, 2, 4, 6)]
    assert "has no header; its columns are taken as filename, xmin, ymin, xmax, ymax, class" in capsys.readouterr().err


def tasks(data: dict, *regions: dict, more: list | None = None) -> list:
    size = {"type": "rectanglelabels", "original_width": 200, "original_height": 100}
    place = {"x": 10, "y": 20, "width": 5, "height": 8, "rectanglelabels": ["king"]}
    found = [{**size, "value": {**place, **region.pop("value", {})}, **region} for region in regions]
    return [{"data": data, "annotations": [{"result": found}, *(more or [])]}]


def read_label_studio(content: list) -> list:
    return read_text(json.dumps(content), "tasks.json")


def test_regions_of_label_studio_belong_to_the_photo_that_they_are_on():
    pages = tasks({"pages": ["p/1.jpg", "p/2.jpg"]}, {"item_index": 1}, {"item_index": 0}, {}, {"item_index": 2})
    rows = read_label_studio(pages)
    assert [row.image for row in rows[:2]] == ["p/2.jpg", "p/1.jpg"]
    assert [row.reason for row in rows[2:]] == ["of several photos of its task, which one is not known"] * 2
    fields = {"front": "f.jpg", "back": "b.jpg"}
    rows = read_label_studio(tasks(fields, {"to_name": "back"}, {"to_name": "front"}, {"to_name": "img"}))
    assert [getattr(row, "image", None) for row in rows] == ["b.jpg", "f.jpg", None]
    rows = read_label_studio(tasks({"image": "a.jpg"}, {"to_name": "img"}, {"to_name": "other"}))
    assert [row.image for row in rows] == ["a.jpg", "a.jpg"]
    tagged = {"image": "a.jpg", "tags": ["fresh", "new"]}  # a list of texts that are no addresses
    assert [row.image for row in read_label_studio(tasks(tagged, {"item_index": 0}))] == ["a.jpg"]


def test_regions_drawn_upwards_and_of_videos():
    rows = read_label_studio(
        tasks(
            {"image": "a.jpg"},
            {"value": {"y": 28, "height": -8}},
            {"value": {"x": 15, "width": -5}},
            {"type": "videorectangle", "value": {"width": 0, "height": 1}},
        )
    )
    assert boxes(rows[:2]) == [(10, 20, 15, 28)] * 2
    video = [{"data": {"video": "v.mp4"}, "annotations": [{"result": [
        {"type": "videorectangle", "value": {"sequence": [{"frame": 1}], "labels": ["king"]}}]}]}]  # fmt: skip
    assert [row.reason for row in read_label_studio(video)] == ["a videorectangle has no box"]


def test_tasks_that_several_people_annotated_are_told(capsys):
    again = {"result": tasks({}, {})[0]["annotations"][0]["result"]}
    read_label_studio(tasks({"image": "a.jpg"}, {}, more=[{**again, "was_cancelled": True}]))
    assert capsys.readouterr().err == ""
    assert len(read_label_studio(tasks({"image": "a.jpg"}, {}, more=[again]))) == 2
    assert "1 task annotated more than once; all annotations are taken" in capsys.readouterr().err


def voc(filename: str, box=(1, 2, 4, 6), **more: str) -> str:
    edges = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    others = "".join(f"<{key}>{value}</{key}>" for key, value in more.items())
    named = f"<filename>{filename}</filename>" if filename else ""
    return f"<annotation>{named}<object><name>König</name>{others}<bndbox>{edges}</bndbox></object></annotation>"


@pytest.mark.parametrize("encoding", ["gbk", "latin-1", "windows-1252", "utf-16", "utf-8"])
def test_xml_in_the_encoding_that_it_declares(encoding):
    name = "红" if encoding == "gbk" else "König"
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + voc("a.jpg").replace("König", name)
    (row,) = formats.parse(text.encode(encoding), "a.xml")
    assert (row.classes, boxes([row])) == ((name,), [(1, 2, 4, 6)])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (voc("a.jpg").encode("latin-1"), "byte 0xf6 is not UTF-8"),
        (voc("a.jpg").replace("König", "salt & vinegar").encode(), "written &amp;"),
        (b'<?xml version="1.0" encoding="no-such"?><annotation/>', "unknown encoding"),
        (b"<dataset><images/></dataset>", "dlib"),
    ],
)
def test_xml_that_cannot_be_read_says_why(data, told):
    with pytest.raises(UserError, match=told):
        formats.parse(data, "a.xml")


def test_several_photos_in_one_voc_file_and_deleted_objects():
    rows = formats.parse(f"<annotations>{voc('a.jpg')}{voc('b.jpg', deleted='1')}</annotations>".encode(), "all.xml")
    assert (rows[0].image, boxes(rows[:1])) == ("a.jpg", [(1, 2, 4, 6)])
    assert (rows[1].sample_id, rows[1].reason) == ("b", "deleted object")


@pytest.mark.parametrize("name", ["voc", "labelme"])
def test_a_file_that_names_another_photo_than_its_own_is_no_guess(tmp_path, name):
    """a.* is sound; b.* is a copy that still names a's photo, beside which its own lies; c.* was renamed with its photo."""
    (tmp_path / "data").mkdir()
    for stem, named in (("a", "a.png"), ("b", "a.png"), ("c", "before.png")):
        cv2.imwrite(str(tmp_path / "data" / f"{stem}.png"), np.full((20, 30, 3), ord(stem), np.uint8))
        shape = {"label": "x", "shape_type": "rectangle", "points": [[1, 2], [4, 6]]}
        text = voc(named) if name == "voc" else json.dumps({"imagePath": named, "shapes": [shape]})
        (tmp_path / "data" / f"{stem}{'.xml' if name == 'voc' else '.json'}").write_text(text)
    options = ["--output_root", tmp_path / "out", "--image_format", "png", "--post_padding_method", "none"]
    assert crop.main(list(map(str, ["--json_path", tmp_path / "data", *options]))) == 0
    greys = {path.name: int(cv2.imread(str(path))[0, 0, 0]) for path in (tmp_path / "out").rglob("*.png")}
    assert greys == {"a_1.png": ord("a"), "before_1.png": ord("c")}
    with open(tmp_path / "out" / "skipped.csv", newline="") as file:
        (skip,) = csv.DictReader(file)
    assert skip["reason"] == "image ambiguous: a.png, as its annotation file says, and b.png, as that file is called"


def yolo_folder(root: Path, rows: str, names: str = "names: [a, b, c]\n") -> Path:
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "p.txt").write_text(rows)
    if names:
        (root / "data.yaml").write_text(names)
    return root


def test_yolo_classes_by_their_names(tmp_path):
    ((source,), _) = formats.read(yolo_folder(tmp_path, "b .5 .5 .2 .2\n2 .5 .5 .2 .2\nz .5 .5 .2 .2\n"), Options())
    assert [getattr(row, "classes", None) for row in source.items] == [("b",), ("c",), None]


def test_yolo_classes_numbered_from_one_are_an_error(tmp_path):
    rows = "".join(f"{number} .5 .5 .2 .2\n" for number in (1, 2, 3))
    with pytest.raises(UserError, match="number classes from 1 to 3, names count from 0 to 2"):
        formats.read(yolo_folder(tmp_path, rows), Options())
    for sound in ("0 .5 .5 .2 .2\n3 .5 .5 .2 .2\n", "1 .5 .5 .2 .2\n2 .5 .5 .2 .2\n"):
        (tmp_path / "labels" / "train" / "p.txt").write_text(sound)
        assert formats.read(tmp_path, Options())
    (tmp_path / "labels" / "train" / "p.txt").write_text(rows)
    (tmp_path / "data.yaml").write_text("names: [__background__, a, b]\n")  # never used: 3 is a mistake of its own
    ((source,), _) = formats.read(tmp_path, Options())
    assert [getattr(row, "classes", row) for row in source.items[:2]] == [("a",), ("b",)]
    assert source.items[2].reason == "unknown class: 3 has no name"


def test_lists_of_classes_that_contradict_are_an_error(tmp_path):
    folder = yolo_folder(tmp_path, "0 .5 .5 .2 .2\n", "")
    (folder / "classes.txt").write_text("a\nb\n")
    (folder / "labels" / "train" / "classes.txt").write_text("a\nb\nc\n")
    assert formats.read(folder, Options())[0][0].items[0].classes == ("a",)
    (folder / "labels" / "train" / "classes.txt").write_text("A\nb\n")
    assert formats.read(folder, Options())[0][0].items[0].classes == ("a",)
    (folder / "labels" / "train" / "classes.txt").write_text("b\na\n")
    with pytest.raises(UserError, match=r"class 0 is 'a' in one list of names and 'b' in .*classes.txt"):
        formats.read(folder, Options())


def test_objects_given_twice_and_files_without_splits_are_told(tmp_path, capsys):
    item = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "x"}]}
    paths = [tmp_path / f"fold_{number}.json" for number in (0, 1)]
    paths[0].write_text(json.dumps({**content, "annotations": [item, {**item, "bbox": [1, 2, 3, 5]}]}))
    paths[1].write_text(json.dumps({**content, "annotations": [item, item]}))
    formats.read_all(paths, Options(), None)
    told = capsys.readouterr().err
    assert "fold_1.json: 1 object repeats photo, label and box of another one (object row2 of a)" in told
    assert "fold_0.json:" not in told
    assert "2 files, and no name says a split: all are of split all" in told


def test_a_zip_with_photos_says_that_they_are_not_looked_for(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("annotations.xml", "<annotations><image name='a.jpg'/></annotations>")
        archive.writestr("images/a.jpg", b"x")
    formats.read(tmp_path / "export.zip", Options())
    assert "holds 1 photo, too; photos are not looked for inside a zip: unpack it" in capsys.readouterr().err


def boxes_of(text: str, name: str = "train.csv") -> list[tuple]:
    found = formats.parse(text.encode(), name)
    return [(item.image, *item.classes, *astuple(item.box)[:4]) if isinstance(item, Object) else item for item in found]


def test_a_table_as_excel_saves_it():
    """A line for itself, a mark of UTF-8, decimal commas beside semicolons, and rows without content."""
    text = "\ufeffsep=;\r\nfilename;class;xmin;ymin;xmax;ymax\r\na.jpg;1,5 l;10,5;20;40,25;60\r\n;;;;;\r\n;;;;;\r\n"
    assert boxes_of(text) == [("a.jpg", "1,5 l", 10.5, 20, 40.25, 60)]


def test_a_decimal_comma_beside_commas_is_a_bad_number():
    (item,) = boxes_of('filename,class,xmin,ymin,xmax,ymax\na.jpg,b,10,20,30,"1,200"\n')
    assert (item.reason, item.line) == ('bad ymax: "1,200"', "2")


def test_sku110k_has_no_header(capsys):
    text = "train_0.jpg,208,537,422,814,object,3024,3024\ntrain_0.jpg,1268,1923,1365,2209,object,3024,3024\n"
    assert boxes_of(text, "annotations_train.csv")[1] == ("train_0.jpg", "object", 1268, 1923, 1365, 2209)
    assert formats.parse(text.encode(), "annotations_train.csv")[0].declared == (3024, 3024)
    assert "has no header; its columns are taken as filename, xmin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cell", "box"),
    [
        ('"[10.0, 20, 30, 40]"', (10, 20, 40, 60)),
        ("10 20 30 40", (10, 20, 40, 60)),
        ('"(10,20,30,40)"', (10, 20, 40, 60)),
    ],
)
def test_a_column_of_boxes_in_any_writing(cell, box):
    assert boxes_of(f"image_id,class,bbox\na,b,{cell}\n") == [("a", "b", *box)]


@pytest.mark.parametrize(
    "header",
    [
        "file,label,xmin,ymin,width,height",
        "file,label,bbox_x,bbox_y,bbox_width,bbox_height",
        "file,label,x_min,y_min,box_w,box_h",
        "file,label,BBox_left,BBox_top,BBox_width,BBox_height",
    ],
)
def test_columns_of_a_box_by_its_upper_left_corner(header):
    assert boxes_of(f"{header}\na.jpg,b,10,20,30,40\n") == [("a.jpg", "b", 10, 20, 40, 60)]


def test_width_beside_bbox_width_is_the_photos():
    text = "file,label,width,height,bbox_x,bbox_y,bbox_width,bbox_height\na.jpg,b,640,480,10,20,30,40\n"
    assert boxes_of(text) == [("a.jpg", "b", 10, 20, 40, 60)]
    assert formats.parse(text.encode(), "x.csv")[0].declared == (640, 480)


def test_boxes_without_a_column_of_labels_are_told():
    with pytest.raises(UserError, match=r"has photos and boxes but no column of labels .*; add one called class"):
        boxes_of('image_id,width,height,bbox,source\na,100,80,"[10, 20, 30, 40]",farm\n')


@pytest.mark.parametrize("names", ["[no, 007, 1.0]", "{0: no, 1: 007, 2: 1.0}"])
def test_names_in_yaml_are_text_as_it_stands_there(tmp_path, names):
    (tmp_path / "labels").mkdir()
    (tmp_path / "data.yaml").write_text(f"names: {names}\nkpt_shape: [1, 2]\n")
    rows = "\n".join(f"{number} 0.5 0.5 0.2 0.2 0.4 0.4" for number in range(3))
    (tmp_path / "labels" / "a.txt").write_text(rows)
    ((source,), _) = formats.read(tmp_path, Options())
    assert [item.classes for item in source.items] == [("no",), ("007",), ("1.0",)]


def test_a_photo_as_text_is_told_in_few_words():
    task = {
        "data": {"image": "data:image/png;base64," + "A" * 100_000},
        "annotations": [
            {
                "result": [
                    {
                        "type": "rectanglelabels",
                        "value": {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["a"]},
                    }
                ]
            }
        ],
    }
    (item,) = formats.parse(json.dumps([task]).encode(), "x.json")
    with pytest.raises(
        ImageError, match=r"^image inside the annotation file \(data:image/png;base64\), .*; save it as a file$"
    ):
        ImageFolder(Path(".")).find(item.image)
    assert item.sample_id == "data:image/png;base64"


@pytest.mark.parametrize("name", ["./a.jpg", ".\\a.jpg", "././a.jpg"])
def test_a_name_that_begins_with_a_dot_and_slash_gives_no_hidden_crop(name):
    assert sample_of(name) == "a"
    assert sample_of(".hidden/a.jpg") == ".hidden/a"


def test_a_polygon_of_cvat_may_end_in_a_semicolon():
    text = '<annotations><image name="a.jpg"><polygon label="b" points="1,2;9,2;9,8;"/></image></annotations>'
    assert boxes_of(text, "a.xml") == [("a.jpg", "b", 1, 2, 9, 8)]
