"""The whole chain on real photographs: against an independent implementation, through class folders, and to every end."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

import crop
import evaluate_combo
import extract_embedding
import greedy_combo_eval
import npz_to_parquet
from common import embeddings


def run(main, *argv) -> None:
    assert main([str(word) for word in argv]) == 0


def independent_embeddings(images, split: str, padding: float):
    """The same study in plain OpenCV, timm and numpy, sharing nothing with the project but the weights."""
    import cv2
    import timm
    import torch

    from backbones import models

    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(models.build("tf_efficientnet_lite0").module.state_dict(), strict=False)
    model.reset_classifier(0)
    content = json.loads((images.parent / f"{split}.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    classes = {category["id"]: category["name"] for category in content["categories"]}
    batch, labels = [], []
    for box in content["annotations"]:
        picture = cv2.imread(str(images / names[box["image_id"]]), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        x, y, w, h = box["bbox"]
        left, right = round(x - w * padding / 100), round(x + w + w * padding / 100)
        top, bottom = round(y - h * padding / 100), round(y + h + h * padding / 100)
        cut = picture[max(0, top) : bottom, max(0, left) : right]
        shrinks = cut.shape[0] * cut.shape[1] > 224 * 224
        small = cv2.resize(cut, (224, 224), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]  # as a crops folder holds it
        batch.append(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
        labels.append(classes[box["category_id"]])
    pixels = torch.from_numpy(np.stack(batch)[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        vectors = torch.cat([model((part - 0.5) / 0.5) for part in pixels.split(32)])
    return vectors.numpy(), np.array(labels)


@pytest.fixture(scope="module")
def cards(study_data, tmp_path_factory):
    """Cards at padding 10, by the scripts alone."""
    folder = tmp_path_factory.mktemp("cards")
    data = study_data / "cards"
    jsons = [data / f"{split}.json" for split in ("train", "test")]
    crops = ["--output_root", folder / "crops", "--padding_percent", 10]
    run(crop.main, "--json_path", *jsons, "--image_folder", data / "images", *crops)
    run(
        extract_embedding.main,
        "--data_root",
        folder / "crops",
        "--company_name",
        "cards",
        "--model",
        "lite0",
        "--output_root",
        folder / "embeddings",
    )
    return folder


def test_accuracy_is_within_two_points_of_an_independent_implementation(study_data, cards, capsys):
    capsys.readouterr()
    run(evaluate_combo.main, "--train_npz", cards / "embeddings", "--test_npz", cards / "embeddings")
    ours = float(capsys.readouterr().out.split("=> acc: ")[1].split()[0])
    images = study_data / "cards" / "images"
    train, train_labels = independent_embeddings(images, "train", 10)
    test, test_labels = independent_embeddings(images, "test", 10)
    knn = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(train, train_labels)
    theirs = (knn.predict(test) == test_labels).mean()
    assert abs(ours - theirs) <= 0.02, (ours, theirs)


def test_every_end_of_the_chain_holds_every_crop(cards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    both = ["--train_npz", cards / "embeddings", "--test_npz", cards / "embeddings"]
    run(evaluate_combo.main, *both, "--predictions", "p.csv")
    run(greedy_combo_eval.main, *both, "--combination_size", "1", "--flips", "f.csv", "--report", "r.html")
    run(
        npz_to_parquet.main,
        "--root",
        cards / "embeddings",
        "--out",
        "all.parquet",
        "--predictions",
        "p.csv",
        "--flips",
        "f.csv",
    )
    manifest = pd.read_csv(cards / "crops" / "crops.csv")
    frame = pd.read_parquet("all.parquet")
    assert sorted(frame["crop_id"]) == sorted(manifest["crop_id"])
    joined = frame.merge(manifest, on="crop_id", suffixes=("", "_crop"))
    assert (joined["class_0"] == joined["class_0_crop"]).all()
    test = frame[frame["split"] == "test"]
    predictions = pd.read_csv("p.csv")
    assert test["correct"].mean() == pytest.approx(predictions["correct"].mean())
    assert frame["predicted"].notna().sum() == len(predictions) == len(test)
    assert test["flip"].isin(["stays right", "stays wrong"]).all()


def test_class_folders_keep_their_levels_to_the_parquet(study_data, tmp_path, monkeypatch):
    """Two classes of grocery, one of three levels and one of two."""
    monkeypatch.chdir(tmp_path)
    grocery = study_data / "grocery"
    argv = [
        "--data_root",
        grocery,
        "--folders",
        "Fruit/Apple/Royal-Gala",
        "Fruit/Kiwi",
        "--splits",
        "test",
        "--company_name",
        "g",
    ]
    run(extract_embedding.main, *argv, "--model", "lite0", "--output_root", "e")
    one = embeddings.load("e/g_0_test.npz")
    assert set(one.label()) == {"Fruit/Apple/Royal-Gala", "Fruit/Kiwi"}
    assert set(one.label(1)) == {"Fruit/Apple", "Fruit/Kiwi"}
    run(npz_to_parquet.main, "--root", "e", "--out", "g.parquet")
    frame = pd.read_parquet("g.parquet")
    assert set(frame["class_2"].fillna("")) == {"Royal-Gala", ""}
    assert len(frame) == sum(
        len(list((grocery / "test" / folder).iterdir())) for folder in ("Fruit/Apple/Royal-Gala", "Fruit/Kiwi")
    )


def test_a_flat_folder_of_unlabelled_images_goes_to_the_parquet_and_is_not_scored(
    study_data, tmp_path, monkeypatch, capsys
):
    import shutil

    monkeypatch.chdir(tmp_path)
    (tmp_path / "flat").mkdir()
    for path in sorted((study_data / "bccd" / "images").iterdir())[:5]:
        shutil.copy(path, tmp_path / "flat")
    run(extract_embedding.main, "--data_root", "flat", "--model", "lite0", "--output_root", "e")
    run(npz_to_parquet.main, "--root", "e", "--out", "flat.parquet", "--thumbnails", "48")
    frame = pd.read_parquet("flat.parquet")
    assert len(frame) == 5
    assert frame["image"].map(lambda image: image["bytes"][:2] in (b"\xff\xd8", b"RI")).all()
    assert (
        evaluate_combo.main(
            [
                "--train_npz",
                "a=e/flat_0_all.npz",
                "--test_npz",
                "b=e/flat_0_all.npz",
                "--reference_split",
                "all",
                "--query_split",
                "all",
            ]
        )
        == 1
    )
    assert "nothing to score" in capsys.readouterr().err
