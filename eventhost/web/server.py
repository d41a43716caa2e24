"""Binding and serving: the sockets are the host's own, the signals too, and stopping never waits for a client.

uvicorn left to itself installs signal handlers, and ends the process when it cannot bind. Here it is handed sockets
that are bound already: the loopback port, and the control socket that only this user can open.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import uvicorn

from eventhost.config.model import HttpConfig
from eventhost.errors import ConfigError, EventhostError, Problem
from eventhost.web.app import create_app
from eventhost.web.control_socket import CONTROL_SOCKET, socket_name
from eventhost.web.guard import Guard

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

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
        ConfigError: `http.host` or `http.port` cannot be used as configured.
        EventhostError: the port or the control socket cannot be bound now.
    """
    http = environment.config.http
    control = environment.root / CONTROL_SOCKET
    with _tcp_sockets(http) as tcp, _control_socket(control) as unix:
        port = tcp[0].getsockname()[1] if tcp else 0
        open_streams: set[anyio.CancelScope] = set()
        app = Guard(create_app(environment, open_streams), port=port, hosts=[http.host])
        server = _Server(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                # What goes wrong in a request is logged by the guard.
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=_CLOSE_S,
            )
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [*tcp, unix])
            await server.ready.wait()
            try:
                yield Listening(_url(http.host, port) if tcp else "", control)
            finally:
                server.should_exit = True
                for stream in open_streams:
                    stream.cancel()
                with anyio.move_on_after(_CLOSE_S + 1, shield=True):
                    await server.done.wait()
                server.cut()
                tasks.cancel_scope.cancel()


class _Server(uvicorn.Server):
    """uvicorn's server, without its hold on the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.servers = []
        self.ready = anyio.Event()
        self.done = anyio.Event()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            for server in self.servers:
                server.close()
            self.done.set()

    def cut(self) -> None:
        """End what connections are left: those of clients that do not read what they are sent."""
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()


@contextmanager
def _tcp_sockets(http: HttpConfig) -> Iterator[list[socket.socket]]:
    """The sockets of `http.host`: none when switched off, two where a name stands for IPv4 and IPv6."""
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        port, absent = http.port, None
        for family, address in _loopback_addresses(http.host) if http.enabled else []:
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


def _loopback_addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _unusable("host", f"{host!r} has no address: {error}", "write 127.0.0.1") from error
    addresses = {(family, str(sockaddr[0])) for family, _, _, _, sockaddr in found}
    strangers = sorted(address for _, address in addresses if not ip_address(address).is_loopback)
    if strangers:
        raise _unusable(
            "host",
            f"{host!r} can be reached from other machines ({', '.join(strangers)}), and there are no keys yet to tell "
            "who may ask",
            'write "127.0.0.1", and let a reverse proxy or an SSH tunnel on this machine decide who comes in',
        )
    return sorted(addresses)


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


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
