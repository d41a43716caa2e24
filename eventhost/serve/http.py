"""`/mcp`: Streamable HTTP of both eras, by the SDK's session manager."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventhost.access import Caller

MOST_SESSIONS: Final = 256
"""Sessions of the handshake era that may be open at once; one more is answered with 503."""

IDLE_S: Final = 1800.0
"""A session that no request, and no stream, has used for so long ends."""

_CALLER: Final = "eventhost.caller"


class StreamableHttp:
    """Answers requests to `/mcp` while `running` lasts."""

    def __init__(self, server: Server[Any], *, max_body_bytes: int) -> None:
        self._server, self._max_body_bytes = server, max_body_bytes
        self._manager: StreamableHTTPSessionManager | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep sessions until the block ends."""
        manager = StreamableHTTPSessionManager(
            self._server,
            session_idle_timeout=IDLE_S,
            max_sessions=MOST_SESSIONS,
            max_request_body_size=self._max_body_bytes,
        )
        async with manager.run():
            self._manager = manager
            try:
                yield
            finally:
                self._manager = None

    async def serve(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of `caller`, who can use no session but its own."""
        if self._manager is None:
            await Response("the MCP server is not running; the host may be stopping", 503)(scope, receive, send)
            return
        scope[_CALLER] = caller
        # RFC 9110, 5.5: white space around a value is no part of it; the parser leaves what follows it.
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        # By this the manager tells who may use a session.
        token = AccessToken(token="", client_id=f"{caller.how}:{caller.name}", scopes=[])
        scope["user"] = AuthenticatedUser(token)
        await self._manager.handle_request(scope, receive, send)


def sender(request: Any) -> Caller:
    """Who sent a request that came by this way."""
    caller = request.scope[_CALLER]
    assert isinstance(caller, Caller)
    return caller
