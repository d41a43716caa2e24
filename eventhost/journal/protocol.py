"""The `Journal` protocol: an event gets a sequence number, once, and can be read again for as long as it is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from eventhost.event import EnvEvent


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event with its place in the journal: `seq` counts from 1 without holes, `at_ms` is when it was accepted."""

    seq: int
    at_ms: int
    event: EnvEvent


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """`first` and `head` are the oldest and newest sequence numbers held (`first > head` when none is)."""

    kind: str
    first: int
    head: int
    overwritten: int


class Journal(Protocol):
    """Where accepted events are kept. One writer, many readers; a reader never delays the writer."""

    @property
    def head(self) -> int:
        """The sequence number of the newest event, 0 before the first."""
        ...

    @property
    def first(self) -> int:
        """The oldest sequence number that can still be read; `head + 1` when none can."""
        ...

    async def append(self, events: Sequence[EnvEvent]) -> int:
        """Keep `events`, in order and contiguous; return the sequence number of the first.

        Returns once they are as durable as this journal makes them.
        """
        ...

    async def read(self, after: int, limit: int) -> Sequence[Entry]:
        """Up to `limit` entries that follow `after`, oldest first; what is no longer held is left out (see `first`)."""
        ...

    def statistics(self) -> JournalStatistics:
        """A snapshot."""
        ...

    async def aclose(self) -> None:
        """Keep what was appended; then let go of everything."""
        ...
