"""Binding and serving: the sockets are the host's own, the signals too, and stopping never waits for a client.

uvicorn left to itself installs signal handlers, and ends the process when it cannot bind. Here it is handed sockets
that are bound already: the port, perhaps with TLS, and the control socket, without, that only this user can open.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from eventhost.config.model import HttpConfig
from eventhost.errors import ConfigError, EventhostError, Problem
from eventhost.web.access.door import Door
from eventhost.web.access.guard import MAX_BODY_BYTES, Guard
from eventhost.web.access.keys import read_keys
from eventhost.web.access.ring import KeyRing
from eventhost.web.access.tls import Certificate
from eventhost.web.app import create_app
from eventhost.web.control_socket import CONTROL_SOCKET, socket_name
from eventhost.web.health.traffic import OpenStreams

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

log = structlog.get_logger()

WATCH_S = 2.0
"""How soon the end of a key ends the streams that were opened with it."""

_BACKLOG = 128
_CLOSE_S = 1
"""How long requests that are under way may take to finish when the server stops."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the host can be reached. `url` is empty when only the control socket is served."""

    url: str
    control_socket: Path


@asynccontextmanager
async def serving(environment: ServerEnvironment) -> AsyncIterator[Listening]:
    """Answer HTTP for `environment` while the context lasts.

    Raises:
        ConfigError: `http.host`, `http.port` or `http.tls` cannot be used as configured, or the file of keys cannot;
            or others can reach the address, and there is no key.
        EventhostError: the port or the control socket cannot be bound now.
    """
    http = environment.config.http
    control = environment.root / CONTROL_SOCKET
    ring = KeyRing(environment.root)
    with _tcp_sockets(http) as tcp:
        port = tcp[0].getsockname()[1] if tcp else 0
        needs_keys = http.auth == "keys" or not all(_is_loopback(each) for each in tcp)
        if needs_keys and tcp:
            _require_keys(environment.root, http, tcp)
        certificate = Certificate(environment.root, http.tls) if tcp and http.tls else None
        door = Door(ring, needs_keys=needs_keys, sign_in_s=http.sign_in_s, cookie=f"eventhost-{port}")
        open_streams = OpenStreams()
        routes = create_app(environment, open_streams, door)
        guard = Guard(
            routes,
            port=port,
            hosts=[http.host],
            http=http,
            door=door,
            needs_keys=needs_keys,
            open_streams=open_streams,
            requests=routes.state.traffic.requests,
        )
        with _control_socket(control) as unix:
            server = _Server(_uvicorn(guard, certificate, http), unix)
            async with routes.router.lifespan_context(routes), anyio.create_task_group() as tasks:
                tasks.start_soon(server.serve, tcp)
                await server.ready.wait()
                tasks.start_soon(_watch, guard, server, certificate)
                try:
                    yield Listening(_url(http, port) if tcp else "", control)
                finally:
                    server.should_exit = True
                    for stream in open_streams:
                        stream.cancel()
                    with anyio.move_on_after(_CLOSE_S + 1, shield=True):
                        await server.done.wait()
                    server.cut()
                    ring.save()
                    tasks.cancel_scope.cancel()


def _uvicorn(app: Guard, certificate: Certificate | None, http: HttpConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Connection,
        ws="websockets-sansio",
        ws_max_size=MAX_BODY_BYTES,
        ws_ping_interval=http.heartbeat_s,
        ws_ping_timeout=http.connection_timeout_s,
        # It would compress each event anew for each client.
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        # What goes wrong in a request is logged by the guard.
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_CLOSE_S,
        ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
    )


async def _watch(guard: Guard, server: _Server, certificate: Certificate | None) -> None:
    """Cut whoever has no right, or no will, to be served any longer; take a certificate that was renewed."""
    while True:
        await anyio.sleep(WATCH_S)
        if overdue := {visit.peer for visit in guard.overdue()}:
            server.cut(overdue)
        if certificate is not None:
            certificate.refresh()


class _Connection(HttpToolsProtocol):
    """uvicorn's, which lets whoever answers cut it: `state["abort"]` of the scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort}


class _Server(uvicorn.Server):
    """uvicorn's server, without its hold on the process, and with a socket more to which TLS does not apply."""

    def __init__(self, config: uvicorn.Config, plain: socket.socket) -> None:
        super().__init__(config)
        self._plain = plain
        self.servers = []
        self.ready = anyio.Event()
        self.done = anyio.Event()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        self.servers.append(await loop.create_server(self._protocol, sock=self._plain, backlog=_BACKLOG))
        self.ready.set()

    def _protocol(self) -> asyncio.Protocol:
        state = {"server_state": self.server_state, "app_state": self.lifespan.state}
        return self.config.http_protocol_class(config=self.config, **state)  # type: ignore[call-arg]

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            for server in self.servers:
                server.close()
            self.done.set()

    def cut(self, peers: Collection[object] | None = None) -> None:
        """End the connections that are left, or those of `peers`: a client that does not read would hold its own."""
        for connection in list(self.server_state.connections):
            named = peers is None or getattr(connection, "client", None) in peers
            if named and connection.transport is not None:
                connection.transport.abort()


@contextmanager
def _tcp_sockets(http: HttpConfig) -> Iterator[list[socket.socket]]:
    """The sockets of `http.host`: none when switched off, two where a name stands for IPv4 and IPv6."""
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        port, absent = http.port, None
        for family, address in _addresses(http.host) if http.enabled else []:
            try:
                tcp = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    tcp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                tcp.bind((address, port))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise _cannot_bind(http, error) from error
                # `localhost` often names ::1 on machines without IPv6; the other address will do.
                absent = error
                continue
            tcp.setblocking(False)
            sockets.append(tcp)
            # Port 0 lets the kernel choose; a second address takes the same one.
            port = tcp.getsockname()[1]
        if absent and not sockets:
            raise _cannot_bind(http, absent)
        yield sockets


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _unusable("host", f"{host!r} has no address: {error}", "write 127.0.0.1") from error
    return sorted({(family, str(sockaddr[0])) for family, _, _, _, sockaddr in found})


def _is_loopback(bound: socket.socket) -> bool:
    return ip_address(bound.getsockname()[0]).is_loopback


def _require_keys(root: Path, http: HttpConfig, tcp: list[socket.socket]) -> None:
    """Refuse an address that others can reach while there is no key to tell who may ask."""
    if read_keys(root):
        return
    if strangers := sorted(each.getsockname()[0] for each in tcp if not _is_loopback(each)):
        raise _unusable(
            "host",
            f"{http.host!r} can be reached from other machines ({', '.join(strangers)}), and there is no key yet to "
            "tell who may ask",
            'make one: eventhost key create NAME --scope read; or write "127.0.0.1"',
        )
    log.warning("no_keys", mend="nobody can ask until there is one: eventhost key create NAME --scope read")


def _cannot_bind(http: HttpConfig, error: OSError) -> EventhostError:
    if error.errno == errno.EADDRINUSE:
        return EventhostError(
            f"port {http.port} on {http.host} is in use by another program; stop that, or set http.port in "
            "config.jsonc to a free one (0 lets the system choose)"
        )
    if error.errno == errno.EACCES:
        return _unusable("port", f"this user may not listen on port {http.port}", "write one of 1024 or above")
    return _unusable("host", f"cannot listen on {http.host}:{http.port}: {error.strerror}", "write 127.0.0.1")


def _unusable(key: str, message: str, mend: str) -> ConfigError:
    return ConfigError([Problem("config.jsonc", message, mend, f"http.{key}")])


def _url(http: HttpConfig, port: int) -> str:
    scheme = "https" if http.tls else "http"
    return f"{scheme}://[{http.host}]:{port}" if ":" in http.host else f"{scheme}://{http.host}:{port}"


@contextmanager
def _control_socket(path: Path) -> Iterator[socket.socket]:
    """The control socket, mode 0600 from its creation on; its file is there only while it is served."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What a host that was killed left behind. A living one holds the environment's lock, so that nobody gets here.
        path.unlink(missing_ok=True)
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The mask holds for the whole process; for the moment of one call that makes a file of another thread stricter.
        mask = os.umask(0o177)
        try:
            with socket_name(path) as name:
                unix.bind(name)
            # At once, so that whoever finds the file can connect; the answer comes when the server is up.
            unix.listen(_BACKLOG)
        finally:
            os.umask(mask)
    except OSError as error:
        raise EventhostError(
            f"cannot make the control socket {path}: {error.strerror}; is the folder writable?"
        ) from error
    try:
        unix.setblocking(False)
        yield unix
    finally:
        unix.close()
        with suppress(OSError):
            path.unlink()
