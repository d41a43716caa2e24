"""Tells what is notified on a PostgreSQL database's channels. What nobody listens to is gone, and a gap says so."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from options import Postgres
from pg_connection import connected
from telling import Tell, gap, now_iso

from eventhost.kit import Event
from eventhost.kit.bookmark import Bookmark
from eventhost.kit.payload import payload_of
from eventhost.kit.upstream import Upstream

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Notify

_BEAT_S = 2.0
"""How often the server is asked for a sign of life; up to the last one nothing was missed."""


def event_of(options: Postgres, channel: str, text: str, pid: int) -> Event:
    """The event of one notification: a JSON object is its payload, anything else becomes `{"value": …}`."""
    metadata = {"database": options.name, "channel": channel, "pid": pid}
    return Event(options.channels[channel], payload_of(text.encode()), metadata=metadata)


class Notifications:
    """The channels of one database."""

    def __init__(self, options: Postgres, bookmark: Bookmark, tell: Tell, upstream: Upstream) -> None:
        self._options = options
        self._bookmark = bookmark
        self._tell = tell
        self._upstream = upstream

    async def session(self) -> None:
        """Listen and tell until something ends it.

        Raises:
            Unavailable: what it was.
        """
        async with connected(self._options, replication=False) as connection:
            for channel in self._options.channels:
                quoted = channel.replace('"', '""')
                await connection.execute(f'LISTEN "{quoted}"'.encode())
            since = now_iso()
            if heard := self._bookmark.content.get("heard"):
                await self._upstream.gap(self._gap(heard, since))
            self._bookmark.save({"heard": since})
            self._upstream.connected(f"listening to {', '.join(self._options.channels)}")
            await self._listen(connection)

    async def _listen(self, connection: AsyncConnection[Any]) -> None:
        while True:
            beat_s = time.monotonic() + _BEAT_S
            while (left_s := beat_s - time.monotonic()) > 0:
                await self._hand_over([n async for n in connection.notifies(timeout=left_s, stop_after=1)])
            heard = now_iso()
            # What was notified before this statement has arrived when its answer has.
            await connection.execute("SELECT 1")
            await self._hand_over([n async for n in connection.notifies(timeout=0)])
            self._bookmark.save({"heard": heard})
            self._upstream.position = heard

    async def _hand_over(self, notified: Sequence[Notify]) -> None:
        if notified:
            await self._tell([event_of(self._options, n.channel, n.payload, n.pid) for n in notified])

    def _gap(self, heard: str, since: str) -> Event:
        after, until = {"time": heard}, {"time": since}
        event_id = f"{self._options.name}:gap:{heard}:{since}"
        return gap(self._options.name, "notifications", "not_listening", after, until, event_id)
