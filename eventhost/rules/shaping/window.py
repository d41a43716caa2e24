"""Windows: events that wait for their run, each for the same time, in bounded room.

`Debounce` lets go the last event after quiet, `Batch` all that came within a span, `Absence` what nobody answered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from eventhost.journal import Entry
from eventhost.rules.shaping.verdict import Verdict

Tell = Callable[[Iterable[Entry], Verdict], None]


@dataclass(slots=True)
class Held:
    """What waits with one key. `size` is what its events take as JSON, in bytes."""

    key: str
    since_ms: int
    """When its time began to run."""
    entries: list[Entry] = field(default_factory=list)
    size: int = 0


class Window(ABC):
    """What waits, the first that is due in front. It knows no clock: times are handed in, and do not decrease."""

    def __init__(self, span_ms: int, max_events: int, max_bytes: int, tell: Tell) -> None:
        self.span_ms, self._max_events, self._max_bytes, self._tell = span_ms, max_events, max_bytes, tell
        # All wait equally long: the order in which they began is that in which they are due.
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._events = self._bytes = 0

    def __len__(self) -> int:
        return self._events

    @property
    def due_ms(self) -> int | None:
        """When the first is due; None while nothing waits."""
        return next(iter(self._held.values())).since_ms + self.span_ms if self._held else None

    def entries(self) -> Iterator[Entry]:
        """The events that wait."""
        return (entry for held in self._held.values() for entry in held.entries)

    @abstractmethod
    def take(self, entry: Entry, key: str, at_ms: int) -> list[Held]:
        """Let an event wait, or not; return what is let go on its account, in order."""

    def is_due(self, at_ms: int) -> bool:
        """Whether the first is due by then."""
        due_ms = self.due_ms
        return due_ms is not None and due_ms <= at_ms

    def pop(self, key: str) -> Held | None:
        """Take out what waits with this key; None if nothing does."""
        held = self._held.pop(key, None)
        if held is not None:
            self._events -= len(held.entries)
            self._bytes -= held.size
        return held

    def pop_first(self) -> Held:
        """Take out what is due first; something must wait."""
        held = self.pop(next(iter(self._held)))
        assert held is not None
        return held

    def clear(self) -> list[Held]:
        """Take out everything."""
        held, self._held, self._events, self._bytes = list(self._held.values()), OrderedDict(), 0, 0
        return held

    def _fits(self, size: int) -> bool:
        return self._events < self._max_events and self._bytes + size <= self._max_bytes

    def _make_room(self, size: int) -> list[Held]:
        """Let go what is due first, until an event of this size fits."""
        early = []
        while self._held and not self._fits(size):
            early.append(self.pop_first())
        return early

    def _put(self, entry: Entry, size: int, key: str, at_ms: int) -> Held:
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = Held(key, at_ms)
        held.entries.append(entry)
        held.size += size
        self._events += 1
        self._bytes += size
        self._tell((entry,), Verdict.HELD)
        return held

    def dump(self) -> list[list[Any]]:
        """What waits, as JSON; events are their sequence numbers."""
        return [[held.key, held.since_ms, [entry.seq for entry in held.entries]] for held in self._held.values()]

    def load(self, waiting: Iterable[Held]) -> None:
        """Take up what waited before, in the order of `dump`."""
        for held in waiting:
            self._held[held.key] = held
            self._events += len(held.entries)
            self._bytes += held.size


class Debounce(Window):
    """With each key the last event waits until there was quiet for the span. Without room, the first due goes early."""

    def take(self, entry: Entry, key: str, at_ms: int) -> list[Held]:
        """Let it wait in the place of the one before it."""
        if (before := self.pop(key)) is not None:
            self._tell(before.entries, Verdict.SUPERSEDED)
        early = self._make_room(size := size_of(entry))
        self._put(entry, size, key, at_ms)
        return early


class Batch(Window):
    """With each key events gather, until there are so many or the span since the first is over.

    Without room, the batch that is due first goes early.
    """

    def __init__(self, span_ms: int, max_events: int, max_bytes: int, tell: Tell, most: int) -> None:
        super().__init__(span_ms, max_events, max_bytes, tell)
        self._most = most

    def take(self, entry: Entry, key: str, at_ms: int) -> list[Held]:
        """Add it to its batch; a full one is let go."""
        gone = self._make_room(size := size_of(entry))
        held = self._put(entry, size, key, at_ms)
        if len(held.entries) >= self._most:
            self.pop(key)
            gone.append(held)
        return gone


class Absence(Window):
    """With each key one event waits for an answer, and is let go if there is none within the span.

    Another one with its key changes nothing. Without room, further ones do not wait, nor run.
    """

    def take(self, entry: Entry, key: str, at_ms: int) -> list[Held]:
        """Let it wait for an answer, unless another one does."""
        if key in self._held:
            self._tell((entry,), Verdict.DUPLICATE)
        elif not self._fits(size := size_of(entry)):
            self._tell((entry,), Verdict.OVERFLOW)
        else:
            self._put(entry, size, key, at_ms)
        return []

    def answer(self, key: str) -> bool:
        """What waits with this key need not wait any longer; return whether something did."""
        if (held := self.pop(key)) is None:
            return False
        self._tell(held.entries, Verdict.ANSWERED)
        return True


def size_of(entry: Entry) -> int:
    """What an event takes as JSON, in bytes."""
    return len(entry.event.to_json())
