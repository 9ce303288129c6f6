"""Columns of another table, such as predictions, for the rows of embedding sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import blocks, messages, table_files

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from common.embeddings import EmbeddingSet

KEYS = ("dataset_name", "split", "crop_id", "id")
_BATCH = 25_000  # rows whose keys are held at a time


def join(
    sets: Sequence[EmbeddingSet], path: Path, kinds: dict[str, str], *, strict: bool = False
) -> dict[str, pa.Array]:
    """Return columns of a CSV or Parquet file, by name, for all rows of the sets in order; null where the file says nothing.

    kinds: name and Arrow type of each column. Rows belong together by dataset, split, crop_id and, where the file has it, id.
    Rows that were changed since the file was written are told, or with `strict` are an error. Raises UserError when the file is no
    table, is damaged, lacks a column, has two rows for one crop, or none for these sets.
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    try:
        table, changed = table_files.read(path)
        table = table.rename(columns={"dataset": "dataset_name"}).astype("string").fillna("")
        if missing := [name for name in (*KEYS[:3], *kinds) if name not in table]:
            raise messages.UserError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(table.columns)}")
        if "id" in table:  # a decision made from several sets, `0+10`, holds for the rows of each
            table = table.assign(id=table["id"].str.split("+")).explode("id", ignore_index=True)
        keys = [name for name in KEYS if name in table]
        texts = {name: pa.array([text or None for text in table[name]], pa.string()) for name in kinds}
        columns = pa.table({name: texts[name].cast(kind) for name, kind in kinds.items()})
    except ValueError as error:  # of pandas and of pyarrow
        raise messages.UserError(f"{path} cannot be read: {' '.join(str(error).split())}; make it anew") from None
    if changed:
        if strict:
            raise messages.UserError(f"{changed}, and --strict is given; make it anew, or leave --strict away")
        messages.warn(changed)
    index = pd.MultiIndex.from_frame(table[keys].astype(object))
    if (twice := index.duplicated()).any():
        raise messages.UserError(f"{path} has two rows for {' '.join(index[twice.argmax()])}; keep one of them")
    rows = np.concatenate([_rows_of(index, keys, embedding_set) for embedding_set in sets])
    unused = len(index) - len(np.unique(rows[rows >= 0]))
    if unused == len(index):
        raise messages.UserError(
            f"{path}: none of its {unused:,} rows names a crop of these embeddings; check the file"
        )
    if unused:
        messages.warn(f"{path}: {unused:,} of its {len(index):,} rows name no crop of these embeddings")
    if without := int((rows < 0).sum()):
        messages.note(f"{path} says nothing of {without:,} of {len(rows):,} rows; these stay empty")
    taken = columns.take(pa.array(rows, mask=rows < 0))
    return {name: taken[name].combine_chunks() for name in kinds}


def _rows_of(index: pd.MultiIndex, keys: Sequence[str], embedding_set: EmbeddingSet) -> np.ndarray:
    """Return for each row of the set the number of the table's row with the same keys, -1 where there is none."""
    import numpy as np
    import pandas as pd

    same = {"dataset_name": embedding_set.dataset, "split": embedding_set.split, "id": embedding_set.id}
    parts = []
    for part in blocks.batches(len(embedding_set), _BATCH):
        values = {**same, "crop_id": embedding_set.crop_ids[part].tolist()}
        frame = pd.DataFrame({name: values[name] for name in keys}, dtype=object)
        parts.append(index.get_indexer(pd.MultiIndex.from_frame(frame)))
    return np.concatenate(parts)
