"""Delivery records: what the rules owe, written down so that whoever starts next goes on exactly there.

A match is not written down: it follows from the event and the rule. All up to `low` is done, for every rule that does
not lag; each may be further, up to its position. Runs below that are still owed if they are among the pending ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class Pending(msgspec.Struct, frozen=True, gc=False):
    """A run of `rule` that is not done, though the rule's position is past it."""

    rule: str
    seq: int
    """The number of its last event; with the rule's name, the run's own."""
    entries: tuple[int, ...]
    """The numbers of all its events, oldest first."""
    born_ms: int
    attempts: int = 0
    """How often it was begun by a host that then died."""
    left_out: int = 0
    """How many further events there was no room to gather."""


class Position(msgspec.Struct, frozen=True, gc=False):
    """How far a rule is: everything up to `seq` was looked at, and is done, held in `state`, or pending."""

    rule: str
    seq: int
    lags: bool = False
    """It is not further, though `low` may be."""
    state: bytes | None = None
    """What its shaping remembers, as JSON."""


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """A run that failed for good, kept whole until somebody retries or discards it."""

    rule: str
    seq: int
    at_ms: int
    """When it was given up."""
    action: str
    """The kind of the action that failed, and its place in `do`."""
    place: str
    attempts: int
    error: str
    entries: bytes
    """The events, as a JSON list of `{seq, at_ms, event}`: they outlive the journal's."""
    id: int = 0
    """Given by the journal."""


class LettersHeld(msgspec.Struct, frozen=True, gc=False):
    """How many dead letters there are, and how long their events' JSON is in bytes."""

    count: int
    size: int


class LetterSize(msgspec.Struct, frozen=True, gc=False):
    """A dead letter without what it holds."""

    id: int
    rule: str
    seq: int
    size: int
    """How long its events' JSON is in bytes."""


class Trace(msgspec.Struct, frozen=True, gc=False):
    """What became of one event with one rule, in full; `body` is JSON that only `explain` reads."""

    seq: int
    rule: str
    body: bytes


class Change(msgspec.Struct, gc=False):
    """Records to be written together, with the next events that are committed.

    Those of rules that are gone go first, then all else in this order; `low` comes last, and never goes back.
    """

    low: int | None = None
    pending: Sequence[Pending] = ()
    ended: Sequence[tuple[str, int]] = ()
    """Pending runs that are done: rule and number."""
    dead: Sequence[DeadLetter] = ()
    buried: Sequence[int] = ()
    """Dead letters that were retried or discarded."""
    positions: Sequence[Position] = ()
    gone: Sequence[str] = ()
    """Rules that are no more: all that is theirs is forgotten, but for their dead letters."""
    traces: Sequence[Trace] = ()


class Progress(msgspec.Struct, frozen=True, gc=False):
    """Where the rules are, as it was last written."""

    low: int
    positions: Mapping[str, Position]
    """Of all rules that there ever were, and are not gone."""
    pending: Mapping[str, int]
    """How many runs of each rule are pending; rules that have none are left out."""
    oldest: int | None
    """The oldest event of any pending run."""
