"""The .npz schema: written aligned, read mapped, older files admitted, everything damaged or hostile refused with its name."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from builders import make, pickled

from common import embeddings, npz
from common.blocks import Blocks
from common.embeddings import EmbeddingSet
from common.messages import UserError


def test_round_trip_keeps_every_field_and_maps_the_vectors(tmp_path):
    one = make()
    path = tmp_path / "shelf_10_train.npz"
    embeddings.save(path, one)
    back = embeddings.load(path)
    np.testing.assert_array_equal(back.vectors, one.vectors)
    for name in ("labels", "crop_ids", "sample_ids", "paths"):
        np.testing.assert_array_equal(getattr(back, name), getattr(one, name))
    assert isinstance(back.vectors, np.memmap)
    assert back.vectors.offset % 64 == 0
    assert (back.id, back.split, back.dataset, back.fingerprint, back.dim) == ("10", "train", "shelf", "f", 7)
    with np.load(path) as plain:  # numpy itself reads it without pickle, and the vectors come first
        assert plain.files[0] == "embeddings"
        assert json.loads(str(plain["meta"]))["format_version"] == 1


def test_equal_sets_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        embeddings.save(tmp_path / f"{name}.npz", make())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_label_is_the_whole_path_and_a_missing_level_ends_it():
    one = make(3)
    assert one.label().tolist() == ["brand0", "brand1/taste1", "brand0/taste2"]
    assert one.label(0).tolist() == ["brand0", "brand1", "brand0"]
    with pytest.raises(UserError, match="levels 0 to 1, not 2"):
        one.label(2)


def test_blocks_slice_and_index_like_the_concatenation():
    parts = [make(n, seed=n).vectors for n in (4, 1, 6)]
    whole, blocks = np.concatenate(parts), Blocks(parts)
    assert blocks.shape == whole.shape
    for rows in (slice(0, 3), slice(3, 8), slice(2, 11, 3), slice(11, 20), np.array([10, 0, 4, -1]), whole[:, 0] > 0):
        np.testing.assert_array_equal(blocks[rows], whole[rows])
    np.testing.assert_array_equal(np.asarray(blocks), whole)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flipped", "damaged"),
        ("length_mismatch", "7 labels for 20 vectors"),
        ("lying_header", "promises 3,072,000,000,000 bytes, it holds 100"),
        ("malicious_pickle", "posix.system, which is refused"),
        ("nan_inf_zero", "3 of 20 vectors are zero or not finite .row 3, 4, 5"),
        ("no_embeddings", "has no array 'embeddings'; it has: labels"),
        ("not_a_zip", "no .npz file"),
        ("one_dimension", "two dimensions"),
        ("text_embeddings", "not numbers"),
        ("truncated", "no .npz file"),
        ("zero_rows", "no vectors"),
    ],
)
def test_broken_files_are_named_with_the_reason(study_data, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    path = study_data / "broken" / f"{name}.npz"
    with pytest.raises(UserError, match=message) as caught:
        embeddings.load(path)
    assert path.name in str(caught.value)
    assert not list(tmp_path.iterdir()), "reading must leave nothing behind"


def test_invalid_rows_can_be_dropped_and_are_counted(study_data, capsys):
    kept = embeddings.load(study_data / "broken" / "nan_inf_zero.npz", drop_invalid=True)
    good = embeddings.load(study_data / "broken" / "good.npz")
    assert len(kept) == 17
    np.testing.assert_array_equal(kept.vectors, np.delete(good.vectors, [3, 4, 5], axis=0))
    assert "3 of 20 rows left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stem", "identity", "key"),
    [
        ("image_0", "0", None),
        ("image_10", "10", "shop"),
        ("labels", "labels", None),
        ("targets_only", "targets_only", None),
    ],
)
def test_older_files_are_read_and_agree(study_data, stem, identity, key):
    plain = embeddings.load(study_data / "legacy" / "image_0_test.npz")
    one = embeddings.load(study_data / "legacy" / f"{stem}_test.npz", key)
    assert (one.id, one.split, one.vectors.shape) == (identity, "test", (288, 1280))
    assert one.label().tolist() == plain.label().tolist()
    assert one.crop_ids.tolist() == plain.crop_ids.tolist()
    assert len(set(one.label())) == 24


def test_a_wrong_key_says_what_there_is(study_data):
    with pytest.raises(
        UserError, match=r"has no array 'train'; it has: embeddings, labels, crop_ids. Try --key embeddings"
    ):
        embeddings.load(study_data / "broken" / "good.npz", "train")


class _Evil:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize(
    "evil",
    [
        _Evil(eval, "open('RAN', 'w')"),
        _Evil(__import__("os").system, "touch RAN"),
        _Evil(getattr, dict, "fromkeys"),
        _Evil(np.zeros, 10**12),
        _Evil(np.ndarray, (10**12,)),
        _Evil(bytearray, 10**12),
        _Evil(__import__("importlib").import_module, "antigravity"),
    ],
)
def test_nothing_in_a_pickle_runs(tmp_path, monkeypatch, evil):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil_test.npz"
    pickled(path, {"embeddings": np.ones((2, 2), np.float32), "x": evil})
    with pytest.raises(UserError, match=r"evil_test.npz: the pickle in 'test'"):
        embeddings.load(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["evil_test.npz"]


def test_a_pickle_that_names_a_far_memo_slot_costs_no_memory(tmp_path):
    entry = io.BytesIO()
    np.lib.format.write_array_header_1_0(entry, {"descr": "|O", "fortran_order": False, "shape": ()})
    entry.write(b"\x80\x04}r\xff\xff\xff\x7f.")  # LONG_BINPUT 2**31 - 1: the C unpickler would reserve 32 GiB
    path = tmp_path / "memo.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", entry.getvalue())
    with pytest.raises(UserError, match="dict without 'embeddings'"):
        embeddings.load(path)


def test_compressed_and_wide_and_foreign_orders_are_read(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(6, 4))
    layouts = [
        vectors,
        vectors.astype(">f4"),
        np.asfortranarray(vectors.astype(np.float32)),
        vectors.astype(np.float16),
    ]
    for number, layout in enumerate(layouts):
        for write in (np.savez, np.savez_compressed):
            path = tmp_path / f"{number}_{write.__name__}.npz"
            write(path, layout, labels=np.array(list("aabbcc")))
            with zipfile.ZipFile(path) as archive:
                assert "arr_0.npy" in archive.namelist()
            one = embeddings.load(path, "arr_0")
            assert one.vectors.dtype == np.float32
            np.testing.assert_allclose(one.vectors, vectors, rtol=2e-3, atol=1e-3)
            assert one.label().tolist() == list("aabbcc")


def test_a_zip_bomb_is_not_inflated(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("embeddings.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(entry, {"descr": "<f4", "fortran_order": False, "shape": (1 << 18, 256)})
        for _ in range(256):
            entry.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match="far more than it can hold"):
        npz.Archive(path)


def test_lengths_are_checked_when_written_too(tmp_path):
    one = make()
    wrong = EmbeddingSet(one.vectors, one.labels[:3], one.crop_ids, one.sample_ids, one.paths, one.meta)
    with pytest.raises(UserError, match="3 labels for 5 vectors"):
        embeddings.save(tmp_path / "x.npz", wrong)
    assert not list(tmp_path.iterdir())


def test_a_newer_format_asks_for_newer_scripts(tmp_path):
    embeddings.save(tmp_path / "x.npz", make(format_version=99))
    with pytest.raises(UserError, match="has format 99"):
        embeddings.load(tmp_path / "x.npz")
