"""A web page for this machine: every request is checked, every answer forbids the browser to ask anybody else."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from common.messages import UsageError, UserError, warn

if TYPE_CHECKING:
    from flask import Flask

MOST_BYTES = 32 << 20  # of a request: a picture of 20 MB as base64 text, and some room
HEADERS = {
    "Content-Security-Policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guard(server: Flask, host: str) -> None:
    """Refuse what did not come from this page: on loopback a foreign Host (DNS rebinding), and always a foreign Origin."""
    from flask import Response, request

    server.config["MAX_CONTENT_LENGTH"] = MOST_BYTES

    @server.before_request
    def check() -> Any:
        name = urlsplit(f"//{request.host}").hostname or ""
        if is_loopback(host) and not is_loopback(name):
            return Response(f"This page answers to localhost only, not to {name}.\n", 403, mimetype="text/plain")
        origin = request.headers.get("Origin")
        if origin and urlsplit(origin).netloc != request.host:
            return Response("This page answers to itself only.\n", 403, mimetype="text/plain")
        return None

    @server.after_request
    def seal(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; says aloud when others can reach it. Raises UserError for a port or address it cannot have."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(found[0], socket.SOCK_STREAM)
    except socket.gaierror:
        raise UsageError(f"--host {host}: no such address; use 127.0.0.1, or an address of this machine") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(64)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use; stop the other program, or choose another --port") from None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} needs more rights than yours; choose one above 1023 with --port") from None
        raise UsageError(f"--host {host}: not an address of this machine; use 127.0.0.1") from None
    if not is_loopback(host):
        warn(f"--host {host}: everybody who reaches this machine can see these pictures; there is no password")
    return listening


def serve(server: Flask, listening: socket.socket) -> None:
    """Answer requests until interrupted, in threads."""
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    host, port = listening.getsockname()[:2]
    with listening:
        made = make_server(host, port, server, threaded=True, fd=listening.fileno())
        made.serve_forever()
