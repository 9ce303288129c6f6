"""view.py without a browser: what its server answers and refuses, what its maps hold, what a user's mistake is told."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import threading
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import check

import view
from common.messages import UserError
from viewer import local_server, map_data
from viewer.app import make_app
from viewer.map_data import Filters
from viewer.parquet_rows import ParquetRows
from viewer.viewer_data import PictureSearch, ViewerData

N, DIM = 40, 8
LABELS = ("amber", "beige", "coral", "dun")


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make(path: Path, *, pictures: bool = True, row_group: int = 15, model: str = "tiny", **changes) -> pd.DataFrame:
    """Write 20 crops of four brands at two paddings; `changes` replace columns, None leaves one out."""
    rng = np.random.default_rng(7)
    rows = np.arange(N)
    folder = path.parent / "pictures"
    folder.mkdir(exist_ok=True, parents=True)
    for row in rows:
        cv2.imwrite(str(folder / f"{row}.png"), np.full((90, 60, 3), 5 * row, np.uint8))
    jpegs = [cv2.imencode(".jpg", np.full((30, 20, 3), 5 * row, np.uint8))[1].tobytes() for row in rows]
    columns = {
        "image": [{"bytes": jpeg, "path": ""} for jpeg in jpegs] if pictures else None,
        "class_0": ["brand"] * N,
        "class_1": [LABELS[row % 4] for row in rows],
        "predicted": [None if row < 20 else f"brand/{LABELS[row % 4 if row % 5 else 0]}" for row in rows],
        "correct": [None if row < 20 else bool(row % 5 or row % 4 == 0) for row in rows],
        "margin": [None if row < 20 else row / 100 for row in rows],
        "flip": [("rescued", "broken", "stays right")[row % 3] for row in rows],
        "dataset_name": ["drawn"] * N,
        "split": ["train" if row % 20 < 12 else "test" for row in rows],
        "id": ["0" if row < 20 else "10" for row in rows],
        "padding": ["0" if row < 20 else "10" for row in rows],
        "sample_id": [f"photo_{row % 20 // 4}" for row in rows],
        "crop_id": [f"photo_{row % 20 // 4}_{row % 4}" for row in rows],
        "projection_x": rng.normal(size=N).astype(np.float32),
        "projection_y": rng.normal(size=N).astype(np.float32),
        "source_file": [str(folder / f"{row}.png") for row in rows],
        "embedding": list(rng.normal(size=(N, DIM)).astype(np.float32)),
        **changes,
    }
    frame = pd.DataFrame({name: values for name, values in columns.items() if values is not None})
    schema = pa.Schema.from_pandas(frame, preserve_index=False)
    if "embedding" in frame:
        at = schema.get_field_index("embedding")
        schema = schema.set(at, pa.field("embedding", pa.list_(pa.float32(), DIM)))
    facts = [{"model": model, "fingerprint": "f", "model_options": {}}]
    table = pa.Table.from_pandas(frame, schema, preserve_index=False).replace_schema_metadata(
        {"sets": json.dumps(facts)}
    )
    pq.write_table(table, path, row_group_size=row_group)
    return frame


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    path = tmp_path_factory.mktemp("view") / "drawn.parquet"
    return path, make(path)


def client_of(path: Path):
    """Return Flask's test client of the page over one file."""
    data = ViewerData([ParquetRows(path)])
    return make_app(data, PictureSearch(data), "127.0.0.1").server.test_client()


@pytest.fixture(scope="module")
def client(drawn):
    return client_of(drawn[0])


# --- what a file holds


def test_columns_labels_and_keys(drawn):
    points = ParquetRows(drawn[0])
    assert (points.n, points.dim, points.levels) == (N, DIM, 2)
    codes, names = points.codes("label")
    assert names == [f"brand/{label}" for label in LABELS]
    assert [names[code] for code in codes[:3]] == ["brand/amber", "brand/beige", "brand/coral"]
    assert points.codes("level:0")[1] == ["brand"]
    assert points.row(21)["correct"] is True
    assert "projection_x" not in points.row(21)
    data = ViewerData([points])
    assert np.array_equal(data.keys[0][:20], data.keys[0][20:])  # a crop is itself at any padding
    assert len(set(data.keys[0].tolist())) == 20


def test_neighbours_are_exact_in_every_scope(drawn):
    path, frame = drawn
    data = ViewerData([ParquetRows(path)])
    vectors = unit(np.stack(frame["embedding"].to_numpy()))
    for row in (0, 17, 39):
        similarity = vectors @ vectors[row]
        allowed = {
            "all": np.arange(N) != row,
            "crops": (frame["crop_id"] != frame["crop_id"][row]).to_numpy(),
            "samples": (frame["sample_id"] != frame["sample_id"][row]).to_numpy(),
            "split:train": ((frame["split"] == "train") & (frame.index != row)).to_numpy(),
        }
        for scope, keep in allowed.items():
            near, _ = data.neighbours(0, row, scope)
            wanted = [other for other in np.argsort(-similarity, kind="stable") if keep[other]][:12]
            assert [one.row for one in near] == wanted, scope
            assert np.allclose([one.similarity for one in near], similarity[wanted], atol=1e-6)


def test_vectors_read_in_parts_give_the_same_neighbours(drawn, monkeypatch):
    whole = ViewerData([ParquetRows(drawn[0])]).neighbours(0, 5, "crops")
    monkeypatch.setattr("viewer.parquet_columns.KEEP_BYTES", 0)
    points = ParquetRows(drawn[0])
    assert ViewerData([points]).neighbours(0, 5, "crops") == whole
    assert points.vectors._whole is None
    assert len(points.vectors.shards()) == 3


def test_the_neighbours_of_the_file_are_used(tmp_path):
    near = [{"ids": [(row + 1) % N, (row + 2) % N], "distances": [0.25, 0.5]} for row in range(N)]
    make(tmp_path / "n.parquet", neighbors=near)
    found, said = ViewerData([ParquetRows(tmp_path / "n.parquet")]).neighbours(0, 39, "all")
    assert [(one.row, one.similarity) for one in found] == [(0, 0.75), (1, 0.5)]
    assert "from the file" in said


def test_neighbours_that_point_outside_the_file_are_left_out(tmp_path):
    near = [{"ids": [N + 5, -1, 3], "distances": [0.1, 0.2, 0.3]} for _ in range(N)]
    make(tmp_path / "n.parquet", neighbors=near)
    assert [one.row for one in ViewerData([ParquetRows(tmp_path / "n.parquet")]).neighbours(0, 1, "all")[0]] == [3]


# --- what a map holds


@pytest.mark.parametrize(
    ("filters", "id", "wanted"),
    [
        (Filters(labels=["brand/amber", "brand/dun"]), None, lambda f: f["class_1"].isin(["amber", "dun"])),
        (Filters(splits=["test"]), "10", lambda f: (f["split"] == "test") & (f["id"] == "10")),
        (Filters(paddings=["0"]), None, lambda f: f["padding"] == "0"),
        (Filters(wrong=True), None, lambda f: f["correct"].eq(False)),
        (Filters(flipped=True), None, lambda f: f["flip"].isin(["rescued", "broken"])),
        (Filters(text="PHOTO_3_2"), None, lambda f: f["crop_id"] == "photo_3_2"),
        (Filters(text="no such id"), None, lambda f: f["crop_id"] == ""),
    ],
)
def test_filters_keep_the_rows_they_name(drawn, filters, id, wanted):
    path, frame = drawn
    assert (
        np.flatnonzero(map_data.passing(ParquetRows(path), id, filters)).tolist()
        == np.flatnonzero(wanted(frame)).tolist()
    )


def decoded(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def test_a_scene_holds_every_point_once(drawn):
    path, frame = drawn
    points, rows = ParquetRows(path), np.arange(N)
    legend, (groups,) = map_data.grouped([(points, rows)], "label")
    drawn_scene = map_data.scene(points, rows, groups, np.arange(N, dtype=np.int32), legend, 2)
    x = decoded(drawn_scene["x"], "f4")
    assert np.argsort(x).tolist() == np.argsort(frame["projection_x"].to_numpy()).tolist()
    assert (x.min(), x.max()) == (-1, 1)
    assert [(one.name, one.count) for one in legend] == [(f"brand/{label}", 10) for label in LABELS]
    assert [legend[group].name.split("/")[1] for group in groups[:4]] == list(LABELS)
    assert len({(one.light, one.symbol) for one in legend}) == 4


def test_many_classes_are_grouped_as_other(tmp_path):
    names = [f"class {min(row // 2, 17):02d}" for row in range(N)]  # the last has six rows
    make(tmp_path / "m.parquet", class_1=names)
    points = ParquetRows(tmp_path / "m.parquet")
    legend, (groups,) = map_data.grouped([(points, np.arange(N))], "label")
    assert len(legend) == map_data.GROUPS
    assert legend[-1].name == "OTHER (4 more)"
    assert sum(one.count for one in legend) == N
    assert np.bincount(groups).tolist() == [one.count for one in legend]
    assert max(legend, key=lambda one: one.count).name == "OTHER (4 more)"


def test_numbers_are_put_into_bins_and_what_has_none_stands_apart(drawn):
    legend, (groups,) = map_data.grouped([(ParquetRows(drawn[0]), np.arange(N))], "margin")
    assert legend[-1].name == "(none)"
    assert (groups[:20] == len(legend) - 1).all()
    assert (np.diff(groups[20:].astype(int)) >= 0).all()
    assert [one.count for one in legend] == np.bincount(groups).tolist()


def test_right_and_wrong_have_colour_and_symbol_of_their_own(drawn):
    legend, _ = map_data.grouped([(ParquetRows(drawn[0]), np.arange(N))], "correct")
    assert {one.name: one.symbol for one in legend} == {"right": 0, "wrong": 5, "not scored": 6}


def test_colours_stand_out_on_light_and_on_dark():
    for color in (*map_data.RAMP, "#332288", "#88CCEE"):
        for ground, behind in map_data.GROUND.items():
            assert map_data.contrast(map_data.on(color, ground), behind) >= 3
    assert map_data.contrast("#000000", "#ffffff") == pytest.approx(21)


def test_more_points_than_a_map_takes_are_sampled(drawn):
    points = ParquetRows(drawn[0])
    rows = map_data.sampled(points, np.ones(N, bool), 12)
    assert np.bincount(points.codes("label")[0][rows]).tolist() == [3, 3, 3, 3]


def test_a_file_without_a_map_gets_one_by_pca(tmp_path):
    make(tmp_path / "p.parquet", projection_x=None, projection_y=None)
    points = ParquetRows(tmp_path / "p.parquet")
    places, said = points.map(2)
    assert "PCA, computed now" in said
    rows = unit(np.stack(pd.read_parquet(points.path)["embedding"].to_numpy()))
    centred = rows - rows.mean(axis=0)
    wanted = centred @ np.linalg.svd(centred)[2][:2].T
    assert np.allclose(np.abs(places), np.abs(wanted), atol=1e-5)


# --- what the server answers


def test_pictures_are_those_of_the_rows(client, drawn):
    for row in (0, 21, N - 1):
        small = client.get(f"/picture/0/{row}")
        assert small.mimetype == "image/jpeg"
        picture = cv2.imdecode(np.frombuffer(small.data, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (30, 20, 3)
        assert abs(int(picture.mean()) - 5 * row) <= 2
        large = cv2.imdecode(np.frombuffer(client.get(f"/picture/0/{row}/large").data, np.uint8), cv2.IMREAD_COLOR)
        assert large.shape == (90, 60, 3)


@pytest.mark.parametrize(
    "path",
    [
        f"/picture/0/{N}",
        "/picture/1/0",
        "/picture/0/-1",
        "/picture/0/0/huge",
        "/picture/../../etc/passwd",
        "/picture/0//etc/passwd",
        "/picture/%2e%2e%2f%2e%2e%2fetc/passwd",
        f"/about/0/{N}",
        "/assets/../view.py",
        "/assets/%2e%2e/points.py",
    ],
)
def test_nothing_but_the_listed_pictures_is_served(client, path):
    answer = client.get(path)  # Dash gives the page itself for any path that it does not know
    assert answer.status_code in (403, 404) or answer.data.lstrip().startswith(b"<!DOCTYPE html>")
    assert b"root:" not in answer.data
    assert b"import " not in answer.data


def test_a_source_that_is_no_picture_is_not_served(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    os.mkfifo(tmp_path / "pipe")
    bad = [str(tmp_path / "secret.txt"), str(tmp_path / "pipe"), "/dev/zero", "a\0b", str(tmp_path), None] * 7
    make(tmp_path / "h.parquet", pictures=False, source_file=bad[:N])
    client = client_of(tmp_path / "h.parquet")
    for row in range(6):
        assert client.get(f"/picture/0/{row}").status_code == 404
        assert client.get(f"/picture/0/{row}/large").status_code == 404


def test_a_file_names_pictures_below_the_folders_of_the_command_line_only(tmp_path, monkeypatch):
    """Absolute names, `..`, and links that lead out of the Parquet's, the working and the named folders show nothing."""
    home, data, elsewhere = (tmp_path / name for name in ("home", "data", "work"))
    for folder in (home, data, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(elsewhere)
    cv2.imwrite(str(home / "private.png"), np.zeros((9, 9, 3), np.uint8))
    cv2.imwrite(str(data / "mine.png"), np.zeros((9, 9, 3), np.uint8))
    (data / "link.png").symlink_to(home / "private.png")
    (data / "folder").symlink_to(home)
    out = [
        str(home / "private.png"),
        "../home/private.png",
        str(data / "link.png"),
        str(data / "folder" / "private.png"),
    ]
    out += [str(data / ".." / "home" / "private.png"), "link.png", "folder/private.png"]
    inside = [str(data / "mine.png"), "mine.png", str(data / "folder" / ".." / "data" / "mine.png")]
    names = [*out, *inside] * N
    make(data / "s.parquet", pictures=False, source_file=names[:N])
    client = client_of(data / "s.parquet")
    cases = list(enumerate(names[: len(out) + len(inside)]))
    check(
        "pictures that a Parquet names outside",
        cases,
        lambda case: (
            None if (client.get(f"/picture/0/{case[0]}").status_code == 200) == (case[1] in inside) else "wrong"
        ),
    )
    rows = ParquetRows(data / "s.parquet")
    assert "name theirs with view.py --data_root" in rows.pictures.lost()
    named = ParquetRows(data / "s.parquet", [home])
    assert named.pictures.lost() is None
    assert named.pictures.read(0, 64) is not None
    assert named.pictures.read(len(out), 64) is None  # its own folder is not named now


def test_bytes_that_are_no_picture_are_not_served(tmp_path):
    images = [{"bytes": b"<script>alert(1)</script>", "path": ""} for _ in range(N)]
    make(tmp_path / "s.parquet", image=images, source_file=None)
    client = client_of(tmp_path / "s.parquet")
    assert client.get("/picture/0/0").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8050"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:8050"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:8050"}, 403),
        ({"Host": "localhost", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost:8050", "Origin": "http://localhost:8050"}, 200),
        ({"Host": "localhost:8050", "Origin": "null"}, 403),
    ],
)
def test_only_this_page_is_answered(client, headers, status):
    answer = client.get("/about/0/1", headers=headers)
    assert answer.status_code == status
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


def test_a_body_beyond_the_limit_is_refused(client):
    answer = client.post(
        "/_dash-update-component", data=b"x" * (local_server.MOST_BYTES + 1), content_type="application/json"
    )
    assert answer.status_code == 413


# --- uploads


class Colour:
    """A model whose vector is the picture's mean colour, padded."""

    def preprocess(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return np.pad(batch.mean(axis=(1, 2)) + 1, [(0, 0), (0, DIM - 3)]).astype(np.float32)


def search_in(path: Path, embedder: Colour | None = None, index=None) -> PictureSearch:
    search = PictureSearch(ViewerData([ParquetRows(path)]), index=index)
    search._embedder = embedder
    return search


def encoded(colour: tuple[int, int, int]) -> bytes:
    return cv2.imencode(".png", np.full((10, 12, 3), colour[::-1], np.uint8))[1].tobytes()


def test_an_upload_finds_its_like_and_their_vote(tmp_path):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (N, 3))
    make(tmp_path / "c.parquet", embedding=list(np.pad(colours + 1, [(0, 0), (0, DIM - 3)]).astype(np.float32)))
    search = search_in(tmp_path / "c.parquet", Colour())
    answer = search.look_up(encoded(tuple(colours[13].tolist())), "all", 1)
    assert (answer.neighbours[0].row, round(answer.neighbours[0].similarity, 5)) == (13, 1)
    assert answer.label == "brand/beige"
    similarity = unit(colours + 1) @ unit(colours[[5]] + 1)[0]
    train = [row for row in np.argsort(-similarity, kind="stable") if row % 20 < 12]
    answer = search.look_up(encoded(tuple(colours[5].tolist())), "split:train", 5)
    assert [one.row for one in answer.neighbours] == train[:12]
    votes = [LABELS[row % 4] for row in train[:5]]
    best = max(dict.fromkeys(votes), key=votes.count)
    assert answer.label == f"brand/{best}"
    assert answer.votes == f"{votes.count(best)} of 5 neighbours"


def test_an_upload_is_searched_in_an_index(tmp_path):
    """A real Milvus Lite index of rows 0-11 and of one crop that the Parquet does not have."""
    pytest.importorskip("milvus_lite")
    import search
    from common import embeddings
    from common.embeddings import EmbeddingSet

    colours = np.random.default_rng(0).integers(0, 256, (N, 3))
    vectors = np.pad(colours + 1, [(0, 0), (0, DIM - 3)]).astype(np.float32)
    frame = make(tmp_path / "i.parquet", embedding=list(vectors))
    crops = np.array([*frame["crop_id"][:12], "elsewhere"])
    labels = np.array([["brand", LABELS[row % 4]] for row in range(13)])
    meta = {"dataset_name": "drawn", "split": "train", "id": "0", "model": "tiny", "fingerprint": "f"}
    one = EmbeddingSet(vectors[:13], labels, crops, crops, np.full(13, ""), meta)
    embeddings.save(tmp_path / "drawn_0_train.npz", one)
    uri = str(tmp_path / "index.db")
    argv = ["build", "--npz", str(tmp_path / "drawn_0_train.npz"), "--uri", uri, "--collection", "drawn"]
    assert search.main([*argv, "--index_type", "FLAT"]) == 0
    rows = ParquetRows(tmp_path / "i.parquet")
    with view.opened_index(uri, None, rows) as index:
        by_picture = search_in(tmp_path / "i.parquet", Colour(), index)
        assert next(iter(by_picture.references())) == "index"
        answer = by_picture.look_up(encoded(tuple(colours[5].tolist())), "index", 1)
        assert (answer.neighbours[0].row, answer.label) == (5, "brand/beige")
        assert answer.neighbours[0].similarity == pytest.approx(1, abs=1e-4)
        answer = by_picture.look_up(encoded(tuple(colours[12].tolist())), "index", 1)
        assert (answer.neighbours[0].row, answer.neighbours[0].name) == (None, "elsewhere")
    with pytest.raises(UserError, match="no such index"), view.opened_index(str(tmp_path / "no.db"), None, rows):
        pass


def test_an_upload_of_too_many_pixels_is_refused_before_it_is_decoded(drawn):
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = (20_000).to_bytes(4, "big")
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + size + b"\x08\x02\0\0\0")
        + chunk(b"IDAT", b"")
        + chunk(b"IEND", b"")
    )
    search = search_in(drawn[0], Colour())
    with pytest.raises(Exception, match="20,000 x 20,000 pixels are more than the 60 million taken"):
        search.look_up(bomb, "all", 1)


def test_a_file_cannot_choose_code_to_run(tmp_path):
    make(tmp_path / "f.parquet", model="os:getcwd")
    with pytest.raises(UserError, match="names code as its model"):
        search_in(tmp_path / "f.parquet").look_up(encoded((1, 2, 3)), "all", 1)


def test_a_file_cannot_choose_a_folder_or_a_program_to_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "program.pt2").write_bytes(b"PK")
    for name in ("checkpoint", str(tmp_path / "checkpoint"), "program.pt2", "../../../" * 9 + "etc"):
        make(tmp_path / "f.parquet", model=name)
        with pytest.raises(UserError, match="names a path as its model"):
            search_in(tmp_path / "f.parquet").look_up(encoded((1, 2, 3)), "all", 1)


# --- what a user is told


def started(argv: list[str], capsys) -> tuple[int, list[str]]:
    code = view.main(argv)
    return code, [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]


def test_mistakes_are_one_sentence(tmp_path, capsys):
    (tmp_path / "text.parquet").write_text("not a parquet file at all")
    (tmp_path / "short.parquet").write_bytes(b"PAR1")
    (tmp_path / "folder.parquet").mkdir()
    pq.write_table(pa.table({"embedding": pa.array([], pa.list_(pa.float32(), 2))}), tmp_path / "empty.parquet")
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "other.parquet")
    for name, said in {
        "text.parquet": "is not a sound Parquet file",
        "short.parquet": "is not a sound Parquet file",
        "absent.parquet": "no such file",
        "folder.parquet": "is a folder",
        "empty.parquet": "has no rows",
        "other.parquet": "neither a column of vectors",
    }.items():
        code, lines = started([str(tmp_path / name), "--port", "0"], capsys)
        assert code == 1, name
        assert len(lines) == 1, name
        assert said in lines[0]
        assert name in lines[0]
        assert "npz_to_parquet.py" in lines[0]


def test_a_port_in_use_and_a_foreign_address_are_one_sentence(drawn, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, lines = started([str(drawn[0]), "--port", str(port)], capsys)
    assert (code, len(lines)) == (1, 1)
    assert f"port {port} is in use" in lines[0]
    code, lines = started([str(drawn[0]), "--port", "0", "--host", "192.0.2.1"], capsys)
    assert (code, len(lines)) == (2, 1)
    assert "--host 192.0.2.1" in lines[0]


def test_an_address_open_to_others_is_warned_of(capsys):
    local_server.bind("0.0.0.0", 0).close()
    assert "everybody who reaches this machine" in capsys.readouterr().err
    local_server.bind("127.0.0.1", 0).close()
    assert capsys.readouterr().err == ""


def test_many_threads_read_one_file(drawn):
    data = ViewerData([ParquetRows(drawn[0])])
    wrong = []

    def read(start: int) -> None:
        for row in range(start, start + 60):
            content = data.files[0].pictures.read(row % N, 128)
            picture = cv2.imdecode(np.frombuffer(content or b"", np.uint8), cv2.IMREAD_COLOR)
            if abs(int(picture.mean()) - 5 * (row % N)) > 2:
                wrong.append(row)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(0, 80, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_export_is_what_was_listed(client, drawn):
    body = {
        "output": "download.data",
        "outputs": {"id": "download", "property": "data"},
        "inputs": [{"id": "export", "property": "n_clicks", "value": 1}],
        "changedPropIds": ["export.n_clicks"],
        "state": [
            {"id": "selection", "property": "data", "value": {"file": 0, "rows": [3, 1, 999, -4]}},
            {"id": "source-a", "property": "value", "value": "0|"},
            *(
                {"id": name, "property": "value", "value": None}
                for name in ("label", "split", "padding", "only", "text")
            ),
        ],
    }
    answer = client.post("/_dash-update-component", json=body)
    assert answer.status_code == 200, answer.data
    found = pd.read_csv(io.StringIO(answer.json["response"]["download"]["data"]["content"]), dtype={"id": str})
    assert found["row"].tolist() == [1, 3]
    assert found["crop_id"].tolist() == drawn[1]["crop_id"][[1, 3]].tolist()
    assert "embedding" not in found


def test_an_upload_is_embedded_by_the_model_that_the_file_names(tmp_path):
    """The whole chain with the real default model: a picture of the set finds itself, at similarity 1."""
    import extract_embedding
    import npz_to_parquet

    rng = np.random.default_rng(1)
    for row in range(6):
        path = tmp_path / "crops" / "train" / f"brand_{row % 2}" / f"{row}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (64, 48)))
    out = tmp_path / "e"
    assert (
        extract_embedding.main(["--data_root", str(tmp_path / "crops"), "--output_root", str(out), "--batch_size", "6"])
        == 0
    )
    assert npz_to_parquet.main(["--root", str(out), "--out", str(tmp_path / "real.parquet"), "--thumbnails", "32"]) == 0
    points = ParquetRows(tmp_path / "real.parquet")
    source = points.row(4)["source_file"]
    answer = PictureSearch(ViewerData([points])).look_up(Path(source).read_bytes(), "all", 1)
    assert answer.neighbours[0].row == 4
    assert answer.neighbours[0].similarity > 0.999
    assert answer.label == points.row(4)["label"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("resnet", "vit"):
        make(tmp_path / folder / "embeddings.parquet")
    names = ViewerData(
        [ParquetRows(tmp_path / folder / "embeddings.parquet") for folder in ("resnet", "vit")]
    ).sources()
    assert names["0|"] == "resnet/embeddings: all 2 IDs"
    assert names["1|10"] == "vit/embeddings: ID 10"
