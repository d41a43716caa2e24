"""One session of the host as an MCP server: who it is, how it is reached, and what ends with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from uuid import uuid4

import anyio
import structlog
from mcp_types import LoggingLevel

from eventhost.access import Caller

log = structlog.get_logger()

Notify = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Sends a notification: its method, its parameters."""

_CLOSE_S = 5.0
"""How long one thing that ends with a peer may take."""


class Subscription(Protocol):
    """Something that ends with the peer that asked for it."""

    async def aclose(self) -> None:
        """End it."""
        ...


class Peer:
    """Whoever is at the other end of a session, for as long as that lasts."""

    def __init__(self, caller: Caller, notify: Notify | None = None) -> None:
        """`notify` is None where nothing can be sent that was not asked for."""
        self.id = uuid4().hex
        self.caller = caller
        self.notify = notify
        self.subscriptions: dict[str, Subscription] = {}
        self.watched: set[str] = set()
        """URIs of the resources whose updates it wants to be told of."""
        self.told_of_changes = notify is not None
        """Whether changes of lists and resources may be sent outside a `subscriptions/listen` stream."""
        self.ready = anyio.Event()
        """Set once it has said something after its handshake, if it has one."""
        self.is_host = False
        """Whether it is another eventhost: it is not offered what this one has from others, lest that go in circles."""
        self.log_level: LoggingLevel | None = None
        """From which level on it wants to hear what the tool servers log."""
        self._at_end: list[Callable[[], Awaitable[None]]] = []
        self._ended = False

    def at_end(self, call: Callable[[], Awaitable[None]]) -> None:
        """Await `call` when the peer is gone; the last one that was given first."""
        self._at_end.append(call)

    async def aclose(self) -> None:
        """End the session's part here: whatever ends with it. Nothing happens the second time."""
        if self._ended:
            return
        self._ended = True
        for key in list(self.subscriptions):
            await self._end(self.subscriptions.pop(key).aclose)
        for call in reversed(self._at_end):
            await self._end(call)

    async def _end(self, call: Callable[[], Awaitable[None]]) -> None:
        try:
            with anyio.fail_after(_CLOSE_S, shield=True):
                await call()
        except Exception as error:
            log.warning("peer_not_ended_cleanly", peer=self.id, error=repr(error))  # the rest must end all the same
