"""`EventSource`: what an author writes a source with; ten lines make one, and `emit` returns when it is safe.

@source.task ──► emit ──► service (outbox, tools, resources) ──► jsonrpc.py ──► stdio.py, or a host in this process
                                                            └──► http.py
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from eventhost.errors import ConfigError, ConnectionLost, EventRejected, Problem
from eventhost.kit.ending import spare_tracebacks_of_configuration
from eventhost.kit.event import Event
from eventhost.kit.ids import uuid7
from eventhost.kit.jsonrpc import converse
from eventhost.kit.outbox import Listener, glob_matches
from eventhost.kit.service import LOG_LEVELS, OWN_TOOLS, Service, Tool
from eventhost.wire import EMITTED, MESSAGE, SERVER_CONFIG_VARIABLE, STATE_DIR_VARIABLE, STATUS

if TYPE_CHECKING:
    from pathlib import Path

    from eventhost.kit.bookmark import Bookmark
    from eventhost.kit.upstream import Upstream

GRACE_S: Final = 1.0
"""How long the tasks of a source have to clean up when it ends; less than a host waits before it sends SIGTERM."""

Task = Callable[[], Awaitable[None]]
_Function = TypeVar("_Function", bound=Callable[..., Any])
_TaskT = TypeVar("_TaskT", bound=Task)


class EventSource:
    """An event source: an MCP server that pushes events.

    `name` is what it is called in its resources and in `metadata.source`; `event_types` are the types it may emit, as
    far as they are known (globs will do); `description` is told to clients as the server's instructions. With
    `push=False`, or `"push": false` in its configuration, it gathers its events for a host that polls
    `list_pending_events`; nobody acknowledges those.
    """

    def __init__(
        self,
        name: str,
        event_types: Iterable[str] = (),
        *,
        version: str = "1.0.0",
        description: str = "",
        push: bool = True,
    ) -> None:
        self.name = name
        self._event_types = list(event_types)
        self._version = version
        self._description = description
        self._push = push
        self._tasks: list[Task] = []
        self._tools: dict[str, Tool] = {}
        self._config: dict[str, Any] | None = None
        self._state_dir: str | os.PathLike[str] | None = None
        self._service: Service | None = None
        self._upstreams: dict[str, Upstream] = {}
        spare_tracebacks_of_configuration()  # its module reads its settings next

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration, from the environment variable `MCP_SERVER_CONFIG` unless `serve` was given one.

        Raises:
            ConfigError: the variable holds no JSON object.
        """
        if self._config is None:
            self._config = _config_of_environment()
        return self._config

    @property
    def options(self) -> dict[str, Any]:
        """The settings: what stands under `options` in the configuration, over what stands beside it."""
        options = self.config.get("options")
        return {**self.config, **(options if isinstance(options, dict) else {})}

    @property
    def state_dir(self) -> Path:
        """A folder that outlives the source; it exists.

        It comes from the environment variable `EVENTHOST_STATE_DIR` unless `serve` was given one. When a source is run
        by hand it is `eventhost/NAME` under `$XDG_STATE_HOME`, which is `~/.local/state` by default.
        """
        # Imported here: pathlib costs as much memory as the rest of the kit, and few sources keep state.
        from pathlib import Path

        given = self._state_dir or os.environ.get(STATE_DIR_VARIABLE)
        home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        folder = Path(given) if given else Path(home).expanduser() / "eventhost" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def event_types(self) -> list[str]:
        """The types that this source may emit and its configuration lets through."""
        wanted = self.config.get("eventTypes")
        if not isinstance(wanted, list) or not wanted:
            return list(self._event_types)
        globs = [glob for glob in wanted if isinstance(glob, str)]
        return [name for name in self._event_types if any(glob_matches(glob, name) for glob in globs)] or globs

    def bookmark(self, name: str) -> Bookmark:
        """How far `name`, something that this source reads from, has come; kept in `state_dir`.

        Raises:
            ConfigError: the file that holds it is damaged.
        """
        from eventhost.kit.bookmark import Bookmark

        return Bookmark(self.state_dir / f"{name}.json")

    def upstream(self, name: str) -> Upstream:
        """What this source reads from, as people are to see it in the source's status; the same for the same name."""
        from eventhost.kit.upstream import Upstream

        if name not in self._upstreams:
            self._upstreams[name] = Upstream(name, self.log, lambda event: self.emit_all([event]), self._tell_status)
            self._tell_status()
        return self._upstreams[name]

    def task(self, function: _TaskT) -> _TaskT:
        """Have the async `function` run while the source is being served; when it raises, the source ends.

        It is cancelled at the end and then has `GRACE_S` to clean up.
        """
        self._tasks.append(function)
        return function

    def tool(
        self, *, description: str = "", input_schema: dict[str, Any] | None = None, name: str = ""
    ) -> Callable[[_Function], _Function]:
        """Offer the function, sync or async, as a tool; it takes the arguments as keywords.

        It answers a string, or anything that JSON can say. An exception becomes the tool's error, not the source's.

        Raises:
            ValueError: the source has a tool of that name.
        """

        def offer(function: _Function) -> _Function:
            tool_name = name or function.__name__
            if tool_name in self._tools or tool_name in OWN_TOOLS:
                raise ValueError(f"{self.name} has a tool {tool_name!r} already; give this one another name=")

            def handler(_: Listener, arguments: dict[str, Any]) -> Any:
                return function(**arguments)

            doc = description or (function.__doc__ or "").strip()
            self._tools[tool_name] = Tool(tool_name, doc, handler, input_schema)
            return function

        return offer

    async def emit(
        self,
        event_type: str,
        payload: Any = None,
        *,
        id: str | None = None,  # noqa: A002 - the field's own name
        timestamp: int | float | str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Emit one event; return its id once a host has accepted it.

        A host that does not acknowledge counts as soon as the event is written to it. While no host is there this waits
        for one, and for the room for it while 1,000 events are on their way; bound it with `asyncio.timeout`. An event
        whose emitter gave up may have arrived all the same; emitting it again under the same `id` makes no double.

        `timestamp` is in milliseconds since the epoch, or ISO 8601; now by default, and where an `id` is given the time
        at which the host takes the event. `id` is a time-ordered UUID by default.

        Raises:
            EventRejected: the event has no type, is not JSON, or the host refused it; sending it again is of no use.
            ConnectionLost: the source is not being served, or its host has gone away before it accepted.
        """
        service = self._service
        if service is None:
            raise ConnectionLost(f"{self.name} is not being served; emit from a @source.task or a @source.tool")
        if not isinstance(event_type, str) or not event_type:
            raise EventRejected(f"type: a non-empty string is required, got {event_type!r}")
        if id is not None and (not isinstance(id, str) or not id):
            raise EventRejected(f"{event_type}: id: a non-empty string is required, got {id!r}")
        if metadata is not None and not isinstance(metadata, dict):
            raise EventRejected(f"{event_type}: metadata: a dict is required, got {metadata!r}")
        event_id = id or uuid7()
        event = {
            "id": event_id,
            "type": event_type,
            "metadata": {"source": self.name, **(metadata or {})},
            "payload": {} if payload is None else payload,
        }
        if timestamp is not None:
            event["timestamp"] = timestamp
        elif id is None:
            event["timestamp"] = int(time.time() * 1000)
        # Else the host says when: with a time of its own, the same event emitted again would not be the same.
        try:
            text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            line = _notification(EMITTED, f'{{"level":"info","data":{text}}}')
        except (TypeError, ValueError, RecursionError) as error:
            raise EventRejected(f"{event_type}: not JSON: {error}") from error
        await service.publish(event_id, event_type, text, line)
        return event_id

    async def emit_all(self, events: Iterable[Event]) -> None:
        """Emit several events, in order; return once each is settled.

        One that is rejected is told in the log: sending it again would be of no use, and those after it are worth
        sending.

        Raises:
            ConnectionLost: as `emit`.
        """
        emitted = (
            self.emit(event.type, event.payload, id=event.id, timestamp=event.timestamp, metadata=event.metadata)
            for event in events
        )
        for outcome in await asyncio.gather(*emitted, return_exceptions=True):
            if isinstance(outcome, EventRejected):
                self.log("warning", str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome

    def log(self, level: str, text: str) -> None:
        """Write a line to the host's log: through MCP where a peer takes log messages, else to stderr.

        `level` is one of debug, info, notice, warning, error, critical, alert and emergency.

        Raises:
            ValueError: there is no such level.
        """
        if level not in LOG_LEVELS:
            raise ValueError(f"{level!r} is no level; there are {', '.join(LOG_LEVELS)}")
        severity = LOG_LEVELS.index(level)
        params = json.dumps({"level": level, "logger": self.name, "data": str(text)})
        line = _notification(MESSAGE, params)
        listeners = self._service.outbox.listeners if self._service else ()
        taken = [listener.offer_log(line, severity) for listener in listeners]
        if not any(taken):
            print(f"{level}: {text}", file=sys.stderr, flush=True)

    async def serve(
        self,
        receive: Callable[[], Awaitable[bytes]],
        send: Callable[[bytes], Awaitable[None]],
        *,
        config: Mapping[str, Any] | None = None,
        state_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        """Serve one host over newline-delimited JSON-RPC until `receive` gives `b""`; may be called again after that.

        `send` raises `ConnectionLost` when the host is gone, which ends this too. When this returns or raises, and also
        when it is cancelled, the tasks of the source have been cancelled and have ended, or have been told on stderr
        as stuck. `config` and `state_dir` take the place of the environment's.

        Raises:
            RuntimeError: the source is being served already.
            ConfigError: see `config`.
            Exception: whatever a task of the source raised.
        """
        await self.serve_peers(lambda service: converse(service, receive, send), config=config, state_dir=state_dir)

    async def serve_peers(
        self,
        converse_with_peers: Callable[[Service], Awaitable[None]],
        *,
        config: Mapping[str, Any] | None = None,
        state_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        """As `serve`, for a transport of any kind: it is handed the service, and its end is the end of the serving."""
        if self._service is not None:
            raise RuntimeError(f"{self.name} is being served already; import its module anew to serve it twice")
        outer = self._config, self._state_dir
        if config is not None:
            self._config = dict(config)
        self._state_dir = state_dir or self._state_dir
        try:
            self._service = service = self._new_service()
            for upstream in self._upstreams.values():
                upstream.begin()
            if self._upstreams:
                self._tell_status()
            try:
                await _run_together(service, converse_with_peers(service), self._tasks)
            finally:
                service.outbox.close(f"{self.name} is not being served any more")
        finally:
            self._service = None
            self._config, self._state_dir = outer

    def run(self, argv: Sequence[str] | None = None) -> None:
        """Serve until the host ends the conversation or a signal comes; this is the whole of a source's `main`.

        Over stdio, or over Streamable HTTP with `--http PORT`, or where the host says so (see `arguments.py`).

        Raises:
            SystemExit: with a status other than 0, when a task of the source failed or an argument is wrong.
        """
        from eventhost.kit.arguments import parse

        arguments = parse(sys.argv[1:] if argv is None else argv)
        if arguments.port is None:
            from eventhost.kit.stdio import run_stdio

            status = run_stdio(self)
        else:
            # Imported here: HTTP goes through the MCP SDK, which costs 50 MB and seconds.
            from eventhost.kit.http import run_http

            status = run_http(self, arguments.host, arguments.port)
        if status:
            raise SystemExit(status)

    def _new_service(self) -> Service:
        return Service(
            self.name,
            self._version,
            self._description,
            event_types=self.event_types,
            interval=self.options.get("interval"),
            pushes=self._push and self.options.get("push") is not False,
            emit=lambda event_type, payload, metadata: self.emit(event_type, payload, metadata=metadata),
            tools=self._tools,
            upstreams=lambda: [upstream.snapshot() for upstream in self._upstreams.values()],
        )

    def _tell_status(self) -> None:
        if self._service is None:
            return
        told = ("name", "state", "lastError", "gaps")
        states = [upstream.snapshot() for upstream in self._upstreams.values()]
        params = {"upstreams": [{key: state[key] for key in told} for state in states]}
        self._service.outbox.tell_status(_notification(STATUS, json.dumps(params)))


async def _run_together(service: Service, peers: Awaitable[None], tasks: Iterable[Task]) -> None:
    """Run `tasks` beside `peers` until `peers` ends or one of them raises; then end them all.

    Peers end last, so that what the tasks say while they clean up still gets out.
    """
    conversation = asyncio.ensure_future(peers)
    running = {asyncio.ensure_future(_named(task)) for task in tasks}
    try:
        while not conversation.done():
            done, _ = await asyncio.wait({conversation, *running}, return_when=asyncio.FIRST_COMPLETED)
            running -= done
            for ended in done - {conversation}:
                # A task that loses its host to the end of the serving is not what ends it.
                error = None if ended.cancelled() else ended.exception()
                if error is not None and not (isinstance(error, ConnectionLost) and service.outbox.closed):
                    raise error
        conversation.result()
    finally:
        await _to_its_end(asyncio.ensure_future(_wind_down(service.name, conversation, running)))


async def _named(task: Task) -> None:
    awaitable = task()
    if not isinstance(awaitable, Awaitable):
        raise TypeError(f"@source.task {getattr(task, '__name__', task)}: write `async def`")
    try:
        await awaitable
    except SystemExit as error:
        # It would end the whole process, which may be the host's.
        raise RuntimeError(
            f"a task of the source wants to exit with {error.code!r}; return or raise instead"
        ) from error


async def _wind_down(name: str, conversation: asyncio.Future[None], running: set[asyncio.Task[None]]) -> None:
    for task in running:
        task.cancel()
    if running:
        ended, stuck = await asyncio.wait(running, timeout=GRACE_S)
        for task in ended:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, ConnectionLost):
                traceback.print_exception(error)
        for task in stuck:
            print(f"{name}: a task does not end {GRACE_S:g} s after it was cancelled: {task}", file=sys.stderr)
    conversation.cancel()
    await asyncio.gather(conversation, return_exceptions=True)


async def _to_its_end(task: asyncio.Future[None]) -> None:
    """Wait for `task`, however often the waiting is cancelled; it bounds itself."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


def _notification(method: str, params: str) -> bytes:
    # Written by hand so that the method stands at the beginning of the line, where a host looks for it.
    return f'{{"jsonrpc":"2.0","method":"{method}","params":{params}}}\n'.encode()


def _config_of_environment() -> dict[str, Any]:
    text = os.environ.get(SERVER_CONFIG_VARIABLE)
    if not text:
        return {}
    try:
        config = json.loads(text)
        problem = "an object is required"
    except (ValueError, RecursionError) as error:
        config, problem = None, f"not JSON: {error}"
    if isinstance(config, dict):
        return config
    mend = "write the configuration as a JSON object, or unset the variable to run without one"
    raise ConfigError([Problem(SERVER_CONFIG_VARIABLE, problem, mend)])
