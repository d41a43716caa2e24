"""Carrying the log over into the journal's file, in a thread of its own: nobody waits while the disk takes it in."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from queue import SimpleQueue


class Checkpointer:
    """A connection and a thread that do nothing else."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], on_end: Callable[[], None]) -> None:
        """`on_end` is called, in that thread, after each time."""
        self._connect, self._on_end = connect, on_end
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self.busy = False
        self.error: sqlite3.Error | None = None
        """Why the last time failed."""
        self._thread = threading.Thread(target=self._run, name="journal checkpointer", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Carry over what is in the log now."""
        self.busy = True
        self._asked.put(True)

    def end(self, timeout_s: float) -> bool:
        """Have the thread end, after what it is doing; whether it has."""
        self._asked.put(False)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        database: sqlite3.Connection | None = None
        while self._asked.get():
            try:
                database = database or self._connect()
                database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                self.error = None
            except sqlite3.Error as error:
                self.error = error
            self.busy = False
            self._on_end()
        if database is not None:
            database.close()
