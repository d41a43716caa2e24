"""Which events a session asks for, and their JSON: with their number, and for other hosts with the way they came."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from eventhost.actions.agent.fence import written
from eventhost.actions.caused import hops_of
from eventhost.bus import Lagged
from eventhost.journal import Entry, Journal
from eventhost.journal.moment import Moment
from eventhost.pattern import PatternError
from eventhost.relay import LAGGED, Relay, handed_on
from eventhost.serve.own import ToolFailed
from eventhost.wanted import Select, Wanted

MAX_ANSWER_BYTES: Final = 262_144
"""An answer that would be longer holds fewer events than were asked for, or of one event less than all."""

_SHOWN_BYTES: Final = 8_192
_MOST_GLOBS: Final = 100

_encode = msgspec.json.Encoder().encode


def wanted(types: str | Sequence[str], match: Any = None) -> Wanted:
    """Globs, as a list or separated by commas; an event pattern, or None.

    Raises:
        ToolFailed: the pattern is none, and where; or there are no globs, or too many.
    """
    try:
        asked = Wanted.parse(types, match)
    except PatternError as error:
        raise ToolFailed(f"match: {error}") from None
    if not 0 < len(asked.globs) <= _MOST_GLOBS:
        number = len(asked.globs)
        raise ToolFailed(f'eventType: 1 to {_MOST_GLOBS} globs are needed, got {number}; write "door.*" or "*"')
    return asked


def not_by(host: str, select: Select) -> Select:
    """What `select` picks, but for the events that came by `host`."""
    return lambda entries: [entry for entry in select(entries) if not _came_by(host, entry)]


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
    try:
        return await Moment.parse(str(after)).after(journal)
    except ValueError as error:
        raise ToolFailed(f"after: {error}") from None
