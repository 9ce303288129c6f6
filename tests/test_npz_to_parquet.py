"""npz_to_parquet.py: what pandas and DuckDB read back is what went in; neighbours and joins equal a brute computation."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import npz_to_parquet
from common import embeddings
from common.embeddings import EmbeddingSet
from export import parquet_table


def make(path: Path, n: int = 12, *, dim: int = 8, seed: int = 0, levels: int = 2, **meta: object) -> EmbeddingSet:
    """Save and return a set of n crops in four photos, the class levels uneven."""
    rng = np.random.default_rng(seed)
    known = {"dataset_name": "shelf", "id": "10", "split": "test", "padding": "10", "model": "timm/tiny"}
    known |= {"fingerprint": "f" * 64, "data_root": "/photos"}
    labels = np.array([[f"brand {i % 2}", f"flavour {i % 3}" if i % 3 else ""][:levels] for i in range(n)], dtype=str)
    crops = np.array([f"img{i % 4}_{i}" for i in range(n)])
    one = EmbeddingSet(
        rng.normal(size=(n, dim)).astype(np.float32),
        labels.reshape(n, levels),
        crops,
        np.array([f"img{i % 4}" for i in range(n)]),
        np.array([f"test/brand {i % 2}/{crop}.jpg" for i, crop in enumerate(crops)]),
        {**known, **meta},
    )
    embeddings.save(path, one)
    return one


def convert(*argv: object) -> pd.DataFrame:
    """Run the script, which must succeed, and read its Parquet with pandas."""
    argv = tuple(map(str, argv))
    assert npz_to_parquet.main(argv) == 0
    return pd.read_parquet(argv[argv.index("--out") + 1])


def test_every_column_comes_back(tmp_path):
    first = make(tmp_path / "e" / "shelf_10_test.npz")
    second = make(tmp_path / "e" / "shelf_20_test.npz", 5, seed=1, levels=1, id="20", padding="20")
    frame = convert("--root", tmp_path / "e", "--out", tmp_path / "a.parquet")
    assert len(frame) == 17
    np.testing.assert_array_equal(np.stack(frame["embedding"]), np.concatenate([first.vectors, second.vectors]))
    assert frame["dataset_name"].unique().tolist() == ["shelf"]
    assert frame["id"].tolist() == ["10"] * 12 + ["20"] * 5
    assert frame["padding"].tolist() == frame["id"].tolist()
    assert frame["crop_id"].tolist() == [*first.crop_ids, *second.crop_ids]
    assert frame["sample_id"].tolist() == [*first.sample_ids, *second.sample_ids]
    assert frame["source_file"][3] == "/photos/test/brand 1/img3_3.jpg"
    names = ["shelf_10_test.npz"] * 12 + ["shelf_20_test.npz"] * 5
    assert frame["source_npz"].tolist() == [str(tmp_path / "e" / name) for name in names]
    assert frame["class_0"].tolist() == [*first.labels[:, 0], *second.labels[:, 0]]
    assert frame["class_1"].isna().tolist() == [*(first.labels[:, 1] == ""), *[True] * 5]
    assert frame["class_1"][1] == "flavour 1"
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert str(file.schema_arrow.field("embedding").type).startswith("fixed_size_list<element: float")
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    facts = json.loads(file.schema_arrow.metadata[b"sets"])
    assert [(one["id"], one["rows"], one["fingerprint"]) for one in facts] == [
        ("10", 12, "f" * 64),
        ("20", 5, "f" * 64),
    ]
    assert "source" not in facts[0]


def test_duckdb_reads_it(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    one = make(tmp_path / "a_10_test.npz")
    convert("--root", tmp_path / "a_10_test.npz", "--out", tmp_path / "a.parquet", "--neighbors", 3)
    where = str(tmp_path / "a.parquet")
    rows = duckdb.sql(f"select class_0, count(*), sum(embedding[1]) from '{where}' group by all order by 1").fetchall()
    assert [row[:2] for row in rows] == [("brand 0", 6), ("brand 1", 6)]
    np.testing.assert_allclose(
        [row[2] for row in rows], [one.vectors[0::2, 0].sum(), one.vectors[1::2, 0].sum()], rtol=1e-5
    )
    types = dict(duckdb.sql(f"select column_name, column_type from (describe select * from '{where}')").fetchall())
    assert types["neighbors"] == "STRUCT(ids BIGINT[], distances DOUBLE[])"


def brute(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, np.inf)
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distance, order, axis=1)


def test_neighbours_run_over_the_whole_file(tmp_path):
    parts = [make(tmp_path / f"a_{p}_test.npz", 40, seed=p, id=str(p)).vectors for p in (0, 10, 5)]
    frame = convert("--root", tmp_path, "--out", tmp_path / "a.parquet", "--neighbors", 7)
    ids, distances = brute(np.concatenate(parts), 7)
    np.testing.assert_array_equal(np.stack([cell["ids"] for cell in frame["neighbors"]]), ids)
    found = np.stack([cell["distances"] for cell in frame["neighbors"]])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, distances, atol=2e-6)


def test_a_row_is_not_its_own_neighbour_even_among_equal_rows(tmp_path):
    one = make(tmp_path / "a_0_test.npz", 6)
    one.vectors[:] = one.vectors[0]
    embeddings.save(tmp_path / "a_0_test.npz", one)
    frame = convert("--root", tmp_path, "--out", tmp_path / "a.parquet", "--neighbors", 3)
    for row, cell in enumerate(frame["neighbors"]):
        assert row not in cell["ids"]
        assert len(set(cell["ids"])) == 3
        np.testing.assert_allclose(cell["distances"], 0, atol=1e-6)
        assert (cell["distances"] >= 0).all()


def test_shards_are_one_file_in_order(tmp_path):
    parts = [make(tmp_path / f"a_0_train_0000{s}-of-00003.npz", 9, seed=s, split="train") for s in range(3)]
    frame = convert("--root", tmp_path, "--out", tmp_path / "a.parquet")
    np.testing.assert_array_equal(np.stack(frame["embedding"]), np.concatenate([part.vectors for part in parts]))
    (tmp_path / "a_0_train_00001-of-00003.npz").unlink()
    assert npz_to_parquet.main(["--root", str(tmp_path), "--out", str(tmp_path / "b.parquet")]) == 1
    assert not (tmp_path / "b.parquet").exists()


def test_row_groups_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_table, "ROW_GROUP", 5)
    one = make(tmp_path / "a_0_test.npz", 12)
    frame = convert("--root", tmp_path, "--out", tmp_path / "a.parquet", "--neighbors", 2, "--projection", "pca")
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert [file.metadata.row_group(at).num_rows for at in range(3)] == [5, 5, 2]
    np.testing.assert_array_equal(np.stack(frame["embedding"]), one.vectors)
    np.testing.assert_array_equal(np.stack([cell["ids"] for cell in frame["neighbors"]]), brute(one.vectors, 2)[0])


def test_wide_rows_make_small_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_table, "GROUP_BYTES", 4 * 8 * 3)  # three rows of eight numbers
    make(tmp_path / "a_0_test.npz", 7)
    convert("--root", tmp_path, "--out", tmp_path / "a.parquet")
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.num_row_groups == 3


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_projection_columns(tmp_path, method, dimensions):
    make(tmp_path / "a_0_test.npz", 20)
    frame = convert(
        "--root", tmp_path, "--out", tmp_path / "a.parquet", "--projection", method, "--dimensions", dimensions
    )
    names = [f"projection_{axis}" for axis in "xyz"[:dimensions]]
    assert [name for name in frame if name.startswith("projection")] == names
    assert frame[names].dtypes.unique().tolist() == [np.float32]
    assert (frame[names].std() > 0).all()


def test_csv_holds_ids_labels_and_map(tmp_path):
    make(tmp_path / "a_0_test.npz")
    argv = ["--root", str(tmp_path), "--out", str(tmp_path / "a.csv"), "--projection", "pca"]
    assert npz_to_parquet.main(argv) == 0
    frame = pd.read_csv(tmp_path / "a.csv")
    assert len(frame) == 12
    assert {"dataset_name", "split", "id", "crop_id", "class_0", "class_1", "projection_x", "projection_y"} <= set(
        frame
    )
    assert "embedding" not in frame
    assert frame["crop_id"][5] == "img1_5"


def pictures(root: Path, paths: np.ndarray) -> None:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / path), np.full((60, 100, 3), 20 * number, np.uint8))


def test_thumbnails_keep_their_shape_and_lost_ones_are_named(tmp_path, capsys):
    one = make(tmp_path / "a_0_test.npz", data_root=str(tmp_path / "crops"))
    pictures(tmp_path / "crops", one.paths)
    (tmp_path / "crops" / one.paths[2]).unlink()
    (tmp_path / "crops" / one.paths[5]).write_bytes(b"no picture")
    frame = convert("--root", tmp_path, "--out", tmp_path / "a.parquet", "--thumbnails", 50)
    assert [row for row, cell in enumerate(frame["image"]) if cell is None] == [2, 5]
    for row in (0, 11):
        cell = frame["image"][row]
        image = cv2.imdecode(np.frombuffer(cell["bytes"], np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (30, 50, 3)
        assert abs(image.mean() - 20 * row) < 2
        assert cell["path"] == frame["source_file"][row] == str(tmp_path / "crops" / one.paths[row])
    said = capsys.readouterr().err
    assert "2 of 12 pictures left empty (1 image missing, 1 not an image)" in said
    assert one.paths[2] in said
    assert one.paths[5] in said


def test_pictures_that_have_moved_are_found_by_data_root(tmp_path):
    one = make(tmp_path / "a_0_test.npz", data_root="/gone")
    pictures(tmp_path / "here", one.paths)
    frame = convert(
        "--root", tmp_path, "--out", tmp_path / "a.parquet", "--thumbnails", 16, "--data_root", tmp_path / "here"
    )
    assert frame["image"].notna().all()
    assert frame["source_file"][0] == str(tmp_path / "here" / one.paths[0])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_predictions_join_by_dataset_split_id_and_crop(tmp_path, suffix, capsys):
    for name in ("0", "10"):
        make(tmp_path / "e" / f"a_{name}_test.npz", id=name)
    rows = [
        ("shelf", "test", "10", "img1_1", "brand 0", False, 0.25),
        ("shelf", "test", "0", "img2_2", "NA", True, np.nan),
    ]
    rows += [("shelf", "train", "0", "img3_3", "brand 1", True, 1.0)]
    names = ["dataset_name", "split", "id", "crop_id", "predicted", "correct", "margin"]
    table, file = pd.DataFrame(rows, columns=names), tmp_path / f"p.{suffix}"
    table.to_csv(file, index=False) if suffix == "csv" else table.to_parquet(file, index=False)
    frame = convert("--root", tmp_path / "e", "--out", tmp_path / "a.parquet", "--predictions", file)
    known = frame[frame["predicted"].notna()]
    assert known.index.tolist() == [2, 13]
    assert known["predicted"].tolist() == ["NA", "brand 0"]
    assert known["correct"].tolist() == [True, False]
    assert known["margin"].isna().tolist() == [True, False]
    assert known["margin"][13] == 0.25
    assert frame["correct"].isna().sum() == 22
    assert "1 of its 3 rows name no crop" in capsys.readouterr().err


def test_a_decision_of_several_sets_holds_for_the_rows_of_each(tmp_path):
    for name in ("0", "5", "10"):
        make(tmp_path / "e" / f"a_{name}_test.npz", 4, id=name)
    (tmp_path / "p.csv").write_text(
        "dataset,split,id,crop_id,predicted,correct,margin\nshelf,test,0+10,img1_1,brand 1,True,0.5\n"
    )
    frame = convert("--root", tmp_path / "e", "--out", tmp_path / "a.parquet", "--predictions", tmp_path / "p.csv")
    assert frame[frame["predicted"].notna()][["id", "crop_id"]].values.tolist() == [["0", "img1_1"], ["10", "img1_1"]]


def test_flips_without_an_id_hold_at_every_padding(tmp_path):
    for name in ("0", "10"):
        make(tmp_path / "e" / f"a_{name}_test.npz", 4, id=name)
    (tmp_path / "f.csv").write_text("dataset_name,split,crop_id,flip\nshelf,test,img2_2,rescued\n")
    frame = convert("--root", tmp_path / "e", "--out", tmp_path / "a.parquet", "--flips", tmp_path / "f.csv")
    assert frame["flip"].fillna("").tolist() == ["", "", "rescued", ""] * 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,b\n1,2\n", "has no column dataset_name, split, crop_id"),
        ("", "cannot be read"),
        ("dataset,split,crop_id,predicted,correct,margin\nx,test,y,a,True,0\n", "none of its 1 rows names a crop"),
        ("dataset,split,crop_id,predicted,correct,margin\nshelf,test,img0_0,a,maybe,0\n", "cannot be read"),
        ("dataset,split,crop_id,predicted,correct,margin\n" + "shelf,test,img0_0,a,True,0\n" * 2, "two rows for"),
    ],
)
def test_predictions_that_do_not_fit_are_one_sentence(tmp_path, capsys, content, says):
    make(tmp_path / "a_0_test.npz")
    (tmp_path / "p.csv").write_text(content)
    argv = ["--root", str(tmp_path), "--out", str(tmp_path / "a.parquet"), "--predictions", str(tmp_path / "p.csv")]
    assert npz_to_parquet.main(argv) == 1
    said = capsys.readouterr().err.strip()
    assert says in said
    assert "p.csv" in said
    assert said.count("\n") == 0
    assert not (tmp_path / "a.parquet").exists()


def test_models_are_never_mixed(tmp_path, capsys):
    make(tmp_path / "a_0_test.npz", model="timm/one", fingerprint="1" * 64)
    make(tmp_path / "b_0_test.npz", model="hf/some/two", fingerprint="2" * 64, dim=6, id="5")
    argv = ["--root", str(tmp_path), "--out", str(tmp_path / "a.parquet")]
    assert npz_to_parquet.main(argv) == 2
    said = capsys.readouterr().err
    assert "timm_one" in said
    assert "hf_some_two" in said
    assert "{model}" in said
    assert list(tmp_path.glob("*.parquet")) == []
    assert npz_to_parquet.main([*argv[:2], "--out", str(tmp_path / "the {model}.parquet")]) == 0
    assert f"embedding-atlas '{tmp_path}/the timm_one.parquet' --vector" in capsys.readouterr().err
    assert npz_to_parquet.main([*argv[:2], "--out", str(tmp_path / "{model}.parquet")]) == 0
    assert len(pd.read_parquet(tmp_path / "timm_one.parquet")["embedding"][0]) == 8
    assert len(pd.read_parquet(tmp_path / "hf_some_two.parquet")["embedding"][0]) == 6


def test_two_trainings_of_one_architecture_are_two_models(tmp_path):
    make(tmp_path / "a_0_test.npz", fingerprint="1" * 64)
    make(tmp_path / "b_0_test.npz", fingerprint="2" * 64)
    assert npz_to_parquet.main(["--root", str(tmp_path), "--out", str(tmp_path / "{model}.parquet")]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == [
        "timm_tiny-22222222.parquet",
        "timm_tiny.parquet",
    ]


def test_a_foreign_file_joins_the_model_of_its_dimension_with_a_note(tmp_path, capsys):
    make(tmp_path / "a_0_test.npz")
    np.savez(tmp_path / "foreign_5_test.npz", embeddings=np.ones((3, 8), np.float32))
    frame = convert("--root", tmp_path, "--out", tmp_path / "a.parquet")
    assert frame["id"].tolist() == ["10"] * 12 + ["5"] * 3
    assert frame["crop_id"].isna().tolist() == [False] * 12 + [True] * 3
    assert "does not tell its model" in capsys.readouterr().err


def test_unlabelled_embeddings_have_no_class_columns(tmp_path):
    np.savez(tmp_path / "x.npz", np.eye(4, dtype=np.float32))
    frame = convert("--root", tmp_path / "x.npz", "--out", tmp_path / "a.parquet")
    assert len(frame) == 4
    assert not [name for name in frame if name.startswith("class_")]


def test_one_set_twice_is_said(tmp_path, capsys):
    make(tmp_path / "a_0_test.npz")
    make(tmp_path / "backup" / "a_0_test.npz")
    assert len(convert("--root", tmp_path, "--out", tmp_path / "a.parquet")) == 24
    assert "are the same set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--out", "a.xlsx"], 2, "end the name in .parquet or .csv"),
        (["--out", "a.csv", "--neighbors", "2"], 2, "a .csv file holds no --neighbors"),
        (["--out", "a.parquet", "--neighbors", "12"], 1, "the files have 12 rows in all"),
        (["--out", "a.parquet", "--neighbors", "0"], 2, "0 is not 1 or more"),
        (["--out", "a.parquet", "--predictions", "none.csv"], 1, "none.csv"),
        (["--out", "a.parquet", "--projection", "mds"], 2, "invalid choice"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, monkeypatch, capsys, options, code, says):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "e" / "a_0_test.npz")
    assert npz_to_parquet.main(["--root", "e", *options]) == code
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert list(tmp_path.glob("a.*")) == []


def test_no_embeddings_is_one_sentence(tmp_path, capsys):
    assert npz_to_parquet.main(["--root", str(tmp_path), "--out", str(tmp_path / "a.parquet")]) == 1
    assert "no .npz files" in capsys.readouterr().err
    assert npz_to_parquet.main(["--root", str(tmp_path / "none"), "--out", str(tmp_path / "a.parquet")]) == 1


def test_a_failed_run_leaves_the_old_file(tmp_path, monkeypatch):
    make(tmp_path / "a_0_test.npz")
    convert("--root", tmp_path, "--out", tmp_path / "a.parquet")
    before = (tmp_path / "a.parquet").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    assert npz_to_parquet.main(["--root", str(tmp_path), "--out", str(tmp_path / "a.parquet")]) == 1
    assert (tmp_path / "a.parquet").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "a_0_test.npz"]


def test_equal_runs_give_equal_files(tmp_path):
    make(tmp_path / "a_0_test.npz", 30)
    for name in ("a", "b"):
        convert("--root", tmp_path, "--out", tmp_path / f"{name}.parquet", "--projection", "tsne", "--neighbors", 4)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_older_files_of_real_embeddings_are_read(tmp_path, study_data):
    source = study_data / "legacy" / "image_0_test.npz"
    frame = convert("--root", source, "--out", tmp_path / "a.parquet", "--neighbors", 5)
    with np.load(source, allow_pickle=True) as archive:  # our own data, written for these tests
        old = archive[archive.files[0]].item()
    np.testing.assert_array_equal(np.stack(frame["embedding"]), old["embeddings"])
    assert set(frame["source_npz"]) == {str(source.resolve())}
    ids, _ = brute(np.asarray(old["embeddings"]), 1)
    assert np.mean([cell["ids"][0] for cell in frame["neighbors"]] == ids[:, 0]) > 0.99


def test_broken_files_are_one_sentence(tmp_path, study_data, capsys):
    for path in sorted((study_data / "broken").glob("*.npz")):
        code = npz_to_parquet.main(["--root", str(path), "--out", str(tmp_path / "a.parquet")])
        said = capsys.readouterr().err
        assert code in (0, 1), path
        assert "Traceback" not in said
        if code:
            assert path.name in said
            assert not (tmp_path / "a.parquet").exists()
        else:
            (tmp_path / "a.parquet").unlink()
    assert not Path("PICKLE_WAS_EXECUTED").exists()
