"""MCP as lines of JSON, both ways at once, in one HTTP exchange: what `eventhost mcp` joins to its stdin and stdout.

The request's body is what the client says, the answer's is what the server says; each line is one JSON-RPC message. The
era is the one that the client opens with, as over stdio. The session ends with either body.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import SessionMessage
from mcp_types import PARSE_ERROR, ErrorData, JSONRPCError, JSONRPCNotification, jsonrpc_message_adapter
from starlette.types import Receive, Scope, Send

from eventhost.access import Caller
from eventhost.serve.channel import Channel
from eventhost.serve.peer import Peer

MAX_LINE_BYTES: Final = 4 * 1_048_576
"""The longest line that is read; a longer one ends the session."""

_HEADERS: Final = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]

_WAITING = 64
"""Messages that may wait for a client that does not read; then whoever has something to tell it waits too."""


class Lines:
    """An ASGI application that serves one session of `caller`."""

    def __init__(self, server: Server[Any], caller: Caller, channel: Channel | None = None) -> None:
        """`channel` has events to show it."""
        self._server, self._caller, self._channel = server, caller, channel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming, messages = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outgoing, answers = anyio.create_memory_object_stream[SessionMessage](_WAITING)
        out = outgoing.clone()

        async def notify(method: str, params: dict[str, Any]) -> None:
            with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # it is about to end
                await out.send(SessionMessage(JSONRPCNotification(jsonrpc="2.0", method=method, params=params)))

        peer = Peer(self._caller, notify)
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        async with anyio.create_task_group() as tasks, out, answers:
            tasks.start_soon(_read, receive, incoming, out)
            tasks.start_soon(_write, answers, send)
            if self._channel is not None:
                tasks.start_soon(self._channel.run, peer)
            try:
                await serve_dual_era_loop(self._server, messages, outgoing, lifespan_state=peer)
            finally:
                await peer.aclose()
            tasks.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read(
    receive: Receive,
    incoming: MemoryObjectSendStream[SessionMessage | Exception],
    out: MemoryObjectSendStream[SessionMessage],
) -> None:
    async with incoming:
        async for line in _lines(receive):
            try:
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError:
                error = ErrorData(code=PARSE_ERROR, message="this line is no JSON-RPC 2.0 message")
                await out.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=None, error=error)))
            else:
                await incoming.send(SessionMessage(message))


async def _lines(receive: Receive) -> AsyncIterator[bytes]:
    """The lines of a request's body, as they come."""
    rest, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
        *lines, rest = (rest + message.get("body", b"")).split(b"\n")
        for line in [*lines, rest] if not more else lines:
            if line.strip():
                yield line
        if len(rest) > MAX_LINE_BYTES:
            return


async def _write(answers: MemoryObjectReceiveStream[SessionMessage], send: Send) -> None:
    async for answer in answers:
        line = answer.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
        await send({"type": "http.response.body", "body": line, "more_body": True})
