"""One event source: its connection, the ways in that its server offers, and what became of each of its events."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import msgspec
import structlog

from eventhost.config import ServerKind, SourceConfig
from eventhost.connections import (
    Batch,
    Connection,
    ConnectionPool,
    EventSourceStatus,
    Link,
    Received,
    SourceLog,
)
from eventhost.errors import ConnectionLost, EventRejected
from eventhost.event import EnvEvent, SourceProfile
from eventhost.message import Message, normalize_batch
from eventhost.sources.acknowledge import Acknowledger
from eventhost.sources.dedup import DuplicateWindow
from eventhost.sources.poll import offers_polling, poll
from eventhost.sources.raw import Record
from eventhost.sources.resources import ResourceWatch
from eventhost.sources.sse import SseConnection, SseManager
from eventhost.sources.sse.manager import offer, withdraw
from eventhost.sources.status import Refused, SourceStatus
from eventhost.sources.upstream import EVERYTHING, Upstream, subscribe
from eventhost.sources.upstreams import UpstreamStatus, upstreams_of
from eventhost.wire import ACK

log = structlog.get_logger()

_REFUSED = 10
_SAID_CHARACTERS = 2_000

OnUpstream = Callable[[str, UpstreamStatus], None]
"""Takes the source's name, and how something that it reads from fares."""

Publish = Callable[[Sequence[EnvEvent]], Awaitable[int]]
"""Takes a batch of events; returns the number of the first once they are accepted."""


class EventMcpClient:
    """Receives one server's events, normalizes them and publishes them, in order.

    It lives on while its server restarts and while its configuration changes: its counters and its log are the
    source's, not a process's.
    """

    def __init__(
        self,
        config: SourceConfig,
        pool: ConnectionPool,
        publish: Publish,
        window: DuplicateWindow,
        record: Record | None = None,
        *,
        host: str = "",
        on_upstream: OnUpstream | None = None,
    ) -> None:
        """`window` knows the events that were taken from this source before, by another host perhaps.

        `record` is handed the raw messages that are to be recorded, if any are. `host` is by what other hosts know
        this one. `on_upstream` hears whatever the source says of something that it reads from.
        """
        self.config = config
        self.problem: str | None = None
        """What is wrong with a newer configuration than the one in use."""
        self.received = self.published = self.rejected = self.deduplicated = 0
        self.last_event_at: int | None = None
        self._pool, self._publish, self._record = pool, publish, record
        self._log = SourceLog(config.name)
        self._window = window
        self._refused: deque[Refused] = deque(maxlen=_REFUSED)
        self._acknowledger: Acknowledger | None = Acknowledger()
        self._resources: ResourceWatch | None = None
        self._host, self._on_upstream = host, on_upstream
        self._upstream: Upstream | None = None
        self._upstreams: list[UpstreamStatus] = []
        self._polling = False
        self._pushed = False
        self.sse: SseManager | None = None
        """Of an `sse` source, what Python users see of its stream."""
        self._use(config)

    def get_name(self) -> str:
        """The host's name for the source."""
        return self.config.name

    def get_status(self) -> EventSourceStatus:
        """The state of its connection."""
        return self.connection.status

    def start(self) -> None:
        """Begin to connect, and keep connected."""
        self._pool.start(self.connection)

    async def connect(self) -> None:
        """Begin to connect, and wait until the source is running.

        Raises:
            ConnectionLost: the first attempt failed; the host goes on trying.
        """
        self.start()
        if not await self.connection.settled():
            raise ConnectionLost(f"{self.config.name}: {self.connection.last_error}")

    async def disconnect(self) -> None:
        """Stop the source; what it said until its end is published before this returns."""
        await self.connection.stop()
        if self._upstream is not None:
            self._upstream.save()

    async def reconfigure(self, config: SourceConfig) -> str | None:
        """Go over to a new configuration; return what is wrong if a source that was running does not come up with it.

        If it does with the old one, that goes on, and `problem` says so; else its code is at fault, and the new one is
        tried again as any that fails.
        """
        old, was_running = self.config, self.connection.status is EventSourceStatus.RUNNING
        # What was stopped by hand stays so; what its configuration has kept from running was not.
        begins = config.auto_start and not (old.enabled and old.auto_start)
        wanted = self.connection.status is not EventSourceStatus.STOPPED or begins
        await self.connection.stop()
        self._use(config)
        self.problem = None
        if not (wanted and config.enabled):
            return None
        self.start()
        if not was_running or await self.connection.settled():
            return None
        error = self.connection.last_error
        await self.connection.stop()
        self._use(old)
        self.start()
        if await self.connection.settled():
            self.problem = f"the new configuration did not come up ({error}); the last good one is in use"
            log.error("source_reverted", source=config.name, error=error)
            return self.problem
        await self.connection.stop()
        self._use(config)
        self.start()
        return f"it does not come up ({error}); it is tried again, and at once when its files are mended"

    def status(self, memory_bytes: int | None = None) -> SourceStatus:
        """A snapshot; how much memory its processes hold is measured by who asks, for many at once."""
        connection = self.connection
        link = connection.link
        return SourceStatus(
            name=self.config.name,
            status=connection.status,
            way_in=self._way_in(),
            protocol=link.protocol if link else "",
            pid=link.pid if link else None,
            uptime_s=None if connection.up_since is None else round(time.monotonic() - connection.up_since, 3),
            memory_bytes=memory_bytes,
            received=self.received,
            published=self.published,
            rejected=self.rejected,
            deduplicated=self.deduplicated + (self._upstream.returned if self._upstream is not None else 0),
            restarts=connection.restarts,
            last_error=self.problem or self._away() or connection.last_error or self._log.describe_garbage(),
            last_event_at=self.last_event_at,
            log=list(self._log.lines),
            garbage=self._log.garbage,
            refused=list(self._refused),
            problem=self.problem,
            upstreams=list(self._upstreams),
            silence=connection.silence,
        )

    # As the connection's receiver.

    async def accept(self, batch: Batch) -> None:
        """Normalize, leave out duplicates, publish, and acknowledge to a source that asked for it."""
        self._pushed = True
        if self._upstream is not None:
            await self._upstream.accept(batch)
        else:
            await self._take(batch)

    def reject(self, reason: str, event: Received | None = None) -> None:
        """Count and show what cannot be accepted."""
        self.rejected += 1
        self._refused.append(Refused(int(time.time() * 1000), reason, _said(event)))
        self.connection.last_error = f"event rejected: {reason}"
        self._log.say("warning", self.connection.last_error)
        if self._acknowledger and event is not None and isinstance(event.id, str):
            self._acknowledger.rejected(event.id, reason)

    def resource_updated(self, uri: str) -> None:
        """Have the resource read, if it is watched."""
        if self._resources is not None:
            self._resources.updated(uri)

    def fares(self, params: Mapping[str, Any]) -> None:
        """Take note of how what it reads from fares."""
        try:
            self._upstreams = upstreams_of(params)
        except EventRejected as error:
            self._log.say("warning", str(error))
            return
        if self._on_upstream is not None:
            for each in self._upstreams:
                self._on_upstream(self.config.name, each)

    async def _take(self, batch: Batch) -> None:
        self.received += len(batch.events)
        normalized = normalize_batch(batch.events, self._profile, batch.at_most_bytes)
        for raw, error in normalized.refused:
            self.reject(str(error), raw)
        fresh = self._window.fresh(normalized.events, normalized.untimed, batch.bytes)
        self.deduplicated += len(normalized.events) - len(fresh)
        if fresh:
            try:
                first = await self._publish(fresh)
            except BaseException:
                self._window.forget(fresh)
                raise
            self.published += len(fresh)
            self.last_event_at = int(time.time() * 1000)
        if self._acknowledger:
            self._acknowledger.accepted([event.id for event in normalized.events])
        if fresh and self._record is not None and (messages := _numbered(normalized.altered, fresh, first)):
            await self._record(messages)

    # Beside each link, for as long as it is up.

    async def _serve(self, link: Link) -> None:
        self._pushed = self._polling = False
        wanted = self.config.server.resources
        self._upstream = self._upstream_of(link)
        try:
            async with anyio.create_task_group() as tasks:
                if self._upstream is not None:
                    self._acknowledger = None
                    tasks.start_soon(self._upstream.run, link, self.config.poll_interval_s)
                elif ACK not in (link.capabilities.experimental or {}):
                    self._acknowledger = None
                    tasks.start_soon(self._poll, link)
                elif self._acknowledger is not None:
                    tasks.start_soon(self._acknowledger.run, link)
                if self.config.subscribe and not link.is_host:
                    tasks.start_soon(subscribe, link, self.config.subscribe, self.reject)
                if wanted and link.capabilities.resources is not None:
                    self._resources = ResourceWatch(link, wanted, self._take, self.reject)
                    tasks.start_soon(self._resources.run)
                elif wanted:
                    self.reject(f"resources {list(wanted)} are configured, but the server offers none")
                await link.ended.wait()
        finally:
            self._acknowledger, self._resources = Acknowledger(), None
            self._upstreams = []

    def _upstream_of(self, link: Link) -> Upstream | None:
        """What takes the events of another host; it knows from one link to the next how far it has come."""
        globs = self.config.subscribe if self.config.subscribe is not None else EVERYTHING
        if not (link.is_host and globs):
            return None
        if self._upstream is not None:
            return self._upstream
        file = self._pool.surroundings.root / "var" / "upstream" / f"{self.config.name}.json"
        return Upstream(file, self._host, globs, self._take, self.reject)

    async def _poll(self, link: Link) -> None:
        if link.is_host:
            return  # what it has pending is for who has subscribed
        self._polling = await offers_polling(link)
        if not self._polling:
            return
        await poll(link, self.config.poll_interval_s, self._take, self.reject, enough=lambda: self._pushed)
        self._polling = False

    def _away(self) -> str | None:
        """Why something that it reads from cannot be read, if that is so."""
        return next((f"{each.name}: {each.last_error}" for each in self._upstreams if each.is_away), None)

    def _way_in(self) -> str:
        if self.config.server.kind is ServerKind.SSE:
            return "" if self.connection.up_since is None else "sse"
        if self.connection.link is None:
            return ""
        polling = self._polling if self._upstream is None else not self._upstream.pushes
        return ("poll" if polling else "push") + ("+resources" if self._resources else "")

    def _use(self, config: SourceConfig) -> None:
        self.config = config
        self._upstream = None
        self._profile = SourceProfile(config.name, config.event_types, config.metadata)
        make: Callable[..., Connection] = Connection
        if config.server.kind is ServerKind.SSE:
            self.sse, self._acknowledger = self.sse or SseManager(config.name), None
            make = partial(SseConnection, manager=self.sse, tell_gap=self._pool.tell_gap)
            offer(self.sse)
        elif self.sse is not None:
            withdraw(self.sse)
            self.sse, self._acknowledger = None, Acknowledger()
        self.connection: Connection = self._pool.add(
            config.server, receiver=self, serve=self._serve, source_log=self._log, make=make
        )


def _numbered(
    messages: Sequence[tuple[EnvEvent, Message]], events: Sequence[EnvEvent], first: int
) -> list[tuple[int, Message]]:
    """Of these messages those that are of one of `events`, which have the numbers from `first` on."""
    if not messages:
        return []
    seqs = {id(event): seq for seq, event in enumerate(events, first)}
    return [(seq, message) for event, message in messages if (seq := seqs.get(id(event))) is not None]


def _said(event: Received | None) -> str:
    """What a source said of an event, as JSON text; its beginning if that is long."""
    if event is None:
        return ""
    try:
        text = msgspec.json.encode(Message.of(event).said).decode()
    except (TypeError, ValueError, RecursionError):
        return ""
    return text if len(text) <= _SAID_CHARACTERS else f"{text[: _SAID_CHARACTERS - 1]}…"
