"""Subscriptions to resources of the tool servers: one for each that somebody watches, for as long as somebody does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Set
from contextlib import suppress
from typing import Final

import anyio
import anyio.abc
import structlog
from mcp import MCPError
from mcp.client.subscriptions import SubscriptionLost
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from eventhost.connections import NO_ANSWER, Link
from eventhost.errors import ConnectionLost, NotFound
from eventhost.tools import McpManager

log = structlog.get_logger()

AGAIN_S: Final = 5.0
"""How long to wait before a server is asked again that was not there, or ended the subscription."""

_LAST_WORD_S = 5.0


class Watching:
    """Keeps the subscriptions."""

    def __init__(self, home: Callable[[str], Awaitable[Link]]) -> None:
        """`home` finds the connection to the server that has a resource."""
        self._home = home
        self._scopes: dict[str, anyio.CancelScope] = {}

    def want(self, uris: Set[str], tasks: anyio.abc.TaskGroup) -> None:
        """Be subscribed to these, and to no others."""
        for uri in self._scopes.keys() - uris:
            self._scopes.pop(uri).cancel()
        for uri in uris - self._scopes.keys():
            self._scopes[uri] = anyio.CancelScope()
            tasks.start_soon(self._watch, uri, self._scopes[uri])

    async def _watch(self, uri: str, scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                # A server that cannot be asked now may be there later.
                try:
                    await _stay_subscribed(await self._home(uri), uri)
                except (NotFound, ConnectionLost, SubscriptionLost, *NO_ANSWER) as error:
                    log.debug("resource_not_watched", uri=uri, error=str(error))
                except Exception:
                    log.exception("resource_not_watched", uri=uri)  # its own failure, and no other's
                await anyio.sleep(AGAIN_S)


async def _stay_subscribed(link: Link, uri: str) -> None:
    """Be subscribed until the link ends, or the server ends it; what is told comes as any notification does."""
    if link.protocol in MODERN_PROTOCOL_VERSIONS:
        async with link.client.listen(resource_subscriptions=[uri]) as updates:
            async for _ in updates:
                pass
        return
    if not (link.capabilities.resources and link.capabilities.resources.subscribe):
        await link.ended.wait()
        return
    await link.client.session.subscribe_resource(uri)
    try:
        await link.ended.wait()
    finally:
        if not link.ended.is_set():
            with anyio.move_on_after(_LAST_WORD_S, shield=True), suppress(MCPError, *NO_ANSWER):
                await link.client.session.unsubscribe_resource(uri)


async def updated(manager: McpManager) -> AsyncGenerator[str, None]:
    """The URI of each resource of a tool server that has changed, for as long as they are taken.

    One that changes again before it was taken is told once.
    """
    changed: dict[str, None] = {}
    noticed = anyio.Event()

    def hear(uri: str) -> None:
        changed[uri] = None
        noticed.set()

    manager.hear_updates(hear)
    try:
        while True:
            await noticed.wait()
            noticed = anyio.Event()
            for uri in list(changed):
                del changed[uri]
                yield uri
    finally:
        manager.hear_updates(None)
