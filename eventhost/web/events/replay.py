"""A replay, told as JSON lines while it goes on; it ends when whoever asked for it leaves: none goes on unattended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import anyio
import msgspec
from starlette.types import Receive, Scope, Send

from eventhost.errors import EventhostError

HEARTBEAT_S = 15.0
"""An empty line is sent this often when nothing else is."""

_HEADERS = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]


class ReplayStream:
    """An ASGI application that answers one request with `lines`; an error that ends them is the last line."""

    def __init__(self, lines: AsyncGenerator[dict[str, Any], None], open_streams: set[anyio.CancelScope]) -> None:
        self._lines, self._open_streams = lines, open_streams
        self._sending = anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def piece(text: bytes) -> None:
            async with self._sending:
                await send({"type": "http.response.body", "body": text, "more_body": True})

        async def heartbeats() -> None:
            while True:
                await anyio.sleep(HEARTBEAT_S)
                await piece(b"\n")

        async def until_client_leaves() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            self._open_streams.add(tasks.cancel_scope)
            try:
                async with aclosing(self._lines):
                    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                    tasks.start_soon(heartbeats)
                    tasks.start_soon(until_client_leaves)
                    try:
                        async for line in self._lines:
                            await piece(msgspec.json.encode(line) + b"\n")
                    except EventhostError as error:
                        await piece(msgspec.json.encode({"error": str(error)}) + b"\n")
                    tasks.cancel_scope.cancel()
            finally:
                self._open_streams.discard(tasks.cancel_scope)
        with anyio.move_on_after(0.5):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
