"""Files of strangers: paths that lead out, pickles made to crash, flipped bits, pipes in folders, fields of wrong types."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import pickled
from hostile import call, check, picture, sentence, shelf, study, vectors_of

import classify
import crop
import evaluate_combo
import extract_embedding
import npz_to_parquet
from backbones import checkpoint
from common import embeddings, files, npz, run_record
from common.messages import UserError
from imaging import crops

SIAMESE = ["--model", "siamese", "--weights", "random"]


def test_paths_of_data_stay_below_their_root(tmp_path: Path) -> None:
    """Absolute names, `..` and links, in an npz, in crops.csv and in a set's ID: nothing outside is read or written."""
    private = picture(tmp_path / "home" / "private.jpg", 7)
    root = tmp_path / "data"
    picture(root / "mine.jpg", 1)
    (root / "link.jpg").symlink_to(private)
    (root / "folder").symlink_to(private.parent)
    leads_out = [str(private), "../home/private.jpg", "link.jpg", "folder/private.jpg", "x/../../home/private.jpg", "."]
    assert files.below(root, "mine.jpg") == str(root / "mine.jpg")
    assert files.below("", "a/b.jpg") == "a/b.jpg"

    def in_parquet(name: str) -> str | None:
        one = vectors_of(["a", "b"], paths=["mine.jpg", name], meta={"data_root": str(root)})
        embeddings.save(tmp_path / "s_test.npz", one)
        out = tmp_path / "out.parquet"
        code, _, err = call(npz_to_parquet.main, "--root", tmp_path / "s_test.npz", "--out", out, "--thumbnails", 16)
        table = pd.read_parquet(out)
        read = table["image"].notna().tolist()
        return None if (code, read, table["source_file"].isna().tolist()) == (0, [True, False], [False, True]) else err

    check("paths of an npz", leads_out, in_parquet)
    header = "path,split,sample_id,crop_id,class_0\n"

    def in_manifest(name: str) -> str | None:
        (root / "crops.csv").write_text(f"{header}mine.jpg,train,m,m,a\n{name},train,x,x,a\n")
        try:
            crops.read(root)
        except UserError as error:
            return None if "line 3" in str(error) else str(error)
        return "read"

    check("paths of crops.csv", leads_out, in_manifest)
    for split, seed in (("train", 1), ("test", 2)):
        one = vectors_of(list("aabb"), seed=seed, meta={"id": "../../out", "split": split})
        embeddings.save(tmp_path / "sets" / f"x_{split}.npz", one)
    before = sorted(tmp_path.rglob("*"))
    words = ["--train_npz", tmp_path / "sets", "--test_npz", tmp_path / "sets", "--similarity", "--plot", "pca"]
    code, _, err = call(evaluate_combo.main, *words, "--output_root", tmp_path / "pictures" / "deep")
    new = [path for path in sorted(tmp_path.rglob("*")) if path not in before and path.is_file()]
    assert code == 0, err
    assert len(new) == 4
    assert {path.parent for path in new} == {tmp_path / "pictures" / "deep"}


class Crafted:
    """Pickles as a call of `function` with `args`, and a state."""

    def __init__(self, function: Any, args: tuple, state: Any = None) -> None:
        self.value = (function, args, state) if state is not None else (function, args)

    def __reduce__(self) -> Any:
        return self.value


def test_crafted_pickles_make_no_pointers(tmp_path: Path) -> None:
    """Types whose state makes objects of bytes, arrays larger than their content, and calls that reserve memory."""
    rebuild = np.empty(1).__reduce__()[0]
    start = (np.ndarray, (0,), b"b")
    eight, nothing = b"\x41" * 8, b""
    f8 = np.dtype("f8")

    def dtype(name: str, *state: Any) -> Crafted:
        return Crafted(np.dtype, (name, False, True), (3, *state)) if state else Crafted(np.dtype, (name, False, True))

    def array(kind: Any, shape: tuple, content: Any) -> Crafted:
        return Crafted(rebuild, start, (1, shape, kind, False, content))

    plain = ("|", None, None, None, -1, -1, 63)
    fields = ("|", None, ("x",), {"x": (np.dtype("O"), 0)}, 8, 8, 27)
    sub = ("|", (np.dtype("O"), (1,)), None, None, 8, 8, 63)
    frombuffer = np.zeros(2).__reduce_ex__(5)[0]
    cases = {
        "objects of bytes": array(dtype("O8"), (1,), eight),
        "objects of a list of another length": array(dtype("O8"), (3,), [1]),
        "a type whose state says objects": array(dtype("V8", *fields), (1,), eight),
        "a type of eight bytes turned into objects": array(dtype("f8", *fields), (1,), eight),
        "a type with a part of objects": array(dtype("f8", *sub), (1,), eight),
        "text that is larger than it is": array(dtype("U1", "<", None, None, None, 4000, 4, 8), (1,), b"\0" * 4),
        "a number with the flags of objects": array(dtype("f8", *plain), (4,), eight),
        "an array larger than its content": array(f8, (1 << 40,), eight),
        "an array of a negative size": array(f8, (-1,), nothing),
        "a buffer of objects": Crafted(frombuffer, (eight, np.dtype("O"), (1,), "C")),
        "a buffer that is too short": Crafted(frombuffer, (eight, f8, (9,), "C")),
        "a scalar of objects": Crafted(np.float64(1).__reduce__()[0], (np.dtype("O"), eight)),
        "many bytes": Crafted(bytes, (1 << 45,)),
        "a structure": array(np.dtype([("a", "O")]), (1,), [(1,)]),
    }  # fmt: skip
    data = {name: pickle.dumps({"embeddings": value}, protocol=2) for name, value in cases.items()}
    for name, content in data.items():
        with open(tmp_path / f"{name}.npz", "wb") as file:
            entry = io.BytesIO()
            header = {"descr": "|O", "fortran_order": False, "shape": ()}
            np.lib.format.write_array_header_1_0(entry, header)
            import zipfile

            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("shelf.npy", entry.getvalue() + content)
    code = (
        "import sys; from common import embeddings; from common.messages import UserError\n"
        "try:\n    one = embeddings.load(sys.argv[1]); print(repr(one.vectors), one.labels)\n"
        "except UserError as error: print('refused', error)\n"
    )

    def fault(name: str) -> str | None:
        command = [sys.executable, "-c", code, str(tmp_path / f"{name}.npz")]
        root = Path(__file__).parents[2]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
        return (
            None
            if done.returncode == 0 and done.stdout.startswith("refused")
            else f"{done.returncode} {done.stderr[-200:]}"
        )

    check("crafted pickles", cases, fault)
    old = {
        "embeddings": np.eye(3, dtype=np.float32),
        "ids": np.array(["ä", 2, None], object),
        "class_names": np.array(list("abc")),
    }
    for protocol in (0, 2, 4, 5):
        content = pickle.dumps(old, protocol=protocol)
        value = npz._Unpickler(io.BytesIO(content), encoding="latin1").load()
        assert value["embeddings"].tolist() == np.eye(3).tolist()
        assert value["ids"].tolist() == ["ä", 2, None]
    pickled(tmp_path / "fine.npz", {"embeddings": np.eye(3), "class_names": list("abc")})
    assert len(embeddings.load(tmp_path / "fine.npz")) == 3


def test_flipped_bits_in_an_npz_are_refused_or_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s_test.npz"
    embeddings.save(path, vectors_of(list("aabb"), dim=3, meta={"model": "siamese", "data_root": "here"}))
    data, random = path.read_bytes(), np.random.default_rng(0)
    listing = data.index(b"PK\x01\x02")
    places = [*range(listing, len(data)), *random.choice(listing, 300, replace=False).tolist()]
    names = ("vectors", *embeddings.TEXTS)
    before = embeddings.load(path)

    def fault(at: int) -> str | None:
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        try:
            now = embeddings.load(path)
        except (UserError, OSError):
            return None
        same = all(np.array_equal(getattr(before, name), getattr(now, name)) for name in names)
        return None if same and now.meta == before.meta else "read as something else"

    check("flipped bits in an npz", places, fault)


def test_odd_files_in_a_folder_cost_one_row_each(tmp_path: Path) -> None:
    """A pipe, a device, a loop of links, a sparse file of 20 GB, an unreadable name: the pictures beside them are embedded."""
    folder = tmp_path / "photos" / "x"
    for number in range(3):
        picture(folder / f"good{number}.jpg", number)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "inside.jpg").mkdir()
    with open(folder / "sparse.jpg", "wb") as file:
        file.truncate(20 << 30)
    (folder / "empty.jpg").touch()
    cases = {
        "extract": [
            extract_embedding.main,
            "--data_root",
            tmp_path / "photos",
            "--output_root",
            tmp_path / "o",
            *SIAMESE,
        ],
        "classify": [classify.main, "--image", folder, "--model", tmp_path / "none"],
    }
    code, _, err = call(*cases["extract"])
    one = embeddings.load(next((tmp_path / "o").glob("*.npz")))
    skipped = pd.read_csv(next((tmp_path / "o").glob("*_skipped.csv")))
    reasons = dict(zip(skipped["path"].map(os.path.basename), skipped["reason"], strict=True))
    print(f"odd files in a folder: {len(reasons)} cases, 0 failures")
    assert code == 0, err
    assert one.paths.tolist() == [f"x/good{number}.jpg" for number in range(3)]
    assert set(reasons) == {f"{name}.jpg" for name in ("pipe", "zero", "loop", "gone", "sparse", "empty")}, reasons
    options = shelf(tmp_path / "shelf")
    os.mkfifo(tmp_path / "shelf" / "images" / "pipe.jpg")
    (tmp_path / "shelf" / "images" / "loop.jpg").symlink_to("loop.jpg")
    code, _, err = call(crop.main, *options, "--output_root", tmp_path / "crops")
    assert code == 0, err
    os.mkfifo(tmp_path / "o" / "pipe.npz")
    code, _, err = call(npz_to_parquet.main, "--root", tmp_path / "o", "--out", tmp_path / "o.parquet")
    assert (code, "no regular file" in err) == (1, True)


def test_fields_of_wrong_types_are_one_sentence(tmp_path: Path) -> None:
    """model.json and meta: wrong types, depth, dates, temperatures that are none, classes twice, the version of the future."""
    deep = json.loads("[" * 900 + "]" * 900)
    odd: list[Any] = [
        None,
        True,
        -1,
        0,
        1.5,
        float("nan"),
        float("inf"),
        10**400,
        "",
        "x\0y",
        "2026-13-45",
        [],
        [1],
        {},
        {"a": 1},
        deep,
    ]
    about = {
        "spec": "siamese",
        "preprocess": {"height": 64, "width": 64},
        "classes": ["a", "b"],
        "objective": "classifier",
    }
    good = [("temperature", None), ("temperature", 1.5), ("classes", []), ("format_version", 1)]
    cases = [("model.json", field, value) for field in [*checkpoint.FIELDS, "format_version"] for value in odd]
    cases += [
        ("model.json", "temperature", 0),
        ("model.json", "classes", ["a", "a"]),
        ("model.json", "format_version", 2),
    ]
    cases += [("model.json", field, value) for field, value in good]
    cases += [("meta", field, value) for field in [*embeddings.META, "format_version"] for value in odd]
    cases += [("meta", "format_version", 2)]

    def fault(case: tuple[str, str, Any]) -> str | None:
        kind, field, value = case
        try:
            if kind == "model.json":
                (tmp_path / "model.json").write_text(json.dumps({**about, field: value}))
                checkpoint.describe(tmp_path)
                sound = checkpoint.FIELDS.get(field, run_record.WHOLE)[1](value)
            else:
                text = json.dumps({"format_version": 1, field: value})
                one = vectors_of(["a", "b"])
                arrays = {"embeddings": one.vectors, **{name: getattr(one, name) for name in embeddings.TEXTS}}
                with open(tmp_path / "s_test.npz", "wb") as file:
                    npz.write(file, arrays | {"meta": np.array(text)})
                embeddings.load(tmp_path / "s_test.npz")
                sound = embeddings.META.get(field, run_record.WHOLE)[1](value)
        except UserError as error:
            return None if len(str(error)) < 600 and "\n" not in str(error) else "not one sentence"
        return None if sound else "accepted"

    check("fields of wrong types", cases, fault)


def test_changed_tables_are_told_and_weights_verified(tmp_path: Path) -> None:
    options = shelf(tmp_path)
    root = tmp_path / "crops"
    assert call(crop.main, *options, "--output_root", root)[0] == 0
    lines = (root / "crops.csv").read_text().splitlines()
    (root / "crops.csv").write_text("\n".join(lines[:-2]) + "\n")
    words = ["--data_root", root, "--output_root", tmp_path / "o", *SIAMESE]
    code, _, err = call(extract_embedding.main, *words)
    assert code == 0, err
    assert f"crops.csv was changed since crop.py wrote it: {len(lines) - 1} rows then, {len(lines) - 3} now" in err
    code, _, err = call(extract_embedding.main, *words, "--strict")
    assert code == 1
    assert sentence(code, err) is None
    code, _, err = call(crop.main, *options, "--output_root", root)
    assert "was changed since" in err


@pytest.mark.parametrize("name", ["study"])
def test_a_pipe_among_sets_is_no_wait(tmp_path: Path, name: str) -> None:
    data = study(tmp_path)
    os.mkfifo(data / "x_0_test.npz")
    code, _, err = call(evaluate_combo.main, "--train_npz", data, "--test_npz", data)
    assert (code, "no regular file" in err) == (1, True)


def test_another_version_of_the_preprocessing_is_told_and_never_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set without a version counts as 1: it is complete for version 1, and neither that nor silently compared for version 2."""
    from embedding import set_writer

    picture(tmp_path / "photos" / "x" / "1.jpg")
    words = ["--data_root", tmp_path / "photos", "--output_root", tmp_path / "o", *SIAMESE]
    assert call(extract_embedding.main, *words)[0] == 0
    path = next((tmp_path / "o").glob("*.npz"))
    one = embeddings.load(path)
    assert one.meta["preprocessing_version"] == 1
    older = {name: value for name, value in one.meta.items() if name != "preprocessing_version"}
    embeddings.save(
        path, embeddings.EmbeddingSet(one.vectors, one.labels, one.crop_ids, one.sample_ids, one.paths, older)
    )
    code, _, err = call(extract_embedding.main, *words)
    assert (code, "complete already" in err) == (0, True), err
    monkeypatch.setattr(set_writer, "PREPROCESSING_VERSION", 2)
    code, _, err = call(extract_embedding.main, *words)
    assert code == 1
    assert "preprocessing_version" in err
    for split, version in (("train", 1), ("test", 2)):
        meta = {"split": split, "model": "m", "fingerprint": "f", "preprocessing_version": version}
        embeddings.save(tmp_path / f"s_0_{split}.npz", vectors_of(list("aabb"), meta=meta))
    sets = ["--train_npz", tmp_path / "s_0_train.npz", "--test_npz", tmp_path / "s_0_test.npz"]
    code, _, err = call(evaluate_combo.main, *sets)
    assert code == 0, err
    assert "different versions of the preprocessing" in err


def test_verify_finds_an_image_of_the_same_size_and_time(tmp_path: Path) -> None:
    """Without --verify such an image is not seen (documented); with it, it is named; a touched, equal image is no change."""
    options = [*shelf(tmp_path), "--output_root", tmp_path / "crops"]
    for number in range(3):
        picture(tmp_path / "photos" / "x" / f"{number}.png", number)
    extract = ["--data_root", tmp_path / "photos", "--output_root", tmp_path / "o", *SIAMESE]

    def flip(path: Path) -> None:
        status = os.stat(path)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert os.stat(path).st_size == status.st_size

    cases = {
        "crop": (crop.main, options, tmp_path / "images" / "p1.jpg"),
        "extract": (extract_embedding.main, extract, tmp_path / "photos" / "x" / "1.png"),
    }

    def fault(name: str) -> str | None:
        main, words, image = cases[name]
        for more in ([], [], ["--verify"]):
            code, _, err = call(main, *words, *more)
            if code:
                return err
        flip(image)
        unseen, seen = call(main, *words), call(main, *words, "--verify")
        anew = call(main, *words, "--verify", "--overwrite"), call(main, *words, "--verify")
        told = "have other contents" in seen[2] and sentence(seen[0], seen[2]) is None
        codes = unseen[0], seen[0], anew[0][0], anew[1][0]
        return None if told and codes == (0, 1, 0, 0) else f"{codes} {seen[2]}"

    check("changed images of the same size and time, with --verify", cases, fault)
