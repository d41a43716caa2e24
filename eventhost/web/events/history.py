"""Reading the journal for a client: the newest events, or those of a span, and where to go on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import anyio.lowlevel

from eventhost.journal import Journal
from eventhost.journal.moment import Moment
from eventhost.journal.search import backwards
from eventhost.wanted import Select
from eventhost.web.events.stream import event_json

MAX_EVENTS: Final = 10_000
MAX_ANSWER_BYTES: Final = 33_554_432
"""An answer that would be larger holds fewer events than were asked for; `cursor` leads on."""

SEARCH_S: Final = 5.0
"""Who asks for what is rare is answered after this long with what was found so far; `cursor` leads on."""

_CHUNK: Final = 1024


@dataclass(frozen=True, slots=True)
class Page:
    """Events as JSON, newest last. `cursor` is what a client passes to get what follows.

    `missed` counts events at the beginning that are no longer held. `more` tells that the span goes on after `cursor`.
    """

    events: Sequence[bytes]
    cursor: int
    missed: int = 0
    more: bool = False


async def newest(journal: Journal, select: Select, limit: int, upto: int | None = None) -> Page:
    """The last `limit` events that `select` picks, of those up to the number `upto` if it is given."""
    cursor = journal.head if upto is None else min(upto, journal.head)
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


async def following(journal: Journal, select: Select, limit: int, after: int, upto: int | None = None) -> Page:
    """The first `limit` events after `after` that `select` picks, up to the number `upto` if it is given."""
    missed = max(0, journal.first - 1 - after)
    cursor = after + missed
    end = journal.head if upto is None else min(upto, journal.head)
    until = time.monotonic() + SEARCH_S
    found: list[bytes] = []
    size = 0
    while cursor < end and (entries := await journal.read(cursor, min(_CHUNK, end - cursor))):
        entries = [entry for entry in entries if entry.seq <= end]  # what is lost is passed over
        for entry in select(entries):
            text = event_json(entry)
            size += len(text)
            if len(found) == limit or (found and size > MAX_ANSWER_BYTES):
                return Page(found, cursor, missed, more=True)
            found.append(text)
            cursor = entry.seq
        cursor = entries[-1].seq if entries else end
        if time.monotonic() > until:
            return Page(found, cursor, missed, more=cursor < end)
        await anyio.lowlevel.checkpoint()
    return Page(found, cursor, missed)


async def position(journal: Journal, since: str) -> int:
    """The sequence number after which `since` begins.

    It is one itself, a time, or how long ago (`"90s"`, `"10m"`, `"2h"`). A number ahead of the newest event comes from
    a journal that is gone; what there is now is read from its beginning.

    Raises:
        ValueError: `since` is none of these.
    """
    return await Moment.parse(since).after(journal)


async def span(journal: Journal, begin: str | None, end: str | None) -> tuple[int | None, int | None]:
    """After which number a span begins, and up to which it goes: numbers are within it, an end's time is not.

    Raises:
        ValueError: one of them is no place in the journal.
    """
    after = upto = None
    if begin is not None:
        moment = Moment.parse(begin)
        after = await moment.before(journal) if moment.seq is None else max(0, min(moment.seq - 1, journal.head))
    if end is not None:
        upto = await Moment.parse(end).upto(journal)
    return after, upto
