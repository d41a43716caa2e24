"""Who is connected over HTTP, and how often it was asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import anyio

from eventhost.web.events.broadcast import Broadcast
from eventhost.web.sessions.registry import Sessions


class OpenStreams(set[anyio.CancelScope]):
    """The cancel scopes of the streams that are open; `opened` is how many there ever were."""

    opened = 0

    def add(self, scope: anyio.CancelScope) -> None:
        """A stream opens."""
        self.opened += scope not in self
        super().add(scope)


@dataclass(frozen=True, slots=True)
class TrafficStatistics:
    """Connections are streams of every kind; messages are those of sessions, their events among them."""

    active_connections: int
    total_connections: int
    messages_sent: int
    messages_received: int
    watchers: int
    """How many are shown the bus's events."""
    requests: dict[int, int]
    """Requests that are answered, by status; of a stream or a WebSocket, once it has ended."""


class Traffic:
    """What goes over the wire; whoever answers a request counts it in `requests`, by status."""

    def __init__(self, sessions: Sessions, broadcast: Broadcast, streams: OpenStreams) -> None:
        self._sessions, self._broadcast, self._streams = sessions, broadcast, streams
        self.requests: Counter[int] = Counter()

    def statistics(self) -> TrafficStatistics:
        """A snapshot."""
        sessions = self._sessions.statistics()
        return TrafficStatistics(
            len(self._streams),
            self._streams.opened,
            sessions.messages_sent,
            sessions.messages_received,
            self._broadcast.statistics().watchers,
            dict(self.requests),
        )
