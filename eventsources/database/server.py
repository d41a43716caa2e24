"""The database source: changes of rows, and notifications, of PostgreSQL, MySQL, MariaDB and SQLite; see README.md."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import mysql_capture
import pg_capture
import sqlite_capture
from bookmark import Bookmark
from options import Database, MySql, Postgres, databases
from pg_notifications import Notifications
from setup_sql import setup_sql
from telling import Event, Session, Watch, first_to_end, stay_with

from eventhost.errors import ConfigError, EventRejected, Problem
from eventhost.kit import EventSource

source = EventSource("database", ["database.*"], description="Changes of databases' rows as events")

_watches: list[Watch] = []


def wanted() -> list[Database]:
    """What the configuration asks for.

    Raises:
        ConfigError: it cannot be understood, or a driver is not installed.
    """
    try:
        found = databases(source.options)
    except ValueError as error:
        raise ConfigError([Problem("config.jsonc", str(error))]) from None
    drivers = {Postgres: ("psycopg",), MySql: ("pymysql", "pymysqlreplication")}
    problems = [
        Problem(
            "config.jsonc",
            f"{database.name} needs the Python package {driver}",
            "pip install 'eventhost[database]'",
        )
        for database in found
        for driver in drivers.get(type(database), ())
        if find_spec(driver) is None
    ]
    if problems:
        raise ConfigError(problems)
    return found


async def tell(events: Sequence[Event]) -> None:
    """Emit, in order, and return once all are accepted; one that the host wants not is told in the log."""
    emitted = (
        source.emit(event.type, event.payload, id=event.id, timestamp=event.timestamp, metadata=event.metadata or None)
        for event in events
    )
    for outcome in await asyncio.gather(*emitted, return_exceptions=True):
        if isinstance(outcome, EventRejected):
            source.log("warning", str(outcome))
        elif isinstance(outcome, BaseException):
            raise outcome


@source.task
async def watch_all() -> None:
    """Watch every database that the configuration names."""
    found = wanted()
    state = source.state_dir
    kept_up = [one for database in found for one in sessions(database, state)]
    _watches[:] = [watch for watch, _ in kept_up]
    await first_to_end(*(stay_with(watch, session) for watch, session in kept_up))


def sessions(database: Database, state: Path) -> list[tuple[Watch, Session]]:
    """What is to be kept up for one database."""
    if isinstance(database, Postgres):
        found: list[tuple[Watch, Session]] = []
        if database.captures:
            watch = Watch(database.name, "changes", source.log)
            mark = Bookmark(state, "changes", database.name)
            found.append((watch, pg_capture.Capture(database, mark, tell, watch).session))
        if database.channels:
            watch = Watch(database.name, "notifications", source.log)
            mark = Bookmark(state, "notifications", database.name)
            found.append((watch, Notifications(database, mark, tell, watch).session))
        return found
    watch = Watch(database.name, "changes", source.log)
    if isinstance(database, MySql):
        mark = Bookmark(state, "changes", database.name)
        return [(watch, mysql_capture.Capture(database, mark, tell, watch).session)]
    return [(watch, sqlite_capture.Capture(database, state, tell, watch).session)]


@source.tool(description="Tell of each database whether it is connected, how far it was told, and its last error")
def get_databases() -> list[dict[str, object]]:
    """The state of each database."""
    return [watch.snapshot() for watch in _watches]


@source.tool(description="Print the SQL that prepares the configured databases for this source")
def get_setup_sql() -> str:
    """The SQL."""
    return setup_sql(wanted())


def print_sql() -> None:
    """Print it for the configuration in the environment, or in `config.jsonc` beside this file."""
    import json5

    if "MCP_SERVER_CONFIG" in os.environ:
        config = json.loads(os.environ["MCP_SERVER_CONFIG"])
    else:
        config = json5.loads(Path(__file__).with_name("config.jsonc").read_text("utf-8"))
    try:
        print(setup_sql(databases({**config, **config.get("options", {})})), end="")
    except ValueError as error:
        raise SystemExit(f"config.jsonc: {error}") from None


if __name__ == "__main__":
    if sys.argv[1:] == ["--sql"]:
        print_sql()
    else:
        source.run()
