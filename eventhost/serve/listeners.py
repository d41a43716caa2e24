"""Streams of `subscriptions/listen`: the modern era's way of being told of changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ServerEvent
from mcp_types import SubscriptionsListenRequestParams, SubscriptionsListenResult

MOST_STREAMS = 1024
_MOST_WAITING = 256


class Listeners:
    """Whoever holds such a stream open."""

    def __init__(self, on_listen: Callable[[], None]) -> None:
        """`on_listen` is called whenever somebody begins, or leaves."""
        self._on_listen = on_listen
        self._bus = InMemorySubscriptionBus()
        self._handler = ListenHandler(self._bus, max_subscriptions=MOST_STREAMS, max_buffered_events=_MOST_WAITING)
        self._watched: dict[object, frozenset[str]] = {}

    async def listen(
        self, ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve one stream until its client leaves."""
        token = object()
        self._watched[token] = frozenset(params.notifications.resource_subscriptions or ())
        self._on_listen()
        try:
            return await self._handler(ctx, params)
        finally:
            del self._watched[token]
            self._on_listen()

    def watched(self) -> frozenset[str]:
        """The URIs that are subscribed to."""
        return frozenset().union(*self._watched.values())

    async def publish(self, event: ServerEvent) -> None:
        """Tell those who asked for it."""
        await self._bus.publish(event)
