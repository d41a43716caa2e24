"""A Streamable HTTP server of the legacy era, written by hand, that can be made to misbehave in every way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.abc

_Stream = anyio.abc.SocketStream


class HttpPeer:
    """Serves on `url` while its block lasts. Its sessions are forgotten when it is told so, as by a restart."""

    def __init__(self) -> None:
        self.url = ""
        self.sessions: set[str] = set()
        self.headers: list[dict[str, str]] = []
        """Those of all requests, names in lower case."""
        self.methods: list[str] = []
        """`GET`, `DELETE`, and the MCP methods that were posted."""
        self.frozen = False
        """Whether it takes requests and never answers."""
        self.get_status = 200
        self.streams: set[_Stream] = set()
        self.experimental: dict[str, Any] = {}
        self._made = 0
        self._requests: dict[_Stream, anyio.CancelScope] = {}

    async def push(self, message: dict[str, Any]) -> None:
        """Write a message to each event stream that is open."""
        for stream in list(self.streams):
            text = json.dumps({"jsonrpc": "2.0", **message})
            await stream.send(f"event: message\r\ndata: {text}\r\n\r\n".encode())

    async def emit(self, **event: Any) -> None:
        params = {"level": "info", "data": {"type": "sensor.read", **event}}
        await self.push({"method": "notifications/eventsource/emitted", "params": params})

    def close_streams(self) -> None:
        """End the event streams, as a proxy does with idle ones."""
        for stream in list(self.streams):
            self._requests[stream].cancel()

    def restart(self) -> None:
        """Forget all sessions and hang up on everybody."""
        self.sessions.clear()
        for scope in list(self._requests.values()):
            scope.cancel()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[HttpPeer]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self.url = f"http://127.0.0.1:{port}/mcp"
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._connection)
            yield self
            tasks.cancel_scope.cancel()

    async def _connection(self, stream: _Stream) -> None:
        with anyio.CancelScope() as self._requests[stream]:
            async with stream:
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    await self._request(stream)
        del self._requests[stream]
        self.streams.discard(stream)

    async def _request(self, stream: _Stream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += await stream.receive()
        self.headers.append(headers)
        verb = first.split(" ")[0]
        message = json.loads(body) if verb == "POST" else {}
        self.methods.append(message.get("method", "response") if verb == "POST" else verb)
        if self.frozen:
            await anyio.sleep_forever()
        session = headers.get("mcp-session-id", "")
        if verb == "POST" and message.get("method") == "initialize":
            self._made += 1
            session = f"session-{self._made}"
            self.sessions.add(session)
            result = {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"experimental": self.experimental},
                "serverInfo": {"name": "peer", "version": "1"},
            }
            await self._answer(stream, 200, {"id": message["id"], "result": result}, session)
        elif session not in self.sessions:
            await self._answer(stream, 404, {"id": None, "error": {"code": -32600, "message": "Session not found"}})
        elif verb == "DELETE":
            self.sessions.discard(session)
            await self._answer(stream, 200)
        elif verb == "GET":
            await self._event_stream(stream)
        elif "id" in message and "method" in message:
            await self._answer(stream, 200, {"id": message["id"], "result": {}})
        else:
            await self._answer(stream, 202)

    async def _event_stream(self, stream: _Stream) -> None:
        if self.get_status != 200:
            await self._answer(stream, self.get_status)
            return
        await stream.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        self.streams.add(stream)
        await stream.receive()

    async def _answer(
        self, stream: _Stream, status: int, message: dict[str, Any] | None = None, session: str = ""
    ) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode() if message is not None else b""
        head = [
            f"HTTP/1.1 {status} Whatever",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            *([f"mcp-session-id: {session}"] if session else []),
        ]
        await stream.send("\r\n".join(head).encode() + b"\r\n\r\n" + body)
