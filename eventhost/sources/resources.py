"""The way in through resources: a change that a server announces is read, and becomes a `resource.updated` event."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import msgspec
from mcp.client.subscriptions import Subscription, SubscriptionLost
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from eventhost.connections import NO_ANSWER, Batch, Link, list_all
from eventhost.event import RawEvent
from eventhost.sources.poll import ANSWER_TIMEOUT_S, Reject, Take

UPDATED = "resource.updated"


class ResourceWatch:
    """Subscribed to some resources of one link; several changes of one of them before it is read are one."""

    def __init__(self, link: Link, uris: Iterable[str], take: Take, reject: Reject) -> None:
        self._link, self._uris, self._take, self._reject = link, list(uris), take, reject
        self._changed: dict[str, None] = {}
        self._noticed = anyio.Event()

    def updated(self, uri: str) -> None:
        """The server says that `uri` has changed."""
        self._changed[uri] = None
        self._noticed.set()

    async def run(self) -> None:
        """Subscribe, then read what changes, until cancelled."""
        client = self._link.client
        async with AsyncExitStack() as stack:
            uris = self._uris
            if "*" in uris:
                uris = await self._list()
            if self._link.protocol in MODERN_PROTOCOL_VERSIONS:
                try:
                    with anyio.fail_after(ANSWER_TIMEOUT_S):
                        subscription = await stack.enter_async_context(client.listen(resource_subscriptions=uris))
                except NO_ANSWER as error:
                    self._reject(f"subscribing to {', '.join(uris)}: {str(error) or 'no answer in time'}")
                    return
                tasks = await stack.enter_async_context(anyio.create_task_group())
                tasks.start_soon(self._stay_subscribed, subscription)
            else:
                for uri in uris:
                    try:
                        with anyio.fail_after(ANSWER_TIMEOUT_S):
                            await client.session.subscribe_resource(uri)
                    except NO_ANSWER as error:
                        self._reject(f"subscribing to {uri}: {str(error) or 'no answer in time'}")
            while True:
                await self._noticed.wait()
                self._noticed = anyio.Event()
                changed, self._changed = self._changed, {}
                for uri in changed:
                    await self._read(uri)

    async def _stay_subscribed(self, subscription: Subscription) -> None:
        """Notice the end of a subscription, which nothing else would tell; its updates come as notifications, too."""
        reason = "the server ended the subscription to its resources"
        try:
            async for _ in subscription:
                pass
        except SubscriptionLost as error:
            reason = str(error.__cause__ or error)
        self._link.lost(reason)

    async def _list(self) -> list[str]:
        try:
            with anyio.fail_after(ANSWER_TIMEOUT_S):
                resources = await list_all(self._link.client.list_resources, "resources")
        except NO_ANSWER as error:
            self._reject(f"listing the resources: {str(error) or 'no answer in time'}")
            return []
        return [str(resource.uri) for resource in resources]

    async def _read(self, uri: str) -> None:
        try:
            with anyio.fail_after(ANSWER_TIMEOUT_S):
                result = await self._link.client.read_resource(uri)
        except NO_ANSWER as error:
            self._reject(f"reading {uri}: {str(error) or 'no answer in time'}")
            return
        contents: list[Any] = [
            content.model_dump(mode="json", by_alias=True, exclude_none=True) for content in result.contents
        ]
        payload = {"uri": uri, "contents": contents}
        size = len(msgspec.json.encode(payload))
        await self._take(Batch([RawEvent(type=UPDATED, payload=payload)], size, size))
