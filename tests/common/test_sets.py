"""Which files form a set, and which side a set stands on."""

from __future__ import annotations

import numpy as np
import pytest
from builders import make

from common import embedding_sets, embeddings, labels, messages
from common.messages import UserError


def sides(references, queries):
    return [("--train_npz", references, "train"), ("--test_npz", queries, "test")]


@pytest.fixture
def folder(tmp_path):
    for identity in ("0", "10"):
        for split in ("train", "test"):
            embeddings.save(tmp_path / f"shelf_{identity}_{split}.npz", make(id=identity, split=split))
    return tmp_path


def test_folder_glob_and_files_give_the_same_sets(folder):
    from_folder = embedding_sets.read_sets([folder])
    from_glob = embedding_sets.read_sets([f"{folder}/*.npz"])
    from_files = embedding_sets.read_sets(sorted(folder.glob("*.npz")))
    keys = [[(one.id, one.split) for one in some] for some in (from_folder, from_glob, from_files)]
    assert keys[0] == keys[1] == keys[2] == [("0", "test"), ("0", "train"), ("10", "test"), ("10", "train")]


def test_the_same_glob_on_both_sides_is_split_and_says_what_it_left_out(folder, capsys):
    references, queries = embedding_sets.read_sides(sides([f"{folder}/*.npz"], [f"{folder}/*.npz"]))
    assert [(one.id, one.split) for one in references] == [("0", "train"), ("10", "train")]
    assert [(one.id, one.split) for one in queries] == [("0", "test"), ("10", "test")]
    assert capsys.readouterr().err == ""  # each file is on one side
    embedding_sets.read_sides(sides([f"{folder}/*_train.npz"], [f"{folder}/*.npz"])[:1] + sides([folder], [folder])[:1])
    said = "not used, as no option takes their split: 2 sets of test (--verbose names the files)\n"
    assert capsys.readouterr().err == said
    messages.set_verbose(True)
    try:
        embedding_sets.read_sides(sides([f"{folder}/*.npz"], [f"{folder}/*.npz"]))
    finally:
        messages.set_verbose(False)
    assert "left out: shelf_0_test.npz, shelf_10_test.npz" in capsys.readouterr().err


def test_a_file_without_split_cannot_stand_on_both_sides_by_accident(tmp_path):
    path = tmp_path / "shelf_0.npz"
    embeddings.save(path, make(id="0", split=""))
    with pytest.raises(UserError, match="id=path"):
        embedding_sets.read_sides(sides([path], [path]))
    references, queries = embedding_sets.read_sides(sides([f"a={path}"], [f"a={path}"]))
    assert references[0].id == queries[0].id == "a"


def test_one_id_twice_on_a_side_asks_for_names(folder, tmp_path):
    embeddings.save(tmp_path / "other_0_train.npz", make(id="0", dataset_name="other"))
    with pytest.raises(UserError, match=r"ID '0' twice .*id=path"):
        embedding_sets.read_sides(sides([folder], [folder]))
    references, _ = embedding_sets.read_sides(
        sides([folder / "shelf_0_train.npz", f"b={tmp_path / 'other_0_train.npz'}"], [folder / "shelf_0_test.npz"])
    )
    assert [one.id for one in references] == ["0", "b"]


def test_a_side_without_its_split_says_which_there_are(folder):
    with pytest.raises(UserError, match="no set of split 'test', only train"):
        embedding_sets.read_sides(sides([folder], [folder / "shelf_0_train.npz"]))


def test_shards_become_one_set_and_a_missing_one_is_an_error(tmp_path):
    whole = make(10)
    for number, rows in enumerate(np.array_split(np.arange(10), 3)):
        embeddings.save(tmp_path / f"shelf_10_train_{number:05d}-of-00003.npz", whole.take(rows))
    (one,) = embedding_sets.read_sets([tmp_path])
    np.testing.assert_array_equal(np.asarray(one.vectors), whole.vectors)
    assert one.crop_ids.tolist() == whole.crop_ids.tolist()
    assert [len(block) for block in one.blocks] == [4, 3, 3]
    (tmp_path / "shelf_10_train_00001-of-00003.npz").unlink()
    with pytest.raises(UserError, match=r"shards missing .*\[1\]"):
        embedding_sets.read_sets([tmp_path])


def test_unlabelled_rows_are_left_out_and_counted_and_none_is_an_error(tmp_path, capsys):
    one = make(4)
    one.labels[1] = ""
    embeddings.save(tmp_path / "a_0_train.npz", one)
    embeddings.save(tmp_path / "a_0_test.npz", make(4, split="test"))
    references, _ = embedding_sets.read_sides(sides([tmp_path], [tmp_path]))
    assert len(references[0]) == 3
    assert "1 of 4 rows have no label" in capsys.readouterr().err
    one.labels[:] = ""
    embeddings.save(tmp_path / "a_0_train.npz", one)
    with pytest.raises(UserError, match="nothing to score"):
        embedding_sets.read_sides(sides([tmp_path], [tmp_path]))


@pytest.mark.parametrize("missing", ["no/such.npz", "no*.npz"])
def test_a_wrong_path_is_named(missing, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        embedding_sets.read_sets([tmp_path / missing])
    with pytest.raises(UserError, match=r"no \.npz files in this folder"):
        embedding_sets.read_sets([tmp_path])


def test_ids_come_in_natural_order():
    assert sorted(["20", "5", "10-vit", "7.5", "10", "w5h3", "all"], key=labels.natural) == [
        "5",
        "7.5",
        "10",
        "10-vit",
        "20",
        "all",
        "w5h3",
    ]


def test_sides_are_in_natural_order_unless_the_user_names_them(tmp_path):
    for identity in ("0", "10", "5"):
        embeddings.save(tmp_path / f"d_{identity}_train.npz", make(4, id=identity, split="train"))
    files = sorted(tmp_path.glob("*.npz"))  # as a shell lists them
    (references,) = embedding_sets.read_sides([("--train_npz", files, "train")])
    assert [one.id for one in references] == ["0", "5", "10"]
    named = [f"b={files[0]}", f"a={files[1]}"]
    (references,) = embedding_sets.read_sides([("--train_npz", named, "train")])
    assert [one.id for one in references] == ["b", "a"]


def test_swapped_sides_are_told_where_their_files_belong(folder):
    swapped = sides([folder / "shelf_0_test.npz"], [folder / "shelf_0_train.npz"])
    with pytest.raises(UserError, match="only test; give test to --test_npz, change --reference_split, or add files"):
        embedding_sets.read_sides(swapped)


def test_an_id_of_two_data_sets_names_the_option_that_scores_both(tmp_path):
    for name in ("a", "b"):
        embeddings.save(tmp_path / f"{name}_0_train.npz", make(4, split="train", dataset_name=name))
    with pytest.raises(
        UserError, match=r"twice .*; name them: id=path, or score data sets together with .*across_datasets"
    ):
        embedding_sets.read_sides([("--train_npz", [tmp_path], "train")])
