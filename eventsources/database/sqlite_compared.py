"""Tells how an SQLite table differs from what was told of it last; that is kept in a file of its own, not in memory."""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from options import Sqlite
from sqlite_file import PAGE, File, Table, json_value, quoted, refusals
from telling import Tell

from eventhost.kit import Event
from eventhost.kit.upstream import Upstream

_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (watched TEXT, key TEXT, row TEXT, PRIMARY KEY (watched, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS known (watched TEXT PRIMARY KEY, columns TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS told (series TEXT, count INTEGER);
"""


@dataclass(frozen=True, slots=True)
class _Change:
    operation: str
    key: str
    old: str | None
    new: str | None


class Compared:
    """The tables of one file that have no `cursor`."""

    def __init__(self, options: Sqlite, folder: Path, tell: Tell, upstream: Upstream) -> None:
        self._options = options
        self._tell = tell
        self._upstream = upstream
        self._warned: set[str] = set()
        with refusals():
            self._memory = sqlite3.connect(
                folder / f"sqlite-{options.name}.db", isolation_level=None, check_same_thread=False
            )
            self._memory.execute("PRAGMA journal_mode = WAL")
            self._memory.executescript(_SCHEMA)
            if self._memory.execute("SELECT 1 FROM told").fetchone() is None:
                self._memory.execute("INSERT INTO told VALUES (?, 0)", (secrets.token_hex(4),))

    def close(self) -> None:
        """Close the memory."""
        self._memory.close()

    async def look(self, file: File) -> None:
        """Tell every difference. A table that is new here begins with the rows that are there: nobody changed them."""
        for name, cursor in self._options.tables.items():
            if cursor is None:
                table = await asyncio.to_thread(file.table, name)
                known = self._memory.execute("SELECT columns FROM known WHERE watched = ?", (name,)).fetchone()
                silent = known is None or known[0] != json.dumps(table.key)
                if silent:
                    self._memory.execute("DELETE FROM seen WHERE watched = ?", (name,))
                await self._look_at(file, table, silent=silent)
                if silent:
                    values = (name, json.dumps(table.key))
                    self._memory.execute("INSERT OR REPLACE INTO known VALUES (?, ?)", values)

    async def _look_at(self, file: File, table: Table, *, silent: bool) -> None:
        after: tuple[Any, ...] | None = None
        while page := await asyncio.to_thread(self._page, file, table, after):
            after = page[-1][0]
            await self._settle(table, await asyncio.to_thread(self._compare, table, page), silent=silent)
            if len(page) < PAGE:
                break
        key = ""
        while kept := await asyncio.to_thread(self._kept_after, table, key):
            key = kept[-1][0]
            gone = await asyncio.to_thread(self._gone, file, table, kept)
            await self._settle(table, gone, silent=silent)

    async def _settle(self, table: Table, changes: Sequence[_Change], *, silent: bool) -> None:
        if not changes:
            return
        series, told = self._memory.execute("SELECT series, count FROM told").fetchone()
        if not silent:
            await self._tell([self._event(table, change, series, told + at) for at, change in enumerate(changes, 1)])
        await asyncio.to_thread(self._remember, table, changes, 0 if silent else len(changes))

    def _page(self, file: File, table: Table, after: tuple[Any, ...] | None) -> list[Any]:
        names = ", ".join(map(quoted, table.pages))
        marks = ", ".join("?" * len(table.pages))
        where = "" if after is None else f"WHERE ({names}) > ({marks})"
        extra = ", ".join(map(quoted, (*table.pages, *table.key)))
        statement = f"SELECT {extra}, * FROM {quoted(table.name)} {where} ORDER BY {names} LIMIT {PAGE}"
        count = len(table.pages)
        found = file.objects(statement, after or (), count + len(table.key))
        return [(values[:count], values[count:], row) for values, row in found]

    def _compare(self, table: Table, page: Sequence[Any]) -> list[_Change]:
        found: dict[str, str] = {}
        for _, key, row in page:
            if None in key:
                if table.name not in self._warned:
                    self._warned.add(table.name)
                    self._upstream.log("warning", f"{table.name} has rows whose key is NULL; they are not told")
                continue
            found[_text([json_value(value) for value in key])] = _text(row)
        marks = ", ".join("?" * len(found))
        with refusals():
            kept = dict(
                self._memory.execute(
                    f"SELECT key, row FROM seen WHERE watched = ? AND key IN ({marks})", (table.name, *found)
                ).fetchall()
            )
        changes = []
        for key, row in found.items():
            if key not in kept:
                changes.append(_Change("insert", key, None, row))
            elif kept[key] != row:
                changes.append(_Change("update", key, kept[key], row))
        return changes

    def _kept_after(self, table: Table, key: str) -> list[tuple[str, str]]:
        statement = f"SELECT key, row FROM seen WHERE watched = ? AND key > ? ORDER BY key LIMIT {PAGE}"
        with refusals():
            return self._memory.execute(statement, (table.name, key)).fetchall()

    def _gone(self, file: File, table: Table, kept: Sequence[tuple[str, str]]) -> list[_Change]:
        names = ", ".join(map(quoted, table.key))
        one = f"({', '.join('?' * len(table.key))})"
        values = [_sql_value(value) for key, _ in kept for value in json.loads(key)]
        there = file.rows(
            f"SELECT {names} FROM {quoted(table.name)} WHERE ({names}) IN (VALUES {', '.join([one] * len(kept))})",
            values,
        )
        keys = {_text([json_value(value) for value in key]) for key in there}
        return [_Change("delete", key, row, None) for key, row in kept if key not in keys]

    def _remember(self, table: Table, changes: Sequence[_Change], told: int) -> None:
        with refusals():
            self._memory.execute("BEGIN")
            for change in changes:
                if change.new is None:
                    self._memory.execute("DELETE FROM seen WHERE watched = ? AND key = ?", (table.name, change.key))
                else:
                    values = (table.name, change.key, change.new)
                    self._memory.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", values)
            self._memory.execute("UPDATE told SET count = count + ?", (told,))
            self._memory.execute("COMMIT")

    def _event(self, table: Table, change: _Change, series: str, number: int) -> Event:
        name = self._options.name
        payload = {
            "database": name,
            "schema": "main",
            "table": table.name,
            "operation": change.operation,
            "old": None if change.old is None else json.loads(change.old),
            "new": None if change.new is None else json.loads(change.new),
        }
        event_type = self._options.type.fill(name, "main", table.name, change.operation)
        # The same again if a crash makes it be told again, another if something else is told instead.
        content = crc32(_text([table.name, change.operation, change.key, change.old, change.new]).encode())
        return Event(event_type, payload, f"{name}:{series}-{number}-{content:08x}")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _sql_value(value: Any) -> Any:
    return b64decode(value["base64"]) if isinstance(value, dict) else value
