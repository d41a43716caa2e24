"""Which events a session asks for, and their JSON: with their number, and for other hosts with the way they came."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from eventhost.actions.agent.fence import written
from eventhost.actions.caused import hops_of
from eventhost.bus import Lagged, selector
from eventhost.journal import Entry, Journal
from eventhost.journal.moment import Moment
from eventhost.pattern import Pattern, PatternError
from eventhost.relay import LAGGED, Relay, handed_on
from eventhost.serve.own import ToolFailed

MAX_ANSWER_BYTES: Final = 262_144
"""An answer that would be longer holds fewer events than were asked for, or of one event less than all."""

_SHOWN_BYTES: Final = 8_192
_MOST_GLOBS: Final = 100

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Wanted:
    """Events whose type fits one of `globs`, with which the pattern `match` agrees, and that did not come by `host`."""

    globs: tuple[str, ...] = ("*",)
    match: Any = None
    host: str = ""

    @classmethod
    def parse(cls, types: str | Sequence[str], match: Any = None, host: str = "") -> Wanted:
        """Globs, as a list or separated by commas; an event pattern, or None.

        Raises:
            ToolFailed: the pattern is none, and where.
        """
        listed = types.split(",") if isinstance(types, str) else types
        globs = tuple(dict.fromkeys(glob.strip() for glob in listed if glob.strip()))
        if not globs or len(globs) > _MOST_GLOBS:
            raise ToolFailed(f'eventType: 1 to {_MOST_GLOBS} globs are needed, got {len(globs)}; write "door.*" or "*"')
        if match is not None:
            try:
                Pattern.parse(match, strict=False)
            except PatternError as error:
                raise ToolFailed(f"match: {error}") from None
        return cls(globs, match, host)

    def __str__(self) -> str:
        types = ",".join(self.globs)
        return types if self.match is None else f"{types} {_encode(self.match).decode()}"

    def select(self) -> Callable[[Sequence[Entry]], list[Entry]]:
        """What picks those that are wanted, in order."""
        select = selector(self.globs)
        if self.match is not None:
            matches, by_type = Pattern.parse(self.match, strict=False).matches, select
            select = lambda entries: [entry for entry in by_type(entries) if matches(entry.event)]  # noqa: E731
        if not self.host:
            return select
        return lambda entries: [entry for entry in select(entries) if not _came_by(self.host, entry)]


def _came_by(host: str, entry: Entry) -> bool:
    relay = Relay.of(entry.event.metadata)
    return relay is not None and host in relay.via


def for_host(item: Entry | Lagged, host: str, after: int | None = None) -> dict[str, Any]:
    """An event in full, as another host takes it, with the way it came to `host`; see `relay.py`."""
    if isinstance(item, Lagged):
        # Two numbers tell it apart from whatever else was missed.
        event_id = f"lagged-{item.resume - item.missed}-{item.resume - 1}"
        payload = {"missed": item.missed, "resume": item.resume}
        metadata = handed_on({"source": "eventhost"}, 0, host, item.resume - 1, after)
        return {
            "id": event_id,
            "type": LAGGED,
            "timestamp": time.time_ns() // 1_000_000,
            "metadata": metadata,
            "payload": payload,
        }
    event = item.event
    metadata = handed_on(event.metadata, hops_of(event.metadata), host, item.seq, after)
    return {
        "id": event.id,
        "type": event.type,
        "timestamp": event.timestamp,
        "metadata": metadata,
        "payload": event.payload,
    }


def for_people(entry: Entry) -> dict[str, Any]:
    """An event with its number; of a long one the beginning of its parts, and that they are cut."""
    shown: dict[str, Any] = {"seq": entry.seq, **msgspec.to_builtins(entry.event)}
    return bounded(shown, _SHOWN_BYTES)


def bounded(value: dict[str, Any], most_bytes: int = MAX_ANSWER_BYTES) -> dict[str, Any]:
    """`value`, shortened where its JSON would be too long, and saying where."""
    if len(_encode(value)) <= most_bytes:
        return value
    shortened = msgspec.json.decode(written(value, most_bytes))
    return shortened if isinstance(shortened, dict) else {"shortened": shortened}


async def position(journal: Journal, after: int | str | None) -> int:
    """The number after which somebody wants to begin: None is now; a text is a moment.

    A number ahead of the newest event comes from a journal that is gone: then all that there is now is new.

    Raises:
        ToolFailed: the text is no moment.
    """
    if after is None:
        return journal.head
    if isinstance(after, str):
        try:
            moment = Moment.parse(after, time.time_ns() // 1_000_000 + 1)
            if moment.seq is None:
                return await moment.before(journal)
            after = moment.seq
        except ValueError as error:
            raise ToolFailed(f"after: {error}") from None
    return after if after <= journal.head else journal.first - 1
