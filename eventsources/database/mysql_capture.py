"""Tells every change of a MySQL or MariaDB server's tables, from where it was told last.

binlog ─► rows ─► tell ─► accepted by the host ─► bookmark (at a transaction's end)

A kill anywhere begins again with the transaction that was not complete, whose rows have the same ids again.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress

from mysql_binlog import Binlog, Item, PositionLost, Row, Settled, Unread
from mysql_connection import Position, Server, look
from options import MySql
from telling import GAP, Tell, gap, now_iso

from eventhost.kit import Event
from eventhost.kit.bookmark import Bookmark
from eventhost.kit.upstream import Upstream

_MOST_EVENTS = 500
_KEEP_EVERY_S = 1.0


class Capture:
    """The changes of one server."""

    def __init__(self, options: MySql, bookmark: Bookmark, tell: Tell, upstream: Upstream) -> None:
        self._options = options
        self._bookmark = bookmark
        self._tell = tell
        self._upstream = upstream
        self._lost = ""

    async def session(self) -> None:
        """Connect and tell until something ends it.

        Raises:
            Unavailable: what it was.
        """
        server = await asyncio.to_thread(look, self._options)
        start = await self._start(server)
        binlog = Binlog(self._options, server, start, self._server_id())
        binlog.start()
        self._upstream.connected(f"reading the binlog from {start.file}:{start.pos}")
        try:
            await self._read(binlog, server, start)
        except PositionLost as error:
            # The next session tells the gap and begins with the oldest that there is.
            self._lost = str(error)
            raise OSError(f"the server no longer has what follows {start.as_json()}: {error}") from None
        finally:
            binlog.stop()

    async def _read(self, binlog: Binlog, server: Server, start: Position) -> None:
        settled = start
        kept_s = 0.0
        try:
            while True:
                items: list[Item] = []
                with suppress(TimeoutError):
                    async with asyncio.timeout(_KEEP_EVERY_S):
                        items = await binlog.items(_MOST_EVENTS)
                if events := [self.event(item, server) for item in items if not isinstance(item, Settled)]:
                    await self._tell(events)
                    self._upstream.note_gaps(sum(event.type == GAP for event in events))
                for item in items:
                    if isinstance(item, Settled):
                        settled = item.position
                self._upstream.position = settled.as_json()
                if time.monotonic() - kept_s > _KEEP_EVERY_S:
                    self._keep(server, settled)
                    kept_s = time.monotonic()
        finally:
            self._keep(server, settled)

    async def _start(self, server: Server) -> Position:
        kept = self._bookmark.content
        if not kept.get("file"):
            self._keep(server, server.end)
            return server.end
        position = Position(kept["file"], kept["pos"], kept["gtids"])
        reason = self._lost and "binlog_purged"
        if position.gtids is None or not server.has_gtids:
            # Files have no meaning on another server.
            if kept["server"] != server.uuid:
                reason = "another_server"
            elif position.file not in server.files:
                reason = "binlog_purged"
            position = Position(position.file, position.pos)
        if not reason:
            return position
        after = {**position.as_json(), "time": kept["time"]}
        until = {**server.oldest.as_json(), "time": now_iso()}
        event_id = f"{self._options.name}:gap:{position.file}:{position.pos}:{position.gtids}"
        await self._upstream.gap(gap(self._options.name, "changes", reason, after, until, event_id))
        self._lost = ""
        self._keep(server, server.oldest)
        return server.oldest

    def _keep(self, server: Server, position: Position) -> None:
        kept = self._bookmark.content
        where = {"server": server.uuid, **position.as_json()}
        if where.items() <= kept.items():
            return
        self._bookmark.save({"server_id": self._server_id(), **where, "time": now_iso()})

    def _server_id(self) -> int:
        # The same each time, so that the server ends what is left of an earlier connection.
        kept = self._options.server_id or self._bookmark.content.get("server_id")
        if not kept:
            kept = secrets.randbelow(2**31) + 2**31 - 1
            self._bookmark.save({**self._bookmark.content, "server_id": kept})
        return int(kept)

    def event(self, item: Row | Unread, server: Server) -> Event:
        """What is told of one row, or of rows that cannot be read."""
        name = self._options.name
        if isinstance(item, Unread):
            self._upstream.log(
                "error", f"{item.schema}.{item.table}: a row at {item.place} is unreadable: {item.error}"
            )
            where = {"place": item.place, "table": f"{item.schema}.{item.table}"}
            return gap(name, "changes", "unreadable", where, where, f"{name}:unread:{item.place}")
        payload = {
            "database": name,
            "schema": item.schema,
            "table": item.table,
            "operation": item.operation,
            "old": item.old,
            "new": item.new,
        }
        event_type = self._options.type.fill(name, item.schema, item.table, item.operation)
        place = item.place if item.metadata["gtid"] else f"{server.uuid}:{item.place}"
        return Event(event_type, payload, f"{name}:{place}", item.time_s * 1000, dict(item.metadata))
