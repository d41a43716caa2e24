"""What tests of sessions share: an application whose requests are driven by hand, so that nothing needs a socket."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import anyio
import httpx2

from eventhost.access import EVERYTHING, OWNER, Access, Caller
from eventhost.bus import EnvEventBus
from eventhost.config.model import HttpConfig
from eventhost.event import EnvEvent, RawEvent, SourceProfile, normalize
from eventhost.journal import MemoryJournal
from eventhost.serve import McpFace, Peer
from eventhost.web import app as web_app
from eventhost.web.sessions.registry import Sessions

ANN = Caller("ann", "key", frozenset({Access.READ, Access.PUBLISH}))
BOB = Caller("bob", "key", frozenset({Access.READ, Access.PUBLISH}))
READER = Caller("reader", "key", frozenset({Access.READ}))
ADMIN = Caller("admin", "key", EVERYTHING)

LIMIT_S = 20
"""Never reached unless something is broken."""


class FakeFace(McpFace):
    """Answers `echo` with its parameters, `wait` once it may, and `break` by failing."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.seen: list[Peer] = []
        self.may_answer = anyio.Event()
        self.ended: list[Peer] = []

    async def wait(self) -> None:
        await self.may_answer.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    async def answer(self, message: Mapping[str, Any], peer: Peer) -> dict[str, Any] | None:
        if peer not in self.seen:
            self.seen.append(peer)

            async def ended() -> None:
                self.ended.append(peer)

            peer.at_end(ended)
        if message["method"] == "break":
            raise RuntimeError("the secret is tulip")
        if message["method"] == "wait":
            await self.wait()
        if "id" not in message:
            return None
        return {"jsonrpc": "2.0", "id": message["id"], "result": message.get("params", {})}


@dataclass
class FakeEnvironment:
    """What sessions ask of an environment; the bus is a real one."""

    root: Path
    http: HttpConfig = field(default_factory=lambda: HttpConfig(port=0))
    bus: EnvEventBus = field(default_factory=lambda: EnvEventBus(MemoryJournal(capacity=5000)))

    @property
    def config(self) -> Any:
        return SimpleNamespace(id="test_env", http=self.http)

    def __getattr__(self, name: str) -> Any:
        """What other resources hold on to, and no test of sessions uses."""
        if name.startswith("_"):
            raise AttributeError(name)
        return None

    async def publish(self, *types: str) -> None:
        for event_type in types:
            event = normalize(RawEvent.from_value({"type": event_type}), SourceProfile("api"))
            await self.bus.publish(event)

    async def publish_event(self, event: Mapping[str, Any], *, source: str = "api") -> tuple[EnvEvent, int]:
        normal = normalize(RawEvent.from_value(event), SourceProfile(source))
        return normal, await self.bus.publish(normal)


@dataclass
class Served:
    """An application without its guard, and what is inside."""

    app: Any
    environment: FakeEnvironment
    face: FakeFace
    sessions: Sessions
    open_streams: set[anyio.CancelScope]

    def client(self, caller: Caller = OWNER) -> httpx2.AsyncClient:
        """A client that is `caller`; its requests end when their background work has."""
        transport = httpx2.ASGITransport(app=_as(self.app, caller))
        return httpx2.AsyncClient(transport=transport, base_url="http://test")

    def sse(self, session_id: str | None = None, caller: Caller = OWNER, last: str = "", **query: str) -> Stream:
        """A session's stream, to be entered; `last` is the `Last-Event-ID`."""
        query = query if session_id is None else {"session_id": session_id, **query}
        headers = [(b"user-agent", b"test/1"), *([(b"last-event-id", last.encode())] if last else [])]
        scope = {"type": "http", "method": "GET", "path": "/sse/connect", "headers": headers}
        return Stream(_as(self.app, caller), scope | _query(query))

    def ws(self, session_id: str, caller: Caller = OWNER, **query: str) -> Socket:
        """A session's WebSocket, to be entered."""
        extensions = {"websocket.http.response": {}}
        scope = {"type": "websocket", "path": f"/ws/{session_id}", "headers": [], "extensions": extensions}
        return Socket(_as(self.app, caller), scope | _query(query))


def _query(query: Mapping[str, str]) -> dict[str, Any]:
    return {"query_string": urlencode(query).encode(), "client": ("192.0.2.7", 1), "root_path": "", "scheme": "http"}


def _as(app: Any, caller: Caller) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = {**scope.get("state", {}), "caller": caller}
        await app(scope, receive, send)

    return application


def fake(monkeypatch: Any, root: Path, **http: Any) -> FakeEnvironment:
    """An environment whose application has a fake face, and `http` as its configuration."""
    monkeypatch.setattr(web_app, "McpFace", FakeFace)
    return FakeEnvironment(root, HttpConfig(port=0, **http))


def served(monkeypatch: Any, root: Path, **http: Any) -> Served:
    """The application with a fake face, and `http` as its configuration."""
    environment = fake(monkeypatch, root, **http)
    streams: set[anyio.CancelScope] = set()
    app = web_app.create_app(environment, streams)  # type: ignore[arg-type]
    return Served(app, environment, app.state.face, app.state.sessions, streams)


class _Driven(ABC):
    """One request: `stop_reading` makes the application wait when it sends, as a full socket does."""

    def __init__(self, app: Any, scope: dict[str, Any]) -> None:
        self._app, self.scope = app, scope
        self.aborted = False
        self.ended = anyio.Event()
        self._incoming: asyncio.Queue[Any] = asyncio.Queue()
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self._reads = anyio.Event()
        self._reads.set()
        scope["state"] = {"abort": self._abort}

    def stop_reading(self) -> None:
        self._reads = anyio.Event()

    def read_again(self) -> None:
        self._reads.set()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run)
            with anyio.fail_after(LIMIT_S):
                yield
                self.leave()
                await self.ended.wait()

    @abstractmethod
    def leave(self) -> None:
        """The client goes away."""

    async def _run(self) -> None:
        try:
            await self._app(self.scope, self._incoming.get, self._send)
        finally:
            self.ended.set()

    async def _send(self, message: dict[str, Any]) -> None:
        await self._reads.wait()
        self._outgoing.put_nowait(message)

    def _abort(self) -> None:
        self.aborted = True


class Stream(_Driven):
    """An open stream; `read` gives its next event."""

    def __init__(self, app: Any, scope: dict[str, Any]) -> None:
        super().__init__(app, scope)
        self.headers: dict[str, str] = {}
        self._text, self._over = b"", False
        self._incoming.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def __aenter__(self) -> Stream:
        self._context = self._running()
        await self._context.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._context.__aexit__(*error)

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def read(self) -> dict[str, Any]:
        """The next event: its fields, `data` decoded; `{}` at the end."""
        while b"\n\n" not in self._text:
            if self._over:
                return {}
            message = await self._outgoing.get()
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
                continue
            self._text += message["body"]
            self._over = not message.get("more_body")
        block, self._text = self._text.split(b"\n\n", 1)
        fields = dict(line.split(": ", 1) for line in block.decode().split("\n"))
        return {**fields, "data": json.loads(fields["data"])}

    async def read_until(self, event: str) -> dict[str, Any]:
        """The next event of this name."""
        while (found := await self.read()).get("event") != event:
            assert found, f"the stream ended before {event}"
        return found


class Socket(_Driven):
    """An open WebSocket; `read` gives its next frame."""

    async def __aenter__(self) -> Socket:
        self._incoming.put_nowait({"type": "websocket.connect"})
        self._context = self._running()
        await self._context.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._context.__aexit__(*error)

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1005})

    def say(self, message: Any) -> None:
        """Send JSON, or a text as it is."""
        text = message if isinstance(message, str) else json.dumps(message)
        self._incoming.put_nowait({"type": "websocket.receive", "text": text})

    async def raw(self) -> dict[str, Any]:
        """The next ASGI message."""
        message: dict[str, Any] = await self._outgoing.get()
        return message

    async def read(self) -> dict[str, Any]:
        """The next frame; what closed the socket, if that comes."""
        while (message := await self.raw())["type"] == "websocket.accept":
            pass
        found: dict[str, Any] = json.loads(message["text"]) if "text" in message else message
        return found

    async def read_until(self, event: str) -> dict[str, Any]:
        """The next frame of this name."""
        while (found := await self.read()).get("event") != event:
            assert "event" in found, f"the socket ended before {event}: {found}"
        return found


def request(method: str, request_id: int | str | None = None, **params: Any) -> dict[str, Any]:
    """A JSON-RPC request; without an id, a notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params, **({} if request_id is None else {"id": request_id})}
