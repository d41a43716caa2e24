"""The journal's file: its tables, its version, and how it is opened."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final, Literal

from eventhost.errors import JournalUnusable

APPLICATION_ID: Final = 0x45764874
"""`EvHt` in the file's header, by which a journal is known."""

VERSION: Final = 2

WRITTEN_BY: Final = {1: "0.1", 2: "0.1"}
"""The first version of eventhost that reads each version of the file."""

PAGE: Final = 4096
"""How long a page of the file is, in bytes."""

Durability = Literal["full", "normal"]

_TRACE: Final = (
    "CREATE TABLE trace(first INTEGER, number INTEGER, last INTEGER NOT NULL, seal INTEGER NOT NULL, "
    "body BLOB NOT NULL, PRIMARY KEY(first, number)) WITHOUT ROWID"
)
_TRACE_1: Final = (
    "CREATE TABLE trace(seq INTEGER, rule TEXT, body BLOB NOT NULL, seal INTEGER NOT NULL, PRIMARY KEY(seq, rule))\n"
    "                   WITHOUT ROWID"
)
"""As version 1 had it: a row for each."""

# The view is for people, who may look into the file with any tool. Every row that matters has a seal, see `block.py`.
# The tables are never changed once they are made: so each of them begins at the same page in every journal, and is
# found there even when the list of tables is lost.
_TABLES: Final = f"""
CREATE TABLE mark(one INTEGER PRIMARY KEY CHECK(one = 1), head INTEGER NOT NULL, low INTEGER NOT NULL,
                  first INTEGER NOT NULL, at_ms INTEGER NOT NULL, dead INTEGER NOT NULL, clean INTEGER NOT NULL,
                  seal INTEGER NOT NULL);
CREATE TABLE block(first INTEGER PRIMARY KEY, last INTEGER NOT NULL, at_ms INTEGER NOT NULL, low INTEGER NOT NULL,
                   seal INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE position(rule TEXT PRIMARY KEY, seq INTEGER NOT NULL, lags INTEGER NOT NULL, state BLOB,
                      seal INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE pending(rule TEXT, seq INTEGER, born_ms INTEGER NOT NULL, attempts INTEGER NOT NULL,
                     left_out INTEGER NOT NULL, entries BLOB, seal INTEGER NOT NULL,
                     PRIMARY KEY(rule, seq)) WITHOUT ROWID;
CREATE TABLE dead(id INTEGER PRIMARY KEY, rule TEXT NOT NULL, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL,
                  action TEXT NOT NULL, place TEXT NOT NULL, attempts INTEGER NOT NULL, error TEXT NOT NULL,
                  entries BLOB NOT NULL, seal INTEGER NOT NULL);
{_TRACE};
CREATE TABLE gap(first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE loss(one INTEGER PRIMARY KEY CHECK(one = 1), body BLOB NOT NULL);
CREATE TABLE format(readable_from TEXT NOT NULL);
INSERT INTO format VALUES('{WRITTEN_BY[VERSION]}');
CREATE VIEW event AS SELECT first + key AS seq, at_ms, value AS body FROM block, json_each(CAST(body AS TEXT));
"""


def make(database: sqlite3.Connection) -> None:
    """Make the tables in an empty file; all of them, or none."""
    database.executescript(
        f"PRAGMA page_size = {PAGE}; PRAGMA auto_vacuum = INCREMENTAL; BEGIN IMMEDIATE; {_TABLES} "
        f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT"
    )


Table = tuple[str, str, int, str]


def tables(database: sqlite3.Connection) -> list[Table]:
    """Kind, name, first page and definition of everything that is in a file."""
    return database.execute("SELECT type, name, rootpage, sql FROM sqlite_schema ORDER BY rowid").fetchall()


def _fresh_tables() -> list[Table]:
    database = sqlite3.connect(":memory:", isolation_level=None)
    try:
        make(database)
        return tables(database)
    finally:
        database.close()


TABLES: Final = _fresh_tables()
"""Those of a journal."""

TABLES_1: Final = [table if table[1] != "trace" else (*table[:3], _TRACE_1) for table in TABLES]
"""Those of version 1."""

ROOTS: Final = {name: page for _, name, page, _ in TABLES}
"""The page at which each table begins."""


def connect(path: Path, durability: Durability = "full") -> sqlite3.Connection:
    """Open the file for writing; make it if it is not there.

    Raises:
        JournalUnusable: it is no journal, or a newer eventhost's, or the file system cannot hold one.
        sqlite3.DatabaseError: it is damaged.
    """
    # Events may tell what is nobody else's business; the files beside take this one's permissions.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2)
    try:
        # Page size and vacuum can be chosen only before anything else is done.
        if not tables(database):
            make(database)
        check(database, path)
        ((mode,),) = database.execute("PRAGMA journal_mode = WAL").fetchall()
        if mode != "wal":
            raise JournalUnusable(f"the file system of {path} has no shared memory; name a local one in journal.path")
        database.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        # Where fsync does not reach the disk (macOS) there is F_FULLFSYNC, which does.
        database.execute(f"PRAGMA fullfsync = {'ON' if durability == 'full' else 'OFF'}")
        database.execute("PRAGMA checkpoint_fullfsync = ON")
        database.execute("PRAGMA wal_autocheckpoint = 0")  # the writer does it: here its errors would go unnoticed
        database.execute("PRAGMA cache_size = -16000")
    except BaseException:
        database.close()
        raise
    return database


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open whatever is there, beside whoever writes it, and do not look at it yet."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=10
    )


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open the file, beside whoever writes it.

    Raises:
        JournalUnusable: it is no journal, or a newer eventhost's.
        sqlite3.DatabaseError: it is not there, or damaged.
    """
    database = open_to_read(path)
    try:
        check(database, path)
        database.execute("PRAGMA cache_size = -8000")
    except BaseException:
        database.close()
        raise
    return database


def check(database: sqlite3.Connection, path: Path) -> None:
    """Make sure that it is a journal that can be read here.

    Raises:
        JournalUnusable: it is not.
        sqlite3.DatabaseError: it is damaged.
    """
    names = {name for _, name, _, _ in tables(database)}
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID and not names >= {"mark", "block", "format"}:
        raise JournalUnusable(f"{path} is not a journal of eventhost; name another file in journal.path")
    (needed,) = database.execute("SELECT readable_from FROM format").fetchone() or ("",)
    # Both must say so: one alone is a damaged header.
    if version > VERSION and needed not in ("", *WRITTEN_BY.values()):
        raise JournalUnusable(
            f"{path} was written by a newer eventhost (format {version}, this one reads {VERSION}); install eventhost "
            f"{needed} or later, or name another file in journal.path"
        )
