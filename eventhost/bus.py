"""`EnvEventBus`: `publish` waits for the journal and for nothing else; who listens reads at a pace of its own.

A subscription is a cursor over the journal, so that a slow watcher costs nobody anything: what the journal no longer
holds when the watcher gets there is told to it as `Lagged`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from inspect import isawaitable
from itertools import count
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
import structlog

from eventhost.errors import BusClosed
from eventhost.event import EnvEvent, TypeGlobs
from eventhost.gaps import Gap, Reason
from eventhost.journal import Entry, Journal, JournalStatistics
from eventhost.measures import Latency
from eventhost.pattern import Pattern

log = structlog.get_logger()

EventPattern = str | Sequence[str] | Mapping[str, Any]
"""Which events: a type glob, several of them, or an event pattern over the event's JSON."""

EventHandler = Callable[[EnvEvent], Awaitable[object] | object]

_BATCH = 512

_MAX_WATCHED = 200
"""So much of a pattern is told where its watcher lagged."""

HANDLERS_END_S = 10.0
"""How long handlers may take, once the bus has closed, for what was accepted until then."""


@dataclass(frozen=True, slots=True)
class Lagged:
    """A watcher was too slow: `missed` events are no longer held; what follows begins with `resume`."""

    missed: int
    resume: int


@dataclass(frozen=True, slots=True)
class BusStatistics:
    journal: JournalStatistics
    subscriptions: int
    handlers: int
    handler_errors: int


class Subscription:
    """A cursor over the journal: an async iterator of the entries that match, and of `Lagged`.

    Ends when the bus closes, after the last event that was accepted.
    """

    def __init__(
        self, bus: EnvEventBus, select: Callable[[Sequence[Entry]], list[Entry]], after: int, watched: str
    ) -> None:
        """`watched` is what the events are picked by, for people."""
        self._bus, self._select, self._watched = bus, select, watched
        self.after = after
        """Sequence number of the last event that was handed out, or looked at and left out; another subscription may
        go on from here."""

    async def batches(self) -> AsyncGenerator[list[Entry | Lagged], None]:
        """What has gathered since the last step, at most some hundreds at a time; waits when nothing has."""
        position = self.after
        self._bus.subscriptions.add(self)
        try:
            while await self._bus.grown(position):
                batch, position = await self.read(position)
                self.after = position
                if batch:
                    yield batch
                # Reading memory never suspends; without this a fast publisher would keep the loop to us two.
                await anyio.lowlevel.checkpoint()
        finally:
            self._bus.subscriptions.discard(self)

    async def read(self, after: int, limit: int = _BATCH) -> tuple[list[Entry | Lagged], int]:
        """What matches of the next `limit` events after `after`, at most, and the number up to which it goes."""
        journal = self._bus.journal
        batch: list[Entry | Lagged] = []
        head = journal.head
        entries = await journal.read(after, limit)
        # Where nothing can be read nothing is left: it was overwritten, trimmed, or lost by a damaged journal.
        missed = (entries[0].seq if entries else head + 1) - after - 1
        if missed > 0:
            resumed_ms = entries[0].at_ms if entries else None
            gap = Gap(
                Reason.LAGGED, after + 1, after + missed, missed, to_ms=resumed_ms, more={"watcher": self._watched}
            )
            self._bus.on_gap(gap)
            after += missed
            batch.append(Lagged(missed, after + 1))
        if entries:
            after = entries[-1].seq
            batch += self._select(entries)
        return batch, after

    async def __aiter__(self) -> AsyncIterator[Entry | Lagged]:
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                end = self.after
                for item in batch:
                    self.after = item.seq if isinstance(item, Entry) else item.resume - 1
                    yield item
                self.after = end


class EnvEventBus:
    """Events in, through the journal, out to whoever subscribed. Use it as an async context manager."""

    def __init__(self, journal: Journal, on_gap: Callable[[Gap], None] = lambda gap: None) -> None:
        """`on_gap` is told what those who read the journal did not get to see; it must not wait."""
        self.journal, self.on_gap = journal, on_gap
        self.subscriptions: set[Subscription] = set()
        self.latency = Latency()
        """How long events take; the rules add to it."""
        self._handlers: dict[int, Callable[[], Awaitable[None]]] = {}
        self._handler_scopes: dict[int, anyio.CancelScope] = {}
        self._handler_errors = 0
        self._keys = count()
        self._changed = anyio.Event()
        self._appending = 0
        self._closed = False
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        for key, run in self._handlers.items():
            self._tasks.start_soon(self._run_handler, key, run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        await self.aclose()
        self._tasks.cancel_scope.deadline = anyio.current_time() + HANDLERS_END_S
        await self._tasks.__aexit__(kind, error, trace)

    async def publish(self, event: EnvEvent) -> int:
        """Append `event` to the journal; return its sequence number.

        Waits for the journal, never for a rule or a watcher.

        Raises:
            BusClosed: after `aclose()`; the event was not accepted.
        """
        return await self.publish_batch((event,))

    async def publish_batch(self, events: Sequence[EnvEvent]) -> int:
        """Append `events` in order and contiguously; return the sequence number of the first.

        Raises:
            BusClosed: after `aclose()`; none of them was accepted.
        """
        if self._closed:
            raise BusClosed("the bus is closed: the host is stopping; send the event again once it is back")
        self._appending += 1
        begun = perf_counter()
        try:
            seq = await self.journal.append(events)
            self.latency.accept.observe(perf_counter() - begun, len(events))
            return seq
        finally:
            self._appending -= 1
            self._announce()

    def subscribe(self, pattern: EventPattern = "*", *, after: int | None = None) -> Subscription:
        """Watch the events that match `pattern`: those after sequence number `after`, or from now on.

        Raises:
            PatternError: the pattern is invalid.
        """
        after = self.journal.head if after is None else after
        return Subscription(self, selector(pattern), after, _as_text(pattern))

    def register_event_handler(self, pattern: EventPattern, handler: EventHandler) -> Callable[[], None]:
        """Call `handler` with each event that matches, in order, from now on; return what ends that.

        An exception of the handler is logged and counted, and is its own affair: neither others nor later events
        suffer.
        """
        key = next(self._keys)
        subscription = self.subscribe(pattern)

        async def run() -> None:
            async for item in subscription:
                if isinstance(item, Lagged):
                    log.warning("handler_lagged", handler=repr(handler), missed=item.missed)
                    continue
                try:
                    result = handler(item.event)
                    if isawaitable(result):
                        await result
                except Exception as error:
                    self._handler_errors += 1
                    log.exception("handler_failed", handler=repr(handler), seq=item.seq, error=str(error))

        self._handlers[key] = run
        if self._tasks is not None:
            self._tasks.start_soon(self._run_handler, key, run)

        def unregister() -> None:
            self._handlers.pop(key, None)
            if scope := self._handler_scopes.pop(key, None):
                scope.cancel()

        return unregister

    def register_global_event_handler(self, handler: EventHandler) -> Callable[[], None]:
        """Call `handler` with every event, the host's own among them; otherwise as `register_event_handler`."""
        return self.register_event_handler(("*", "host.*"), handler)

    async def get_recent_events(self, limit: int) -> list[EnvEvent]:
        """The last `limit` events, newest last; fewer when fewer are held."""
        head = self.journal.head
        after, found = max(0, head - limit), list[EnvEvent]()
        while after < head and (entries := await self.journal.read(after, head - after)):
            found += [entry.event for entry in entries]
            after = entries[-1].seq
        return found

    async def grown(self, after: int) -> bool:
        """Wait until the journal holds more than `after`; false when the bus has closed and nothing more will come."""
        while self.journal.head <= after and (self._appending or not self._closed):
            await self._changed.wait()
        return self.journal.head > after

    def statistics(self) -> BusStatistics:
        """A snapshot."""
        return BusStatistics(
            self.journal.statistics(), len(self.subscriptions), len(self._handlers), self._handler_errors
        )

    async def aclose(self) -> None:
        """Accept nothing more. Subscriptions end after the last accepted event; the journal stays open."""
        self._closed = True
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _run_handler(self, key: int, run: Callable[[], Awaitable[None]]) -> None:
        if key not in self._handlers:
            return  # unregistered before it came to run
        with anyio.CancelScope() as scope:
            self._handler_scopes[key] = scope
            await run()
        self._handler_scopes.pop(key, None)


def _as_text(pattern: EventPattern) -> str:
    text = pattern if isinstance(pattern, str) else msgspec.json.encode(pattern, enc_hook=str).decode()
    return text[:_MAX_WATCHED]


def selector(pattern: EventPattern) -> Callable[[Sequence[Entry]], list[Entry]]:
    """What picks the entries that match `pattern`, in order.

    Raises:
        PatternError: the pattern is invalid.
    """
    if isinstance(pattern, Mapping):
        matches = Pattern.parse(pattern, strict=False).matches
        return lambda entries: [entry for entry in entries if matches(entry.event)]
    globs = TypeGlobs([pattern] if isinstance(pattern, str) else pattern)
    return lambda entries: [entry for entry in entries if globs[entry.event.type]]
