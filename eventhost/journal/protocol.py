"""The `Journal` protocol: an event gets a number, once, and can be read again for as long as it is held.

Beside the events lie the records of what the rules still owe, so that whoever starts next goes on where this one ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from eventhost.event import EnvEvent
from eventhost.journal.records import Change, DeadLetter, LettersHeld, LetterSize, Pending, Progress, Trace

PAGE_BYTES: Final = 4 * 1_048_576
"""What is read at once is no longer, as JSON, unless it is a single event or one run's."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event with its place in the journal: `seq` counts from 1 without holes, `at_ms` is when it was accepted."""

    seq: int
    at_ms: int
    event: EnvEvent
    size: int = 0
    """How long the event's JSON is in bytes; 0 if it is of no journal."""


def fitting(entries: list[Entry]) -> list[Entry]:
    """As many of the first as are read at once."""
    size = 0
    for number, entry in enumerate(entries):
        size += entry.size
        if size > PAGE_BYTES and number:
            return entries[:number]
    return entries


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """`first` and `head` are the oldest and newest sequence numbers held (`first > head` when none is)."""

    kind: str
    first: int
    head: int
    overwritten: int
    """How many events there were that are no longer held."""
    stalled: str | None = None
    """Why nothing can be written at the moment; everybody waits."""
    failed: str | None = None
    """Why nothing will be written or read any more, until the host is started anew."""
    commits: int = 0
    """How many transactions there were since it was opened."""


class Journal(Protocol):
    """Where accepted events are kept. Many writers and many readers; a reader never delays a writer."""

    @property
    def head(self) -> int:
        """The sequence number of the newest event, 0 before the first."""
        ...

    @property
    def first(self) -> int:
        """The oldest sequence number that can still be read; `head + 1` when none can."""
        ...

    @property
    def crashed(self) -> bool:
        """Whether whoever used it before did not come to `aclose`."""
        ...

    async def append(self, events: Sequence[EnvEvent]) -> int:
        """Keep `events`, in order and contiguous; return the sequence number of the first.

        Returns once they are as durable as this journal makes them; waits for as long as there is no room. The times of
        entries never go back, whatever the clock does.

        Raises:
            BusClosed: after `aclose`; as JournalFailed when nothing more can be kept. None of them was accepted.
            EventRejected: one of them holds what JSON cannot say; none was accepted.
        """
        ...

    async def read(self, after: int, limit: int) -> Sequence[Entry]:
        """Up to `limit` entries that follow `after`, oldest first; what is no longer held is left out (see `first`).

        There are fewer, but never none, where they are longer than `PAGE_BYTES`. Events that were lost in a damaged
        journal are passed over. After `aclose` nothing is held.

        Raises:
            JournalFailed: it cannot be read; so may every other method that reads.
        """
        ...

    async def entries(self, seqs: Sequence[int]) -> list[Entry]:
        """The entries with these numbers, in their order; what is not held is left out."""
        ...

    async def seq_at(self, at_ms: int) -> int:
        """The number from which on all entries were accepted at `at_ms` or later; `head + 1` if none was."""
        ...

    async def clock(self) -> int:
        """The time (ms) up to which all entries can be read: none that is appended later gets an earlier one.

        That holds for the next host too, if anything was saved or appended in between, whatever its clock says.

        Raises:
            BusClosed: see `append`.
        """
        ...

    async def save(self, change: Change) -> None:
        """Keep delivery records, all or none; returns once they are as durable as events.

        Saved in the order of calls, those of `append` among them; nobody needs to wait for one before the next.

        Raises:
            BusClosed: see `append`.
        """
        ...

    async def progress(self) -> Progress:
        """Where the rules are."""
        ...

    async def pending(self, rule: str, after: int, limit: int) -> list[Pending]:
        """Up to `limit` pending runs of a rule whose numbers follow `after`, in order."""
        ...

    async def dead_letters(self, rule: str | None, after: int, limit: int) -> list[DeadLetter]:
        """Up to `limit` dead letters, of a rule or of all, whose ids follow `after`, in order.

        There are fewer, but never none, where they are longer than `PAGE_BYTES`.
        """
        ...

    async def letters_held(self) -> LettersHeld:
        """How much room the dead letters take."""
        ...

    async def oldest_letters(self, limit: int) -> list[LetterSize]:
        """Up to `limit` dead letters, in the order of their ids, without what they hold."""
        ...

    async def traces(self, seq: int) -> list[Trace]:
        """What was recorded of an event's way through the rules: the newest for each, in the order of their names."""
        ...

    def trim(self, upto: int) -> None:
        """Let go of the events up to this number, and of their traces: from now on they are not held.

        The room that they took is given back soon, and without delaying anybody.
        """
        ...

    async def size_bytes(self) -> int:
        """How much room it takes."""
        ...

    def statistics(self) -> JournalStatistics:
        """A snapshot."""
        ...

    async def aclose(self) -> None:
        """Keep what was appended, then let go of everything; in bounded time, even where nothing can be written."""
        ...
