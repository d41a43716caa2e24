"""An event of a stream becomes what the source's receiver takes, and what handlers get."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from eventhost.connections import Batch
from eventhost.event import MAX_ID_LENGTH, RawEvent
from eventhost.sources.sse.manager import SseEvent
from eventhost.sources.sse.parser import StreamEvent

_decode = msgspec.json.Decoder().decode

# What JSON text takes at most of one byte of text: `\u0000`.
_ESCAPED = 6
_AROUND = 128


def read(event: StreamEvent, types: Mapping[str, str]) -> tuple[RawEvent, SseEvent]:
    """`types` are event types by the names of events; `*` is for all others, and stands for the name in its type."""
    payload = _payload(event.data)
    metadata: dict[str, Any] = {}
    if event.last_id:
        metadata["event_id"] = event.last_id
    if event.retry_ms is not None:
        metadata["retry"] = event.retry_ms
    # The host's events have shorter ids; a longer one stands in the metadata all the same.
    own_id = event.own_id if event.own_id and len(event.own_id) <= MAX_ID_LENGTH else None
    raw = RawEvent(type_of(event.name, types), own_id, None, metadata, payload)
    return raw, SseEvent(event.name, payload, time.time(), event.last_id or None, event.retry_ms)


def type_of(name: str, types: Mapping[str, str]) -> str:
    """The event type of an event with this name."""
    if name in types:
        return types[name]
    return types["*"].replace("*", name) if "*" in types else name


def batch(events: Sequence[StreamEvent], raws: Sequence[RawEvent]) -> Batch:
    """The events of one piece of a stream."""
    sizes = [len(event.data) for event in events]
    longest = max(sizes) + max(len(event.name) + len(event.last_id) for event in events)
    return Batch(list(raws), sum(sizes), _ESCAPED * longest + _AROUND)


def _payload(data: bytes) -> dict[str, Any]:
    try:
        value = _decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        value = data.decode(errors="replace")
    return value if isinstance(value, dict) else {"value": value}
