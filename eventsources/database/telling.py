"""What all databases have in common in what they tell: how it is handed on, and how a gap is written."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from eventhost.kit import Event

GAP = "database.gap"


class Tell(Protocol):
    """Hands events to the host, in this order; returns once each is settled."""

    def __call__(self, events: Sequence[Event]) -> Awaitable[None]: ...


def gap(database: str, what: str, reason: str, after: dict[str, Any], until: dict[str, Any], event_id: str) -> Event:
    """That something between `after` and `until` was not seen and cannot be had any more."""
    payload = {"database": database, "what": what, "reason": reason, "after": after, "until": until}
    return Event(GAP, payload, id=event_id)


def now_iso() -> str:
    """The time now, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
