"""Duplicates are recognized: the same id with the same content, among the last events of one source.

What was accepted before the host started is known again: the journal itself says it, no further record is kept.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from operator import attrgetter
from typing import Final

from eventhost.event import EnvEvent
from eventhost.journal import Entry, Journal
from eventhost.journal.search import between

_id = attrgetter("id")

WINDOW_EVENTS = 4096
WINDOW_BYTES = 2 * 1_048_576
WINDOW_S: Final = 3600.0

RECALL_EVENTS: Final = 20_000
RECALL_BYTES: Final = 32 * 1_048_576
"""How much of the journal's newest is looked at when the host starts."""

_FIRST_PAGE: Final = 32
_LARGEST_PAGE: Final = 2_048
_PAGE_BYTES: Final = 2 * 1_048_576

Sized = tuple[Entry, int]
"""An entry, and how many bytes its event's JSON has."""


class DuplicateWindow:
    """Remembers the last events of one source that came with an id of their own: two generations, each bounded.

    At least those of the last `WINDOW_S` seconds are remembered, or the last `WINDOW_EVENTS` of them, or the last
    `WINDOW_BYTES`, whichever are fewest; at most twice as many.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._young: dict[str, EnvEvent] = {}
        self._old: dict[str, EnvEvent] = {}
        self._young_bytes = self._recalled_bytes = 0
        self._young_since = monotonic()
        self.reused = 0
        """How many ids came again with other content."""

    def fresh(self, events: list[EnvEvent], untimed: frozenset[str], size_bytes: int) -> list[EnvEvent]:
        """Those of `events` that were not seen before; from now on all of them were.

        `untimed` are the ids of events whose timestamp the host made up. `size_bytes` is what they weigh together.
        """
        self._forget_old(size_bytes)
        by_id = dict(zip(map(_id, events), events, strict=True))
        young, old = self._young, self._old
        if len(by_id) == len(events) and young.keys().isdisjoint(by_id) and old.keys().isdisjoint(by_id):
            young.update(by_id)
            return events
        fresh = []
        for event in events:
            seen = young.get(event.id) or old.get(event.id)
            young[event.id] = event
            if seen is None:
                fresh.append(event)
            elif not _same(seen, event, timed=event.id not in untimed):
                fresh.append(event)
                self.reused += 1
        return fresh

    def forget(self, events: list[EnvEvent]) -> None:
        """These were not accepted after all; they may come again."""
        for event in events:
            self._young.pop(event.id, None)

    def recall(self, event: EnvEvent, size_bytes: int) -> None:
        """Know again what was accepted before, if there is room; to be told of the newest first."""
        if len(self._old) < WINDOW_EVENTS and self._recalled_bytes + size_bytes <= WINDOW_BYTES:
            self._recalled_bytes += size_bytes
            self._old.setdefault(event.id, event)

    def _forget_old(self, size_bytes: int) -> None:
        self._young_bytes += size_bytes
        now = self._monotonic()
        past = now - self._young_since
        if past >= WINDOW_S or len(self._young) >= WINDOW_EVENTS or self._young_bytes > WINDOW_BYTES:
            # Of a source that was silent for so long, both generations are too old.
            self._old = self._young if past < 2 * WINDOW_S else {}
            self._young, self._young_bytes, self._young_since = {}, size_bytes, now


class DuplicateWindows:
    """The windows of all sources, by name."""

    def __init__(self) -> None:
        self._windows: dict[str, DuplicateWindow] = {}

    def of(self, source: str) -> DuplicateWindow:
        """The window of this source; it is made if there is none."""
        if source not in self._windows:
            self._windows[source] = DuplicateWindow()
        return self._windows[source]

    def drop(self, source: str) -> None:
        """The source is no more."""
        self._windows.pop(source, None)

    def recall(self, entries: list[Sized]) -> None:
        """Know again what was accepted before; newest first."""
        for entry, size_bytes in entries:
            event = entry.event
            source = str(event.metadata.get("source_name"))
            if source != "host" and not source.startswith("host."):  # those are told apart by their ids alone
                self.of(source).recall(event, size_bytes)


async def newest_first(journal: Journal) -> AsyncGenerator[list[Sized], None]:
    """The journal's newest entries in pages, newest first: of the last `WINDOW_S` before the newest; boundedly many.

    Time is the journal's: however long no host was there, what the last one accepted at its end is among them.

    Raises:
        BusClosed: the journal cannot be read.
    """
    upto, page, events, size_bytes = journal.head, _FIRST_PAGE, 0, 0
    oldest_ms: float | None = None
    while upto >= journal.first and events < RECALL_EVENTS and size_bytes < RECALL_BYTES:
        after = max(upto - page, journal.first - 1)
        found, reached = await between(journal, after, upto)
        if reached < upto:
            page = max(1, min(page // 2, len(found)))
            continue
        if found and oldest_ms is None:
            oldest_ms = found[-1].at_ms - WINDOW_S * 1000
        sized = [(entry, len(entry.event.to_json())) for entry in reversed(found) if entry.at_ms >= (oldest_ms or 0)]
        if sized:
            yield sized
        if len(sized) < len(found):
            return
        page_bytes = sum(size for _, size in sized)
        upto, events, size_bytes = after, events + len(sized), size_bytes + page_bytes
        # A page of many large events would take as much memory as all that is to be looked at.
        page = max(1, min(2 * page, _LARGEST_PAGE, _PAGE_BYTES * len(sized) // max(1, page_bytes)))


def _same(one: EnvEvent, other: EnvEvent, *, timed: bool) -> bool:
    return (
        one.type == other.type
        and one.payload == other.payload
        and one.metadata == other.metadata
        and (one.timestamp == other.timestamp or not timed)
    )
