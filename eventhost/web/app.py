"""The ASGI application: the routes of all resources, and one shape for whatever goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from eventhost.errors import BusClosed, ConfigError, EventRejected, NotFound
from eventhost.exchange.http import NotJson
from eventhost.serve import BusTools, McpFace
from eventhost.web.access.door import Door
from eventhost.web.access.ring import KeyRing
from eventhost.web.answers import ErrorCode, error_answer
from eventhost.web.api.auth import Auth
from eventhost.web.api.dead_letters import DeadLetters
from eventhost.web.api.events import Events
from eventhost.web.api.health import Health
from eventhost.web.api.host import Host
from eventhost.web.api.mcp import Mcp
from eventhost.web.api.mcp_endpoint import McpEndpoint
from eventhost.web.api.metrics import Metrics
from eventhost.web.api.mirix import Mirix
from eventhost.web.api.replay import Replay
from eventhost.web.api.rules import Rules
from eventhost.web.api.servers import Servers
from eventhost.web.api.sessions import SessionList, Sse
from eventhost.web.api.sources import Sources
from eventhost.web.endpoint import allowed, endpoints
from eventhost.web.events.broadcast import Broadcast
from eventhost.web.health.traffic import OpenStreams, Traffic
from eventhost.web.openapi import Description
from eventhost.web.sessions.entry import SessionEntry
from eventhost.web.sessions.registry import Sessions

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment


def create_app(
    environment: ServerEnvironment,
    open_streams: OpenStreams | None = None,
    door: Door | None = None,
) -> Starlette:
    """The ASGI application for `environment`, without the guard.

    The cancel scopes of live streams are kept in `open_streams`: whoever stops the server cancels them, since they
    would not end by themselves before the bus closes. `door` is the one that the guard asks, too. MCP is answered while
    the application's lifespan lasts.
    """
    door = door or Door(KeyRing(environment.root))
    streams = OpenStreams() if open_streams is None else open_streams
    broadcast = Broadcast(environment.bus, environment.config.http.heartbeat_s)
    face = McpFace(environment)
    bus_tools = BusTools(face)
    sessions = Sessions(face, environment.config.http)
    entry = SessionEntry(environment, sessions, broadcast, streams)
    traffic = Traffic(sessions, broadcast, streams)
    everything = endpoints(
        [
            Health(environment),
            Auth(door),
            Host(environment, face, traffic),
            Metrics(environment, traffic),
            Sources(environment),
            Servers(environment),
            Rules(environment),
            Events(environment, streams, broadcast),
            DeadLetters(environment),
            Replay(environment, streams),
            Sse(entry),
            SessionList(sessions),
            Mirix(environment, sessions),
            Mcp(environment),
            McpEndpoint(face, streams),
        ]
    )
    everything += endpoints([Description(everything, door)])

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with face.running(), bus_tools.running(), sessions.running():
            yield

    app = Starlette(
        routes=[
            *(endpoint.route() for endpoint in everything),
            WebSocketRoute("/ws/{session_id}", entry),
        ],
        exception_handlers={
            HTTPException: _http_error,
            NotFound: _not_found,
            NotJson: _not_json,
            EventRejected: _rejected,
            ConfigError: _config_error,
            BusClosed: _closing,
            Exception: _unexpected,
        },
        lifespan=lifespan,
    )
    app.state.face, app.state.sessions, app.state.traffic = face, sessions, traffic
    return app


_CODES = {
    400: ErrorCode.INVALID_PARAMS,
    404: ErrorCode.METHOD_NOT_FOUND,
    422: ErrorCode.INVALID_PARAMS,
    429: ErrorCode.SERVER_ERROR,
    503: ErrorCode.SERVER_ERROR,
}


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        methods = ", ".join(allowed(request.app.routes, request.scope))
        error = HTTPException(405, f"this address takes {methods}", {"Allow": methods})
    if error.status_code == 404 and error.detail == "Not Found":
        error = HTTPException(404, "there is no such route; GET /openapi.json lists all")
    code = _CODES.get(error.status_code, ErrorCode.INVALID_REQUEST)
    answer = error_answer(error.status_code, code, f"{request.method} {request.url.path}: {error.detail}")
    answer.headers.update(error.headers or {})
    return answer


async def _not_found(request: Request, error: Exception) -> Response:
    return error_answer(404, ErrorCode.INVALID_PARAMS, str(error))


async def _not_json(request: Request, error: Exception) -> Response:
    return error_answer(400, ErrorCode.PARSE_ERROR, str(error))


async def _rejected(request: Request, error: Exception) -> Response:
    return error_answer(400, ErrorCode.INVALID_PARAMS, str(error))


async def _config_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ConfigError)
    problems = [problem._asdict() for problem in error.problems]
    return error_answer(409, ErrorCode.SERVER_ERROR, str(error), {"problems": problems})


async def _closing(request: Request, error: Exception) -> Response:
    return error_answer(503, ErrorCode.SERVER_ERROR, str(error))


async def _unexpected(request: Request, error: Exception) -> Response:
    return error_answer(500, ErrorCode.INTERNAL_ERROR, "the host failed to answer; its log says why")
