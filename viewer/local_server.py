"""A web server for this machine: requests are checked and bounded, and every response forbids the browser to ask other hosts.

waitress answers them. What it leaves open is closed here: a request that never ends, and idle connections that keep others out.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer

from common.messages import UsageError, UserError, warn

if TYPE_CHECKING:
    from flask import Flask

MOST_BYTES = 32 << 20  # of a request: a picture of 20 MB as base64 text, and some room
LARGE_BYTES = 1 << 20  # of a request: larger ones are answered one at a time
WAITING = 3  # large requests that wait for their turn; one more is told to come back
HEADER_BYTES = 1 << 16
REQUEST_SECONDS = 60  # until a request must be here in full
IDLE_SECONDS = 30  # until a silent connection is closed
CONNECTIONS = 64  # at most; a browser opens six
SPARE_FILES = 24  # descriptors left for everything else
THREADS = 8
HEADERS = {
    "Content-Security-Policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
UNSERVED = ("/_reload-hash", "/static/<path:filename>", "/<path:path>")  # of Dash, for developers or for several pages


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guard(server: Flask, host: str) -> None:
    """Refuse what did not come from this page: on loopback a foreign Host (DNS rebinding), and always a foreign Origin.

    An error of ours is answered with 500 and a sentence, and told on stderr once; no traceback goes anywhere.
    """
    from flask import Response, abort, request
    from werkzeug.exceptions import HTTPException

    server.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    told: set[str] = set()

    def refusal(status: int, sentence: str) -> Response:
        return Response(sentence + "\n", status, mimetype="text/plain")

    @server.before_request
    def check() -> Any:
        if not request.environ.get("HTTP_HOST"):
            return refusal(400, "A request names its Host.")
        name = _parts(f"//{request.host}")[0]
        if is_loopback(host) and not is_loopback(name):
            return refusal(403, f"This page answers to localhost only, not to {name}.")
        origin = request.headers.get("Origin")
        if origin and _parts(origin)[1] != request.host:
            return refusal(403, "This page answers to itself only.")
        if request.url_rule is not None and request.url_rule.rule in UNSERVED:
            abort(404)
        return None

    @server.errorhandler(Exception)
    def fail(error: Exception) -> Any:
        if isinstance(error, HTTPException):
            return refusal(error.code or 500, error.name)
        known = isinstance(error, UserError)
        what = str(error) if known else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if what not in told and len(told) < 20:
            told.add(what)
            warn(what if known else f"{request.path} could not be answered ({what})")
        return refusal(500, what if known else "This page could not answer that.")

    @server.after_request
    def seal(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    server.wsgi_app = large_bodies_in_turn(server.wsgi_app)  # type: ignore[method-assign]


def _parts(url: str) -> tuple[str, str]:
    """Return (host name, host name and port) of an address, '' for what is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""


def large_bodies_in_turn(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Return the WSGI application that answers one request above LARGE_BYTES at a time, so that memory is bounded."""
    turn, waiting = threading.Lock(), threading.BoundedSemaphore(1 + WAITING)

    def in_turn(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if int(environ.get("CONTENT_LENGTH") or 0) <= LARGE_BYTES:
            return app(environ, start_response)
        if not waiting.acquire(blocking=False):
            headers = [("Content-Type", "text/plain"), ("Retry-After", "5"), *HEADERS.items()]
            start_response("503 Service Unavailable", headers)
            return [b"Other pictures are being looked at; try again in a moment.\n"]
        try:
            with turn:
                return app(environ, start_response)
        finally:
            waiting.release()

    return in_turn


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket; warns when others can reach it. Raises UserError for a port or address it cannot have."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(address[0], socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise UsageError(f"--host {host}: no such address; use 127.0.0.1, or an address of this machine") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address[4])
        bound.listen(64)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use; stop the other program, or choose another --port") from None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} needs more rights than yours; choose one above 1023 with --port") from None
        raise UsageError(f"--host {host}: not an address of this machine; use 127.0.0.1") from None
    if not is_loopback(host):
        warn(f"--host {host}: everybody who reaches this machine can see these pictures; there is no password")
    return bound


def serve(server: Flask, listening: socket.socket) -> None:
    """Answer requests in threads until interrupted."""
    logging.getLogger("waitress").setLevel(logging.CRITICAL)
    running = _Server(server, listening)
    try:
        running.asyncore.loop(timeout=1, map=running._map, use_poll=True)
    finally:
        running.task_dispatcher.shutdown(cancel_pending=True, timeout=1)
        running.close()


class _Channel(HTTPChannel):
    """A connection that knows since when the request that it reads has been coming."""

    since = 0.0

    def received(self, data: bytes) -> bool:
        if self.request is None:
            self.since = time.time()
        return bool(super().received(data))


class _Server(TcpWSGIServer):
    """waitress with a limit on the time of a request, and where all connections are taken, a new one in place of an idle one."""

    channel_class = _Channel

    def __init__(self, app: Flask, listening: socket.socket) -> None:
        adjustments = Adjustments(
            sockets=[listening],
            ident=None,  # no header that tells the version
            threads=THREADS,
            connection_limit=10**6,  # see handle_accept
            channel_timeout=IDLE_SECONDS,
            cleanup_interval=1,
            max_request_body_size=MOST_BYTES,
            max_request_header_size=HEADER_BYTES,
            log_socket_errors=False,
        )
        address = (listening.family, listening.type, listening.proto, listening.getsockname())
        super().__init__(app, _sock=listening, bind_socket=False, adj=adjustments, sockinfo=address)
        # A connection may need a temporary file for its request too.
        self.most = min(CONNECTIONS, max(4, (_file_limit() - SPARE_FILES) // 2))

    def maintenance(self, now: float) -> None:
        """Close connections that are silent, whose request takes too long to come, or that do not read their response."""
        super().maintenance(now)
        for channel in list(self.active_channels.values()):
            late = channel.request is not None and now - channel.since > REQUEST_SECONDS
            if late or (channel.total_outbufs_len and now - channel.last_activity > IDLE_SECONDS):
                channel.handle_close()

    def handle_accept(self) -> None:
        """Take a connection; where there are too many, in place of the one that has been idle longest."""
        channels = list(self.active_channels.values())
        if len(channels) >= self.most:
            idle = [channel for channel in channels if not channel.requests]
            if not idle:
                if accepted := self.accept():
                    accepted[0].close()
                return
            min(idle, key=lambda channel: channel.last_activity).handle_close()
        super().handle_accept()


def _file_limit() -> int:
    """Return how many files this process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1024 if soft == resource.RLIM_INFINITY else soft
