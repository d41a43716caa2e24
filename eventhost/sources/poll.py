"""The way in by polling: a server's `list_pending_events` is called every so often, and hands out what has gathered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import msgspec
from mcp_types import TextContent

from eventhost.connections import NO_ANSWER, Batch, Link, Received, list_all
from eventhost.errors import EventRejected
from eventhost.event import RawEvent
from eventhost.wire import LIST_PENDING_EVENTS

Take = Callable[[Batch], Awaitable[None]]
Reject = Callable[[str], None]

ANSWER_TIMEOUT_S = 30.0
LONGEST_PAUSE_S = 60.0


async def offers_polling(link: Link) -> bool:
    """Whether the server has the tool that is polled."""
    if link.capabilities.tools is None:
        return False
    try:
        with anyio.fail_after(ANSWER_TIMEOUT_S):
            tools = await list_all(link.client.list_tools, "tools")
    except NO_ANSWER:
        return False  # it declares tools and cannot list them: then none of them can be meant
    return any(tool.name == LIST_PENDING_EVENTS for tool in tools)


async def poll(link: Link, interval_s: float, take: Take, reject: Reject, *, enough: Callable[[], bool]) -> None:
    """Poll until `enough` says so. A failing call is reported, and made again after a growing pause."""
    pause_s = interval_s
    while not enough():
        try:
            with anyio.fail_after(ANSWER_TIMEOUT_S):
                result = await link.client.call_tool(LIST_PENDING_EVENTS, {})
            texts = [block.text for block in result.content if isinstance(block, TextContent)]
            if result.is_error:
                raise EventRejected("".join(texts) or "the tool reported an error without a text")
            if events := [event for text in texts for event in _parse(text, reject)]:
                size = len("".join(texts).encode())
                await take(Batch(events, size, size))
            pause_s = interval_s
        except (*NO_ANSWER, EventRejected) as error:
            if link.ended.is_set():
                return
            reject(f"{LIST_PENDING_EVENTS}: {str(error) or f'no answer within {ANSWER_TIMEOUT_S:g} s'}")
            pause_s = min(LONGEST_PAUSE_S, max(pause_s, 0.1) * 2)
        await anyio.sleep(pause_s)


def _parse(text: str, reject: Reject) -> list[Received]:
    try:
        values = msgspec.json.decode(text) if text else []
    except (msgspec.MsgspecError, RecursionError) as error:
        raise EventRejected(f"the answer is not JSON: {error}") from error
    if isinstance(values, dict):
        values = [values]  # the SDKs make one text of each item of a list that a tool returns
    if not isinstance(values, list):
        raise EventRejected("the answer is not a list of events")
    events: list[Received] = []
    for value in values:
        try:
            events.append(RawEvent.from_value(value))
        except EventRejected as error:
            reject(str(error))
    return events
