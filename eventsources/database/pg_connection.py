"""Connects to PostgreSQL; makes of its refusals sentences that say what to mend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from options import Postgres
from pg_values import SESSION

from eventhost.kit.upstream import Unavailable

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Error

_DEFAULTS = {
    "application_name": "eventhost",
    "connect_timeout": "10",
    # A server that has gone without a word is noticed within a minute.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}

_MENDS = {
    "28P01": "check the user and the password",
    "28000": "check the user, and pg_hba.conf of the server",
    "3D000": "check the database's name in `url`",
    "42501": "ask for the rights that `python server.py --sql` prints",
    "53400": "raise max_replication_slots or max_wal_senders in postgresql.conf, or drop a slot that nobody reads",
    "42704": "make what is missing with the SQL that `python server.py --sql` prints",
    "42P01": "check `tables`",
}
"""What to do, by SQLSTATE."""

_TEXT_MENDS = {
    "permission denied to start WAL sender": "ALTER ROLE … REPLICATION, as `python server.py --sql` prints",
    "must be superuser or replication role": "ALTER ROLE … REPLICATION, as `python server.py --sql` prints",
    "password authentication failed": "check the user and the password",
    "no password supplied": 'give a `password`, such as "${env:PGPASSWORD}"',
    "is active for PID": "another process reads this slot; give each source a `slot` of its own",
    "number of requested standby connections": "raise max_wal_senders in postgresql.conf",
}
"""A refused connection, or stream, tells no SQLSTATE."""


@asynccontextmanager
async def connected(options: Postgres, *, replication: bool) -> AsyncIterator[AsyncConnection[Any]]:
    """A connection that commits each statement, closed at the end.

    Raises:
        Unavailable: the server refused, went away, or said no to a statement within the block.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        given = conninfo_to_dict(options.conninfo)
        settings: dict[str, Any] = {**_DEFAULTS, **given, "options": f"{given.get('options') or ''} {SESSION}".strip()}
        if options.password:
            settings["password"] = options.password
        if replication:
            settings["replication"] = "database"
        connection = await psycopg.AsyncConnection.connect(make_conninfo(**settings), autocommit=True)
    except psycopg.Error as error:
        raise unavailable(error) from None
    try:
        yield connection
    except psycopg.Error as error:
        raise unavailable(error) from None
    finally:
        # Not `close`, which is a coroutine and would not run when this is cancelled once more.
        connection.pgconn.finish()


def unavailable(error: Error) -> Unavailable:
    """What the server said, and the mend where it is known."""
    return mended(str(error), error.sqlstate or "")


def mended(text: str, sqlstate: str = "") -> Unavailable:
    """The server's text, and the mend where it is known."""
    said = " ".join(text.split())
    mend = _MENDS.get(sqlstate) or next((_TEXT_MENDS[part] for part in _TEXT_MENDS if part in said), "")
    return Unavailable(f"{said}; {mend}" if mend else said)
