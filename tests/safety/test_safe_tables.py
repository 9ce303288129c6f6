"""Tables: no spreadsheet runs a cell of --spreadsheet_safe, and no row of a table that is read back changes unseen."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hostile import call, check, picture, sentence, vectors_of

import classify
import crop
import evaluate_combo
import extract_embedding
import greedy_combo_eval
import npz_to_parquet
import search
import train
from common import embeddings, table_files
from common.messages import UserError

# As a spreadsheet takes them: a first character that begins a formula, also after a quote or a blank that import drops.
LABELS = ("=1+1", "+cmd|x", "-1-1", "@SUM(1)", "＝1", '"=2"', " =3", "plain", "-5", "1e5")
BEGINS_FORMULA = re.compile(r"[\s\"]*[=+\-@＝＋－＠]|[\t\r\n]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def odd_sets(folder: Path) -> Path:
    """Write reference and query sets whose labels, crops, photos, paths and IDs begin with = + - @."""
    for number in ("=0", "@1"):
        for split, seed in (("train", 1), ("test", 2)):
            labels = list(LABELS) * 2
            names = [f"{'=+-@'[row % 4]}photo{row}" for row in range(len(labels))]
            meta = {"id": number, "split": split, "dataset_name": "=shelf", "model": "siamese", "fingerprint": "f"}
            one = vectors_of(labels, seed=seed, meta=meta, crop_ids=names, sample_ids=names, paths=names)
            embeddings.save(folder / f"shelf_{number}_{split}.npz", one)
    return folder


def odd_photos(folder: Path) -> Path:
    """Write pictures and one that is none, in class folders whose names begin with = and @."""
    for number, label in enumerate(("=tea", "@rice")):
        for row in range(5):
            picture(folder / label / f"{row}.jpg", 10 * number + row)
    (folder / "=tea" / "=bad.jpg").write_bytes(b"no picture")
    return folder


def odd_boxes(folder: Path) -> list[object]:
    """Write annotations of pictures, some of them missing, whose names begin with =."""
    picture(folder / "images" / "=p0.jpg")
    content = {
        "images": [{"id": n, "file_name": f"=p{n}.jpg", "width": 64, "height": 48} for n in range(2)],
        "categories": [{"id": 0, "name": "=tea"}],
        "annotations": [{"id": n, "image_id": n, "category_id": 0, "bbox": [5, 8, 18, 20]} for n in range(2)],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return ["--json_path", folder / "boxes.json", "--image_folder", folder / "images", "--output_root", folder / "out"]


@pytest.mark.timeout(600)
def test_no_spreadsheet_runs_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every CSV and TSV of every script with --spreadsheet_safe, counted by cells; without it, cells are as they were."""
    monkeypatch.chdir(tmp_path)
    sets, photos = odd_sets(tmp_path / "sets"), odd_photos(tmp_path / "photos")
    both = ["--train_npz", sets, "--test_npz", sets]
    siamese = ["--model", "siamese", "--weights", "random"]
    npz = tmp_path / "o" / "photos_0_all.npz"
    query = ["--reference_npz", npz, "--image", photos / "=tea"]
    asked = ["query", "--npz", npz, "-q", photos / "=tea", "-k", 3]
    commands = {
        "crop": (crop.main, odd_boxes(tmp_path / "boxes"), ["boxes/out/skipped.csv"]),
        "extract": (
            extract_embedding.main,
            ["--data_root", photos, "--output_root", tmp_path / "o", *siamese],
            ["o/photos_0_all_skipped.csv"],
        ),
        "evaluate": (
            evaluate_combo.main,
            [*both, "--predictions", "p.csv", "--results", "e.txt"],
            ["p.csv", "e.csv"],
        ),
        "greedy": (
            greedy_combo_eval.main,
            [*both, "--combination_size", 1, "--flips", "f.x"],
            ["f.csv", "results.csv"],
        ),
        "parquet": (npz_to_parquet.main, ["--root", sets, "--out", "map.csv"], ["map.csv"]),
        "classify": (classify.main, query, []),
        "search": (search.main, asked, []),
        "train": (
            train.main,
            ["--data_root", photos, "--output", "trained", "--objective", "triplet", "--epochs", 1, *siamese],
            ["trained/skipped.csv"],
        ),
    }
    n_cells, n_marked, wrong = 0, 0, []
    for name, (main, words, files) in commands.items():
        code, out, err = call(main, *words, "--spreadsheet_safe")
        assert code == 0, (name, err)
        tables = {file: list(csv.reader((tmp_path / file).read_text().splitlines())) for file in files}
        if not files:
            tables = {"stdout": [line.split("\t") for line in out.splitlines()]}
        for file, rows in tables.items():
            cells = [cell for row in rows for cell in row]
            assert any(cell.startswith("'") for cell in cells), (name, file, rows[:3])
            assert not any(cell.startswith("'") and NUMBER.fullmatch(cell[1:]) for cell in cells), (name, file)
            n_cells, n_marked = n_cells + len(cells), n_marked + sum(cell.startswith("'") for cell in cells)
            wrong += [
                f"{name} {file}: {cell!r}"
                for cell in cells
                if BEGINS_FORMULA.match(cell) and not NUMBER.fullmatch(cell)
            ]
    print(f"cells that a spreadsheet would run: {n_cells} cells, {n_marked} marked, {len(wrong)} failures")
    assert not wrong, wrong[:10]
    assert call(evaluate_combo.main, *both, "--predictions", "as_it_is.csv")[0] == 0
    assert {label.strip() for label in LABELS} <= {
        *pd.read_csv("as_it_is.csv", dtype=str, keep_default_na=False)["label"]
    }


def test_a_marked_table_joins_as_an_unmarked_one(tmp_path: Path) -> None:
    """What --spreadsheet_safe marks is read back without the marks; a set that is extended knows its skipped images."""
    sets = odd_sets(tmp_path / "sets")
    both = ["--train_npz", sets, "--test_npz", sets]
    for name, more in (("plain", []), ("safe", ["--spreadsheet_safe"])):
        assert call(evaluate_combo.main, *both, "--predictions", tmp_path / f"{name}.csv", *more)[0] == 0
        words = ["--root", *sorted(sets.glob("*_test.npz")), "--predictions", tmp_path / f"{name}.csv", "--strict"]
        code, _, err = call(npz_to_parquet.main, *words, "--out", tmp_path / f"{name}.parquet")
        assert (code, err.count("row")) == (0, 0) or "look at it" in err, err
    assert pd.read_parquet(tmp_path / "safe.parquet").equals(pd.read_parquet(tmp_path / "plain.parquet"))
    assert (tmp_path / "safe.csv").read_text() != (tmp_path / "plain.csv").read_text()
    for text in (*LABELS, "'=1", "", "'", "''=1", "\t", "a"):
        assert table_files.plain(table_files.safe(text)) == text or text.startswith("'")


def flips_of(path: Path, n: int, seed: int) -> list[tuple[int, int]]:
    """Return n places and bits of a file, drawn by a seed."""
    random = np.random.default_rng(seed)
    size = path.stat().st_size
    places = random.choice(size, min(n, size), replace=False).tolist()
    return [(int(at), int(random.integers(8))) for at in places]


def read_after_flips(path: Path) -> None:
    """Count how many flips of a table's bits are refused or told, and fail with those after which other rows are read."""
    data, before = path.read_bytes(), table_files.read(path)[0].drop(columns=table_files.CHECK, errors="ignore")
    outcomes: Counter[str] = Counter()

    def fault(case: tuple[int, int]) -> str | None:
        flipped = bytearray(data)
        flipped[case[0]] ^= 1 << case[1]
        path.write_bytes(flipped)
        try:
            frame, told = table_files.read(path)
        except (UserError, ValueError, OSError):
            outcomes["refused"] += 1
            return None
        outcomes["told" if told else "the same"] += 1
        kept = [column for column in before if column in frame]  # a join asks for its columns by name
        same = frame[kept].equals(before[kept]) and len(kept) >= len(before.columns) - 1
        return None if told or same else "read as something else"

    check(f"flipped bits in {path.name}", flips_of(path, 250, 0), fault)
    print(f"  {dict(outcomes)}")
    path.write_bytes(data)


def test_flipped_bits_in_joined_tables_are_told_or_change_nothing(tmp_path: Path) -> None:
    """Predictions and flips as CSV and Parquet: a flip is refused, told, or the rows read are the same."""
    from hostile import study

    sets = study(tmp_path / "sets")
    both = ["--train_npz", sets, "--test_npz", sets]
    assert call(evaluate_combo.main, *both, "--predictions", tmp_path / "p.csv")[0] == 0
    assert call(evaluate_combo.main, *both, "--predictions", tmp_path / "p.parquet")[0] == 0
    words = ["--combination_size", 1, "--results", tmp_path / "r.txt", "--flips", tmp_path / "f.x"]
    assert call(greedy_combo_eval.main, *both, *words)[0] == 0
    for name in ("p.csv", "p.parquet", "f.csv", "f.parquet"):
        read_after_flips(tmp_path / name)
    changed = (tmp_path / "p.csv").read_text().replace("True", "False", 1)
    (tmp_path / "p.csv").write_text(changed)
    words = ["--root", *sorted(sets.glob("*_test.npz")), "--predictions", tmp_path / "p.csv"]
    code, _, err = call(npz_to_parquet.main, *words, "--out", tmp_path / "o.parquet")
    assert code == 0, err
    assert "1 of its 48 rows changed since it was written, the first is row 1" in err
    code, _, err = call(npz_to_parquet.main, *words, "--out", tmp_path / "o.parquet", "--strict")
    assert (code, sentence(code, err), "--strict" in err) == (1, None, True)


def test_flipped_bits_in_crops_folders_are_told(tmp_path: Path) -> None:
    """crops.csv and skipped.csv: each flip is told by extract_embedding.py's reader, with the rows then and now."""
    from imaging import crops

    words = odd_boxes(tmp_path / "boxes")
    assert call(crop.main, *words)[0] == 0
    root = tmp_path / "boxes" / "out"
    for name in (crops.MANIFEST, crops.SKIPPED):
        data = (root / name).read_bytes()

        def fault(case: tuple[int, int], name: str = name, data: bytes = data) -> str | None:
            flipped = bytearray(data)
            flipped[case[0]] ^= 1 << case[1]
            (root / name).write_bytes(flipped)
            told = crops.changes(root)
            good = len(told) == 1 and re.search(r"was changed since crop.py wrote it: 1 rows? then, \d+ now", told[0])
            code, _, err = call(crop.main, *words)
            return (
                None if good and (code or "was changed" in err) and not sentence(code, err) else f"{told} {code} {err}"
            )

        check(f"flipped bits in {name}", flips_of(root / name, 60, 1), fault)
        (root / name).write_bytes(data)


def test_flipped_bits_in_the_journal_of_an_extraction_are_dropped(tmp_path: Path) -> None:
    """rows.f32, batches.jsonl and record.json of an unfinished run: only whole batches before the flip are gone on with."""
    from embedding.output_set import OutputSet, RowFile

    output, record = OutputSet(tmp_path, "s_0_all"), {"model": "m", "seed": 1}
    rows = output.open(record, 4)
    vectors = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    for at, batch in enumerate(vectors):
        rows.append(batch, [(5 * at + 4, "not an image")])
    folder = tmp_path / ".s_0_all.partial"
    whole = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    cases = [(name, *case) for name in whole for case in flips_of(folder / name, 150, 2)]
    skipped = [(5 * at + 4, "not an image") for at in range(3)]

    def fault(case: tuple[str, int, int]) -> str | None:
        name, at, bit = case
        for other, data in whole.items():
            (folder / other).write_bytes(data)
        flipped = bytearray(whole[name])
        flipped[at] ^= 1 << bit
        (folder / name).write_bytes(flipped)
        if name == "record.json":
            read_record = output._unfinished_record()  # a flip in the name of the checksum adds a field
            same = read_record is None or {key: read_record.get(key) for key in record} == record
            return None if same else "another record"
        read = RowFile(folder, 4)
        n = read.batches
        same = np.array_equal(read.vectors, vectors[:n].reshape(-1, 4)) and read.skipped == skipped[:n]
        return None if same else f"{n} batches, {read.skipped}"

    check("flipped bits in an extraction's journal", cases, fault)
