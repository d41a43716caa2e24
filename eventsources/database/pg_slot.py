"""Sees to a publication and a replication slot, and finds out whether something was lost since they were last read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from options import EVERY_TABLE, Postgres
from pgoutput import lsn_number, lsn_text
from telling import gap, now_iso

from eventhost.kit import Event
from eventhost.kit.bookmark import Bookmark
from eventhost.kit.upstream import Unavailable

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_BY_HAND = "make it with the SQL that `python server.py --sql` prints, or set `create` to true"


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that can be read from `lsn` on, on the server with this identity, and what was lost before."""

    system: str
    lsn: int
    gap: Event | None


async def prepare(connection: AsyncConnection[Any], options: Postgres, bookmark: Bookmark) -> Slot:
    """See that publication and slot are there.

    Raises:
        Unavailable: they are not, and cannot be made; the text says what to do.
        psycopg.Error: the server refused a statement.
    """
    server = await _row(connection, "IDENTIFY_SYSTEM")
    system = str(server["systemid"])
    level = next(iter((await _row(connection, "SHOW wal_level")).values()))
    if level != "logical":
        raise Unavailable(
            f"wal_level is {level}, and changes are written to the log only at `logical`; "
            "ALTER SYSTEM SET wal_level = 'logical', then restart PostgreSQL"
        )
    await _publish(connection, options)
    kept = bookmark.content
    found = await _row(connection, f"SELECT * FROM pg_replication_slots WHERE slot_name = {_literal(options.slot)}")
    reason = ""
    if found and (found["plugin"] != "pgoutput" or found["database"] != connection.info.dbname):
        raise Unavailable(
            f"the slot {options.slot} belongs to the database {found['database']} and the plugin {found['plugin']}; "
            "name another `slot`"
        )
    if found and (found.get("wal_status") == "lost" or found.get("invalidation_reason")):
        if not options.create:
            raise Unavailable(
                f"the server has removed what the slot {options.slot} had not read; drop it, and {_BY_HAND}"
            )
        await connection.execute(f"SELECT pg_drop_replication_slot({_literal(options.slot)})".encode())
        found, reason = {}, "wal_removed"
    told = lsn_number(kept["lsn"]) if kept else 0
    if found:
        if found["confirmed_flush_lsn"] is None:
            raise Unavailable(f"the slot {options.slot} is still being made")
        lsn = lsn_number(found["confirmed_flush_lsn"])
        reason = "slot_moved" if lsn > told else ""
    else:
        if not options.create:
            raise Unavailable(f"there is no slot {options.slot}; {_BY_HAND}")
        made = f"SELECT lsn FROM pg_create_logical_replication_slot({_literal(options.slot)}, 'pgoutput')"
        lsn = lsn_number((await _row(connection, made))["lsn"])
        reason = reason or "slot_missing"
    if kept and (kept["system"] != system or lsn_number(server["xlogpos"]) < told):
        reason = "another_server"
    if not kept or not reason:
        # The server may not have had time to take the last acknowledgement.
        return Slot(system, max(lsn, told), None)
    after = {"lsn": kept["lsn"], "time": kept["time"]}
    until = {"lsn": lsn_text(lsn), "time": now_iso()}
    event_id = f"{options.name}:gap:{kept['lsn']}:{lsn_text(lsn)}"
    return Slot(system, lsn, gap(options.name, "changes", reason, after, until, event_id))


async def _publish(connection: AsyncConnection[Any], options: Postgres) -> None:
    name = options.publication
    found = await _row(connection, f"SELECT puballtables AS every FROM pg_publication WHERE pubname = {_literal(name)}")
    if options.tables is None or not options.create:
        if not found:
            raise Unavailable(f"there is no publication {name}; {_BY_HAND}")
        return
    every = EVERY_TABLE in options.tables
    if not found:
        await connection.execute(publication_sql(name, options.tables).encode())
    elif (found["every"] == "t") != every:
        # In one transaction, or what is committed in between could not be read from the log later on.
        anew = f"DROP PUBLICATION {quoted(name)}; {publication_sql(name, options.tables)}"
        await connection.execute(anew.encode())
    elif not every:
        published = await _rows(
            connection, f"SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = {_literal(name)}"
        )
        if {(row["schemaname"], row["tablename"]) for row in published} != {_split(table) for table in options.tables}:
            tables = ", ".join(table_sql(table) for table in options.tables)
            await connection.execute(f"ALTER PUBLICATION {quoted(name)} SET TABLE {tables}".encode())


def publication_sql(name: str, tables: tuple[str, ...]) -> str:
    """The statement that makes a publication of `tables`."""
    which = "ALL TABLES" if EVERY_TABLE in tables else "TABLE " + ", ".join(table_sql(table) for table in tables)
    return f"CREATE PUBLICATION {quoted(name)} FOR {which}"


def table_sql(table: str) -> str:
    """A table's name as SQL has it; without a schema it is `public`."""
    return ".".join(quoted(part) for part in _split(table))


def _split(table: str) -> tuple[str, str]:
    schema, dot, name = table.partition(".")
    return (schema, name) if dot else ("public", schema)


def quoted(text: str) -> str:
    """A name as SQL has it."""
    return '"' + text.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def _row(connection: AsyncConnection[Any], statement: str) -> dict[str, Any]:
    rows = await _rows(connection, statement)
    return rows[0] if rows else {}


async def _rows(connection: AsyncConnection[Any], statement: str) -> list[dict[str, Any]]:
    """What a statement answers, as texts; a replication connection knows no other protocol."""
    cursor = await connection.execute(statement.encode())
    result = cursor.pgresult
    assert result is not None
    names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
    return [
        {
            name: None if (value := result.get_value(row, column)) is None else value.decode()
            for column, name in enumerate(names)
        }
        for row in range(result.ntuples)
    ]
