"""What was recorded, to be read: a journal that is open, or its file beside whoever writes it; and events found in it.

Nothing here ever writes, or keeps a host from writing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

import anyio.lowlevel
import anyio.to_thread
import msgspec

from eventhost.actions.caused import event_name
from eventhost.config.durations import seconds
from eventhost.errors import JournalUnusable, NotFound
from eventhost.journal import DeadLetter, Entry, Pending, Progress, Trace, rows
from eventhost.journal.block import BLOCK_EVENTS, Block
from eventhost.journal.schema import connect_to_read

T = TypeVar("T")

PAGE: Final = 4_096
"""Events that are read at once."""

SEARCHED: Final = 1_000_000
"""So many of the newest events are looked at for an id."""

_NEAR: Final = 50_000
"""So many events, from the moment on that is in a time-ordered id, are looked at first."""

_SLACK_MS: Final = 60_000
_CANDIDATES: Final = 10
_MOST_NEEDLES: Final = 8
_SIFTED: Final = 65_536
"""Events that are sifted at once: no reading lasts long enough to hold up the writer's log."""


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

    async def sift(self, after: int, upto: int, needles: Sequence[bytes]) -> list[Entry]:
        """The events after `after` up to `upto`, but for those of which no neighbour's JSON holds any of `needles`.

        SQLite looks for them, in a thread that keeps nobody from anything: many times as fast as decoding all.
        """
        after = max(after, self.first - 1)
        return await self._ask(lambda database: _read(database, after, upto - after, upto, needles))

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
        return await self._ask(lambda database: rows.traces(database, seq))

    async def traces_after(self, seq: int, upto: int) -> AsyncIterator[list[Trace]]:
        """All traces of the events that follow `seq`, up to `upto`, page by page."""
        last = (seq, "\U0010ffff")
        while found := await self._ask(partial(rows.traces_after, last, PAGE)):
            yield [trace for trace in found if trace.seq <= upto]
            last = (found[-1].seq, found[-1].rule)
            if found[-1].seq > upto:
                return

    async def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(question, self._database)
        except sqlite3.Error as error:
            raise JournalUnusable(f"{self._path} cannot be read: {error}") from error


def _read(
    database: sqlite3.Connection, after: int, limit: int, upto: int, needles: Sequence[bytes] = ()
) -> list[Entry]:
    sifting = f" AND ({' OR '.join(['instr(body, ?)'] * len(needles))})" if needles else ""
    sql = (
        "SELECT first, last, at_ms, low, seal, body FROM block WHERE first > ? AND first <= ? AND last > ?"
        f"{sifting} ORDER BY first"
    )
    found: list[Entry] = []
    with closing(database.execute(sql, (after - BLOCK_EVENTS, upto, after, *needles))) as blocks:
        for row in blocks:
            block = Block(*row)
            entries = block.entries()
            found += entries if block.first > after else entries[after + 1 - block.first :]
            if len(found) >= limit:
                break
    while found and found[-1].seq > upto:
        found.pop()
    return found[:limit]


@dataclass(frozen=True, slots=True)
class Moment:
    """A place in the journal as a person says it: a number, a time, or how long ago."""

    seq: int | None = None
    at_ms: int | None = None

    @classmethod
    def parse(cls, text: str, now_ms: int | None = None) -> Moment:
        """`42`, `2026-11-20T08:00` (the machine's own time if it names no zone), `7d` ago, `beginning` or `now`.

        Raises:
            ValueError: it is none of these.
        """
        now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        if text == "beginning":
            return cls(seq=0)
        if text == "now":
            return cls(at_ms=now_ms)
        if text.isascii() and text.isdigit():
            return cls(seq=int(text))
        try:
            return cls(at_ms=now_ms - int(seconds(text) * 1000))
        except ValueError:
            pass
        try:
            return cls(at_ms=int(datetime.fromisoformat(text).timestamp() * 1000))
        except (ValueError, OverflowError, OSError):
            raise ValueError(
                f'{text[:80]!r} is no place in the journal; write a sequence number, "beginning", a time such as '
                f"2026-11-20T08:00, or how long ago: 7d"
            ) from None

    async def before(self, journal: Events) -> int:
        """The number of the last event that is before it; never less than what is not held."""
        if self.seq is not None:
            return min(max(self.seq, journal.first) - 1, journal.head)
        assert self.at_ms is not None
        return await journal.seq_at(self.at_ms) - 1

    async def upto(self, journal: Events) -> int:
        """The number of the last event of a span that ends here: a number itself is within, a time is not."""
        return min(self.seq, journal.head) if self.seq is not None else await self.before(journal)


async def find(journal: Recorded, handle: str, searched: int = SEARCHED) -> Entry:
    """The event that `handle` names: a sequence number, an id, or `source:id`.

    A number is taken for a sequence number, and for an id only if no such event is held. Of ids, the newest `searched`
    events are looked at.

    Raises:
        NotFound: none is found, or several; the text lists those.
    """
    if handle.isascii() and handle.isdigit() and len(handle) < 20:
        if found := await journal.entries([int(handle)]):
            return found[0]
        if journal.first > int(handle) > 0:
            raise NotFound(f"event {handle} is no longer held; the oldest that is has the number {journal.first}")
    candidates = await _named(journal, handle, searched)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        listed = ", ".join(map(_line, candidates[:_CANDIDATES]))
        more = "" if len(candidates) <= _CANDIDATES else f" and {len(candidates) - _CANDIDATES} more"
        raise NotFound(f"several events are called {handle}: {listed}{more}; give the number of one")
    raise NotFound(f"no event is called {handle[:200]!r}; {await _looked(journal, searched)}")


async def _looked(journal: Recorded, searched: int) -> str:
    first = max(journal.first, journal.head - searched + 1)
    if first > journal.head:
        return "no events are held"
    more = f"; there are older ones, from {journal.first}: give the number" if first > journal.first else ""
    return f"the events {first} to {journal.head} were looked at{more}"


async def _named(journal: Recorded, handle: str, searched: int) -> list[Entry]:
    """The events with this name, newest first."""
    needles = _needles(handle)
    if (at_ms := _time_in(handle)) is not None:
        start = await journal.seq_at(at_ms - _SLACK_MS) - 1
        near = backwards(journal, min(journal.head, start + _NEAR), start, needles)
        if found := [entry async for page in near for entry in page if _is(entry, handle)]:
            return found
    newest = backwards(journal, journal.head, journal.head - searched, needles)
    return [entry async for page in newest for entry in page if _is(entry, handle)]


def _needles(handle: str) -> list[bytes]:
    """How an event's JSON begins whose id is all of the handle, or what follows one of its colons."""
    parts = handle.split(":")
    ids = [":".join(parts[number:]) for number in range(len(parts))]
    return [b'{"id":' + msgspec.json.encode(one) for one in ids] if len(ids) <= _MOST_NEEDLES else []


def _is(entry: Entry, handle: str) -> bool:
    event = entry.event
    return handle.endswith(event.id) and (handle == event.id or handle == event_name(event))


async def backwards(
    journal: Events, upto: int, after: int, needles: Sequence[bytes] = ()
) -> AsyncIterator[Sequence[Entry]]:
    """The events after `after` up to `upto`, newest first, page by page.

    With `needles`, those may be left out of which no neighbour's JSON holds any.
    """
    after = max(after, journal.first - 1)
    sifts = needles if isinstance(journal, JournalFile) else ()
    while upto > after:
        start = max(after, upto - (_SIFTED if sifts else PAGE))
        yield (await _page(journal, start, upto, sifts))[::-1]
        upto = start
        await anyio.lowlevel.checkpoint()


async def forwards(
    journal: Events, after: int, upto: int, needles: Sequence[bytes] = ()
) -> AsyncIterator[Sequence[Entry]]:
    """As `backwards`, but oldest first."""
    after = max(after, journal.first - 1)
    sifts = needles if isinstance(journal, JournalFile) else ()
    while after < upto:
        end = min(upto, after + (_SIFTED if sifts else PAGE))
        page = await _page(journal, after, end, sifts)
        yield page
        # A page that would be too large may hold fewer than were asked for.
        after = page[-1].seq if page and not sifts else end
        await anyio.lowlevel.checkpoint()


async def _page(journal: Events, after: int, upto: int, needles: Sequence[bytes]) -> Sequence[Entry]:
    if needles and isinstance(journal, JournalFile):
        return await journal.sift(after, upto, needles)
    entries = await journal.read(after, upto - after)
    # What is lost in a damaged journal is passed over: what follows is of the next page.
    return entries if not entries or entries[-1].seq <= upto else [entry for entry in entries if entry.seq <= upto]


def _time_in(handle: str) -> int | None:
    """The milliseconds in an id that is, or ends with, a UUID of version 7 or 8; the host makes no others."""
    text = handle[-36:]
    digits = text.replace("-", "")
    if len(text) == 36 and len(digits) == 32 and text[14] in "78" and set(digits) <= set("0123456789abcdef"):
        return int(digits[:12], 16)
    return None


def _line(entry: Entry) -> str:
    when = datetime.fromtimestamp(entry.at_ms / 1000).isoformat(" ", "seconds")
    return f"{entry.seq} ({event_name(entry.event)}, {entry.event.type}, {when})"
