"""Reading the journal for a client: the newest events, or those since a place or a time, and where to go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio.lowlevel

from eventhost.config.durations import seconds
from eventhost.journal import Entry, Journal
from eventhost.journal.search import backwards
from eventhost.web.stream import event_json

MAX_EVENTS = 10_000
MAX_ANSWER_BYTES = 33_554_432
"""An answer that would be larger holds fewer events than were asked for; `cursor` leads on."""

Select = Callable[[Sequence[Entry]], list[Entry]]
"""Picks those of some entries that a client asked for, in their order."""

_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Page:
    """Events as JSON, newest last. `cursor` is what a client passes as `since` to get what follows.

    `missed` counts events after `since` that are no longer held.
    """

    events: Sequence[bytes]
    cursor: int
    missed: int = 0


async def newest(journal: Journal, select: Select, limit: int) -> Page:
    """The last `limit` events that `select` picks."""
    cursor = journal.head
    found: list[bytes] = []
    size = 0
    async for page in backwards(journal, cursor, journal.first - 1, step=_CHUNK):
        for entry in select(page):
            text = event_json(entry)
            size += len(text)
            if len(found) == limit or (found and size > MAX_ANSWER_BYTES):
                return Page(found[::-1], cursor)
            found.append(text)
    return Page(found[::-1], cursor)


async def following(journal: Journal, select: Select, limit: int, after: int) -> Page:
    """The first `limit` events after `after` that `select` picks; `after` comes from `position`."""
    missed = max(0, journal.first - 1 - after)
    cursor = after + missed
    found: list[bytes] = []
    size = 0
    while entries := await journal.read(cursor, _CHUNK):
        for entry in select(entries):
            text = event_json(entry)
            size += len(text)
            if len(found) == limit or (found and size > MAX_ANSWER_BYTES):
                return Page(found, cursor, missed)
            found.append(text)
            cursor = entry.seq
        cursor = entries[-1].seq
        await anyio.lowlevel.checkpoint()
    return Page(found, cursor, missed)


async def position(journal: Journal, since: str) -> int:
    """The sequence number after which `since` begins: it is one itself, or how long ago (`"90s"`, `"10m"`, `"2h"`).

    A number ahead of the newest event comes from a journal that is gone; what there is now is read from its beginning.

    Raises:
        ValueError: `since` is neither.
    """
    if since.isascii() and since.isdigit():
        after = int(since)
        return after if after <= journal.head else journal.first - 1
    try:
        ago_s = seconds(since)
    except ValueError:
        raise ValueError(f"{since!r} is neither a sequence number nor a duration such as 90s, 10m or 2h") from None
    return await _before(journal, (time.time() - ago_s) * 1000)


async def _before(journal: Journal, at_ms: float) -> int:
    # Entries are accepted in the order of their numbers, so that halving finds the first one that is young enough.
    low, high = journal.first - 1, journal.head
    while low < high:
        middle = (low + high) // 2
        entries: Sequence[Entry] = await journal.read(middle, 1)
        if entries and entries[0].at_ms < at_ms:
            low = entries[0].seq
        else:
            high = middle
    return low
