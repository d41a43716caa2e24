"""`/mcp`: where MCP clients reach the host as an MCP server. What is said there, MCP itself describes."""

from __future__ import annotations

from typing import Any, Final, Literal

import anyio
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from eventhost.access import Access
from eventhost.serve import McpFace, ToolFailed
from eventhost.serve.channel import Channel, wanted
from eventhost.serve.lines import Lines
from eventhost.web.access.caller import caller_of
from eventhost.web.endpoint import delete, get, post


class LinesWanted(msgspec.Struct, frozen=True):
    """`channel` makes it a channel for Claude Code, of the events that `match` says: globs, or a pattern as JSON."""

    channel: bool = False
    match: str | None = None


class RpcMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message of JSON-RPC 2.0: a request, a notification, an answer or an error."""

    jsonrpc: Literal["2.0"]
    id: str | int | None = None
    method: str | None = None
    params: dict[str, Any] | None = None
    result: Any = None
    error: RpcError | None = None


class RpcError(msgspec.Struct, frozen=True):
    code: int
    message: str
    data: Any = None


_HEADERS: Final = {"Mcp-Session-Id": str, "MCP-Protocol-Version": str, "Last-Event-ID": str}
_REFUSALS: Final = dict.fromkeys((400, 404, 406, 409, 415), RpcMessage)


class McpEndpoint:
    """MCP over HTTP; every answer may be a stream, and ends with the host."""

    def __init__(self, face: McpFace, open_streams: set[anyio.CancelScope]) -> None:
        self._face, self._open_streams = face, open_streams

    @get(
        "/mcp",
        Access.READ,
        answers={"text/event-stream": str},
        headers=_HEADERS,
        more=_REFUSALS,
        streams=True,
    )
    async def listen(self) -> ASGIApp:
        """What the server has to tell a session unasked (Streamable HTTP)."""
        return self._answer

    @post(
        "/mcp",
        Access.READ,
        takes={"application/json": RpcMessage},
        answers={"application/json": RpcMessage, "text/event-stream": str},
        headers=_HEADERS,
        more={202: None, **_REFUSALS},
    )
    async def ask(self) -> ASGIApp:
        """One JSON-RPC message (Streamable HTTP)."""
        return self._answer

    @delete("/mcp", Access.READ, headers=_HEADERS, more=_REFUSALS)
    async def leave(self) -> ASGIApp:
        """The end of a session (Streamable HTTP)."""
        return self._answer

    @post(
        "/mcp/lines",
        Access.READ,
        takes={"*/*": str},
        answers={"application/x-ndjson": str},
    )
    async def lines(self, request: Request, query: LinesWanted) -> ASGIApp:
        """A session as lines of JSON both ways, which `eventhost mcp` joins to its stdin and stdout."""
        caller = caller_of(request.scope)
        if not query.channel:
            return self._ending(Lines(self._face.server, caller))
        try:
            channel = Channel(self._face, wanted(query.match))
        except ToolFailed as error:
            raise HTTPException(400, str(error)) from None
        return self._ending(Lines(self._face.channel_server, caller, channel))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            await self._face.http.serve(caller_of(scope), scope, receive, send)

        await self._ending(serve)(scope, receive, send)

    def _ending(self, app: ASGIApp) -> ASGIApp:
        """`app`, ended when the host stops."""

        async def end_with_host(scope: Scope, receive: Receive, send: Send) -> None:
            with anyio.CancelScope() as stream:
                self._open_streams.add(stream)
                try:
                    await app(scope, receive, send)
                finally:
                    self._open_streams.discard(stream)

        return end_with_host
