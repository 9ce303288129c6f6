"""view.py on a damaged Parquet file of npz_to_parquet.py: refused by name, or nothing that is shown differs."""

from __future__ import annotations

import random
from pathlib import Path

import builders
import pytest

import npz_to_parquet
from common import embeddings
from common.messages import UserError
from viewer.app import make_app
from viewer.parquet_rows import ParquetRows
from viewer.viewer_data import PictureSearch, ViewerData


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    embeddings.save(folder / "sets" / "shelf_10_train.npz", builders.make(60, 8, model="tiny"))
    out = folder / "whole.parquet"
    argv = ["--root", str(folder / "sets"), "--out", str(out), "--projection", "pca", "--neighbors", "3", "--quiet"]
    assert npz_to_parquet.main(argv) == 0
    return out


def shown(path: Path) -> list[object]:
    """Return all that the page can show of a file."""
    rows = ParquetRows(path)
    data = ViewerData([rows])
    near = [data.neighbours(0, row, scope) for row in (0, 31) for scope in ("all", "crops")]
    return [
        *(rows.row(row) for row in range(rows.n)),
        *(rows.codes(column) for column in ("label", *rows.columns)),
        rows.map(2)[0].tolist(),
        rows.vectors[:].tolist(),
        near,
        rows.model,
        data.sources(),
    ]


def test_every_flipped_bit_is_refused_by_name_or_changes_nothing(written, tmp_path):
    whole, rng, flipped = written.read_bytes(), random.Random(11), tmp_path / "flipped.parquet"
    good = repr(shown(written))
    refusals, same = [], 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        flipped.write_bytes(damaged)
        try:
            assert repr(shown(flipped)) == good
            same += 1
        except UserError as error:
            refusals.append(str(error))
    assert all(str(flipped) in text and ("npz_to_parquet.py" in text or "make it anew" in text) for text in refusals)
    print(f"400 flipped bits: {len(refusals)} refused by name, {same} change nothing, 0 silent")
    assert len(refusals) > 300


def test_damage_that_is_met_later_is_told_without_a_traceback(written, tmp_path, capsys):
    """The vectors are read when a point is chosen; the file was sound when it was opened."""
    whole = bytearray(written.read_bytes())
    later = tmp_path / "later.parquet"
    later.write_bytes(whole)
    data = ViewerData([ParquetRows(later)])
    whole[_place_of_vectors(written)] ^= 1
    with open(later, "r+b") as file:
        file.write(whole)
    client = make_app(data, PictureSearch(data), "127.0.0.1").server.test_client()
    inputs = [
        {"id": "focus", "property": "data", "value": {"file": 0, "row": 7}},
        {"id": "scope", "property": "value", "value": "crops"},
    ]
    names = ("near-box.hidden", "near-said.children", "neighbours.children", "near.data")
    outputs = [dict(zip(("id", "property"), name.split("."), strict=True)) for name in names]
    body = {"output": f"..{'...'.join(names)}..", "outputs": outputs, "inputs": inputs, "changedPropIds": []}
    answer = client.post("/_dash-update-component", json=body)
    assert answer.status_code == 200
    assert "later.parquet is not a sound Parquet file" in answer.json["response"]["near-said"]["children"]
    assert "Traceback" not in capsys.readouterr().err


def _place_of_vectors(path: Path) -> int:
    import pyarrow.parquet as pq

    group = pq.ParquetFile(path).metadata.row_group(0)
    column = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith("embedding"))
    return column.data_page_offset + column.total_compressed_size // 2
