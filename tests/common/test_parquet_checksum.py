"""A bit that changes in a Parquet file is refused by name, or changes nothing that is read."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common import parquet_checksum
from common.messages import UserError


def write(path, n: int = 40) -> None:
    rng = np.random.default_rng(0)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=4 * n).astype(np.float32)), 4)
    texts = [f"crop {row}" if row % 5 else None for row in range(n)]
    table = pa.table({"embedding": vectors, "crop_id": texts, "correct": [row % 2 == 0 for row in range(n)]})
    table = table.replace_schema_metadata({"sets": '[{"model": "tiny"}]'})
    with pq.ParquetWriter(path, table.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table, row_group_size=15)
        writer.add_key_value_metadata({parquet_checksum.KEY: parquet_checksum.EMPTY})
    parquet_checksum.seal(path)


def content(path) -> str:
    """Return a digest of all that a reader gets."""
    parquet_checksum.check(path)
    table = pq.ParquetFile(path, page_checksum_verification=True).read()
    told = {name: value for name, value in (table.schema.metadata or {}).items() if b"sets" in name or b"ARROW" in name}
    return hashlib.sha256(repr((table.to_pylist(), table.schema.remove_metadata(), told)).encode()).hexdigest()


def test_a_sealed_file_reads_as_before(tmp_path):
    write(tmp_path / "a.parquet")
    content(tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 40
    assert pq.read_schema(tmp_path / "a.parquet").metadata[b"sets"] == b'[{"model": "tiny"}]'


def test_no_flipped_bit_is_silent(tmp_path):
    """Each byte of the footer and 2,000 of the rest, one bit flipped at a time."""
    path, flipped = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write(path)
    good, whole, rng = content(path), path.read_bytes(), random.Random(3)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    places = [*range(footer, len(whole)), *(rng.randrange(footer) for _ in range(2000))]
    refused = same = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        flipped.write_bytes(damaged)
        try:
            assert content(flipped) == good, place
            same += 1
        except (UserError, pa.ArrowException, OSError):
            refused += 1
    print(f"{refused} of {len(places)} flips refused, {same} change nothing, 0 silent")
    assert refused > len(whole) - footer - 100


def test_a_file_that_another_program_wrote_anew_passes(tmp_path):
    write(tmp_path / "a.parquet")
    told = pq.ParquetFile(tmp_path / "a.parquet").metadata.metadata
    table = pq.read_table(tmp_path / "a.parquet").slice(0, 20).replace_schema_metadata(told)
    pq.write_table(table, tmp_path / "b.parquet")
    assert parquet_checksum.KEY.encode() in pq.ParquetFile(tmp_path / "b.parquet").metadata.metadata
    parquet_checksum.check(tmp_path / "b.parquet")


def test_files_without_a_checksum_and_files_that_are_no_parquet_pass(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "plain.parquet")
    (tmp_path / "text.parquet").write_text("nothing of the kind")
    (tmp_path / "empty.parquet").touch()
    for name in ("plain", "text", "empty"):
        parquet_checksum.check(tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match="no place for a checksum"):
        parquet_checksum.seal(tmp_path / "plain.parquet")
