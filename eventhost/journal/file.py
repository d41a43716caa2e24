"""A journal's file, to be read beside whoever writes it; and what of any journal there is to be read.

Nothing here ever writes, or keeps a host from writing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

import anyio.to_thread

from eventhost.errors import JournalUnusable
from eventhost.journal import rows, traces
from eventhost.journal.block import BLOCK_EVENTS, Block
from eventhost.journal.protocol import PAGE_BYTES, Entry, fitting
from eventhost.journal.records import DeadLetter, Pending, Progress, Trace
from eventhost.journal.schema import TABLES_1, connect_to_read, tables

T = TypeVar("T")


class Events(Protocol):
    """What of a `Journal` it takes to read its events from one end to the other."""

    @property
    def head(self) -> int: ...
    @property
    def first(self) -> int: ...
    async def read(self, after: int, limit: int) -> Sequence[Entry]: ...
    async def seq_at(self, at_ms: int) -> int: ...


class Recorded(Events, Protocol):
    """What of a `Journal` can be read."""

    async def entries(self, seqs: Sequence[int]) -> list[Entry]: ...
    async def progress(self) -> Progress: ...
    async def pending(self, rule: str, after: int, limit: int) -> list[Pending]: ...
    async def dead_letters(self, rule: str | None, after: int, limit: int) -> list[DeadLetter]: ...
    async def traces(self, seq: int) -> list[Trace]: ...


class JournalFile:
    """A journal's file, as it was when it was opened; a host may go on writing it."""

    def __init__(self, path: Path) -> None:
        """Open the journal at `path`; close it with `with`.

        Raises:
            JournalUnusable: there is none, or it cannot be read.
        """
        if not path.is_file():
            raise JournalUnusable(f"{path} is not there: nothing was kept yet; look at journal in the config")
        try:
            self._database = connect_to_read(path)
            mark = rows.mark(self._database)
            if tables(self._database) == TABLES_1:
                raise JournalUnusable(
                    f"{path} was written by an older eventhost; start the host once: it takes it over"
                )
        except sqlite3.Error as error:
            raise JournalUnusable(f"{path} cannot be read: {error}") from error
        self._path = path
        self.head, self.first = mark.head, mark.first

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    async def read(self, after: int, limit: int) -> Sequence[Entry]:
        after = max(after, self.first - 1)
        if limit <= 0 or after >= self.head:
            return ()
        return await self._ask(lambda database: _read(database, after, min(limit, self.head - after), self.head))

    async def sift(
        self, after: int, upto: int, needles: Sequence[bytes], *, newest: bool = False
    ) -> tuple[list[Entry], int]:
        """Events after `after` up to `upto`, but for those of which no neighbour's JSON holds any of `needles`.

        The oldest of them, or the `newest`, if together they are too long; and the number to go on from: as the next
        `after`, or `upto`. SQLite looks for them, in a thread that keeps nobody from anything: many times as fast as
        decoding all.
        """
        after = max(after, self.first - 1)
        return await self._ask(lambda database: _sift(database, after, upto, needles, newest))

    async def entries(self, seqs: Sequence[int]) -> list[Entry]:
        found = [entry for seq in seqs for entry in await self.read(seq - 1, 1)]
        return [entry for entry in found if entry.seq in seqs]

    async def seq_at(self, at_ms: int) -> int:
        # Times never go back: halving the numbers finds it.
        low, high = self.first, self.head + 1
        while low < high:
            middle = (low + high) // 2
            entries = await self.read(middle - 1, 1)
            if entries and entries[0].at_ms < at_ms:
                low = entries[0].seq + 1
            else:
                high = middle
        return low

    async def progress(self) -> Progress:
        return await self._ask(rows.progress)

    async def pending(self, rule: str, after: int, limit: int) -> list[Pending]:
        return await self._ask(lambda database: rows.pending(database, rule, after, limit))

    async def dead_letters(self, rule: str | None, after: int, limit: int) -> list[DeadLetter]:
        return await self._ask(lambda database: rows.dead_letters(database, rule, after, limit))

    async def traces(self, seq: int) -> list[Trace]:
        return await self._ask(lambda database: traces.traces(database, seq))

    async def traces_after(self, seq: int, upto: int) -> AsyncIterator[list[Trace]]:
        """All traces of the events that follow `seq`, up to `upto`, page by page."""
        while seq < upto and (found := await self._ask(partial(traces.traces_after, seq))):
            yield [trace for trace in found if trace.seq <= upto]
            seq = found[-1].seq

    async def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(question, self._database)
        except sqlite3.Error as error:
            raise JournalUnusable(f"{self._path} cannot be read: {error}") from error


_BLOCKS: Final = "SELECT first, last, at_ms, low, seal, body FROM block WHERE first > ? AND first <= ? AND last > ?"


def _read(database: sqlite3.Connection, after: int, limit: int, upto: int) -> list[Entry]:
    found: list[Entry] = []
    size = 0
    with closing(database.execute(f"{_BLOCKS} ORDER BY first", (after - BLOCK_EVENTS, upto, after))) as blocks:
        for row in blocks:
            block = Block(*row)
            found += [entry for entry in block.entries() if after < entry.seq <= upto]
            size += len(block.body)
            if len(found) >= limit or size > PAGE_BYTES:
                break
    return fitting(found[:limit])


def _sift(
    database: sqlite3.Connection, after: int, upto: int, needles: Sequence[bytes], newest: bool
) -> tuple[list[Entry], int]:
    order = f"AND ({' OR '.join(['instr(body, ?)'] * len(needles))}) ORDER BY first {'DESC' if newest else ''}"
    found: list[list[Entry]] = []
    size, end = 0, after if newest else upto
    with closing(database.execute(f"{_BLOCKS} {order}", (after - BLOCK_EVENTS, upto, after, *needles))) as blocks:
        for row in blocks:
            block = Block(*row)
            found.append([entry for entry in block.entries() if after < entry.seq <= upto])
            size += len(block.body)
            if size > PAGE_BYTES:
                end = max(after, block.first - 1) if newest else min(upto, block.last)
                break
    return [entry for page in (found[::-1] if newest else found) for entry in page], end
