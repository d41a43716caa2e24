"""A source's status document: what the host knows of one source at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field

from eventhost.connections.states import EventSourceStatus
from eventhost.sources.upstreams import UpstreamStatus


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that was not accepted."""

    at_ms: int
    reason: str
    said: str
    """What the source said, as JSON text, its beginning if it is long; empty where it was no event at all."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A snapshot; its JSON form has these fields in this order."""

    name: str
    status: EventSourceStatus
    way_in: str
    """How events come in: `sse`, or `push`, `poll`, `resources`, or several joined by `+`; empty until connected."""
    protocol: str
    """The negotiated protocol version; empty until connected."""
    pid: int | None
    uptime_s: float | None
    memory_bytes: int | None
    """Resident memory of the child and whatever it started."""
    received: int
    published: int
    rejected: int
    deduplicated: int
    restarts: int
    last_error: str | None
    last_event_at: int | None
    """When the last event was published, in milliseconds since the epoch."""
    log: list[str]
    """The last 100 lines that the source wrote to stderr or sent as log notifications, oldest first."""
    garbage: int = 0
    """How many lines, or messages, were no JSON-RPC; the log has the newest."""
    refused: list[Refused] = field(default_factory=list)
    """The last 10 events that were rejected, oldest first: they are kept nowhere else."""
    problem: str | None = None
    """What is wrong with a newer configuration than the one in use."""
    upstreams: list[UpstreamStatus] = field(default_factory=list)
    """What it reads from, as far as it says so."""
    silence: str | None = None
    """That it runs and does not answer, and for how long, as the end of a sentence about it."""

    @classmethod
    def broken(cls, name: str, problem: str) -> SourceStatus:
        """The status of a source whose configuration cannot be used, and which has therefore never been started."""
        return cls(name, EventSourceStatus.ERROR, "", "", None, None, None, 0, 0, 0, 0, 0, problem, None, [])
