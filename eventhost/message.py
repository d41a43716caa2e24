"""What sources say, beside the events that it becomes: had back from the event, or told where that cannot be.

Mostly normalizing only adds, and shows in the event what it added: then nothing need be kept beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec

from eventhost.errors import EventRejected
from eventhost.event import SHALLOW_BYTES, EnvEvent, OddEvent, RawEvent, SourceProfile, is_made, normalize


class Message(msgspec.Struct, frozen=True):
    """What a source said of an event, in its own words."""

    said: Mapping[str, Any]
    """The event. What was null is left out."""
    envelope: Mapping[str, Any] = {}
    """What stood around it in its notification: `method`, and what came beside the event. Empty if that was usual."""
    made: Sequence[str] = ()
    """Which of `id` and `timestamp` the host made."""

    @classmethod
    def of(cls, raw: RawEvent | EnvEvent) -> Message:
        """What was said; of an `EnvEvent` before it is completed in place."""
        fields = {name: value for name in RawEvent.__struct_fields__ if (value := getattr(raw, name)) is not None}
        if type(raw) is EnvEvent:
            return cls({**fields, "metadata": dict(raw.metadata)})
        made = tuple(name for name in ("id", "timestamp") if fields.get(name, "") == "")
        if isinstance(raw, OddEvent):
            return cls({**fields, **raw.more}, raw.envelope, made)
        return cls(fields, {}, made)


def normalize_and_tell(
    raw: RawEvent | EnvEvent, source: SourceProfile, *, at_most_bytes: int | None = None
) -> tuple[EnvEvent, Message | None]:
    """What `normalize` gives, and what the source said if `given_back` does not tell it."""
    if type(raw) is EnvEvent:
        message = Message.of(raw) if _is_unclear(raw) else None
        return normalize(raw, source, at_most_bytes=at_most_bytes), message
    event = normalize(raw, source, at_most_bytes=at_most_bytes)
    return event, Message.of(raw) if _is_altered(raw, event) else None  # type: ignore[arg-type]


def given_back(event: EnvEvent) -> Message:
    """What a source said that became `event`, if normalizing only added to it.

    An empty `metadata` or `payload` is left out. Wherever else it would not be exact, `normalize_and_tell` says so.
    """
    keys = list(event.metadata)
    before = keys.index("source_name") if "source_name" in event.metadata else len(keys)
    made: tuple[str, ...] = ()
    if "source" in keys[before:] and is_made(event.id):
        made = ("id", "timestamp") if event.id[17] == "1" else ("id",)
    fields: dict[str, Any] = {name: getattr(event, name) for name in RawEvent.__struct_fields__ if name not in made}
    fields["metadata"] = {key: event.metadata[key] for key in keys[:before]}
    said = {name: value for name, value in fields.items() if value != {}}
    return Message(said, {}, made)


def _is_unclear(event: EnvEvent) -> bool:
    """Whether `given_back` would not give back what was said in full."""
    return "source_name" in event.metadata or ("source" not in event.metadata and is_made(event.id))


def _is_altered(raw: RawEvent, event: EnvEvent) -> bool:
    """Whether `given_back` would not give back what was said in part."""
    said, timestamp = raw.metadata or {}, raw.timestamp
    if raw.id is None:
        unclear = "source" in said  # only of who did not name a source `given_back` asks whether the id was made
    else:
        # Who gives an id and no time: nothing in the event would tell that the time was made.
        unclear = raw.id != event.id or timestamp is None or ("source" not in said and is_made(event.id))
    return (
        unclear
        or type(raw) is OddEvent
        or "source_name" in said
        or not (timestamp is None or type(timestamp) is int)
        or not (raw.payload is None or type(raw.payload) is dict)
    )


_type = attrgetter("type")


@dataclass(frozen=True, slots=True)
class Normalized:
    """What became of a batch: the events in order, those that were refused and why, whose timestamp the host made."""

    events: list[EnvEvent]
    refused: list[tuple[RawEvent | EnvEvent, EventRejected]]
    untimed: frozenset[str]
    """Ids."""
    altered: list[tuple[EnvEvent, Message]]
    """Those that do not give back what the source said, and what that was."""


def normalize_batch(raws: list[RawEvent | EnvEvent], source: SourceProfile, at_most_bytes: int) -> Normalized:
    """What `normalize` gives for each; several times as fast where a source said all of them in full and shallow."""
    altered: list[tuple[EnvEvent, Message]] = []
    if at_most_bytes <= SHALLOW_BYTES and not source.metadata and set(map(type, raws)) == {EnvEvent}:
        whole: list[EnvEvent] = raws  # type: ignore[assignment]
        if all(map(source.allows.__getitem__, set(map(_type, whole)))):
            name = source.name
            for event in whole:
                metadata = event.metadata
                if "source" in metadata and "source_name" not in metadata:
                    metadata["source_name"] = name
                    continue
                if _is_unclear(event):
                    altered.append((event, Message.of(event)))
                metadata["source_name"] = name
                metadata.setdefault("source", name)
            return Normalized(whole, [], frozenset(), altered)
    events: list[EnvEvent] = []
    refused: list[tuple[RawEvent | EnvEvent, EventRejected]] = []
    untimed: set[str] = set()
    for raw in raws:
        try:
            event, message = normalize_and_tell(raw, source, at_most_bytes=at_most_bytes)
        except EventRejected as error:
            refused.append((raw, error))
        else:
            events.append(event)
            if raw.timestamp is None:
                untimed.add(event.id)
            if message is not None:
                altered.append((event, message))
    return Normalized(events, refused, frozenset(untimed), altered)
