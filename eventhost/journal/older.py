"""A journal that an older eventhost wrote becomes one of this version, with all that is in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from eventhost.journal import traces
from eventhost.journal.block import Damaged, seal
from eventhost.journal.records import Trace
from eventhost.journal.schema import TABLES, TABLES_1, VERSION, connect, tables

_AT_ONCE: Final = 1_000


def take_over(path: Path) -> None:
    """Make the journal at `path`, if there is one, of this version; all of it, or nothing.

    It takes as long as reading the traces of runs that are in it.

    Raises:
        JournalUnusable: it is no journal, or a newer eventhost's.
        sqlite3.Error: it is damaged, or there is no room.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    with closing(connect(path)) as database:
        if tables(database) != TABLES_1:
            return
        database.execute("PRAGMA writable_schema = ON")
        database.execute("BEGIN IMMEDIATE")
        # The table keeps its first page, by which it is found when the list of tables is lost.
        database.execute("CREATE TEMP TABLE old AS SELECT * FROM trace ORDER BY seq, rule")
        database.execute("DELETE FROM trace")
        ((definition,),) = [table[3:] for table in TABLES if table[1] == "trace"]
        database.execute("UPDATE main.sqlite_schema SET sql = ? WHERE name = 'trace'", (definition,))
        database.execute("PRAGMA writable_schema = RESET")
        ((number,),) = database.execute("PRAGMA schema_version").fetchall()
        database.execute(f"PRAGMA schema_version = {number + 1}")
        following = 0
        with closing(database.execute("SELECT * FROM temp.old")) as rows:
            while some := [*_traces(rows)]:
                following = traces.write(database, some, following)
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")


def _traces(rows: sqlite3.Cursor) -> Iterator[Trace]:
    for seq, rule, body, sealed in rows.fetchmany(_AT_ONCE):
        if seal(seq, rule, body) != sealed:
            raise Damaged(f"a trace of event {seq} is damaged")
        yield Trace(seq, rule, body)
