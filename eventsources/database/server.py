"""The database source: changes of rows, and notifications, of PostgreSQL, MySQL, MariaDB and SQLite; see README.md."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import mysql_capture
import pg_capture
import sqlite_capture
from options import Database, MySql, Postgres, databases
from pg_notifications import Notifications
from setup_sql import setup_sql

from eventhost.errors import ConfigError, Problem
from eventhost.kit import EventSource
from eventhost.kit.upstream import Session, Upstream, first_to_end

source = EventSource("database", ["database.*"], description="Changes of databases' rows as events")


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


@source.task
async def follow_all() -> None:
    """Follow every database that the configuration names."""
    found = wanted()
    kept_up = [one for database in found for one in sessions(database)]
    await first_to_end(*(upstream.stay(session) for upstream, session in kept_up))


def sessions(database: Database) -> list[tuple[Upstream, Session]]:
    """What is to be kept up for one database."""
    name, tell = database.name, source.emit_all
    if isinstance(database, Postgres):
        found: list[tuple[Upstream, Session]] = []
        if database.captures:
            upstream, mark = source.upstream(name), source.bookmark(f"changes-{name}")
            found.append((upstream, pg_capture.Capture(database, mark, tell, upstream).session))
        if database.channels:
            upstream, mark = source.upstream(f"{name} notifications"), source.bookmark(f"notifications-{name}")
            found.append((upstream, Notifications(database, mark, tell, upstream).session))
        return found
    upstream = source.upstream(name)
    if isinstance(database, MySql):
        mark = source.bookmark(f"changes-{name}")
        return [(upstream, mysql_capture.Capture(database, mark, tell, upstream).session)]
    mark = source.bookmark(f"sqlite-{name}")
    return [(upstream, sqlite_capture.Capture(database, mark, source.state_dir, tell, upstream).session)]


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
