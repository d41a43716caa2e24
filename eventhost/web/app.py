"""What the host answers over HTTP: health, status, sources and what to do with them, events in and out."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from eventhost import __version__
from eventhost.bus import selector
from eventhost.errors import BusClosed, ConfigError, EventRejected, NotFound
from eventhost.journal import Journal
from eventhost.web.answers import ErrorCode, error_answer, json_answer, now
from eventhost.web.events import MAX_EVENTS, following, newest, position
from eventhost.web.stream import EventStream

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

_DEFAULT_LIMIT = 100


def create_app(environment: ServerEnvironment, open_streams: set[anyio.CancelScope] | None = None) -> Starlette:
    """The ASGI application for `environment`, without the guard.

    The cancel scopes of live streams are kept in `open_streams`: whoever stops the server cancels them, since they
    would not end by themselves before the bus closes.
    """
    face = _Face(environment, set() if open_streams is None else open_streams)
    return Starlette(
        routes=[
            Route("/health", face.health),
            Route("/status", face.status),
            Route("/reload", face.reload, methods=["POST"]),
            Route("/sources", face.sources),
            Route("/sources/{name}", face.source),
            Route("/sources/{name}/{verb}", face.act, methods=["POST"]),
            Route("/events", face.events, methods=["GET", "POST"]),
        ],
        exception_handlers={
            HTTPException: _http_error,
            NotFound: _not_found,
            EventRejected: _rejected,
            ConfigError: _config_error,
            BusClosed: _closing,
            Exception: _unexpected,
        },
    )


class _Face:
    """The endpoints, and what they answer for."""

    def __init__(self, environment: ServerEnvironment, open_streams: set[anyio.CancelScope]) -> None:
        self._environment = environment
        self._open_streams = open_streams
        self._started = time.monotonic()
        self._verbs = {
            "start": environment.start_source,
            "stop": environment.stop_source,
            "restart": environment.restart_source,
            "enable": environment.enable_source,
            "disable": environment.disable_source,
        }

    async def health(self, request: Request) -> Response:
        uptime_s = int(time.monotonic() - self._started)
        return json_answer({"status": "healthy", "timestamp": now(), "version": __version__, "uptime": uptime_s})

    async def status(self, request: Request) -> Response:
        environment = self._environment
        sources = Counter(source.status for source in environment.source_statuses())
        return json_answer(
            {
                "id": environment.config.id,
                "root": str(environment.root),
                "version": __version__,
                "pid": os.getpid(),
                "uptime_s": round(time.monotonic() - self._started, 3),
                "sources": sources,
                "rules": environment.rule_statistics(),
                "bus": environment.bus.statistics(),
            }
        )

    async def reload(self, request: Request) -> Response:
        report = await self._environment.reload()
        done = {"started": report.started, "restarted": report.restarted, "stopped": report.stopped}
        return json_answer({**done, "problems": [problem._asdict() for problem in report.problems]})

    async def sources(self, request: Request) -> Response:
        return json_answer({"sources": self._environment.source_statuses()})

    async def source(self, request: Request) -> Response:
        return json_answer(self._environment.source_status(request.path_params["name"]))

    async def act(self, request: Request) -> Response:
        name, verb = request.path_params["name"], request.path_params["verb"]
        if verb not in self._verbs:
            raise HTTPException(404, f"a source cannot be told to {verb!r}; it knows {', '.join(self._verbs)}")
        await self._verbs[verb](name)
        return json_answer(self._environment.source_status(name))

    async def events(self, request: Request) -> Response | ASGIApp:
        if request.method == "POST":
            return await self._publish(request)
        query = request.query_params
        since = query.get("since")
        globs = [glob.strip() for glob in query.get("type", "").split(",") if glob.strip()] or ["*"]
        bus = self._environment.bus
        if request.method == "GET" and "text/event-stream" in request.headers.get("accept", ""):
            since = request.headers.get("last-event-id", since)
            after = None if since is None else await _position(bus.journal, since)
            return EventStream(bus.subscribe(globs, after=after), self._open_streams)
        limit, select = _limit(query.get("limit")), selector(globs)
        if since is None:
            page = await newest(bus.journal, select, limit)
        else:
            page = await following(bus.journal, select, limit, await _position(bus.journal, since))
        missed = b',"missed":%d' % page.missed if page.missed else b""
        text = b'{"events":[%b],"cursor":%d%b}' % (b",".join(page.events), page.cursor, missed)
        return Response(text, media_type="application/json")

    async def _publish(self, request: Request) -> Response:
        try:
            value = msgspec.json.decode(await request.body())
        except (msgspec.DecodeError, RecursionError) as error:
            return error_answer(400, ErrorCode.PARSE_ERROR, f"the body is not JSON: {error}")
        if not isinstance(value, dict):
            raise EventRejected('an event must be an object such as {"type": "door.opened", "payload": {}}')
        event, seq = await self._environment.publish_event(value)
        return json_answer({"id": event.id, "seq": seq}, 201)


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_EVENTS):
        raise _invalid(f"limit: a number from 1 to {MAX_EVENTS} is expected, got {text[:40]!r}")
    return int(text)


async def _position(journal: Journal, since: str) -> int:
    try:
        return await position(journal, since)
    except ValueError as error:
        raise _invalid(f"since: {error}") from error


def _invalid(message: str) -> HTTPException:
    return HTTPException(400, message)


_CODES = {400: ErrorCode.INVALID_PARAMS, 404: ErrorCode.METHOD_NOT_FOUND}


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, ErrorCode.INVALID_REQUEST)
    answer = error_answer(error.status_code, code, f"{request.method} {request.url.path}: {error.detail}")
    answer.headers.update(error.headers or {})
    return answer


async def _not_found(request: Request, error: Exception) -> Response:
    return error_answer(404, ErrorCode.INVALID_PARAMS, str(error))


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
