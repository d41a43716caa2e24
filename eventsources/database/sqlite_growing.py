"""Tells the rows that are added to an SQLite table, by a column whose values only grow."""

from __future__ import annotations

import asyncio
from typing import Any

from options import Sqlite
from sqlite_file import PAGE, File, quoted
from telling import Tell, gap

from eventhost.kit import Event
from eventhost.kit.bookmark import Bookmark
from eventhost.kit.upstream import Unavailable, Upstream


class Growing:
    """The tables of one file that have a `cursor`."""

    def __init__(self, options: Sqlite, bookmark: Bookmark, tell: Tell, upstream: Upstream) -> None:
        self._options = options
        self._bookmark = bookmark
        self._tell = tell
        self._upstream = upstream

    async def look(self, file: File) -> None:
        """Tell what has been added since the last look. A table that is new here begins with its next row."""
        for table, cursor in self._options.tables.items():
            if cursor is not None:
                await self._look_at(file, table, cursor)

    async def _look_at(self, file: File, table: str, cursor: str) -> None:
        newest = f"SELECT max({quoted(cursor)}) FROM {quoted(table)}"
        ((top,),) = await asyncio.to_thread(file.rows, newest)
        if isinstance(top, bytes):
            raise Unavailable(f"{table}.{cursor} holds blobs, of which none is the next; name another `cursor`")
        place = f"{table}.{cursor}"
        if place not in self._bookmark.content:
            self._keep(place, top, 1)
            return
        kept = self._bookmark.content[place]
        last, round_number = kept["last"], kept["round"]
        if last is not None and (top is None or _before(top, last)):
            name = self._options.name
            event_id = f"{name}.{place}:{round_number}:gap"
            await self._upstream.gap(gap(name, place, "went_back", {"cursor": last}, {"cursor": top}, event_id))
            self._keep(place, top, round_number + 1)
            return
        page = (
            f"SELECT {quoted(cursor)}, * FROM {quoted(table)} WHERE ?1 IS NULL OR {quoted(cursor)} > ?1 "
            f"ORDER BY {quoted(cursor)} LIMIT {PAGE}"
        )
        while found := await asyncio.to_thread(file.objects, page, (last,), 1):
            await self._tell([self._event(table, round_number, values[0], row) for values, row in found])
            last = found[-1][0][0]
            self._keep(place, last, round_number)
            if len(found) < PAGE:
                return

    def _keep(self, place: str, last: Any, round_number: int) -> None:
        self._bookmark.save({**self._bookmark.content, place: {"last": last, "round": round_number}})

    def _event(self, table: str, round_number: int, at: Any, row: dict[str, Any]) -> Event:
        name = self._options.name
        payload = {
            "database": name,
            "schema": "main",
            "table": table,
            "operation": "insert",
            "old": None,
            "new": row,
        }
        event_type = self._options.type.fill(name, "main", table, "insert")
        return Event(event_type, payload, f"{name}.{table}:{round_number}:{at}", metadata={"cursor": at})


def _before(one: Any, other: Any) -> bool:
    # In SQLite every number is before every text.
    return bool((isinstance(one, str), one) < (isinstance(other, str), other))
