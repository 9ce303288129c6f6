"""Embeddings in files of other tools: unnamed arrays, .npy, Parquet, CSV; any other kind is named for what it is."""

from __future__ import annotations

import contextlib
import gzip
import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common import embedding_sets, embeddings
from common.messages import UserError
from evaluation.codes import code_sets, remarks
from evaluation.records import Rule

ROWS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
NAMES = np.array([f"c{row % 3}" for row in range(12)])


def load(path, **options):
    return embeddings.load(path, **options)


# --- .npz with other names


@pytest.mark.parametrize("labels", [NAMES, np.arange(12) % 3, (np.arange(12) % 3).astype(float), NAMES.astype(object)])
def test_the_only_array_that_fits_holds_the_labels(tmp_path, labels, capsys):
    np.savez(tmp_path / "a.npz", ROWS, labels, np.arange(5), np.zeros((12, 2, 2)))
    read = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.vectors, ROWS)
    assert read.label().tolist() == [str(int(x)) if not isinstance(x, str) else x for x in labels.tolist()]
    error = capsys.readouterr().err
    assert "the vectors are arr_0 (12, 4) float32" in error
    assert "the labels are arr_1 (12,)" in error


def test_two_that_fit_are_not_guessed_between(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", X=ROWS, y=NAMES, batch=np.arange(12))
    assert load(tmp_path / "a.npz").label().tolist() == [""] * 12
    assert "the labels are" not in capsys.readouterr().err
    assert load(tmp_path / "a.npz", labels_key="y").label().tolist() == NAMES.tolist()
    with pytest.raises(UserError, match=r"name them with --labels_key \(y \(12,\) text, batch \(12,\) int64\)"):
        embedding_sets.read_sides([("--train_npz", [tmp_path / "a.npz"], "train")])


def test_scores_are_no_labels(tmp_path):
    np.savez(tmp_path / "a.npz", ROWS, np.linspace(0, 1, 12))
    assert load(tmp_path / "a.npz").label().tolist() == [""] * 12


def test_every_array_can_be_named(tmp_path):
    np.savez(
        tmp_path / "a.npz", A=ROWS, B=ROWS * 2, kind=NAMES, image=NAMES, number=np.arange(12), labels=np.arange(12)
    )
    read = load(tmp_path / "a.npz", key="B", labels_key="kind", paths_key="image", ids_key="number")
    np.testing.assert_array_equal(read.vectors, ROWS * 2)
    assert read.label().tolist() == read.paths.tolist() == NAMES.tolist()
    assert read.crop_ids.tolist() == [str(row) for row in range(12)]
    with pytest.raises(
        UserError, match=r"no array 'C' \(--labels_key\); it has: A \(12, 4\) float32, B .*labels \(12,\) int64"
    ):
        load(tmp_path / "a.npz", key="A", labels_key="C")
    with pytest.raises(
        UserError, match=r"it has: A \(12, 4\) float32, B \(12, 4\) float32, .*--key, the labels with --labels_key"
    ):
        load(tmp_path / "a.npz")


# --- .npy with labels beside it


def test_npy_with_labels_of_a_text_or_npy_file(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    np.save(tmp_path / "l.npy", np.arange(12.0) % 3)
    (tmp_path / "l.txt").write_text("\n".join(NAMES) + "\n")
    (tmp_path / "l.csv").write_text("label\n" + "\n".join(NAMES) + "\n")
    assert load(tmp_path / "a.npy").label().tolist() == [""] * 12
    assert load(tmp_path / "a.npy", labels=[str(tmp_path / "l.npy")]).label().tolist() == [
        str(row % 3) for row in range(12)
    ]
    for name in ("l.txt", "l.csv"):
        assert load(tmp_path / "a.npy", labels=[str(tmp_path / name)]).label().tolist() == NAMES.tolist()


def test_files_of_labels_are_told_apart_by_length_or_name(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    for name, n in (("one", 12), ("other", 12), ("short", 7)):
        np.save(tmp_path / f"{name}.npy", np.array([name] * n))
    one, other, short = (str(tmp_path / f"{name}.npy") for name in ("one", "other", "short"))
    assert set(load(tmp_path / "a.npy", labels=[short, one]).label()) == {"one"}
    assert set(load(tmp_path / "a.npy", labels=[one, f"a.npy={other}"]).label()) == {"other"}
    with pytest.raises(UserError, match=r"both have 12 labels; say which: --labels a\.npy="):
        load(tmp_path / "a.npy", labels=[one, other])
    with pytest.raises(UserError, match=r"12 vectors, and no file of --labels as many labels: .*short.npy has 7"):
        load(tmp_path / "a.npy", labels=[short])


def test_npy_is_mapped_and_damage_is_one_sentence(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    assert isinstance(load(tmp_path / "a.npy").vectors, np.memmap)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-5])
    with pytest.raises(UserError, match="is damaged"):
        load(tmp_path / "a.npy")
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match="no matrix of numbers but holds dict"):
        load(tmp_path / "o.npy")


# --- tables


def test_csv_of_numbers_and_a_label(tmp_path, capsys):
    frame = pd.DataFrame(ROWS, columns=[f"f{place}" for place in range(4)]).assign(
        label=["001", "1.0", "NA", "None"] * 3
    )
    for options in ({"index": False}, {"index": True}, {"index": False, "sep": ";"}):
        frame.to_csv(tmp_path / "a.csv", **options)
        read = load(tmp_path / "a.csv")
        np.testing.assert_array_equal(read.vectors, ROWS)
        assert read.label().tolist() == ["001", "1.0", "NA", "None"] * 3
    assert "the vectors are 4 columns of numbers, 'f0' to 'f3'" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_other_numbers_beside_numbered_columns_are_no_part_of_the_vectors(tmp_path, ending, capsys):
    """Numbers of photos and boxes would outweigh every dimension. Where names have no numbers all columns count, and are told."""
    other = {"image_id": np.arange(12) * 100, "width": 640, "label": np.arange(12) % 3}
    for names, dim in (
        ([f"f{place}" for place in range(4)], 4),
        ([f"d_{place}" for place in range(1, 5)], 4),
        (list("abcd"), 6),
    ):
        frame = pd.DataFrame(ROWS, columns=names).assign(**other)
        frame.to_csv(tmp_path / "a.csv", index=False) if ending == "csv" else frame.to_parquet(tmp_path / "a.parquet")
        read = load(tmp_path / f"a.{ending}")
        assert read.vectors.shape == (12, dim)
        np.testing.assert_array_equal(read.vectors[:, :4], ROWS)
        assert ("no part of them: image_id, width" in capsys.readouterr().err) == (dim == 4)


def test_a_gap_in_a_column_of_numbers_costs_no_dimension(tmp_path):
    """An empty cell is NaN, which is told by its row; a text in the middle is one sentence."""
    frame = pd.DataFrame(ROWS, columns=[f"f{place}" for place in range(4)]).assign(label=NAMES)
    frame.loc[5, "f2"] = np.nan
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UserError, match=r"1 of 12 vectors are zero or not finite \(row 5"):
        load(tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_text().splitlines()
    text[1] = text[1].replace(text[1].split(",")[2], "n/a", 1)
    (tmp_path / "a.csv").write_text("\n".join(text))
    with pytest.raises(UserError, match="column 'f2' of the vectors holds 'n/a', no number"):
        load(tmp_path / "a.csv")


def test_csv_with_a_number_as_label_and_with_lists(tmp_path):
    frame = pd.DataFrame(ROWS, columns=list("abcd")).assign(digit=np.arange(12) % 3, path=NAMES)
    frame.to_csv(tmp_path / "a.csv", index=False)
    read = load(tmp_path / "a.csv", labels_key="digit")
    np.testing.assert_array_equal(read.vectors, ROWS)
    assert read.label().tolist() == [str(row % 3) for row in range(12)]
    assert read.paths.tolist() == NAMES.tolist()
    lists = pd.DataFrame({"embedding": [json.dumps(row) for row in ROWS.tolist()], "species": NAMES})
    lists.to_csv(tmp_path / "b.csv", index=False)
    read = load(tmp_path / "b.csv")
    np.testing.assert_array_equal(read.vectors, ROWS)
    assert read.label().tolist() == NAMES.tolist()


def test_csv_without_a_header(tmp_path):
    pd.DataFrame(ROWS).assign(label=NAMES).to_csv(tmp_path / "a.csv", index=False, header=False)
    read = load(tmp_path / "a.csv")
    np.testing.assert_array_equal(read.vectors, ROWS)
    assert read.label().tolist() == NAMES.tolist()


@pytest.mark.parametrize("kind", ["list", "columns", "large"])
def test_parquet(tmp_path, kind):
    columns = {f"f{place}": ROWS[:, place] for place in range(4)} if kind == "columns" else {"vec": list(ROWS)}
    names = [None, *NAMES[1:]] if kind == "large" else NAMES
    pd.DataFrame({**columns, "class_0": names, "crop_id": NAMES, "source_file": NAMES}).to_parquet(
        tmp_path / "a.parquet"
    )
    read = load(tmp_path / "a.parquet")
    np.testing.assert_array_equal(read.vectors, ROWS)
    assert read.label().tolist() == ["" if name is None else name for name in names]
    assert read.crop_ids.tolist() == read.paths.tolist() == NAMES.tolist()


EDITS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(EDITS, st.sampled_from(["npy", "csv", "parquet", "npz"]))
def test_damaged_files_are_read_or_one_sentence(tmp_path_factory, edits, kind):
    path = tmp_path_factory.mktemp("damaged") / f"a.{kind}"
    frame = pd.DataFrame(ROWS, columns=list("abcd")).assign(label=NAMES)
    if kind in ("npy", "npz"):
        np.save(path, ROWS) if kind == "npy" else np.savez(path, ROWS, NAMES)
    else:
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    data = bytearray(path.read_bytes())
    for place, value in edits:
        data[place % len(data)] = value
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        assert load(path, drop_invalid=True).vectors.ndim == 2


# --- other kinds


def other(path, kind):
    values = {"embeddings": ROWS.tolist()}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(values))
    elif kind == "torch":
        torch.save(values, path)
    elif kind == "hdf5":
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    elif kind == "json":
        path.write_text(json.dumps(values))
    elif kind == "gzip":
        path.write_bytes(gzip.compress(b"anything"))
    else:
        pd.DataFrame({"a": [1]}).to_feather(path)
    return path


@pytest.mark.parametrize("ending", [".npz", ".dat"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pickle", "a pickle, which could run code"),
        ("torch", "a file of PyTorch"),
        ("hdf5", "an HDF5 file; convert it: python -c"),
        ("json", "a JSON file"),
        ("gzip", "a gzip file; unpack it first: gunzip -k"),
        ("feather", "a Feather file"),
    ],
)
def test_any_other_kind_is_named_with_the_line_that_converts_it(tmp_path, kind, words, ending):
    with pytest.raises(UserError, match=words) as error:
        load(other(tmp_path / f"a{ending}", kind))
    assert str(tmp_path / f"a{ending}") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("index", [True, False])
def test_a_header_of_numbers_is_no_row(tmp_path, label, index):
    """pandas names unnamed columns 0, 1, 2, …; its index has no name."""
    vectors = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    frame = pd.DataFrame(vectors).assign(**({"label": [1, 2] * 3} if label else {}))
    frame.to_csv(tmp_path / "x.csv", index=index)
    found = load(tmp_path / "x.csv")
    np.testing.assert_allclose(found.vectors, vectors, rtol=1e-6)
    assert found.labels[:, 0].tolist() == ["1", "2"] * 3 if label else found.labels.shape[1] == 0


def test_numbers_with_decimal_commas(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    frame = pd.DataFrame(vectors, columns=["f0", "f1", "f2", "f3", "f4"]).assign(label=["a,b", "1,x"] * 3)
    frame.to_csv(tmp_path / "x.csv", index=False, sep=";", decimal=",")
    found = load(tmp_path / "x.csv")
    np.testing.assert_allclose(found.vectors, vectors, rtol=1e-6)
    assert found.labels[:, 0].tolist() == ["a,b", "1,x"] * 3


def test_vectors_of_a_last_pooling_and_a_turned_matrix(tmp_path):
    vectors, labels = np.random.default_rng(0).normal(size=(6, 5)), np.array(list("aabbcc"))
    for name, array in (("a", vectors[:, :, None, None]), ("b", vectors[:, None, :])):
        np.savez(tmp_path / f"{name}.npz", embeddings=array, labels=labels)
        np.testing.assert_allclose(load(tmp_path / f"{name}.npz").vectors, vectors, rtol=1e-6)
    np.savez(tmp_path / "turned.npz", embeddings=vectors.T, labels=labels)
    with pytest.raises(
        UserError, match=r"6 labels for 5 vectors; each is a column of the \(5, 6\) matrix: save it transposed"
    ):
        load(tmp_path / "turned.npz")
    np.savez(tmp_path / "cube.npz", embeddings=vectors.reshape(2, 3, 5))
    with pytest.raises(UserError, match="embeddings need two dimensions"):
        load(tmp_path / "cube.npz")


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.csv", "x.parquet"])
def test_what_stands_for_a_file_is_named(tmp_path, name):
    for content, words in (
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "fetch it with `git lfs pull`"),
        ("<!DOCTYPE html><html></html>", "is an HTML page, not the file itself"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=words):
            load(tmp_path / name)


def test_a_list_of_crops_is_no_table_of_vectors(tmp_path):
    (tmp_path / "crops.csv").write_text("path,crop_id,box_x,box_y,crop_x,crop_y\na.jpg,a_1,1,2,3,4\n")
    with pytest.raises(UserError, match="lists crops and their boxes, no vectors"):
        embeddings.load(tmp_path / "crops.csv")


# --- photos of files without sample ids


def test_rows_of_one_path_are_of_one_photo(tmp_path):
    photos = [f"shop/{row // 3}.jpg" for row in range(12)]
    frame = pd.DataFrame(ROWS, columns=list("abcd")).assign(product=NAMES, image_path=photos)
    frame.to_csv(tmp_path / "a.csv", index=False)
    read = load(tmp_path / "a.csv")
    assert read.label().tolist() == NAMES.tolist()
    assert read.sample_ids.tolist() == read.paths.tolist() == photos
    np.savez(tmp_path / "a.npz", X=ROWS, y=NAMES, f=photos)
    read = load(tmp_path / "a.npz", labels_key="y", paths_key="f")
    assert read.sample_ids.tolist() == photos
    assert read.meta["known_by_path"] == 4 / 12
    (told,) = [text for text in remarks(code_sets([read], [read]), Rule(exclude="sample")) if "paths" in text]
    assert told.startswith(
        f"nothing but paths names the photos of {tmp_path / 'a.npz'}: rows of one path count as crops"
    )
    assert load(tmp_path / "a.npz", labels_key="y").sample_ids.tolist() == [""] * 12


def test_sample_ids_that_repeat_name_photos_and_else_crops(tmp_path):
    photos = [f"photo {row // 3}" for row in range(12)]
    np.savez(tmp_path / "a.npz", embeddings=ROWS, labels=NAMES, sample_ids=photos)
    read = load(tmp_path / "a.npz")
    assert (read.sample_ids.tolist(), read.crop_ids.tolist()) == (photos, [""] * 12)
    crops = [f"crop {row}" for row in range(12)]
    np.savez(tmp_path / "a.npz", embeddings=ROWS, labels=NAMES, sample_ids=crops)
    read = load(tmp_path / "a.npz")
    assert (read.sample_ids.tolist(), read.crop_ids.tolist()) == ([""] * 12, crops)


def test_the_hint_at_labels_names_the_texts_of_a_table(tmp_path):
    frame = pd.DataFrame(ROWS, columns=list("abcd")).assign(sort=NAMES, shop=NAMES)
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UserError, match=r"name them with --labels_key \(sort \(12,\) text, shop \(12,\) text\)"):
        embedding_sets.read_sides([("--train_npz", [tmp_path / "a.csv"], "train")])


# --- what other tools save, and the lines that convert it


@pytest.mark.parametrize("kind", [int, bool, float])
def test_labels_with_a_single_1_in_each_row_are_their_columns(tmp_path, kind, capsys):
    hot = np.eye(3, dtype=kind)[np.arange(12) % 3]
    np.savez(tmp_path / "a.npz", embeddings=ROWS, labels=hot)
    np.savez(tmp_path / "b.npz", X=ROWS, y=hot)
    assert load(tmp_path / "a.npz").labels.tolist() == [[str(row % 3)] for row in range(12)]
    assert "'labels' (12, 3) has a single 1 in each row" in capsys.readouterr().err
    assert load(tmp_path / "b.npz", labels_key="y").label().tolist() == [str(row % 3) for row in range(12)]
    levels = np.array([[1, 1], [1, 0]] * 6)
    np.savez(tmp_path / "c.npz", embeddings=ROWS, labels=levels)
    assert load(tmp_path / "c.npz").labels.tolist() == levels.astype(str).tolist()


def test_rows_that_are_arrays_are_a_matrix_and_others_are_named(tmp_path):
    rows = np.empty(12, object)
    rows[:] = list(ROWS)
    np.savez(tmp_path / "a.npz", embeddings=rows, labels=NAMES)
    np.testing.assert_array_equal(load(tmp_path / "a.npz").vectors, ROWS)
    rows[3] = ROWS[3, :2]
    np.savez(tmp_path / "a.npz", embeddings=rows, labels=NAMES)
    with pytest.raises(UserError, match="no matrix of numbers but holds ndarray; save rows of one length"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", rows=np.array([{"embedding": row} for row in ROWS]))
    with pytest.raises(UserError, match="no matrix of numbers but holds dict;"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", embeddings=np.zeros((12, 5, 4)), labels=NAMES)
    with pytest.raises(UserError, match=r"of tokens save the first, x\[:, 0\], or the mean"):
        load(tmp_path / "a.npz")


def test_parquet_columns_that_are_no_vectors_say_why(tmp_path):
    path = tmp_path / "a.parquet"
    ragged = [row[: 4 - (number == 5)] for number, row in enumerate(ROWS)]
    pd.DataFrame({"label": NAMES, "embedding": ragged}).to_parquet(path)
    with pytest.raises(
        UserError, match="column 'embedding' holds lists of 4 numbers, but of 3 in row 5, counted from 0"
    ):
        load(path)
    with pytest.raises(UserError, match="column 'embedding' holds lists of 4 numbers, but of 3 in row 5"):
        load(path, key="embedding")
    pd.DataFrame({"image": [{"bytes": b"x", "path": "a.jpg"}] * 12, "label": range(12)}).to_parquet(path)
    with pytest.raises(UserError, match="column 'image' holds struct<bytes: binary, path: string>"):
        load(path)


def test_a_missing_vector_of_a_parquet_column_is_told_by_its_row(tmp_path, capsys):
    path = tmp_path / "a.parquet"
    pd.DataFrame(
        {"label": NAMES, "embedding": [None if row == 7 else list(ROWS[row]) for row in range(12)]}
    ).to_parquet(path)
    with pytest.raises(UserError, match=r"1 of 12 vectors are zero or not finite \(row 7, counted from 0\)"):
        load(path)
    np.testing.assert_array_equal(load(path, drop_invalid=True).vectors, np.delete(ROWS, 7, axis=0))
    assert "1 of 12 rows left out" in capsys.readouterr().err


def test_vectors_printed_short_are_named(tmp_path):
    long = [str(np.repeat(row, 400)) for row in ROWS]
    pd.DataFrame({"label": NAMES, "embedding": long}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UserError, match=r"'embedding' holds vectors that were cut short with '\.\.\.'"):
        load(tmp_path / "a.csv")


def test_columns_of_the_vectors_are_not_offered_one_by_one_as_labels(tmp_path):
    np.savetxt(tmp_path / "a.tsv", ROWS, delimiter="\t")
    with pytest.raises(UserError, match=r"--labels_key \(one of 0 to 3\), or give them with --labels FILE"):
        embedding_sets.read_sides([("--train_npz", [tmp_path / "a.tsv"], "train")])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("y.txt", "\r\n".join(NAMES).encode("utf-16")),
        ("y.txt", b"\xef\xbb\xbf" + "\n".join(NAMES).encode()),
        ("y.json", json.dumps(NAMES.tolist()).encode()),
        ("y.csv", pd.DataFrame({"path": NAMES, "Label": NAMES}).to_csv(index=False).encode()),
        ("y.tsv", pd.DataFrame({"category": NAMES, "n": range(12)}).to_csv(index=False, sep="\t").encode()),
    ],
)
def test_files_of_labels_as_tools_write_them(tmp_path, name, content):
    np.save(tmp_path / "a.npy", ROWS)
    (tmp_path / name).write_bytes(content)
    assert load(tmp_path / "a.npy", labels=[str(tmp_path / name)]).label().tolist() == NAMES.tolist()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("y.csv", "path,kind\na,b\n", r"has no column of labels \(path, kind\); call it label"),
        ("y.json", '[{"label": "a"}]', "is no JSON list of labels"),
    ],
)
def test_files_of_labels_that_say_none(tmp_path, name, content, words):
    np.save(tmp_path / "a.npy", ROWS)
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        load(tmp_path / "a.npy", labels=[str(tmp_path / name)])


ZEROS = [f"00{row % 3}" for row in range(12)]  # labels that a number would lose
FRAME = pd.DataFrame({"embedding": ROWS.tolist(), "label": ZEROS})
SAVED = {
    "torch": lambda path: torch.save(
        {"embeddings": torch.tensor(ROWS), "labels": ZEROS, "epoch": 3, "model": "m"}, path
    ),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"embeddings": ROWS, "labels": ZEROS})),
    "pickle of Python 2": lambda path: path.write_bytes(
        pickle.dumps({"embeddings": ROWS.tolist(), "labels": ZEROS}, 0)
    ),
    "frame": lambda path: FRAME.to_pickle(path),
    "lines": lambda path: FRAME.to_json(path, orient="records", lines=True),
    "records": lambda path: FRAME.to_json(path, orient="records"),
    "lists": lambda path: path.write_text(json.dumps({"embeddings": ROWS.tolist(), "labels": ZEROS})),
    "feather": lambda path: FRAME.to_feather(path),
    "matlab": lambda path: scipy.io.savemat(path, {"embeddings": ROWS, "labels": np.array(ZEROS, object)}),
    "safetensors": lambda path: safetensors.numpy.save_file({"embeddings": ROWS, "labels": np.arange(12) % 3}, path),
    "one by one": lambda path: np.savez(path, **{f"a/{row}.jpg": ROWS[row] for row in range(12)}),
}


@pytest.mark.parametrize("kind", SAVED)
def test_the_line_that_converts_a_file_works(tmp_path, kind):
    path = tmp_path / ("a.npz" if kind == "one by one" else "a.dat")
    SAVED[kind](path)
    before = {*tmp_path.iterdir()}
    with pytest.raises(UserError) as error:
        load(path)
    line = str(error.value).partition('python -c "')[2].rpartition('"')[0]
    subprocess.run([sys.executable, "-c", line], check=True)
    (new,) = {*tmp_path.iterdir()} - before
    read = load(new)
    np.testing.assert_allclose(read.vectors, ROWS, rtol=1e-6)
    if kind == "one by one":
        assert read.paths.tolist() == [f"a/{row}.jpg" for row in range(12)]
    else:
        assert read.label().tolist() == ([str(row % 3) for row in range(12)] if kind == "safetensors" else ZEROS)


# --- what spreadsheets and older habits make of arrays and labels


class Opens:
    """A pickle that would open a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_npy_of_python_objects_is_read_and_runs_nothing(tmp_path):
    np.save(tmp_path / "dict.npy", {"embeddings": ROWS, "labels": NAMES.tolist()}, allow_pickle=True)
    read = load(tmp_path / "dict.npy")
    np.testing.assert_array_equal(read.vectors, ROWS)
    assert read.label().tolist() == NAMES.tolist()
    np.save(tmp_path / "x.npy", ROWS)
    np.save(tmp_path / "y.npy", NAMES.astype(object), allow_pickle=True)
    assert load(tmp_path / "x.npy", labels=[str(tmp_path / "y.npy")]).label().tolist() == NAMES.tolist()
    np.save(tmp_path / "bad.npy", np.array([Opens(tmp_path / "made")], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"asks for io\.open, which is refused"):
        load(tmp_path / "bad.npy")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("table", ["excel", "unicode text", "savetxt", "first word"])
def test_tables_as_excel_and_numpy_write_them(tmp_path, table):
    """Excel writes a line for itself, decimal commas, columns and rows without content; its "Unicode text" is UTF-16."""
    numbers = [[f"{value:.7e}" for value in row] for row in ROWS]
    path = tmp_path / "a.csv"
    if table == "excel":
        lines = ["sep=;", "label;f0;f1;f2;f3;;"]
        lines += [f'"{name}";{";".join(row).replace(".", ",")};;' for name, row in zip(NAMES, numbers, strict=True)]
        path.write_bytes(("\ufeff" + "\r\n".join([*lines, ";" * 6, ";" * 6]) + "\r\n").encode())
    elif table == "unicode text":
        lines = ["label\tf0\tf1\tf2\tf3", *("\t".join([n, *row]) for n, row in zip(NAMES, numbers, strict=True))]
        path.write_bytes("\r\n".join(lines).encode("utf-16"))
    elif table == "savetxt":
        path = tmp_path / "a.txt"
        np.savetxt(path, ROWS)
        np.savetxt(tmp_path / "y.txt", NAMES, fmt="%s")
    else:
        path = tmp_path / "a.txt"
        path.write_text("\n".join(" ".join([n, *row]) for n, row in zip(NAMES, numbers, strict=True)))
    read = load(path, labels=[str(tmp_path / "y.txt")] if table == "savetxt" else ())
    np.testing.assert_allclose(read.vectors, ROWS, rtol=1e-6)
    assert read.label().tolist() == NAMES.tolist()


def test_a_table_that_is_not_utf8_says_so(tmp_path):
    (tmp_path / "a.csv").write_bytes("label,f0,f1\ncaf\xe9,1,2\n".encode("latin1"))
    with pytest.raises(UserError, match=r"a\.csv is not UTF-8; save it as UTF-8, for example with `iconv"):
        load(tmp_path / "a.csv")


def test_a_column_that_counts_the_rows_is_no_part_of_the_vectors(tmp_path, capsys):
    frame = pd.DataFrame(ROWS, columns=list("wxyz"))
    frame.assign(kind=NAMES).to_csv(tmp_path / "a.csv", index_label="row_number")
    np.testing.assert_allclose(load(tmp_path / "a.csv").vectors, ROWS, rtol=1e-6)
    assert "4 columns of numbers, 'w' to 'z'; no part of them: row_number" in capsys.readouterr().err


def test_a_negative_target_is_no_label(tmp_path):
    targets = np.arange(12) % 3
    targets[:2] = -1
    np.savez(tmp_path / "a.npz", embeddings=ROWS, targets=targets, classes=np.array(["ale", "brie", "cod"]))
    assert load(tmp_path / "a.npz").label().tolist()[:6] == ["", "", "cod", "ale", "brie", "cod"]
    np.savez(tmp_path / "b.npz", embeddings=ROWS, targets=targets - 1, classes=np.array(["ale", "brie", "cod"]))
    with pytest.raises(UserError, match="'targets' do not index the 3 'classes'"):
        load(tmp_path / "b.npz")


def test_probabilities_are_labels_by_their_largest(tmp_path, capsys):
    numbers = np.arange(12) % 3
    np.savez(tmp_path / "a.npz", embeddings=ROWS, labels=np.eye(3)[numbers] * 0.7 + 0.1)
    assert load(tmp_path / "a.npz").label().tolist() == list(map(str, numbers))
    assert "shares that add up to 1 in each row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.eye(3, dtype=int)[np.arange(12) % 3] | np.eye(3, dtype=int)[0], r"several 1, or none, in some rows"),
        (np.random.default_rng(0).normal(size=(12, 3)), "holds fractions, which are no labels"),
    ],
)
def test_numbers_that_name_no_class_are_no_labels(tmp_path, labels, told):
    np.savez(tmp_path / "a.npz", embeddings=ROWS, labels=labels)
    with pytest.raises(UserError, match=told):
        load(tmp_path / "a.npz")


def test_two_columns_of_numbers_are_two_levels_and_told(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", embeddings=ROWS, labels=np.stack([np.arange(12) % 2, np.arange(12) % 5], 1))
    assert load(tmp_path / "a.npz").label().tolist()[:3] == ["0/0", "1/1", "0/2"]
    assert "(12, 2) holds numbers, taken as 2 levels of one label" in capsys.readouterr().err


@pytest.mark.parametrize("entry", [["a", "b"], {"label": "a"}, ("a", "b"), np.array(["a", "b"])])
def test_lists_and_dicts_are_no_labels(tmp_path, entry):
    labels = np.empty(12, object)
    labels[:] = [["a"], *[entry] * 11]
    np.savez(tmp_path / "a.npz", embeddings=ROWS, labels=labels)
    with pytest.raises(UserError, match="'labels' is no list of texts; save it as an array of strings"):
        load(tmp_path / "a.npz")


def test_a_list_of_one_label_is_that_label(tmp_path):
    labels = np.empty(12, object)
    labels[:] = [[name] for name in NAMES.tolist()]
    np.savez(tmp_path / "a.npz", embeddings=ROWS, labels=labels)
    assert load(tmp_path / "a.npz").label().tolist() == NAMES.tolist()


def test_edges_of_a_file_of_labels_are_no_labels(tmp_path, capsys):
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "y.txt").write_bytes(("label\r\n" + "\r\n".join(NAMES) + "\r\n\r\n\r\n").encode())
    assert load(tmp_path / "x.npy", labels=[str(tmp_path / "y.txt")]).label().tolist() == NAMES.tolist()
    assert "its first line, 'label', names the column" in capsys.readouterr().err
    (tmp_path / "y.txt").write_text("\n".join(["first", *NAMES]))
    with pytest.raises(UserError, match=r"y\.txt has 13"):
        load(tmp_path / "x.npy", labels=[str(tmp_path / "y.txt")])


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_labels_in_npz_and_parquet(tmp_path, kind):
    np.save(tmp_path / "x.npy", ROWS)
    file = tmp_path / f"y.{kind}"
    np.savez(file, NAMES) if kind == "npz" else pd.DataFrame({"n": range(12), "label": NAMES}).to_parquet(file)
    assert load(tmp_path / "x.npy", labels=[str(file)]).label().tolist() == NAMES.tolist()


def test_labels_of_several_words_are_one_column(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "y.csv").write_text("\n".join(f"soft drink {name}" for name in NAMES))
    assert load(tmp_path / "x.npy", labels=[str(tmp_path / "y.csv")]).label()[0] == "soft drink c0"


def run_line(error) -> None:
    line = str(error.value).partition('python -c "')[2].rpartition('"')[0]
    subprocess.run([sys.executable, "-c", line], check=True)


def test_the_line_for_a_file_of_several_splits_parts_it(tmp_path):
    np.savez(tmp_path / "all.npz", train_X=ROWS, train_y=NAMES, test_X=ROWS[:5], test_y=NAMES[:5])
    with pytest.raises(UserError, match="holds several splits") as error:
        load(tmp_path / "all.npz")
    run_line(error)
    assert load(tmp_path / "all_test.npz").label().tolist() == NAMES[:5].tolist()
    np.testing.assert_array_equal(load(tmp_path / "all_train.npz").vectors, ROWS)


@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_the_line_for_a_structured_array_takes_it_apart(tmp_path, ending):
    table = np.empty(12, [("label", "U4"), ("vec", "f4", (4,))])
    table["label"], table["vec"] = NAMES, ROWS
    np.savez(tmp_path / "a.npz", table) if ending == "npz" else np.save(tmp_path / "a.npy", table)
    with pytest.raises(UserError, match="a table with the fields label, vec") as error:
        load(tmp_path / f"a.{ending}")
    run_line(error)
    assert load(tmp_path / "a_arrays.npz").label().tolist() == NAMES.tolist()


@pytest.mark.parametrize(
    ("start", "line"),
    [
        (b"BZh9", "bunzip2 -k"),
        (b"\xfd7zXZ\0", "unxz -k"),
        (b"\x28\xb5\x2f\xfd", "zstd -d"),
        (bytes(257) + b"ustar", "tar xf"),
    ],
)
def test_packed_embeddings_are_named_with_their_command(tmp_path, start, line):
    (tmp_path / "a.npz").write_bytes(start + bytes(100))
    with pytest.raises(UserError, match=f"unpack it first: {line} .*a.npz"):
        load(tmp_path / "a.npz")
