"""What the host itself has to say, as events on the bus; whoever says it never waits for the journal."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import anyio
import structlog

from eventhost.actions import HOST
from eventhost.connections import Connection, EventSourceStatus
from eventhost.errors import Problem
from eventhost.event import EnvEvent, uuid7
from eventhost.sources import UpstreamStatus

log = structlog.get_logger()

MAX_REPORTED: Final = 20
"""Problems of one file that are logged and said on the bus."""


class Announcer:
    """Gathers what is said, and publishes it in order while `keep_saying` runs."""

    def __init__(self) -> None:
        self._waiting: list[EnvEvent] = []
        self._said = anyio.Event()
        self._down_since_ms: dict[str, int] = {}
        """When each source and client that does not run was lost, or stopped."""
        self._away_since_ms: dict[tuple[str, str], int] = {}
        """The same of what sources read from: source, upstream."""

    def say(self, event_type: str, payload: dict[str, Any]) -> None:
        """Have an event of the host's own published."""
        metadata = {"source": HOST, "source_name": HOST}
        self._waiting.append(EnvEvent(uuid7(), event_type, int(time.time() * 1000), metadata, payload))
        self._said.set()

    def report(self, part: str, problems: Iterable[Problem]) -> None:
        """Log what is wrong in a part of the configuration, and say it."""
        texts = [str(problem) for problem in problems if problem.fatal]
        if len(texts) > MAX_REPORTED:
            texts = [*texts[:MAX_REPORTED], f"and {len(texts) - MAX_REPORTED} more; `eventhost check` tells them all"]
        if texts:
            log.error("config_error", part=part, problems=texts)
            self.say("host.config_error", {"part": part, "problems": texts})

    def heed(self, connection: Connection, *, is_source: bool) -> None:
        """Say what has just happened to a source, or to a client."""
        name, now_ms = connection.config.name, int(time.time() * 1000)
        kind = "source" if is_source else "client"
        match connection.status:
            case EventSourceStatus.RUNNING:
                since_ms = self._down_since_ms.pop(name, None)
                down = {} if since_ms is None else {"from": since_ms, "to": now_ms}
                event_type = "host.source_started" if is_source else "host.client_started"
                self.say(event_type, {kind: name, "restarts": connection.restarts, **down})
            case EventSourceStatus.DISCONNECTED:
                self._down_since_ms.setdefault(name, now_ms)
                event_type = "host.source_disconnected" if is_source else "host.client_disconnected"
                self.say(event_type, {kind: name, "error": connection.last_error})
            case EventSourceStatus.ERROR:
                event_type = "host.source_failed" if is_source else "host.client_failed"
                self.say(event_type, {kind: name, "error": connection.last_error})
            case EventSourceStatus.STOPPED:
                self._down_since_ms.setdefault(name, now_ms)
                if connection.finished is not None:
                    self.say("host.source_ended", {kind: name, "reason": connection.finished})

    def heed_upstream(self, source: str, upstream: UpstreamStatus) -> None:
        """Say that something which a source reads from went away, or is back."""
        key, now_ms = (source, upstream.name), int(time.time() * 1000)
        told = {"source": source, "upstream": upstream.name}
        if upstream.is_away and key not in self._away_since_ms:
            self._away_since_ms[key] = now_ms
            self.say("host.upstream_disconnected", {**told, "error": upstream.last_error})
        elif upstream.state == "connected" and key in self._away_since_ms:
            since_ms = self._away_since_ms.pop(key)
            self.say("host.upstream_connected", {**told, "from": since_ms, "to": now_ms})

    async def keep_saying(self, publish: Callable[[Sequence[EnvEvent]], Awaitable[object]]) -> None:
        """Publish what is said, until cancelled."""
        while True:
            await self._said.wait()
            self._said = anyio.Event()
            events, self._waiting = self._waiting, []
            await publish(events)
