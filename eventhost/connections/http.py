"""MCP over Streamable HTTP: the SDK's transport, and a dead event stream noticed.

The SDK gives up a server's event stream in silence: after two attempts, after a restart of the server, after two idle
timeouts. Here the HTTP layer below it is watched, so that whoever holds the connection learns that it must be made
anew.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import httpx2
from mcp.client.streamable_http import streamable_http_client

from eventhost.connections.inbound import MAX_LINE_BYTES, Inbound
from eventhost.connections.streams import Streams, sorted_streams

REOPEN_S = 5.0
"""How long the SDK may take to open an event stream again that has ended."""

_CONNECT_TIMEOUT_S = 30.0
_GOODBYE_TIMEOUT_S = 2.0

# A peer that vanished without a word (power, network, NAT) is noticed by the kernel within about a minute.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, option), value)
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPALIVE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
        if hasattr(socket, option)
    ),
]


@asynccontextmanager
async def http_transport(
    url: str, headers: Mapping[str, str], inbound: Inbound, lost: Callable[[str], None]
) -> AsyncIterator[Streams]:
    """A transport for the SDK's client to one Streamable HTTP endpoint.

    `lost` is called, with the reason, once the server's event stream is gone for good.
    """
    async with anyio.create_task_group() as tasks:
        async with (
            httpx2.AsyncClient(
                headers=dict(headers),
                timeout=httpx2.Timeout(_CONNECT_TIMEOUT_S, read=None),  # an event stream may be silent for ever
                transport=_WatchedTransport(_EventStreamWatch(tasks, lost)),
            ) as client,
            streamable_http_client(url, http_client=client, max_sse_event_size=MAX_LINE_BYTES) as streams,
            sorted_streams(streams, inbound) as remaining,
        ):
            yield remaining
        tasks.cancel_scope.cancel()


# The protocol has 405 for a server that offers no event stream; these are what others say.
_NO_SUCH_STREAM = (httpx2.codes.NOT_FOUND, httpx2.codes.NOT_IMPLEMENTED)


class _EventStreamWatch:
    """Knows whether the server's event stream (the GET) is open, and says when it stays closed."""

    def __init__(self, tasks: anyio.abc.TaskGroup, lost: Callable[[str], None]) -> None:
        self._tasks, self._lost = tasks, lost
        self._openings = 0

    def opened(self) -> None:
        self._openings += 1

    def closed(self, reason: str) -> None:
        self._tasks.start_soon(self._expect_reopening, self._openings, reason)

    def refused(self, status: int) -> None:
        if status == httpx2.codes.METHOD_NOT_ALLOWED or (status in _NO_SUCH_STREAM and not self._openings):
            return  # this server offers no event stream, as the protocol allows
        self._lost(f"the server refused its event stream with HTTP {status}; it has probably been restarted")

    async def _expect_reopening(self, openings: int, reason: str) -> None:
        await anyio.sleep(REOPEN_S)
        if self._openings == openings:
            self._lost(f"the event stream ended ({reason}) and was not opened again")


class _WatchedTransport(httpx2.AsyncBaseTransport):
    """An ordinary HTTP transport that tells the watch of event streams."""

    def __init__(self, watch: _EventStreamWatch) -> None:
        self._watch = watch
        self._inner = httpx2.AsyncHTTPTransport(socket_options=_KEEPALIVE)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "DELETE":
            # The SDK says goodbye when it is left, and a server that hangs would hold us back for ever.
            request.extensions["timeout"] = httpx2.Timeout(_GOODBYE_TIMEOUT_S).as_dict()
        if request.method != "GET":
            return await self._inner.handle_async_request(request)
        try:
            response = await self._inner.handle_async_request(request)
        except httpx2.TransportError as error:
            self._watch.closed(str(error) or type(error).__name__)
            raise
        if response.status_code >= 400:
            self._watch.refused(response.status_code)
        elif response.status_code == httpx2.codes.OK:
            self._watch.opened()
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _WatchedStream(response.stream, self._watch)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _WatchedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, watch: _EventStreamWatch) -> None:
        self._inner, self._watch = inner, watch

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                yield chunk
        except httpx2.TransportError as error:
            self._watch.closed(str(error) or type(error).__name__)
            raise
        self._watch.closed("the server closed it")

    async def aclose(self) -> None:
        await self._inner.aclose()


def free_port() -> int:
    """A port of the loopback interface that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until_answering(port: int) -> None:
    """Return once something accepts connections on a port of the loopback interface; the caller bounds the wait."""
    while True:
        try:
            stream = await anyio.connect_tcp("127.0.0.1", port)
        except OSError:
            await anyio.sleep(0.02)
        else:
            await stream.aclose()
            return
