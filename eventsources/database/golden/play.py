"""Plays the database's golden cases: says what a database would say, and takes the events that come of it."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mysql_binlog
import mysql_capture
import pgoutput
import sqlite_capture
from mysql_connection import Position, Server
from options import MySql, Postgres, Sqlite, databases
from pg_changes import Changes
from pg_notifications import event_of
from pg_values import OwnType
from sqlite_file import File
from telling import Tell

from eventhost.kit import Event
from eventhost.kit.bookmark import Bookmark
from eventhost.kit.golden import play
from eventhost.kit.upstream import Upstream

_EPOCH_S = 946_684_800
"""PostgreSQL counts its time from the year 2000."""


async def drive(case: dict[str, Any], folder: Path) -> Sequence[Event]:
    """The events of one case; its input names how its database speaks."""
    config, said = case["config"], case["input"]
    if "sqlite" in said:
        config = {"database": {"url": f"sqlite:///{folder / 'data.db'}", **config["database"]}}
    (options,) = databases({**config, **config.get("options", {})})
    events: Sequence[Event] = ()
    if isinstance(options, Postgres) and "pgoutput" in said:
        events = of_postgres(options, said["pgoutput"])
    elif isinstance(options, Postgres) and "notified" in said:
        events = [event_of(options, one["channel"], one["text"], 1) for one in said["notified"]]
    elif isinstance(options, MySql) and "binlog" in said:
        events = of_binlog(options, said["binlog"], folder)
    elif isinstance(options, Sqlite) and "sqlite" in said:
        events = await of_sqlite(options, said["sqlite"], folder)
    elif said:
        raise RuntimeError(f"no {type(options).__name__} says {', '.join(said)}")
    return events


def of_postgres(options: Postgres, messages: Sequence[dict[str, Any]]) -> list[Event]:
    """The events of a stream of messages, among which types may be made known."""
    changes = Changes(options.name, options.type)
    events = []
    for at, message in enumerate(messages):
        for oid, what in message.get("types", {}).items():
            changes.own_types[int(oid)] = OwnType(**what)
        if "types" not in message and (decoded := pgoutput.decode(encoded(message))) is not None:
            events += changes.take(decoded, 1000 + at)
    return events


def encoded(message: dict[str, Any]) -> bytes:
    """A message as the server sends it."""
    if "begin" in message:
        time_us = int((datetime.fromisoformat(message["time"]).timestamp() - _EPOCH_S) * 1_000_000)
        return struct.pack(">cQqI", b"B", message["begin"], time_us, message["xid"])
    if "commit" in message:
        return struct.pack(">cBQQq", b"C", 0, message["commit"], message["commit"] + 8, 0)
    if "relation" in message:
        head = struct.pack(">cI", b"R", message["relation"])
        names = f"{message['schema']}\0{message['table']}\0{message.get('identity', 'd')}".encode()
        columns = message["columns"]
        body = b"".join(
            struct.pack(">B", key) + name.encode() + b"\0" + struct.pack(">Ii", oid, -1) for name, oid, key in columns
        )
        return head + names + struct.pack(">H", len(columns)) + body
    if "truncate" in message:
        tables = message["truncate"]
        options = message.get("cascade", False) + 2 * message.get("restart_identity", False)
        return struct.pack(f">cIB{len(tables)}I", b"T", len(tables), options, *tables)
    (kind,) = {"insert", "update", "delete"} & message.keys()
    parts = [(b"K", message.get("key")), (b"O", message.get("old")), (b"N", message.get("new"))]
    rows = b"".join(letter + _tuple(row) for letter, row in parts if row is not None)
    return struct.pack(">cI", kind[0].upper().encode(), message[kind]) + rows


def _tuple(row: Sequence[Any]) -> bytes:
    packed = struct.pack(">H", len(row))
    for value in row:
        if value is None:
            packed += b"n"
        elif isinstance(value, dict):
            packed += b"u"
        else:
            packed += b"t" + struct.pack(">I", len(value.encode())) + value.encode()
    return packed


def of_binlog(options: MySql, entries: Sequence[dict[str, Any]], folder: Path) -> list[Event]:
    """The events of a binlog's entries, each an object of the driver's class `kind`."""
    start = Position("log.1", 4, "0-1-1")
    server = Server(True, True, "server", ("log.1",), start, start)
    walk = mysql_binlog.Walk(options, start, is_mariadb=True)
    capture = mysql_capture.Capture(options, Bookmark(folder / "changes.json"), _untold, _upstream(options.name))
    events = []
    for pos, entry in enumerate(entries, 100):
        kind = type(entry["kind"], (SimpleNamespace,), {})
        columns = [SimpleNamespace(name=name, type=17) for name in entry.get("timestamps", ())]
        said: dict[str, Any] = {"flags": 0, "timestamp": 1767323045, **entry}
        items = walk.take(kind(**said, packet=SimpleNamespace(log_pos=pos), columns=columns), "log.1")
        events += [capture.event(item, server) for item in items if not isinstance(item, mysql_binlog.Settled)]
    return events


async def of_sqlite(options: Sqlite, steps: Sequence[Any], folder: Path) -> list[Event]:
    """The events of lists of statements, after each of which a look is taken."""
    state = folder / "state"
    state.mkdir()
    told: list[Event] = []

    async def tell(events: Sequence[Event]) -> None:
        told.extend(events)

    def start() -> sqlite_capture.Capture:
        mark = Bookmark(state / "sqlite.json")
        return sqlite_capture.Capture(options, mark, state, tell, _upstream(options.name, tell))

    writer = sqlite3.connect(folder / "data.db", isolation_level=None)
    capture = start()
    for step in steps:
        if step == "restart":
            capture.close()
            capture = start()
            continue
        for statement in step:
            writer.execute(statement)
        file = File(options.path)
        await capture.look(file)
        file.close()
    capture.close()
    writer.close()
    return told


def _upstream(name: str, tell: Tell | None = None) -> Upstream:
    """One whose log is nobody's; no case is about it."""
    told = tell or _untold
    return Upstream(name, lambda *_: None, lambda event: told([event]), lambda: None)


def _unchanged() -> None:
    """Nor about the status."""


async def _unemitted(event: Event) -> None:
    raise RuntimeError(f"{event} was told behind the case's back")


async def _untold(events: Sequence[Event]) -> None:
    raise RuntimeError(f"{len(events)} events were told behind the case's back")


if __name__ == "__main__":
    play(drive)
