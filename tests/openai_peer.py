"""A stand-in for an OpenAI-compatible API: says what it is told to say, and keeps what it was sent."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc


@dataclass(frozen=True)
class Answer:
    """What a request is answered with."""

    body: Any = None
    """JSON, or text as it is."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    """Nothing is ever answered."""
    drops: bool = False
    """The connection is closed instead."""


def says(text: str | None, usage: tuple[int, int] | None = (100, 10), **more: Any) -> Answer:
    """The last word of a model."""
    return _completion({"role": "assistant", "content": text, **more}, "stop", usage)


def calls(*wanted: tuple[str, Any], usage: tuple[int, int] | None = (100, 10)) -> Answer:
    """A model that wants tools called; arguments that are text are sent as they are."""
    listed = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
        }
        for number, (name, given) in enumerate(wanted)
    ]
    return _completion({"role": "assistant", "content": None, "tool_calls": listed}, "tool_calls", usage)


def refuses(status: int, message: str = "", **headers: str) -> Answer:
    """An error, as the API words it."""
    body = {"error": {"message": message, "type": "error", "code": None}}
    return Answer(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


HANGS = Answer(hangs=True)
DROPS = Answer(drops=True)


def _completion(message: dict[str, Any], reason: str, usage: tuple[int, int] | None) -> Answer:
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "stand-in",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    }
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Answer(body)


class OpenAiPeer:
    """Serves on `url` while its block lasts, an answer for each request; one too many is a 500."""

    def __init__(self, *answers: Answer) -> None:
        self.url = ""
        self.answers = deque(answers)
        self.requests: list[dict[str, Any]] = []
        """The bodies of all requests."""
        self.headers: list[dict[str, str]] = []
        """Those of all requests, names in lower case."""
        self.paths: list[str] = []
        self.asked = anyio.Event()
        """Set when there has been a request."""
        self.gone = anyio.Event()
        """Set when a client hung up while nothing was answered."""

    @property
    def instructions(self) -> str:
        """What the last request has in the place of authority."""
        return str(self.requests[-1]["messages"][0]["content"])

    @property
    def data(self) -> str:
        """What the last request has in the place of the user."""
        return str(self.requests[-1]["messages"][1]["content"])

    @property
    def results(self) -> list[str]:
        """What the last request tells of tools."""
        return [message["content"] for message in self.requests[-1]["messages"] if message["role"] == "tool"]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[OpenAiPeer]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self.url = f"http://127.0.0.1:{port}/v1"
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._connection)
            yield self
            tasks.cancel_scope.cancel()

    async def _connection(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                await self._request(stream)

    async def _request(self, stream: anyio.abc.SocketStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += await stream.receive()
        self.paths.append(" ".join(first.split(" ")[:2]))
        self.headers.append(headers)
        self.requests.append(json.loads(body))
        self.asked.set()
        answer = self.answers.popleft() if self.answers else refuses(500, "nothing more to say")
        if answer.hangs:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
            self.gone.set()
        if answer.hangs or answer.drops:
            return
        said = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        head_lines = [
            f"HTTP/1.1 {answer.status} Whatever",
            "content-type: application/json",
            f"content-length: {len(said.encode())}",
            "connection: close",
            *(f"{name}: {value}" for name, value in answer.headers.items()),
        ]
        await stream.send("\r\n".join(head_lines).encode() + b"\r\n\r\n" + said.encode())
