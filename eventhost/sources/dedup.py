"""Duplicates are recognized: the same id with the same content, among the last events of one source."""

from __future__ import annotations

from operator import attrgetter

from eventhost.event import EnvEvent

_id = attrgetter("id")

WINDOW_EVENTS = 4096
WINDOW_BYTES = 2 * 1_048_576


class DuplicateWindow:
    """Remembers the last events of one source that came with an id of their own: two generations, each bounded.

    At least the last `WINDOW_EVENTS` events are remembered, or the last `WINDOW_BYTES` of them, whichever are fewer.
    """

    def __init__(self) -> None:
        self._young: dict[str, EnvEvent] = {}
        self._old: dict[str, EnvEvent] = {}
        self._young_bytes = 0
        self.reused = 0
        """How many ids came again with other content."""

    def fresh(self, events: list[EnvEvent], untimed: frozenset[str], size_bytes: int) -> list[EnvEvent]:
        """Those of `events` that were not seen before; from now on all of them were.

        `untimed` are the ids of events whose timestamp the host made up. `size_bytes` is what they weigh together.
        """
        self._young_bytes += size_bytes
        if len(self._young) >= WINDOW_EVENTS or self._young_bytes > WINDOW_BYTES:
            self._old, self._young, self._young_bytes = self._young, {}, size_bytes
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


def _same(one: EnvEvent, other: EnvEvent, *, timed: bool) -> bool:
    return (
        one.type == other.type
        and one.payload == other.payload
        and one.metadata == other.metadata
        and (one.timestamp == other.timestamp or not timed)
    )
