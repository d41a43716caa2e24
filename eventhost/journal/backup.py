"""Copies of the journal: made beside a running host, and put back in its place only when they are whole.

Neither function needs an event loop; both take as long as reading the journal does.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from eventhost.errors import JournalUnusable
from eventhost.journal import rows, succession
from eventhost.journal.block import Block
from eventhost.journal.lock import Lock
from eventhost.journal.salvage import Loss
from eventhost.journal.schema import APPLICATION_ID, TABLES, TABLES_1, check, connect_to_read, tables

_HEADER: Final = 100

_LETTERS: Final = 500
"""Dead letters that are read at once."""


def backup(path: Path, target: Path) -> int:
    """Copy the journal at `path` to `target`, as it is at this moment; return the number of its newest event.

    Whoever writes it goes on meanwhile. An older backup at `target` is replaced at the end, any other file is not.

    Raises:
        JournalUnusable: `path` is no journal, or is damaged; or `target` cannot be written, or is something else.
    """
    if not path.is_file():
        raise JournalUnusable(f"{path} is not there; nothing was ever kept in it")
    if target.exists() and (target.samefile(path) or not _is_journal(target)):
        raise JournalUnusable(f"{target} is there already and is no backup; name another file")
    made = target.with_name(f"{target.name}.making")
    try:
        made.unlink(missing_ok=True)
        with closing(connect_to_read(path)) as database:
            database.execute("VACUUM INTO ?", (str(made),))
        mark = verify(made)
        with closing(sqlite3.connect(made, isolation_level=None)) as database:
            mark.clean = 1  # nothing is under way in a copy
            mark.write(database)
        succession.sync(made)
        made.rename(target)
        succession.sync(target.absolute().parent)
    except (OSError, sqlite3.Error) as error:
        raise JournalUnusable(f"{path} cannot be copied to {target}: {error}") from error
    finally:
        made.unlink(missing_ok=True)
    return mark.head


def restore(source: Path, path: Path) -> Path | None:
    """Let the backup `source` be the journal at `path`; return where the journal that was there is now.

    Numbers are not given twice: if the journal had come further than the backup, they go on from there, and what lies
    between is told as lost.

    Raises:
        HostRunning: a host uses the journal at `path`; stop it first.
        JournalUnusable: `source` is no backup, or is damaged; or nothing can be written there. Nothing was changed.
    """
    if not source.is_file():
        raise JournalUnusable(f"{source} is not there")
    lock = Lock(path)
    try:
        succession.finish(path)
        built = succession.building(path)
        shutil.copyfile(source, built)
        mark = verify(built)
        old = succession.aside(path, "replaced") if path.exists() else None
        with closing(sqlite3.connect(built, isolation_level=None)) as database:
            if lock.head is not None and lock.head > mark.head:
                gap = (mark.head + 1, lock.head)
                mark.head = lock.head
                loss = Loss(f"restored from {source}", str(old or ""), (gap,))
                database.execute("INSERT INTO gap VALUES(?, ?)", gap)
                database.execute("INSERT OR REPLACE INTO loss VALUES(1, ?)", (msgspec.json.encode(loss),))
            mark.clean = 1
            mark.write(database)
        succession.succeed(path, built, old or succession.aside(path, "replaced"))
        lock.mended()
        return old
    except (OSError, sqlite3.Error) as error:
        raise JournalUnusable(f"{source} cannot be restored to {path}: {error}") from error
    finally:
        lock.release()


def verify(path: Path) -> rows.Mark:
    """Read all of a journal that nobody uses, and see whether it is true; return its mark.

    Raises:
        JournalUnusable: it is no journal, or is damaged.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            check(database, path)
            definitions = [table[::3] for table in tables(database)]
            if definitions not in ([table[::3] for table in known] for known in (TABLES, TABLES_1)):
                raise JournalUnusable(f"{path} is damaged: the list of its tables is not what it should be")
            mark = rows.mark(database)
            ends = dict(database.execute("SELECT first, last FROM gap"))
            following = mark.first
            for row in database.execute("SELECT first, last, at_ms, low, seal, body FROM block ORDER BY first"):
                block = Block(*row)
                following = _past(following, block.first, ends)
                if block.first > following or not block.true:
                    raise JournalUnusable(f"{path} is damaged: events {following} to {block.last} are not true")
                following = max(following, block.last + 1)
            if (following := _past(following, mark.head + 1, ends)) != mark.head + 1:
                raise JournalUnusable(f"{path} is damaged: events {following} to {mark.head} are not to be found")
            rows.progress(database)
            letter = 0
            while letters := rows.dead_letters(database, None, letter, _LETTERS):
                letter = letters[-1].id
            return mark
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise JournalUnusable(f"{path} is damaged: {error}; take another backup") from error


def _past(following: int, upto: int, gaps: dict[int, int]) -> int:
    """Where what is known to be lost ends, if it begins at `following`."""
    while following < upto and following in gaps:
        following = gaps[following] + 1
    return following


def _is_journal(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(_HEADER)
    return len(header) == _HEADER and int.from_bytes(header[68:72], "big") == APPLICATION_ID
