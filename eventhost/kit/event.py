"""An event that a source is about to emit, for those that gather several before they emit them."""

from __future__ import annotations

from typing import Any, NamedTuple


# No dataclass: from Python 3.12 on that would cost every small source a megabyte.
class Event(NamedTuple):
    """The arguments of `EventSource.emit`: `timestamp` is in milliseconds since the epoch, or ISO 8601."""

    type: str
    payload: Any = None
    id: str | None = None
    timestamp: int | float | str | None = None
    metadata: dict[str, Any] | None = None
