"""The page's server on a real socket: what it refuses, how long it waits, how many it serves, what its errors tell."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import socket
import string
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from viewer import local_server
from viewer.app import make_app
from viewer.parquet_rows import ParquetRows
from viewer.viewer_data import PictureSearch, ViewerData

CALLBACK = "/_dash-update-component"


def small(path: Path, n: int = 30, dim: int = 4) -> Path:
    rng = np.random.default_rng(0)
    columns = {
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=n * dim).astype(np.float32)), dim),
        "class_0": [f"class {row % 3}" for row in range(n)],
        "split": ["train" if row % 2 else "test" for row in range(n)],
        "crop_id": [f"crop {row}" for row in range(n)],
        "projection_x": rng.normal(size=n).astype(np.float32),
        "projection_y": rng.normal(size=n).astype(np.float32),
    }
    pq.write_table(pa.table(columns), path)
    return path


class MeanColour:
    """A model whose vector is the picture's mean colour; notes how many pictures it sees at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def preprocess(self, pixels: np.ndarray) -> np.ndarray:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.05)
        return pixels

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.now -= 1
        return np.pad(batch.mean(axis=(1, 2)) + 1, [(0, 0), (0, 1)]).astype(np.float32)


class Page:
    """A running page: its port, its application and its model."""

    def __init__(self, path: Path) -> None:
        data = ViewerData([ParquetRows(path)])
        self.search = PictureSearch(data)
        self.search._embedder = self.model = MeanColour()
        self.app = make_app(data, self.search, "127.0.0.1")
        listening = local_server.bind("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        threading.Thread(target=local_server.serve, args=(self.app.server, listening), daemon=True).start()

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())

    def call(self, output: str, values: dict[str, object], **changes: object) -> tuple[int, bytes]:
        """Call a callback as the page does, with these values of its inputs and states; `changes` replace parts of the body."""
        body = {**sent(self.app, output, values), **changes}
        return self.ask("POST", CALLBACK, json.dumps(body).encode(), **{"Content-Type": "application/json"})[:2]


def sent(app, output: str, values: dict[str, object]) -> dict[str, Any]:
    key = next(key for key in app.callback_map if output in key)
    callback = app.callback_map[key]
    outputs = [dict(zip(("id", "property"), name.rsplit(".", 1), strict=True)) for name in key.strip(".").split("...")]
    parts = {
        part: [{**given, "value": values.get(given["id"])} for given in callback[part]] for part in ("inputs", "state")
    }
    return {"output": key, "outputs": outputs if ".." in key else outputs[0], "changedPropIds": [], **parts}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return Page(small(tmp_path_factory.mktemp("page") / "small.parquet"))


LISTED = {"source-a": "0|", "selection": None, "more": None, "text": ""}
DRAWN = {"source-a": "0|", "source-b": "", "colour": "label", "dimensions": 2, "text": ""}


def raw(page, text: bytes, seconds: float = 10) -> bytes:
    """Return all that the server answers to these bytes before it closes."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=seconds) as connection:
        connection.sendall(text)
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
        return answer


def test_the_page_and_its_callbacks_are_answered(page):
    status, body, headers = page.ask("GET", "/")
    assert status == 200
    assert b"<title>Embeddings</title>" in body
    assert page.call("tiles.children", LISTED)[0] == 200
    assert page.call("scene-a.data", DRAWN)[0] == 200
    assert not [name for name in headers if name.lower() in ("server", "x-powered-by")]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/_reload-hash", 404), ("/static/x", 404), ("/another/page", 404), ("/_dash-layout", 200), ("/page.css", 200)],
)
def test_what_is_for_developers_is_not_served(page, path, status):
    assert page.ask("GET", path)[0] == status


def test_a_request_without_a_host_or_with_a_foreign_one_is_refused(page):
    assert raw(page, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 400")
    assert raw(page, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert page.ask("GET", "/", Host="evil.example")[0] == 403
    assert page.ask("GET", "/", Host="[")[0] == 403
    assert page.ask("GET", "/", Origin="http://[")[0] == 403


def test_a_body_above_the_limit_is_refused_before_it_is_sent(page):
    head = f"POST {CALLBACK} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {local_server.MOST_BYTES + 1}\r\n\r\n"
    assert raw(page, head.encode()).startswith(b"HTTP/1.1 413")


def random_value(rng: random.Random, depth: int = 0) -> object:
    kinds = ["none", "text", "number", "whole", "huge", "bool"] + (["list", "dict"] if depth < 3 else [])
    kind = rng.choice(kinds)
    if kind == "list":
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == "dict":
        names = ["file", "row", "rows", "name", "content", "id", "x"]
        return {rng.choice(names): random_value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return {
        "none": None,
        "text": "".join(rng.choices(string.printable + "é果|:.\ud800", k=rng.randrange(12))),
        "number": rng.choice([0.5, -1e308, float("inf"), float("nan")]),
        "whole": rng.randrange(-3, 100),
        "huge": rng.choice([10**9, 2**31, 2**63, -(10**30)]),
        "bool": rng.random() < 0.5,
    }[kind]


def test_no_callback_fails_whatever_a_browser_sends(page, capfd):
    """1,000 bodies of every callback, with random values in random places: an answer or 400, never 500, nothing on stderr."""
    rng = random.Random(5)
    client = page.app.server.test_client()
    counts: dict[int, int] = {}
    for _ in range(1000):
        key = rng.choice([key for key, callback in page.app.callback_map.items() if "callback" in callback])
        body = sent(page.app, key, {**LISTED, **DRAWN, "scope": "all", "among": "all", "votes": 5})
        if rng.random() < 0.7:
            parts = [part for part in ("inputs", "state") if body[part]]
            for _ in range(rng.randrange(1, 3)):
                rng.choice(body[rng.choice(parts)])["value"] = random_value(rng)
        elif rng.random() < 0.5:
            body[rng.choice(list(body))] = random_value(rng)
        else:
            body.pop(rng.choice(list(body)))
        status = client.post(CALLBACK, json=body).status_code
        counts[status] = counts.get(status, 0) + 1
        assert status in (200, 204, 400), (status, body)
    print(f"{sum(counts.values())} malformed callbacks: {counts}")
    assert counts[400] > 200
    assert counts[200] > 50
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"output": 1}', b'{"output": []}']
)
def test_a_body_that_is_no_callback_is_refused(page, body):
    assert page.ask("POST", CALLBACK, body, **{"Content-Type": "application/json"})[0] == 400


def test_a_billion_more_pictures_cost_a_page_of_them(tmp_path):
    page = Page(small(tmp_path / "many.parquet", 5000))
    started = time.perf_counter()
    status, body = page.call("tiles.children", {**LISTED, "more": 10**9})
    assert status == 200
    assert body.count(b'"tile"') == 48 * 40
    assert time.perf_counter() - started < 20


def test_an_error_of_ours_shows_no_traceback(page, monkeypatch, capfd):
    def broken(*_):
        raise ZeroDivisionError("secret thing")

    monkeypatch.setattr(ParquetRows, "row", broken)
    for _ in range(2):
        status, body, _ = page.ask("GET", "/about/0/1")
        assert status == 500
        assert body == b"This page could not answer that.\n"
    err = capfd.readouterr().err
    assert err.count("\n") == 1  # said once
    assert err.startswith("warning: /about/0/1 could not be answered (ZeroDivisionError")
    assert "Traceback" not in err


def picture(n_bytes: int) -> str:
    """Return a data of a picture as base64 text, of about so many bytes."""
    side = int((n_bytes / 3.3) ** 0.5)
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return base64.b64encode(cv2.imencode(".png", noise)[1].tobytes()).decode()


def test_large_uploads_are_looked_at_one_at_a_time_and_too_many_are_sent_away(page):
    content = picture(local_server.LARGE_BYTES)
    values = {"upload": {"name": "a.png", "content": content}, "among": "all", "votes": 1}
    statuses = []

    def upload() -> None:
        statuses.append(page.call("upload-said.children", values)[0])

    page.model.most = 0
    threads = [threading.Thread(target=upload) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert page.model.most == 1
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 1 + local_server.WAITING


def test_a_request_that_never_ends_is_closed(page, monkeypatch):
    """A byte every now and then keeps a connection busy; its request has a time limit all the same."""
    monkeypatch.setattr(local_server, "REQUEST_SECONDS", 2)
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        started, closed = time.monotonic(), False
        while not closed and time.monotonic() - started < 15:
            time.sleep(0.3)
            try:
                connection.sendall(b"X: y\r\n")
            except OSError:
                closed = True
        assert closed
        assert time.monotonic() - started >= 1.5


def test_idle_connections_keep_nobody_out(tmp_path, monkeypatch):
    monkeypatch.setattr(local_server, "_file_limit", lambda: 64)
    page = Page(small(tmp_path / "idle.parquet"))
    idle = [socket.create_connection(("127.0.0.1", page.port), timeout=20) for _ in range(100)]
    try:
        for _ in range(3):
            assert page.ask("GET", "/")[0] == 200
    finally:
        for connection in idle:
            connection.close()


def test_idle_connections_are_closed_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(local_server, "IDLE_SECONDS", 1)
    page = Page(small(tmp_path / "idle.parquet"))
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as connection:
        started = time.monotonic()
        assert connection.recv(1) == b""
        assert time.monotonic() - started > 0.5


def test_notes_of_the_server_are_not_printed(page, capfd):
    raw(page, b"\x00\x01garbage\r\n\r\n")
    raw(page, b"GET / HTTP/9.9\r\nHost: localhost\r\nContent-Length: minus\r\n\r\n")
    assert capfd.readouterr().err == ""
