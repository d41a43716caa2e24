"""Tells every change of a PostgreSQL database's published tables, from where it was told last.

slot ─► pgoutput ─► events ─► tell ─► accepted by the host ─► bookmark ─► acknowledged to the server

The server keeps what was not acknowledged, so a kill anywhere makes it send again, under the same ids, and never skip.
"""

from __future__ import annotations

import asyncio

from options import Postgres
from pg_changes import Changes
from pg_connection import connected
from pg_slot import Slot, prepare
from pg_stream import Data, Keepalive, Stream
from pg_values import FIRST_OWN_OID, OwnType
from pgoutput import Commit, Unreadable, decode, lsn_text
from telling import Tell, now_iso

from eventhost.kit import Event
from eventhost.kit.bookmark import Bookmark
from eventhost.kit.upstream import Unavailable, Upstream, first_to_end

_MOST_EVENTS = 500
_MOST_BYTES = 4_000_000
_ACKNOWLEDGE_EVERY_S = 1.0
"""Also what tells the server that this end lives, while the host takes its time."""

_OWN_TYPES = f"""
SELECT oid, typbasetype, CASE WHEN typcategory = 'A' THEN typelem ELSE 0 END
FROM pg_type WHERE oid >= {FIRST_OWN_OID} AND (typtype = 'd' OR typcategory = 'A')
"""


class Capture:
    """The changes of one database."""

    def __init__(self, options: Postgres, bookmark: Bookmark, tell: Tell, upstream: Upstream) -> None:
        self._options = options
        self._bookmark = bookmark
        self._tell = tell
        self._upstream = upstream

    async def session(self) -> None:
        """Connect and tell until something ends it.

        Raises:
            Unavailable: what it was.
        """
        async with connected(self._options, replication=True) as connection:
            slot = await prepare(connection, self._options, self._bookmark)
            if slot.gap is not None:
                await self._upstream.gap(slot.gap)
            stream = Stream(connection)
            await stream.start(self._options.slot, self._options.publication)
            reading = Reading(self._options, self._bookmark, self._tell, self._upstream, slot, stream)
            reading.keep()
            self._upstream.connected(f"reading the slot {self._options.slot} from {lsn_text(slot.lsn)}")
            try:
                await first_to_end(reading.read(), reading.keep_acknowledging())
            finally:
                reading.keep()


class Reading:
    """One connection's worth of changes."""

    def __init__(
        self, options: Postgres, bookmark: Bookmark, tell: Tell, upstream: Upstream, slot: Slot, stream: Stream
    ) -> None:
        self._options = options
        self._bookmark = bookmark
        self._tell = tell
        self._upstream = upstream
        self._slot = slot
        self._stream = stream
        self._changes = Changes(options.name, options.type)
        self._told = slot.lsn
        """All before this was accepted."""
        self._complete = slot.lsn
        """All before this was read, and is in `_events` or was accepted."""
        self._events: list[Event] = []
        self._bytes = 0

    async def read(self) -> None:
        """Tell what comes, in the order in which it was committed."""
        count = 0
        while True:
            got = self._stream.read()
            if got is None:
                await self._hand_over()
                await self._stream.wait()
            elif isinstance(got, Keepalive):
                if not self._changes.in_transaction:
                    self._complete = max(self._complete, got.lsn)
                if not self._events:
                    self._told = self._complete
                if got.wants_reply:
                    await self._acknowledge()
            else:
                await self._take(got)
            count += 1
            if len(self._events) >= _MOST_EVENTS or self._bytes >= _MOST_BYTES:
                await self._hand_over()
            elif count % 1000 == 0:
                # A flood of what is not published must not keep others from running.
                await asyncio.sleep(0)

    async def keep_acknowledging(self) -> None:
        """Note, and tell the server, how far the host has accepted, again and again."""
        while True:
            await asyncio.sleep(_ACKNOWLEDGE_EVERY_S)
            await self._acknowledge()

    def keep(self) -> None:
        """Note how far the host has accepted; before the server is told, so that it never is ahead of the note."""
        self._upstream.position = lsn_text(self._told)
        kept = self._bookmark.content
        if (kept.get("system"), kept.get("lsn")) != (self._slot.system, lsn_text(self._told)):
            self._bookmark.save({"system": self._slot.system, "lsn": lsn_text(self._told), "time": now_iso()})

    async def _acknowledge(self) -> None:
        told = self._told
        self.keep()
        await self._stream.acknowledge(told)

    async def _take(self, data: Data) -> None:
        try:
            message = decode(data.message)
            if message is None:
                return
            if self._changes.unknown_types(message):
                await self._learn_types()
                for oid in self._changes.unknown_types(message):
                    self._changes.own_types[oid] = OwnType()
            self._events += self._changes.take(message, data.lsn)
        except Unreadable as error:
            raise Unavailable(f"at {lsn_text(data.lsn)}: {error}") from None
        self._bytes += len(data.message)
        if isinstance(message, Commit):
            self._complete = max(self._complete, message.end_lsn)

    async def _hand_over(self) -> None:
        if self._events:
            events, self._events, self._bytes = self._events, [], 0
            await self._tell(events)
        self._told = self._complete

    async def _learn_types(self) -> None:
        async with connected(self._options, replication=False) as connection:
            cursor = await connection.execute(_OWN_TYPES)
            async for oid, base, element in cursor:
                self._changes.own_types[oid] = OwnType(base, element)
