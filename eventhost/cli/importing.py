"""Text to events: each is taken once, however often its file is imported, by the running host or into its journal.

lines ─► events ─► those that are not held yet ─► batches ─► taken
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Protocol

import msgspec

from eventhost.cli.control import Host
from eventhost.cli.exporting import HostEvents
from eventhost.cli.offline import journal_file, journal_to_write
from eventhost.errors import EventRejected
from eventhost.event import MAX_EVENT_BYTES, EnvEvent
from eventhost.exchange import read_line
from eventhost.journal.file import Events, JournalFile
from eventhost.journal.search import forwards

_AT_ONCE: Final = 100_000
_AT_ONCE_BYTES: Final = 64 * 1_048_576
"""So much is read before the journal is searched for it, once for all of it."""

_BATCH: Final = 512
_BATCH_BYTES: Final = 1_000_000
"""What the host is sent in one request."""

_LONGEST_LINE: Final = 8 * MAX_EVENT_BYTES
_COMPLAINTS: Final = 20

_canonical = msgspec.json.Encoder(order="deterministic").encode


class Destination(Protocol):
    """Where imported events go."""

    async def held(self) -> Events:
        """What is there by now."""
        ...

    async def take(self, events: Sequence[EnvEvent]) -> int:
        """Publish them; return the number of the first."""
        ...


Taker = Callable[[], AbstractAsyncContextManager[Destination]]


@dataclass(slots=True)
class Import:
    """One import, and what came of it so far."""

    cloudevents: bool = False
    count: int = 0
    first: int | None = None
    last: int | None = None
    duplicates: int = 0
    refused: int = 0
    complaints: list[tuple[int, str]] = field(default_factory=list)
    """The first of the lines that were refused, and why."""

    async def run(self, lines: IO[bytes], taker: Taker) -> None:
        """Import them all.

        Raises:
            EventhostError: it had to end before. What was taken is recognized when it is tried again.
        """
        async with taker() as destination:
            for events in self._chunks(lines):
                fresh = await self._fresh(events, await destination.held())
                for batch in _batches(fresh):
                    seq = await destination.take(batch)
                    self.first = seq if self.first is None else self.first
                    self.last = seq + len(batch) - 1
                    self.count += len(batch)

    def _chunks(self, lines: IO[bytes]) -> Iterator[list[EnvEvent]]:
        events: list[EnvEvent] = []
        size = 0
        for number, line in enumerate(iter(partial(lines.readline, _LONGEST_LINE), b""), 1):
            if not line.strip():
                continue
            try:
                events.append(read_line(line, cloudevents=self.cloudevents, now_ms=time.time_ns() // 1_000_000))
            except EventRejected as error:
                self.refused += 1
                if len(self.complaints) < _COMPLAINTS:
                    self.complaints.append((number, str(error)))
            size += len(line)
            if len(events) >= _AT_ONCE or size >= _AT_ONCE_BYTES:
                if events:
                    yield events
                events, size = [], 0
        if events:
            yield events

    async def _fresh(self, events: Sequence[EnvEvent], held: Events) -> list[EnvEvent]:
        """Those that are not held, each once: the same is what has the same id and the same content."""
        wanted: dict[str, dict[bytes, EnvEvent]] = {}
        for event in events:
            wanted.setdefault(event.id, {}).setdefault(_canonical(event), event)
        async for entries in forwards(held, held.first - 1, held.head):
            for entry in entries:
                if same_id := wanted.get(entry.event.id):
                    same_id.pop(_canonical(entry.event), None)
        fresh = {id(event) for same_id in wanted.values() for event in same_id.values()}
        self.duplicates += len(events) - len(fresh)
        return [event for event in events if id(event) in fresh]

    def summary(self) -> str:
        """What came of it, for a person."""
        where = f" ({self.first} to {self.last})" if self.count else ""
        more = f", {self.duplicates} are held already" if self.duplicates else ""
        return f"imported {self.count} events{where}{more}" + (f", refused {self.refused}" if self.refused else "")

    def to_json(self) -> dict[str, Any]:
        """What came of it, for a program."""
        numbers = {"imported": self.count, "first": self.first, "last": self.last}
        return {**numbers, "duplicates": self.duplicates, "refused": self.refused}


def _batches(events: Sequence[EnvEvent]) -> Iterator[list[EnvEvent]]:
    batch: list[EnvEvent] = []
    size = 0
    for event in events:
        weight = len(event.to_json()) + 1
        if batch and (len(batch) == _BATCH or size + weight > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += weight
    if batch:
        yield batch


class _ByHost:
    def __init__(self, root: Path) -> None:
        self._host = Host.of_folder(root)
        self._path = journal_file(root)
        self._file: JournalFile | None = None

    async def held(self) -> Events:
        self.close()
        if self._path is None:
            return HostEvents(self._host)
        self._file = JournalFile(self._path)
        return self._file

    async def take(self, events: Sequence[EnvEvent]) -> int:
        body = b"[" + b",".join([event.to_json() for event in events]) + b"]"
        return int(self._host.post("/events/import", body)["first"])

    def close(self) -> None:
        if self._file is not None:
            self._file.__exit__()
            self._file = None


class _InFile:
    def __init__(self, journal: Any) -> None:
        self._journal = journal

    async def held(self) -> Events:
        journal: Events = self._journal
        return journal

    async def take(self, events: Sequence[EnvEvent]) -> int:
        return int(await self._journal.append(events))


def by_host(root: Path) -> Taker:
    """The host that is running for the environment in `root`."""

    @asynccontextmanager
    async def taker() -> AsyncIterator[Destination]:
        destination = _ByHost(root)
        try:
            yield destination
        finally:
            destination.close()

    return taker


def in_file(path: Path) -> Taker:
    """The journal at `path`, which no host may be using."""

    @asynccontextmanager
    async def taker() -> AsyncIterator[Destination]:
        async with journal_to_write(path) as journal:
            yield _InFile(journal)

    return taker
