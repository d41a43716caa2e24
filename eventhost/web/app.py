"""What the host answers over HTTP: health, status, sources and what to do with them, events in and out."""

from __future__ import annotations

import os
import time
from collections import Counter
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import msgspec
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from eventhost import __version__
from eventhost.bus import selector
from eventhost.errors import BusClosed, ConfigError, EventRejected, NotFound
from eventhost.event import EnvEvent
from eventhost.journal import Journal
from eventhost.rules.again import Request as Replay
from eventhost.rules.letters import in_full, in_short
from eventhost.web.answers import ErrorCode, error_answer, json_answer, now
from eventhost.web.events import MAX_EVENTS, following, newest, position
from eventhost.web.guard import over_control_socket
from eventhost.web.replay import ReplayStream
from eventhost.web.stream import EventStream

if TYPE_CHECKING:
    from eventhost.environment import ServerEnvironment

_DEFAULT_LIMIT = 100
MAX_LETTERS = 1_000
_RULES_AT_ONCE = 500

_decode_events = msgspec.json.Decoder(list[EnvEvent]).decode


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
            Route("/rules", face.rules),
            Route("/events", face.events, methods=["GET", "POST"]),
            Route("/events/{event:path}/explain", face.explain),
            Route("/replay", face.replay, methods=["POST"]),
            Route("/events/import", face.import_events, methods=["POST"]),
            Route("/dead-letters", face.dead_letters),
            Route("/dead-letters/{number:int}", face.dead_letter),
            Route("/dead-letters/{number:int}/retry", face.retry, methods=["POST"]),
            Route("/dead-letters/{number:int}/discard", face.discard, methods=["POST"]),
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

    async def rules(self, request: Request) -> Response:
        glob = request.query_params.get("name", "*")
        rules, broken = self._environment.rule_set.files, self._environment.rule_set.broken
        statistics = {each.name: each for each in self._environment.rule_statistics()}
        listed: list[dict[str, Any]] = []
        for file, group in rules.items():
            for number, rule in enumerate(group):
                if number % _RULES_AT_ONCE == 0:
                    await anyio.lowlevel.checkpoint()
                if rule.name in statistics and fnmatchcase(rule.name, glob):
                    fares = msgspec.to_builtins(statistics[rule.name])
                    listed.append({"name": rule.name, "file": file, "on": rule.on, **fares})
        problems = {file: [problem._asdict() for problem in found] for file, found in broken.items()}
        return json_answer({"rules": listed, "broken": problems})

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

    async def import_events(self, request: Request) -> Response:
        # What it publishes may say that it comes from anywhere: that is for the host's own user.
        if not over_control_socket(request.scope):
            raise HTTPException(403, "events are imported over the control socket only")
        try:
            events = _decode_events(await request.body())
        except (msgspec.MsgspecError, RecursionError) as error:
            return error_answer(400, ErrorCode.PARSE_ERROR, f"the body is no list of events: {error}")
        first = await self._environment.import_events(events)
        return json_answer({"first": first, "count": len(events)}, 201)

    # Dead letters

    async def dead_letters(self, request: Request) -> Response:
        query, environment = request.query_params, self._environment
        after = query.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) < 19):
            raise _invalid(f"after: a dead letter's id is expected, got {after[:40]!r}")
        limit = _limit(query.get("limit"), MAX_LETTERS)
        letters = await environment.dead_letters(query.get("rule"), after=int(after), limit=limit)
        retrying = environment.retrying()
        cursor = letters[-1].id if letters else int(after)
        return json_answer({"dead_letters": [in_short(letter, retrying) for letter in letters], "cursor": cursor})

    async def dead_letter(self, request: Request) -> Response:
        letter = await self._environment.dead_letter(request.path_params["number"])
        return json_answer(in_full(letter, self._environment.retrying()))

    async def retry(self, request: Request) -> Response:
        letter = await self._environment.retry_dead_letter(request.path_params["number"])
        return json_answer(in_short(letter, self._environment.retrying()), 202)

    async def discard(self, request: Request) -> Response:
        letter = await self._environment.discard_dead_letter(request.path_params["number"])
        return json_answer(in_short(letter, self._environment.retrying()))

    async def explain(self, request: Request) -> Response:
        query = request.query_params
        told = await self._environment.explain(
            request.path_params["event"], every=query.get("all") == "true", only=query.get("rule")
        )
        return json_answer(told.to_json())

    async def replay(self, request: Request) -> Response | ASGIApp:
        try:
            wanted = Replay.model_validate_json(await request.body())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise _invalid(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from None
        return ReplayStream(await self._environment.replay(wanted), self._open_streams)

    async def _publish(self, request: Request) -> Response:
        try:
            value = msgspec.json.decode(await request.body())
        except (msgspec.DecodeError, RecursionError) as error:
            return error_answer(400, ErrorCode.PARSE_ERROR, f"the body is not JSON: {error}")
        if not isinstance(value, dict):
            raise EventRejected('an event must be an object such as {"type": "door.opened", "payload": {}}')
        event, seq = await self._environment.publish_event(value)
        return json_answer({"id": event.id, "seq": seq}, 201)


def _limit(text: str | None, most: int = MAX_EVENTS) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) < 19 and 1 <= int(text) <= most):
        raise _invalid(f"limit: a number from 1 to {most} is expected, got {text[:40]!r}")
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
