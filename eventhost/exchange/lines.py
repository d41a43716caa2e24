"""Events as lines of JSON: what one host has written, another reads as the very same event."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec

from eventhost.errors import EventRejected
from eventhost.event import EnvEvent, RawEvent, SourceProfile, normalize
from eventhost.exchange.cloudevents import from_cloudevent

IMPORTED: Final = "import"
"""The `source_name` of an imported event that bears none."""

_FIELDS: Final = {*EnvEvent.__struct_fields__, "seq", "at_ms"}


def read_line(text: bytes, *, cloudevents: bool = False, now_ms: int) -> EnvEvent:
    """The event in one line: as the host writes it, or a CloudEvent.

    Of the host's own form `type` is required; what else is left out is completed as for any source, and where the
    event had been kept (`seq`, `at_ms`) does not matter.

    Raises:
        EventRejected: it is no such event.
    """
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise EventRejected(f"not JSON: {error}; write each event on a line of its own") from error
    if cloudevents:
        return as_kept(from_cloudevent(value, now_ms=now_ms))
    raw = RawEvent.from_value(value)
    if "specversion" in value:
        raise EventRejected("this is a CloudEvent; add --cloudevents")
    if unknown := sorted(value.keys() - _FIELDS):
        raise EventRejected(f"{unknown[0][:80]!r} is no field of an event; what is the event's own belongs in payload")
    return normalize(raw, _profile(raw.metadata), now_ms=now_ms)


def as_kept(event: EnvEvent) -> EnvEvent:
    """An event that nobody else has seen, as the journal keeps it, with the `source_name` that it bears.

    Raises:
        EventRejected: it is too large, or nests too deep.
    """
    return normalize(event, _profile(event.metadata))


def _profile(metadata: Any) -> SourceProfile:
    name = metadata.get("source_name") if isinstance(metadata, dict) else None
    return _profile_named(name if isinstance(name, str) and name else IMPORTED)


@lru_cache(maxsize=256)
def _profile_named(name: str) -> SourceProfile:
    return SourceProfile(name, ("*", "host.*"))
