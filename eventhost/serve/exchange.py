"""Messages answered one by one, for sessions whose transport is not the SDK's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import structlog
from mcp import MCPError
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner, aclose_shielded
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data, progress_token_from_params
from mcp.shared.message import MessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PROTOCOL_VERSION_META_KEY,
    ErrorData,
    JSONRPCNotification,
    JSONRPCRequest,
    ProgressToken,
    RequestId,
    jsonrpc_message_adapter,
)
from mcp_types.version import LATEST_HANDSHAKE_VERSION

from eventhost.serve.peer import Peer

log = structlog.get_logger()

_TRANSPORT = TransportContext(kind="session", can_send_request=False)


class Exchanges:
    """What peers have asked, and the connection that each has as the SDK sees it."""

    def __init__(self, server: Server[Any]) -> None:
        self._server = server
        self._connections: dict[Peer, Connection] = {}
        self._running: dict[tuple[Peer, RequestId], anyio.CancelScope] = {}

    async def answer(self, message: Mapping[str, Any], peer: Peer) -> dict[str, Any] | None:
        """See `McpFace.answer`."""
        try:
            parsed = jsonrpc_message_adapter.validate_python(message, by_name=False)
        except ValueError:
            return _error(message.get("id"), ErrorData(code=INVALID_REQUEST, message="this is no JSON-RPC 2.0 message"))
        if isinstance(parsed, JSONRPCNotification):
            await self._take(parsed, peer)
            return None
        if not isinstance(parsed, JSONRPCRequest):
            return None  # nothing was asked of the peer, so that there is nothing to be answered
        with anyio.CancelScope() as scope:
            self._running[peer, parsed.id] = scope
            try:
                return {"jsonrpc": "2.0", "id": parsed.id, "result": await self._result(parsed, peer)}
            except Exception as error:
                return _error(parsed.id, _error_data(error, parsed.method))
            finally:
                self._running.pop((peer, parsed.id), None)
        return None

    async def _result(self, request: JSONRPCRequest, peer: Peer) -> dict[str, Any]:
        exchange = _Exchange(peer, request.id, progress_token_from_params(request.params))
        meta = (request.params or {}).get("_meta")
        if request.method == "initialize" or not isinstance(meta, Mapping) or PROTOCOL_VERSION_META_KEY not in meta:
            runner = self._runner(self._connection(peer), peer)
            return await runner.on_request(exchange, request.method, request.params)
        route = classify_inbound_request({"method": request.method, "params": request.params})
        if isinstance(route, InboundLadderRejection):
            raise MCPError(route.code, route.message, route.data)
        connection = Connection.from_envelope(route.protocol_version, route.client_info, route.client_capabilities)
        try:
            return await self._runner(connection, peer).on_request(exchange, request.method, request.params)
        finally:
            await aclose_shielded(connection)

    async def _take(self, notification: JSONRPCNotification, peer: Peer) -> None:
        if notification.method == "notifications/cancelled":
            given_up = self._running.get((peer, (notification.params or {}).get("requestId", "")))
            if given_up is not None:
                given_up.cancel()
            return
        runner = self._runner(self._connection(peer), peer)
        await runner.on_notify(_Exchange(peer, None, None), notification.method, notification.params)

    def _runner(self, connection: Connection, peer: Peer) -> ServerRunner[Any]:
        return ServerRunner(self._server, connection, peer)

    def _connection(self, peer: Peer) -> Connection:
        """The connection of a peer; from the beginning as if the handshake had taken place."""
        connection = self._connections.get(peer)
        if connection is None:
            connection = Connection.from_envelope(LATEST_HANDSHAKE_VERSION, None, None)
            self._connections[peer] = connection

            async def forget() -> None:
                await aclose_shielded(self._connections.pop(peer))

            peer.at_end(forget)
        return connection


@dataclass
class _Exchange:
    """The SDK's view of one message: how to reach its sender meanwhile."""

    peer: Peer
    request_id: RequestId | None
    progress_token: ProgressToken | None
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)
    transport: TransportContext = _TRANSPORT
    can_send_request: bool = False
    message_metadata: MessageMetadata = None

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        if self.peer.notify is not None:
            await self.peer.notify(method, dict(params or {}))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self.progress_token is not None:
            said = {"progressToken": self.progress_token, "progress": progress, "total": total, "message": message}
            await self.notify(
                "notifications/progress", {key: value for key, value in said.items() if value is not None}
            )


def _error_data(error: Exception, method: str) -> ErrorData:
    data = handler_exception_to_error_data(error)
    if data is None:
        log.exception("mcp_request_failed", method=method)
        data = ErrorData(code=INTERNAL_ERROR, message="the host failed to answer; its log says why")
    return data


def _error(request_id: object, error: ErrorData) -> dict[str, Any]:
    known = request_id if isinstance(request_id, str | int) else None
    return {"jsonrpc": "2.0", "id": known, "error": error.model_dump(by_alias=True, mode="json", exclude_none=True)}
