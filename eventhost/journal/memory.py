"""A journal in memory: a bounded ring. What it overwrites is counted, and gone; it never makes anybody wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import count, islice, repeat

from eventhost.event import EnvEvent
from eventhost.journal.protocol import Entry, JournalStatistics


class MemoryJournal:
    """Holds the newest `capacity` events, for as long as the process lives."""

    def __init__(self, capacity: int = 10_000) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self._ring: deque[Entry] = deque(maxlen=capacity)
        self._head = 0

    @property
    def head(self) -> int:
        return self._head

    @property
    def first(self) -> int:
        return self._head - len(self._ring) + 1

    async def append(self, events: Sequence[EnvEvent]) -> int:
        first, at_ms = self._head + 1, int(time.time() * 1000)
        self._ring.extend(map(Entry, count(first), repeat(at_ms), events))
        self._head += len(events)
        return first

    async def read(self, after: int, limit: int) -> Sequence[Entry]:
        start = max(0, after + 1 - self.first)
        wanted = min(limit, len(self._ring) - start)
        if wanted <= 0:
            return ()
        if start <= len(self._ring) // 2:
            return list(islice(self._ring, start, start + wanted))
        # A deque is walked from its nearer end: readers are usually at the new one.
        entries = list(islice(reversed(self._ring), len(self._ring) - start - wanted, len(self._ring) - start))
        entries.reverse()
        return entries

    def statistics(self) -> JournalStatistics:
        return JournalStatistics("memory", self.first, self._head, self.first - 1)

    async def aclose(self) -> None:
        self._ring.clear()
