"""Code runs only where the command line names it: what a file names is data, and archives that hold code are not opened."""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import call, check, picture, vectors_of

import classify
import extract_embedding
import search
from backbones import architectures, checkpoint, models, programs
from backbones.preprocess import Preprocess
from common import embeddings, run_record
from common.messages import UserError


class Tiny(torch.nn.Module):
    """Three colours' means, and their sum: the smallest embedding there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.mean((2, 3)))


class Marking:
    """A pickle that, loaded freely, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    size = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Tiny().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes={"x": {0: size}})
    torch.export.save(program, tmp_path / "good.pt2")
    return tmp_path / "good.pt2"


def rewritten(path: Path, to: Path, change: Callable[[str, bytes], bytes | None], more: dict[str, bytes]) -> Path:
    """Copy an archive, each entry changed or, by None, left out, and others added under its one folder."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        folder = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            if (data := change(name.partition("/")[2], old.read(name))) is not None:
                new.writestr(name, data)
        for name, data in more.items():
            new.writestr(f"{folder}/{name}", data)
    return to


def keep(name: str, data: bytes) -> bytes:
    return data


def in_graph(edit: Callable[[dict[str, Any]], None]) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if name != "models/model.json":
            return data
        model = json.loads(data)
        edit(model)
        return json.dumps(model).encode()

    return change


@pytest.mark.filterwarnings("ignore")
def test_archives_that_could_run_code_are_refused(tmp_path: Path, exported: Path) -> None:
    mark = tmp_path / "ran"
    evil = io.BytesIO()
    torch.save(Marking(mark), evil)
    touch = f"__import__('pathlib').Path({str(mark)!r}).touch() or 3"
    config = json.dumps(
        {"config": {"layer.weight": {"path_name": "weight_9", "is_param": True, "use_pickle": True}}}
    ).encode()
    constant = json.dumps(
        {"config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}}}
    ).encode()

    def sizes(model: dict[str, Any]) -> None:
        for value in model["graph_module"]["graph"]["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = touch

    def guards(model: dict[str, Any]) -> None:
        model["guards_code"] = [f"{touch}"]

    def target(model: dict[str, Any]) -> None:
        node = model["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.os.system"

    def tree(model: dict[str, Any]) -> None:
        context = json.dumps({"default_factory_module": "evil", "default_factory_name": "x"})
        spec = [1, {"type": "collections.defaultdict", "context": context, "children_spec": []}]
        model["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(spec)

    def name_of_input(model: dict[str, Any]) -> None:
        text = json.dumps(model["graph_module"]["graph"]).replace(
            '"name": "x"', json.dumps(f"x=({touch})").join(('"name": ', ""))
        )
        model["graph_module"]["graph"] = json.loads(text)

    weights, constants = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
    pt = evil.getvalue()
    cases = {
        "a second entry of the same name": (keep, {"data/sample_inputs/model.pt": pt}),
        "a twin in capitals": (keep, {"data/sample_inputs/MODEL.PT": pt}),
        "a second description": (keep, {"models/model.json": b"{}"}),
        "a pickled input": (lambda n, d: pt if n.endswith("model.pt") else d, {}),
        "pickled weights by their description": (lambda n, d: config if n == weights else d, {"data/weights/weight_9": pt}),
        "older weights": (lambda n, d: None if n == weights else d, {"data/weights/model.pt": pt}),
        "an opaque constant": (lambda n, d: constant if n == constants else d, {"data/constants/opaque_obj_0": pt}),
        "a shared library": (keep, {"data/aotinductor/model/model.so": b"\x7fELF"}),
        "a second program": (keep, {"models/other.json": b"{}"}),
        "an expression": (in_graph(sizes), {}),
        "guards": (in_graph(guards), {}),
        "an operator of Python": (in_graph(target), {}),
        "a tree that imports": (in_graph(tree), {}),
        "a name that is code": (in_graph(name_of_input), {}),
    }  # fmt: skip

    def fault(name: str) -> str | None:
        change, more = cases[name]
        path = rewritten(exported, tmp_path / "evil.pt2", change, more)
        try:
            built = programs.load_program(path, None)
            built.module(torch.zeros(2, 3, 8, 8))
            told = "opened"
        except UserError as error:
            told = "" if "evil.pt2" in str(error) else str(error)
        if mark.exists():
            mark.unlink()
            return "ran code"
        return told if name != "guards" else None  # which are left out, and the program opened

    check("archives that hide code", cases, fault)
    assert models.build(str(exported)).module(torch.zeros(5, 3, 8, 8)).shape == (5, 4)


def test_the_older_layout_of_export_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        for name, data in {"version": b"8.2", "serialized_exported_program.json": b"{}"}.items():
            archive.writestr(name, data)
        archive.writestr("serialized_state_dict.pt", pickle.dumps(Marking(tmp_path / "ran")))
    with pytest.raises(UserError, match=r"no TorchScript or torch.export"):
        programs.load_program(tmp_path / "old.pt2", None)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def evil_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the working folder that makes a file when it is imported; returns that file."""
    mark = tmp_path / "imported"
    (tmp_path / "evilmod.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\nimport torch\nfrom test_safe_code import Tiny\n"
        "def build():\n    torch.manual_seed(0)\n    return Tiny()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evilmod", raising=False)
    yield mark
    sys.modules.pop("evilmod", None)


def written_checkpoint(folder: Path, spec: str) -> Path:
    state = {f"backbone.{name}": value for name, value in Tiny().state_dict().items()}
    state |= {"head.weight": torch.zeros(2, 4), "head.bias": torch.ones(2)}
    options = {"layer": None, "pooling": None}
    checkpoint.save(
        folder,
        spec=spec,
        options=options,
        preprocess=Preprocess(8, 8),
        state=state,
        classes=["a", "b"],
        temperature=1.0,
    )
    return folder


def test_files_name_code_and_it_does_not_run(tmp_path: Path, evil_module: Path, exported: Path) -> None:
    """An npz and a checkpoint that name a factory, a program, or each other: refused, with the option to type."""
    photo = picture(tmp_path / "photo.jpg")
    folder = written_checkpoint(tmp_path / "trained", "evilmod:build")
    evil_module.unlink()
    sys.modules.pop("evilmod")
    torch.jit.script(Tiny()).save(str(tmp_path / "script.pt"))
    program = json.loads((folder / "model.json").read_text())
    cases = []
    for number, spec in enumerate(
        ("evilmod:build", str(exported), str(tmp_path / "script.pt"), str(folder), f"{folder}=evilmod:build")
    ):
        embeddings.save(
            tmp_path / f"{number}_test.npz",
            vectors_of(["a", "b"] * 3, dim=4, meta={"model": spec, "fingerprint": "0" * 64}),
        )
        cases += [(spec, search.main, ["query", "--npz", tmp_path / f"{number}_test.npz", "-q", photo])]
        cases += [(spec, classify.main, ["--reference_npz", tmp_path / f"{number}_test.npz", "--image", photo])]
        if number < 3:
            named = tmp_path / f"checkpoint{number}"
            named.mkdir()
            run_record.write_json(
                named / "model.json", {k: v for k, v in program.items() if k != "checksum"} | {"spec": spec}
            )
            (named / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
            cases += [(spec, classify.main, ["--model", named, "--image", photo])]
            cases += [
                (
                    spec,
                    extract_embedding.main,
                    ["--model", named, "--data_root", tmp_path, "--output_root", tmp_path / "o"],
                )
            ]

    def fault(case: tuple[str, Callable, list[object]]) -> str | None:
        code, _, err = call(case[1], *case[2])
        ran = evil_module.exists() or "evilmod" in sys.modules
        return "ran code" if ran else None if code == 1 and "--model" in err else f"{code}: {err}"

    check("files that name code", cases, fault)


def test_what_the_command_line_names_runs(tmp_path: Path, evil_module: Path) -> None:
    """The options that the refusals say."""
    picture(tmp_path / "photos" / "x" / "photo.jpg")
    folder = written_checkpoint(tmp_path / "trained", "evilmod:build")
    for number, spec in enumerate(("evilmod:build", f"{folder}=evilmod:build")):
        words = ["--data_root", tmp_path / "photos", "--output_root", tmp_path / f"o{number}"]
        code, _, err = call(extract_embedding.main, *words, "--model", spec)
        assert code == 0, err
    code, out, err = call(classify.main, "--model", f"{folder}=evilmod:build", "--image", tmp_path / "photos")
    assert (code, out.count("0.5000")) == (0, 1), err
    code, _, err = call(classify.main, "--model", f"{folder}=evilmod:other", "--image", tmp_path / "photos")
    assert code == 1
    assert f"add --model {folder}=evilmod:build" in err


def test_specs_that_are_code_are_told_from_names(tmp_path: Path) -> None:
    (tmp_path / "program.pt2").write_bytes(b"x")
    code = ["a.b:c", "a:b.c", str(tmp_path / "program.pt2")]
    names = ["resnet18", "timm/resnet18", "torchvision/resnet50", "hf/google/vit", "siamese", str(tmp_path)]
    assert [architectures.is_code(spec) for spec in [*code, *names]] == [True] * len(code) + [False] * len(names)
    assert not np.any([architectures.is_code(spec) for spec in names])
