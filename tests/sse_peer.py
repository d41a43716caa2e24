"""A server of event streams, written by hand, that does with each connection what it is told."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
import anyio.abc
from anyio.streams.tls import TLSListener

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True)
class Asked:
    """One request."""

    target: str
    headers: dict[str, str]
    """Names in lower case."""

    @property
    def last_id(self) -> str | None:
        return self.headers.get("last-event-id")


Answer = Callable[[anyio.abc.SocketStream, Asked], Awaitable[None]]


def stream(text: str | bytes = b"", *, hold: bool = False) -> Answer:
    """An event stream that says this, and then ends, or is held open."""

    async def answer(connection: anyio.abc.SocketStream, _: Asked) -> None:
        await connection.send(HEAD + (text.encode() if isinstance(text, str) else text))
        if hold:
            await anyio.sleep_forever()

    return answer


def status(number: int, **headers: str) -> Answer:
    """An answer without a stream."""
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    text = f"HTTP/1.1 {number} Whatever\r\n{fields}content-length: 0\r\nconnection: close\r\n\r\n"
    if number == 204:
        text = text.replace("content-length: 0\r\n", "")

    async def answer(connection: anyio.abc.SocketStream, _: Asked) -> None:
        await connection.send(text.encode())

    return answer


class _Quiet(TLSListener):
    """Says nothing of a handshake that fails: clients that refuse a certificate are the point."""

    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: anyio.abc.AnyByteStream) -> None:
        await stream.aclose()


class SsePeer:
    """Serves on `url` while its block lasts: each connection gets the next answer, and the last one for ever."""

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answers = list(answers)
        self.asked: list[Asked] = []
        self.port = 0
        self._tls = tls
        self._scopes: dict[int, anyio.CancelScope] = {}

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/events"

    def hang_up(self) -> None:
        """Break off all connections."""
        for scope in list(self._scopes.values()):
            scope.cancel()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[SsePeer]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        served = listener if self._tls is None else _Quiet(listener, self._tls, standard_compatible=False)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(served.serve, self._connection)
            yield self
            tasks.cancel_scope.cancel()

    async def _connection(self, connection: anyio.abc.SocketStream) -> None:
        with anyio.CancelScope() as self._scopes[id(connection)]:
            async with connection:
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    await self._request(connection)
        del self._scopes[id(connection)]

    async def _request(self, connection: anyio.abc.SocketStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await connection.receive()
        first, *lines = data.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        asked = Asked(first.split(" ")[1], headers)
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append(asked)
        await answer(connection, asked)
