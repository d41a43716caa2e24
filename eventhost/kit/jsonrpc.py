"""One peer over newline-delimited JSON-RPC, in both eras of MCP: every request gets its answer, every event its turn.

The legacy era (2024-11-05 to 2025-11-25) begins with `initialize`; in the modern one (2026-07-28) each request carries
its version and its client's name in `_meta`, and each result its type. Both may come over the same pipe; a request is
answered in its own era. Events are pushed from `notifications/initialized` on, or from the first modern answer.
"""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from eventhost.errors import ConnectionLost
from eventhost.kit.outbox import Listener
from eventhost.kit.service import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    LOG_LEVELS,
    PARSE_ERROR,
    UNSUPPORTED_PROTOCOL_VERSION,
    RpcError,
    Service,
)
from eventhost.wire import ACCEPTED, ACK

LEGACY_VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
MODERN_VERSION: Final = "2026-07-28"

HOST_NAME: Final = "eventhost"
"""The client name by which a host that acknowledges is known: the SDK's clients declare no capabilities of ours."""

MAX_LINE_BYTES: Final = 16_777_216
"""The longest message that is read; a longer one is skipped and answered with an error."""

_MAX_RUNNING_CALLS: Final = 256
_CALL_GRACE_S: Final = 0.25
_FLUSH_S: Final = 0.5
_INTERNAL_ERROR: Final = -32603
_VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
_CLIENT_INFO_KEY: Final = "io.modelcontextprotocol/clientInfo"
_CLIENT_CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
_SERVER_INFO_KEY: Final = "io.modelcontextprotocol/serverInfo"
_CACHEABLE: Final = ("server/discover", "tools/list", "resources/list", "resources/templates/list", "resources/read")


async def converse(
    service: Service, receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]]
) -> None:
    """Serve the one peer behind `receive` and `send` until `receive` gives `b""` or `send` raises `ConnectionLost`.

    The outbox of `service` is closed then; calls that still run have a quarter of a second to finish, and what was
    said half a second to be written.
    """
    await _Conversation(service, send).run(receive)


class _Conversation:
    def __init__(self, service: Service, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._service = service
        self._writer = _Writer(send)
        self._listener = Listener(self._push)
        self._calls: dict[str | int, asyncio.Task[None]] = {}
        self._pushing: asyncio.Task[None] | None = None

    async def run(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        writing = asyncio.ensure_future(self._writer.run())
        reading = asyncio.ensure_future(self._read(receive))
        try:
            await asyncio.wait([reading, writing], return_when=asyncio.FIRST_COMPLETED)
            self._service.outbox.close("the host has gone away")
            if self._calls and not writing.done():
                await asyncio.wait(self._calls.values(), timeout=_CALL_GRACE_S)
            for ended in (reading, writing):
                if ended.done():
                    ended.result()
        finally:
            await _end([reading, *self._calls.values(), *([self._pushing] if self._pushing else [])])
            await self._writer.flush(_FLUSH_S)
            await _end([writing])

    async def _read(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        lines = _Lines()
        while chunk := await receive():
            for line in lines.feed(chunk):
                await self._take(line)
        await self._take(lines.rest())

    async def _take(self, line: bytes | None) -> None:
        if line is None:
            await self._fail(None, RpcError(INVALID_REQUEST, f"a message may have {MAX_LINE_BYTES} bytes"))
            return
        if not line.strip():
            return
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            await self._fail(None, RpcError(PARSE_ERROR, f"Parse error: {error}"))
            return
        # Revision 2025-03-26 lets a peer send several messages as an array.
        for one in message if isinstance(message, list) and message else [message]:
            await self._dispatch(one)

    async def _dispatch(self, message: Any) -> None:
        method = message.get("method") if isinstance(message, dict) else None
        if not isinstance(method, str):
            # A response has no method; this side never asks anything, so there is nothing that waits for one.
            if not (isinstance(message, dict) and ("result" in message or "error" in message)):
                await self._fail(
                    None, RpcError(INVALID_REQUEST, "Invalid request: an object with a method is required")
                )
            return
        params = message.get("params")
        if "id" not in message:
            self._notice(method, params if isinstance(params, dict) else {})
            return
        request_id = message["id"]
        if isinstance(request_id, bool) or not isinstance(request_id, str | int):
            await self._fail(None, RpcError(INVALID_REQUEST, "Invalid request: id must be a string or an integer"))
        elif params is not None and not isinstance(params, dict):
            await self._fail(request_id, RpcError(INVALID_PARAMS, "params: an object is required"))
        elif method != "tools/call":
            await self._respond(request_id, method, params or {})
        elif len(self._calls) >= _MAX_RUNNING_CALLS or request_id in self._calls:
            await self._fail(
                request_id, RpcError(INVALID_REQUEST, f"{len(self._calls)} calls run; let one finish first")
            )
        else:
            call = asyncio.ensure_future(self._respond(request_id, method, params or {}))
            self._calls[request_id] = call
            call.add_done_callback(lambda _: self._calls.pop(request_id))

    def _notice(self, method: str, params: dict[str, Any]) -> None:
        if method == ACCEPTED:
            self._service.outbox.answered(params)
        elif method == "notifications/initialized":
            self._begin_pushing()
        elif method == "notifications/cancelled":
            request_id = params.get("requestId")
            call = self._calls.get(request_id) if isinstance(request_id, str | int) else None
            if call is not None:
                call.cancel()

    async def _respond(self, request_id: str | int, method: str, params: dict[str, Any]) -> None:
        meta = params.get("_meta")
        modern = method != "initialize" and isinstance(meta, dict) and _VERSION_KEY in meta
        try:
            result = await (self._answer_modern(method, params) if modern else self._answer_legacy(method, params))
        except RpcError as error:
            await self._fail(request_id, error)
        except Exception as error:
            traceback.print_exc()
            await self._fail(request_id, RpcError(_INTERNAL_ERROR, f"Internal error: {type(error).__name__}"))
        else:
            await self._write({"jsonrpc": "2.0", "id": request_id, "result": result})
            if modern:
                self._begin_pushing()

    async def _answer_legacy(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "initialize":
            return self._initialize(params)
        if method == "ping":
            return {}
        if method == "logging/setLevel":
            level = params.get("level")
            if level not in LOG_LEVELS:
                raise RpcError(INVALID_PARAMS, f"level: one of {', '.join(LOG_LEVELS)} is required")
            self._listener.log_level = LOG_LEVELS.index(level)
            return {}
        return await self._service.answer(self._listener, method, params)

    def _initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        requested = params.get("protocolVersion")
        if not isinstance(requested, str):
            raise RpcError(INVALID_PARAMS, "protocolVersion: a string is required")
        self._listener.acks = self._service.pushes and is_host(params.get("clientInfo"), params.get("capabilities"))
        self._listener.log_level = 0
        return {
            "protocolVersion": requested if requested in LEGACY_VERSIONS else LEGACY_VERSIONS[0],
            "capabilities": {**capabilities(self._service), "logging": {}},
            "serverInfo": self._server_info(),
            **self._instructions(),
        }

    async def _answer_modern(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        meta = params["_meta"]
        version = meta[_VERSION_KEY]
        if not isinstance(version, str) or _CLIENT_CAPABILITIES_KEY not in meta:
            raise RpcError(INVALID_PARAMS, f"_meta: {_VERSION_KEY} and {_CLIENT_CAPABILITIES_KEY} are required")
        if version != MODERN_VERSION:
            versions = {"supported": [MODERN_VERSION], "requested": version}
            raise RpcError(UNSUPPORTED_PROTOCOL_VERSION, "Unsupported protocol version", versions)
        if self._service.pushes and is_host(meta.get(_CLIENT_INFO_KEY), meta[_CLIENT_CAPABILITIES_KEY]):
            self._listener.acks = True
        if method == "server/discover":
            result: dict[str, Any] = {
                "supportedVersions": [MODERN_VERSION],
                "capabilities": capabilities(self._service),
                **self._instructions(),
            }
        else:
            result = await self._service.answer(self._listener, method, params)
        result["resultType"] = "complete"
        result["_meta"] = {_SERVER_INFO_KEY: self._server_info()}
        if method in _CACHEABLE:
            # No client may keep these: the status and the types of a source change while it runs.
            result["ttlMs"] = 0
            result["cacheScope"] = "private"
        return result

    def _server_info(self) -> dict[str, str]:
        return {"name": self._service.name, "version": self._service.version}

    def _instructions(self) -> dict[str, str]:
        return {"instructions": self._service.instructions} if self._service.instructions else {}

    def _begin_pushing(self) -> None:
        if self._pushing is None:
            self._pushing = asyncio.ensure_future(self._push_until_lost())

    async def _push_until_lost(self) -> None:
        with suppress(ConnectionLost):
            await self._service.outbox.listen(self._listener)

    async def _push(self, lines: list[bytes]) -> None:
        await self._writer.put(b"".join(lines))

    async def _fail(self, request_id: str | int | None, error: RpcError) -> None:
        told: dict[str, Any] = {"code": error.code, "message": error.message}
        if error.data is not None:
            told["data"] = error.data
        await self._write({"jsonrpc": "2.0", "id": request_id, "error": told})

    async def _write(self, message: dict[str, Any]) -> None:
        # That the peer is gone is told by the end of the writer.
        with suppress(ConnectionLost):
            await self._writer.put(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


class _Writer:
    """Writes whole messages in the order of `put`; what comes together goes out together.

    Being one task, it is not cut short in the middle of a message when the one who put it is cancelled.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._lost: ConnectionLost | None = None

    async def put(self, data: bytes) -> None:
        """Write `data`; return when that is done.

        Raises:
            ConnectionLost: the peer is gone.
        """
        if self._lost is not None:
            raise self._lost
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((data, written))
        self._filled.set()
        self._idle.clear()
        await written

    async def flush(self, timeout_s: float) -> None:
        """Wait until all is written, at most `timeout_s`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)

    async def run(self) -> None:
        """Write until cancelled or the peer is gone."""
        while self._lost is None:
            await self._filled.wait()
            self._filled.clear()
            batch, self._waiting = self._waiting, []
            try:
                await self._send(b"".join(data for data, _ in batch))
            except ConnectionLost as error:
                self._lost = error
                batch += self._waiting
            for _, written in batch:
                if not written.done():
                    if self._lost is None:
                        written.set_result(None)
                    else:
                        written.set_exception(self._lost)
            if not self._waiting or self._lost is not None:
                self._idle.set()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Lines:
    """Cuts a stream of bytes into lines; one that is too long comes out as None."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes | None]:
        head, *tails = chunk.split(b"\n")
        lines: list[bytes | None] = []
        self._keep(head)
        for tail in tails:
            lines.append(self.rest())
            self._keep(tail)
        return lines

    def rest(self) -> bytes | None:
        """The unfinished line, which is then forgotten."""
        line = None if self._size > MAX_LINE_BYTES else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return line

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > MAX_LINE_BYTES:
            self._parts.clear()
        else:
            self._parts.append(part)


def is_host(client_info: Any, client_capabilities: Any) -> bool:
    """Whether the client that describes itself so will answer events with `ACCEPTED`."""
    if isinstance(client_info, dict) and client_info.get("name") == HOST_NAME:
        return True
    experimental = client_capabilities.get("experimental") if isinstance(client_capabilities, dict) else None
    return isinstance(experimental, dict) and ACK in experimental


def capabilities(service: Service) -> dict[str, Any]:
    """What the server side advertises, in either era; asking for acknowledgement also tells a host not to poll."""
    offered: dict[str, Any] = {"tools": {}, "resources": {}}
    return {**offered, "experimental": {ACK: {}}} if service.pushes else offered
