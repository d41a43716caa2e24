"""A web site that a test writes: it answers what it is told, counts who asks, and goes away in several ways."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Request(NamedTuple):
    """What was asked; the names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    """What it was answered."""


class Page(NamedTuple):
    """What is answered. With `cut`, no more than so many bytes of the body are sent."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}
    cut: int | None = None


def page(value: Any, status: int = 200, **headers: str) -> Page:
    """JSON, text or bytes as they are; `content_type` is the header Content-Type, and so on."""
    named = {name.replace("_", "-").title(): text for name, text in headers.items()}
    if isinstance(value, bytes | str):
        return Page(value.encode() if isinstance(value, str) else value, status, named)
    return Page(json.dumps(value).encode(), status, {"Content-Type": "application/json", **named})


class Site:
    """Serves `pages` on `url`, each by its path with the query; an entity tag makes asking again cheap."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []
        self.tags = True
        """Whether it sends entity tags, and says when nothing has changed."""
        self.packs = False
        """Whether it packs what it sends."""
        self.answering = threading.Event()
        """Cleared, requests are taken and not answered."""
        self.answering.set()
        self._server: _Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self._port}"

    def statuses(self, path: str) -> list[int]:
        """What those who asked for `path` were answered."""
        return [request.status for request in self.requests if request.path == path]

    def start(self) -> None:
        """Serve, at the same port as before."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self, *, kill: bool = False) -> None:
        """Serve no more. When killed, connections are reset."""
        server, self._server = self._server, None
        if server is not None:
            self.answering.set()
            server.shutdown()
            server.server_close()
            server.hang_up(reset=kill)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], site: Site) -> None:
        self.site = site
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def hang_up(self, *, reset: bool) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hangs up is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        site = self.server.site
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        site.answering.wait()
        found = site.pages.get(self.path, page("there is no such page", 404, content_type="text/plain"))
        headers, content = dict(found.headers), found.body
        if site.packs:
            headers["Content-Encoding"] = "gzip"
            content = gzip.compress(content)
        tag = f'"{sha256(found.body).hexdigest()[:8]}"'
        if site.tags and found.status == 200:
            headers["ETag"] = tag
        status = 304 if site.tags and self.headers.get("If-None-Match") == tag else found.status
        asked = {name.lower(): value for name, value in self.headers.items()}
        site.requests.append(Request(self.command, self.path, asked, body, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if status != 304:
            self.wfile.write(content if found.cut is None else content[: found.cut])
        if found.cut is not None:
            self.close_connection = True

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@contextmanager
def site() -> Iterator[Site]:
    """A site that serves while the block lasts."""
    served = Site()
    served.start()
    try:
        yield served
    finally:
        served.stop()
