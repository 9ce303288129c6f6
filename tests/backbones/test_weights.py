"""Checkpoints of other tools: which of several networks is loaded and told, metadata that is skipped, pickles that are refused."""

from __future__ import annotations

import argparse
import collections
import functools
import gzip
import io
import os
import pathlib
import types

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from backbones import weights
from backbones.weights import WeightsFile
from common.messages import UsageError, UserError


def network(seed: int | None = None) -> nn.Module:
    if seed is not None:
        torch.manual_seed(seed)
    return nn.Sequential(collections.OrderedDict(stem=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), top=nn.Linear(4, 2)))


def named(prefix: str, seed: int) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in network(seed).state_dict().items()}


def loaded(path, content, key=None) -> int:
    """Return the seed of the network that is loaded from a file with this content."""
    torch.save(content, path)
    module = network()
    weights.give(module, WeightsFile(str(path), key), "net")
    for seed in (1, 2, 3):
        if all(value.equal(module.state_dict()[name]) for name, value in network(seed).state_dict().items()):
            return seed
    raise AssertionError("none of them")


RAW, WANTED = 2, 1
ONE = [
    named("", WANTED),
    {"state_dict": named("_orig_mod.module.", WANTED)},
    {"epoch": 3, "model": named("encoder.", WANTED), "optimizer": {"state": {0: {"exp_avg": torch.zeros(4)}}}},
    {"teacher": named("backbone.", WANTED)},
    {"hyper_parameters": {"lr": 0.1}, "callbacks": {}, "state_dict": named("model.backbone.", WANTED)},
    {**named("", WANTED), "classifier.weight": torch.zeros(7, 4)},
]
TWO = [
    {"model": {**named("student.backbone.", RAW), **named("teacher.backbone.", WANTED)}},
    {"state_dict": named("", RAW), "state_dict_ema": named("", WANTED)},
    {**named("", RAW), **named("ema.module.", WANTED)},
    {"state_dict": {**named("module.encoder_k.", RAW), **named("module.encoder_q.", WANTED)}},
    {"state_dict": {**named("base_encoder.", WANTED), **named("momentum_encoder.", RAW)}},
    {"net": named("", RAW), "swa": named("module.", WANTED)},
]


@pytest.mark.parametrize("content", ONE)
def test_the_only_network_is_found_under_any_prefix(tmp_path, content, capsys):
    assert loaded(tmp_path / "w.pth", content) == WANTED
    assert "networks" not in capsys.readouterr().err


@pytest.mark.parametrize("content", TWO)
def test_of_two_networks_the_one_that_is_meant_is_taken_and_told(tmp_path, content, capsys):
    assert loaded(tmp_path / "w.pth", content) == WANTED
    told = capsys.readouterr().err
    assert "holds 2 networks that fit" in told
    assert "--weights_key" in told


def test_a_key_names_another_network(tmp_path):
    content = TWO[0]
    assert loaded(tmp_path / "w.pth", content, "student") == RAW
    assert loaded(tmp_path / "w.pth", content, "model.teacher") == WANTED
    with pytest.raises(UsageError, match=r"no network under --weights_key ema; .* model\.student\.backbone 100%"):
        loaded(tmp_path / "w.pth", content, "ema")
    with pytest.raises(UsageError, match="name the file with --weights"):
        weights.named_in(None, "ema")


def test_two_that_nothing_tells_apart_are_listed(tmp_path):
    with pytest.raises(UserError, match=r"several networks that fit net: left, right; name one with --weights_key"):
        loaded(tmp_path / "w.pth", {"left": named("", 1), "right": named("", 2)})
    assert loaded(tmp_path / "w.pth", {"left": named("", 1), "right": named("", 1)}) == 1  # the same twice


def test_another_models_weights_are_refused_with_what_is_missing(tmp_path):
    content = {f"module.{name}": value for name, value in named("", 1).items() if not name.startswith("top")}
    with pytest.raises(UserError, match=r"lacks 2 of the 9 weights of net, such as top\.weight"):
        loaded(tmp_path / "w.pth", content)


class Settings:
    pass


Settings.__module__ = "training_tool.settings"


class AttributeDict(dict):
    pass


@pytest.mark.parametrize(
    "metadata",
    [
        argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=[1, 2])),
        {"path": pathlib.PurePosixPath("/data/run"), "best": np.float64(0.5), "array": np.zeros(3)},
        types.SimpleNamespace(lr=1),
        AttributeDict(lr=0.1),
    ],
)
def test_metadata_is_skipped_and_told(tmp_path, metadata, capsys):
    assert loaded(tmp_path / "w.pth", {"args": metadata, "state_dict": named("module.", 1)}) == 1
    assert "skipped what is no tensor" in capsys.readouterr().err


class Harm:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, print, functools.partial, getattr])
def test_a_file_that_names_a_dangerous_function_is_refused(tmp_path, function):
    path = tmp_path / "ran"
    with pytest.raises(UserError, match="could run code"):
        loaded(tmp_path / "w.pth", {"a": Harm(function, f"touch {path}"), **named("", 1)})
    assert not path.exists()


def test_the_function_of_an_unknown_tool_is_not_run(tmp_path, monkeypatch):
    """It is a placeholder: what the file would call is not even imported."""
    import sys

    tool = types.ModuleType("some_tool")
    ran = []

    def call(*args):
        ran.append(args)

    call.__module__, call.__qualname__ = "some_tool", "call"
    tool.call = call
    monkeypatch.setitem(sys.modules, "some_tool", tool)
    torch.save({"a": Harm(call, 1), **named("", 1)}, tmp_path / "w.pth")
    monkeypatch.delitem(sys.modules, "some_tool")
    module = network()
    weights.give(module, tmp_path / "w.pth", "net")
    assert not ran
    assert "some_tool" not in sys.modules


def test_a_whole_model_is_named_for_what_it_is(tmp_path):
    torch.save(network(1), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"a whole model|could run code"):
        weights.give(network(), tmp_path / "w.pth", "net")


def test_files_of_other_kinds_are_named(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    arrays = io.BytesIO()
    np.savez(arrays, a=np.zeros(2))
    for name, content, words in (
        ("x.pth", pointer, "is a pointer of Git LFS, not the file itself"),
        ("x.safetensors", pointer, "is a pointer of Git LFS, not the file itself"),
        ("x.pth", b"<!doctype html><html>", "is an HTML page"),
        ("x.pth.gz", gzip.compress(b"x"), "is a gzip file; unpack it first"),
        ("x.npz", arrays.getvalue(), r"is a zip without a file of PyTorch \(a.npy\)"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            weights.read(tmp_path / name)


def test_averages_without_names_are_told(tmp_path, capsys):
    """As score_sde and diffusers keep them: a list in the order of the parameters."""
    state = {"w": torch.zeros(2), "b": torch.ones(1)}
    torch.save({"model": state, "ema": {"decay": 0.99, "shadow_params": list(state.values())}}, tmp_path / "x.pth")
    assert weights.read(tmp_path / "x.pth").keys() == {"model.w", "model.b"}
    assert "ema.shadow_params holds averaged weights in a list without names" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.bin", "x.safetensors", "x"])
@pytest.mark.parametrize("save", [safetensors.torch.save_file, torch.save])
def test_the_first_bytes_say_what_a_file_is(tmp_path, name, save):
    save(named("", WANTED), tmp_path / name)
    assert weights.read(tmp_path / name).keys() == network().state_dict().keys()


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_half_a_file_is_named(tmp_path, name):
    torch.save(named("", WANTED), tmp_path / "whole")
    half = (tmp_path / "whole").read_bytes()[:-900]
    (tmp_path / name).write_bytes(half)
    with pytest.raises(UserError, match=f"{name} is no readable state dict"):
        weights.read(tmp_path / name)


def test_a_program_is_no_file_of_weights(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "x.pth"))
    with pytest.raises(UserError, match=r"whole program of TorchScript, .* give it with --model"):
        weights.read(tmp_path / "x.pth")


def test_blocks_counted_by_chunks_are_those_of_the_model(tmp_path):
    """DINOv2 writes `blocks.1.3.` for the fourth block, in the second chunk; a model that counts so itself keeps its names."""

    def model() -> nn.Module:
        return nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), "norm": nn.LayerNorm(2)})

    true = model().state_dict()
    chunked = {
        name.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1."): v for name, v in true.items()
    }
    assert "blocks.1.1.weight" in chunked
    torch.save({"teacher": {f"backbone.{name}": value for name, value in chunked.items()}}, tmp_path / "w.pth")
    module = model()
    weights.give(module, tmp_path / "w.pth", "net")
    assert all(value.equal(module.state_dict()[name]) for name, value in true.items())
    staged = nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)])])})
    torch.save(staged.state_dict(), tmp_path / "s.pth")
    weights.give(staged, tmp_path / "s.pth", "net")
    torch.save({"blocks.0.weight": torch.zeros(2, 2)}, tmp_path / "s.pth")
    with pytest.raises(UserError, match="lacks 2 of the 2 weights"):
        weights.give(staged, tmp_path / "s.pth", "net")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "is quantised; save"),
        (lambda value: value.to("meta"), "is without values; save"),
        (lambda value: value * float("nan"), "is not finite, as after a training that failed"),
    ],
)
def test_weights_that_cannot_be_used_are_named(tmp_path, change, told):
    torch.save({**named("", 1), "stem.weight": change(network(1).state_dict()["stem.weight"])}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"stem.weight {told}"):
        weights.give(network(), tmp_path / "w.pth", "net")


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("w.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes, not weights of PyTorch"),
        ("w.gguf", b"GGUF\3\0\0\0", "a GGUF file"),
        ("w.onnx", b"\x08\x07\x12\x07pytorch", "an ONNX model"),
        ("model.safetensors.index.json", b'{"weight_map": {}}', "JSON; give the folder"),
        ("w.tar", b"\0" * 257 + b"ustar\x0000", "a tar archive; unpack it"),
    ],
)
def test_files_of_other_tools_are_named(tmp_path, name, data, told):
    (tmp_path / name).write_bytes(data + b"\0" * 300)
    with pytest.raises(UserError, match=told):
        weights.read(tmp_path / name)


def test_weights_inside_a_zip_are_to_be_unpacked(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("best.pth", b"x")
    with pytest.raises(UserError, match=r"is a zip; unpack it and name the file of weights inside .best.pth."):
        weights.read(tmp_path / "w.zip")


def test_infinite_masks_and_small_floats_are_weights(tmp_path):
    """An attention mask is minus infinity where nothing may look; infinite weights, and float8 that is no number, are refused."""

    def masked() -> nn.Module:
        module = nn.Sequential(nn.Linear(2, 2))
        module.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        return module

    true = masked().state_dict()
    torch.save(
        {name: value if name == "mask" else value.to(torch.float8_e4m3fn) for name, value in true.items()},
        tmp_path / "w.pth",
    )
    module = masked()
    weights.give(module, tmp_path / "w.pth", "net")
    assert module.mask.tolist() == [[0, -torch.inf], [0, 0]]
    assert module[0].weight.allclose(true["0.weight"], atol=0.05)
    for name, value in (("0.bias", -torch.inf), ("mask", torch.inf), ("mask", torch.nan)):
        torch.save({**true, name: torch.full_like(true[name], value)}, tmp_path / "w.pth")
        with pytest.raises(UserError, match=f"{name} is not finite"):
            weights.give(masked(), tmp_path / "w.pth", "net")
    bad = torch.full((2, 2), torch.nan).to(torch.float8_e4m3fn)
    torch.save({**true, "0.weight": bad}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"0\.weight is not finite"):
        weights.give(masked(), tmp_path / "w.pth", "net")
