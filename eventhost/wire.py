"""The event notifications as they stand on the wire, between a source and the host. Standard library only.

The names of the notifications, and of their fields, come from the original design of event sources; acknowledgement is
the host's own and is offered under `capabilities.experimental`.
"""

from __future__ import annotations

from typing import Any, Final, NotRequired, TypedDict

EMITTED: Final = "notifications/eventsource/emitted"
"""Source to host: params are `Emitted`."""

EVENT: Final = "eventsource/event"
"""Source to host: params are a `RawEvent` itself."""

MESSAGE: Final = "notifications/message"
"""MCP's log notification; an event when `data` is an object with a string `type`, else a line of the source's log."""

ACCEPTED: Final = "notifications/eventsource/accepted"
"""Host to source, only to a source that advertised `ACK`: params are `Accepted`."""

STATUS: Final = "notifications/eventsource/status"
"""Source to a host that acknowledges: params are `Status`; each takes the place of the one before."""

ACK: Final = "eventhost/ack"
"""Key in `capabilities.experimental` by which a source asks for `ACCEPTED`."""

LIST_PENDING_EVENTS: Final = "list_pending_events"
"""Name of the tool that hands out and forgets the events gathered since it was last called: a JSON array as text."""

SERVER_CONFIG_VARIABLE: Final = "MCP_SERVER_CONFIG"
"""Environment variable of a source: its whole configuration as JSON."""

STATE_DIR_VARIABLE: Final = "EVENTHOST_STATE_DIR"
"""Environment variable of a source: a folder of its own that outlives it."""


class RawEvent(TypedDict):
    """An event as a source may say it; only `type` is required."""

    type: str
    id: NotRequired[str]
    timestamp: NotRequired[int | float | str]
    metadata: NotRequired[dict[str, Any]]
    payload: NotRequired[Any]


class Emitted(TypedDict):
    level: NotRequired[str]
    data: RawEvent


class UpstreamState(TypedDict):
    """What a source reads from; `state` is connecting, connected or reconnecting, `gaps` counts the holes told."""

    name: str
    state: str
    lastError: NotRequired[str | None]
    gaps: NotRequired[int]


class Status(TypedDict):
    upstreams: list[UpstreamState]


class Rejection(TypedDict):
    id: str
    reason: str


class Accepted(TypedDict):
    """`ids` are in the journal (or were already); `rejected` never will be."""

    ids: list[str]
    rejected: NotRequired[list[Rejection]]
