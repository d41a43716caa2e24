"""Hearing that a server's lists have changed: in the modern era it says so only to who has asked to be told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio
from mcp.client.subscriptions import SubscriptionLost
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from eventhost.connections.link import NO_ANSWER, Link

AGAIN_S: Final = 15.0
"""How long to wait before asking again, when the server has ended the subscription."""


async def listen_for_lists(link: Link, on_change: Callable[[], None]) -> None:
    """Ask to be told for as long as the link lasts; what is told then comes as any notification does.

    `on_change` is called where something may have been missed.
    """
    has = link.capabilities
    tools, prompts, resources = (bool(kind and kind.list_changed) for kind in (has.tools, has.prompts, has.resources))
    if link.protocol not in MODERN_PROTOCOL_VERSIONS or not (tools or prompts or resources):
        return
    while True:
        with suppress(*NO_ANSWER, SubscriptionLost):
            async with link.client.listen(
                tools_list_changed=tools, prompts_list_changed=prompts, resources_list_changed=resources
            ) as changes:
                async for _ in changes:
                    pass
        await anyio.sleep(AGAIN_S)
        on_change()
