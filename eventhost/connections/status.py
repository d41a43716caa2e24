"""A tool server's status: what the host knows of one connection that is no source, at one moment."""

from __future__ import annotations

import time
from dataclasses import dataclass

from eventhost.connections.connection import Connection
from eventhost.connections.states import EventSourceStatus


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A snapshot."""

    name: str
    status: EventSourceStatus
    enabled: bool
    kind: str
    protocol: str
    """The negotiated protocol version; empty until connected."""
    offers: list[str]
    """Of `tools`, `resources` and `prompts` those that it has."""
    pid: int | None
    uptime_s: float | None
    restarts: int
    last_error: str | None
    log: list[str]
    """The last 100 lines that it wrote to stderr or sent as log notifications, oldest first."""
    silence: str | None = None
    """That it runs and does not answer, and for how long, as the end of a sentence about it."""

    @classmethod
    def of(cls, connection: Connection) -> ServerStatus:
        """How this connection fares now."""
        config, link, up_since = connection.config, connection.link, connection.up_since
        return cls(
            config.name,
            connection.status,
            config.enabled,
            str(config.kind),
            link.protocol if link else "",
            [what for what in ("tools", "resources", "prompts") if link and getattr(link.capabilities, what)],
            link.pid if link else None,
            None if up_since is None else round(time.monotonic() - up_since, 3),
            connection.restarts,
            connection.last_error,
            list(connection.log.lines),
            connection.silence,
        )

    @classmethod
    def broken(cls, name: str, problem: str) -> ServerStatus:
        """The status of one whose configuration cannot be used."""
        return cls(name, EventSourceStatus.ERROR, True, "", "", [], None, None, 0, problem, [])
