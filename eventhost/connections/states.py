"""The states a connection can be in: a pure leaf, so that everybody may speak of them."""

from __future__ import annotations

from enum import StrEnum


class EventSourceStatus(StrEnum):
    """The state of a connection, and so of the source behind it."""

    STOPPED = "stopped"
    """Not wanted: never started, disabled, or stopped by hand."""
    CONNECTING = "connecting"
    """Started, but not yet initialized, or not yet up for `startsecs`."""
    RUNNING = "running"
    """Initialized and up for `startsecs`; whatever failed before is forgotten."""
    DISCONNECTED = "disconnected"
    """It ended, and what follows is not decided yet."""
    BACKOFF = "backoff"
    """It ended; the host waits before it tries again."""
    ERROR = "error"
    """It failed to start `startretries` times in a row, or its configuration cannot be used."""
