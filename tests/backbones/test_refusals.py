"""What no vectors can be had of is one sentence with a remedy: odd outputs, layers, heads, files of weights."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from backbones import checkpoint, models, weights
from backbones.backbone import Backbone, Pooled
from backbones.preprocess import Preprocess
from common.messages import UsageError, UserError
from embedding import classifier

SIZE = Preprocess(height=8, width=8, mean=(0.0,) * 3, std=(1.0,) * 3)


class Gives(nn.Module):
    """A network that gives `output`, and has a layer that takes no part in it."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output, self.unused = output, nn.Conv2d(3, 1, 1)

    def forward(self, x: torch.Tensor) -> object:
        return self.output


def pooled(output: object, layer: str | None = None, pooling: str | None = None, **about: object) -> torch.Tensor:
    return Pooled(Backbone(Gives(output), SIZE, **about), layer, pooling, "net")(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("output", "asked", "told"),
    [
        (torch.zeros(2, 4), {"layer": "unused"}, "net: the layer of --layer takes no part in the model's output"),
        (
            torch.zeros(2),
            {},
            r"net gives a tensor of shape \(2,\), not \(n, dim\), \(n, tokens, dim\) or .* use --layer",
        ),
        ({"a": 1}, {}, "net gives <class 'dict'>, not"),
        ([], {}, "net gives <class 'list'>, not"),
        (torch.zeros(2, 4), {"pooling": "mean"}, "net gives one vector an image already; leave --pooling away"),
        (torch.zeros(2, 4, 3, 3), {"pooling": "cls"}, "net has no class token; use --pooling mean"),
        (torch.zeros(2, 5, 4), {"pooling": "cls"}, "net has no class token; use --pooling mean"),
        (torch.zeros(2, 7, 4), {"pooling": "box"}, "net gives 7 tokens, which are no map of the image"),
    ],
)
def test_an_output_that_cannot_be_pooled(output, asked, told):
    with pytest.raises(UserError, match=told):
        pooled(output, **asked)


def test_the_first_of_several_outputs_counts():
    first = torch.arange(8.0).view(2, 4)
    assert torch.equal(pooled(([first, torch.zeros(1)], 3)), first)
    tokens = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(pooled(tokens, prefix_tokens=1), tokens[:, 0])
    assert torch.equal(pooled(tokens), tokens.mean(1))


def test_models_without_a_head_and_weights_that_are_not_wanted(tmp_path):
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / checkpoint.ABOUT).write_text("{}")
    for build in (models.build, classifier.load):
        with pytest.raises(UsageError, match="trained holds its own weights; leave --weights away"):
            build(str(folder), weights="w.pt")
    with pytest.raises(UserError, match="x has no classifier; name a model that was trained to classify"):
        models._timm_classes(timm.create_model("resnet10t", num_classes=0), "x")
    for key in (None, weights.RANDOM):
        with pytest.raises(UsageError, match="--weights_key names a network in a file; name the file with --weights"):
            weights.named_in(key, "teacher")
    torch.save({"epoch": 3, "name": "x"}, tmp_path / "empty.pt")
    with pytest.raises(UserError, match=r"empty.pt holds no tensors; save model.state_dict\(\)"):
        weights.read(tmp_path / "empty.pt")


def test_a_pretrained_head_of_another_length_is_no_classifier(monkeypatch):
    """As a folder's own list of labels may contradict its weights."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # three numbers, one a colour
    for names, told in (
        (["a", "b"], "names 2 classes and gives 3 numbers; it is no classifier"),
        (["a", "b", "c"], None),
    ):
        monkeypatch.setattr(models, "classifier", lambda spec, weights, names=names: (Backbone(head, SIZE), names))
        if told:
            with pytest.raises(UserError, match=told):
                classifier.load_pretrained("x")
        else:
            assert classifier.load_pretrained("x").classes == names


def test_a_model_json_that_names_no_model(tmp_path):
    from backbones import architectures

    for spec in (None, 3, "", "a\0b"):
        with pytest.raises(UserError, match=r"f\.npz names no model; name it with --model"):
            architectures.refuse_code(spec, "f.npz")
