"""Tells what comes to core subjects. Nobody keeps that, so a time of not listening is a gap, and so is a flood.

subscriptions ─► inbox (bounded) ─► events ─► accepted by the host ─► "heard until" kept
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import nats.errors
from connecting import Client, Servers
from marks import iso
from messages import Message, event_of_subject, gap_of_subjects
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from options import Connection
from subjects import Wanted

from eventhost.kit import EventSource
from eventhost.kit.upstream import first_to_end

MOST_EVENTS = 500
MOST_BYTES = 4_000_000

_MOST_WAITING = 65_536
_MOST_WAITING_BYTES = 64_000_000
_BEAT_S = 2.0
"""How often the server is asked for a sign of life; up to the last one nothing was missed."""


@dataclass(slots=True)
class Dropped:
    """Stands where messages would stand that there was no room for; times in milliseconds."""

    count: int
    first_ms: float
    last_ms: float


@dataclass(frozen=True, slots=True)
class Missed:
    """Stands where nobody listened from one time to another, in milliseconds."""

    after_ms: float
    until_ms: float


@dataclass(frozen=True, slots=True)
class Heard:
    """All that was published before this time, in milliseconds, stands before it."""

    until_ms: float


Waiting = tuple[Wanted, Message] | Dropped | Missed | Heard


class Inbox:
    """What has come and was not yet told, in order, as far as there is room.

    Once it is full, nothing more is taken until half of it is free, so that a flood makes few gaps, not many.
    """

    def __init__(
        self, most: int = _MOST_WAITING, most_bytes: int = _MOST_WAITING_BYTES, now_s: Callable[[], float] = time.time
    ) -> None:
        self._most, self._most_bytes, self._now_s = most, most_bytes, now_s
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0
        self._dropped: Dropped | None = None
        self._heard = False
        self._filled = asyncio.Event()

    def put(self, wanted: Wanted, message: Message) -> None:
        """Take a message, or note that there was no room for it."""
        if self._dropped is None and (len(self._waiting) >= self._most or self._bytes >= self._most_bytes):
            self._dropped = Dropped(0, self._now_s() * 1000, 0)
            self._waiting.append(self._dropped)
        if self._dropped is not None:
            self._dropped.count += 1
            self._dropped.last_ms = self._now_s() * 1000
            return
        self._waiting.append((wanted, message))
        self._bytes += message.size_bytes
        self._filled.set()

    def missed(self, after_ms: float, until_ms: float) -> None:
        """Note that nobody listened for so long."""
        self._waiting.append(Missed(after_ms, until_ms))
        self._filled.set()

    def heard(self, until_ms: float) -> None:
        """Note that all before this time is here; only once until that is told."""
        if not self._heard:
            self._heard = True
            self._waiting.append(Heard(until_ms))
            self._filled.set()

    async def take(self) -> Sequence[Waiting]:
        """As much of what is here as makes one good batch, waited for; a mark stands alone."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        batch: list[Waiting] = []
        size = 0
        while self._waiting and len(batch) < MOST_EVENTS and size < MOST_BYTES:
            one = self._waiting[0]
            if not isinstance(one, tuple):
                if not batch:
                    batch.append(self._waiting.popleft())
                    self._heard = self._heard and not isinstance(one, Heard)
                break
            batch.append(self._waiting.popleft())
            size += one[1].size_bytes
        self._bytes -= size
        if self._dropped is not None and self._has_room():
            self._dropped = None
        return batch

    def _has_room(self) -> bool:
        return len(self._waiting) <= self._most // 2 and self._bytes <= self._most_bytes // 2


class Subscriptions:
    """The core subjects of one connection."""

    def __init__(self, source: EventSource, connection: Connection, servers: Servers) -> None:
        self._source = source
        self._connection = connection
        self._servers = servers
        self._upstream = source.upstream(connection.name)
        self._bookmark = source.bookmark(f"{connection.name}.subjects")
        self._inbox = Inbox()
        heard = self._bookmark.content.get("heard")
        self._heard_ms = datetime.fromisoformat(heard).timestamp() * 1000 if heard else None
        """All that was published before was told, or stands in the inbox; None before the first start."""

    async def stay(self) -> None:
        """Tell what comes, until cancelled; what has come is told while the server is away, too."""
        await first_to_end(self._upstream.stay(self._session), self._tell(self._inbox))

    async def _session(self) -> None:
        wanted = self._connection.subjects
        async with self._servers.client() as client:
            subscriptions = [await self._subscribe(client, one, self._inbox) for one in wanted]
            try:
                await client.round_trip()
                since_ms = time.time() * 1000
                if self._heard_ms is not None:
                    self._inbox.missed(self._heard_ms, since_ms)
                self._hear(since_ms)
                self._upstream.connected(f"subscribed to {', '.join(one.pattern for one in wanted)}")
                self._tell_refusals(client)
                await first_to_end(self._listen(client, subscriptions), client.ended())
            finally:
                for subscription in subscriptions:
                    with suppress(nats.errors.Error):
                        await subscription.unsubscribe()

    def _hear(self, until_ms: float) -> None:
        self._heard_ms = until_ms
        self._inbox.heard(until_ms)

    async def _listen(self, client: Client, subscriptions: Sequence[Subscription]) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            asked_ms = time.time() * 1000
            await client.round_trip()
            # What came before the answer has been read, and goes to the inbox as soon as others may run.
            while any(subscription.pending_msgs for subscription in subscriptions):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
            self._hear(asked_ms)

    async def _subscribe(self, client: Client, wanted: Wanted, inbox: Inbox) -> Subscription:
        async def arrived(message: Msg) -> None:
            inbox.put(wanted, Message(message.subject, message.data, message.reply, message.headers))

        # The inbox is the bound; the library's own, for each subscription, would be another.
        return await client.subscribe(
            wanted.pattern, wanted.queue, arrived, pending_msgs_limit=0, pending_bytes_limit=0
        )

    async def _tell(self, inbox: Inbox) -> None:
        while True:
            batch = await inbox.take()
            first = batch[0]
            if isinstance(first, Heard):
                heard = iso(first.until_ms)
                self._bookmark.save({"heard": heard})
                self._upstream.position = {"heard": heard}
            elif isinstance(first, Missed):
                times = iso(first.after_ms), iso(first.until_ms)
                await self._upstream.gap(gap_of_subjects(self._connection, "not_connected", *times))
            elif isinstance(first, Dropped):
                times = iso(first.first_ms), iso(first.last_ms)
                gap = gap_of_subjects(self._connection, "slow_consumer", *times, messages=first.count)
                await self._upstream.gap(gap)
            else:
                messages = [one for one in batch if isinstance(one, tuple)]
                await self._source.emit_all(event_of_subject(self._connection, *one) for one in messages)

    def _tell_refusals(self, client: Client) -> None:
        for refusal in list(client.refusals):
            if "subscription" in refusal:
                self._upstream.last_error = f"{refusal}; the others are read"
                self._upstream.log("error", self._upstream.last_error)
                client.refusals.remove(refusal)
