"""A journal in one SQLite file: what `append` has returned survives the process and, with `full`, the power too.

append ─► writer (one thread, a transaction for all that has gathered) ─► tail in memory ─► who is up to date
                                    └─► file ─► who is behind
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import structlog

from eventhost.errors import BusClosed, JournalFailed
from eventhost.event import EnvEvent
from eventhost.journal import rows, traces
from eventhost.journal.block import BLOCK_EVENTS, Block, Damaged, encode
from eventhost.journal.lock import Lock
from eventhost.journal.protocol import PAGE_BYTES, Entry, JournalStatistics, fitting
from eventhost.journal.readers import Readers
from eventhost.journal.records import Change, DeadLetter, LettersHeld, LetterSize, Pending, Progress, Trace
from eventhost.journal.schema import Durability, connect, connect_to_read
from eventhost.journal.writer import Append, Committed, Job, Save, Tick, Writer

T = TypeVar("T")

log = structlog.get_logger()

_TAIL_EVENTS: Final = 8_192
_TAIL_BYTES: Final = 16 * 1_048_576
"""How much of the newest is kept in memory, as it was appended; bytes of its JSON."""

_CHECKED_BLOCKS: Final = 64
_CHECKED_ROWS: Final = 500
"""How much `check` reads at once: no reading lasts long enough to hold up the writer's log."""

_END_S: Final = 30.0
"""How long `aclose` waits for a disk that does not answer."""

_DAMAGE: Final = frozenset(
    (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
        # All that we ask of the file is sound: what it refuses, it does because its own description is damaged.
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
    )
)

_BLOCKS: Final = "SELECT first, last, at_ms, low, seal, body FROM block "


class SqliteJournal:
    """The journal at one path, to be used in the event loop in which it was opened; see `open_journal`."""

    def __init__(self, path: Path, lock: Lock, durability: Durability = "full") -> None:
        """Open the file, or make it; `lock` is this journal's from now on.

        Raises:
            JournalUnusable: it is no journal, or a newer eventhost's.
            sqlite3.Error: it is damaged, or cannot be written.
        """
        self._lock = lock
        self._readers = Readers(lambda: connect_to_read(path))
        self._writer = Writer(lambda: connect(path, durability), lock, self._committed, self._broke)
        self._gaps = self._writer.gaps
        self._head, self._first = self._writer.mark.head, self._writer.mark.first
        self._tail: list[Entry] = []
        self._tail_commits: deque[tuple[int, int]] = deque()
        """How many events each commit added to the tail, and how many bytes."""
        self._tail_bytes = 0
        self._outstanding: deque[Job] = deque()
        self._failure: str | None = None
        self._closed = False

    @property
    def crashed(self) -> bool:
        return self._writer.crashed

    @property
    def head(self) -> int:
        return self._head

    @property
    def first(self) -> int:
        return self._first

    async def append(self, events: Sequence[EnvEvent]) -> int:
        events = tuple(events)
        parts = encode(events)
        return await self._put(lambda done: Append(events, parts, done))

    async def save(self, change: Change) -> None:
        await self._put(lambda done: Save(change, done))

    async def clock(self) -> int:
        return await self._put(Tick)

    async def read(self, after: int, limit: int) -> Sequence[Entry]:
        after, upto = max(after, self._first - 1), self._head
        if limit <= 0 or after >= upto:
            return ()
        if (start := self._in_tail(after + 1)) is not None:
            entries = self._tail[start : start + limit]
            return entries if self._tail_bytes <= PAGE_BYTES else fitting(entries)
        # Not past the head: what is committed but not yet told would be there twice.
        return await self._ask(lambda database: self._read(database, after, limit, upto))

    async def entries(self, seqs: Sequence[int]) -> list[Entry]:
        wanted = [seq for seq in seqs if self._first <= seq <= self._head]
        places = [self._in_tail(seq) for seq in wanted]
        if None not in places:
            return [self._tail[place] for place in places if place is not None]
        return await self._ask(lambda database: self._pick(database, wanted))

    async def seq_at(self, at_ms: int) -> int:
        first, head = self._first, self._head
        return await self._ask(lambda database: _seq_at(database, at_ms, first, head))

    async def progress(self) -> Progress:
        return await self._ask(rows.progress)

    async def pending(self, rule: str, after: int, limit: int) -> list[Pending]:
        return await self._ask(lambda database: rows.pending(database, rule, after, limit))

    async def dead_letters(self, rule: str | None, after: int, limit: int) -> list[DeadLetter]:
        return await self._ask(lambda database: rows.dead_letters(database, rule, after, limit))

    async def letters_held(self) -> LettersHeld:
        return await self._ask(rows.letters_held)

    async def oldest_letters(self, limit: int) -> list[LetterSize]:
        return await self._ask(lambda database: rows.oldest_letters(database, limit))

    async def traces(self, seq: int) -> list[Trace]:
        if not self._first <= seq <= self._head:
            return []
        return await self._ask(lambda database: traces.traces(database, seq))

    def trim(self, upto: int) -> None:
        upto = min(upto, self._head)
        if upto < self._first or self._closed:
            return
        self._first = upto + 1
        self._writer.trim(upto)

    async def size_bytes(self) -> int:
        """How much of the file is in use, what is trimmed but not yet gone included."""

        def used(database: sqlite3.Connection) -> int:
            ((pages, free, size),) = database.execute(
                "SELECT page_count, freelist_count, page_size FROM pragma_page_count, pragma_freelist_count, "
                "pragma_page_size"
            )
            return int(pages - free) * int(size)

        return await self._ask(used)

    async def check(self) -> None:
        """Read everything once, a little at a time, and see whether it is true: after a crash, beside the work.

        Raises:
            JournalFailed: it is damaged; the host must be started anew, which salvages what there is.
        """
        after = self._first - 1
        while after < self._head:
            after = await self._ask(partial(self._check, after, self._head))
        await self.progress()
        last_id = 0
        while letters := await self.dead_letters(None, last_id, _CHECKED_ROWS):
            last_id = letters[-1].id
        last_seq = 0
        while found := await self._ask(partial(traces.traces_after, last_seq)):
            last_seq = found[-1].seq

    def statistics(self) -> JournalStatistics:
        writer, first = self._writer, self._first
        return JournalStatistics("sqlite", first, self._head, first - 1, writer.stalled, self._failure, writer.commits)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.end()
        with anyio.CancelScope(shield=True):
            ended = await anyio.to_thread.run_sync(self._writer.join, _END_S)
            if not ended:
                log.error("journal_left_open", after_s=_END_S, reason="its disk does not answer")
                self._broke(JournalFailed("the journal's disk does not answer"))
                return  # the lock stays taken: that thread may still write
            with anyio.move_on_after(_END_S):
                await self._readers.aclose()
            await anyio.to_thread.run_sync(self._writer.close)
        self._lock.release()
        self._tail.clear()
        self._first = self._head + 1

    async def _put(self, make: Callable[[asyncio.Future[T]], Job]) -> T:
        if self._failure is not None:
            raise JournalFailed(self._failure)
        if self._closed:
            raise BusClosed("the journal is closed: the host is stopping")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = make(done)
        self._outstanding.append(job)
        self._writer.put(job)
        return await done

    def _committed(self, committed: Committed) -> None:
        seq, at_ms, size = committed.first, committed.at_ms, 0
        for job in committed.jobs:
            self._outstanding.popleft()  # they come in the order in which they were put
            result: Any = None
            if type(job) is Append:
                result = seq
                sizes = chain.from_iterable([part.sizes for part in job.parts])
                self._tail.extend(map(Entry, count(seq), repeat(at_ms), job.events, sizes))
                seq += len(job.events)
                size += sum(len(part.body) for part in job.parts)
                self._head = seq - 1
            elif type(job) is Tick:
                result = at_ms
            if not job.done.done():  # nobody waits any more for one that was cancelled
                job.done.set_result(result)
        if seq > committed.first:
            self._tail_commits.append((seq - committed.first, size))
            self._tail_bytes += size
            self._shorten()

    def _shorten(self) -> None:
        # Never the newest commit: whoever waits for it reads it next.
        while len(self._tail_commits) > 1 and (len(self._tail) > _TAIL_EVENTS or self._tail_bytes > _TAIL_BYTES):
            events, size = self._tail_commits.popleft()
            self._tail_bytes -= size
            del self._tail[:events]

    def _in_tail(self, seq: int) -> int | None:
        """Where in the tail an event is that is held."""
        return seq - self._tail[0].seq if self._tail and self._tail[0].seq <= seq else None

    def _read(self, database: sqlite3.Connection, after: int, limit: int, upto: int) -> list[Entry]:
        found: list[Entry] = []
        next_seq, size = after + 1, 0
        with closing(
            database.execute(
                _BLOCKS + "WHERE first > ? AND first <= ? AND last > ? ORDER BY first",
                (after - BLOCK_EVENTS, upto, after),
            )
        ) as blocks:
            for row in blocks:
                block = Block(*row)
                self._allow_hole(next_seq, block.first - 1)
                entries = block.entries()
                found += entries if block.first >= next_seq else entries[next_seq - block.first :]
                next_seq = block.last + 1
                size += len(block.body)
                if len(found) >= limit or size > PAGE_BYTES:
                    return found[:limit] if size <= PAGE_BYTES else fitting(found[:limit])
        self._allow_hole(next_seq, upto)
        return found

    def _pick(self, database: sqlite3.Connection, seqs: Sequence[int]) -> list[Entry]:
        found: list[Entry] = []
        block: list[Entry] = []
        for seq in seqs:
            if not block or not block[0].seq <= seq <= block[-1].seq:
                row = database.execute(
                    _BLOCKS + "WHERE first > ? AND first <= ? AND last >= ? LIMIT 1", (seq - BLOCK_EVENTS, seq, seq)
                ).fetchone()
                if row is None:
                    self._allow_hole(seq, seq)
                    continue
                block = Block(*row).entries()
            found.append(block[seq - block[0].seq])
        return found

    def _check(self, after: int, upto: int, database: sqlite3.Connection) -> int:
        """Read some blocks that follow `after`; return how far they go."""
        next_seq = after + 1
        blocks = database.execute(
            _BLOCKS + "WHERE first > ? AND first <= ? AND last > ? ORDER BY first LIMIT ?",
            (after - BLOCK_EVENTS, upto, after, _CHECKED_BLOCKS),
        ).fetchall()
        for block in map(Block._make, blocks):
            self._allow_hole(next_seq, block.first - 1)
            block.check()
            next_seq = block.last + 1
        if blocks:
            return next_seq - 1
        self._allow_hole(next_seq, upto)
        return upto

    def _allow_hole(self, first: int, last: int) -> None:
        """Nothing was found from `first` to `last`: let that pass where it was trimmed, or is known to be lost."""
        first = max(first, self._first)
        for start, end in self._gaps:
            if start <= first <= end:
                first = end + 1
        if first <= last:
            raise Damaged(f"events {first} to {last} are not to be found")

    def _broke(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = (
                str(error)
                if isinstance(error, JournalFailed)
                else f"the journal failed: {error}; start the host anew, which salvages what there is"
            )
            if is_damage(error):
                self._lock.complain(str(error))
        for job in self._outstanding:
            if not job.done.done():
                job.done.set_exception(JournalFailed(self._failure))

    async def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise BusClosed("the journal is closed: the host is stopping")
        try:
            return await self._readers.ask(question)
        except (sqlite3.Error, TypeError, ValueError) as error:
            # What else a question stumbles on is a value that nobody wrote.
            damage = error if isinstance(error, sqlite3.Error) else Damaged(f"it holds what was not written: {error}")
            if is_damage(damage):
                log.critical("journal_failed", error=str(damage))
                self._broke(damage)
            raise JournalFailed(f"the journal cannot be read: {error}; start the host anew") from error


def is_damage(error: BaseException) -> bool:
    """Whether the file is not what was written, so that only salvaging helps."""
    if isinstance(error, Damaged):
        return True
    if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.ProgrammingError):
        return False
    # What has no code comes from turning a value into Python's.
    return (getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF) in _DAMAGE


def _seq_at(database: sqlite3.Connection, at_ms: int, first: int, head: int) -> int:
    # Times never go back, so that halving the numbers finds it; an index would cost each commit a page.
    low, high = first, head + 1
    while low < high:
        middle = (low + high) // 2
        row = database.execute(
            "SELECT first, last, at_ms FROM block WHERE first > ? AND last >= ? ORDER BY first LIMIT 1",
            (middle - BLOCK_EVENTS, middle),
        ).fetchone()
        if row is None or row[0] > head:
            high = middle
        elif row[2] >= at_ms:
            high = max(low, min(middle, row[0]))
        else:
            low = row[1] + 1
    return low
