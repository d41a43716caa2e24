"""One event stream, kept open: resumed from the last event that was accepted, as soon as its server likes.

A stream that is not there is asked for again after a pause that grows; one that delivered an event, or lasted for a
while, lets it begin anew. Some answers end that: 204 stops the source, 401 and 403 wait for a person.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import anyio
import httpx2

from eventhost.config import SseConfig
from eventhost.connections import Connection, EventSourceStatus, Link
from eventhost.errors import ConnectionLost, EventhostError, cause_of
from eventhost.event import TypeGlobs
from eventhost.sources.sse.manager import SseManager
from eventhost.sources.sse.names import client_log as log
from eventhost.sources.sse.opening import (
    NoStream,
    Request,
    StreamEnded,
    StreamForbidden,
    StreamRefused,
    describe,
    open_stream,
)
from eventhost.sources.sse.parser import LONGEST_EVENT, StreamEvent, StreamParser
from eventhost.sources.sse.position import Position
from eventhost.sources.sse.reading import batch, read

SHORTEST_DELAY_S: Final = 0.1
"""A server that asks for reconnection at once waits this long all the same, and longer if it says nothing."""

LONGEST_RETRY_S: Final = 3_600.0
"""The longest reconnection time that a server may ask for."""

TellGap = Callable[[str, int, int], None]
"""Takes the source's name, and from when to when something may be missing, in milliseconds since the epoch."""


class SseConnection(Connection):
    """A connection to an endpoint that speaks `text/event-stream` and no MCP: it has no `link`."""

    def __init__(self, *args: Any, manager: SseManager, tell_gap: TellGap | None = None, **more: Any) -> None:
        """`manager` hears what is accepted; `tell_gap` is called when a stream could not be resumed."""
        super().__init__(*args, **more)
        assert self.config.sse is not None
        self.sse: SseConfig = self.config.sse
        self._manager, self._tell_gap = manager, tell_gap
        self._subscribed = TypeGlobs(self.sse.subscribed or ("*", "host.*"))
        self._position: Position
        self._retry_s: float | None = None
        self._in_row = 0
        self._delivered = 0
        self._heard_ms = 0
        self._failure: EventhostError | None = None
        self._dropped = False
        self._handled = anyio.Event()
        self._handled.set()
        manager.attach(self, self.sse.buffer, self.sse.log_events)

    async def run(self) -> None:
        """Supervise from `begin` until `stop`, or until the server wants no more; handlers run beside."""
        self._position = Position(self._surroundings.state_dir(self.config.name), self.config.url)
        self._in_row, self._retry_s = 0, None
        self._handled = anyio.Event()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._manager.handle)
                tasks.start_soon(self._position.keep)
                await super().run()
                with anyio.move_on_after(self.config.timings.stop_timeout_s):
                    await self._manager.handled()
                tasks.cancel_scope.cancel()
        finally:
            self._position.write()
            self._handled.set()

    async def stop(self) -> None:
        """End the stream; return when all it said was taken, and handled unless that takes too long."""
        await super().stop()
        await self._handled.wait()

    async def connected(self, timeout_s: float) -> Link:
        """There is never a link.

        Raises:
            ConnectionLost: always.
        """
        raise ConnectionLost(f"{self.config.name} is an event stream (type sse), which has no tools")

    def drop(self) -> None:
        """Lose the connection, as if the network had; it is made again."""
        if self._opening is not None and self.status is EventSourceStatus.RUNNING:
            self._dropped = True
            self._opening.cancel()

    @property
    def last_event_id(self) -> str:
        """What the next connection is going to resume from."""
        return self._position.last_id

    async def _attempt(self) -> bool:
        """Open the stream and read it to its end; true when the next pause is to be a short one."""
        self._failure, self._dropped, self._delivered = None, False, 0
        parser, reason = StreamParser(self._position.last_id), ""
        try:
            with anyio.CancelScope() as opening:
                self._opening = opening
                opening.deadline = anyio.current_time() + self.sse.connection_timeout_s
                async with open_stream(self._request()) as chunks:
                    opening.deadline, self._opening = math.inf, None
                    self._came_up()
                    await self._read(chunks, parser)
            if opening.cancelled_caught and not self._stop.is_set():
                reason = f"did not answer within {self.sse.connection_timeout_s:g} s (connection_timeout)"
        except Exception as error:
            reason = self._reason(cause_of(error))
        if parser.retry_ms is not None:
            self._retry_s = min(max(parser.retry_ms / 1000, SHORTEST_DELAY_S), LONGEST_RETRY_S)
        if reason and not self._stop.is_set():
            self._fail(reason)
        lasted_s = 0.0
        if self.up_since is not None:
            lasted_s = time.monotonic() - self.up_since
            # Not now: it may have been silent for a while because nothing came through.
            self._position.reached(self._position.last_id, self._heard_ms)
        self._opening = self.up_since = None
        return self._delivered > 0 or lasted_s > self.sse.longest_delay_s

    def _reason(self, cause: BaseException) -> str:
        if isinstance(cause, EventhostError):
            self._failure = cause
            return str(cause)
        if isinstance(cause, httpx2.RequestError):
            return f"the stream broke off: {describe(cause)}"
        log.exception("source_crashed", source=self.config.name)
        return f"{type(cause).__name__}: {cause}"

    def _request(self) -> Request:
        config, sse = self.config, self.sse
        said = {"url": config.url, "auth_key": sse.auth_key, "headers": dict(config.headers)}
        return Request(
            **self._surroundings.resolve(said),
            user_agent=sse.user_agent,
            last_id=self._position.last_id,
            verify_tls=sse.verify_tls,
            cert=sse.cert,
            key=sse.key,
        )

    def _came_up(self) -> None:
        self.up_since, self._heard_ms, self._in_row = time.monotonic(), _now_ms(), 0
        before_ms, resumed_from = self._position.at_ms, self._position.last_id
        log.info("sse_connected", source=self.config.name, resumed_from=resumed_from or None)
        if before_ms is not None and not resumed_from:
            self.log.say("warning", "the server gives no ids: what it said while it was away may be missing")
            if self._tell_gap is not None:
                self._tell_gap(self.config.name, before_ms, self._heard_ms)
        self._position.reached(resumed_from, self._heard_ms)
        self._become(EventSourceStatus.RUNNING)

    async def _read(self, chunks: AsyncIterator[bytes], parser: StreamParser) -> None:
        """Read until a stop.

        Raises:
            ConnectionLost: the stream has ended.
        """
        refused = 0
        while not self._stop.is_set():
            events = parser.feed(await self._next(chunks))
            for _ in range(parser.refused - refused):
                self._reject(f"an event of the stream is longer than {LONGEST_EVENT} bytes")
            if events:
                await self._take(events)
            self._delivered += len(events) + parser.refused - refused
            refused = parser.refused
            if events or parser.last_id != self._position.last_id:
                self._position.reached(parser.last_id, self._heard_ms)

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        """What comes next; nothing at a stop.

        Raises:
            ConnectionLost: the stream has ended, or is silent for too long.
        """
        with anyio.CancelScope() as waiting:
            if self.sse.read_timeout_s:
                waiting.deadline = anyio.current_time() + self.sse.read_timeout_s
            self._opening = waiting
            try:
                chunk = await anext(chunks, None)
            finally:
                self._opening = None
            self._heard_ms = _now_ms()
            if chunk is None:
                raise ConnectionLost("the server closed the stream")
            return chunk
        if self._stop.is_set():
            return b""
        if self._dropped:
            raise ConnectionLost("the connection was dropped on purpose")
        raise ConnectionLost(f"said nothing for {self.sse.read_timeout_s:g} s (read_timeout)")

    async def _take(self, events: list[StreamEvent]) -> None:
        wanted = [event for event in events if self._subscribed[event.name]]
        self._manager.ignore(len(events) - len(wanted))
        if not wanted:
            return
        pairs = [read(event, self.sse.types) for event in wanted]
        if self._receiver is not None:
            await self._receiver.accept(batch(wanted, [raw for raw, _ in pairs]))
        self._manager.hear([heard for _, heard in pairs], [len(event.data) for event in wanted], wanted[-1].last_id)

    def _reject(self, reason: str) -> None:
        if self._receiver is not None:
            self._receiver.reject(reason)

    def _pause_s(self, failures: int) -> float:
        """How long to wait, or for ever: that depends on how the last attempt ended."""
        sse, failure, name = self.sse, self._failure, self.config.name
        if isinstance(failure, StreamEnded):
            log.warning("sse_stopped_by_server", source=name, reason=str(failure))
            self.log.say("warning", str(failure))
            self.finished = str(failure)
            self._stop.set()
            return 0.0
        lasting = isinstance(failure, StreamForbidden)
        if not sse.reconnect and not self._dropped:
            lasting = True
            self.last_error = f"{self.last_error}; enable_reconnect is false, so it is not tried again"
        used_up = 0 <= sse.max_attempts <= self._in_row
        if used_up and not lasting:
            self.last_error = f"{self.last_error}; gave up, as max_reconnect_attempts is {sse.max_attempts}"
        if lasting or used_up or isinstance(failure, NoStream):
            self._become(EventSourceStatus.ERROR)
            log.error("source_failed", source=name, attempts=self._in_row, error=self.last_error)
            return math.inf if lasting else self.config.timings.error_retry_s or math.inf
        self._in_row += 1
        delay_s = self._delay_s(failures)
        if isinstance(failure, StreamRefused):
            delay_s = max(delay_s, failure.after_s)
        self._become(EventSourceStatus.BACKOFF)
        log.warning(
            "source_backoff", source=name, delay_s=round(delay_s, 2), attempt=self._in_row, error=self.last_error
        )
        return delay_s

    def _delay_s(self, failures: int) -> float:
        sse, asked_s = self.sse, self._retry_s
        first_s = sse.first_delay_s if asked_s is None else asked_s
        try:
            delay_s = first_s * sse.backoff_factor ** max(failures - 1, 0)
        except OverflowError:
            delay_s = math.inf
        delay_s = min(delay_s, max(sse.longest_delay_s, asked_s or 0.0))
        # Those that fell together need not rise together.
        return max(delay_s * random.uniform(0.75, 1), asked_s or 0.0)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
