"""A real Milvus server for the tests: its PyPI package in an environment that is kept between runs, its data in a folder that goes.

As a script of that environment: starts the server with its data in the folder given, prints its port, ends with standard input.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("milvus==2.3.5", "setuptools<81")  # the package looks for pkg_resources
HEALTH_PORT = 9091  # the one that cannot be chosen


class Unavailable(Exception):
    """Why there can be no server here."""


def environment() -> Path:
    """Return the folder of the environment, made where there is none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "padding-study-milvus-2.3.5"
    if not (cache / "complete").is_file():
        shutil.rmtree(cache, ignore_errors=True)
        python = str(cache / "venv" / "bin" / "python")
        for command in (
            [sys.executable, "-m", "venv", str(cache / "venv")],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=240)
            if done.returncode:
                raise Unavailable(f"{PACKAGES[0]} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
        (cache / "complete").touch()
    return cache


class Server:
    """A server on loopback that can be killed and started again on the same data; its port changes with that."""

    def __init__(self, data: Path) -> None:
        self.data, self.uri = data, ""

    def start(self) -> None:
        """Start it and wait until it answers; once more where it ends while it recovers its data. Raises Unavailable."""
        self._start()
        if not self._answers(60):
            self.kill()
            self._start()
            if not self._answers(60):
                self.kill()
                raise Unavailable("the server does not answer")

    def _start(self) -> None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", HEALTH_PORT)) == 0:
                raise Unavailable(f"port {HEALTH_PORT} is taken")
        cache = environment()
        (cache / "bin").mkdir(exist_ok=True)
        if not (self.data / "bin").is_symlink():
            (self.data / "bin").symlink_to(cache / "bin")  # 400 MB that it unpacks, once
        command = [str(cache / "venv" / "bin" / "python"), __file__, str(self.data)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._process = subprocess.Popen(command, **pipes, text=True, start_new_session=True)  # type: ignore[call-overload]
        port = self._process.stdout.readline().strip()
        if not port:
            last = self._process.stderr.read().strip().splitlines()[-1:]
            self.kill()
            raise Unavailable(f"the server does not start: {last}")
        self.uri = f"http://127.0.0.1:{port}"

    def _answers(self, seconds: float) -> bool:
        """Return whether it answers a client within this time: it calls itself ready before it has recovered its data."""
        from common.messages import UserError
        from indexes.milvus_store import MilvusStore

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(UserError), MilvusStore(self.uri):
                return True
            time.sleep(1)
        return False

    def stop(self) -> None:
        """End it in order."""
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and what it started with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def running(data: Path | None = None) -> Iterator[Server]:
    """Yield a server that ends with the block, its data in a new folder that goes then, or in `data`. Raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="milvus-", ignore_cleanup_errors=True) as folder:
        server = Server(data or Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def main(folder: str) -> None:
    from milvus import MilvusServer

    server = MilvusServer(data_dir=folder)
    try:
        server.start()
        print(server.listen_port, flush=True)
        sys.stdin.read()
    finally:
        server.stop()


if __name__ == "__main__":
    main(sys.argv[1])
