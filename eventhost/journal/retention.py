"""How long events are kept: decided from figures alone, so that whoever drives it can say beforehand what it would do.

What no rule needs goes once it is too old, or once the journal is too large. What a rule still needs stays, however old
it is, until the journal has reached its hard cap: then the deliveries that hold on to the oldest are to be given up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from eventhost.journal.records import LettersHeld


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be kept; `None` for no limit."""

    age_ms: int | None = 7 * 24 * 3_600_000
    size_bytes: int | None = 1_000_000_000
    """Beyond it events go that no rule needs."""
    cap_bytes: int | None = None
    """Beyond it events go whether a rule needs them or not; twice `size_bytes` if it is not given."""

    letters: int | None = 10_000
    """So many dead letters are kept."""
    letters_size: int | None = None
    """So many bytes of them, of their events' JSON; a tenth of what events may take if it is not given."""

    @property
    def letters_bytes(self) -> int | None:
        """The bytes that dead letters may take."""
        of = self.size_bytes if self.size_bytes is not None else self.cap_bytes
        return of // 10 if self.letters_size is None and of is not None else self.letters_size

    @property
    def hard_bytes(self) -> int | None:
        """The size that is never let stand."""
        if self.cap_bytes is None and self.size_bytes is not None:
            return 2 * self.size_bytes
        return self.cap_bytes


@dataclass(frozen=True, slots=True)
class Held:
    """What the journal holds, and what is still needed of it."""

    first: int
    head: int
    size_bytes: int
    young: int
    """The first event that is not too old: `seq_at(now - age)`."""
    needed: Mapping[str, int] = field(default_factory=dict)
    """For each rule that is behind, or owes a run: the oldest event that it needs still."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done, in this order."""

    give_up: Mapping[str, int]
    """For some rules: what they owe for events up to this one is to be dead-lettered, and a `host.gap` to say so."""
    trim: int
    """Events up to this one may go then. Not beyond what is needed, but for what was given up."""


def decide(held: Held, limits: Limits) -> Decision:
    """What has to go. To be asked again and again: how much room an event takes is estimated by their mean."""
    old = held.young - 1 if limits.age_ms is not None else held.first - 1
    wanted = max(old, _beyond(held, limits.size_bytes))
    must = _beyond(held, limits.hard_bytes)
    give_up = {rule: must for rule, seq in held.needed.items() if seq <= must}
    # A rule that gives up what it owes up to `must` may need the very next.
    needed = min((max(seq, must + 1) for seq in held.needed.values()), default=held.head + 1)
    return Decision(give_up, max(must, min(wanted, needed - 1, held.head)))


def too_many(held: LettersHeld, limits: Limits) -> bool:
    """Whether dead letters must go, the oldest first."""
    most, most_bytes = limits.letters, limits.letters_bytes
    return (most is not None and held.count > most) or (most_bytes is not None and held.size > most_bytes)


def _beyond(held: Held, limit_bytes: int | None) -> int:
    """The last event that must go for the others to fit."""
    count = held.head - held.first + 1
    if limit_bytes is None or held.size_bytes <= limit_bytes or count <= 0:
        return held.first - 1
    # Rounded up: something goes each time it is too much.
    return held.first - 1 + -(-count * (held.size_bytes - limit_bytes) // held.size_bytes)
