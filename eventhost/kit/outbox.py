"""Events on their way out: `emit` returns when a host has accepted one, and no peer gets them out of order.

    emit ──► unaccepted (bounded) ──► each listener's queue ──► its transport, in batches
                  ▲                                                      │
                  └────────── accepted, or written to peers that do not say so

An event that no host has accepted yet is offered again to the next one that listens, so a host that comes back gets
what it missed. A host tells doubles by their id.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from eventhost.errors import ConnectionLost, EventRejected

MAX_UNACCEPTED: Final = 1000
"""How many events may be on their way at once; beyond it, `emit` waits for room."""

_MAX_QUEUED: Final = 2 * MAX_UNACCEPTED
_BATCH_BYTES: Final = 262_144


class Notice:
    """One notification, as a line of JSON. `settled` is what the emitter of an event waits for; a log line has none."""

    __slots__ = ("event_type", "line", "settled")

    def __init__(self, line: bytes, event_type: str = "", settled: asyncio.Future[None] | None = None) -> None:
        self.line = line
        self.event_type = event_type
        self.settled = settled

    @property
    def withdrawn(self) -> bool:
        """Whether its emitter gave up waiting before it was written."""
        return self.settled is not None and self.settled.cancelled()


class Listener:
    """A peer that notifications are pushed to.

    `send` writes the lines and returns when that is done; it raises `ConnectionLost` when the peer is gone. `acks`
    tells whether the peer says which events it accepted. `log_level` is the least severe level it wants, counted as in
    `LOG_LEVELS`; None: it takes no log lines. `subscriptions` maps ids to type globs; none means every type.
    """

    def __init__(self, send: Callable[[list[bytes]], Awaitable[None]]) -> None:
        self.send = send
        self.acks = False
        self.log_level: int | None = None
        self.subscriptions: dict[str, str] = {}
        self.missed = 0
        self._queue: deque[Notice] = deque()
        self._filled = asyncio.Event()

    def wants(self, event_type: str) -> bool:
        globs = self.subscriptions.values()
        return not globs or any(glob_matches(glob, event_type) for glob in globs)

    def offer(self, notice: Notice) -> None:
        """Queue `notice`; a peer that lags behind another loses the oldest, and does not hold it up."""
        if len(self._queue) >= _MAX_QUEUED:
            self._queue = deque(queued for queued in self._queue if not queued.withdrawn)
        if len(self._queue) >= _MAX_QUEUED:
            self._queue.popleft()
            self.missed += 1
            if self.missed == 1:
                print("eventhost: one peer reads too slowly and misses events that another accepts", file=sys.stderr)
        self._queue.append(notice)
        self._filled.set()

    def offer_log(self, line: bytes, level: int) -> bool:
        """Queue a line of the log; False when this peer does not want it or is too far behind."""
        if self.log_level is None or len(self._queue) >= MAX_UNACCEPTED:
            return False
        if level >= self.log_level:
            self.offer(Notice(line))
        return True

    async def next_batch(self) -> list[Notice]:
        """What is queued, as much as makes one good write; waits until there is something."""
        batch: list[Notice] = []
        size = 0
        while not batch:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            while self._queue and size < _BATCH_BYTES:
                notice = self._queue.popleft()
                if not notice.withdrawn:
                    batch.append(notice)
                    size += len(notice.line)
        return batch

    def forget(self) -> None:
        self._queue.clear()


class Outbox:
    """The events that no host has accepted yet, and the peers that listen."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self._unaccepted: dict[str, Notice] = {}
        self._room = asyncio.Semaphore(MAX_UNACCEPTED)
        self._closed = ""
        self._status: Notice | None = None

    @property
    def closed(self) -> bool:
        return bool(self._closed)

    async def emit(self, event_id: str, event_type: str, line: bytes) -> None:
        """Hand the event to all who listen; return when the first of them has accepted it.

        A peer that does not acknowledge counts when the line was written to it, and only while none is there that
        does. Where nobody listens yet, this waits until somebody does. Where all who listen subscribed to other types,
        it returns at once.

        Raises:
            EventRejected: a host will never accept this event.
            ConnectionLost: the outbox was closed before a host had accepted.
        """
        async with self._room:
            while (earlier := self._unaccepted.get(event_id)) is not None and earlier.settled is not None:
                # An answer names an id alone: two events of one id must not be on their way at once.
                await asyncio.wait([earlier.settled])
            if self._closed:
                raise ConnectionLost(self._closed)
            settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            notice = Notice(line, event_type, settled)
            takers = [listener for listener in self.listeners if listener.wants(event_type)]
            if self.listeners and not takers:
                await asyncio.sleep(0)  # let others run, however fast this one emits
                return
            self._unaccepted[event_id] = notice
            try:
                for listener in takers:
                    listener.offer(notice)
                await settled
            finally:
                if self._unaccepted.get(event_id) is notice:
                    del self._unaccepted[event_id]

    async def listen(self, listener: Listener) -> None:
        """Push to `listener`, what is unaccepted first, until this is cancelled.

        Raises:
            ConnectionLost: the peer is gone.
        """
        if self._status is not None and listener.acks:
            listener.offer(self._status)
        for notice in self._unaccepted.values():
            if listener.wants(notice.event_type):
                listener.offer(notice)
        self.listeners.append(listener)
        try:
            while True:
                batch = await listener.next_batch()
                await listener.send([notice.line for notice in batch])
                self._written(batch)
        finally:
            self.listeners.remove(listener)
            listener.forget()

    def tell_status(self, line: bytes) -> None:
        """Tell the hosts among the peers, and those that come, how the source fares; the last line is what holds."""
        self._status = Notice(line)
        for listener in self.listeners:
            if listener.acks:
                listener.offer(self._status)

    def answered(self, answer: Any) -> None:
        """Take a host's answer, params of `ACCEPTED`; ids that are not on their way are left aside."""
        if not isinstance(answer, dict):
            return
        for event_id in _list(answer.get("ids")):
            self._settle(event_id, None)
        for rejection in _list(answer.get("rejected")):
            if isinstance(rejection, dict):
                reason = rejection.get("reason") or "the host gave no reason"
                self._settle(rejection.get("id"), EventRejected(f"the host rejected the event: {reason}"))

    def close(self, reason: str) -> None:
        """Let nobody wait any more: all `emit`, now and later, raise `ConnectionLost(reason)`."""
        self._closed = self._closed or reason
        for event_id in list(self._unaccepted):
            self._settle(event_id, ConnectionLost(reason))

    def _written(self, batch: Iterable[Notice]) -> None:
        for notice in batch:
            if notice.settled is None or notice.settled.done():
                continue
            if not any(listener.acks and listener.wants(notice.event_type) for listener in self.listeners):
                notice.settled.set_result(None)

    def _settle(self, event_id: Any, error: Exception | None) -> None:
        notice = self._unaccepted.pop(event_id, None) if isinstance(event_id, str) else None
        if notice is None or notice.settled is None or notice.settled.done():
            return
        if error is None:
            notice.settled.set_result(None)
        else:
            notice.settled.set_exception(error)


def glob_matches(glob: str, text: str) -> bool:
    """Whether `text` is what `glob` describes; `*` stands for any characters. Linear in the length of `text`."""
    head, *rest = glob.split("*")
    if not rest:
        return glob == text
    *middle, tail = rest
    if not text.startswith(head):
        return False
    position = len(head)
    for part in middle:
        found = text.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return text.endswith(tail) and len(text) - len(tail) >= position


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
