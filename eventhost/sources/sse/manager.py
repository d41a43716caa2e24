"""What Python users see of one stream: its state, its last events, and handlers for what comes.

Handlers are watchers: they get an event once it is accepted, and never slow the stream down. One that raises, or takes
too long, is its own failure.
"""

from __future__ import annotations

import inspect
import time
import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio

from eventhost.connections import Connection, EventSourceStatus
from eventhost.sources.sse.names import handler_log, manager_log

HANDLER_S: Final = 30.0
"""How long one handler may take for one event."""

KEPT_BYTES: Final = 64 * 1_048_576
"""However many events are to be kept, their data takes no more than this."""

MOST_TYPES: Final = 1_000
"""So many types are counted apart; those beyond are counted as `…`."""


@dataclass(frozen=True, slots=True)
class SseEvent:
    """An event as handlers get it."""

    event_type: str
    """The event's name in the stream."""
    data: dict[str, Any]
    """The JSON object, or `{"value": …}`: the payload of the `EnvEvent`."""
    timestamp: float
    """When it came, in seconds since the epoch."""
    event_id: str | None = None
    retry: int | None = None
    """The reconnection time that it told, in milliseconds."""


Handler = Callable[[SseEvent], Awaitable[None] | None]


class SseManager:
    """Belongs to one source of type `sse`, and outlives its connections and its configurations."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._connection: Connection | None = None
        self._by_type: dict[str, list[Handler]] = defaultdict(list)
        self._global: list[Handler] = []
        self._recent: deque[tuple[SseEvent, int]] = deque()
        self._recent_bytes, self._kept = 0, 0
        self._log_events = False
        self._pending: deque[SseEvent] = deque()
        self._arrived, self._idle = anyio.Event(), anyio.Event()
        self._idle.set()
        self._counts: Counter[str] = Counter()
        self._received = self._ignored = self._unhandled = self._failed = 0
        self._last_event_id: str | None = None
        self._last_event_time: float | None = None

    # For users.

    def is_running(self) -> bool:
        """Whether it is connected, or going to be."""
        hopeless = (EventSourceStatus.STOPPED, EventSourceStatus.ERROR)
        return self._connection is not None and self._connection.status not in hopeless

    def is_connected(self) -> bool:
        """Whether the stream is open."""
        return self._connection is not None and self._connection.status is EventSourceStatus.RUNNING

    def get_stats(self) -> dict[str, Any]:
        """A snapshot; counts are since the host started."""
        connection = self._connection
        return {
            "connected": self.is_connected(),
            "running": self.is_running(),
            "status": str(connection.status) if connection else str(EventSourceStatus.STOPPED),
            "total_events_received": self._received,
            "events_by_type": dict(self._counts),
            "events_ignored": self._ignored,
            "reconnect_attempts": connection.restarts if connection else 0,
            "last_event_id": self._last_event_id,
            "last_event_time": self._last_event_time,
            "last_error": connection.last_error if connection else None,
            "buffered_events": len(self._recent),
            "handler_errors": self._failed,
            "handler_events_missed": self._unhandled,
        }

    def get_recent_events(self, count: int = 10) -> list[SseEvent]:
        """The last `count` events, oldest first; at most `event_buffer_size`."""
        return [event for event, _ in list(self._recent)[-count:]] if count > 0 else []

    def register_event_handler(self, event_type: str, handler: Handler) -> None:
        """Have `handler`, a function or a coroutine function, called with each event of this name."""
        self._by_type[event_type].append(handler)
        manager_log.debug("sse_handler_registered", source=self.name, type=event_type)

    def register_global_event_handler(self, handler: Handler) -> None:
        """Have `handler` called with each event."""
        self._global.append(handler)
        manager_log.debug("sse_handler_registered", source=self.name, type="*")

    # For the source.

    def attach(self, connection: Connection, keep: int, log_events: bool) -> None:
        """This is the source's connection from now on."""
        self._connection, self._kept, self._log_events = connection, keep, log_events
        self._shorten()

    def hear(self, events: Sequence[SseEvent], sizes: Sequence[int], last_id: str) -> None:
        """These were accepted; `sizes` are the bytes of their data."""
        self._received += len(events)
        self._last_event_id = last_id or None
        self._last_event_time = time.time()
        for event, size in zip(events, sizes, strict=True):
            name = event.event_type
            self._counts[name if name in self._counts or len(self._counts) < MOST_TYPES else "…"] += 1
            self._recent.append((event, size))
            self._recent_bytes += size
            if self._log_events:
                handler_log.debug("sse_event", source=self.name, type=name, id=event.event_id, bytes=size)
        self._shorten()
        if self._global or self._by_type:
            self._pending.extend(events)
            late = max(0, len(self._pending) - self._kept)
            if late:
                self._unhandled += late
                handler_log.warning("sse_handlers_lag", source=self.name, missed=late)
            for _ in range(late):
                self._pending.popleft()
            self._arrived.set()

    def ignore(self, count: int) -> None:
        """So many came that were not subscribed to."""
        self._ignored += count

    async def handle(self) -> None:
        """Call the handlers with what comes, one event after the other, until cancelled."""
        while True:
            while self._pending:
                event = self._pending.popleft()
                for handler in (*self._by_type.get(event.event_type, ()), *self._global):
                    await self._call(handler, event)
            self._arrived = anyio.Event()
            self._idle.set()
            await self._arrived.wait()
            self._idle = anyio.Event()

    async def handled(self) -> None:
        """Wait until the handlers have had all that came."""
        while self._pending or not self._idle.is_set():
            await self._idle.wait()

    async def _call(self, handler: Handler, event: SseEvent) -> None:
        told = {"source": self.name, "handler": getattr(handler, "__qualname__", type(handler).__name__)}
        try:
            with anyio.move_on_after(HANDLER_S) as limit:
                result = handler(event)
                if inspect.isawaitable(result):
                    await result
            if limit.cancelled_caught:
                self._failed += 1
                handler_log.error("sse_handler_failed", **told, error=f"took longer than {HANDLER_S:g} s")
        except Exception as error:
            self._failed += 1
            handler_log.exception("sse_handler_failed", **told, type=event.event_type, error=repr(error))

    def _shorten(self) -> None:
        while len(self._recent) > self._kept or (self._recent_bytes > KEPT_BYTES and len(self._recent) > 1):
            _, size = self._recent.popleft()
            self._recent_bytes -= size


_managers: weakref.WeakValueDictionary[str, SseManager] = weakref.WeakValueDictionary()


def get_mcp_sse_manager(name: str | None = None) -> SseManager | None:
    """The manager of the `sse` source called `name` that a host in this process has; of the first if no name is given.

    None if there is none: no such source is configured, or the host has not come to its sources yet, or has left them.
    """
    names = sorted(_managers) if name is None else [name]
    return next((manager for each in names if (manager := _managers.get(each)) is not None), None)


def offer(manager: SseManager) -> None:
    """Have `get_mcp_sse_manager` find it."""
    _managers[manager.name] = manager


def withdraw(manager: SseManager) -> None:
    """Have it found no more."""
    if _managers.get(manager.name) is manager:
        del _managers[manager.name]
