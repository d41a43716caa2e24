"""`Run`: what sets a rule's actions going: one event, or those that were gathered for it."""

from __future__ import annotations

import msgspec

from eventhost.journal import Entry


class Run(msgspec.Struct, frozen=True, gc=False):
    """A rule's actions are to be run for `entries`, oldest first; with several, templates see the last and `events`."""

    entries: tuple[Entry, ...]
    born_ms: int
    """What its age counts from: its event's own time, or the time when what had been gathered was let go."""
    left_out: int = 0
    """How many further events there was no room to gather."""
    attempts: int = 0
    """How many hosts may have died of it."""
    again: bool = False
    """It is a dead letter's, which has all that it takes: the journal's events are not needed for it."""

    @property
    def seq(self) -> int:
        """The number of its last event, by which it is known."""
        return self.entries[-1].seq

    @property
    def size(self) -> int:
        """How long its events' JSON is in bytes."""
        entries = self.entries
        return entries[0].size if len(entries) == 1 else sum(entry.size for entry in entries)

    @property
    def entry(self) -> Entry:
        """The event that it is about; its number is the run's too, as an event is in one run of a rule only."""
        return self.entries[-1]
