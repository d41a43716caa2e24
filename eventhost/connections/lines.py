"""MCP over lines: a transport for the SDK's client that takes events out of the stream ahead of it, in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType

import anyio
import anyio.abc
from mcp.shared.message import SessionMessage

from eventhost.connections.inbound import MAX_LINE_BYTES, Inbound
from eventhost.connections.streams import Outbound, Streams
from eventhost.errors import ConnectionLost


class LineTransport:
    """The SDK's transport protocol over any pipe of bytes: whoever reads calls `feed`, and `end` when nothing follows.

    `feed` returns when the next bytes may be read. Entered by the SDK's client; `feed` may be called before and after,
    so that what a server says on its way out is not lost.
    """

    def __init__(self, inbound: Inbound, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._inbound, self._send = inbound, send
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._skipping = False
        self._read_in, self._read_out = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        self._write_in, self._write_out = anyio.create_memory_object_stream[SessionMessage](0)
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Streams:
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._write)
        return self._read_out, Outbound(self._write_in, self._inbound)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        self.close()
        return await self._tasks.__aexit__(kind, error, trace)

    async def feed(self, chunk: bytes) -> None:
        """Take the bytes that were read."""
        end = chunk.rfind(b"\n") + 1
        if not end:
            self._keep(chunk)
            return
        start = 0
        if self._skipping or self._parts:
            start = chunk.index(b"\n")
            self._keep(chunk[:start])
            if self._skipping:
                self._skipping, start = False, start + 1
        block = b"".join([*self._parts, chunk[start:end]])
        self._parts, self._parts_size = [], 0
        if end < len(chunk):
            self._keep(chunk[end:])
        await self._inbound.take_block(block, self._forward)

    def end(self) -> None:
        """Nothing follows: the session sees its connection end."""
        self._read_in.close()

    def close(self) -> None:
        """There is no session, or not any more: what is not an event is dropped."""
        for stream in (self._read_out, self._read_in, self._write_in, self._write_out):
            stream.close()

    def _keep(self, part: bytes) -> None:
        if self._skipping:
            return
        self._parts.append(part)
        self._parts_size += len(part)
        if self._parts_size > MAX_LINE_BYTES:
            beginning = b"".join(self._parts)[:100].decode(errors="replace")
            self._inbound.take_garbage(f"a line of more than {MAX_LINE_BYTES} bytes, beginning {beginning}")
            self._parts, self._parts_size, self._skipping = [], 0, True

    async def _forward(self, message: SessionMessage) -> None:
        try:
            await self._read_in.send(message)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # the session has gone; only events still matter

    async def _write(self) -> None:
        async for message in self._write_out:
            line = message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
            try:
                await self._send(line)
            except ConnectionLost:
                self.end()
                return
