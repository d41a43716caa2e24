"""The journal's one writer: a thread that commits, in one transaction, whatever gathered while the last one ran.

A full disk makes everybody wait, and is tried again until there is room. What else goes wrong ends the writer: what it
had not committed was never accepted.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

import structlog

from eventhost.errors import JournalFailed
from eventhost.event import EnvEvent
from eventhost.journal import rows, traces
from eventhost.journal.block import Block, Part, blocks_of
from eventhost.journal.checkpoint import Checkpointer
from eventhost.journal.lock import Lock
from eventhost.journal.records import Change
from eventhost.journal.schema import PAGE

log = structlog.get_logger()

_MOST_EVENTS: Final = 4_096
"""How many events one transaction holds at most, if no single batch has more; their publishers wait for all of them."""

_PAUSE_S: Final = 0.5
"""Between attempts to write while there is no room."""

_SLICE_S: Final = 0.005
"""How long a slice of what nobody waits for may take: whoever appends meanwhile waits so much longer."""

_SLICE_BLOCKS: Final = 1_000
_TRIM_BYTES: Final = (65_536, 1_048_576)
_VACUUM_PAGES: Final = (4, 256)
"""The least and the most of it at once."""

_MUCH_FREE_PAGES: Final = 4_096
"""A file of which a quarter is free, and so many pages, is shortened while nothing else is to be done."""

_CHECKPOINT_BYTES: Final = 16 * 1_048_576
"""So much is written into the log before it is carried over into the file."""

_REST_BYTES: Final = 524_288
_PASSES: Final = 4
"""When no more than so much was written while it was carried over, or after so many times, the writer does the rest."""

_MAY_PASS: Final = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    # A quota or a limit for the size of files comes as one of these. Nothing is half written: it was rolled back.
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
)
"""Reasons to wait and try again. Not a failed fsync: what it was about may be gone without a trace at the next one."""


class Append:
    """Events to be kept, and who waits for it."""

    __slots__ = ("done", "events", "parts")

    def __init__(self, events: Sequence[EnvEvent], parts: list[Part], done: asyncio.Future[int]) -> None:
        """`parts` are the events, encoded."""
        self.events, self.parts, self.done = events, parts, done


class Save:
    """Delivery records to be kept."""

    __slots__ = ("change", "done")

    def __init__(self, change: Change, done: asyncio.Future[None]) -> None:
        self.change, self.done = change, done


class Tick:
    """Asks for the time that everything committed later is not older than."""

    __slots__ = ("done",)

    def __init__(self, done: asyncio.Future[int]) -> None:
        self.done = done


Job = Append | Save | Tick


class Committed:
    """What one transaction was about: `jobs` in order, the number of its first event, and the time of all of them."""

    __slots__ = ("at_ms", "first", "jobs")

    def __init__(self, jobs: list[Job], first: int, at_ms: int) -> None:
        self.jobs, self.first, self.at_ms = jobs, first, at_ms


class Writer:
    """Owns the connection that writes. `on_commit` is called in the event loop, once for each transaction, in order."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        lock: Lock,
        on_commit: Callable[[Committed], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        """Begin. `on_failure` is told, in the event loop, why nothing more will be committed.

        Raises:
            JournalUnusable: it is no journal, or a newer eventhost's.
            sqlite3.Error: it is damaged, or cannot be written.
        """
        database = self._database = connect()
        self._lock = lock
        self._on_commit, self._on_failure = on_commit, on_failure
        try:
            self.mark = rows.mark(database)
            self.crashed = not self.mark.clean
            """Whether whoever wrote last did not come to its end."""
            self.mark.clean = 0
            self.mark.at_ms += 1  # no two openings have the same time
            self.mark.write(database)
            self._traces = traces.first_number(self.mark.at_ms)
            """The number of the next row of traces."""
            self.gaps: list[tuple[int, int]] = database.execute("SELECT first, last FROM gap ORDER BY 1").fetchall()
            """What is known to be lost."""
            oldest = database.execute("SELECT last FROM block ORDER BY first LIMIT 1").fetchone()
        except BaseException:
            database.close()
            raise
        self._in_log = self._carried = 0
        """How many bytes, roughly, were written since the log began anew; and how many there were at the last pass."""
        self._passes = 0
        self._checkpointer = Checkpointer(connect, lambda: self._jobs.put(None))
        lock.reach(self.mark.head)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._trim_to = self.mark.first - 1
        self._left_over = oldest is not None and oldest[0] <= self._trim_to
        """Whether there is something in the file that is not held any more."""
        self._shortening = False
        """Whether more may be free in the file than it should keep."""
        self._trim_pace, self._vacuum_pace = _Pace(*_TRIM_BYTES), _Pace(*_VACUUM_PAGES)
        self._ending = threading.Event()
        self.stalled: str | None = None
        """Why nothing can be written at the moment."""
        self.commits = 0
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="journal writer", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Have it done after everything before it."""
        self._jobs.put(job)

    def trim(self, upto: int) -> None:
        """Have the events up to this one forgotten, a slice with each commit."""
        self._trim_to = max(self._trim_to, upto)
        self._jobs.put(None)  # it may be waiting for one

    def end(self) -> None:
        """Have the thread end after everything before this."""
        self._ending.set()
        self._jobs.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads' end; whether it came."""
        self._thread.join(timeout_s)
        return self._checkpointer.end(timeout_s) and not self._thread.is_alive()

    def close(self) -> None:
        """Let go of the file, after the thread's end; whoever closes it last carries the log over into it."""
        self._database.close()

    def _run(self) -> None:
        try:
            while jobs := self._gather():
                self._commit(jobs)
                self._tidy()
            self._finish()
        except Exception as error:
            if not isinstance(error, JournalFailed):
                log.critical("journal_failed", error=str(error))
            self._say(self._on_failure, error)

    def _gather(self) -> list[Job | None]:
        """What has gathered; the first of it is waited for, unless there is something to tidy. Empty: all is done."""
        jobs: list[Job | None] = []
        count = 0
        while count < _MOST_EVENTS:
            wait = not (jobs or self._trims or self._shortening or self._ending.is_set())
            try:
                job = self._jobs.get(block=wait)
            except Empty:
                break
            jobs.append(job)
            count += len(job.events) if type(job) is Append else 1
        if not jobs and not self._ending.is_set():
            jobs.append(None)  # to be tidied
        return jobs

    @property
    def _trims(self) -> bool:
        return self._left_over or self.mark.first <= self._trim_to

    def _commit(self, gathered: list[Job | None]) -> None:
        jobs = [job for job in gathered if job is not None]
        parts = [part for job in jobs if type(job) is Append for part in job.parts]
        changes = [job.change for job in jobs if type(job) is Save]
        first, mark = self.mark.head + 1, self.mark
        at_ms = max(mark.at_ms, int(time.time() * 1000))
        if parts or changes or self._trims:
            while not self._written(blocks_of(parts, first, at_ms, mark.low), changes, at_ms):
                if not jobs:
                    self._ending.wait(_PAUSE_S)  # there was no room to make room
                    return
                if self._ending.wait(_PAUSE_S):
                    raise JournalFailed(f"the journal was closed while nothing could be written: {self.stalled}")
                self._checkpoint()  # the log can be used anew then, and needs no room of its own
                at_ms = max(mark.at_ms, int(time.time() * 1000))
            self.commits += 1
        self.mark.at_ms = at_ms
        if jobs:
            self._say(self._on_commit, Committed(jobs, first, at_ms))

    def _written(self, blocks: list[Block], changes: list[Change], at_ms: int) -> bool:
        """Whether there was room for it."""
        database, old, trims = self._database, self.mark, self._trims
        new = rows.Mark(blocks[-1].last if blocks else old.head, old.low, old.first, at_ms, old.dead, clean=0)
        try:
            database.execute("BEGIN IMMEDIATE")
            left_over = trims and self._trim(new)  # first of all: it may make the room for the rest
            if blocks:
                database.executemany("INSERT INTO block VALUES(?, ?, ?, ?, ?, ?)", blocks)
            for change in changes:
                new.dead = rows.write(database, change, new.dead)
                if change.traces:
                    self._traces = traces.write(database, change.traces, self._traces)
                new.low = max(new.low, change.low or 0)
            new.write(database)
            database.execute("COMMIT")
        except sqlite3.Error as error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            if not _may_pass(error):
                raise
            if self.stalled is None:
                log.error("journal_stalled", error=str(error), mend="make room on its disk; everybody waits until then")
            self.stalled = str(error)
            return False
        if self.stalled is not None:
            log.warning("journal_goes_on", stalled=self.stalled)
            self.stalled = None
        self.mark = new
        self._left_over = left_over
        self._shortening = self._shortening or (trims and not left_over)
        if blocks:
            self._lock.reach(new.head)
        self._in_log += sum(len(block.body) for block in blocks) + 4 * PAGE
        return True

    def _trim(self, mark: rows.Mark) -> bool:
        """Forget a slice of what is not held any more; whether something is left of it."""
        upto = self._trim_to
        found = self._database.execute(
            "SELECT last, length(body) FROM block WHERE first <= ? ORDER BY first LIMIT ?", (upto, _SLICE_BLOCKS)
        ).fetchall()
        end, size, left = 0, 0, len(found) == _SLICE_BLOCKS
        for last, length in found:
            if last > upto:  # a block goes as a whole, with its last event
                left = False
                break
            if size and size + length > self._trim_pace.amount:
                left = True
                break
            end, size = last, size + length
        end = end if left else upto
        started = time.perf_counter()
        self._database.execute("DELETE FROM block WHERE first <= ? AND last <= ?", (end, end))
        self._database.execute("DELETE FROM trace WHERE first <= ? AND last <= ?", (end, end))
        self._database.execute("DELETE FROM gap WHERE last <= ?", (end,))
        self._trim_pace.took(time.perf_counter() - started)
        mark.first = max(mark.first, upto + 1)
        self._in_log += 16 * PAGE
        return left

    def _tidy(self) -> None:
        """What nobody waits for: said only now, after who waits was told."""
        if not self._checkpointer.busy:
            self._look_after_log()
        if self._shortening and not self._trims and self._jobs.empty():
            self._shortening = self._shorten()

    def _look_after_log(self) -> None:
        """Have the log carried over into the file once it is long enough.

        It begins anew only when all of it is, so the last little bit is done here.
        """
        if (error := self._checkpointer.error) is not None and not _may_pass(error):
            raise error
        if self._passes and (self._in_log - self._carried < _REST_BYTES or self._passes == _PASSES):
            self._checkpoint()
        elif self._passes or self._in_log >= _CHECKPOINT_BYTES:
            self._passes += 1
            self._carried = self._in_log
            self._checkpointer.begin()

    def _checkpoint(self) -> None:
        try:
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            if not _may_pass(error):
                raise
        self._in_log = self._passes = 0

    def _shorten(self) -> bool:
        """Give a slice of what is free back to the file system; whether there is more of it."""
        ((free,),) = self._database.execute("PRAGMA freelist_count").fetchall()
        ((pages,),) = self._database.execute("PRAGMA page_count").fetchall()
        if free < max(_MUCH_FREE_PAGES, pages // 4):
            self._in_log = max(self._in_log, _CHECKPOINT_BYTES)  # only then does it become shorter
            return False
        started = time.perf_counter()
        try:
            self._database.execute(f"PRAGMA incremental_vacuum({self._vacuum_pace.amount})").fetchall()
        except sqlite3.Error as error:
            if not _may_pass(error):
                raise
            return False
        self._vacuum_pace.took(time.perf_counter() - started)
        self._in_log += self._vacuum_pace.amount * PAGE
        return True

    def _finish(self) -> None:
        self.mark.clean = 1
        try:
            self.mark.write(self._database)
            self._database.execute("DELETE FROM loss")
        except sqlite3.Error as error:
            log.warning("journal_not_closed_cleanly", error=str(error))

    def _say(self, listener: Callable[[Any], None], what: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(listener, what)


class _Pace:
    """How much to do at once for it to take `_SLICE_S`, by how long it took."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most, self.amount = least, most, least

    def took(self, seconds: float) -> None:
        """Learn from the last time."""
        self.amount = max(self._least, self.amount // 2) if seconds > _SLICE_S else min(self._most, self.amount * 2)


def _may_pass(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code in _MAY_PASS or (code is not None and code & 0xFF in _MAY_PASS)
