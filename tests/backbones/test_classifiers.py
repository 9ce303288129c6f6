"""classify.py with pretrained classifiers: the logits, classes and preprocessing of the library that made the model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

import classify
from backbones import models
from common.messages import UserError
from embedding.classifier import load
from imaging import images


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    coarse.resize((320, 240), Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def labels(capsys, *argv):
    """Return the labels and confidences that classify.py prints."""
    code = classify.main([*map(str, argv), "--quiet", "--format", "json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return [(label["label"], label["confidence"]) for label in json.loads(out)[0]["labels"]]


def expected(module, preprocess, names, photo):
    """Return the three most probable names by softmax of the module itself, on pixels normalised by hand."""
    pixels = torch.from_numpy(preprocess(images.decode(photo))[None]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    with torch.no_grad():
        probability = module((pixels - mean) / std).softmax(1)[0]
    best = probability.argsort(descending=True)[:3]
    return [(names[int(number)], float(probability[number])) for number in best]


def same(found, wanted):
    assert [name for name, _ in found] == [name for name, _ in wanted]
    assert [share for _, share in found] == pytest.approx([share for _, share in wanted], rel=1e-3)


def test_torchvision(photo, tmp_path, capsys):
    import torchvision

    torch.manual_seed(0)
    module = torchvision.models.mobilenet_v3_small()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # untrained features would vanish; so normalise them by a batch
    module(torch.randn(8, 3, 64, 64))
    torch.nn.init.normal_(module.eval().classifier[3].weight, std=0.005)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    model = ("--model", "torchvision/mobilenet_v3_small", "--weights", tmp_path / "w.pth")
    described = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT
    preprocess = load("torchvision/mobilenet_v3_small", str(tmp_path / "w.pth")).preprocess
    transforms = described.transforms()
    assert (preprocess.height, preprocess.short_edge) == (transforms.crop_size[0], transforms.resize_size[0])
    assert preprocess.resize_mode == "model"
    theirs = transforms(Image.open(photo).convert("RGB")).permute(1, 2, 0)
    ours = (preprocess(images.decode(photo)) / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    assert np.abs(theirs.numpy() - ours).max() < 0.06  # three grey levels of rounding
    same(
        labels(capsys, "--image", photo, *model, "--top_k", 3),
        expected(module, preprocess, described.meta["categories"], photo),
    )


def vit(folder, kind):
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=64, patch_size=16
    )
    config.id2label = {0: "soup", 1: "nuts", 2: "tea", 3: "coffee"}
    config.label2id = {name: number for number, name in config.id2label.items()}
    module = getattr(transformers, kind)(config).eval()
    module.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return module


@pytest.mark.parametrize("prefix", ["", "hf/"])
def test_hugging_face_folder_with_names_of_classes(photo, tmp_path, capsys, prefix):
    module = vit(tmp_path / "vit", "ViTForImageClassification")
    spec = f"{prefix}{tmp_path / 'vit'}"
    backbone, names = models.classifier(spec)
    assert names == ["soup", "nuts", "tea", "coffee"]
    wanted = expected(lambda x: module(pixel_values=x).logits, backbone.preprocess, names, photo)
    same(labels(capsys, "--image", photo, "--model", spec, "--top_k", 3), wanted)


def test_a_model_without_a_head_is_no_classifier(tmp_path, photo, capsys):
    vit(tmp_path / "vit", "ViTModel")
    assert classify.main(["--image", str(photo), "--model", str(tmp_path / "vit")]) == 1
    assert "lacks 2 weights, such as classifier." in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["transformers", "timm"])
def test_a_folder_whose_weights_were_cut_off(tmp_path, photo, capsys, kind):
    """As a copy that was interrupted leaves it: one sentence, for both libraries."""
    if kind == "timm":
        state = timm.create_model("resnet10t", num_classes=3).state_dict()
        safetensors.torch.save_file(state, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 3}))
    else:
        vit(tmp_path, "ViTForImageClassification")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:1000])
    assert classify.main(["--image", str(photo), "--model", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert f"{tmp_path} cannot be loaded: " in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("described", [False, True])
def test_timm_folder(photo, tmp_path, capsys, described):
    """A folder as timm writes it, with the names of its classes in config.json, or only their number."""
    torch.manual_seed(0)
    module = timm.create_model("resnet10t", num_classes=3).eval()
    folder = tmp_path / "net"
    folder.mkdir()
    safetensors.torch.save_file(module.state_dict(), folder / "model.safetensors")
    config = {"architecture": "resnet10t", "num_classes": 3}
    pretrained = {"input_size": [3, 96, 96], "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
    if described:
        pretrained |= {"label_names": ["a", "b", "c"], "label_descriptions": {"a": "apple", "b": "bread"}}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": pretrained}))
    backbone, names = models.classifier(str(folder))
    assert names == (["apple", "bread", "c"] if described else ["class 0", "class 1", "class 2"])
    assert (backbone.preprocess.height, backbone.preprocess.mean) == (96, (0.5,) * 3)
    found = labels(capsys, "--image", photo, "--model", folder, "--top_k", 3)
    same(found, expected(module, load(str(folder)).preprocess, names, photo))


def test_the_default_is_the_same_by_name(photo, capsys):
    found = labels(capsys, "--image", photo, "--top_k", 2)
    assert found == labels(capsys, "--image", photo, "--model", "lite2", "--top_k", 2)


@pytest.mark.parametrize("spec", ["siamese", "my_package:make", "net.pt"])
def test_models_without_names_of_classes_say_so(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pt").write_bytes(b"")
    with pytest.raises(UserError, match="does not say what its classes are"):
        models.classifier(spec)
