"""Events that are looked for in what a journal holds: by name, or page by page from one end to the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final

import anyio.lowlevel
import msgspec

from eventhost.errors import NotFound
from eventhost.event import event_name
from eventhost.journal.file import Events, JournalFile, Recorded
from eventhost.journal.protocol import Entry

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


class Ambiguous(NotFound):
    """Several events are called so; `entries` are the newest of them, newest first."""

    def __init__(self, message: str, entries: Sequence[Entry]) -> None:
        super().__init__(message)
        self.entries = entries


async def find(journal: Recorded, handle: str, searched: int = SEARCHED) -> Entry:
    """The event that `handle` names: a sequence number, an id, or `source:id`.

    A number is taken for a sequence number, and for an id only if no such event is held. Of ids, the newest `searched`
    events are looked at.

    Raises:
        NotFound: none is found.
        Ambiguous: several are; the text lists them.
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
        message = f"several events are called {handle}: {listed}{more}; give the number of one"
        raise Ambiguous(message, candidates[:_CANDIDATES])
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
    journal: Events, upto: int, after: int, needles: Sequence[bytes] = (), *, step: int = PAGE
) -> AsyncIterator[Sequence[Entry]]:
    """The events after `after` up to `upto`, newest first, page by page; at first no more than `step`.

    With `needles`, those may be left out of which no neighbour's JSON holds any.
    """
    after = max(after, journal.first - 1)
    while upto > after:
        if needles and isinstance(journal, JournalFile):
            page: Sequence[Entry]
            page, start = await journal.sift(max(after, upto - _SIFTED), upto, needles, newest=True)
        else:
            start = max(after, upto - step)
            page, end = await between(journal, start, upto)
            if end < upto:
                step = max(1, min(step // 2, len(page)))
                continue
            step = min(PAGE, 2 * step)
        yield page[::-1]
        upto = start
        await anyio.lowlevel.checkpoint()


async def forwards(
    journal: Events, after: int, upto: int, needles: Sequence[bytes] = ()
) -> AsyncIterator[Sequence[Entry]]:
    """As `backwards`, but oldest first."""
    after = max(after, journal.first - 1)
    while after < upto:
        if needles and isinstance(journal, JournalFile):
            page: Sequence[Entry]
            page, after = await journal.sift(after, min(upto, after + _SIFTED), needles)
        else:
            page, after = await between(journal, after, min(upto, after + PAGE))
        yield page
        await anyio.lowlevel.checkpoint()


async def between(journal: Events, after: int, upto: int) -> tuple[Sequence[Entry], int]:
    """The events after `after`, and up to where they go: not to `upto`, if they are too long to be read at once."""
    entries = await journal.read(after, upto - after)
    if not entries or entries[-1].seq == upto:
        return entries, upto
    if entries[-1].seq < upto:
        # There are fewer than were asked for: they are too long, or the rest is lost in a damaged journal.
        following = await journal.read(entries[-1].seq, 1)
        return entries, entries[-1].seq if following and following[0].seq <= upto else upto
    # What is lost was passed over: what follows is of the next page.
    return [entry for entry in entries if entry.seq <= upto], upto


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
