"""The two streams between a transport and the SDK's session: events leave the one, requests are noted on the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

import anyio
from mcp.client._transport import TransportStreams, WriteStream
from mcp.shared.message import SessionMessage

from eventhost.connections.inbound import Inbound

Streams = TransportStreams


class Outbound:
    """The session's way out: tells `inbound` of each message before it goes."""

    def __init__(self, stream: WriteStream[SessionMessage], inbound: Inbound) -> None:
        self._stream, self._inbound = stream, inbound

    async def send(self, item: SessionMessage, /) -> None:
        self._inbound.sent(item.message)
        await self._stream.send(item)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Outbound:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


@asynccontextmanager
async def sorted_streams(streams: Streams, inbound: Inbound) -> AsyncIterator[Streams]:
    """The streams of any transport of the SDK's, less what `inbound` takes out before the session sees it."""
    read, write = streams
    remaining_in, remaining_out = anyio.create_memory_object_stream[SessionMessage | Exception](0)

    async def sort() -> None:
        with remaining_in:
            async for item in read:
                if isinstance(item, Exception):
                    inbound.take_garbage(str(item))
                elif not await inbound.take_message(item.message):
                    try:
                        await remaining_in.send(item)
                    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                        continue  # the session has gone; only events still matter

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sort)
        with remaining_out:
            yield remaining_out, Outbound(write, inbound)
        tasks.cancel_scope.cancel()
