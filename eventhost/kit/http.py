"""A source over Streamable HTTP, through the MCP SDK: the same tools, resources and promises, for several hosts.

Events are pushed to every session of the legacy era (2025-11-25 and before) while its GET stream is open; what no host
accepted meanwhile waits for the next stream. The modern era has no stream to push on over HTTP: a host that speaks it
there must poll, and the source be told `"push": false`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import anyio
import mcp_types as types
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.session import ServerSession
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventhost.errors import ConnectionLost
from eventhost.kit.jsonrpc import is_host
from eventhost.kit.outbox import Listener
from eventhost.kit.service import LOG_LEVELS, RpcError, Service
from eventhost.kit.stdio import run_until_signal
from eventhost.wire import ACCEPTED, ACK

if TYPE_CHECKING:
    from eventhost.kit.source import EventSource

_PATH: Final = "/mcp"
_MAX_SESSIONS: Final = 1000
_SHUTDOWN_S: Final = 1.0
_SESSION_HEADER: Final = "mcp-session-id"

_METHODS: Final[dict[str, tuple[type[types.RequestParams], type[types.Result]]]] = {
    "tools/list": (types.PaginatedRequestParams, types.ListToolsResult),
    "tools/call": (types.CallToolRequestParams, types.CallToolResult),
    "resources/list": (types.PaginatedRequestParams, types.ListResourcesResult),
    "resources/templates/list": (types.PaginatedRequestParams, types.ListResourceTemplatesResult),
    "resources/read": (types.ReadResourceRequestParams, types.ReadResourceResult),
}

_Context = ServerRequestContext[Any, Any]


def run_http(source: EventSource, host: str, port: int) -> int:
    """Serve `source` at `http://HOST:PORT/mcp` until SIGTERM or SIGINT; return the exit status, see `run_stdio`.

    The address that is listened on is told on stderr. Status 1 as well when it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        print(f"{source.name}: cannot listen on {host}:{port}: {error.strerror}", file=sys.stderr)
        return 1
    with listening:
        place = f"[{host}]" if ":" in host else host
        print(f"{source.name}: http://{place}:{listening.getsockname()[1]}{_PATH}", file=sys.stderr, flush=True)
        return run_until_signal(
            source.name, lambda: source.serve_peers(lambda service: serve_http(service, listening, host))
        )


async def serve_http(service: Service, listening: socket.socket, host: str) -> None:
    """Serve hosts that connect to `listening` until cancelled; `host` is the name that it was bound to."""
    sessions = _Sessions(service)
    app = _build_server(service, sessions).streamable_http_app(streamable_http_path=_PATH, host=host)
    config = uvicorn.Config(
        sessions.watching_streams(app),
        log_config=None,
        access_log=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=1,
    )
    server = _Uvicorn(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        sessions.close_streams()
        await asyncio.wait([serving], timeout=_SHUTDOWN_S)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The signals are the source's own: its tasks end before its peers do.
        yield


class _Session:
    """One peer of the legacy era. It listens while it is initialized and a GET stream of it is open."""

    def __init__(self) -> None:
        self.listener = Listener(self._send)
        self.initialized = asyncio.Event()
        self._session: ServerSession | None = None

    def initialize(self, session: ServerSession, *, acks: bool) -> None:
        self._session = session
        self.listener.acks = acks
        self.initialized.set()

    async def _send(self, lines: list[bytes]) -> None:
        assert self._session is not None
        for line in lines:
            message = json.loads(line)
            notification: Any = types.Notification[dict[str, Any], str](
                method=message["method"], params=message["params"]
            )
            try:
                await self._session.send_notification(notification)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise ConnectionLost("the session has ended") from error


class _Sessions:
    """The peers of the legacy era, by session id."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sessions: dict[str, _Session] = {}
        self._streams: set[asyncio.Task[None]] = set()

    def of(self, context: _Context) -> _Session:
        """The session that a request belongs to; a passing one in the modern era, which has none."""
        session_id = context.request.headers.get(_SESSION_HEADER) if context.request else None
        if session_id is None or context.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return _Session()
        return self._get(session_id)

    def watching_streams(self, app: ASGIApp) -> ASGIApp:
        """`app`, with events pushed on each GET stream from its first byte to its end."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            method = scope.get("method")
            session_id = dict(scope.get("headers", ())).get(_SESSION_HEADER.encode(), b"").decode("latin-1")
            if method == "GET" and session_id:
                await self._stream(app, session_id, scope, receive, send)
                return
            await app(scope, receive, send)
            if method == "DELETE":
                self._sessions.pop(session_id, None)

        return watched

    def close_streams(self) -> None:
        """End all GET streams, so that the server need not wait for them."""
        for stream in self._streams:
            stream.cancel()

    async def _stream(self, app: ASGIApp, session_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        opened = asyncio.Event()

        async def send_and_tell(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start" and message["status"] == 200:
                opened.set()

        async def listen() -> None:
            await opened.wait()  # not before: until the SDK has answered, anybody may have made up the id
            session = self._get(session_id)
            await session.initialized.wait()
            with contextlib.suppress(ConnectionLost):
                await self._service.outbox.listen(session.listener)

        stream = asyncio.ensure_future(_call(app, scope, receive, send_and_tell))
        listening = asyncio.ensure_future(listen())
        self._streams.add(stream)
        try:
            await asyncio.wait([stream])
        finally:
            self._streams.discard(stream)
            for task in (listening, stream):
                task.cancel()
            await asyncio.gather(listening, stream, return_exceptions=True)
        if not stream.cancelled():
            stream.result()
        elif opened.is_set():
            await send({"type": "http.response.body"})

    def _get(self, session_id: str) -> _Session:
        session = self._sessions.get(session_id)
        if session is None:
            if len(self._sessions) >= _MAX_SESSIONS:
                # The SDK forgets idle sessions, and does not tell.
                listeners = self._service.outbox.listeners
                self._sessions = {key: one for key, one in self._sessions.items() if one.listener in listeners}
            session = self._sessions[session_id] = _Session()
        return session


async def _call(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


class _Server(Server[Any]):
    """The SDK's server, asking for acknowledgement where there is a stream to push on."""

    pushes = False

    def get_capabilities(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
        *,
        protocol_version: str | None = None,
    ) -> types.ServerCapabilities:
        if self.pushes and protocol_version not in MODERN_PROTOCOL_VERSIONS:
            experimental_capabilities = {**(experimental_capabilities or {}), ACK: {}}
        return super().get_capabilities(
            notification_options, experimental_capabilities, extensions, protocol_version=protocol_version
        )


def _build_server(service: Service, sessions: _Sessions) -> _Server:
    server = _Server(service.name, version=service.version, instructions=service.instructions or None)
    server.pushes = service.pushes

    async def answer(context: _Context, _: types.RequestParams) -> types.Result:
        try:
            result = await service.answer(sessions.of(context).listener, context.method, dict(context.params or {}))
        except RpcError as error:
            raise MCPError(error.code, error.message, error.data) from error
        return _METHODS[context.method][1].model_validate(result)

    async def set_level(context: _Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
        sessions.of(context).listener.log_level = LOG_LEVELS.index(params.level)
        return types.EmptyResult()

    async def initialized(context: _Context, _: types.NotificationParams) -> None:
        session, client = sessions.of(context), context.session.client_params
        described = client.model_dump(by_alias=True, mode="json") if client else {}
        acks = service.pushes and is_host(described.get("clientInfo"), described.get("capabilities"))
        session.listener.log_level = 0
        session.initialize(context.session, acks=acks)

    async def accepted(context: _Context, _: types.NotificationParams) -> None:
        service.outbox.answered(dict(context.params or {}))

    for method, (params_type, _) in _METHODS.items():
        server.add_request_handler(method, params_type, answer)
    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)
    server.add_notification_handler("notifications/initialized", types.NotificationParams, initialized)
    server.add_notification_handler(ACCEPTED, types.NotificationParams, accepted)
    return server
