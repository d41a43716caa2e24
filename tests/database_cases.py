"""Gives a golden case of the database source what a database would say, and takes the events that come of it."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_EPOCH_S = 946_684_800

Event = dict[str, Any]


async def drive_database(load: Callable[[str], Any], case: dict[str, Any], folder: Path) -> list[Event]:
    """The events of one case; its input names how its database speaks."""
    config = case["config"]
    given = case["input"]
    if "sqlite" in given:
        config = {"database": {"url": f"sqlite:///{folder / 'data.db'}", **config["database"]}}
    (options,) = load("options").databases({**config, **config.get("options", {})})
    if "pgoutput" in given:
        events = _of_postgres(load, options, given["pgoutput"])
    elif "notified" in given:
        event_of = load("pg_notifications").event_of
        events = [event_of(options, one["channel"], one["text"], 1) for one in given["notified"]]
    elif "binlog" in given:
        events = _of_binlog(load, options, given["binlog"], folder)
    elif "sqlite" in given:
        events = await _of_sqlite(load, options, given["sqlite"], folder)
    else:
        events = []
    return [
        {
            "id": event.id,
            "type": event.type,
            "timestamp": event.timestamp,
            "metadata": event.metadata,
            "payload": event.payload,
        }
        for event in events
    ]


def _of_postgres(load: Callable[[str], Any], options: Any, messages: Sequence[dict[str, Any]]) -> list[Any]:
    changes = load("pg_changes").Changes(options.name, options.type)
    decode = load("pgoutput").decode
    events = []
    for at, message in enumerate(messages):
        for oid, what in message.get("types", {}).items():
            changes.own_types[int(oid)] = load("pg_values").OwnType(**what)
        if "types" not in message:
            events += changes.take(decode(pgoutput(message)), 1000 + at)
    return events


def pgoutput(message: dict[str, Any]) -> bytes:
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


def _of_binlog(load: Callable[[str], Any], options: Any, entries: Sequence[dict[str, Any]], folder: Path) -> list[Any]:
    binlog, connection, capture = load("mysql_binlog"), load("mysql_connection"), load("mysql_capture")
    start = connection.Position("log.1", 4, "0-1-1")
    server = connection.Server(True, True, "server", ("log.1",), start, start)
    walk = binlog.Walk(options, start, is_mariadb=True)
    mark = load("bookmark").Bookmark(folder, "changes", options.name)
    watch = load("telling").Watch(options.name, "changes", lambda level, text: None)
    told = capture.Capture(options, mark, None, watch)
    events = []
    for pos, entry in enumerate(entries, 100):
        kind = type(entry["kind"], (SimpleNamespace,), {})
        columns = [SimpleNamespace(name=name, type=17) for name in entry.get("timestamps", ())]
        event = kind(
            **{"flags": 0, "timestamp": 1767323045, **entry}, packet=SimpleNamespace(log_pos=pos), columns=columns
        )
        events += [
            told.event(item, server) for item in walk.take(event, "log.1") if not isinstance(item, binlog.Settled)
        ]
    return events


async def _of_sqlite(load: Callable[[str], Any], options: Any, steps: Sequence[Any], folder: Path) -> list[Any]:
    state = folder / "state"
    state.mkdir()
    events: list[Any] = []

    async def tell(told: Sequence[Any]) -> None:
        events.extend(told)

    def start() -> Any:
        watch = load("telling").Watch(options.name, "changes", lambda level, text: None)
        return load("sqlite_capture").Capture(options, state, tell, watch)

    writer = sqlite3.connect(folder / "data.db", isolation_level=None)
    capture = start()
    for step in steps:
        if step == "restart":
            capture.close()
            capture = start()
            continue
        for statement in step:
            writer.execute(statement)
        file = load("sqlite_file").File(options.path)
        await capture.look(file)
        file.close()
    capture.close()
    writer.close()
    return events
