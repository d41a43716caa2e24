"""The way in by polling: a server's `list_pending_events` is called every so often, and hands out what has gathered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import msgspec
from mcp import MCPError
from mcp_types import TextContent

from eventhost.connections import Batch, Link, Received
from eventhost.errors import EventRejected
from eventhost.event import RawEvent
from eventhost.wire import LIST_PENDING_EVENTS

Take = Callable[[Batch], Awaitable[None]]
Reject = Callable[[str], None]

ANSWER_TIMEOUT_S = 30.0
LONGEST_PAUSE_S = 60.0


async def poll(link: Link, interval_s: float, take: Take, reject: Reject, *, enough: Callable[[], bool]) -> None:
    """Poll until `enough` says so. A failing call is reported, and made again after a growing pause."""
    pause_s = interval_s
    while not enough():
        try:
            with anyio.fail_after(ANSWER_TIMEOUT_S):
                result = await link.client.call_tool(LIST_PENDING_EVENTS, {})
            text = "".join(block.text for block in result.content if isinstance(block, TextContent))
            if result.is_error:
                raise EventRejected(text or "the tool reported an error without a text")
            if events := _parse(text, reject):
                await take(Batch(events, len(text), len(text)))
            pause_s = interval_s
        except (MCPError, TimeoutError, EventRejected) as error:
            if link.ended.is_set():
                return
            reject(f"{LIST_PENDING_EVENTS}: {error or f'no answer within {ANSWER_TIMEOUT_S:g} s'}")
            pause_s = min(LONGEST_PAUSE_S, max(pause_s, 0.1) * 2)
        await anyio.sleep(pause_s)


def _parse(text: str, reject: Reject) -> list[Received]:
    try:
        values = msgspec.json.decode(text) if text else []
    except (msgspec.MsgspecError, RecursionError) as error:
        raise EventRejected(f"the answer is not JSON: {error}") from error
    if not isinstance(values, list):
        raise EventRejected("the answer is not a list of events")
    events: list[Received] = []
    for value in values:
        try:
            events.append(RawEvent.from_value(value))
        except EventRejected as error:
            reject(str(error))
    return events
