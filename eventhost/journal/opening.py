"""Opening the journal's file: one host at a time, and never a damaged file without saying what it has lost."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import anyio.to_thread

from eventhost.errors import JournalUnusable
from eventhost.journal import succession
from eventhost.journal.lock import Lock
from eventhost.journal.older import take_over
from eventhost.journal.salvage import Loss, find_damage, salvage, untold
from eventhost.journal.schema import Durability
from eventhost.journal.sqlite import SqliteJournal, is_damage


async def open_journal(path: Path, durability: Durability = "full") -> tuple[SqliteJournal, Loss | None]:
    """Open the journal at `path`, make it if it is not there, salvage it if it is damaged.

    What was lost is told at every opening until a host that was told has closed the journal. Salvaging takes as long as
    reading the file; opening any other does not depend on how much it holds.

    Raises:
        HostRunning: another process has it open.
        JournalUnusable: it is no journal, or a newer eventhost's, or nothing can be written there.
    """
    lock = await anyio.to_thread.run_sync(Lock, path)
    try:
        try:
            loss = await anyio.to_thread.run_sync(_mend, path, lock)
            return SqliteJournal(path, lock, durability), loss
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            loss = await anyio.to_thread.run_sync(salvage, path, lock, str(error))
            return SqliteJournal(path, lock, durability), loss
    except sqlite3.Error as error:
        lock.release()
        raise JournalUnusable(f"{path} cannot be opened: {error}; make sure that it can be written") from error
    except BaseException:
        lock.release()
        raise


def _mend(path: Path, lock: Lock) -> Loss | None:
    if succession.finish(path):
        lock.mended()
    if (damage := find_damage(path, lock)) is not None:
        return salvage(path, lock, damage)
    take_over(path)
    return untold(path)
