"""A journal in memory: bounded, by count and by bytes. What goes is counted; it never makes anybody wait."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import count, islice, repeat
from operator import attrgetter
from typing import Final

import msgspec

from eventhost.errors import BusClosed
from eventhost.event import EnvEvent
from eventhost.journal.block import encode
from eventhost.journal.protocol import PAGE_BYTES, Entry, JournalStatistics, fitting
from eventhost.journal.records import (
    Change,
    DeadLetter,
    LettersHeld,
    LetterSize,
    Pending,
    Position,
    Progress,
    Trace,
)

MOST_BYTES: Final = 256 * 1_048_576

_at_ms = attrgetter("at_ms")
_rule = attrgetter("rule")


class MemoryJournal:
    """Holds the newest `capacity` events, `MOST_BYTES` at most, for as long as the process lives; and the records."""

    crashed = False

    def __init__(self, capacity: int = 10_000) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self._ring: deque[Entry] = deque()
        self._capacity = capacity
        self._bytes = 0
        self._head = 0
        self._at_ms = 0
        self._closed = False
        self._low = 0
        self._positions: dict[str, Position] = {}
        self._pending: dict[str, dict[int, Pending]] = {}
        self._dead: dict[int, DeadLetter] = {}
        self._dead_ids = count(1)
        self._traces: dict[tuple[int, str], Trace] = {}

    @property
    def head(self) -> int:
        return self._head

    @property
    def first(self) -> int:
        return self._head - len(self._ring) + 1

    async def append(self, events: Sequence[EnvEvent]) -> int:
        parts = encode(events)
        first, at_ms = self._head + 1, await self.clock()
        sizes = [size for part in parts for size in part.sizes]
        ring = self._ring
        ring.extend(map(Entry, count(first), repeat(at_ms), events, sizes))
        self._head += len(events)
        self._bytes += sum(sizes)
        while len(ring) > self._capacity or (self._bytes > MOST_BYTES and len(ring) > 1):
            self._bytes -= ring.popleft().size
        return first

    async def read(self, after: int, limit: int) -> Sequence[Entry]:
        start = max(0, after + 1 - self.first)
        wanted = min(limit, len(self._ring) - start)
        if wanted <= 0:
            return ()
        if start <= len(self._ring) // 2:
            entries = list(islice(self._ring, start, start + wanted))
        else:
            # A deque is walked from its nearer end: readers are usually at the new one.
            entries = list(islice(reversed(self._ring), len(self._ring) - start - wanted, len(self._ring) - start))
            entries.reverse()
        return entries if self._bytes <= PAGE_BYTES else fitting(entries)

    async def entries(self, seqs: Sequence[int]) -> list[Entry]:
        first = self.first
        return [self._ring[seq - first] for seq in seqs if first <= seq <= self._head]

    async def seq_at(self, at_ms: int) -> int:
        return self.first + bisect_left(self._ring, at_ms, key=_at_ms)

    async def clock(self) -> int:
        self._check_open()
        self._at_ms = max(self._at_ms, int(time.time() * 1000))
        return self._at_ms

    async def save(self, change: Change) -> None:
        self._check_open()
        for rule in change.gone:
            self._pending.pop(rule, None)
            self._positions.pop(rule, None)
        for run in change.pending:
            self._pending.setdefault(run.rule, {})[run.seq] = run
        for rule, seq in change.ended:
            self._pending.get(rule, {}).pop(seq, None)
        for dead in change.dead:
            number = next(self._dead_ids)
            self._dead[number] = msgspec.structs.replace(dead, id=number)
        for number in change.buried:
            self._dead.pop(number, None)
        self._positions.update((position.rule, position) for position in change.positions)
        for trace in change.traces:
            if trace.seq >= self.first:
                self._traces[trace.seq, trace.rule] = trace
        while len(self._traces) > self._capacity:
            del self._traces[next(iter(self._traces))]
        self._low = max(self._low, change.low or 0)

    async def progress(self) -> Progress:
        self._check_open()
        runs = [run for runs in self._pending.values() for run in runs.values()]
        return Progress(
            self._low,
            dict(self._positions),
            {rule: len(runs) for rule, runs in self._pending.items() if runs},
            min((min(run.entries, default=run.seq) for run in runs), default=None),
        )

    async def pending(self, rule: str, after: int, limit: int) -> list[Pending]:
        self._check_open()
        runs = self._pending.get(rule, {})
        return [runs[seq] for seq in sorted(seq for seq in runs if seq > after)[:limit]]

    async def dead_letters(self, rule: str | None, after: int, limit: int) -> list[DeadLetter]:
        self._check_open()
        found = (dead for dead in self._dead.values() if dead.id > after and rule in (None, dead.rule))
        letters: list[DeadLetter] = []
        size = 0
        for letter in islice(found, limit):
            size += len(letter.entries)
            if size > PAGE_BYTES and letters:
                break
            letters.append(letter)
        return letters

    async def letters_held(self) -> LettersHeld:
        self._check_open()
        return LettersHeld(len(self._dead), sum(len(letter.entries) for letter in self._dead.values()))

    async def oldest_letters(self, limit: int) -> list[LetterSize]:
        self._check_open()
        oldest = islice(self._dead.values(), limit)
        return [LetterSize(letter.id, letter.rule, letter.seq, len(letter.entries)) for letter in oldest]

    async def traces(self, seq: int) -> list[Trace]:
        self._check_open()
        return sorted((trace for trace in self._traces.values() if trace.seq == seq >= self.first), key=_rule)

    def trim(self, upto: int) -> None:
        while self._ring and self._ring[0].seq <= upto:
            self._bytes -= self._ring.popleft().size
        for key in [key for key in self._traces if key[0] <= upto]:
            del self._traces[key]

    async def size_bytes(self) -> int:
        return self._bytes

    def statistics(self) -> JournalStatistics:
        return JournalStatistics("memory", self.first, self._head, self.first - 1)

    async def aclose(self) -> None:
        self._closed = True
        self._ring.clear()
        self._bytes = 0

    def _check_open(self) -> None:
        if self._closed:
            raise BusClosed("the journal is closed: the host is stopping")
